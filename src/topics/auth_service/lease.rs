//! What a connection of the application's handler may do, as long as it may.

use std::time::{Instant, SystemTime};

use super::AuthService;
use crate::connection::Connection;
use crate::error::Error;
use crate::message::Message;
use crate::topics::grants::Grants;
use crate::topics::permit::{Due, EXPIRED, LEEWAY, Permit};

/// What a connection may do, and until when, for a handler. Made by [`AuthService::lease`].
///
/// ```no_run
/// use heartwire::{Accept, Server};
/// use heartwire::topics::AuthService;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = AuthService::new("http://127.0.0.1:8000/auth")?;
/// let asked = service.clone();
/// Server::bind("127.0.0.1:9001")?
///     .on_handshake(move |request| Ok(Accept::new().extension(asked.ask(request)?)))
///     .serve(move |conn| {
///         let mut lease = service.lease(conn);
///         loop {
///             let message = lease.recv(conn)?;
///             conn.send(message)?;
///         }
///     })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lease {
    service: AuthService,
    permit: Permit,
}

impl Lease {
    pub(super) fn new(service: AuthService, conn: &Connection) -> Self {
        let grants = conn.extension::<Grants>().cloned().unwrap_or_default();
        let valid_for = grants.remaining(SystemTime::now()).map(|remaining| remaining + LEEWAY);
        Self { service, permit: Permit::new(grants, valid_for, Instant::now()) }
    }

    /// What the connection may do, as the service said last.
    pub fn grants(&self) -> &Grants {
        &self.permit.grants
    }

    /// Receives as [`Connection::recv`] does, and asks the service again before the grants expire: 30 seconds before,
    /// or a fifth of their time if that is less. If that gives no more time, the connection is closed with 4401 when
    /// they do. While the service does not answer, it is asked again until then.
    ///
    /// # Errors
    /// As [`Connection::recv`], also when the grants have expired.
    pub fn recv(&mut self, conn: &mut Connection) -> Result<Message, Error> {
        loop {
            let until = match self.permit.due(Instant::now()) {
                Due::Nothing(None) => return conn.recv(),
                Due::Nothing(Some(until)) => until,
                Due::Warning => {
                    let renewed = self.service.permit(conn.request(), None, self.permit.until(), false);
                    self.permit.renew(renewed);
                    continue;
                }
                Due::Expired => {
                    conn.close(EXPIRED, "what was granted has expired")?;
                    return conn.recv();
                }
            };
            if let Some(message) = conn.recv_timeout(until.saturating_duration_since(Instant::now()))? {
                return Ok(message);
            }
        }
    }
}

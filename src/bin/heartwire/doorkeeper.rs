//! Who may connect, and for how long, as an authorization service says.

use heartwire::topics::{AuthService, Lease, Topics};
use heartwire::{Accept, Connection, Error, Message, Server};

use crate::cli::ServeOptions;

/// Asks the service, if there is one.
pub(crate) struct Doorkeeper(Option<AuthService>);

/// Receives the messages of a connection, as long as it may be there.
pub(crate) struct Receiver(Option<Lease>);

impl Doorkeeper {
    pub(crate) fn new(options: &ServeOptions) -> Result<Self, String> {
        options.auth.service(options.settings.handshake_timeout()).map(Self)
    }

    /// Topics, which clients may use as far as the service says.
    pub(crate) fn guard_topics(&self, topics: Topics) -> Topics {
        match &self.0 {
            Some(service) => topics.auth_service(service.clone()),
            None => topics,
        }
    }

    /// A server to which clients may connect that the service lets in.
    pub(crate) fn guard(&self, server: Server) -> Server {
        let Some(service) = self.0.clone() else { return server };
        server.on_handshake(move |request| {
            let grants = service.ask(request)?;
            let accept = grants.user().map_or_else(Accept::new, |user| Accept::new().user(user));
            Ok(accept.extension(grants))
        })
    }

    pub(crate) fn receiver(&self, conn: &Connection) -> Receiver {
        Receiver(self.0.as_ref().map(|service| service.lease(conn)))
    }
}

impl Receiver {
    pub(crate) fn recv(&mut self, conn: &mut Connection) -> Result<Message, Error> {
        match &mut self.0 {
            Some(lease) => lease.recv(conn),
            None => conn.recv(),
        }
    }
}

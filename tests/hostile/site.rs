//! What the server under attack does: by path, so that one server has all kinds of handlers.

use std::time::Duration;

use heartwire::{Accept, Connection, Error, HeartbeatPolicy, Message, Request, Response, Server};

use crate::support::{echo, ms};
use crate::{ON_PURPOSE, rig};

/// The heartbeat of those that are to be found dead soon.
pub(crate) fn quick() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(100), ms(200)).max_missed(3)
}

/// The heartbeat of those that are to live: no busy machine keeps a peer from answering for so long.
pub(crate) fn patient() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(500), Duration::from_secs(5)).max_missed(3)
}

pub(crate) fn accept(request: &Request) -> Result<Accept, Response> {
    Ok(match request.path() {
        path if path.starts_with("/quick") => Accept::new().heartbeat(quick()),
        "/pinged" => Accept::new().heartbeat(HeartbeatPolicy::new(ms(50), Duration::from_secs(60))),
        _ => Accept::new(),
    })
}

pub(crate) fn settings(server: Server) -> Server {
    server.heartbeat(patient()).on_handshake(accept).close_timeout(Duration::from_secs(2))
}

pub(crate) fn handle(conn: &mut Connection) -> Result<(), Error> {
    match conn.path() {
        "/closes" => Ok(()),
        "/firehose" | "/quick/firehose" => loop {
            conn.send(vec![7; 64 * 1024])?;
        },
        "/panics" => loop {
            let message = conn.recv()?;
            assert!(message != Message::text("panic"), "{ON_PURPOSE}");
            conn.send(message)?;
        },
        #[cfg(feature = "tls")]
        "/duplex" => crate::support::duplex::serve(conn, crate::secured::DUPLEX),
        // As a handler should not be: it never comes back to `recv`.
        "/stuck" => {
            while !rig::is_released() {
                std::thread::sleep(ms(5));
            }
            Ok(())
        }
        _ => echo(conn),
    }
}

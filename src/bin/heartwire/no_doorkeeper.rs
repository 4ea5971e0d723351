//! In place of `doorkeeper`, in a program without an authorization service: everybody may connect.

use heartwire::{Connection, Error, Message, Server};

use crate::cli::ServeOptions;

pub(crate) struct Doorkeeper;

pub(crate) struct Receiver;

impl Doorkeeper {
    #[allow(clippy::unnecessary_wraps, reason = "there is nothing to fail")]
    pub(crate) fn new(_: &ServeOptions) -> Result<Self, String> {
        Ok(Self)
    }

    #[cfg(feature = "topics")]
    pub(crate) fn guard_topics(&self, topics: heartwire::topics::Topics) -> heartwire::topics::Topics {
        topics
    }

    pub(crate) fn guard(&self, server: Server) -> Server {
        server
    }

    pub(crate) fn receiver(&self, _: &Connection) -> Receiver {
        Receiver
    }
}

impl Receiver {
    pub(crate) fn recv(&mut self, conn: &mut Connection) -> Result<Message, Error> {
        conn.recv()
    }
}

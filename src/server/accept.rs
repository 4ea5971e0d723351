//! How an opening handshake is accepted.

use crate::heartbeat::HeartbeatPolicy;

/// The acceptance of an opening handshake, from [`Server::on_handshake`](crate::Server::on_handshake).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a handshake is accepted by what `on_handshake` returns"]
pub struct Accept {
    pub(crate) subprotocol: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) heartbeat: Option<HeartbeatPolicy>,
    pub(crate) takes_broadcasts: bool,
}

impl Default for Accept {
    fn default() -> Self {
        Self { subprotocol: None, headers: Vec::new(), heartbeat: None, takes_broadcasts: true }
    }
}

impl Accept {
    /// Accepts, with nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// Agrees on a subprotocol. It must be one that the client offered; anything else is an error of ours, answered
    /// with 500 and logged.
    pub fn subprotocol(mut self, subprotocol: impl Into<String>) -> Self {
        self.subprotocol = Some(subprotocol.into());
        self
    }

    /// Adds a header to the answer, such as `Set-Cookie`. Headers of the handshake itself cannot be set.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Gives this connection a heartbeat of its own.
    pub fn heartbeat(mut self, policy: HeartbeatPolicy) -> Self {
        self.heartbeat = Some(policy);
        self
    }

    /// Leaves this connection out of [broadcasts](crate::ServerHandle::broadcast): it is for something else.
    pub fn without_broadcasts(mut self) -> Self {
        self.takes_broadcasts = false;
        self
    }
}

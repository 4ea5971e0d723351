//! The identity of a connection: its number and its peer.

use std::fmt;

use crate::http::forwarded::Remote;

/// A connection's number, unique within a server or client and counted from 1 over the connections that open.
pub type ConnectionId = u64;

/// Names a connection in every log line and in every notice to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ConnectionId,
    pub(crate) remote: Remote,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}", self.id, self.remote)
    }
}

//! Who a connection is: its number, and who is at the other end.

use std::fmt;

use crate::http::forwarded::Remote;

/// A connection's number, unique within a server or client and counted from 1 over the connections that open.
pub type ConnectionId = u64;

/// What names a connection in every line of the log, and in what the supervisor is told of it.
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

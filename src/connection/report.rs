//! What is known about one connection: snapshots while it is open, and the report when it has ended.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::time::Duration;

use crate::connection::identity::ConnectionId;
use crate::heartbeat::round_trip::RoundTrip;
use crate::http::request::RequestTarget;
use crate::protocol::close::{CloseCode, CloseReason, counted};
#[cfg(feature = "tls")]
use crate::tls::Certificate;

/// An open connection at one moment. See [`ServerHandle::connections`](crate::ServerHandle::connections).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's number.
    pub id: ConnectionId,
    /// The address of the peer's socket: behind a proxy, the proxy's. A peer at a Unix socket has no address, and is
    /// `0.0.0.0:0` here and `unix socket` in the log.
    pub peer_addr: SocketAddr,
    /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's
    /// own.
    pub remote_ip: IpAddr,
    /// The name of the user whom it belongs to, if [`Accept::user`](crate::Accept::user) has set one.
    pub user: Option<String>,
    /// The requested path, without the query.
    pub path: String,
    /// The path with the query, which may hold secrets.
    pub target: RequestTarget,
    /// The certificate that the client has presented, if it has: see [`ServerTls`](crate::ServerTls).
    #[cfg(feature = "tls")]
    pub client_certificate: Option<Certificate>,
    /// The extensions in use: see [`Connection::extensions`](crate::Connection::extensions).
    pub extensions: String,
    /// How long it has been open.
    pub age: Duration,
    /// How long the peer has sent nothing.
    pub silent: Duration,
    /// Misses in a row so far.
    pub missed: u32,
    /// How many misses in a row make the peer dead.
    pub max_missed: u32,
    /// Round-trip figures. `None` before the first Pong.
    pub round_trip: Option<RoundTrip>,
    /// Pings that we sent.
    pub pings: u64,
    /// Pongs that answered them.
    pub pongs: u64,
    /// Messages and bytes in both directions, and what was dropped.
    pub traffic: Traffic,
    /// Bytes that wait for the peer to take them.
    pub queued: usize,
    /// How long its thread has been away from `recv`. `None` while it waits there.
    pub away: Option<Duration>,
}

/// The report of a connection that ended. There is exactly one for each connection that opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// The connection's number.
    pub id: ConnectionId,
    /// The address of the peer's socket: behind a proxy, the proxy's. A peer at a Unix socket has no address, and is
    /// `0.0.0.0:0` here and `unix socket` in the log.
    pub peer_addr: SocketAddr,
    /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's
    /// own.
    pub remote_ip: IpAddr,
    /// The name of the user whom it belongs to, if [`Accept::user`](crate::Accept::user) has set one.
    pub user: Option<String>,
    /// The requested path, without the query.
    pub path: String,
    /// The path with the query, which may hold secrets.
    pub target: RequestTarget,
    /// The certificate that the client has presented, if it has: see [`ServerTls`](crate::ServerTls).
    #[cfg(feature = "tls")]
    pub client_certificate: Option<Certificate>,
    /// The extensions in use: see [`Connection::extensions`](crate::Connection::extensions).
    pub extensions: String,
    /// The first cause of the end.
    pub reason: CloseReason,
    /// The code in the Close frame that we sent. `None` without a frame or without a code.
    pub sent: Option<CloseCode>,
    /// The code in the Close frame that the peer sent. `None` without a frame or without a code.
    pub received: Option<CloseCode>,
    /// Misses in a row at the end.
    pub missed: u32,
    /// Round-trip figures. `None` if no Pong ever came.
    pub round_trip: Option<RoundTrip>,
    /// Pings that we sent.
    pub pings: u64,
    /// Pongs that answered them.
    pub pongs: u64,
    /// How long the connection was open.
    pub age: Duration,
    /// Messages and bytes in both directions, and what was dropped.
    pub traffic: Traffic,
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; open {:.1?}; {}; Pongs missed {}", self.reason, self.age, self.traffic, self.missed)?;
        match self.round_trip {
            Some(round_trip) => write!(f, ", last round trip {:.1?}", round_trip.last),
            None => f.write_str(", no round trip"),
        }
    }
}

/// The traffic of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Data messages from the peer.
    pub messages_in: u64,
    /// Data messages accepted for sending to the peer.
    pub messages_out: u64,
    /// Bytes from the peer, including frame headers and control frames.
    pub bytes_in: u64,
    /// Bytes that the socket took, including frame headers and control frames.
    pub bytes_out: u64,
    /// Broadcasts that this peer did not get because its queue was full.
    pub dropped: u64,
    /// Bytes that were accepted for sending and lost, because the connection ended before the socket took them.
    pub unsent: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.messages_in += other.messages_in;
        self.messages_out += other.messages_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.dropped += other.dropped;
        self.unsent += other.unsent;
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages_in, messages_out, bytes_in, bytes_out, dropped, unsent } = self;
        write!(f, "{} in, {bytes_in} B on the wire; ", counted(*messages_in, "message"))?;
        write!(f, "{} out, {bytes_out} B on the wire", counted(*messages_out, "message"))?;
        if *dropped > 0 {
            write!(f, "; {} dropped", counted(*dropped, "broadcast"))?;
        }
        if *unsent > 0 { write!(f, "; {unsent} B unsent") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_says_what_each_number_counts() {
        let quiet = Traffic { bytes_in: 8, bytes_out: 3, ..Traffic::default() };
        assert_eq!(quiet.to_string(), "0 messages in, 8 B on the wire; 0 messages out, 3 B on the wire");
        let behind = Traffic { messages_in: 1, messages_out: 2, dropped: 1, unsent: 70, ..quiet };
        let expected =
            "1 message in, 8 B on the wire; 2 messages out, 3 B on the wire; 1 broadcast dropped; 70 B unsent";
        assert_eq!(behind.to_string(), expected);
    }
}

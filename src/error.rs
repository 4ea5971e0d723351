//! Errors, each of which says who failed.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::protocol::close::{CloseCode, CloseReason};

mod connect;

pub use connect::ConnectError;

/// What can go wrong for a program that uses heartwire.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The connection is closed, for this reason. In a handler, `?` ends it as it should.
    Closed(CloseReason),
    /// A close code that must not stand in a Close frame (RFC 6455 section 7.4).
    InvalidCloseCode(CloseCode),
    /// The server could not start: its address could not be bound, or no thread could be started. In a handler, `?` on an
    /// [`io::Error`] gives this too: like any other error there it closes with 1011.
    Io(io::Error),
    /// A client did not come to a connection.
    Connect(ConnectError),
    /// The handler's own error. It closes the connection with 1011 and is reported as
    /// [`CloseReason::HandlerFailed`].
    Handler(Box<dyn StdError + Send + Sync>),
    /// One of heartwire's own threads has panicked: a bug of heartwire, not yours. All connections were cut and reported.
    Internal(String),
}

impl Error {
    /// A handler's own error; also a string is one.
    pub fn handler(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Handler(error.into())
    }

    /// Whether this error ends a client that was not told [otherwise](crate::Client::give_up_if).
    ///
    /// - [`Connect`](Self::Connect): if [it is fatal](ConnectError::is_fatal).
    /// - [`Closed`](Self::Closed): if another connection would end in the same way, since either end found the protocol
    ///   broken. These are the codes 1002, 1003 and 1007 to 1010 from the server, and 1002, 1007 and 1009 from us.
    /// - All others: `true`. They are the handler's own.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_fatal(),
            Self::Closed(CloseReason::Protocol(_) | CloseReason::InvalidUtf8 | CloseReason::TooBig { .. }) => true,
            Self::Closed(CloseReason::Peer { code: Some(code), .. }) => {
                matches!(u16::from(*code), 1002 | 1003 | 1007..=1010)
            }
            Self::Closed(_) => false,
            Self::InvalidCloseCode(_) | Self::Io(_) | Self::Handler(_) | Self::Internal(_) => true,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
            Self::InvalidCloseCode(code) => write!(f, "close code {code} must not be sent"),
            Self::Io(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Handler(error) => error.fmt(f),
            Self::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Connect(error) => Some(error),
            Self::Handler(error) => Some(&**error),
            Self::Closed(_) | Self::InvalidCloseCode(_) | Self::Internal(_) => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why [`Sender::try_send`](crate::Sender::try_send) or [`ClientHandle::send`](crate::ClientHandle::send) did not take a
/// message. The message comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// The connection's queue is full: its peer is slow to take what it was sent. Or a client's outbox is full.
    Full(T),
    /// The connection is closed; or a client was stopped, or has ended.
    Closed(T),
    /// A client has no connection now, and no [outbox](crate::Client::outbox_size) to keep messages in.
    NotConnected(T),
}

impl<T> TrySendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(message) | Self::Closed(message) | Self::NotConnected(message) => message,
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the connection is closed",
            Self::NotConnected(_) => "not connected",
        })
    }
}

impl<T: fmt::Debug> StdError for TrySendError<T> {}

/// Why [`Sender::confirm`](crate::Sender::confirm) cannot say that the peer has read everything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The Pong did not come in time.
    Timeout,
    /// The connection is closed or closing, or has ended meanwhile.
    Closed(CloseReason),
}

impl fmt::Display for ConfirmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the peer has not confirmed in time"),
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
        }
    }
}

impl StdError for ConfirmError {}

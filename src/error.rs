//! The errors of heartwire. Each variant says which side failed.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::protocol::close::{CloseCode, CloseReason};
#[cfg(feature = "tls")]
use crate::tls::TlsError;

mod connect;
mod proxy;
mod sending;

pub use connect::ConnectError;
pub use proxy::{ProxyError, ProxyErrorKind};
pub use sending::{ClientSendError, ConfirmError, SendToError, TrySendError};

/// An error of a server, a client or a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The connection is closed or closing, for this reason. In a handler, `?` is the right way to end.
    Closed(CloseReason),
    /// This close code must not be sent in a Close frame (RFC 6455 section 7.4).
    InvalidCloseCode(CloseCode),
    /// The server has no connection of this number, or no longer.
    NoSuchConnection(u64),
    /// The server or client could not start: an address could not be bound, or the system had no file descriptor or
    /// thread left. In a handler, `?` on an [`io::Error`] gives this too: it closes the connection with 1011, like any
    /// other error there.
    Io(io::Error),
    /// A client could not connect.
    Connect(ConnectError),
    /// TLS could not be set up: certificates or keys cannot be used.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The handler's own error. It closes the connection with 1011 and is reported as
    /// [`CloseReason::HandlerFailed`].
    Handler(Box<dyn StdError + Send + Sync>),
    /// One of heartwire's own threads panicked: a bug in heartwire, not in your code. All connections were cut and
    /// reported.
    Internal(String),
}

impl Error {
    /// A handler's own error, made from any error or from a string.
    pub fn handler(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Handler(error.into())
    }

    /// Whether this error ends a client, unless [`give_up_if`](crate::Client::give_up_if) decides otherwise.
    ///
    /// - [`Connect`](Self::Connect): if [it is fatal](ConnectError::is_fatal).
    /// - [`Closed`](Self::Closed): if either end found a violation of the protocol, so that another connection would
    ///   end in the same way. These are the codes 1002, 1003 and 1007 to 1010 from the server, and 1002, 1007 and 1009
    ///   from us.
    /// - All others: `true`. They are the handler's own.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_fatal(),
            Self::Closed(CloseReason::Protocol(_) | CloseReason::InvalidUtf8 | CloseReason::TooBig { .. }) => true,
            Self::Closed(CloseReason::Peer { code: Some(code), .. }) => {
                matches!(u16::from(*code), 1002 | 1003 | 1007..=1010)
            }
            Self::Closed(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
            Self::InvalidCloseCode(_)
            | Self::NoSuchConnection(_)
            | Self::Io(_)
            | Self::Handler(_)
            | Self::Internal(_) => true,
        }
    }
}

/// The code, if a Close frame may carry it.
pub(crate) fn sendable(code: impl Into<CloseCode>) -> Result<CloseCode, Error> {
    let code = code.into();
    if code.is_sendable() { Ok(code) } else { Err(Error::InvalidCloseCode(code)) }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
            Self::InvalidCloseCode(code) => write!(f, "close code {code} must not be sent"),
            Self::NoSuchConnection(id) => write!(f, "there is no connection #{id}"),
            Self::Io(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
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
            #[cfg(feature = "tls")]
            Self::Tls(error) => Some(error),
            Self::Handler(error) => Some(&**error),
            Self::Closed(_) | Self::InvalidCloseCode(_) | Self::NoSuchConnection(_) | Self::Internal(_) => None,
        }
    }
}

#[cfg(feature = "tls")]
impl From<TlsError> for Error {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

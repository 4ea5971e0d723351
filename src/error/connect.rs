//! Why a client could not connect.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use super::proxy::ProxyError;
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Why a client could not connect.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL, a header or a subprotocol is not valid. Fatal.
    Invalid(String),
    /// The function given to [`Client::prepare`](crate::Client::prepare) failed with this error, or set a URL or a
    /// header that is not valid.
    Prepare(Box<dyn StdError + Send + Sync>),
    /// The host's name could not be resolved.
    Resolve(io::Error),
    /// No address of the host could be connected to. This is the error of the last one.
    Unreachable(io::Error),
    /// The server answered with a status other than 101.
    #[non_exhaustive]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The pause that `Retry-After` asked for, in whole seconds. `None` if it gave none, or a date.
        retry_after: Option<Duration>,
    },
    /// The response is not that of a WebSocket server. Fatal.
    BadResponse(&'static str),
    /// The server does not accept the subprotocol `heartwire.topics.v1`, so a client of topics has no use for it.
    /// Fatal.
    #[cfg(feature = "topics")]
    NoTopics,
    /// The opening handshake was not complete within [`handshake_timeout`](crate::Client::handshake_timeout).
    TimedOut,
    /// The connection was lost during the opening handshake.
    Lost(io::Error),
    /// TLS cannot be set up, or its handshake failed. Fatal if [the error is](TlsError::is_fatal): a wrong name and an
    /// unknown issuer are, an expired certificate and one that is not valid yet are not.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The [proxy](crate::Client::proxy) did not let us through. Fatal if [the error is](ProxyError::is_fatal): wrong
    /// credentials are, a host that the proxy cannot reach is not.
    Proxy(ProxyError),
}

impl ConnectError {
    /// Whether retrying is pointless, because it would fail in the same way. Fatal refusals are redirections (they are
    /// not followed), client errors (4xx) except 408, 425 and 429, and the statuses 501 and 505.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::BadResponse(_) => true,
            Self::Refused { status, .. } => is_fatal_status(*status),
            #[cfg(feature = "topics")]
            Self::NoTopics => true,
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.is_fatal(),
            Self::Proxy(error) => error.is_fatal(),
            Self::Prepare(_) | Self::Resolve(_) | Self::Unreachable(_) | Self::TimedOut | Self::Lost(_) => false,
        }
    }
}

/// Whether a refusal with this HTTP status would come again.
pub(super) fn is_fatal_status(status: u16) -> bool {
    match status {
        408 | 425 | 429 => false,
        501 | 505 => true,
        status => status < 500,
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Prepare(error) => write!(f, "cannot prepare the attempt: {error}"),
            Self::Resolve(error) => write!(f, "cannot resolve the host: {error}"),
            Self::Unreachable(error) => write!(f, "cannot connect: {error}"),
            Self::Refused { status, retry_after: None } => write!(f, "refused with HTTP status {status}"),
            Self::Refused { status, retry_after: Some(delay) } => {
                write!(f, "refused with HTTP status {status} (Retry-After {delay:?})")
            }
            Self::BadResponse(what) => write!(f, "not a WebSocket server: {what}"),
            #[cfg(feature = "topics")]
            Self::NoTopics => {
                f.write_str("the server has no topics: it does not accept the subprotocol heartwire.topics.v1")
            }
            Self::TimedOut => f.write_str("the opening handshake took too long"),
            Self::Lost(error) => write!(f, "connection lost during the opening handshake: {error}"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            Self::Proxy(error) => error.fmt(f),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Prepare(error) => Some(&**error),
            Self::Resolve(error) | Self::Unreachable(error) | Self::Lost(error) => Some(error),
            #[cfg(feature = "tls")]
            Self::Tls(error) => Some(error),
            Self::Proxy(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_fatal_unless_they_may_pass() {
        let is_fatal = |status| ConnectError::Refused { status, retry_after: None }.is_fatal();
        assert!([200, 301, 400, 401, 403, 404, 426, 501, 505].into_iter().all(is_fatal));
        assert!(![408, 425, 429, 500, 502, 503, 504].into_iter().any(is_fatal));
    }
}

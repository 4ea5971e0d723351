//! Why a proxy did not let a client through.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use super::connect::is_fatal_status;

/// Why a client could not get through its [`Proxy`](crate::Proxy).
#[derive(Debug)]
pub struct ProxyError {
    proxy: String,
    kind: ProxyErrorKind,
}

/// What went wrong between a client and its proxy.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyErrorKind {
    /// The proxy's name could not be resolved.
    Resolve(io::Error),
    /// No address of the proxy could be connected to. This is the error of the last one.
    Unreachable(io::Error),
    /// The proxy asks for other credentials than those of its URL: HTTP status 407, or 401 from some, and the like in
    /// SOCKS5. This says what is wrong. Fatal.
    Credentials(&'static str),
    /// The proxy answered `CONNECT` with another HTTP status that is not 2xx. Fatal as a server's
    /// [`Refused`](crate::ConnectError::Refused), but for 404, by which some proxies say that they cannot resolve the
    /// host.
    Status(u16),
    /// The proxy answered with this code of SOCKS5 (RFC 1928 section 6). Fatal if it does not allow the connection (2),
    /// or does not know the command (7) or the kind of address (8).
    Reply(u8),
    /// It is no proxy of this kind. Fatal.
    BadResponse(&'static str),
    /// The proxy did not open the way to the host within
    /// [`handshake_timeout`](crate::Client::handshake_timeout).
    TimedOut,
    /// The connection to the proxy was lost before it answered.
    Lost(io::Error),
}

impl ProxyError {
    pub(crate) fn new(proxy: &str, kind: ProxyErrorKind) -> Self {
        Self { proxy: proxy.to_owned(), kind }
    }

    /// The proxy, as `http://proxy.example:3128`: without user name and password.
    pub fn proxy(&self) -> &str {
        &self.proxy
    }

    /// What went wrong.
    pub fn kind(&self) -> &ProxyErrorKind {
        &self.kind
    }

    /// Whether retrying is pointless, because it would fail in the same way.
    pub fn is_fatal(&self) -> bool {
        match self.kind {
            ProxyErrorKind::Credentials(_) | ProxyErrorKind::BadResponse(_) => true,
            ProxyErrorKind::Status(status) => status != 404 && is_fatal_status(status),
            ProxyErrorKind::Reply(code) => matches!(code, 2 | 7 | 8),
            ProxyErrorKind::Resolve(_)
            | ProxyErrorKind::Unreachable(_)
            | ProxyErrorKind::TimedOut
            | ProxyErrorKind::Lost(_) => false,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = &self.proxy;
        match &self.kind {
            ProxyErrorKind::Resolve(error) => write!(f, "cannot resolve the proxy {proxy}: {error}"),
            ProxyErrorKind::Unreachable(error) => write!(f, "cannot connect to the proxy {proxy}: {error}"),
            ProxyErrorKind::Credentials(what) => write!(f, "the proxy {proxy} {what}"),
            ProxyErrorKind::Status(status) => {
                write!(f, "the proxy {proxy} refused with HTTP status {status}{}", status_in_words(*status))
            }
            ProxyErrorKind::Reply(code) => write!(f, "the proxy {proxy} refused: {}", reply_in_words(*code)),
            ProxyErrorKind::BadResponse(what) => write!(f, "{proxy} is no such proxy: {what}"),
            ProxyErrorKind::TimedOut => write!(f, "the proxy {proxy} took too long to reach the host"),
            ProxyErrorKind::Lost(error) => {
                write!(f, "connection to the proxy {proxy} lost before it answered: {error}")
            }
        }
    }
}

/// What proxies mean by a status.
fn status_in_words(status: u16) -> &'static str {
    match status {
        403 | 405 => ": it does not allow this connection",
        404 => ": it cannot find the host",
        500 | 502..=504 => ": it cannot reach the host",
        _ => "",
    }
}

/// RFC 1928 section 6.
fn reply_in_words(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "it does not allow this connection",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached",
        5 => "the host refused the connection",
        6 => "the host is too many hops away",
        7 => "it does not make connections",
        8 => "it does not know this kind of address",
        _ => "a code that SOCKS5 does not have",
    }
}

impl StdError for ProxyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            ProxyErrorKind::Resolve(error) | ProxyErrorKind::Unreachable(error) | ProxyErrorKind::Lost(error) => {
                Some(error)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fatal(kind: ProxyErrorKind) -> bool {
        ProxyError::new("http://proxy.example:3128", kind).is_fatal()
    }

    #[test]
    fn refusals_are_fatal_unless_they_may_pass() {
        assert!([101, 302, 400, 403, 405, 501].into_iter().all(|status| is_fatal(ProxyErrorKind::Status(status))));
        assert!(
            ![404, 408, 429, 500, 502, 503, 504].into_iter().any(|status| is_fatal(ProxyErrorKind::Status(status)))
        );
        assert!([2, 7, 8].into_iter().all(|code| is_fatal(ProxyErrorKind::Reply(code))));
        assert!(![1, 3, 4, 5, 6, 99].into_iter().any(|code| is_fatal(ProxyErrorKind::Reply(code))));
    }
}

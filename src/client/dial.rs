//! From a URL to an open connection: addresses, TCP, and the client's side of the opening handshake (RFC 6455 section
//! 4.1).

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::{HeaderName, HeaderValue, Uri};

use crate::request::Request;
use crate::tcp;

/// Why a client did not come to a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL, or a header or subprotocol to be sent, is not valid. Fatal.
    Invalid(String),
    /// The host's name could not be resolved.
    Resolve(io::Error),
    /// No address of the host could be connected to; the error of the last one.
    Unreachable(io::Error),
    /// The server answered with another status than 101.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` asked for, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// The server's answer is not that of a WebSocket server. Fatal.
    BadAnswer(&'static str),
    /// The opening handshake was not complete in time.
    TimedOut,
    /// The connection was lost during the opening handshake.
    Lost(io::Error),
}

impl ConnectError {
    /// Whether trying again is pointless: it would end in the same way. Of refusals these are the redirections (they
    /// are not followed) and the client's errors (4xx) but for 408, 425 and 429, and 501 and 505.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::BadAnswer(_) => true,
            Self::Refused { status, .. } => match status {
                408 | 425 | 429 => false,
                501 | 505 => true,
                status => *status < 500,
            },
            Self::Resolve(_) | Self::Unreachable(_) | Self::TimedOut | Self::Lost(_) => false,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Resolve(error) => write!(f, "cannot resolve the host: {error}"),
            Self::Unreachable(error) => write!(f, "cannot connect: {error}"),
            Self::Refused { status, retry_after: None } => write!(f, "refused with HTTP status {status}"),
            Self::Refused { status, retry_after: Some(delay) } => {
                write!(f, "refused with HTTP status {status}, to be retried after {delay:?}")
            }
            Self::BadAnswer(what) => write!(f, "not a WebSocket server: {what}"),
            Self::TimedOut => f.write_str("the opening handshake took too long"),
            Self::Lost(error) => write!(f, "lost during the opening handshake: {error}"),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Resolve(error) | Self::Unreachable(error) | Self::Lost(error) => Some(error),
            _ => None,
        }
    }
}

/// Where to connect to, and what to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: String,
    path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) connect_timeout: Duration,
}

/// What a successful dial gives.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) request: Request,
    pub(crate) subprotocol: Option<String>,
    /// What was received behind the answer.
    pub(crate) tail: Vec<u8>,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let invalid = |what: &str| ConnectError::Invalid(format!("invalid URL {url:?}: {what}"));
        let url_without_fragment = url.split('#').next().unwrap_or(url);
        let uri: Uri = url_without_fragment.parse().map_err(|_| invalid("expected ws://HOST[:PORT][/PATH]"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(invalid("wss:// needs TLS, which is not supported")),
            _ => return Err(invalid("expected ws://")),
        }
        let authority = uri.authority().ok_or_else(|| invalid("no host"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(invalid("expected HOST or HOST:PORT behind ws://"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default().strip_prefix(':') {
            None | Some("") => 80,
            Some(_) => authority.port_u16().ok_or_else(|| invalid("no such port"))?,
        };
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: match uri.path_and_query().map_or("/", |path| path.as_str()) {
                path if path.starts_with('/') => path.to_owned(),
                query => format!("/{query}"),
            },
            headers: Vec::new(),
            subprotocols: Vec::new(),
            // One lost packet on each of a few addresses: TCP tries again after 1 s and 3 s.
            connect_timeout: Duration::from_secs(10),
        })
    }

    /// Checks what was added since: nothing may end a header and begin another.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        const OWN: [&str; 7] = [
            "host",
            "connection",
            "upgrade",
            "sec-websocket-key",
            "sec-websocket-version",
            "sec-websocket-protocol",
            "sec-websocket-extensions",
        ];
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                return Err(ConnectError::Invalid(format!("invalid header {name:?}")));
            }
            if OWN.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(ConnectError::Invalid(format!("header {name:?} belongs to the handshake")));
            }
        }
        // A subprotocol is a token, as a header's name is.
        match self.subprotocols.iter().find(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
            Some(name) => Err(ConnectError::Invalid(format!("invalid subprotocol {name:?}"))),
            None => Ok(()),
        }
    }

    /// Tries all addresses, and does the opening handshake with the first that answers.
    pub(crate) fn dial(&self, handshake_timeout: Duration) -> Result<Dialed, ConnectError> {
        let (stream, peer) = self.connect()?;
        let deadline = Instant::now() + handshake_timeout;
        tcp::prepare(&stream).map_err(ConnectError::Lost)?;
        let key = generate_key();
        let head = self.request_head(&key);
        tcp::write_before(&stream, head.as_bytes(), deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ConnectError::TimedOut,
            _ => ConnectError::Lost(error),
        })?;
        let (subprotocol, tail) = self.read_answer(&stream, &key, deadline)?;
        let request = Request::parse(head.as_bytes(), peer).ok().flatten();
        let (request, _) = request.ok_or(ConnectError::BadAnswer("our own request is not valid"))?;
        Ok(Dialed { stream, peer, request, subprotocol, tail })
    }

    fn connect(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map_err(ConnectError::Resolve)?;
        connect_any(&addresses.collect::<Vec<_>>(), deadline).map_err(ConnectError::Unreachable)
    }

    fn request_head(&self, key: &str) -> String {
        let Self { path, authority, .. } = self;
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        if !self.subprotocols.is_empty() {
            head += &format!("Sec-WebSocket-Protocol: {}\r\n", self.subprotocols.join(", "));
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// Reads the head of the answer. Gives the subprotocol and what came behind.
    fn read_answer(
        &self,
        stream: &TcpStream,
        key: &str,
        deadline: Instant,
    ) -> Result<(Option<String>, Vec<u8>), ConnectError> {
        const MAX_HEAD: usize = 16 * 1024;
        let mut head = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            match tcp::read_before(stream, &mut chunk, deadline).map_err(ConnectError::Lost)? {
                None => return Err(ConnectError::TimedOut),
                Some(0) => return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Some(count) => head.extend_from_slice(&chunk[..count]),
            }
            let mut headers = vec![httparse::EMPTY_HEADER; 100];
            let mut answer = httparse::Response::new(&mut headers);
            match answer.parse(&head) {
                Ok(httparse::Status::Complete(len)) => {
                    let subprotocol = self.check_answer(&answer, key)?;
                    return Ok((subprotocol, head[len..].to_vec()));
                }
                Ok(httparse::Status::Partial) if head.len() > MAX_HEAD => {
                    return Err(ConnectError::BadAnswer("the head of its answer is too large"));
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) => return Err(ConnectError::BadAnswer("its answer is not HTTP")),
            }
        }
    }

    /// What RFC 6455 section 4.1 demands of the answer.
    fn check_answer(&self, answer: &httparse::Response<'_, '_>, key: &str) -> Result<Option<String>, ConnectError> {
        let header = |name: &str| {
            let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let status = answer.code.unwrap_or(0);
        if status != 101 {
            let retry_after = header("Retry-After").and_then(|seconds| seconds.trim().parse().ok());
            return Err(ConnectError::Refused { status, retry_after: retry_after.map(Duration::from_secs) });
        }
        let has_token = |name: &str, token: &str| {
            header(name).is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
        };
        if !has_token("Upgrade", "websocket") || !has_token("Connection", "Upgrade") {
            return Err(ConnectError::BadAnswer("it does not upgrade to a WebSocket"));
        }
        if header("Sec-WebSocket-Accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(ConnectError::BadAnswer("its Sec-WebSocket-Accept is wrong"));
        }
        if header("Sec-WebSocket-Extensions").is_some_and(|extensions| !extensions.trim().is_empty()) {
            return Err(ConnectError::BadAnswer("it uses an extension that was not offered"));
        }
        match header("Sec-WebSocket-Protocol") {
            Some(chosen) if !self.subprotocols.iter().any(|offered| offered == chosen) => {
                Err(ConnectError::BadAnswer("it chose a subprotocol that was not offered"))
            }
            chosen => Ok(chosen.map(str::to_owned)),
        }
    }
}

/// Tries the addresses in turn. Each gets an even share of the time that is left, so that a silent one leaves some for
/// the others.
fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (index, address) in addresses.iter().enumerate() {
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
        if share.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, authority, path) in [
            ("ws://example.org", "example.org", 80, "example.org", "/"),
            ("ws://example.org:9001/a/b?c=d#e", "example.org", 9001, "example.org:9001", "/a/b?c=d"),
            ("ws://[::1]:9001?x", "::1", 9001, "[::1]:9001", "/?x"),
            ("ws://127.0.0.1/", "127.0.0.1", 80, "127.0.0.1", "/"),
            ("ws://example.org:/", "example.org", 80, "example.org:", "/"),
            ("ws://example.org:65535", "example.org", 65535, "example.org:65535", "/"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
            assert_eq!((target.authority.as_str(), target.path.as_str()), (authority, path), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_for_good() {
        for url in [
            "",
            "example.org",
            "http://example.org",
            "wss://example.org",
            "ws://",
            "ws://a b",
            "ws://u:p@example.org",
            "ws://example.org:65536",
            "ws://example.org:http",
            "ws://[::1]:99999/",
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(matches!(error, ConnectError::Invalid(_)) && error.is_fatal(), "{url}: {error}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_the_request() {
        let target = Target::parse("ws://example.org").unwrap();
        for (name, value) in [("X", "a\r\nY: b"), ("X Y", "b"), ("Host", "other"), ("sec-websocket-key", "mine")] {
            let target = Target { headers: vec![(name.to_owned(), value.to_owned())], ..target.clone() };
            assert!(target.check().is_err(), "{name:?}: {value:?}");
        }
        let target = Target { subprotocols: vec!["a, b".to_owned()], ..target };
        assert!(target.check().is_err());
    }

    #[test]
    fn refusals_are_fatal_unless_they_may_pass() {
        let is_fatal = |status| ConnectError::Refused { status, retry_after: None }.is_fatal();
        assert!([200, 301, 400, 401, 403, 404, 426, 501, 505].into_iter().all(is_fatal));
        assert!(![408, 425, 429, 500, 502, 503, 504].into_iter().any(is_fatal));
    }

    #[test]
    fn a_refusing_address_is_passed_over_and_the_last_error_told() {
        let address = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (dead, open) = (address().local_addr().unwrap(), address());
        let addresses = [dead, open.local_addr().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(30);
        assert_eq!(connect_any(&addresses, deadline).unwrap().1, addresses[1]);
        let error = connect_any(&addresses[..1], deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(&[], deadline).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_silent_address_leaves_time_for_the_next() {
        use socket2::{Domain, Socket, Type};
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&loopback.into()).unwrap();
        silent.listen(0).unwrap();
        let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
        // What fills its backlog is accepted by nobody; the rest is not even answered.
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&silent_address, Duration::from_millis(200)) {
            fill.push(stream);
            assert!(fill.len() < 100);
        }
        let open = TcpListener::bind(loopback).unwrap();
        let addresses = [silent_address, open.local_addr().unwrap()];
        let (_, reached) = connect_any(&addresses, Instant::now() + Duration::from_millis(600)).unwrap();
        assert_eq!(reached, addresses[1]);
    }
}

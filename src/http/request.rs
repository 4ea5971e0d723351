//! The request of an opening handshake, or of a plain HTTP exchange: kept as the bytes that came, looked into on demand.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use crate::http::forwarded::{Remote, Trusted};

/// An HTTP request (RFC 9112): method, target and headers. There is no body.
#[derive(Clone)]
pub struct Request {
    /// The head as it was received; the rest are places in it.
    head: Box<[u8]>,
    method: Span,
    target: Span,
    headers: Box<[(Span, Span)]>,
    is_http_1_1: bool,
    remote: Remote,
}

/// The target of a request as it was sent: the path, with the query if there is one.
///
/// Queries often hold secrets, such as a token. So nothing prints one by itself: `Debug` leaves the query out, there is no
/// `Display`, and whoever wants all of it asks for [`as_str`](Self::as_str). Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestTarget(Arc<str>);

impl RequestTarget {
    /// The target as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        path_of(&self.0)
    }

    /// What follows the question mark.
    pub fn query(&self) -> Option<&str> {
        self.0.split_once('?').map(|(_, query)| query)
    }
}

impl From<&str> for RequestTarget {
    fn from(target: &str) -> Self {
        Self(target.into())
    }
}

impl fmt::Debug for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.path(), f)
    }
}

/// The path in a target. One in absolute form (RFC 9112 section 3.2.2) has a scheme and an authority before it, in which a
/// password may stand.
fn path_of(target: &str) -> &str {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => path,
    }
}

/// A place in the head. 32 bits do: the head's size is limited.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Request {
    /// Most header lines that are taken.
    const MOST_HEADERS: usize = 100;

    /// Parses the head at the beginning of `bytes`, and says how long it is. `Ok(None)` if it is not complete.
    pub(crate) fn parse(bytes: &[u8], peer: SocketAddr) -> Result<Option<(Self, usize)>, httparse::Error> {
        // On the heap, for what a thread's stack once held stays resident as long as the thread lives.
        let mut headers = vec![httparse::EMPTY_HEADER; Self::MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(len) = parsed.parse(bytes)? else { return Ok(None) };
        let span = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            Span { start: start as u32, end: (start + part.len()) as u32 }
        };
        let request = Self {
            head: bytes[..len].into(),
            method: span(parsed.method.unwrap_or_default().as_bytes()),
            target: span(parsed.path.unwrap_or_default().as_bytes()),
            headers: parsed.headers.iter().map(|header| (span(header.name.as_bytes()), span(header.value))).collect(),
            is_http_1_1: parsed.version == Some(1),
            remote: peer.into(),
        };
        Ok(Some((request, len)))
    }

    /// The method, such as `GET`.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The target as it was sent: the path, with the query if there is one. Queries often hold secrets.
    pub fn target(&self) -> &str {
        self.text(self.target)
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        path_of(self.target())
    }

    /// What follows the question mark in the target.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The value of the first header of this name, whatever its case; `None` if there is none, or it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).and_then(|(_, value)| str_of(value))
    }

    /// All headers in their order, with values as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (self.text(*name), self.bytes(*value)))
    }

    /// The items of a header that holds a list, over all lines of that name.
    pub fn header_list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| str_of(value))
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
    }

    /// The subprotocols that the client offers, in its order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.header_list("Sec-WebSocket-Protocol")
    }

    /// The address of the peer's socket: behind a proxy, the proxy's.
    pub fn peer_addr(&self) -> SocketAddr {
        self.remote.peer_addr
    }

    /// The address of whoever is really at the other end: the one that a [trusted proxy](crate::Server::trust_proxies)
    /// named, or else the peer's own. An IPv4 address mapped to IPv6 is given as IPv4.
    pub fn remote_ip(&self) -> IpAddr {
        self.remote.remote_ip
    }

    pub(crate) fn remote(&self) -> Remote {
        self.remote
    }

    /// Looks for the client behind the peer, if that is a trusted proxy.
    pub(crate) fn find_client(&mut self, trusted: &Trusted) {
        self.remote = trusted.remote(self.remote.peer_addr, self.headers());
    }

    pub(crate) fn is_http_1_1(&self) -> bool {
        self.is_http_1_1
    }

    /// How many lines there are of a header.
    pub(crate) fn count(&self, header: &str) -> usize {
        self.headers().filter(|(name, _)| name.eq_ignore_ascii_case(header)).count()
    }

    pub(crate) fn has_token(&self, header: &str, token: &str) -> bool {
        self.header_list(header).any(|item| item.eq_ignore_ascii_case(token))
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.head[Range { start: span.start as usize, end: span.end as usize }]
    }

    /// The parser lets only ASCII, or checked UTF-8, through in methods, targets and names.
    fn text(&self, span: Span) -> &str {
        str_of(self.bytes(span)).unwrap_or_default()
    }
}

fn str_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and the query may hold credentials.
        f.debug_struct("Request")
            .field("peer_addr", &self.peer_addr())
            .field("method", &self.method())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Request {
        Request::parse(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap().unwrap().0
    }

    #[test]
    fn parts_are_found_where_they_are() {
        let request = parse("GET /chat?room=1 HTTP/1.1\r\nHost: h\r\nX-Empty:\r\ncookie: a=b\r\n\r\ntail");
        assert_eq!((request.method(), request.target()), ("GET", "/chat?room=1"));
        assert_eq!((request.path(), request.query()), ("/chat", Some("room=1")));
        assert_eq!(request.header("Cookie"), Some("a=b"));
        assert_eq!(request.header("x-empty"), Some(""));
        assert_eq!(request.header("Origin"), None);
        assert_eq!(request.headers().count(), 3);
        assert!(request.is_http_1_1());
    }

    #[test]
    fn lists_span_lines_and_ignore_case_and_space() {
        let request = parse(
            "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: x , UPGRADE\r\nSec-WebSocket-Protocol: b,,a\r\n\r\n",
        );
        assert!(request.has_token("connection", "upgrade"));
        assert!(!request.has_token("connection", "up"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_only_to_be_had_as_bytes() {
        let bytes = b"GET / HTTP/1.1\r\nX: \xff\r\n\r\n";
        let (request, len) = Request::parse(bytes, "[::1]:1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(request.header("X"), None);
        assert_eq!(request.headers().next(), Some(("X", &b"\xff"[..])));
        assert_eq!(len, bytes.len());
    }

    #[test]
    fn debug_output_tells_no_secrets() {
        let request = parse("GET /chat?token=s3cret HTTP/1.1\r\nAuthorization: Bearer s3cret\r\n\r\n");
        let target = RequestTarget::from(request.target());
        for shown in [format!("{request:?}"), format!("{target:?}")] {
            assert!(shown.contains("/chat") && !shown.contains("s3cret"), "{shown}");
        }
        assert_eq!((target.as_str(), target.path()), ("/chat?token=s3cret", "/chat"));
        assert_eq!(target.query(), Some("token=s3cret"));
    }

    #[test]
    fn the_path_is_what_stands_between_the_authority_and_the_query() {
        for (target, path) in [
            ("/", "/"),
            ("/a?b", "/a"),
            ("/a?b=http://c/d", "/a"),
            ("/http://a/b", "/http://a/b"),
            ("http://user:password@host/a?b", "/a"),
            ("http://host?b", "/"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}

//! An HTTP request, of an opening handshake or of a plain exchange: kept as received, and searched on demand.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::http::forwarded::{Remote, Trusted};
use crate::http::head::{Head, HeadError, Parsed, Span, header_slots, str_of};
use crate::http::response::{Refusal, Response};
#[cfg(feature = "tls")]
use crate::tls::Certificate;

#[cfg(feature = "testing")]
pub(crate) mod builder;

/// An HTTP request (RFC 9112): method, target, headers, and a body if somebody reads it.
#[derive(Clone)]
pub struct Request {
    head: Head,
    method: Span,
    target: Span,
    is_http_1_1: bool,
    remote: Remote,
    /// Whether the peer is a proxy that is trusted to name its clients.
    #[cfg(feature = "auth-url")]
    is_proxied: bool,
    certificate: PeerCertificate,
    /// Empty unless it was read.
    body: Bytes,
}

/// The certificate of whoever sent a request. Nothing without the feature `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    #[cfg(feature = "tls")]
    pub(crate) certificate: Option<Certificate>,
}

#[cfg(feature = "tls")]
impl From<Option<Certificate>> for PeerCertificate {
    fn from(certificate: Option<Certificate>) -> Self {
        Self { certificate }
    }
}

/// The target of a request as sent: the path, with the query if there is one.
///
/// Queries often hold secrets, such as a token, so the target does not print its own: `Debug` leaves the query out, and
/// there is no `Display`. [`as_str`](Self::as_str) gives all of it, except that in events and reports `***` stands for
/// what the server was told to [redact](crate::Server::redact_query). Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestTarget(Arc<str>);

impl RequestTarget {
    /// A target in which `***` stands for the values of these parameters of the query.
    pub(crate) fn redacted(target: &str, parameters: &[String]) -> Self {
        let Some((path, query)) = target.split_once('?').filter(|_| !parameters.is_empty()) else {
            return target.into();
        };
        let shown = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_among(name, parameters) => format!("{name}=***"),
            _ => pair.to_owned(),
        });
        let shown: Vec<_> = shown.collect();
        Self(format!("{path}?{}", shown.join("&")).into())
    }

    /// The target as sent, with the query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        path_of(&self.0)
    }

    /// The query: what follows the question mark, if there is one.
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

/// Whether a name in a query is one of these, also if it is percent-encoded: the application may decode it.
fn is_among(name: &str, names: &[String]) -> bool {
    let mut decoded = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..2).and_then(str_of).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        decoded.push(byte.unwrap_or(*first));
        rest = &after[if byte.is_some() { 2 } else { 0 }..];
    }
    names.iter().any(|other| other.as_bytes() == decoded)
}

/// The path in a target. A target in absolute form (RFC 9112 section 3.2.2) has a scheme and an authority before it,
/// which may contain a password.
fn path_of(target: &str) -> &str {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => path,
    }
}

impl Request {
    /// Makes a request for a test. `target` is the path, with the query if there is one.
    #[cfg(feature = "testing")]
    pub fn builder(target: impl Into<String>) -> builder::RequestBuilder {
        builder::RequestBuilder::new(target.into())
    }

    /// Parses the head at the beginning of `bytes`.
    pub(crate) fn parse(bytes: &[u8], peer: SocketAddr) -> Result<Parsed<Self>, HeadError> {
        let mut slots = header_slots();
        let mut parsed = httparse::Request::new(&mut slots);
        let httparse::Status::Complete(len) = parsed.parse(bytes).map_err(HeadError::of)? else {
            return Ok(Parsed::Incomplete);
        };
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(HeadError::NotHttp) };
        let bytes = &bytes[..len];
        let request = Self {
            method: Span::of(method.as_bytes(), bytes),
            target: Span::of(target.as_bytes(), bytes),
            head: Head::new(bytes, parsed.headers),
            is_http_1_1: parsed.version == Some(1),
            remote: peer.into(),
            #[cfg(feature = "auth-url")]
            is_proxied: false,
            certificate: PeerCertificate::default(),
            body: Bytes::new(),
        };
        Ok(Parsed::Complete(request, len))
    }

    /// The request whose head is at the beginning of `bytes`, or `None` if it is not valid or not complete.
    pub(crate) fn from_bytes(bytes: &[u8], peer: SocketAddr) -> Option<Self> {
        match Self::parse(bytes, peer) {
            Ok(Parsed::Complete(request, _)) => Some(request),
            Ok(Parsed::Incomplete | Parsed::Interim(_)) | Err(_) => None,
        }
    }

    /// The method, such as `GET`.
    pub fn method(&self) -> &str {
        self.head.text(self.method)
    }

    /// The target as sent: the path, with the query if there is one. Queries often hold secrets.
    pub fn target(&self) -> &str {
        self.head.text(self.target)
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        path_of(self.target())
    }

    /// The query: what follows the question mark in the target, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The value of the first header with this name, whatever its case. `None` if there is none, or it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.values(name).next().and_then(str_of)
    }

    /// All headers in order, with their values as sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.head.headers()
    }

    /// The items of a header that holds a list, from all lines with that name. Items that are not UTF-8 are left out.
    pub fn header_list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.head.list(name).filter_map(str_of)
    }

    /// The body, without its transfer coding. Empty if the request has none. Only
    /// [`on_request`](crate::Server::on_request) is given bodies: those of opening handshakes are refused.
    ///
    /// Its memory counts against [`max_buffered`](crate::Server::max_buffered) until the request is answered. A clone
    /// that is kept longer is yours.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn set_body(&mut self, body: Bytes) {
        self.body = body;
    }

    /// The subprotocols that the client offers, in its order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.header_list("Sec-WebSocket-Protocol")
    }

    /// The address of the peer's socket: behind a proxy, the proxy's. A peer at a Unix socket has no address, and is
    /// `0.0.0.0:0` here and `unix socket` in the log.
    pub fn peer_addr(&self) -> SocketAddr {
        self.remote.peer_addr
    }

    /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's
    /// own. An IPv4 address mapped to IPv6 becomes IPv4.
    pub fn remote_ip(&self) -> IpAddr {
        self.remote.remote_ip
    }

    /// The certificate that the client has presented, if the server [asks for one](crate::ServerTls) and the client has
    /// one. It was verified, so its [subject](Certificate::subject) tells who the client is.
    #[cfg(feature = "tls")]
    pub fn client_certificate(&self) -> Option<&Certificate> {
        self.certificate.certificate.as_ref()
    }

    pub(crate) fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    pub(crate) fn set_certificate(&mut self, certificate: PeerCertificate) {
        self.certificate = certificate;
    }

    pub(crate) fn remote(&self) -> Remote {
        self.remote
    }

    /// Finds the client behind the peer, if the peer is a trusted proxy.
    pub(crate) fn find_client(&mut self, trusted: &Trusted) {
        let forwarded_for = self.head.values("X-Forwarded-For");
        let real_ip = self.head.values("X-Real-IP");
        self.remote = trusted.remote(self.remote.peer_addr, forwarded_for, real_ip);
        #[cfg(feature = "auth-url")]
        {
            self.is_proxied = trusted.speaks_for_others(self.remote.peer_addr);
        }
    }

    /// Whether the peer is a proxy that is trusted to name its clients.
    #[cfg(feature = "auth-url")]
    pub(crate) fn is_proxied(&self) -> bool {
        self.is_proxied
    }

    pub(crate) fn is_http_1_1(&self) -> bool {
        self.is_http_1_1
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Whether the client requests an upgrade to WebSocket, valid or not.
    pub(crate) fn asks_for_upgrade(&self) -> bool {
        self.head.has_token("Upgrade", "websocket")
    }

    /// Whether another request may follow this one on its connection, as far as the client is concerned (RFC 9112
    /// section 9.3).
    pub(crate) fn allows_keep_alive(&self) -> bool {
        let is_persistent = self.is_http_1_1 || self.head.has_token("Connection", "keep-alive");
        is_persistent
            && !self.head.has_token("Connection", "close")
            // What follows a successful CONNECT is for a tunnel.
            && self.method() != "CONNECT"
            // Others may have seen the end of the head elsewhere, and so the beginning of the next request.
            && !self.head.has_bare_lf()
    }

    /// Whether the client waits for 100 before it sends the body (RFC 9110 section 10.1.1).
    ///
    /// # Errors
    /// 417 if it expects anything else.
    pub(crate) fn expects_continue(&self) -> Result<bool, Box<Refusal>> {
        let mut expectations = self.head.list("Expect").peekable();
        let is_expected = expectations.peek().is_some();
        if !expectations.all(|expected| expected.eq_ignore_ascii_case(b"100-continue")) {
            let response = Response::new(417).text("only 100-continue may be expected\n");
            return Err(Refusal::new(response, "unknown expectation"));
        }
        Ok(is_expected && self.is_http_1_1)
    }

    /// Checks that there is one `Host`, which HTTP/1.0 may leave out (RFC 9112 section 3.2). With two, a proxy may have
    /// used the other.
    pub(crate) fn check_host(&self) -> Result<(), Box<Refusal>> {
        match self.head.values("Host").count() {
            1 => Ok(()),
            0 if !self.is_http_1_1 => Ok(()),
            0 => Err(Refusal::bad_request("missing Host")),
            _ => Err(Refusal::bad_request("more than one Host")),
        }
    }
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
        Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap()
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
    fn there_is_one_host_except_that_http_1_0_may_have_none() {
        for (head, reason) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.0\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", Some("missing Host")),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Some("more than one Host")),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Some("more than one Host")),
        ] {
            let refusal = parse(head).check_host().err();
            assert_eq!(refusal.as_ref().map(|refusal| &*refusal.reason), reason, "{head}");
        }
    }

    #[test]
    fn another_request_may_follow_unless_client_or_version_say_no() {
        for (head, allows) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: x, CLOSE\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
            ("CONNECT h:80 HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\nHost: h\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", false),
        ] {
            assert_eq!(parse(head).allows_keep_alive(), allows, "{head:?}");
        }
    }

    #[test]
    fn only_100_continue_may_be_expected_and_not_by_http_1_0() {
        for (head, expects) in [
            ("POST / HTTP/1.1\r\n\r\n", Some(false)),
            ("POST / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n", Some(true)),
            ("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", Some(false)),
            ("POST / HTTP/1.1\r\nExpect: 100-continue, tea\r\n\r\n", None),
            ("POST / HTTP/1.1\r\nExpect: tea\r\n\r\n", None),
        ] {
            assert_eq!(parse(head).expects_continue().ok(), expects, "{head:?}");
        }
    }

    #[test]
    fn lists_span_lines_and_ignore_case_and_space() {
        let request = parse(
            "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: x , UPGRADE\r\n\
             Sec-WebSocket-Protocol: b,,a\r\n\r\n",
        );
        assert!(request.head().has_token("connection", "upgrade"));
        assert!(!request.head().has_token("connection", "up"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_only_to_be_had_as_bytes() {
        let bytes = b"GET / HTTP/1.1\r\nX: \xff\r\nConnection: \xff, Upgrade\r\n\r\n";
        let request = Request::from_bytes(bytes, "[::1]:1".parse().unwrap()).unwrap();
        assert_eq!(request.header("X"), None);
        assert_eq!(request.headers().next(), Some(("X", &b"\xff"[..])));
        assert!(request.header_list("Connection").eq(["Upgrade"]), "the other items of a list are not lost");
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
    fn redacted_hides_the_values_of_the_parameters_that_are_named() {
        let names = ["token".to_owned(), "key".to_owned()];
        for (target, shown) in [
            ("/", "/"),
            ("/?", "/?"),
            ("/token=a", "/token=a"),
            ("/?token=s3cret", "/?token=***"),
            ("/?a=1&token=s3cret&&b&key=x", "/?a=1&token=***&&b&key=***"),
            ("/?token=a&token=b=c?token=d", "/?token=***&token=***"),
            ("/?%74oke%6E=s3cret", "/?%74oke%6E=***"),
            ("/?token&token=", "/?token&token="),
            ("/?Token=a&tokens=b&%=c&%7=d&%+1=e&%zz=f", "/?Token=a&tokens=b&%=c&%7=d&%+1=e&%zz=f"),
            ("http://h/?token=s3cret", "http://h/?token=***"),
        ] {
            assert_eq!(RequestTarget::redacted(target, &names).as_str(), shown);
            assert_eq!(RequestTarget::redacted(target, &[]).as_str(), target);
        }
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

//! Requests for the tests of applications, whose `on_handshake` and `on_request` take one.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
#[cfg(feature = "tls")]
use rustls::pki_types::CertificateDer;

use super::Request;
use crate::http::head::{is_token, push_header};
#[cfg(feature = "tls")]
use crate::tls::Certificate;

/// Makes a [`Request`] for a test, from [`Request::builder`]. It is parsed from text, as one that a client has sent.
///
/// ```
/// use heartwire::{Accept, Request, Response};
///
/// // The function that the server is given by `on_handshake`.
/// fn decide(request: &Request) -> Result<Accept, Response> {
///     match request.header("Authorization") {
///         Some("Bearer swordfish") => Ok(Accept::new()),
///         _ => Err(Response::new(401)),
///     }
/// }
///
/// assert_eq!(decide(&Request::builder("/chat").build()), Err(Response::new(401)));
/// let request = Request::builder("/chat").header("authorization", "Bearer swordfish").build();
/// assert!(decide(&request).is_ok());
/// ```
#[derive(Debug, Clone)]
#[must_use = "`build` makes the request"]
pub struct RequestBuilder {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    peer_addr: SocketAddr,
    remote_ip: Option<IpAddr>,
    body: Bytes,
    #[cfg(feature = "tls")]
    certificate: Option<Certificate>,
}

impl RequestBuilder {
    pub(super) fn new(target: String) -> Self {
        Self {
            method: "GET".into(),
            target,
            headers: Vec::new(),
            peer_addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            remote_ip: None,
            body: Bytes::new(),
            #[cfg(feature = "tls")]
            certificate: None,
        }
    }

    /// The method. Default `GET`.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = method.into();
        self
    }

    /// Adds a header. By default there are only those of an opening handshake: `Host` (`localhost`), `Connection`,
    /// `Upgrade`, `Sec-WebSocket-Version` and `Sec-WebSocket-Key`. A header with the name of one of these takes its
    /// place.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers a subprotocol. The first one offered is preferred. Default: none.
    pub fn subprotocol(self, subprotocol: impl Into<String>) -> Self {
        self.header("Sec-WebSocket-Protocol", subprotocol)
    }

    /// The body, as `on_request` is given it. Default: none. It adds no header.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The address of the peer's socket. Default `127.0.0.1:1`.
    pub fn peer_addr(mut self, address: impl Into<SocketAddr>) -> Self {
        self.peer_addr = address.into();
        self
    }

    /// The client's address, as if a [trusted proxy](crate::Server::trust_proxies) had named it. Default: that of
    /// [`peer_addr`](Self::peer_addr).
    pub fn remote_ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.remote_ip = Some(address.into());
        self
    }

    /// The certificate that the client has presented, in DER. Default: none. It is not verified.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, der: &[u8]) -> Self {
        self.certificate = Some(Certificate::new(&CertificateDer::from(der)));
        self
    }

    /// Makes the request.
    ///
    /// # Panics
    /// If no client could send it: the method, the target or a header is not valid, or there is too much of them.
    pub fn build(self) -> Request {
        let text = self.encode().unwrap_or_else(|what| panic!("{what} in {self:?}"));
        let Some(mut request) = Request::from_bytes(&text, self.peer_addr) else { panic!("not valid HTTP: {self:?}") };
        if let Some(address) = self.remote_ip {
            request.remote.remote_ip = address.to_canonical();
        }
        request.set_body(self.body);
        #[cfg(feature = "tls")]
        request.set_certificate(self.certificate.into());
        request
    }

    fn encode(&self) -> Result<Vec<u8>, &'static str> {
        const HANDSHAKE: [(&str, &str); 5] = [
            ("Host", "localhost"),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            // That of RFC 6455 section 1.3.
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !is_token(&self.method) {
            return Err("an invalid method");
        }
        if self.target.is_empty() || self.target.contains(|char: char| char.is_ascii_whitespace() || char.is_control())
        {
            return Err("an invalid target");
        }
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let is_given = |name: &str| self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        for (name, value) in HANDSHAKE.into_iter().filter(|(name, _)| !is_given(name)) {
            push_header(&mut bytes, name, value)?;
        }
        for (name, value) in &self.headers {
            push_header(&mut bytes, name, value)?;
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_makes_an_opening_handshake_that_a_server_accepts() {
        let request = Request::builder("/chat?room=1").subprotocol("a").subprotocol("b").build();
        assert!(crate::http::upgrade::check_request(&request).is_ok());
        assert!(request.check_host().is_ok() && request.asks_for_upgrade());
        assert_eq!((request.path(), request.query()), ("/chat", Some("room=1")));
        assert!(request.subprotocols().eq(["a", "b"]));
    }

    #[test]
    fn builder_replaces_headers_of_the_handshake_and_repeats_others() {
        let request = Request::builder("/").header("HOST", "h").header("X", "1").header("X", "2").build();
        assert_eq!(request.header("Host"), Some("h"));
        assert!(request.check_host().is_ok(), "one Host");
        assert!(request.header_list("X").eq(["1", "2"]));
    }

    #[test]
    fn builder_says_who_asks() {
        let proxy = SocketAddr::from(([10, 0, 0, 1], 80));
        let request = Request::builder("/").method("HEAD").peer_addr(proxy).remote_ip([192, 0, 2, 7]).build();
        assert_eq!((request.method(), request.peer_addr()), ("HEAD", proxy));
        assert_eq!(request.remote_ip(), IpAddr::from([192, 0, 2, 7]));
        assert_eq!(Request::builder("/").peer_addr(proxy).build().remote_ip(), proxy.ip());
    }

    #[test]
    fn builder_gives_a_body() {
        assert_eq!(Request::builder("/").method("POST").body("hello").build().body(), "hello");
        assert!(Request::builder("/").build().body().is_empty());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn builder_shows_the_certificate_of_a_client() {
        let params = rcgen::CertificateParams::new(["device-17".into()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let request = Request::builder("/").client_certificate(certificate.der()).build();
        assert_eq!(request.client_certificate().unwrap().names(), ["device-17"]);
        assert_eq!(Request::builder("/").build().client_certificate(), None);
    }

    #[test]
    fn builder_refuses_what_no_client_could_send() {
        for builder in [
            Request::builder("/a b"),
            Request::builder(""),
            Request::builder("/\r\nX: y"),
            Request::builder("/").method("GE T"),
            Request::builder("/").header("X", "a\r\nY: b"),
            Request::builder("/").header("X: a\r\nY", "b"),
        ] {
            let shown = format!("{builder:?}");
            assert!(std::panic::catch_unwind(|| builder.build()).is_err(), "{shown}");
        }
    }
}

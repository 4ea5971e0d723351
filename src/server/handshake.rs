//! The opening handshake (RFC 6455 section 4.2), under one deadline and one limit of size, however the bytes trickle in.
//!
//! Whatever is not an acceptable upgrade gets a proper HTTP answer. What follows the request in the same packet is kept
//! for the connection.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tungstenite::handshake::derive_accept_key;

use crate::connection::identity::ConnectionId;
use crate::foreign;
use crate::http::forwarded::{Remote, Trusted};
use crate::http::request::Request;
use crate::http::response::{Response, encode_upgrade};
use crate::logging::Log;
use crate::server::accept::Accept;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::transport::socket;

/// Decides on an opening handshake.
pub(crate) type OnHandshake = Arc<dyn Fn(&Request) -> Result<Accept, Response> + Send + Sync>;
/// Answers a request that is no opening handshake, or leaves it to the server.
pub(crate) type OnRequest = Arc<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// How handshakes are to be handled.
#[derive(Clone, Default)]
pub(crate) struct HandshakeConfig {
    /// Proxies whose word on their clients is taken.
    pub(crate) trusted: Trusted,
    pub(crate) on_handshake: Option<OnHandshake>,
    pub(crate) on_request: Option<OnRequest>,
    /// What the application does wrong is logged here.
    pub(crate) log: Arc<Log>,
}

/// What a handshake came to.
pub(crate) enum Outcome {
    /// The connection is a WebSocket. `tail` is what was received behind the request.
    Upgraded { id: ConnectionId, request: Request, accept: Box<Accept>, tail: Vec<u8> },
    /// A plain HTTP request was answered, and our end of the connection was closed.
    Plain(Box<Plain>),
    /// Nobody asked for anything: the client has gone without a request, or was told with 408 that it took too long.
    Nothing { is_there: bool },
    /// The client was refused, and our end of the connection closed, or it never asked properly.
    Failed(Box<HandshakeFailure>),
}

/// A plain HTTP request, and what became of it.
#[derive(Debug)]
pub(crate) struct Plain {
    /// The method and the path.
    request: String,
    pub(crate) answer: io::Result<u16>,
    /// Whether it was the server itself that answered, since nobody else did.
    pub(crate) is_unclaimed: bool,
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, answer, is_unclaimed } = self;
        match answer {
            Ok(status) if *is_unclaimed => write!(f, "{request} asked for no upgrade; answered with {status}"),
            Ok(status) => write!(f, "{request} answered with {status}"),
            Err(error) => write!(f, "{request} not answered: {error}"),
        }
    }
}

/// The subprotocol of clients that send their heartbeat as text.
pub(crate) const TEXT_HEARTBEAT: &str = "heartwire.v1";

/// Longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How long a client may take to take its answer if there is no time left, and to hang up after it got it.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// The limit that keeps a client out whose request is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// There are as many connections as there may be.
    Server,
    /// The client's address has as many as it may have.
    Address,
}

impl LimitReached {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Server => "too many connections (max_connections)",
            Self::Address => "too many connections from this address (max_connections_per_address)",
        }
    }

    /// 503 tells proxies that this server can take no more, and 429 that it can, but not from there.
    fn refusal(self) -> Refusal {
        let (status, text) = match self {
            Self::Server => (503, "too many connections\n"),
            Self::Address => (429, "too many connections from this address\n"),
        };
        refusal(Response::new(status).header("Retry-After", "5").text(text), self.reason())
    }
}

/// Does the handshake before the deadline, and says who is at the other end, as far as that got known. `check_limits`: whether
/// one more connection of this client can be let in. `last_id`: the number of the newest connection.
///
/// One step after the other and none inlined, so that their frames lie over one another: see `ConnectionThread::run`.
#[inline(never)]
pub(crate) fn perform(
    pending: &PendingHandshake,
    config: &HandshakeConfig,
    deadline: Instant,
    check_limits: impl FnOnce(IpAddr) -> Result<(), LimitReached>,
    last_id: &AtomicU64,
) -> (Remote, Outcome) {
    let (stream, peer) = (&*pending.stream, pending.peer);
    let (mut request, tail) = match read_head(pending, deadline) {
        Ok(read) => read,
        Err(HeadError::Refused(refusal)) => {
            let status = answer_and_end(stream, &refusal.0, true, deadline, &config.log).ok();
            return (peer.into(), Outcome::Failed(HandshakeFailure::early(status, refusal.1)));
        }
        Err(HeadError::Lost(reason)) => return (peer.into(), Outcome::Failed(HandshakeFailure::early(None, reason))),
        Err(HeadError::Gone) => return (peer.into(), Outcome::Nothing { is_there: false }),
        Err(HeadError::Silent) => {
            let is_there = answer_and_end(stream, &too_slow(), true, deadline, &config.log).is_ok();
            return (peer.into(), Outcome::Nothing { is_there });
        }
    };
    request.find_client(&config.trusted);
    let remote = request.remote();
    let with_body = request.method() != "HEAD";
    let refuse = |refusal: Refusal| {
        let status = answer_and_end(stream, &refusal.0, with_body, deadline, &config.log).ok();
        (remote, Outcome::Failed(HandshakeFailure::of(&request, status, refusal.1)))
    };
    match look_at(&request, config).and_then(|()| check_limits(remote.client).map_err(|limit| limit.refusal().into())) {
        Ok(()) => {}
        Err(Declined::Plain { response, is_unclaimed }) => {
            let answer = answer_and_end(stream, &response, with_body, deadline, &config.log);
            let request = format!("{} {}", request.method(), request.path());
            return (remote, Outcome::Plain(Box::new(Plain { request, answer, is_unclaimed })));
        }
        Err(Declined::Refused(refusal)) => return refuse(refusal),
    }
    let accept = match decide(&request, config) {
        Ok(accept) => accept,
        Err(refusal) => return refuse(refusal),
    };
    let answer = match welcome(&request, &accept, config) {
        Ok(answer) => answer,
        Err(refusal) => return refuse(refusal),
    };
    if !pending.let_in() {
        return (remote, Outcome::Failed(HandshakeFailure::of(&request, None, "the server is shutting down")));
    }
    // Before the answer, so that a client which connects when another is in has the higher number.
    let id = last_id.fetch_add(1, Relaxed) + 1;
    let outcome = match socket::write_before(stream, &answer, deadline) {
        Ok(()) => Outcome::Upgraded { id, request, accept, tail },
        Err(error) => Outcome::Failed(HandshakeFailure::of(&request, None, format!("answer not sent: {error}"))),
    };
    (remote, outcome)
}

/// An answer that is no upgrade, and the reason for the log.
type Refusal = Box<(Response, Cow<'static, str>)>;

fn refusal(response: Response, reason: impl Into<Cow<'static, str>>) -> Refusal {
    Box::new((response, reason.into()))
}

/// Why a complete request does not become a WebSocket.
enum Declined {
    /// It did not ask for that, and this is its answer: the application's, or else our own.
    Plain {
        response: Box<Response>,
        is_unclaimed: bool,
    },
    Refused(Refusal),
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether a complete request is an opening handshake as it should be.
#[inline(never)]
fn look_at(request: &Request, config: &HandshakeConfig) -> Result<(), Declined> {
    check_host(request)?;
    if !request.has_token("Upgrade", "websocket") {
        return Err(match ask_for_answer(request, config) {
            Some(response) => Declined::Plain { response, is_unclaimed: false },
            None => Declined::Plain { response: Box::new(no_upgrade(request)), is_unclaimed: true },
        });
    }
    Ok(check_upgrade(request)?)
}

/// The application's answer to a request that is no opening handshake.
fn ask_for_answer(request: &Request, config: &HandshakeConfig) -> Option<Box<Response>> {
    let answer = config.on_request.as_ref()?;
    let answered = foreign::call(|| answer(request));
    let answered = answered.unwrap_or_else(|message| {
        config.log.error(format_args!("{}: on_request panicked: {message}; answered with 500", request.remote()));
        Some(Response::new(500).text("internal error\n"))
    });
    answered.map(Box::new)
}

enum HeadError {
    /// To be answered.
    Refused(Refusal),
    /// There is nobody to answer any more.
    Lost(String),
    /// The same, and nobody has asked for anything, such as a browser that connects in case it will need it.
    Gone,
    /// Not a byte has come in all the time there was.
    Silent,
}

fn too_slow() -> Response {
    Response::new(408).text("the request took too long\n")
}

/// Reads up to the end of the request's head. What came behind it is the second part of the result.
#[inline(never)]
fn read_head(pending: &PendingHandshake, deadline: Instant) -> Result<(Request, Vec<u8>), HeadError> {
    let mut head = Head::new();
    loop {
        let read = socket::read_before(&pending.stream, head.space(), deadline);
        let count = match read {
            Ok(None) if head.len == 0 => return Err(HeadError::Silent),
            Ok(None) => return Err(HeadError::Refused(refusal(too_slow(), "request too slow"))),
            Ok(Some(0)) | Err(_) if head.len == 0 => return Err(HeadError::Gone),
            Ok(Some(0)) => return Err(HeadError::Lost("closed in the middle of the request".to_owned())),
            Ok(Some(count)) => count,
            Err(error) => return Err(HeadError::Lost(error.to_string())),
        };
        pending.heard();
        if let Some(complete) = head.filled(count, pending.peer)? {
            return Ok(complete);
        }
    }
}

/// A request's head as it arrives, without I/O.
struct Head {
    /// Initialised throughout; `len` bytes have arrived.
    bytes: Vec<u8>,
    len: usize,
}

impl Head {
    fn new() -> Self {
        // More than the 1,032 bytes up to which glibc keeps freed memory for the thread that freed it, even if it idles.
        Self { bytes: vec![0; 2048], len: 0 }
    }

    /// Where the next bytes go. Never empty.
    fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// So many bytes, at least one, were put into [`space`](Self::space). The request, once its head is complete, and
    /// what came behind it.
    fn filled(&mut self, count: usize, peer: SocketAddr) -> Result<Option<(Request, Vec<u8>)>, HeadError> {
        let before = self.len;
        self.len += count;
        // Parsed at first, to refuse at once what is no HTTP, and whenever a line might have been the last.
        let news = &self.bytes[before.saturating_sub(3)..self.len];
        if before == 0 || news.windows(2).any(|pair| pair == b"\n\n") || ends_head(news) {
            let head = &self.bytes[..self.len];
            match Request::parse(head, peer) {
                Ok(Some((request, len))) => return Ok(Some((request, head[len..].to_vec()))),
                Ok(None) => {}
                Err(error) => return Err(malformed(error)),
            }
        }
        if self.len >= MAX_HEAD {
            let response = Response::new(431).text("the request head is too large\n");
            return Err(HeadError::Refused(refusal(response, "request head too large")));
        }
        if self.len == self.bytes.len() {
            self.bytes.resize((2 * self.len).min(MAX_HEAD), 0);
        }
        Ok(None)
    }
}

fn ends_head(news: &[u8]) -> bool {
    news.windows(3).any(|triple| triple == b"\n\r\n")
}

fn malformed(error: httparse::Error) -> HeadError {
    let (status, reason) = match error {
        httparse::Error::Version => (505, "HTTP version is not 1.1"),
        httparse::Error::TooManyHeaders => (431, "too many headers"),
        _ => (400, "not an HTTP request"),
    };
    HeadError::Refused(refusal(Response::new(status).text(format!("{reason}\n")), reason))
}

/// The answer to a request that is no upgrade and that nobody else answers.
fn no_upgrade(request: &Request) -> Response {
    match request.method() {
        "GET" | "HEAD" => {
            let response = Response::new(426).header("Upgrade", "websocket");
            response.text("This is a WebSocket server: connect with ws://\n")
        }
        _ => method_not_allowed(),
    }
}

fn method_not_allowed() -> Response {
    Response::new(405).header("Allow", "GET, HEAD").text("only GET is allowed\n")
}

fn bad(reason: &'static str) -> Refusal {
    refusal(Response::new(400).text(format!("{reason}\n")), reason)
}

/// One Host, which HTTP/1.0 may leave out (RFC 9112 section 3.2): of two, a proxy may have gone by the other.
fn check_host(request: &Request) -> Result<(), Refusal> {
    match request.count("Host") {
        1 => Ok(()),
        0 if !request.is_http_1_1() => Ok(()),
        0 => Err(bad("missing Host")),
        _ => Err(bad("more than one Host")),
    }
}

/// What RFC 6455 section 4.2.1 demands of the request, beyond what HTTP does.
#[inline(never)]
fn check_upgrade(request: &Request) -> Result<(), Refusal> {
    if request.method() != "GET" {
        return Err(refusal(method_not_allowed(), "method not allowed"));
    }
    if !request.is_http_1_1() {
        return Err(refusal(Response::new(505).text("an upgrade needs HTTP/1.1\n"), "HTTP version is not 1.1"));
    }
    if !request.has_token("Connection", "Upgrade") {
        return Err(bad("Connection does not say Upgrade"));
    }
    if request.header("Sec-WebSocket-Version") != Some("13") {
        let response = Response::new(426).header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13");
        let response = response.text("only WebSocket version 13 is spoken here\n");
        return Err(refusal(response, "WebSocket version is not 13"));
    }
    if request.count("Sec-WebSocket-Key") > 1 {
        return Err(bad("more than one Sec-WebSocket-Key"));
    }
    match request.header("Sec-WebSocket-Key") {
        None => Err(bad("missing Sec-WebSocket-Key")),
        Some(key) if !is_key(key) => Err(bad("invalid Sec-WebSocket-Key")),
        Some(_) => Ok(()),
    }
}

/// Whether this is the base64 of 16 bytes: 22 digits and two signs of padding.
fn is_key(key: &str) -> bool {
    key.strip_suffix("==").is_some_and(|digits| {
        digits.len() == 22 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    })
}

/// Asks the application whether to let the client in, and on what terms.
#[inline(never)]
fn decide(request: &Request, config: &HandshakeConfig) -> Result<Box<Accept>, Refusal> {
    let mut accept = match &config.on_handshake {
        None => Accept::new(),
        Some(decide) => match foreign::call(|| decide(request)) {
            Ok(Ok(accept)) => accept,
            Ok(Err(response)) if (300..600).contains(&response.status()) => return Err(rejected(response)),
            Ok(Err(response)) => {
                return Err(mistake(config, request, &format!("rejected with status {}", response.status())));
            }
            Err(message) => return Err(mistake(config, request, &format!("panicked: {message}"))),
        },
    };
    if accept.subprotocol.is_none() && request.subprotocols().any(|offered| offered == TEXT_HEARTBEAT) {
        accept.subprotocol = Some(TEXT_HEARTBEAT.to_owned());
    }
    if let Some(chosen) = &accept.subprotocol
        && !request.subprotocols().any(|offered| offered == chosen)
    {
        return Err(mistake(config, request, "chose a subprotocol that was not offered"));
    }
    Ok(Box::new(accept))
}

fn rejected(response: Response) -> Refusal {
    let reason = match response.reason() {
        Some(reason) => format!("rejected by on_handshake: {reason}").into(),
        None => Cow::Borrowed("rejected by on_handshake"),
    };
    refusal(response, reason)
}

/// The bytes of the answer 101.
fn welcome(request: &Request, accept: &Accept, config: &HandshakeConfig) -> Result<Vec<u8>, Refusal> {
    // Checked by check_upgrade.
    let key = derive_accept_key(request.header("Sec-WebSocket-Key").unwrap_or_default().as_bytes());
    encode_upgrade(&key, accept.subprotocol.as_deref(), &accept.headers)
        .map_err(|what| mistake(config, request, &format!("gave {what}")))
}

/// The application has made one: the log says which, and the client learns that it is not its own.
fn mistake(config: &HandshakeConfig, request: &Request, what: &str) -> Refusal {
    config.log.error(format_args!("{}: on_handshake {what}; answered with 500", request.remote()));
    refusal(Response::new(500).text("internal error\n"), "on_handshake failed")
}

/// Answers and closes our end of the TCP connection. For the answer to arrive, what the client still sends has to be taken
/// in afterwards. Returns the status that was really sent.
fn answer_and_end(
    stream: &TcpStream,
    response: &Response,
    with_body: bool,
    deadline: Instant,
    log: &Log,
) -> io::Result<u16> {
    let (status, bytes) = match response.encode(with_body) {
        Ok(bytes) => (response.status(), bytes),
        Err(what) => {
            log.error(format_args!("response {} with {what}; answered with 500", response.status()));
            (500, Response::new(500).text("internal error\n").encode(with_body).unwrap_or_default())
        }
    };
    // A request that came too late has no time left, and still gets its answer.
    let deadline = deadline.max(Instant::now() + LINGER);
    socket::write_before(stream, &bytes, deadline)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in
            ["", "AAAA", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ!!", "dGhlIHNhbXBsZSBub25jZQAA==", "=="]
        {
            assert!(!is_key(bad), "{bad}");
        }
    }
}

#[cfg(test)]
mod fuzz;

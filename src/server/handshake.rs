//! The server's side of the opening handshake (RFC 6455 section 4.2), under one deadline however slowly the bytes
//! arrive. Its rules are in [`crate::http`]; here are the I/O, the application's functions and the log.
//!
//! A request that is not an acceptable upgrade gets a proper HTTP response. Bytes that follow the request are kept for
//! the connection. All bytes pass through [`socket::read_before`] and [`socket::write_before`].

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::atomic::AtomicU64;
use crate::connection::identity::ConnectionId;
#[cfg(feature = "deflate")]
use crate::deflate::{Deflate, negotiation};
use crate::foreign;
#[cfg(feature = "deflate")]
use crate::http::extensions;
use crate::http::forwarded::{Remote, Trusted};
use crate::http::head::HeadBuffer;
use crate::http::origin::{self, Origin};
use crate::http::request::{PeerCertificate, Request};
use crate::http::response::{Refusal, Response};
use crate::http::upgrade;
use crate::logging::Log;
use crate::server::accept::{Accept, TEXT_HEARTBEAT};
use crate::server::routes::Routes;
#[cfg(feature = "tls")]
use crate::server::secure::Secure;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
#[cfg(feature = "tls")]
use crate::tls::handshake::HandshakeError;
#[cfg(feature = "topics")]
use crate::topics::hub::Hub;
use crate::transport::socket;

/// Decides on an opening handshake.
pub(crate) type OnHandshake = Arc<dyn Fn(&Request) -> Result<Accept, Response> + Send + Sync>;
/// Answers a request that is no opening handshake, or leaves it to the server.
pub(crate) type OnRequest = Arc<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// The settings of opening handshakes.
#[derive(Clone, Default)]
pub(crate) struct HandshakeConfig {
    /// The proxies that are trusted to name their clients.
    pub(crate) trusted: Trusted,
    /// The paths that the server answers itself.
    pub(super) routes: Routes,
    /// The origins whose pages are let in. Empty: all.
    pub(crate) origins: Vec<Origin>,
    /// The parameters of queries whose values are in no event and no report.
    pub(crate) redacted: Vec<String>,
    pub(crate) on_handshake: Option<OnHandshake>,
    pub(crate) on_request: Option<OnRequest>,
    /// The TLS of all connections.
    #[cfg(feature = "tls")]
    pub(super) secure: Option<Arc<Secure>>,
    /// The compression that clients may have.
    #[cfg(feature = "deflate")]
    pub(super) deflate: Option<Deflate>,
    /// The server's topics.
    #[cfg(feature = "topics")]
    pub(super) topics: Option<Arc<Hub>>,
    /// Whether every client may send its heartbeat as text.
    pub(super) text_heartbeat: bool,
    /// Gets the application's mistakes.
    pub(crate) log: Arc<Log>,
}

impl HandshakeConfig {
    /// Whether a client that was accepted may send its heartbeat as text.
    pub(super) fn takes_text_heartbeat(&self, accept: &Accept) -> bool {
        self.text_heartbeat || accept.has_text_heartbeat()
    }
}

/// The outcome of a handshake.
pub(crate) enum Outcome {
    /// The connection is a WebSocket.
    Upgraded(Box<Upgraded>),
    /// A plain HTTP request was answered, and our end of the connection was closed.
    PlainHttp(Box<PlainExchange>),
    /// Not a byte of a request came: the client has gone, or got 408 because it took too long.
    NoRequest { is_there: bool },
    /// The client was refused and our end of the connection closed, or the connection was lost.
    Failed(Box<HandshakeFailure>),
}

/// A client that has become a connection.
pub(crate) struct Upgraded {
    pub(crate) id: ConnectionId,
    pub(crate) request: Request,
    pub(crate) accept: Box<Accept>,
    /// The bytes received after the request.
    pub(crate) tail: Vec<u8>,
}

/// A plain HTTP request, and what became of it.
#[derive(Debug)]
pub(crate) struct PlainExchange {
    /// The method and the path.
    request: String,
    pub(crate) answer: io::Result<u16>,
    /// Whether nothing answered it but the server's own 426 or 405.
    pub(crate) is_unclaimed: bool,
}

impl fmt::Display for PlainExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, answer, is_unclaimed } = self;
        match answer {
            Ok(status) if *is_unclaimed => write!(f, "{request} requested no upgrade; answered with {status}"),
            Ok(status) => write!(f, "{request} answered with {status}"),
            Err(error) => write!(f, "{request} not answered: {error}"),
        }
    }
}

/// How long a client may take to receive its response when no time is left, and to hang up afterwards.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// What keeps out a client with a valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The server has as many connections as it may have.
    Connections,
    /// The client's address has as many as it may have.
    PerAddress,
    /// The server sends its clients away.
    Draining,
}

impl LimitReached {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Connections => "too many connections (max_connections)",
            Self::PerAddress => "too many connections from this address (max_connections_per_address)",
            Self::Draining => "the server is draining",
        }
    }

    /// 503 tells proxies that this server is full; 429 that it is not, but this client may not have more.
    fn refusal(self) -> Box<Refusal> {
        let (status, retry_after, text) = match self {
            Self::Connections => (503, "5", "too many connections\n"),
            Self::PerAddress => (429, "5", "too many connections from this address\n"),
            // Another server, or the next one at this address, may be there already.
            Self::Draining => (503, "1", "draining\n"),
        };
        Refusal::new(Response::new(status).header("Retry-After", retry_after).text(text), self.reason())
    }
}

/// Performs the handshake before the deadline, and says who is at the other end, if that became known. `check_limits`
/// checks whether this client may have one more connection. `last_id` is the number of the newest connection.
///
/// The steps follow one another and none is inlined, so that their stack frames overlap: see `ServedClient::serve`.
#[inline(never)]
pub(crate) fn perform(
    pending: &Arc<PendingHandshake>,
    config: &HandshakeConfig,
    deadline: Instant,
    check_limits: impl FnOnce(IpAddr) -> Result<(), LimitReached>,
    last_id: &AtomicU64,
) -> (Remote, Outcome) {
    let handshake = Handshake { pending, config, deadline };
    let read = handshake.secure().and_then(|certificate| Ok((handshake.read_request()?, certificate)));
    let ((mut request, tail), certificate) = match read {
        Ok(read) => read,
        Err(why) => return (pending.peer.into(), handshake.end_without_request(why)),
    };
    request.set_certificate(certificate);
    request.find_client(&config.trusted);
    let remote = request.remote();
    let room = || check_limits(remote.remote_ip).map_err(|limit| Declined::Refused(limit.refusal()));
    if let Err(declined) = handshake.check(&request).and_then(|()| room()) {
        return (remote, handshake.decline(&request, declined));
    }
    let outcome = match handshake.accept(&request) {
        Ok((accept, answer)) => handshake.open(request, accept, &answer, tail, last_id),
        Err(refusal) => handshake.decline(&request, Declined::Refused(refusal)),
    };
    (remote, outcome)
}

pub(super) struct Handshake<'a> {
    pending: &'a Arc<PendingHandshake>,
    pub(super) config: &'a HandshakeConfig,
    deadline: Instant,
}

/// Why there is no request.
enum NoRequest {
    /// Its head was not acceptable, or came too late.
    Refused(Box<Refusal>),
    /// The connection was lost in the middle of it.
    Lost(String),
    /// The client left before it, such as a browser that connects in advance.
    Left,
    /// Not a byte came before the deadline.
    Silent,
}

/// Why a complete request does not become a WebSocket.
enum Declined {
    /// It requested no upgrade. The response is the application's, or else our own.
    PlainHttp {
        response: Box<Response>,
        is_unclaimed: bool,
    },
    Refused(Box<Refusal>),
}

/// The steps.
impl Handshake<'_> {
    /// Performs the handshake of TLS, if the server has it. Returns the client's certificate.
    #[cfg(feature = "tls")]
    #[inline(never)]
    fn secure(&self) -> Result<PeerCertificate, NoRequest> {
        let Some(secure) = &self.config.secure else { return Ok(PeerCertificate::default()) };
        secure.perform(self.pending, self.deadline).map(PeerCertificate::from).map_err(|error| match error {
            HandshakeError::Silent => NoRequest::Left,
            HandshakeError::PlainHttp => {
                let response = Response::new(400).text("This port speaks TLS: use https:// or wss://\n");
                NoRequest::Refused(Refusal::new(response, "plain HTTP on a port for TLS"))
            }
            error => NoRequest::Lost(error.to_string()),
        })
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self) -> Result<PeerCertificate, NoRequest> {
        Ok(PeerCertificate::default())
    }

    /// Reads the head of the request. The second part of the result is what came after it.
    #[inline(never)]
    fn read_request(&self) -> Result<(Request, Vec<u8>), NoRequest> {
        let Self { pending, deadline, .. } = *self;
        let mut buffer = HeadBuffer::new();
        loop {
            let count = match socket::read_before(&pending.stream, buffer.space(), deadline) {
                Ok(None) if buffer.is_empty() => return Err(NoRequest::Silent),
                Ok(None) => return Err(NoRequest::Refused(Refusal::new(too_slow(), "the request took too long"))),
                Ok(Some(0)) | Err(_) if buffer.is_empty() => return Err(NoRequest::Left),
                Ok(Some(0)) => {
                    return Err(NoRequest::Lost("connection closed in the middle of the request".to_owned()));
                }
                Ok(Some(count)) => count,
                Err(error) => return Err(NoRequest::Lost(error.to_string())),
            };
            pending.mark_heard();
            let filled = buffer.filled(count, |bytes| Request::parse(bytes, pending.peer));
            if let Some(complete) = filled.map_err(|error| NoRequest::Refused(error.into()))? {
                return Ok(complete);
            }
        }
    }

    #[inline(never)]
    fn end_without_request(&self, why: NoRequest) -> Outcome {
        match why {
            NoRequest::Refused(refusal) => {
                let status = self.respond_and_close(&refusal.response, true).ok();
                Outcome::Failed(HandshakeFailure::without_request(status, refusal.reason))
            }
            NoRequest::Lost(reason) => Outcome::Failed(HandshakeFailure::without_request(None, reason)),
            NoRequest::Left => Outcome::NoRequest { is_there: false },
            NoRequest::Silent => Outcome::NoRequest { is_there: self.respond_and_close(&too_slow(), true).is_ok() },
        }
    }

    /// Checks whether a complete request is a valid opening handshake.
    #[inline(never)]
    fn check(&self, request: &Request) -> Result<(), Declined> {
        request.check_host().map_err(Declined::Refused)?;
        if !request.asks_for_upgrade() {
            return Err(match self.answer(request) {
                Some(response) => Declined::PlainHttp { response, is_unclaimed: false },
                None => Declined::PlainHttp { response: Box::new(unclaimed(request)), is_unclaimed: true },
            });
        }
        upgrade::check_request(request).map_err(Declined::Refused)
    }

    /// Lets the application decide, unless the path is the server's own, and encodes the response 101.
    #[inline(never)]
    fn accept(&self, request: &Request) -> Result<(Box<Accept>, Vec<u8>), Box<Refusal>> {
        let mut accept = match self.config.routes.stream(request.path()) {
            Some(stream) => {
                stream.decide(request).map(Box::new).map_err(|(response, why)| Refusal::new(response, why))?
            }
            None => {
                self.check_origin(request)?;
                self.ask_on_handshake(request)?
            }
        };
        #[cfg(feature = "topics")]
        self.check_topic(request, &mut accept)?;
        if accept.subprotocol.is_none() && request.subprotocols().any(|offered| offered == TEXT_HEARTBEAT) {
            accept.subprotocol = Some(TEXT_HEARTBEAT.to_owned());
        }
        let extensions = self.agree_to_extensions(request, &mut accept)?;
        match upgrade::encode_response(request, accept.subprotocol.as_deref(), extensions.as_deref(), &accept.headers) {
            Ok(answer) => Ok((accept, answer)),
            Err(what) => Err(self.on_handshake_failed(request, &format!("returned {what}"))),
        }
    }

    /// Agrees to the compression that the client offers, if the server has it (RFC 7692 section 5.1).
    #[cfg(feature = "deflate")]
    #[inline(never)]
    fn agree_to_extensions(&self, request: &Request, accept: &mut Accept) -> Result<Option<String>, Box<Refusal>> {
        let Some(deflate) = &self.config.deflate else { return Ok(None) };
        let offers = extensions::parse(request.head().values("Sec-WebSocket-Extensions"))
            .ok_or_else(|| Refusal::bad_request("invalid Sec-WebSocket-Extensions"))?;
        accept.agreed = negotiation::choose(deflate, &offers, self.config.takes_text_heartbeat(accept));
        Ok(accept.agreed.map(|agreed| agreed.to_string()))
    }

    #[cfg(not(feature = "deflate"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "there are none")]
    fn agree_to_extensions(&self, _: &Request, _: &mut Accept) -> Result<Option<String>, Box<Refusal>> {
        Ok(None)
    }

    /// Refuses pages of other origins than those allowed (RFC 6455 sections 4.2.2 and 10.2).
    fn check_origin(&self, request: &Request) -> Result<(), Box<Refusal>> {
        let origins = &self.config.origins;
        if origins.is_empty() || origin::is_from_one_of(origins, request) {
            return Ok(());
        }
        let response = Response::new(403).text("pages of this origin are not allowed\n");
        Err(Refusal::new(response, "origin not allowed (allow_origins)"))
    }

    /// Sends the response 101, unless the server is shutting down.
    #[inline(never)]
    fn open(
        &self,
        request: Request,
        accept: Box<Accept>,
        answer: &[u8],
        tail: Vec<u8>,
        last_id: &AtomicU64,
    ) -> Outcome {
        if !self.pending.admit() {
            return Outcome::Failed(HandshakeFailure::of_request(&request, None, "the server is shutting down"));
        }
        // Before the response, so that a client which connects after another was let in has the higher number.
        let id = last_id.fetch_add(1, Relaxed) + 1;
        match socket::write_before(&self.pending.stream, answer, self.deadline) {
            Ok(()) => Outcome::Upgraded(Box::new(Upgraded { id, request, accept, tail })),
            Err(error) => {
                Outcome::Failed(HandshakeFailure::of_request(&request, None, format!("response not sent: {error}")))
            }
        }
    }

    /// Responds to a request that does not become a WebSocket.
    #[inline(never)]
    fn decline(&self, request: &Request, declined: Declined) -> Outcome {
        let with_body = request.method() != "HEAD";
        match declined {
            Declined::PlainHttp { response, is_unclaimed } => {
                let answer = self.respond_and_close(&response, with_body);
                let request = format!("{} {}", request.method(), request.path());
                Outcome::PlainHttp(Box::new(PlainExchange { request, answer, is_unclaimed }))
            }
            Declined::Refused(refusal) => {
                let status = self.respond_and_close(&refusal.response, with_body).ok();
                Outcome::Failed(HandshakeFailure::of_request(request, status, refusal.reason))
            }
        }
    }

    /// Responds, and closes our end of the TCP connection. For the response to arrive, what the client still sends has
    /// to be read afterwards. Returns the status that was really sent.
    fn respond_and_close(&self, response: &Response, with_body: bool) -> io::Result<u16> {
        let (status, bytes) = match response.encode(with_body) {
            Ok(bytes) => (response.status(), bytes),
            Err(what) => {
                let status = response.status();
                self.config.log.error(format_args!("cannot send response {status}: {what}; answered with 500"));
                (500, internal_error().encode(with_body).unwrap_or_default())
            }
        };
        // A request that came too late still gets its response, although no time is left.
        let deadline = self.deadline.max(Instant::now() + LINGER);
        socket::write_before(&self.pending.stream, &bytes, deadline)?;
        self.pending.stream.end_writing()?;
        Ok(status)
    }
}

/// The application's functions.
impl Handshake<'_> {
    /// The response to a request that is no opening handshake: the server's own, or else the application's.
    fn answer(&self, request: &Request) -> Option<Box<Response>> {
        self.config.routes.answer(request).map(Box::new).or_else(|| self.ask_on_request(request))
    }

    fn ask_on_request(&self, request: &Request) -> Option<Box<Response>> {
        let on_request = self.config.on_request.as_ref()?;
        let answered = foreign::call(|| on_request(request)).unwrap_or_else(|message| {
            let remote = request.remote();
            self.config.log.error(format_args!("{remote}: on_request panicked: {message}; answered with 500"));
            Some(internal_error())
        });
        answered.map(Box::new)
    }

    /// Asks the application whether, and on what terms, to accept the client.
    fn ask_on_handshake(&self, request: &Request) -> Result<Box<Accept>, Box<Refusal>> {
        let Some(on_handshake) = &self.config.on_handshake else { return Ok(Box::default()) };
        match foreign::call(|| on_handshake(request)) {
            Ok(Ok(accept)) => match accept.user_name() {
                Ok(_) => Ok(Box::new(accept)),
                Err(invalid) => Err(self.on_handshake_failed(request, &format!("returned {invalid}"))),
            },
            Ok(Err(response)) if (300..600).contains(&response.status()) => Err(rejected(response)),
            Ok(Err(response)) => Err(self.on_handshake_failed(
                request,
                &format!("rejected with status {}, outside 300..=599", response.status()),
            )),
            Err(message) => Err(self.on_handshake_failed(request, &format!("panicked: {message}"))),
        }
    }

    /// Logs what the application did wrong. The client learns that the fault is not its own.
    fn on_handshake_failed(&self, request: &Request, what: &str) -> Box<Refusal> {
        self.config.log.error(format_args!("{}: on_handshake {what}; answered with 500", request.remote()));
        Refusal::new(internal_error(), "on_handshake failed")
    }
}

fn rejected(response: Response) -> Box<Refusal> {
    let reason = match response.reason() {
        Some(reason) => format!("rejected by on_handshake: {reason}").into(),
        None => Cow::Borrowed("rejected by on_handshake"),
    };
    Refusal::new(response, reason)
}

/// The response to a request that is no upgrade and that the application leaves to us.
fn unclaimed(request: &Request) -> Response {
    match request.method() {
        "GET" | "HEAD" => {
            let response = Response::new(426).header("Upgrade", "websocket");
            response.text("This is a WebSocket server: connect with ws://\n")
        }
        _ => Refusal::method_not_allowed().response,
    }
}

fn too_slow() -> Response {
    Response::new(408).text("the request took too long\n")
}

fn internal_error() -> Response {
    Response::new(500).text("internal error\n")
}

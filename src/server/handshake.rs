//! The server's side of the opening handshake (RFC 6455 section 4.2). Its rules are in [`crate::http`]; here are the
//! application's function and the log. Requests are read and responses written by an [`Exchange`], which also answers
//! those that are no opening handshake.
//!
//! A request that is not an acceptable upgrade gets a proper HTTP response. Bytes that follow the request are kept for
//! the connection.

use std::borrow::Cow;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::atomic::AtomicU64;
use crate::connection::identity::ConnectionId;
#[cfg(feature = "deflate")]
use crate::deflate::{Deflate, negotiation};
use crate::foreign;
#[cfg(feature = "deflate")]
use crate::http::extensions;
use crate::http::forwarded::{Remote, Trusted};
use crate::http::origin::{self, Origin};
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};
use crate::http::upgrade;
use crate::logging::Log;
use crate::server::accept::{Accept, TEXT_HEARTBEAT};
use crate::server::exchange::{Exchange, PlainExchange, Session, internal_error};
use crate::server::routes::Routes;
#[cfg(feature = "tls")]
use crate::server::secure::Secure;
use crate::supervisor::pending_handshake::HandshakeFailure;
#[cfg(feature = "topics")]
use crate::topics::hub::Hub;
use crate::transport::budget::MemoryBudget;
use crate::transport::socket;

/// Decides on an opening handshake.
pub(crate) type OnHandshake = Arc<dyn Fn(&Request) -> Result<Accept, Response> + Send + Sync>;
/// Answers a request that is no opening handshake, or leaves it to the server.
pub(crate) type OnRequest = Arc<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// The settings of opening handshakes and of plain requests.
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
    /// The longest body of a request, in bytes.
    pub(super) max_request_body: usize,
    /// How long a client may be idle between two plain requests.
    pub(super) keep_alive_timeout: Duration,
    /// What the bodies of all requests count against.
    pub(super) buffered: Arc<MemoryBudget>,
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

/// The outcome of a request.
pub(super) enum Outcome {
    /// The connection is a WebSocket.
    Upgraded(Box<Upgraded>),
    /// A plain HTTP request was answered, and our end of the connection was closed unless it is kept.
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

/// Reads a request before the deadline, performs the handshake or answers it, and says who is at the other end, if that
/// became known. `check_limits` checks whether this client may have one more connection. `last_id` is the number of the
/// newest connection.
///
/// The steps follow one another and none is inlined, so that their stack frames overlap: see `ServedClient::serve`.
#[inline(never)]
pub(super) fn perform(
    exchange: &Exchange<'_>,
    session: &mut Session,
    check_limits: impl FnOnce(IpAddr) -> Result<(), LimitReached>,
    last_id: &AtomicU64,
) -> (Remote, Outcome) {
    let mut request = match exchange.secure(session).and_then(|()| exchange.read_head(session)) {
        Ok(request) => request,
        Err(why) => return (exchange.pending.peer.into(), exchange.end_without_request(why)),
    };
    let remote = request.remote();
    if let Err(refusal) = request.check_host() {
        return (remote, exchange.refuse(&request, &refusal));
    }
    if !request.asks_for_upgrade() {
        return (remote, exchange.answer(&mut request, session));
    }
    let room = || check_limits(remote.remote_ip).map_err(LimitReached::refusal);
    let accepted = upgrade::check_request(&request).and_then(|()| room()).and_then(|()| exchange.accept(&request));
    let outcome = match accepted {
        Ok((accept, answer)) => {
            let tail = mem::take(&mut session.received);
            exchange.open(request, accept, &answer, tail, last_id)
        }
        Err(refusal) => exchange.refuse(&request, &refusal),
    };
    (remote, outcome)
}

/// The steps.
impl Exchange<'_> {
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
}

/// The application's function.
impl Exchange<'_> {
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

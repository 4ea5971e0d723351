//! Requests and responses on a server's connection: each request is read under one deadline, however slowly its bytes
//! arrive, and a plain one is answered here. Its rules are in [`crate::http`]; here are the I/O, the application's
//! function and the log. All bytes pass through [`socket::read_before`] and [`socket::write_before`].
//!
//! A connection is kept for another request (RFC 9112 section 9.3) only if the whole request was read and understood.
//! So a body that nobody reads, and whatever is refused, ends it.
//!
//! Invariant: what was received and is not read yet lies in the [`Session`], or in the socket.

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::foreign;
use crate::http::body::{Decoder, Framing};
use crate::http::head::HeadBuffer;
use crate::http::request::{PeerCertificate, Request};
use crate::http::response::{Refusal, Response, Then};
use crate::server::handshake::{HandshakeConfig, OnRequest, Outcome};
use crate::server::routes::Route;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
#[cfg(feature = "tls")]
use crate::tls::handshake::HandshakeError;
use crate::transport::budget::BudgetShare;
use crate::transport::socket;

/// How long a client may take to receive its response when no time is left, and to hang up afterwards.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The most of a body that is read at a time. A body may exceed the memory budget by so much for a moment.
const PIECE: usize = 8 * 1024;

/// What the server knows of a client from one request to the next.
#[derive(Default)]
pub(super) struct Session {
    /// The client's certificate. `None` until the handshake of TLS, if there is one, has been performed.
    certificate: Option<PeerCertificate>,
    /// What came after the last request.
    pub(super) received: Vec<u8>,
    /// How many requests were answered.
    pub(super) answered: u64,
}

/// One request of a client, and its response.
pub(super) struct Exchange<'a> {
    pub(super) pending: &'a Arc<PendingHandshake>,
    pub(super) config: &'a HandshakeConfig,
    pub(super) deadline: Instant,
    /// Whether the server may keep the connection, asked when a plain request is answered.
    pub(super) may_keep: &'a dyn Fn() -> bool,
}

/// Why a request was not read to its end.
pub(super) enum Unread {
    /// It was not acceptable, or came too late.
    Refused(Box<Refusal>),
    /// The connection was lost in the middle of it.
    Lost(String),
    /// The client left before it, such as a browser that connects in advance.
    Left,
    /// Not a byte came before the deadline.
    Silent,
}

impl From<Box<Refusal>> for Unread {
    fn from(refusal: Box<Refusal>) -> Self {
        Self::Refused(refusal)
    }
}

impl Unread {
    fn too_slow() -> Self {
        Self::Refused(Refusal::new(too_slow(), "the request took too long"))
    }

    fn closed() -> Self {
        Self::Lost("connection closed in the middle of the request".to_owned())
    }
}

/// A plain HTTP request, and what became of it.
#[derive(Debug)]
pub(super) struct PlainExchange {
    /// The method and the path.
    request: String,
    pub(super) answer: io::Result<u16>,
    /// Whether nothing answered it but the server's own 426 or 405.
    pub(super) is_unclaimed: bool,
    /// Whether the connection is kept for another request.
    pub(super) is_kept: bool,
}

impl fmt::Display for PlainExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, answer, is_unclaimed, .. } = self;
        match answer {
            Ok(status) if *is_unclaimed => write!(f, "{request} requested no upgrade; answered with {status}"),
            Ok(status) => write!(f, "{request} answered with {status}"),
            Err(error) => write!(f, "{request} not answered: {error}"),
        }
    }
}

/// What answers a plain request.
#[derive(Clone, Copy)]
enum Claim<'a> {
    /// The server itself.
    Route(Route<'a>),
    /// The application, if it wants to.
    Application(&'a OnRequest),
    Nobody,
}

impl Claim<'_> {
    fn takes_body(self) -> bool {
        match self {
            Self::Route(route) => route.takes_body,
            Self::Application(_) => true,
            Self::Nobody => false,
        }
    }
}

/// What comes after a response on a connection that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request, at least its beginning.
    Request,
    /// Nothing before the time is over.
    Nothing,
    /// The client hangs up, or has been dropped.
    End,
}

/// Waits for the next request of a client whose connection is kept.
#[inline(never)]
pub(super) fn wait_for_next(pending: &PendingHandshake, session: &mut Session, until: Instant) -> Next {
    loop {
        // Empty lines may stand before a request (RFC 9112 section 2.2), and are no request.
        while let Some(rest) = [&b"\r\n"[..], b"\n"].iter().find_map(|end| session.received.strip_prefix(*end)) {
            session.received = rest.to_vec();
        }
        if !matches!(session.received[..], [] | [b'\r']) {
            return Next::Request;
        }
        // No longer than what is to come: it lies there as long as the client is idle.
        let mut space = mem::take(&mut session.received);
        let len = space.len();
        space.resize(2048, 0);
        space.shrink_to_fit();
        let count = match socket::read_before(&pending.stream, &mut space[len..], until) {
            Ok(Some(count @ 1..)) => count,
            Ok(None) => return Next::Nothing,
            Ok(Some(_)) | Err(_) => return Next::End,
        };
        space.truncate(len + count);
        session.received = space;
    }
}

/// Reading.
impl Exchange<'_> {
    /// Performs the handshake of TLS, if the server has it and it is not done yet.
    #[inline(never)]
    pub(super) fn secure(&self, session: &mut Session) -> Result<(), Unread> {
        if session.certificate.is_none() {
            session.certificate = Some(self.perform_tls()?);
        }
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn perform_tls(&self) -> Result<PeerCertificate, Unread> {
        let Some(secure) = &self.config.secure else { return Ok(PeerCertificate::default()) };
        secure.perform(self.pending, self.deadline).map(PeerCertificate::from).map_err(|error| match error {
            HandshakeError::Silent => Unread::Left,
            HandshakeError::PlainHttp => {
                let response = Response::new(400).text("This port speaks TLS: use https:// or wss://\n");
                Unread::Refused(Refusal::new(response, "plain HTTP on a port for TLS"))
            }
            error => Unread::Lost(error.to_string()),
        })
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "there is none")]
    fn perform_tls(&self) -> Result<PeerCertificate, Unread> {
        Ok(PeerCertificate::default())
    }

    /// Reads the head of a request.
    #[inline(never)]
    pub(super) fn read_head(&self, session: &mut Session) -> Result<Request, Unread> {
        let Self { pending, deadline, .. } = *self;
        let (mut buffer, mut count) = HeadBuffer::with(mem::take(&mut session.received));
        loop {
            if count > 0 {
                let filled = buffer.filled(count, |bytes| Request::parse(bytes, pending.peer));
                if let Some((mut request, tail)) = filled.map_err(|error| Unread::Refused(error.into()))? {
                    session.received = tail;
                    request.set_certificate(session.certificate.clone().unwrap_or_default());
                    request.find_client(&self.config.trusted);
                    return Ok(request);
                }
            }
            count = match socket::read_before(&pending.stream, buffer.space(), deadline) {
                Ok(None) if buffer.is_empty() => return Err(Unread::Silent),
                Ok(None) => return Err(Unread::too_slow()),
                Ok(Some(0)) | Err(_) if buffer.is_empty() => return Err(Unread::Left),
                Ok(Some(0)) => return Err(Unread::closed()),
                Ok(Some(count)) => count,
                Err(error) => return Err(Unread::Lost(error.to_string())),
            };
            pending.mark_heard();
        }
    }

    /// Reads the body of a request, as far as the settings and the memory budget allow. The share is what it takes of
    /// the budget.
    #[inline(never)]
    fn read_body(&self, request: &mut Request, framing: Framing, session: &mut Session) -> Result<BudgetShare, Unread> {
        let Self { pending, deadline, config, .. } = *self;
        let mut decoder = Decoder::new(framing, config.max_request_body).map_err(<Box<Refusal>>::from)?;
        if request.expects_continue()? && session.received.is_empty() {
            let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
            let written = socket::write_before(&pending.stream, interim, deadline);
            written.map_err(|error| Unread::Lost(error.to_string()))?;
        }
        let mut share = BudgetShare::new(&config.buffered);
        share.set_counted(true);
        let mut body = Vec::new();
        let mut piece = mem::take(&mut session.received);
        loop {
            let taken = decoder.decode(&piece, &mut body).map_err(<Box<Refusal>>::from)?;
            let more = body.len() - share.held();
            if !share.has_room(more) {
                return Err(Unread::Refused(no_room()));
            }
            share.add(more);
            if decoder.is_complete() {
                session.received = piece.split_off(taken);
                request.set_body(body.into());
                return Ok(share);
            }
            piece.resize(PIECE, 0);
            let count = match socket::read_before(&pending.stream, &mut piece, deadline) {
                Ok(None) => return Err(Unread::too_slow()),
                Ok(Some(0)) => return Err(Unread::closed()),
                Ok(Some(count)) => count,
                Err(error) => return Err(Unread::Lost(error.to_string())),
            };
            piece.truncate(count);
            pending.mark_heard();
        }
    }
}

/// Answering.
impl Exchange<'_> {
    /// Answers a request that is no opening handshake.
    #[inline(never)]
    pub(super) fn answer(&self, request: &mut Request, session: &mut Session) -> Outcome {
        let config = self.config;
        let claim = match (config.routes.find(request), &config.on_request) {
            (Some(route), _) => Claim::Route(route),
            (None, Some(on_request)) => Claim::Application(on_request),
            (None, None) => Claim::Nobody,
        };
        let framing = match Framing::of(request) {
            Ok(framing) => framing,
            Err(refusal) => return self.refuse(request, &refusal),
        };
        let is_read = framing.is_empty() || claim.takes_body();
        let share = match claim.takes_body() && !framing.is_empty() {
            true => self.read_body(request, framing, session).map(Some),
            false => Ok(None),
        };
        let share = match share {
            Ok(share) => share,
            Err(why) => return self.end_within(request, why),
        };
        if !self.pending.begin_answer() {
            return Outcome::Failed(HandshakeFailure::of_request(request, None, "the server is shutting down"));
        }
        let response = self.ask(claim, request);
        request.set_body(bytes::Bytes::new());
        drop(share);
        session.answered += 1;
        let plain = self.send_answer(request, response, is_read);
        self.pending.end_answer();
        Outcome::PlainHttp(plain)
    }

    /// The response of whoever answers this request. `None` if nobody does.
    #[inline(never)]
    fn ask(&self, claim: Claim<'_>, request: &Request) -> Option<Box<Response>> {
        let response = match claim {
            Claim::Route(route) => Some(route.answer(request)),
            Claim::Application(on_request) => foreign::call(|| on_request(request)).unwrap_or_else(|message| {
                let remote = request.remote();
                self.config.log.error(format_args!("{remote}: on_request panicked: {message}; answered with 500"));
                Some(internal_error())
            }),
            Claim::Nobody => None,
        };
        response.map(Box::new)
    }

    /// Sends the response to a plain request. The connection is kept if the request was read to its end, somebody
    /// wanted it, and both sides agree.
    #[inline(never)]
    fn send_answer(&self, request: &Request, response: Option<Box<Response>>, is_read: bool) -> Box<PlainExchange> {
        let is_unclaimed = response.is_none();
        let response = response.unwrap_or_else(|| Box::new(unclaimed(request)));
        let then = match is_read && !is_unclaimed && request.allows_keep_alive() && (self.may_keep)() {
            false => Then::Close,
            true if request.is_http_1_1() => Then::Keep,
            true => Then::KeepHttp1_0,
        };
        let answer = self.respond(&response, request.method() != "HEAD", then);
        let is_kept = then != Then::Close && answer.is_ok();
        Box::new(PlainExchange { request: [request.method(), request.path()].join(" "), answer, is_unclaimed, is_kept })
    }

    /// Refuses a request, and closes our end of the connection.
    #[inline(never)]
    pub(super) fn refuse(&self, request: &Request, refusal: &Refusal) -> Outcome {
        let route = self.config.routes.find(request).filter(|_| !request.asks_for_upgrade());
        let reworded = route.and_then(|route| route.reword).map(|reword| reword(&refusal.response));
        let response = reworded.as_ref().unwrap_or(&refusal.response);
        let status = self.respond(response, request.method() != "HEAD", Then::Close).ok();
        Outcome::Failed(HandshakeFailure::of_request(request, status, refusal.reason.clone()))
    }

    /// Ends a connection on which no head of a request came.
    #[inline(never)]
    pub(super) fn end_without_request(&self, why: Unread) -> Outcome {
        match why {
            Unread::Refused(refusal) => {
                let status = self.respond(&refusal.response, true, Then::Close).ok();
                Outcome::Failed(HandshakeFailure::without_request(status, refusal.reason))
            }
            Unread::Lost(reason) => Outcome::Failed(HandshakeFailure::without_request(None, reason)),
            Unread::Left => Outcome::NoRequest { is_there: false },
            Unread::Silent => Outcome::NoRequest { is_there: self.respond(&too_slow(), true, Then::Close).is_ok() },
        }
    }

    /// Ends a connection in the middle of a request.
    fn end_within(&self, request: &Request, why: Unread) -> Outcome {
        match why {
            Unread::Refused(refusal) => self.refuse(request, &refusal),
            Unread::Lost(reason) => Outcome::Failed(HandshakeFailure::of_request(request, None, reason)),
            Unread::Left | Unread::Silent => self.end_without_request(why),
        }
    }

    /// Responds, and closes our end of the TCP connection unless it is kept. For the response to arrive, what the
    /// client still sends has to be read afterwards. Returns the status that was really sent.
    fn respond(&self, response: &Response, with_body: bool, then: Then) -> io::Result<u16> {
        let (status, bytes) = match response.encode(with_body, then) {
            Ok(bytes) => (response.status(), bytes),
            Err(what) => {
                let status = response.status();
                self.config.log.error(format_args!("cannot send response {status}: {what}; answered with 500"));
                (500, internal_error().encode(with_body, then).unwrap_or_default())
            }
        };
        // A request that came too late still gets its response, although no time is left.
        let deadline = self.deadline.max(Instant::now() + LINGER);
        socket::write_before(&self.pending.stream, &bytes, deadline)?;
        if then == Then::Close {
            self.pending.stream.end_writing()?;
        }
        Ok(status)
    }
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

fn no_room() -> Box<Refusal> {
    let response = Response::new(503).header("Retry-After", "1").text("no room for the request body\n");
    Refusal::new(response, "no room for the request body (max_buffered)")
}

pub(super) fn internal_error() -> Response {
    Response::new(500).text("internal error\n")
}

//! An HTTP service of the application's owner that says who may connect, subscribe and publish, for servers whose
//! owners write no Rust. docs/topics.md specifies what it is asked and what it answers.
//!
//! `question` is what is sent, `answer` what it means, `cache` what is kept of that, `crew` the threads that ask.
//!
//! Invariants:
//! - What the service has not granted is not allowed. No answer, or one that cannot be understood, grants nothing.
//! - Nobody waits for the service but those whose rights are asked for, and each until a deadline of its own.
//! - No error and no line of the log shows anything that a client has sent, or that the service has answered.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::Operation;
use super::grants::Grants;
use super::name::TopicName;
use super::permit::Permit;
use crate::connection::Connection;
use crate::durations::clamp_duration;
use crate::http::head::is_token;
use crate::http::request::Request;
use crate::http::response::Response;

mod answer;
mod cache;
mod crew;
mod lease;
mod question;
mod transport;

use answer::{Answer, Outcome};
use crew::Crew;
pub use lease::Lease;
use question::Question;
use transport::Transport;

/// An HTTP service that says who may connect, and which topics a client may subscribe to and publish to.
///
/// It is asked with a `GET` that carries what the client has said of itself: the headers `Authorization`, `Cookie`,
/// `Origin`, `User-Agent` and `Sec-WebSocket-Protocol` as the client sent them, and its address, path and query as
/// `X-Forwarded-For`, `X-Forwarded-Host`, `X-Forwarded-Method` and `X-Forwarded-Uri`. A token that the client offers as
/// the subprotocol `heartwire.token.TOKEN` is sent as `Authorization: Bearer`. The query of the service's URL gets
/// `action=connect`, `action=subscribe&topic=NAME` or `action=publish&topic=NAME`.
///
/// It answers with
///
/// - 200 and [`Grants`] as JSON. If that has neither `subscribe` nor `publish`, the service is asked again about each
///   topic, and has to grant it in that answer. 204, or an empty body, stands for `{}`.
/// - 401 or 403: the client may not. It gets the same status.
///
/// Anything else, and no answer, refuses the client as well, for now: it gets 503, or `unavailable`, and may try again.
/// The log has an error when that begins, and says when it is over. Redirects are not followed.
///
/// An answer is used again for equal questions, for 10 seconds or as long as its `Cache-Control` says (at most an
/// hour); a refusal for 1 second, or 10 at most. Each request has a connection of its own, and at most
/// [`max_requests`](Self::max_requests) are under way at a time.
///
/// Clones share what they know and their threads, which are named `heartwire-auth`.
///
/// ```no_run
/// use heartwire::{Accept, Server};
/// use heartwire::topics::{AuthService, Topics};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = AuthService::new("http://127.0.0.1:8000/auth")?;
/// // Clients of topics:
/// let server = Server::bind("127.0.0.1:9001")?.topics(Topics::new().auth_service(service.clone()));
/// // Clients of the handler, for whom it is attached what they may do:
/// let server = server.on_handshake(move |request| Ok(Accept::new().extension(service.ask(request)?)));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a service is asked only where something is given it"]
pub struct AuthService {
    url: Arc<str>,
    timeout: Duration,
    max_requests: usize,
    /// The names of the headers that are passed on beside those that always are.
    headers: Arc<[String]>,
    crew: Arc<Crew>,
}

/// Why there can be no such [`AuthService`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidAuthService {
    /// The URL cannot be used. It is not shown, for it may hold a password.
    Url {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name of a header is not valid, or is that of one that the request itself needs.
    Header,
}

/// Why a client is refused. As a [`Response`] it is what the client should get.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthError {
    /// The service refuses the client.
    #[non_exhaustive]
    Refused {
        /// 401 if it does not know who the client is, 403 if it does and the client may not.
        status: u16,
        /// What the service has in `WWW-Authenticate`.
        challenge: Option<String>,
    },
    /// The service did not answer in time, or its answer cannot be understood. Another attempt may succeed.
    Unavailable,
}

impl AuthService {
    /// The longest answer, in bytes.
    pub const MAX_ANSWER: usize = Grants::MAX_JSON;

    /// A service at this URL, which begins with `http://`: on the same machine, or in a network that nobody else reads.
    /// No proxy is used, whatever the environment says.
    ///
    /// # Errors
    /// [`InvalidAuthService::Url`].
    pub fn new(url: &str) -> Result<Self, InvalidAuthService> {
        let transport = Transport::new(url)?;
        Ok(Self {
            url: url.into(),
            timeout: Duration::from_secs(5),
            max_requests: 8,
            headers: Arc::default(),
            crew: Arc::new(Crew::new(transport)),
        })
    }

    /// How long one answer may take in all, the wait for others' requests included. Default 5 s; kept between 1 ms and
    /// 10 years. In an opening handshake no longer than is left of its
    /// [timeout](crate::Server::handshake_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = clamp_duration(timeout);
        self
    }

    /// How many requests may be under way at a time. Default 8, at least 1: as many as a small service serves at a
    /// time. Others wait for their turn, in order. Each takes a thread and a file descriptor while there is work.
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.max_requests = requests.max(1);
        self
    }

    /// Also passes on the header of this name, such as `X-Api-Key`, as the client has sent it: so the service must not
    /// take it for anybody else's word. Default: those named [above](Self). One with a different value in each request
    /// keeps answers from being used again.
    ///
    /// # Errors
    /// [`InvalidAuthService::Header`].
    pub fn pass_header(mut self, name: &str) -> Result<Self, InvalidAuthService> {
        if !is_token(name) || question::is_reserved(name) {
            return Err(InvalidAuthService::Header);
        }
        self.headers = self.headers.iter().cloned().chain([name.to_owned()]).collect();
        Ok(self)
    }

    /// Asks whether a client may connect, and what it may do. Blocks until there is an answer, or for the
    /// [timeout](Self::timeout). Call it from [`on_handshake`](crate::Server::on_handshake), or later with a
    /// connection's [request](Connection::request).
    ///
    /// # Errors
    /// If the client is refused. By `?` that becomes the response of `on_handshake`.
    pub fn ask(&self, request: &Request) -> Result<Grants, AuthError> {
        let answer = self.consult(&self.question(request, None, None), self.deadline(), true)?;
        Ok(answer.grants.clone())
    }

    /// What a connection may do for as long as it may, for its handler. It begins with the [`Grants`] that are
    /// [attached](crate::Accept::extension) to the connection, or with none.
    pub fn lease(&self, conn: &Connection) -> Lease {
        Lease::new(self.clone(), conn)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn question(&self, request: &Request, token: Option<&str>, topic: Option<(Operation, &TopicName)>) -> Question {
        Question::new(&self.url, request, token, topic, &self.headers)
    }

    fn consult(&self, question: &Question, deadline: Instant, may_be_known: bool) -> Result<Arc<Answer>, AuthError> {
        match self.crew.ask(question, deadline, self.max_requests, may_be_known) {
            Some(Outcome::Granted(answer)) => Ok(answer),
            Some(Outcome::Refused { status, challenge }) => Err(AuthError::Refused { status, challenge }),
            None => Err(AuthError::Unavailable),
        }
    }
}

/// Topics.
impl AuthService {
    /// What a client may do: the one that sent this request, and maybe this token later. `until`: when the answer is
    /// needed at the latest.
    pub(super) fn permit(
        &self,
        request: &Request,
        token: Option<&str>,
        until: Option<Instant>,
        may_be_known: bool,
    ) -> Result<Permit, AuthError> {
        let deadline = until.map_or(self.deadline(), |until| until.min(self.deadline()));
        let answer = self.consult(&self.question(request, token, None), deadline, may_be_known)?;
        let valid_for = answer.valid_until.map(|until| until.saturating_duration_since(Instant::now()));
        let permit = Permit::new(answer.grants.clone(), valid_for, Instant::now());
        Ok(permit.of_service(token, answer.asks_for_topics))
    }

    /// Whether a client may do that, if each topic is asked for.
    pub(super) fn allows(
        &self,
        request: &Request,
        token: Option<&str>,
        operation: Operation,
        topic: &TopicName,
    ) -> Result<bool, AuthError> {
        let question = self.question(request, token, Some((operation, topic)));
        match self.consult(&question, self.deadline(), true) {
            Ok(answer) => Ok(operation.is_granted(&answer.grants, topic)),
            Err(AuthError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AuthError {
    /// What is wrong, for the log.
    fn reason(&self) -> &'static str {
        match self {
            Self::Refused { status: 401, .. } => "the authorization service does not know who it is",
            Self::Refused { .. } => "the authorization service refuses it",
            Self::Unavailable => "the authorization service does not answer",
        }
    }
}

impl From<AuthError> for Response {
    fn from(error: AuthError) -> Self {
        let response = match &error {
            AuthError::Refused { status: 401, challenge } => {
                let challenge = challenge.as_deref().unwrap_or("Bearer");
                Response::new(401).header("WWW-Authenticate", challenge).text("it is not known who you are\n")
            }
            AuthError::Refused { status, .. } => Response::new(*status).text("it is not allowed\n"),
            AuthError::Unavailable => {
                Response::new(503).header("Retry-After", "5").text("nobody can say now whether it is allowed\n")
            }
        };
        response.because(error.reason())
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for AuthError {}

impl fmt::Display for InvalidAuthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { why } => write!(f, "the URL of the authorization service cannot be used: {why}"),
            Self::Header => f.write_str("no header of this name can be passed to the authorization service"),
        }
    }
}

impl std::error::Error for InvalidAuthService {}

impl fmt::Debug for AuthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, timeout, max_requests, headers, crew: _ } = self;
        // Its query may hold a secret.
        let url = url.split('?').next().unwrap_or_default();
        let mut fields = f.debug_struct("AuthService");
        fields
            .field("url", &url)
            .field("timeout", timeout)
            .field("max_requests", max_requests)
            .field("headers", headers);
        fields.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

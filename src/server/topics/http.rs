//! Topics over plain HTTP, for publishers in any language: `POST /topics/NAME` publishes the body, `GET /topics/NAME`
//! gives the history, and `GET /topics/NAME/presence` who is subscribed.
//!
//! Invariant: any page in a browser can send requests to this machine. So whoever has no key and no token has to come
//! from this machine, ask for it by a name that only this machine has, and be no page of another origin.

use percent_encoding::percent_decode_str;

use super::{PATH, decoded};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::message::{Message, Text};
use crate::server::access;
#[cfg(any(feature = "auth-url", feature = "jwt"))]
use crate::topics::access::Applicant;
use crate::topics::access::Operation;
use crate::topics::counters::Way;
use crate::topics::hub::Hub;
use crate::topics::{Position, TopicError, TopicName};

/// What stands at the paths of topics.
pub(super) const METHODS: &[&str] = &["GET", "HEAD", "POST"];

const PRESENCE: &str = "/presence";

/// The most messages in one answer, and how many bytes of them: whoever wants more asks for what follows.
const MOST_MESSAGES: usize = 1000;
const MOST_BYTES: usize = 1024 * 1024;

/// A request that is refused: its status, and what is wrong in the terms of the wire format.
struct Refused {
    status: u16,
    error: &'static str,
    reason: String,
}

impl Refused {
    fn new(status: u16, error: &'static str, reason: impl Into<String>) -> Self {
        Self { status, error, reason: reason.into() }
    }

    /// What a response in plain text says.
    fn of(response: &Response) -> Self {
        let error = match response.status() {
            401 => "bad-token",
            403 => "forbidden",
            405 => "bad-method",
            408 => "too-slow",
            413 => "too-large",
            503 => "unavailable",
            _ => "malformed",
        };
        Self::new(response.status(), error, response.body_text().trim_end())
    }

    fn to_json(&self) -> String {
        let Self { error, reason, .. } = self;
        format!(r#"{{"error":"{error}","reason":{}}}"#, serde_json::Value::from(&**reason))
    }
}

/// The response in JSON: the server has refused a request before it came here.
pub(super) fn in_json(response: &Response) -> Response {
    response.with_body("application/json", Refused::of(response).to_json())
}

impl From<TopicError> for Refused {
    fn from(error: TopicError) -> Self {
        let status = match error {
            TopicError::InvalidName(_) | TopicError::NoPresence => 404,
            TopicError::InvalidPosition | TopicError::InvalidKey => 400,
            TopicError::Forbidden => 403,
            _ => 503,
        };
        Self::new(status, error.name(), error.to_string())
    }
}

/// Answers a request to a path below [`PATH`].
pub(super) fn answer(hub: &Hub, request: &Request) -> Response {
    let answered = match request.method() {
        "POST" => publish(hub, request),
        _ => read(hub, request),
    };
    answered.unwrap_or_else(|refused| {
        hub.note_refusal(refused.error);
        let response = json(refused.status, refused.to_json());
        match refused.status {
            401 => response.header("WWW-Authenticate", "Bearer"),
            503 => response.header("Retry-After", "1"),
            _ => response,
        }
    })
}

fn publish(hub: &Hub, request: &Request) -> Result<Response, Refused> {
    let topic = name(below(request))?;
    check(hub, request, Operation::Publish, &topic)?;
    let key = match request.headers().find(|(name, _)| name.eq_ignore_ascii_case("Idempotency-Key")) {
        Some((_, key)) => Some(std::str::from_utf8(key).map_err(|_| TopicError::InvalidKey)?),
        None => None,
    };
    let published = hub.publish(topic.as_str(), message(request)?, key, Way::Http)?;
    Ok(json(200, format!("{{{}}}", published.to_json_members())))
}

/// The body as a message: text, unless its media type says otherwise.
fn message(request: &Request) -> Result<Message, Refused> {
    let media_type = request.header("Content-Type").unwrap_or("text/plain");
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_text = essence.starts_with("text/")
        || essence.ends_with("+json")
        || ["application/json", "application/x-www-form-urlencoded"].contains(&&*essence);
    let body = request.body().clone();
    if !is_text {
        return Ok(body.into());
    }
    let text = Text::try_from(body).map_err(|_| Refused::new(400, "malformed", "the body is not UTF-8"))?;
    Ok(text.into())
}

fn read(hub: &Hub, request: &Request) -> Result<Response, Refused> {
    let path = below(request);
    if let Some(path) = path.strip_suffix(PRESENCE) {
        let topic = name(path)?;
        check(hub, request, Operation::Subscribe, &topic)?;
        let members = hub.members(&topic)?.join(",");
        return Ok(json(200, format!(r#"{{"members":[{members}]}}"#)));
    }
    let topic = name(path)?;
    check(hub, request, Operation::Subscribe, &topic)?;
    let (since, limit) = (since(request)?, limit(request)?);
    Ok(match hub.history_as_json(&topic, since, limit, MOST_BYTES)? {
        Ok(history) => json(200, history),
        Err(position) => json(410, format!(r#"{{"error":"lost","position":"{position}"}}"#)),
    })
}

/// Whether a client may do that.
fn check(hub: &Hub, request: &Request, operation: Operation, topic: &TopicName) -> Result<(), Refused> {
    if has_shown_that_it_may(hub, request, operation, topic)? {
        return Ok(());
    }
    if !access::is_from_this_machine(request) {
        let reason = "without a key only from the server's own machine, under its own name";
        return Err(Refused::new(403, "forbidden", reason));
    }
    if !access::is_from_own_origin(request) {
        return Err(Refused::new(403, "forbidden", "not for pages of another origin"));
    }
    Ok(())
}

/// Whether a client has shown a key or a token that allows it, or a service does. One that shows nothing is refused if
/// some are taken.
#[cfg(any(feature = "auth-url", feature = "jwt"))]
fn has_shown_that_it_may(
    hub: &Hub,
    request: &Request,
    operation: Operation,
    topic: &TopicName,
) -> Result<bool, Refused> {
    #[cfg(feature = "jwt")]
    if hub.has_publish_key(request) {
        return Ok(true);
    }
    #[cfg(feature = "auth-url")]
    if hub.asks_a_service() && !access::is_from_own_origin(request) {
        return Err(Refused::new(403, "forbidden", "not for pages of another origin"));
    }
    if let Some(permit) = &hub.permit_of(request, None).map_err(|refusal| Refused::of(&refusal.response))? {
        let applicant = Applicant { request, user: permit.user(), permit: Some(permit) };
        return hub.check(applicant, operation, topic).map(|()| true).map_err(Refused::from);
    }
    if hub.takes_credentials() {
        return Err(Refused::new(401, "forbidden", "a key or a token is needed"));
    }
    Ok(false)
}

#[cfg(not(any(feature = "auth-url", feature = "jwt")))]
#[allow(clippy::unnecessary_wraps, reason = "none are taken")]
fn has_shown_that_it_may(_: &Hub, _: &Request, _: Operation, _: &TopicName) -> Result<bool, Refused> {
    Ok(false)
}

fn below(request: &Request) -> &str {
    request.path().strip_prefix(PATH).unwrap_or_default()
}

fn name(encoded: &str) -> Result<TopicName, Refused> {
    decoded(encoded).map_err(|invalid| TopicError::InvalidName(invalid).into())
}

/// The position in the query.
fn since(request: &Request) -> Result<Option<Position>, Refused> {
    let Some(value) = parameter(request, "since=") else { return Ok(None) };
    let value = percent_decode_str(value).decode_utf8().map_err(|_| TopicError::InvalidPosition)?;
    Ok(Some(value.parse().map_err(TopicError::from)?))
}

/// How many messages there may be in the answer.
fn limit(request: &Request) -> Result<usize, Refused> {
    let Some(value) = parameter(request, "limit=") else { return Ok(MOST_MESSAGES) };
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(Refused::new(400, "malformed", "limit is a number of messages"));
    }
    // More than can be counted is more than there may be.
    Ok(value.parse().unwrap_or(usize::MAX).min(MOST_MESSAGES))
}

fn parameter<'a>(request: &'a Request, prefix: &str) -> Option<&'a str> {
    request.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(prefix))
}

fn json(status: u16, body: String) -> Response {
    let response = Response::new(status).header("Content-Type", "application/json").body(body);
    response.header("Cache-Control", "no-store").header("X-Content-Type-Options", "nosniff")
}

//! HTTP responses: those that a server sends instead of an upgrade, and the head of one that a client receives.

use std::borrow::Cow;
use std::time::Duration;

use tungstenite::http::StatusCode;

use crate::http::head::{Head, HeadError, Parsed, header_slots, push_header, str_of};

/// A plain HTTP response: the rejection of an opening handshake, or the response to a plain HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a response is sent only if a callback returns it"]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    because: Option<String>,
}

impl Response {
    /// A response with this status and no body. A status below 200 or above 999 is not valid: the client gets 500, and
    /// the log an error.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), because: None }
    }

    /// Adds a header. The server itself sets `Content-Length`, `Connection` and `Transfer-Encoding`. If you set one of
    /// these, or a name or value that is not valid, the client gets 500, and the log an error.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body. Add a `Content-Type` header for its type. Not sent with 204 and 304.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a plain-text body, with its `Content-Type`.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.header("Content-Type", "text/plain; charset=utf-8").body(text.into())
    }

    /// Sets the reason for a rejection, for the log and for [`Event::HandshakeFailed`](crate::Event::HandshakeFailed).
    /// The client does not get it.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.because = Some(reason.into());
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The response with another body, of this media type.
    #[cfg_attr(not(feature = "topics"), allow(dead_code, reason = "topics are told in JSON what is wrong"))]
    pub(crate) fn with_body(&self, media_type: &str, body: String) -> Self {
        let others = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Type")).cloned();
        let headers = others.chain([("Content-Type".to_owned(), media_type.to_owned())]).collect();
        Self { status: self.status, headers, body: body.into_bytes(), because: self.because.clone() }
    }

    /// The body as text.
    #[cfg_attr(not(feature = "topics"), allow(dead_code, reason = "topics are told in JSON what is wrong"))]
    pub(crate) fn body_text(&self) -> &str {
        str_of(&self.body).unwrap_or_default()
    }

    /// The reason for the rejection, if the application gave one.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// The content, if the response may say how long it is (RFC 9110 sections 6.4.1 and 8.6). 205 is empty by
    /// definition (section 15.3.6).
    fn content(&self) -> Option<&[u8]> {
        match self.status {
            204 | 304 => None,
            205 => Some(&[]),
            _ => Some(&self.body),
        }
    }

    /// The bytes of the response, without the body for a HEAD request.
    pub(crate) fn encode(&self, with_body: bool, then: Then) -> Result<Vec<u8>, &'static str> {
        let status = StatusCode::from_u16(self.status).map_err(|_| "invalid status")?;
        if status.is_informational() {
            return Err("an informational status");
        }
        let mut bytes = status_line(status);
        for (name, value) in &self.headers {
            if ["Content-Length", "Connection", "Transfer-Encoding"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
                return Err("a header that the server sets itself");
            }
            push_header(&mut bytes, name, value)?;
        }
        // If the response offers an upgrade, Connection has to name it too (RFC 9110 section 7.8).
        let offers = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Upgrade")).then_some("Upgrade");
        let options: Vec<&str> = offers.into_iter().chain(then.option()).collect();
        if !options.is_empty() {
            push_header(&mut bytes, "Connection", &options.join(", "))?;
        }
        let content = self.content();
        if let Some(content) = content {
            push_header(&mut bytes, "Content-Length", &content.len().to_string())?;
        }
        bytes.extend_from_slice(b"\r\n");
        if with_body {
            bytes.extend_from_slice(content.unwrap_or_default());
        }
        Ok(bytes)
    }
}

/// What becomes of the connection after a response (RFC 9112 section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Close,
    /// It is kept for another request, which is the rule.
    Keep,
    /// It is kept, which a client of HTTP/1.0 has to be told.
    KeepHttp1_0,
}

impl Then {
    /// The option in the header `Connection`.
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Close => Some("close"),
            Self::Keep => None,
            Self::KeepHttp1_0 => Some("keep-alive"),
        }
    }
}

/// A response that rejects a request, and the reason for the log.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) response: Response,
    pub(crate) reason: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(response: Response, reason: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self { response, reason: reason.into() })
    }

    /// 400, with the reason as its text.
    pub(crate) fn bad_request(reason: &'static str) -> Box<Self> {
        Self::new(Response::new(400).text(format!("{reason}\n")), reason)
    }

    /// 405: the server itself answers only GET and HEAD.
    pub(crate) fn method_not_allowed() -> Box<Self> {
        let response = Response::new(405).header("Allow", "GET, HEAD").text("only GET and HEAD are allowed\n");
        Self::new(response, "method not allowed")
    }
}

/// A server's response to a request whose head it does not accept.
impl From<HeadError> for Box<Refusal> {
    fn from(error: HeadError) -> Self {
        let (status, text, reason) = match error {
            HeadError::TooLarge => (431, "the request head is too large\n", "request head too large"),
            HeadError::TooManyHeaders => (431, "too many headers\n", "too many headers"),
            HeadError::UnsupportedVersion => (505, "the HTTP version is not 1.1\n", "HTTP version is not 1.1"),
            HeadError::NotHttp => (400, "not an HTTP request\n", "not an HTTP request"),
        };
        Refusal::new(Response::new(status).text(text), reason)
    }
}

/// The head of a response that a client received.
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) head: Head,
}

impl ResponseHead {
    /// Parses the head at the beginning of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<Self>, HeadError> {
        let mut slots = header_slots();
        let mut parsed = httparse::Response::new(&mut slots);
        let httparse::Status::Complete(len) = parsed.parse(bytes).map_err(HeadError::of)? else {
            return Ok(Parsed::Incomplete);
        };
        let status = parsed.code.unwrap_or(0);
        // Another response follows an interim one, such as 103 (RFC 9110 section 15.2). No more HTTP follows 101.
        if matches!(status, 100 | 102..=199) {
            return Ok(Parsed::Interim(len));
        }
        Ok(Parsed::Complete(Self { status, head: Head::new(&bytes[..len], parsed.headers) }, len))
    }

    /// The value of `Retry-After` in whole seconds (RFC 9110 section 10.2.3), or [`Duration::MAX`] if it is too large
    /// to count. `None` without the header, or if it gives a date.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.head.values("Retry-After").next()?;
        let is_number = !seconds.is_empty() && seconds.iter().all(u8::is_ascii_digit);
        is_number.then(|| {
            let seconds = str_of(seconds).and_then(|digits| digits.parse().ok());
            seconds.map_or(Duration::MAX, Duration::from_secs)
        })
    }
}

/// The status line, with room for the rest of the head.
pub(super) fn status_line(status: StatusCode) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(192);
    let reason = status.canonical_reason().unwrap_or("");
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_response_says_how_long_it_is_and_that_it_is_the_last() {
        let response = Response::new(403).header("X-Why", "no").text("not you\n");
        let expected = "HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Connection: close\r\nContent-Length: 8\r\n\r\n";
        assert_eq!(text(response.encode(true, Then::Close).unwrap()), format!("{expected}not you\n"));
        assert_eq!(text(response.encode(false, Then::Close).unwrap()), expected, "HEAD: the same without the body");
    }

    #[test]
    fn responses_without_content_have_no_length_and_no_body() {
        for (status, reason) in [(204, "No Content"), (304, "Not Modified")] {
            let response = Response::new(status).header("ETag", "\"1\"").body("nobody is to see this");
            let expected = format!("HTTP/1.1 {status} {reason}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n");
            assert_eq!(text(response.encode(true, Then::Close).unwrap()), expected);
        }
    }

    #[test]
    fn a_connection_that_is_kept_is_mentioned_to_http_1_0_alone() {
        let encode = |response: Response, then| text(response.encode(true, then).unwrap());
        let expected = |connection: &str| format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: 0\r\n\r\n");
        assert_eq!(encode(Response::new(200), Then::Keep), expected(""));
        assert_eq!(encode(Response::new(200), Then::KeepHttp1_0), expected("Connection: keep-alive\r\n"));
        let offer = Response::new(200).header("Upgrade", "websocket");
        let expected = expected("Upgrade: websocket\r\nConnection: Upgrade\r\n");
        assert_eq!(encode(offer, Then::Keep), expected);
    }

    #[test]
    fn a_response_that_is_empty_by_definition_says_so() {
        let expected = "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(text(Response::new(205).body("nobody").encode(true, Then::Keep).unwrap()), expected);
    }

    #[test]
    fn headers_cannot_be_forged() {
        for (name, value) in [("X", "a\r\nY: b"), ("X\r\nY", "b"), ("", "b"), ("Content-Length", "7")] {
            assert!(Response::new(200).header(name, value).encode(true, Then::Close).is_err(), "{name:?}: {value:?}");
        }
        assert!(Response::new(42).encode(true, Then::Close).is_err());
        assert!(Response::new(101).encode(true, Then::Close).is_err());
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_nothing() {
        for (value, retry_after) in [
            ("120", Some(Duration::from_secs(120))),
            ("18446744073709551615", Some(Duration::from_secs(u64::MAX))),
            ("18446744073709551616", Some(Duration::MAX)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("Wed, 21 Oct 2065 07:28:00 GMT", None),
        ] {
            let head = format!("HTTP/1.1 503 No\r\nRetry-After: {value}\r\n\r\n");
            match ResponseHead::parse(head.as_bytes()) {
                Ok(Parsed::Complete(response, _)) => assert_eq!(response.retry_after(), retry_after, "{value}"),
                _ => panic!("{value}: not complete"),
            }
        }
    }
}

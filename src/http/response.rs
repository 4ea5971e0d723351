//! HTTP responses: what a request that is no upgrade is answered with, and the answer 101 to one that is.

use tungstenite::http::{HeaderName, HeaderValue, StatusCode};

/// A plain HTTP response: the rejection of an opening handshake, or the answer to a request that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a response is sent only if a callback returns it"]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    because: Option<String>,
}

impl Response {
    /// A response with this status and no body. A status below 200 or above 999 makes no response: it is answered with
    /// 500, and logged.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), because: None }
    }

    /// Adds a header. `Content-Length` and `Connection` are set by the server. A name or value that is not valid is
    /// answered with 500, and logged.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets a body of any type, which a 204 and a 304 do not have; say which with a `Content-Type` header.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a plain-text body.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.header("Content-Type", "text/plain; charset=utf-8").body(text.into())
    }

    /// Says why an opening handshake is rejected, to the log and to
    /// [`Event::HandshakeFailed`](crate::Event::HandshakeFailed). Nothing of it is sent.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.because = Some(reason.into());
        self
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Why it is a rejection, if the application has said so.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// Whether there may be a body at all, and so a length of it (RFC 9110 sections 6.4.1 and 8.6).
    fn has_content(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    /// The bytes of the response, without the body for a HEAD request.
    pub(crate) fn encode(&self, with_body: bool) -> Result<Vec<u8>, &'static str> {
        let status = StatusCode::from_u16(self.status).map_err(|_| "invalid status")?;
        if status.is_informational() {
            return Err("an informational status");
        }
        let mut bytes = status_line(status);
        for (name, value) in &self.headers {
            if ["content-length", "connection", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
                return Err("a header that the server sets itself");
            }
            push_header(&mut bytes, name, value)?;
        }
        // An upgrade that is on offer has to be named here as well (RFC 9110 section 7.8).
        let offers = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Upgrade"));
        push_header(&mut bytes, "Connection", if offers { "Upgrade, close" } else { "close" })?;
        if self.has_content() {
            push_header(&mut bytes, "Content-Length", &self.body.len().to_string())?;
        }
        bytes.extend_from_slice(b"\r\n");
        if with_body && self.has_content() {
            bytes.extend_from_slice(&self.body);
        }
        Ok(bytes)
    }
}

/// The answer 101 (RFC 6455 section 4.2.2), with the accept key, the subprotocol and what the application adds.
pub(crate) fn encode_upgrade(
    accept_key: &str,
    subprotocol: Option<&str>,
    headers: &[(String, String)],
) -> Result<Vec<u8>, &'static str> {
    const OWN: [&str; 5] =
        ["connection", "upgrade", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions"];
    let mut bytes = status_line(StatusCode::SWITCHING_PROTOCOLS);
    push_header(&mut bytes, "Connection", "Upgrade")?;
    push_header(&mut bytes, "Upgrade", "websocket")?;
    push_header(&mut bytes, "Sec-WebSocket-Accept", accept_key)?;
    if let Some(subprotocol) = subprotocol {
        push_header(&mut bytes, "Sec-WebSocket-Protocol", subprotocol)?;
    }
    for (name, value) in headers {
        if OWN.contains(&name.to_ascii_lowercase().as_str()) {
            return Err("a header of the handshake itself");
        }
        push_header(&mut bytes, name, value)?;
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(bytes)
}

/// The beginning of an answer, with room for the rest of its head.
fn status_line(status: StatusCode) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(192);
    let reason = status.canonical_reason().unwrap_or("");
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// Nothing that could end the header, and so forge another, gets through.
fn push_header(bytes: &mut Vec<u8>, name: &str, value: &str) -> Result<(), &'static str> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| "invalid header name")?;
    HeaderValue::from_str(value).map_err(|_| "invalid header value")?;
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    Ok(())
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
        assert_eq!(text(response.encode(true).unwrap()), format!("{expected}not you\n"));
        assert_eq!(text(response.encode(false).unwrap()), expected, "HEAD: the same without the body");
    }

    #[test]
    fn responses_without_content_have_no_length_and_no_body() {
        for (status, reason) in [(204, "No Content"), (304, "Not Modified")] {
            let response = Response::new(status).header("ETag", "\"1\"").body("nobody is to see this");
            let expected = format!("HTTP/1.1 {status} {reason}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n");
            assert_eq!(text(response.encode(true).unwrap()), expected);
        }
    }

    #[test]
    fn headers_cannot_be_forged() {
        for (name, value) in [("X", "a\r\nY: b"), ("X\r\nY", "b"), ("", "b"), ("Content-Length", "7")] {
            assert!(Response::new(200).header(name, value).encode(true).is_err(), "{name:?}: {value:?}");
        }
        for (name, value) in [("X", "a\nb"), ("Upgrade", "h2c"), ("sec-websocket-accept", "forged")] {
            let headers = [(name.to_owned(), value.to_owned())];
            assert!(encode_upgrade("key", None, &headers).is_err(), "{name:?}: {value:?}");
        }
        assert!(Response::new(42).encode(true).is_err());
        assert!(Response::new(101).encode(true).is_err());
    }

    #[test]
    fn an_acceptance_carries_what_was_added() {
        let headers = [("Set-Cookie".to_owned(), "a=b".to_owned())];
        let answer = text(encode_upgrade("the key", Some("chat"), &headers).unwrap());
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        for line in ["Sec-WebSocket-Accept: the key\r\n", "Sec-WebSocket-Protocol: chat\r\n", "Set-Cookie: a=b\r\n"] {
            assert!(answer.contains(line), "{answer}");
        }
        assert!(answer.ends_with("\r\n\r\n"));
    }
}

//! The opening handshake (RFC 6455 section 4) as pure functions, in the order in which the two ends call them:
//!
//! 1. client: [`UpgradeRequest::encode`] (section 4.1)
//! 2. server: [`check_request`] (section 4.2.1), then [`encode_response`] (section 4.2.2)
//! 3. client: [`UpgradeRequest::check_response`] (section 4.1)
//!
//! Which extensions are offered and accepted (section 9.1) is for the caller to decide. Here they are one header.

use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;

use crate::error::ConnectError;
use crate::http::body::Framing;
#[cfg(feature = "deflate")]
use crate::http::extensions::{self, Extension};
use crate::http::head::{is_token, is_value, push_header};
use crate::http::request::Request;
use crate::http::response::{Refusal, Response, ResponseHead, status_line};

/// The request of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpgradeRequest<'a> {
    /// The host, and the port unless it is the default.
    pub(crate) authority: &'a str,
    /// The path and the query.
    pub(crate) target: &'a str,
    /// 16 random bytes in base64, new for each request.
    pub(crate) key: &'a str,
    /// In order of preference.
    pub(crate) subprotocols: &'a [String],
    /// The extensions that are offered, if any: a valid value of the header.
    pub(crate) extensions: Option<&'a str>,
    /// Additional headers. They and the subprotocols have passed [`check_additions`].
    pub(crate) headers: &'a [(String, String)],
}

/// The terms that a server accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The one that the server chose from those offered, if any.
    pub(crate) subprotocol: Option<String>,
    /// The extensions that the server accepted, for the caller to check against the offer. Empty without one.
    #[cfg(feature = "deflate")]
    pub(crate) extensions: Vec<Extension>,
}

/// Checks what an application adds to a request. Nothing may end a header and begin another, or replace a header of the
/// handshake.
pub(crate) fn check_additions(headers: &[(String, String)], subprotocols: &[String]) -> Result<(), ConnectError> {
    const RESERVED: [&str; 7] = [
        "host",
        "connection",
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
    ];
    for (name, value) in headers {
        if !is_token(name) || !is_value(value) {
            return Err(ConnectError::Invalid(format!("invalid header {name:?}")));
        }
        if is_among(name, &RESERVED) {
            return Err(ConnectError::Invalid(format!("header {name:?} is reserved for the handshake")));
        }
    }
    match subprotocols.iter().find(|name| !is_token(name)) {
        Some(name) => Err(ConnectError::Invalid(format!("invalid subprotocol {name:?}"))),
        None => Ok(()),
    }
}

fn is_among(name: &str, reserved: &[&str]) -> bool {
    reserved.iter().any(|other| other.eq_ignore_ascii_case(name))
}

impl UpgradeRequest<'_> {
    /// The head of the request (RFC 6455 section 4.1).
    pub(crate) fn encode(&self) -> String {
        let Self { authority, target, key, subprotocols, extensions, headers } = self;
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        if !subprotocols.is_empty() {
            head += &format!("Sec-WebSocket-Protocol: {}\r\n", subprotocols.join(", "));
        }
        if let Some(offer) = extensions {
            head += &format!("Sec-WebSocket-Extensions: {offer}\r\n");
        }
        for (name, value) in *headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// Checks that the response accepts this request, by the numbered list at the end of RFC 6455 section 4.1.
    pub(crate) fn check_response(&self, response: &ResponseHead) -> Result<Accepted, ConnectError> {
        let ResponseHead { status, head } = response;
        // 1. Any other status is for HTTP to handle.
        if *status != 101 {
            return Err(ConnectError::Refused { status: *status, retry_after: response.retry_after() });
        }
        // 2. and 3.
        if !head.has_token("Upgrade", "websocket") || !head.has_token("Connection", "Upgrade") {
            return Err(ConnectError::BadResponse("it does not upgrade to WebSocket"));
        }
        // 4. "MUST NOT appear more than once" (section 11.3.3).
        let mut accept_keys = head.values("Sec-WebSocket-Accept");
        match (accept_keys.next(), accept_keys.next()) {
            (Some(_), Some(_)) => return Err(ConnectError::BadResponse("it has more than one Sec-WebSocket-Accept")),
            (Some(key), None) if key == derive_accept_key(self.key.as_bytes()).as_bytes() => {}
            _ => return Err(ConnectError::BadResponse("its Sec-WebSocket-Accept is wrong")),
        }
        // 5.
        let is_named = head.values("Sec-WebSocket-Extensions").any(|extensions| !extensions.is_empty());
        if is_named && self.extensions.is_none() {
            return Err(ConnectError::BadResponse("it uses an extension that was not offered"));
        }
        #[cfg(feature = "deflate")]
        let extensions = extensions::parse(head.values("Sec-WebSocket-Extensions"))
            .ok_or(ConnectError::BadResponse("its Sec-WebSocket-Extensions are not valid"))?;
        // 6. "MUST NOT appear more than once" (section 11.3.4).
        let mut chosen = head.values("Sec-WebSocket-Protocol");
        let subprotocol = match (chosen.next(), chosen.next()) {
            (None, _) => None,
            (Some(chosen), None) => match self.subprotocols.iter().find(|offered| offered.as_bytes() == chosen) {
                Some(offered) => Some(offered.clone()),
                None => return Err(ConnectError::BadResponse("it chose a subprotocol that was not offered")),
            },
            (Some(_), Some(_)) => return Err(ConnectError::BadResponse("it chose more than one subprotocol")),
        };
        Ok(Accepted {
            subprotocol,
            #[cfg(feature = "deflate")]
            extensions,
        })
    }
}

/// Checks that a server can accept this request (RFC 6455 section 4.2.1). `Host` and `Upgrade` have been checked
/// before. Extensions are the caller's affair (item 9).
pub(crate) fn check_request(request: &Request) -> Result<(), Box<Refusal>> {
    let head = request.head();
    // Its bytes would be taken for frames, or those of another request for its body.
    if !Framing::of(request)?.is_empty() {
        return Err(Refusal::bad_request("an opening handshake with a body"));
    }
    // 1. A GET of HTTP/1.1 or higher.
    if request.method() != "GET" {
        return Err(Refusal::method_not_allowed());
    }
    if !request.is_http_1_1() {
        let response = Response::new(505).text("an upgrade needs HTTP/1.1\n");
        return Err(Refusal::new(response, "HTTP version is not 1.1"));
    }
    // 4.
    if !head.has_token("Connection", "Upgrade") {
        return Err(Refusal::bad_request("Connection header without Upgrade"));
    }
    // 6. The response names the supported version (section 4.4).
    if request.header("Sec-WebSocket-Version") != Some("13") {
        let response = Response::new(426).header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13");
        let response = response.text("only WebSocket version 13 is supported\n");
        return Err(Refusal::new(response, "WebSocket version is not 13"));
    }
    // 5. "MUST NOT appear more than once" (section 11.3.1).
    let mut keys = head.values("Sec-WebSocket-Key");
    match (keys.next(), keys.next()) {
        (None, _) => Err(Refusal::bad_request("missing Sec-WebSocket-Key")),
        (Some(key), None) if is_key(key) => Ok(()),
        (Some(_), None) => Err(Refusal::bad_request("invalid Sec-WebSocket-Key")),
        (Some(_), Some(_)) => Err(Refusal::bad_request("more than one Sec-WebSocket-Key")),
    }
}

/// Whether this is the base64 of 16 bytes: 22 digits and two padding characters.
fn is_key(key: &[u8]) -> bool {
    key.strip_suffix(b"==").is_some_and(|digits| {
        digits.len() == 22 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
    })
}

/// The response 101 (RFC 6455 section 4.2.2) to a request that has passed [`check_request`], with what the application
/// adds. An error names the addition that cannot be sent. `extensions`: those that are accepted, if any.
pub(crate) fn encode_response(
    request: &Request,
    subprotocol: Option<&str>,
    extensions: Option<&str>,
    headers: &[(String, String)],
) -> Result<Vec<u8>, &'static str> {
    const RESERVED: [&str; 5] =
        ["connection", "upgrade", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions"];
    let key = request.head().values("Sec-WebSocket-Key").next().unwrap_or_default();
    let mut bytes = status_line(StatusCode::SWITCHING_PROTOCOLS);
    push_header(&mut bytes, "Connection", "Upgrade")?;
    push_header(&mut bytes, "Upgrade", "websocket")?;
    push_header(&mut bytes, "Sec-WebSocket-Accept", &derive_accept_key(key))?;
    if let Some(chosen) = subprotocol {
        if !request.subprotocols().any(|offered| offered == chosen) {
            return Err("a subprotocol that was not offered");
        }
        push_header(&mut bytes, "Sec-WebSocket-Protocol", chosen)?;
    }
    if let Some(accepted) = extensions {
        push_header(&mut bytes, "Sec-WebSocket-Extensions", accepted)?;
    }
    for (name, value) in headers {
        if is_among(name, &RESERVED) {
            return Err("a header of the handshake itself");
        }
        push_header(&mut bytes, name, value)?;
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(bytes)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

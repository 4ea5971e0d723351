use ureq::http::{HeaderName, HeaderValue};

use super::*;

/// The requests with this byte in a value and in the target, as far as our parser takes them.
fn requests_with(byte: u8) -> impl Iterator<Item = Request> {
    let heads = [
        [&b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a"[..], &[byte], b"b\r\n\r\n"].concat(),
        [&b"GET / HTTP/1.1\r\nHost: h"[..], &[byte], b"\r\nSec-WebSocket-Protocol: heartwire.token.t\r\n\r\n"].concat(),
        [&b"GET /a"[..], &[byte], b"b HTTP/1.1\r\nHost: h\r\n\r\n"].concat(),
        [&b"GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: heartwire.token."[..], &[byte], b"t\r\n\r\n"].concat(),
    ];
    heads.into_iter().filter_map(|head| Request::from_bytes(&head, "127.0.0.1:1".parse().unwrap()))
}

#[test]
fn whatever_a_client_sends_can_be_passed_on_and_ends_no_header() {
    let service = AuthService::new("http://h/auth").unwrap();
    let mut seen = 0;
    for byte in 0..=255 {
        for request in requests_with(byte) {
            for (name, value) in &*service.question(&request, None, None).headers {
                assert!(HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name}");
                assert!(HeaderValue::from_bytes(value).is_ok(), "byte {byte} in {name}: {value:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 1000, "{seen}");
    // What is checked here is what is refused.
    assert!(HeaderValue::from_bytes(b"a\r\nb: c").is_err());
}

#[test]
fn what_a_client_gets_depends_on_who_cannot_let_it_in() {
    let refused = |status, challenge: Option<&str>| AuthError::Refused { status, challenge: challenge.map(Into::into) };
    for (error, status, reason) in [
        (refused(401, Some("Basic")), 401, "the authorization service does not know who it is"),
        (refused(401, None), 401, "the authorization service does not know who it is"),
        (refused(403, None), 403, "the authorization service refuses it"),
        (AuthError::Unavailable, 503, "the authorization service does not answer"),
    ] {
        let response = Response::from(error);
        assert_eq!((response.status(), response.reason()), (status, Some(reason)));
    }
}

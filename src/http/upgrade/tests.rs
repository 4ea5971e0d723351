//! The rules of both ends, one at a time.

use super::*;
use crate::http::head::{HeadBuffer, Parsed};

/// The example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
const UPGRADES: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

fn accepted(subprotocol: Option<String>) -> Accepted {
    Accepted {
        subprotocol,
        #[cfg(feature = "deflate")]
        extensions: Vec::new(),
    }
}

fn request(head: &str) -> Request {
    Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap()
}

/// The client's result for what it received: `None` if that is not complete. The second part is what came after the
/// head.
fn receive(received: &str) -> Result<Option<(Accepted, Vec<u8>)>, ConnectError> {
    let subprotocols = ["chat".to_owned(), "chat2".to_owned()];
    let request = UpgradeRequest {
        authority: "h",
        target: "/",
        key: KEY,
        subprotocols: &subprotocols,
        extensions: None,
        headers: &[],
    };
    let mut buffer = HeadBuffer::new();
    buffer.space()[..received.len()].copy_from_slice(received.as_bytes());
    let complete = buffer.filled(received.len(), ResponseHead::parse).expect("HTTP");
    complete.map(|(response, tail)| Ok((request.check_response(&response)?, tail))).transpose()
}

fn switching(headers: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n")
}

#[test]
fn a_request_carries_what_was_added_and_a_server_accepts_it() {
    let subprotocols = ["a".to_owned(), "b".to_owned()];
    let headers = [("Authorization".to_owned(), "Bearer x".to_owned())];
    let asked = UpgradeRequest {
        authority: "example.org:9001",
        target: "/chat?room=1",
        key: KEY,
        subprotocols: &subprotocols,
        extensions: None,
        headers: &headers,
    };
    let request = request(&asked.encode());
    assert_eq!(request.target(), "/chat?room=1");
    assert_eq!(request.header("Host"), Some("example.org:9001"));
    assert_eq!(request.header("Authorization"), Some("Bearer x"));
    assert!(request.subprotocols().eq(["a", "b"]));
    assert!(request.asks_for_upgrade() && request.check_host().is_ok() && check_request(&request).is_ok());

    let answer = encode_response(&request, Some("b"), None, &[]).unwrap();
    let Ok(Parsed::Complete(response, len)) = ResponseHead::parse(&answer) else { panic!("not complete") };
    assert_eq!(len, answer.len());
    assert_eq!(asked.check_response(&response).unwrap(), accepted(Some("b".to_owned())));
}

#[test]
fn nothing_can_be_smuggled_into_a_request() {
    for (name, value) in [("X", "a\r\nY: b"), ("X Y", "b"), ("Host", "other"), ("sec-websocket-key", "mine")] {
        let headers = [(name.to_owned(), value.to_owned())];
        assert!(check_additions(&headers, &[]).is_err(), "{name:?}: {value:?}");
    }
    assert!(check_additions(&[], &["a, b".to_owned()]).is_err());
    assert!(check_additions(&[("X".to_owned(), "b".to_owned())], &["a".to_owned()]).is_ok());
}

#[test]
fn keys_are_sixteen_bytes_in_base64() {
    assert!(is_key(KEY.as_bytes()));
    for bad in ["", "AAAA", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ!!", "dGhlIHNhbXBsZSBub25jZQAA==", "=="] {
        assert!(!is_key(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_by_that_rule() {
    let right = format!(
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    assert!(check_request(&request(&right)).is_ok());
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for (old, new, status, reason) in [
        ("GET", "POST", 405, "method not allowed"),
        ("HTTP/1.1", "HTTP/1.0", 505, "HTTP version is not 1.1"),
        ("Connection: Upgrade", "Connection: close", 400, "Connection header without Upgrade"),
        ("Version: 13", "Version: 8", 426, "WebSocket version is not 13"),
        ("Sec-WebSocket-Version: 13\r\n", "", 426, "WebSocket version is not 13"),
        (&key, "", 400, "missing Sec-WebSocket-Key"),
        (&key, "Sec-WebSocket-Key: short\r\n", 400, "invalid Sec-WebSocket-Key"),
        (&key, &key.repeat(2), 400, "more than one Sec-WebSocket-Key"),
    ] {
        let refusal = check_request(&request(&right.replace(old, new))).unwrap_err();
        assert_eq!((refusal.response.status(), &*refusal.reason), (status, reason));
    }
}

#[test]
fn a_response_carries_what_was_added() {
    let request =
        request(&format!("GET / HTTP/1.1\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: soap, chat\r\n\r\n"));
    let headers = [("Set-Cookie".to_owned(), "a=b".to_owned())];
    let answer = String::from_utf8(encode_response(&request, Some("chat"), None, &headers).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    for line in [ACCEPT, "Sec-WebSocket-Protocol: chat\r\n", "Set-Cookie: a=b\r\n"] {
        assert!(answer.contains(line), "{answer}");
    }
    assert!(answer.ends_with("\r\n\r\n"));

    assert!(encode_response(&request, Some("other"), None, &[]).is_err(), "a subprotocol that was not offered");
    for (name, value) in [("X", "a\nb"), ("Upgrade", "h2c"), ("sec-websocket-accept", "forged")] {
        let headers = [(name.to_owned(), value.to_owned())];
        assert!(encode_response(&request, None, None, &headers).is_err(), "{name:?}: {value:?}");
    }
}

#[test]
fn lists_in_a_response_may_stand_on_several_lines() {
    for upgrades in [
        UPGRADES,
        "upgrade: h2c, WebSocket\r\nCONNECTION: keep-alive , upgrade\r\n",
        "Connection: keep-alive\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nConnection: \u{e9}\r\n",
    ] {
        let (found, tail) = receive(&(switching(&format!("{upgrades}{ACCEPT}")) + "tail")).unwrap().unwrap();
        assert_eq!(found, accepted(None), "{upgrades}");
        assert_eq!(tail, b"tail");
    }
}

#[test]
fn interim_responses_are_passed_over_at_any_length_of_what_has_come() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let answer = switching(&format!("{UPGRADES}{ACCEPT}Sec-WebSocket-Protocol: chat2\r\n"));
    let whole = format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{HINTS}{answer}");
    for len in 0..whole.len() {
        assert_eq!(receive(&whole[..len]).unwrap(), None, "{len} bytes");
    }
    let expected = accepted(Some("chat2".to_owned()));
    assert_eq!(receive(&whole).unwrap(), Some((expected, Vec::new())));
    let refused = receive(&format!("{HINTS}HTTP/1.1 404 Not Found\r\n\r\n")).unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { status: 404, .. }), "{refused:?}");
}

#[test]
fn no_line_of_a_header_in_a_response_is_overlooked() {
    let other = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
    let chosen = "Sec-WebSocket-Protocol: chat\r\n";
    for (headers, complaint) in [
        (format!("{ACCEPT}{other}"), "more than one Sec-WebSocket-Accept"),
        (format!("{ACCEPT}{ACCEPT}"), "more than one Sec-WebSocket-Accept"),
        (other.to_owned(), "Sec-WebSocket-Accept is wrong"),
        (String::new(), "Sec-WebSocket-Accept is wrong"),
        (format!("{ACCEPT}Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: x\r\n"), "extension"),
        (format!("{ACCEPT}Sec-WebSocket-Extensions: \u{e9}\r\n"), "extension"),
        (format!("{ACCEPT}{chosen}{chosen}"), "more than one subprotocol"),
        (format!("{ACCEPT}Sec-WebSocket-Protocol: \u{e9}\r\n"), "not offered"),
    ] {
        match receive(&switching(&format!("{UPGRADES}{headers}"))) {
            Err(ConnectError::BadResponse(what)) => assert!(what.contains(complaint), "{headers}: {what}"),
            other => panic!("{headers}: {other:?}"),
        }
    }
    let empty = format!("{UPGRADES}{ACCEPT}Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: \r\n");
    assert!(receive(&switching(&empty)).unwrap().is_some(), "nothing is no extension");
}

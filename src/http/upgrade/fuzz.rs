//! Mutated heads of both ends, cut anywhere: checked against one parse of the whole, against tungstenite's handshake,
//! and for what any client may rely on in our responses.

use std::fmt::Write;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use tungstenite::handshake::server::create_response;
use tungstenite::http;

use super::*;
use crate::fuzz::{Mutation, Raw, check, pieces};
use crate::http::head::{HeadBuffer, HeadError, MAX_HEAD, Parsed};
use crate::http::response::Then;

const TELLING: &[u8] = b"\r\n\r\n\r\n\t :,;=/?%\"\0\x01\x7f\x80\xc3\xff0139AZaz";

/// A request that is valid, or invalid in one of the usual ways.
fn request_head() -> impl Strategy<Value = Raw> {
    let first = (
        prop_oneof![6 => Just("GET"), 1 => one_of(&["HEAD", "POST", "OPTIONS", "get", "PRI", ""])],
        prop_oneof![4 => one_of(&["/", "/chat?room=1", "/%f0%9f%92%94", "*", "http://h/", "/?"]), 1 => "/[ -~]{0,30}"
            .prop_map(|path| &*path.leak())],
        prop_oneof![8 => Just("HTTP/1.1"), 1 => one_of(&["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", "HTTP"])],
    );
    let right: Vec<&'static str> = vec![
        "Host: example.org",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let more = one_of(&[
        "connection: keep-alive, UPGRADE",
        "Upgrade: h2c, websocket",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Version:13",
        "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Key: short",
        "Sec-WebSocket-Protocol: a, b",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: twice",
        "X-Empty:",
        "X-Folded: a\r\n b",
        "no colon",
        ": no name",
        "Cookie: \u{1f494}",
    ]);
    let start = first.prop_map(|(method, target, version)| format!("{method} {target} {version}"));
    message(start, right, more)
}

/// A response that is valid for [`KEY`], or invalid in one of the usual ways.
fn response_head() -> impl Strategy<Value = Raw> {
    let start = prop_oneof![
        6 => Just("HTTP/1.1 101 Switching Protocols"),
        2 => one_of(&[
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols",
            "HTTP/1.1 100\r\n\r\n\r\nHTTP/1.1 102 \r\nX: y\r\n\r\nHTTP/1.1 101 ",
        ]),
        2 => one_of(&["HTTP/1.1 503 No", "HTTP/1.0 101 A", "HTTP/2.0 101 A", "HTTP/1.1 1000 A", "HTTP/1.1 -"]),
        1 => one_of(&["SSH-2.0", ""]),
    ];
    let right = vec!["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="];
    let more = one_of(&[
        "connection: keep-alive, UPGRADE",
        "Upgrade: h2c, websocket",
        "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: soap",
        "Sec-WebSocket-Protocol: chat, chat2",
        "Sec-WebSocket-Extensions:",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Retry-After: 18446744073709551616",
        "Content-Length: 5",
        "X-Folded: a\r\n b",
        "no colon",
        "Cookie: \u{1f494}",
    ]);
    message(start.prop_map(str::to_owned), right, more)
}

fn one_of(choices: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(choices)
}

/// A message with this first line, all or all but one of its required headers, and some `more` headers; mutated, and
/// followed by any bytes.
fn message(
    start: impl Strategy<Value = String>,
    right: Vec<&'static str>,
    more: impl Strategy<Value = &'static str>,
) -> impl Strategy<Value = Raw> {
    // Most often none is left out.
    let left_out = prop_oneof![5 => Just(usize::MAX), 1 => 0..right.len()];
    let more = prop::collection::vec(more, 0..4);
    let end = one_of(&["\r\n", "\r\n", "\r\n", "\n"]);
    let tail = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let padding = prop_oneof![12 => Just(0), 1 => 0_usize..20_000, 1 => Just(MAX_HEAD)];
    (start, left_out, more, (end, padding), tail, Mutation::some(TELLING)).prop_map(
        move |(start, left_out, more, (end, padding), tail, mutations)| {
            let mut text = format!("{start}{end}");
            let kept = right.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, line)| line);
            for line in kept.chain(&more) {
                let _ = write!(text, "{line}{end}");
            }
            if padding > 0 {
                let _ = write!(text, "X-Padding: {}{end}", "p".repeat(padding));
            }
            let mut bytes = [text.as_bytes(), end.as_bytes()].concat();
            mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
            bytes.extend(tail);
            Raw(bytes)
        },
    )
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

type Parser<T> = fn(&[u8]) -> Result<Parsed<T>, HeadError>;

/// A head and the bytes after it, or why it is not accepted.
type Verdict<T> = Result<(T, Vec<u8>), HeadError>;

/// The result of a head that arrives in these pieces, if any, and how many bytes had arrived by then.
fn read<T>(pieces: &[&[u8]], parse: Parser<T>) -> (Option<Verdict<T>>, usize) {
    let mut buffer = HeadBuffer::new();
    let mut arrived = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let space = buffer.space();
            let count = space.len().min(rest.len());
            assert!(count > 0, "no room to read into");
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            arrived += count;
            match buffer.filled(count, parse) {
                Ok(None) => {}
                Ok(Some(complete)) => return (Some(Ok(complete)), arrived),
                Err(error) => return (Some(Err(error)), arrived),
            }
        }
    }
    (None, arrived)
}

/// The parser's result for all the bytes at once: the oracle.
fn read_whole<T>(bytes: &[u8], parse: Parser<T>) -> Result<Option<(T, usize)>, HeadError> {
    let mut start = 0;
    loop {
        match parse(&bytes[start..])? {
            Parsed::Incomplete => return Ok(None),
            Parsed::Interim(len) => start += len,
            Parsed::Complete(head, len) => return Ok(Some((head, start + len))),
        }
    }
}

fn pieces_make_no_difference<T>(
    bytes: &[u8],
    cuts: &[Index],
    parse: Parser<T>,
    look: impl Fn(&T) -> String,
) -> TestCaseResult {
    let whole = read_whole(&bytes[..bytes.len().min(MAX_HEAD)], parse);
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    for pieces in [pieces(bytes, cuts), bytewise] {
        let (verdict, arrived) = read(&pieces, parse);
        match (&whole, verdict) {
            (Ok(Some((expected, len))), Some(Ok((head, tail)))) => {
                prop_assert_eq!(&tail[..], &bytes[*len..arrived], "what came after the head");
                prop_assert_eq!(look(&head), look(expected));
            }
            (Err(_), Some(Err(_))) => {}
            (Ok(None), Some(Err(error))) => {
                prop_assert_eq!(error, HeadError::TooLarge);
                prop_assert!(arrived >= MAX_HEAD);
            }
            // An error may show only at the end of the head, which has not come yet.
            (Ok(None) | Err(_), None) => prop_assert!(bytes.len() < MAX_HEAD),
            (whole, verdict) => {
                let whole = whole.as_ref().map(|complete| complete.as_ref().map(|(head, len)| (look(head), len)));
                let verdict = verdict.map(|verdict| verdict.map(|(head, tail)| (look(&head), tail)));
                prop_assert!(false, "{whole:?} but in pieces {verdict:?}");
            }
        }
    }
    Ok(())
}

fn parse_request(bytes: &[u8]) -> Result<Parsed<Request>, HeadError> {
    Request::parse(bytes, peer())
}

fn pieces_of_a_request_make_no_difference((Raw(bytes), cuts): (Raw, Vec<Index>)) -> TestCaseResult {
    pieces_make_no_difference(&bytes, &cuts, parse_request, |request| {
        format!("{} {} {:?}", request.method(), request.target(), request.headers().collect::<Vec<_>>())
    })
}

fn pieces_of_a_response_make_no_difference((Raw(bytes), cuts): (Raw, Vec<Index>)) -> TestCaseResult {
    pieces_make_no_difference(&bytes, &cuts, ResponseHead::parse, |response| {
        format!("{} {:?}", response.status, response.head.headers().collect::<Vec<_>>())
    })
}

/// A response that any HTTP client understands: its status, and its headers by lower-case names.
fn understood(answer: &[u8], with_body: bool) -> Result<(u16, Vec<(String, String)>), TestCaseError> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        return Err(TestCaseError::fail(format!("{parsed:?} of {:?}", String::from_utf8_lossy(answer))));
    };
    let headers = response
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()));
    let headers: Vec<_> = headers.collect();
    let status = response.code.unwrap_or(0);
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
    if status == 101 {
        prop_assert_eq!(answer.len(), len, "something behind the head");
    } else if with_body {
        prop_assert_eq!(length, Some(Ok(answer.len() - len)));
    }
    Ok((status, headers))
}

fn answers_are_sound(Raw(bytes): Raw) -> TestCaseResult {
    let request = match read(&[&bytes], parse_request).0 {
        Some(Ok((request, _))) => request,
        Some(Err(error)) => return refusal_is_sound(&Box::from(error), true),
        None => return Ok(()),
    };
    let checked = request.check_host().and_then(|()| check_request(&request));
    let theirs = accept_key_of_tungstenite(&request);
    if let Err(refusal) = checked {
        return refusal_is_sound(&refusal, request.method() != "HEAD");
    }
    let answer = encode_response(&request, None, None, &[]).map_err(TestCaseError::fail)?;
    let (status, headers) = understood(&answer, true)?;
    prop_assert_eq!(status, 101);
    let ours = headers.iter().find(|(name, _)| name == "sec-websocket-accept").map(|(_, value)| value.clone());
    prop_assert!(ours.is_some());
    // tungstenite refuses more targets and all lists, as it may.
    if theirs.is_some() {
        prop_assert_eq!(theirs, ours);
    }
    prop_assert_eq!(request.method(), "GET");
    prop_assert!(request.is_http_1_1());
    client_accepts(&request, &answer)
}

fn refusal_is_sound(refusal: &Refusal, with_body: bool) -> TestCaseResult {
    let answer = refusal.response.encode(with_body, Then::Close).map_err(TestCaseError::fail)?;
    let (status, _) = understood(&answer, with_body)?;
    prop_assert!((400..600).contains(&status));
    Ok(())
}

/// The client accepts the server's response to the same key, and to no other.
fn client_accepts(request: &Request, answer: &[u8]) -> TestCaseResult {
    let Ok(Parsed::Complete(response, _)) = ResponseHead::parse(answer) else {
        return Err(TestCaseError::fail("not complete"));
    };
    let key = request.header("Sec-WebSocket-Key").unwrap_or_default();
    let asked = UpgradeRequest { authority: "h", target: "/", key, subprotocols: &[], extensions: None, headers: &[] };
    prop_assert!(asked.check_response(&response).is_ok());
    let asked_with_another = UpgradeRequest { key: "another", ..asked };
    prop_assert!(asked_with_another.check_response(&response).is_err());
    Ok(())
}

/// The example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A response that a client accepts has the headers that RFC 6455 section 4.1 demands, as another search finds them.
fn what_is_accepted_is_right(Raw(bytes): Raw) -> TestCaseResult {
    let Some(Ok((response, _))) = read(&[&bytes], ResponseHead::parse).0 else { return Ok(()) };
    let subprotocols = ["chat".to_owned()];
    let asked = UpgradeRequest {
        authority: "h",
        target: "/",
        key: KEY,
        subprotocols: &subprotocols,
        extensions: None,
        headers: &[],
    };
    let lines: Vec<(String, String)> = response
        .head
        .headers()
        .map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    let all = |name: &str| -> Vec<&str> {
        lines.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    };
    match asked.check_response(&response) {
        Ok(Accepted { subprotocol, .. }) => {
            prop_assert_eq!(response.status, 101);
            prop_assert_eq!(all("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
            prop_assert_eq!(all("sec-websocket-extensions").concat(), "");
            prop_assert_eq!(all("sec-websocket-protocol"), subprotocol.iter().collect::<Vec<_>>());
        }
        Err(ConnectError::Refused { status, .. }) => prop_assert!(status != 101),
        Err(ConnectError::BadResponse(_)) => prop_assert_eq!(response.status, 101),
        Err(other) => prop_assert!(false, "{other:?}"),
    }
    Ok(())
}

/// tungstenite's response to the key. `None` if it refuses.
fn accept_key_of_tungstenite(request: &Request) -> Option<String> {
    let mut builder = http::Request::builder().method(request.method()).uri(request.target());
    builder = builder.version(if request.is_http_1_1() { http::Version::HTTP_11 } else { http::Version::HTTP_10 });
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let response = create_response(&builder.body(()).ok()?).ok()?;
    Some(response.headers().get("Sec-WebSocket-Accept")?.to_str().ok()?.to_owned())
}

#[test]
fn fuzz_the_pieces_in_which_a_request_arrives_make_no_difference() {
    check(&(request_head(), prop::collection::vec(any::<Index>(), 0..6)), pieces_of_a_request_make_no_difference);
}

#[test]
fn fuzz_the_pieces_in_which_a_response_arrives_make_no_difference() {
    check(&(response_head(), prop::collection::vec(any::<Index>(), 0..6)), pieces_of_a_response_make_no_difference);
}

#[test]
fn fuzz_every_answer_is_sound_and_agrees_with_tungstenite() {
    check(&request_head(), answers_are_sound);
}

#[test]
fn fuzz_a_client_accepts_no_response_that_breaks_a_rule() {
    check(&response_head(), what_is_accepted_is_right);
}

#[test]
fn fuzz_arbitrary_bytes_make_no_head_buffer_panic() {
    let bytes = prop::collection::vec(any::<u8>(), 0..3000).prop_map(Raw);
    check(&(bytes, prop::collection::vec(any::<Index>(), 0..6)), |(bytes, cuts)| {
        pieces_of_a_request_make_no_difference((bytes.clone(), cuts.clone()))?;
        pieces_of_a_response_make_no_difference((bytes, cuts))
    });
}

//! The request's head under mutation, cut anywhere: against the parser as a whole, against tungstenite's handshake, and
//! against what any client must be able to rely on in our answers.

use std::fmt::Write;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use tungstenite::handshake::server::create_response;
use tungstenite::http;

use super::*;
use crate::fuzz::{Mutation, Raw, check, pieces};

const TELLING: &[u8] = b"\r\n\r\n\r\n\t :,;=/?%\"\0\x01\x7f\x80\xc3\xff0139AZaz";

/// A request that is right, or wrong in one of the ways that peers think of.
fn head() -> impl Strategy<Value = Raw> {
    let one_of = |choices: &'static [&'static str]| prop::sample::select(choices);
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
    // Most often none is left out.
    let left_out = prop_oneof![5 => Just(usize::MAX), 1 => 0..right.len()];
    let more = prop::collection::vec(
        one_of(&[
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
        ]),
        0..4,
    );
    let end = one_of(&["\r\n", "\r\n", "\r\n", "\n"]);
    let tail = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let padding = prop_oneof![12 => Just(0), 1 => 0_usize..20_000, 1 => Just(MAX_HEAD)];
    (first, left_out, more, (end, padding), tail, Mutation::some(TELLING)).prop_map(
        move |((method, target, version), left_out, more, (end, padding), tail, mutations)| {
            let mut text = format!("{method} {target} {version}{end}");
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

/// A request and what came behind it, or the refusal.
type Verdict = Result<(Request, Vec<u8>), Response>;

/// What a head that arrives in these pieces comes to: the request, its length, and what came behind it; or a status. And
/// how many bytes had arrived by then.
fn read(pieces: &[&[u8]]) -> (Option<Verdict>, usize) {
    let mut head = Head::new();
    let mut arrived = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let space = head.space();
            let count = space.len().min(rest.len());
            assert!(count > 0, "no room to read into");
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            arrived += count;
            match head.filled(count, peer()) {
                Ok(None) => {}
                Ok(Some(complete)) => return (Some(Ok(complete)), arrived),
                Err(HeadError::Refused(refusal)) => return (Some(Err(refusal.0)), arrived),
                Err(HeadError::Lost(_) | HeadError::Gone | HeadError::Silent) => unreachable!("there is no I/O"),
            }
        }
    }
    (None, arrived)
}

/// The parser, given all at once, is the judge.
fn pieces_make_no_difference((Raw(bytes), cuts): (Raw, Vec<Index>)) -> TestCaseResult {
    let whole = Request::parse(&bytes[..bytes.len().min(MAX_HEAD)], peer());
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    for pieces in [pieces(&bytes, &cuts), bytewise] {
        let (outcome, arrived) = read(&pieces);
        match (&whole, outcome) {
            (Ok(Some((expected, len))), Some(Ok((request, tail)))) => {
                prop_assert_eq!(&tail[..], &bytes[*len..arrived], "what came behind the head");
                prop_assert!(request.headers().eq(expected.headers()));
                let parts = |request: &Request| (request.method().to_owned(), request.target().to_owned());
                prop_assert_eq!(parts(&request), parts(expected));
            }
            (Err(_), Some(Err(response))) => prop_assert!(matches!(response.status(), 400 | 431 | 505)),
            (Ok(None), Some(Err(response))) => {
                prop_assert_eq!(response.status(), 431);
                prop_assert!(arrived >= MAX_HEAD);
            }
            // What is wrong may be found only at the end of the head, which then has not come.
            (Ok(None) | Err(_), None) => prop_assert!(bytes.len() < MAX_HEAD),
            (whole, outcome) => {
                let outcome = outcome.map(|outcome| outcome.map_err(|response| response.status()));
                prop_assert!(false, "{whole:?} but in pieces {outcome:?}");
            }
        }
    }
    Ok(())
}

/// An answer that any HTTP client understands: its status, and its headers by lower-case names.
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
    let request = match read(&[&bytes]).0 {
        Some(Ok((request, _))) => request,
        Some(Err(response)) => {
            let (status, _) = understood(&response.encode(true).map_err(TestCaseError::fail)?, true)?;
            prop_assert!((400..600).contains(&status));
            return Ok(());
        }
        None => return Ok(()),
    };
    let config = HandshakeConfig::default();
    let checked = check_host(&request)
        .and_then(|()| check_upgrade(&request))
        .and_then(|()| welcome(&request, &*decide(&request, &config)?, &config));
    let theirs = accept_key_of_tungstenite(&request);
    match checked {
        Ok(answer) => {
            let (status, headers) = understood(&answer, true)?;
            prop_assert_eq!(status, 101);
            let ours = headers.iter().find(|(name, _)| name == "sec-websocket-accept").map(|(_, value)| value.clone());
            prop_assert!(ours.is_some());
            // They refuse more targets and all lists, which is theirs to do.
            if theirs.is_some() {
                prop_assert_eq!(theirs, ours);
            }
            prop_assert_eq!(request.method(), "GET");
            prop_assert!(request.is_http_1_1());
        }
        Err(refusal) => {
            let response = refusal.0;
            let with_body = request.method() != "HEAD";
            let (status, _) = understood(&response.encode(with_body).map_err(TestCaseError::fail)?, with_body)?;
            prop_assert!((400..600).contains(&status));
        }
    }
    Ok(())
}

/// What tungstenite would answer to the key; `None` if it refuses.
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
fn fuzz_the_pieces_in_which_a_head_arrives_make_no_difference() {
    check(&(head(), prop::collection::vec(any::<Index>(), 0..6)), pieces_make_no_difference);
}

#[test]
fn fuzz_every_answer_is_sound_and_agrees_with_tungstenite() {
    check(&head(), answers_are_sound);
}

#[test]
fn fuzz_arbitrary_bytes_make_no_head_reader_panic() {
    let bytes = prop::collection::vec(any::<u8>(), 0..3000).prop_map(Raw);
    check(&(bytes, prop::collection::vec(any::<Index>(), 0..6)), pieces_make_no_difference);
}

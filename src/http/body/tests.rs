//! Which framings are accepted, and chunked bodies cut anywhere, checked against a reader that has all of it at once.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::fuzz::{Mutation, Raw, check, pieces};

fn framing(version: &str, headers: &str) -> Result<Framing, String> {
    let head = format!("POST / {version}\r\nHost: h\r\n{headers}\r\n");
    let request = Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).ok_or("not HTTP")?;
    Framing::of(&request).map_err(|refusal| {
        assert_eq!(refusal.response.status(), 400);
        refusal.reason.into_owned()
    })
}

#[test]
fn a_body_has_a_length_or_is_chunked_or_there_is_none() {
    for (headers, expected) in [
        ("", Framing::Length(0)),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-length:  17 \r\n", Framing::Length(17)),
        ("Content-Length: 0017\r\n", Framing::Length(17)),
        ("Content-Length: 18446744073709551616\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding:CHUNKED \r\n", Framing::Chunked),
    ] {
        assert_eq!(framing("HTTP/1.1", headers).as_ref(), Ok(&expected), "{headers:?}");
    }
    assert_eq!(framing("HTTP/1.0", "Content-Length: 3\r\n"), Ok(Framing::Length(3)));
    assert!(Framing::Length(0).is_empty() && !Framing::Length(1).is_empty() && !Framing::Chunked.is_empty());
}

#[test]
fn whatever_others_might_read_differently_is_refused() {
    const BOTH: &str = "both Transfer-Encoding and Content-Length";
    const SEVERAL: &str = "more than one Content-Length";
    const LENGTH: &str = "invalid Content-Length";
    const CODING: &str = "Transfer-Encoding other than chunked";
    const LF: &str = "a body after lines that end without CR";
    for (headers, reason) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", BOTH),
        ("Transfer-Encoding: identity\r\nContent-Length: 3\r\n", BOTH),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", SEVERAL),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", SEVERAL),
        ("Content-Length: 3, 3\r\n", LENGTH),
        ("Content-Length: 3,4\r\n", LENGTH),
        ("Content-Length: \r\n", LENGTH),
        ("Content-Length: +3\r\n", LENGTH),
        ("Content-Length: -3\r\n", LENGTH),
        ("Content-Length: 3 3\r\n", LENGTH),
        ("Content-Length: 3.0\r\n", LENGTH),
        ("Content-Length: 0x3\r\n", LENGTH),
        ("Content-Length: a\r\n", LENGTH),
        ("Content-Length: \u{663}\r\n", LENGTH),
        ("Transfer-Encoding: gzip, chunked\r\n", CODING),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CODING),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CODING),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CODING),
        ("Transfer-Encoding: chunked, identity\r\n", CODING),
        ("Transfer-Encoding: ,chunked\r\n", CODING),
        ("Transfer-Encoding: xchunked\r\n", CODING),
        ("Transfer-Encoding: \"chunked\"\r\n", CODING),
        ("Transfer-Encoding: chunked;q=1\r\n", CODING),
        ("Transfer-Encoding: identity\r\n", CODING),
        ("Transfer-Encoding:\r\n", CODING),
        ("X: y\nContent-Length: 3\r\n", LF),
        ("Content-Length: 3\n", LF),
        ("Transfer-Encoding: chunked\n", LF),
    ] {
        assert_eq!(framing("HTTP/1.1", headers), Err(reason.to_owned()), "{headers:?}");
    }
    let old = framing("HTTP/1.0", "Transfer-Encoding: chunked\r\n");
    assert_eq!(old, Err("Transfer-Encoding in HTTP/1.0".to_owned()));
}

#[test]
fn headers_that_hide_a_length_are_no_http() {
    for headers in [
        "Content-Length : 3\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length\r\n",
        " Content-Length: 3\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: \x0cchunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "Content-Length: 3\rX: y\r\n",
        "X\0: y\r\n",
    ] {
        assert_eq!(framing("HTTP/1.1", headers), Err("not HTTP".to_owned()), "{headers:?}");
    }
}

/// The content of a body, and what follows it.
type Complete = (Vec<u8>, Vec<u8>);

/// What comes of bytes that arrive in these pieces. `None` if the body is not complete.
fn read(pieces: &[&[u8]], framing: Framing, limit: usize) -> Result<Option<Complete>, BodyError> {
    let mut decoder = Decoder::new(framing, limit)?;
    let (mut body, mut rest) = (Vec::new(), Vec::new());
    for piece in pieces {
        let taken = decoder.decode(piece, &mut body)?;
        assert!(taken == piece.len() || decoder.is_complete(), "{taken} of {}", piece.len());
        assert!(body.len() <= limit);
        rest.extend_from_slice(&piece[taken..]);
    }
    Ok(decoder.is_complete().then_some((body, rest)))
}

fn read_bytewise(bytes: &[u8], framing: Framing, limit: usize) -> Result<Option<Complete>, BodyError> {
    read(&bytes.chunks(1).collect::<Vec<_>>(), framing, limit)
}

#[test]
fn a_body_ends_where_its_framing_says_wherever_it_is_cut() {
    for (framing, bytes, content) in [
        (Framing::Length(0), "", ""),
        (Framing::Length(5), "hello", "hello"),
        (Framing::Chunked, "0\r\n\r\n", ""),
        (Framing::Chunked, "5\r\nhello\r\n0\r\n\r\n", "hello"),
        (Framing::Chunked, "2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n", "hello"),
        (
            Framing::Chunked,
            "A\r\n0\r\n\r\n12345\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            "0\r\n\r\n12345\r\n\r\n\r\n\r\n\r\n",
        ),
        (Framing::Chunked, "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n", "hello"),
        (Framing::Chunked, "5\r\nhello\r\n0\r\nX-Sum: 17\r\nY:\r\n\r\n", "hello"),
    ] {
        let bytes = [bytes.as_bytes(), b"GET / HTTP/1.1"].concat();
        let end = bytes.len() - 14;
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let expected = Ok(Some((content.as_bytes().to_vec(), b"GET / HTTP/1.1".to_vec())));
            assert_eq!(read(&[first, second], framing, content.len()), expected, "{framing:?} cut at {cut}");
            let is_complete = read(&[first], framing, content.len()).unwrap().is_some();
            assert_eq!(is_complete, cut >= end, "{framing:?} up to {cut}");
        }
    }
}

#[test]
fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
    assert!(Decoder::new(Framing::Length(5), 5).is_ok());
    assert_eq!(Decoder::new(Framing::Length(6), 5).err(), Some(BodyError::TooLarge));
    assert_eq!(Decoder::new(Framing::Length(u64::MAX), usize::MAX).is_ok(), usize::BITS == 64);
    let hello = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    assert!(read_bytewise(hello, Framing::Chunked, 5).unwrap().is_some());
    assert_eq!(read_bytewise(hello, Framing::Chunked, 4), Err(BodyError::TooLarge));
    // A chunk that is announced is refused before it comes.
    assert_eq!(read_bytewise(b"ffffffffffffffff\r\n", Framing::Chunked, 5), Err(BodyError::TooLarge));
    assert_eq!(read_bytewise(b"1\r\nh\r\nffffffffffffffff\r\n", Framing::Chunked, 5), Err(BodyError::TooLarge));
}

#[test]
fn a_chunked_body_is_exactly_that_of_the_grammar() {
    for bytes in [
        "\r\n",
        "x",
        " 5\r\n",
        "5 \r\n",
        "5\t;a\r\n",
        "+5\r\n",
        "-5\r\n",
        "0x5\r\n",
        "5\n",
        "5\rx",
        "5\r\r\n",
        ";a\r\n",
        "5;a\n",
        "5;a\0",
        "5;a\x7f",
        "00000000000000005\r\n",
        "10000000000000000\r\n",
        "5\r\nhello0\r\n",
        "5\r\nhello\n",
        "5\r\nhello\rx",
        "5\r\nhello!",
        "0\r\n\n",
        "0\r\n\rx",
        "0\r\n: y\r\n",
        "0\r\n x: y\r\n",
        "0\r\nx\r\n",
        "0\r\nx : y\r\n",
        "0\r\nx: y\n",
        "0\r\nx: y\r\r\n",
        "0\r\nx: y\r\n z\r\n",
        "0\r\nx: \0",
    ] {
        assert_eq!(read_bytewise(bytes.as_bytes(), Framing::Chunked, 100), Err(BodyError::NotChunked), "{bytes:?}");
    }
}

#[test]
fn what_is_skipped_is_bounded() {
    let padding = |count: usize| "x".repeat(count);
    for begin in ["1;", "0\r\nx:"] {
        let most = MAX_EXTRAS - usize::from(begin.len() > 2);
        assert!(read_bytewise([begin, &padding(most)].concat().as_bytes(), Framing::Chunked, 9).is_ok());
        let more = read_bytewise([begin, &padding(most + 1)].concat().as_bytes(), Framing::Chunked, 9);
        assert_eq!(more, Err(BodyError::NotChunked));
    }
    // Many short ones are together no better than a long one.
    let many = "1;x\r\ny\r\n".repeat(MAX_EXTRAS + 1);
    assert_eq!(read_bytewise(many.as_bytes(), Framing::Chunked, usize::MAX), Err(BodyError::NotChunked));
}

/// The content of a chunked body and its length, by another way: line by line, with all of it at hand.
fn oracle(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    fn line(bytes: &mut &[u8]) -> Option<String> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, rest) = bytes.split_at(end);
        *bytes = &rest[2..];
        let is_visible = |char: char| char == '\t' || !char.is_ascii_control();
        // Latin 1, for any byte above ASCII may be there.
        let text: String = line.iter().map(|byte| char::from(*byte)).collect();
        text.chars().all(is_visible).then_some(text)
    }
    let (all, mut content) = (bytes.len(), Vec::new());
    loop {
        let size = line(&mut bytes)?;
        let digits = size.split_once(';').map_or(&*size, |(digits, _)| digits);
        let is_size = (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = is_size.then(|| usize::from_str_radix(digits, 16).ok()).flatten()?;
        if size == 0 {
            break;
        }
        content.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
    loop {
        match line(&mut bytes)?.as_str() {
            "" => return Some((content, all - bytes.len())),
            field => {
                let (name, _) = field.split_once(':')?;
                crate::http::head::is_token(name).then_some(())?;
            }
        }
    }
}

fn chunked() -> impl Strategy<Value = Raw> {
    let extension = prop_oneof![5 => Just(""), 1 => prop::sample::select(&[";", ";a=b", ";a=\"b c\"", " ;a"][..])];
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), extension, any::<bool>());
    let trailer =
        prop_oneof![4 => Just(""), 1 => prop::sample::select(&["X: y\r\n", "X:\r\nY: \u{e9}\r\n", "X\r\n"][..])];
    let parts = (prop::collection::vec(chunk, 0..5), trailer, prop::collection::vec(any::<u8>(), 0..40));
    (parts, Mutation::some(b"\r\n\r\n01aF;: \t\0\x80")).prop_map(|((chunks, trailer, tail), mutations)| {
        let mut bytes = Vec::new();
        for (content, extension, is_upper) in chunks {
            let size = if is_upper { format!("{:02X}", content.len()) } else { format!("{:x}", content.len()) };
            bytes.extend_from_slice(&[size.as_bytes(), extension.as_bytes(), b"\r\n", &content, b"\r\n"].concat());
        }
        bytes.extend_from_slice(&[b"0\r\n", trailer.as_bytes(), b"\r\n"].concat());
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        bytes.extend(tail);
        Raw(bytes)
    })
}

fn pieces_make_no_difference((Raw(bytes), cuts): (Raw, Vec<Index>)) -> TestCaseResult {
    let expected = oracle(&bytes);
    for pieces in [pieces(&bytes, &cuts), bytes.chunks(1).collect()] {
        match (read(&pieces, Framing::Chunked, 1 << 20), &expected) {
            (Ok(Some((body, rest))), Some((content, len))) => {
                prop_assert_eq!(&body, content);
                prop_assert_eq!(&rest[..], &bytes[*len..]);
            }
            (Ok(None) | Err(_), None) => {}
            (read, expected) => prop_assert!(false, "{read:?}, and another reader {expected:?}"),
        }
    }
    Ok(())
}

#[test]
fn fuzz_a_chunked_body_in_pieces_is_what_another_reader_finds_in_the_whole() {
    check(&(chunked(), prop::collection::vec(any::<Index>(), 0..6)), pieces_make_no_difference);
}

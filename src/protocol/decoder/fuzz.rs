//! The inbound path under mutated traffic of real conformance cases, against tungstenite and against itself.
//!
//! `autobahn.hex` holds what the client of the Autobahn suite sent after its handshake, one case a line. It is
//! unmasked, so that equal cases are equal, and leaves out cases that are long or repeat others.

use std::io::Cursor;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use tungstenite::protocol::frame::FrameHeader;

use super::tests::{LIMIT, Theirs, decode_by_tungstenite, put};
use super::*;
use crate::fuzz::{Mutation, Raw, check, pieces};

/// First bytes of frames, lengths, and the bytes at the boundaries of UTF-8.
const TELLING: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xbf, 0xc0, 0xc1, 0xe8, 0xed, 0xf0,
    0xf4, 0xf5, 0xfd, 0xfe, 0xff,
];

fn cases() -> Vec<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    let case = |line: &str| line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    include_str!("autobahn.hex").lines().map(case).collect()
}

/// A few cases in a row, masked, with a few mutations.
fn traffic() -> impl Strategy<Value = Raw> {
    let seeds = prop::collection::vec(prop::sample::select(cases()), 1..4);
    (seeds, any::<[u8; 4]>(), Mutation::some(TELLING)).prop_map(|(seeds, mask, mutations)| {
        let mut bytes: Vec<u8> = seeds.into_iter().flat_map(|seed| masked(&seed, mask)).collect();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        Raw(bytes)
    })
}

/// The same frames, masked with `mask` instead of zeros, up to the first that is incomplete.
fn masked(frames: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = frames.to_vec();
    let mut start = 0;
    loop {
        let mut cursor = Cursor::new(&frames[start..]);
        let Ok(Some((_, len))) = FrameHeader::parse(&mut cursor) else { return bytes };
        let payload = start + cursor.position() as usize;
        let Some(end) = usize::try_from(len).ok().and_then(|len| payload.checked_add(len)) else { return bytes };
        if end > bytes.len() || bytes[payload - 4..payload] != [0; 4] {
            return bytes;
        }
        bytes[payload - 4..payload].copy_from_slice(&mask);
        apply_mask(&mut bytes[payload..end], mask);
        start = end;
    }
}

/// What the decoder makes of the pieces, up to an error or a Close frame. Between pieces the peer may have been idle.
fn decode(pieces: &[&[u8]], is_idle_between: bool) -> (Vec<Incoming>, Option<CloseReason>) {
    decode_by(Decoder::new(Role::Server, &[], Decoder::MIN_BUFFER, LIMIT), pieces, is_idle_between)
}

fn decode_by(mut decoder: Decoder, pieces: &[&[u8]], is_idle_between: bool) -> (Vec<Incoming>, Option<CloseReason>) {
    let mut out = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            rest = &rest[put(&mut decoder, rest)..];
            loop {
                match decoder.next() {
                    Ok(Some(incoming @ Incoming::Close(..))) => {
                        out.push(incoming);
                        return (out, None);
                    }
                    Ok(Some(incoming)) => out.push(incoming),
                    Ok(None) => break,
                    Err(reason) => return (out, Some(reason)),
                }
            }
        }
        if is_idle_between {
            decoder.release();
        }
    }
    (out, None)
}

fn agrees_with_tungstenite(Raw(bytes): Raw) -> TestCaseResult {
    let (mut ours, error) = decode(&[&bytes], false);
    let (mut theirs, end) = decode_by_tungstenite(&bytes);
    if let Some(Incoming::Close(code, _)) = theirs.last()
        && *code == Some(CloseCode::PROTOCOL_ERROR)
        && error.is_some()
    {
        // tungstenite answers an invalid code like this; we fail the connection.
        theirs.pop();
    }
    match (end, error) {
        // We refuse text at its first bad byte, which can be some messages before tungstenite does.
        (_, Some(CloseReason::InvalidUtf8)) | (Theirs::Failed, Some(_)) => {
            prop_assert!(ours.len() <= theirs.len(), "{ours:?} but {theirs:?}");
            theirs.truncate(ours.len());
        }
        (Theirs::Failed, None) => prop_assert!(false, "let through: {ours:?}, they {theirs:?}"),
        // tungstenite looks at a frame only when it is complete, and has to fail then too. Zeros complete any frame
        // that is allowed.
        (Theirs::Waiting, Some(error)) => {
            let (further, end) = decode_by_tungstenite(&[&bytes[..], &[0; 2 * LIMIT]].concat());
            let is_invalid_code = matches!(further.last(), Some(Incoming::Close(Some(CloseCode::PROTOCOL_ERROR), _)));
            prop_assert!(end == Theirs::Failed || is_invalid_code, "refused for {error:?}, they {further:?}");
        }
        (Theirs::Closed, Some(error)) => prop_assert_eq!(error, CloseReason::Protocol("invalid close code")),
        (Theirs::Waiting | Theirs::Closed, None) => {}
    }
    // The text of a Close frame is theirs to choose. They do not know the code 1014, which IANA has registered since.
    for incoming in ours.iter_mut().chain(&mut theirs) {
        if let Incoming::Close(code, reason) = incoming {
            reason.clear();
            *code = code.map(|code| if code == CloseCode::from(1014) { CloseCode::PROTOCOL_ERROR } else { code });
        }
    }
    prop_assert_eq!(ours, theirs);
    Ok(())
}

fn pieces_make_no_difference((Raw(bytes), cuts, is_idle): (Raw, Vec<Index>, bool)) -> TestCaseResult {
    let in_one = decode(&[&bytes], false);
    prop_assert_eq!(&decode(&pieces(&bytes, &cuts), is_idle), &in_one);
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    prop_assert_eq!(&decode(&bytewise, is_idle), &in_one);
    Ok(())
}

#[test]
fn fuzz_tungstenite_makes_the_same_of_mutated_traffic() {
    check(&traffic(), agrees_with_tungstenite);
}

#[test]
fn fuzz_the_pieces_in_which_traffic_arrives_make_no_difference() {
    let cuts = prop::collection::vec(any::<Index>(), 0..8);
    check(&(traffic(), cuts, any::<bool>()), pieces_make_no_difference);
}

/// Messages may say that they are compressed. Those that do are in the same pieces of the traffic, and nothing else is.
#[cfg(feature = "deflate")]
#[test]
fn fuzz_pieces_make_no_difference_to_what_may_be_compressed() {
    let bits = prop::collection::vec(any::<Index>(), 0..4);
    let input = (traffic(), bits, prop::collection::vec(any::<Index>(), 0..8), any::<bool>());
    check(&input, |(Raw(mut bytes), bits, cuts, is_idle)| {
        // The bit of compression on some bytes that may begin a frame.
        let first_bytes: Vec<usize> = (0..bytes.len()).filter(|at| matches!(bytes[*at], 1 | 2 | 0x81 | 0x82)).collect();
        for bit in bits.iter().filter(|_| !first_bytes.is_empty()) {
            bytes[first_bytes[bit.index(first_bytes.len())]] |= 0x40;
        }
        let decoder = || Decoder::new(Role::Server, &[], Decoder::MIN_BUFFER, LIMIT).taking_compressed(true);
        let in_one = decode_by(decoder(), &[&bytes], false);
        prop_assert_eq!(&decode_by(decoder(), &pieces(&bytes, &cuts), is_idle), &in_one);
        let is_none_compressed = !in_one.0.iter().any(|incoming| matches!(incoming, Incoming::Compressed(_)));
        let (plain, plain_error) = decode(&[&bytes], false);
        if plain_error != Some(CloseReason::Protocol("reserved bits")) {
            // None of them was the beginning of a message, so all is as without compression.
            prop_assert!(is_none_compressed);
            prop_assert_eq!((plain, plain_error), in_one);
        }
        Ok(())
    });
}

#[test]
fn every_recorded_case_is_judged_as_tungstenite_judges_it() {
    for case in cases() {
        agrees_with_tungstenite(Raw(masked(&case, [0x37, 0xfa, 0x21, 0x3d]))).unwrap();
    }
}

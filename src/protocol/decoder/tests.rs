//! The decoder frame by frame and byte by byte, and against tungstenite's own reader under generated input.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{self, WebSocket, WebSocketConfig};

use super::*;

pub(super) const LIMIT: usize = 1000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a client sends it. `first` is the first byte: FIN, reserved bits and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Feeds as many bytes as the decoder has room for, and returns how many.
pub(super) fn put(decoder: &mut Decoder, bytes: &[u8]) -> usize {
    let (count, had_room) = decoder
        .fill(|buffer| {
            let count = bytes.len().min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&bytes[..count]);
            Ok(count)
        })
        .unwrap();
    assert!(count > 0 || bytes.is_empty(), "no room to read into");
    assert!(had_room || count <= bytes.len());
    count
}

/// What the decoder returns for these bytes in chunks of so many, and the error at the end, if any.
fn decode(bytes: &[u8], chunk: usize) -> (Vec<Incoming>, Option<CloseReason>) {
    decode_up_to(LIMIT, bytes, chunk)
}

fn decode_up_to(limit: usize, bytes: &[u8], chunk: usize) -> (Vec<Incoming>, Option<CloseReason>) {
    decode_by(Decoder::new(Role::Server, &[], 256, limit), bytes, chunk)
}

fn decode_by(mut decoder: Decoder, bytes: &[u8], chunk: usize) -> (Vec<Incoming>, Option<CloseReason>) {
    let mut out = Vec::new();
    for mut part in bytes.chunks(chunk) {
        while !part.is_empty() {
            part = &part[put(&mut decoder, part)..];
            loop {
                match decoder.next() {
                    Ok(Some(incoming)) => out.push(incoming),
                    Ok(None) => break,
                    Err(reason) => return (out, Some(reason)),
                }
            }
        }
    }
    (out, None)
}

fn text(text: &str) -> Incoming {
    Incoming::Message(Message::text(text))
}

#[test]
fn what_was_not_looked_through_is_told_from_what_was_and_is_not_complete() {
    let mut decoder = Decoder::new(Role::Server, &[], 256, LIMIT);
    assert_eq!((decoder.undecoded(), decoder.unexamined(), decoder.is_in_message()), (0, 0, false));
    let (pong, text) = (frame(0x8a, b"1"), frame(0x01, b"begins"));
    let mut bytes = [pong.clone(), text.clone()].concat();
    // And the beginning of a header.
    bytes.push(0x80);
    put(&mut decoder, &bytes);
    assert_eq!((decoder.undecoded(), decoder.unexamined()), (bytes.len(), bytes.len()));
    assert!(matches!(decoder.next(), Ok(Some(Incoming::Pong(_)))));
    // There may be another Pong in the rest.
    assert_eq!((decoder.undecoded(), decoder.unexamined()), (bytes.len() - pong.len(), bytes.len() - pong.len()));
    assert!(matches!(decoder.next(), Ok(None)));
    assert_eq!((decoder.undecoded(), decoder.unexamined(), decoder.is_in_message()), (1, 0, true));
    put(&mut decoder, &frame(0x80, b"ends")[1..]);
    assert!(decoder.unexamined() > 0);
    assert!(matches!(decoder.next(), Ok(Some(Incoming::Message(_)))));
    assert!(matches!(decoder.next(), Ok(None)));
    assert_eq!((decoder.undecoded(), decoder.unexamined(), decoder.is_in_message()), (0, 0, false));
}

#[test]
fn messages_come_out_the_same_however_the_bytes_arrive() {
    let mut bytes = Vec::new();
    bytes.extend(frame(0x81, "straße".as_bytes()));
    bytes.extend(frame(0x01, &"straße".as_bytes()[..5]));
    bytes.extend(frame(0x89, b"between"));
    bytes.extend(frame(0x80, &"straße".as_bytes()[5..]));
    bytes.extend(frame(0x82, &[7; 300]));
    bytes.extend(frame(0x8a, b""));
    bytes.extend(frame(0x82, b""));
    bytes.extend(frame(0x88, b"\x03\xe8bye"));
    let expected = [
        text("straße"),
        Incoming::Ping(Bytes::from_static(b"between")),
        text("straße"),
        Incoming::Message(Message::binary(vec![7; 300])),
        Incoming::Pong(Bytes::new()),
        Incoming::Message(Message::binary(vec![])),
        Incoming::Close(Some(CloseCode::NORMAL), "bye".to_owned()),
    ];
    for chunk in 1..=bytes.len() {
        assert_eq!(decode(&bytes, chunk), (expected_copy(&expected), None), "{chunk} bytes at a time");
    }
}

fn expected_copy(expected: &[Incoming]) -> Vec<Incoming> {
    let copy = |incoming: &Incoming| match incoming {
        Incoming::Message(message) => Incoming::Message(message.clone()),
        Incoming::Compressed(compressed) => Incoming::Compressed(compressed.clone()),
        Incoming::Ping(payload) => Incoming::Ping(payload.clone()),
        Incoming::Pong(payload) => Incoming::Pong(payload.clone()),
        Incoming::Close(code, reason) => Incoming::Close(*code, reason.clone()),
    };
    expected.iter().map(copy).collect()
}

#[test]
fn what_was_received_behind_the_handshake_comes_first() {
    let mut decoder = Decoder::new(Role::Server, &frame(0x81, b"early"), 256, LIMIT);
    assert_eq!(decoder.next(), Ok(Some(text("early"))));
    assert_eq!(decoder.next(), Ok(None));
}

/// What a decoder makes of the bytes that takes compressed messages, if they come so many at a time.
#[cfg(feature = "deflate")]
fn decode_compressed(bytes: &[u8], chunk: usize) -> (Vec<Incoming>, Option<CloseReason>) {
    decode_by(Decoder::new(Role::Server, &[], 256, LIMIT).taking_compressed(true), bytes, chunk)
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_messages_pass_as_they_are_however_they_are_cut() {
    let mut bytes = frame(0xc1, b"not\xffutf-8");
    // In fragments, of which only the first says that it is compressed, with a Ping and an empty one between.
    bytes.extend(frame(0x42, b"frag"));
    bytes.extend(frame(0x89, b"between"));
    bytes.extend(frame(0x00, b""));
    bytes.extend(frame(0x80, &[7; 300]));
    bytes.extend(frame(0x81, b"plain"));
    bytes.extend(frame(0x41, b""));
    bytes.extend(frame(0x80, b"late"));
    bytes.extend(frame(0x01, b"pl"));
    bytes.extend(frame(0x80, b"ain"));
    let compressed = |is_text, payload: &[u8]| {
        Incoming::Compressed(Compressed { is_text, payload: Bytes::copy_from_slice(payload) })
    };
    let expected = [
        compressed(true, b"not\xffutf-8"),
        Incoming::Ping(Bytes::from_static(b"between")),
        compressed(false, &[b"frag", &[7; 300][..]].concat()),
        text("plain"),
        compressed(true, b"late"),
        text("plain"),
    ];
    for chunk in 1..=bytes.len() {
        assert_eq!(decode_compressed(&bytes, chunk), (expected_copy(&expected), None), "{chunk} bytes at a time");
    }
}

#[cfg(feature = "deflate")]
#[test]
fn the_bit_of_compression_is_refused_where_it_must_not_be() {
    let fragment = frame(0x01, b"a");
    for (bytes, what) in [
        ([&fragment[..], &frame(0xc0, b"b")].concat(), "reserved bits"),
        (frame(0xc8, b""), "reserved bits"),
        (frame(0xc9, b""), "reserved bits"),
        (frame(0xca, b""), "reserved bits"),
        (frame(0xe1, b""), "reserved bits"),
        (frame(0xd1, b""), "reserved bits"),
        (frame(0xa1, b""), "reserved bits"),
        ([&fragment[..], &frame(0xc1, b"b")].concat(), "new message inside a fragmented one"),
        (frame(0xc3, b""), "reserved opcode"),
    ] {
        assert_eq!(decode_compressed(&bytes, 1), (vec![], Some(CloseReason::Protocol(what))), "{bytes:x?}");
    }
}

#[cfg(feature = "deflate")]
#[test]
fn a_compressed_message_may_be_a_little_longer_on_the_wire_than_the_limit() {
    let most = LIMIT + LIMIT / 16 + 64;
    let too_big = |size: usize, limit| (vec![], Some(CloseReason::TooBig { size: size as u64, limit }));
    let compressed = |len| {
        let payload = Bytes::from(vec![b'x'; len]);
        (vec![Incoming::Compressed(Compressed { is_text: true, payload })], None)
    };
    for (bytes, expected) in [
        (frame(0xc1, &vec![b'x'; most]), compressed(most)),
        ([frame(0x41, &[b'x'; LIMIT]), frame(0x80, &vec![b'x'; most - LIMIT])].concat(), compressed(most)),
        (frame(0xc1, &vec![b'x'; most + 1]), too_big(most + 1, most)),
        ([frame(0x41, &[b'x'; LIMIT]), frame(0x80, &vec![b'x'; most - LIMIT + 1])].concat(), too_big(most + 1, most)),
        // One that is not compressed may not.
        (frame(0x81, &[b'x'; LIMIT + 1]), too_big(LIMIT + 1, LIMIT)),
        ([frame(0x01, &[b'x'; LIMIT]), frame(0x80, b"x")].concat(), too_big(LIMIT + 1, LIMIT)),
    ] {
        assert_eq!(decode_compressed(&bytes, 100), expected);
    }
}

#[test]
fn violations_are_refused() {
    let unmasked = vec![0x81, 0x00];
    let too_long_control = frame(0x89, &[0; 126]);
    for (bytes, what) in [
        (frame(0xc1, b""), "reserved bits"),
        (frame(0xa1, b""), "reserved bits"),
        (frame(0x91, b""), "reserved bits"),
        (frame(0x83, b""), "reserved opcode"),
        (frame(0x8b, b""), "reserved opcode"),
        (unmasked, "unmasked frame"),
        (frame(0x09, b""), "fragmented control frame"),
        (too_long_control, "control frame over 125 bytes"),
        (frame(0x80, b""), "continuation of no message"),
        ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), "new message inside a fragmented one"),
        ([frame(0x02, b"a"), frame(0x01, b"b")].concat(), "new message inside a fragmented one"),
        (frame(0x88, b"\x03"), "close code cut short"),
        (frame(0x88, b"\x03\xed"), "invalid close code"),
    ] {
        for chunk in [1, 1000] {
            assert_eq!(decode(&bytes, chunk), (vec![], Some(CloseReason::Protocol(what))));
        }
    }
    assert_eq!(decode(&frame(0x88, b"\x03\xe8\xff"), 99), (vec![], Some(CloseReason::InvalidUtf8)));
}

#[test]
fn text_is_refused_at_its_first_bad_byte() {
    let good = "κόσμε".as_bytes();
    for bad in [&b"\xf4\x90\x80\x80"[..], b"\xed\xa0\x80", b"\xc0\xaf", b"\xff", b"\x80"] {
        let payload = [good, bad, b"never looked at"].concat();
        let bytes = frame(0x81, &payload);
        let header = bytes.len() - payload.len();
        // The second byte decides about the first two, the first byte about the others.
        let decisive = header + good.len() + if matches!(bad[0], 0xf4 | 0xed) { 2 } else { 1 };
        assert_eq!(decode(&bytes[..decisive], 1).1, Some(CloseReason::InvalidUtf8), "{bad:x?}");
        assert_eq!(decode(&bytes[..decisive - 1], 1).1, None, "{bad:x?}");
        // The same in a fragment that is not the last.
        assert_eq!(decode(&frame(0x01, &payload)[..decisive], 7).1, Some(CloseReason::InvalidUtf8), "{bad:x?}");
    }
    let cut_at_the_end = frame(0x81, "ß".as_bytes().split_at(1).0);
    assert_eq!(decode(&cut_at_the_end, 99).1, Some(CloseReason::InvalidUtf8));
}

#[test]
fn sizes_are_limited_when_they_are_announced() {
    assert_eq!(decode(&frame(0x82, &[1; LIMIT]), 64).0.len(), 1);
    let over = frame(0x82, &[1; LIMIT + 1]);
    let announced = CloseReason::TooBig { size: LIMIT as u64 + 1, limit: LIMIT };
    assert_eq!(decode(&over[..8], 1).1, Some(announced.clone()), "the header is enough");
    let fragments = [frame(0x02, &[1; LIMIT]), frame(0x00, b""), frame(0x80, b"x")].concat();
    assert_eq!(decode(&fragments, 100).1, Some(announced));
    let absurd = [&[0x82, 0xff][..], &(1_u64 << 63).to_be_bytes(), &MASK].concat();
    assert_eq!(decode(&absurd, 100).1, Some(CloseReason::TooBig { size: 1 << 63, limit: LIMIT }));
}

#[test]
fn memory_follows_what_arrived_not_what_was_announced() {
    let mut decoder = Decoder::new(Role::Server, &[], 256, 1 << 30);
    let header = [&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes(), &MASK].concat();
    assert_eq!(put(&mut decoder, &header), header.len());
    assert_eq!(decoder.next(), Ok(None));
    let mut arrived = 0;
    for _ in 0..200 {
        arrived += put(&mut decoder, &[0; 1 << 20]);
        assert_eq!(decoder.next(), Ok(None));
        let Some(PartialMessage::Binary(bytes)) = &decoder.message else { panic!("no message under way") };
        assert!(bytes.capacity() <= 3 * arrived + Decoder::MAX_BUFFER, "{} for {arrived}", bytes.capacity());
    }
    assert!(decoder.buffer.capacity() <= Decoder::MAX_BUFFER, "the buffer is no larger for it");
}

#[test]
fn the_buffer_follows_the_work() {
    let mut decoder = Decoder::new(Role::Server, &[], 256, 1 << 20);
    let small = frame(0x82, &[7; 100]).repeat(1000);
    let mut rest = &small[..];
    while !rest.is_empty() {
        rest = &rest[put(&mut decoder, rest)..];
        while decoder.next().unwrap().is_some() {}
    }
    assert_eq!(decoder.buffer.capacity(), Decoder::MAX_BUFFER, "it grows while much arrives");
    for _ in 0..u8::MAX {
        put(&mut decoder, &frame(0x82, &[7; 100]));
        assert!(decoder.next().unwrap().is_some());
    }
    assert!(decoder.buffer.capacity() <= 2 * 256, "and shrinks when it is hardly used: {}", decoder.buffer.capacity());
    assert_eq!(decoder.next(), Ok(None));
    decoder.release();
    assert_eq!(decoder.buffer.capacity(), 0, "and is given back");
    assert_eq!(put(&mut decoder, &small), 256, "and begins small again");
}

#[test]
fn large_messages_come_out_whole_however_they_arrive() {
    let payload = |len: usize| (0..len).map(|index| (index * 7 % 251) as u8).collect::<Vec<u8>>();
    let words = "tick tock \u{1f493} ".repeat(5_000);
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for len in [15_000, 16_384, 33_000, 65_522, 65_536, 66_000, 70_000, 150_000, 1_000_000] {
        bytes.extend(frame(0x82, &payload(len)));
        bytes.extend(frame(0x81, b"between"));
        expected.extend([Incoming::Message(Message::binary(payload(len))), text("between")]);
    }
    // In fragments, the first of them empty, with a Ping inside.
    bytes.extend([frame(0x02, b""), frame(0x00, &payload(90_000)), frame(0x89, b"1")].concat());
    bytes.extend([frame(0x00, &payload(40_000)), frame(0x80, &payload(50_000))].concat());
    let whole = [payload(90_000), payload(40_000), payload(50_000)].concat();
    expected.extend([Incoming::Ping(Bytes::from_static(b"1")), Incoming::Message(Message::binary(whole))]);
    bytes.extend([frame(0x81, words.as_bytes()), frame(0x01, b""), frame(0x80, &words.as_bytes()[..51_000])].concat());
    expected.extend([text(&words), text(&words[..51_000])]);
    for chunk in [1_000, 4_099, 65_536, 66_560, 100_003, bytes.len()] {
        let (out, violation) = decode_up_to(1 << 20, &bytes, chunk);
        assert_eq!(violation, None);
        assert!(out == expected, "in chunks of {chunk}");
    }
}

#[test]
fn large_text_is_checked() {
    let bad = [&b"x".repeat(50_000)[..], b"\xff"].concat();
    for chunk in [1_000, 1 << 20] {
        assert_eq!(decode_up_to(1 << 20, &frame(0x81, &bad), chunk).1, Some(CloseReason::InvalidUtf8));
    }
}

#[test]
fn a_million_fragments_of_one_byte_take_no_time() {
    let mut decoder = Decoder::new(Role::Server, &[], 4096, 1 << 20);
    let mut bytes = frame(0x02, b"x");
    for _ in 0..1_000_000 {
        bytes.extend(frame(0x00, b"x"));
    }
    bytes.extend(frame(0x80, b"x"));
    let started = std::time::Instant::now();
    let mut source = &bytes[..];
    let message = loop {
        match decoder.next().unwrap() {
            Some(Incoming::Message(message)) => break message,
            Some(_) => {}
            None => {
                source = &source[put(&mut decoder, source)..];
            }
        }
    };
    assert_eq!(message.len(), 1_000_002);
    // It takes about 0.1 s; work that grew with the square of the length would take minutes.
    assert!(started.elapsed().as_secs() < 20);
}

/// Where tungstenite has stopped reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Theirs {
    /// It waits for more bytes.
    Waiting,
    /// It has read a Close frame.
    Closed,
    /// It has failed.
    Failed,
}

/// What tungstenite makes of the same bytes, for comparison.
pub(super) fn decode_by_tungstenite(bytes: &[u8]) -> (Vec<Incoming>, Theirs) {
    struct Source(Cursor<Vec<u8>>);
    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }
        }
    }
    impl Write for Source {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let source = Source(Cursor::new(bytes.to_vec()));
    let mut socket = WebSocket::from_raw_socket(source, protocol::Role::Server, Some(config));
    let mut out = Vec::new();
    loop {
        use tungstenite::Message as Read;
        match socket.read() {
            Ok(Read::Text(text)) => out.push(Incoming::Message(Message::text(text.as_str()))),
            Ok(Read::Binary(bytes)) => out.push(Incoming::Message(Message::Binary(bytes))),
            Ok(Read::Ping(payload)) => out.push(Incoming::Ping(payload)),
            Ok(Read::Pong(payload)) => out.push(Incoming::Pong(payload)),
            Ok(Read::Close(frame)) => {
                let code = frame.as_ref().map(|frame| CloseCode::from(u16::from(frame.code)));
                out.push(Incoming::Close(code, frame.map_or(String::new(), |frame| frame.reason.to_string())));
                return (out, Theirs::Closed);
            }
            Ok(Read::Frame(_)) => unreachable!("read gives no bare frames"),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (out, Theirs::Waiting);
            }
            Err(_) => return (out, Theirs::Failed),
        }
    }
}

/// Frames that are mostly valid, with any first byte except for Close; some texts are not UTF-8.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x80, 0x89, 0x8a]),
        1 => any::<u8>().prop_filter("no Close", |first| first & 0x0f != 8),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,40}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 100..LIMIT + 50),
    ];
    prop::collection::vec((first, payload), 0..12)
        .prop_map(|frames| frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect())
}

proptest! {
    #[test]
    fn tungstenite_makes_the_same_of_it(bytes in frames(), chunk in 1_usize..400) {
        let (ours, error) = decode(&bytes, chunk);
        let (theirs, failed) = decode_by_tungstenite(&bytes);
        if failed == Theirs::Failed {
            // We may fail earlier, but never let anything pass that tungstenite refuses.
            prop_assert!(error.is_some());
            prop_assert_eq!(&ours[..], &theirs[..ours.len()]);
        } else if error == Some(CloseReason::InvalidUtf8) {
            // Text that is invalid and incomplete: tungstenite would wait for the rest.
            prop_assert_eq!(&ours[..], &theirs[..ours.len()]);
        } else {
            prop_assert_eq!(error, None);
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), chunk in 1_usize..300) {
        decode(&bytes, chunk);
    }

    #[test]
    fn unmasking_twice_changes_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4]) {
        let before = bytes.clone();
        apply_mask(&mut bytes, mask);
        for (index, byte) in bytes.iter().enumerate() {
            prop_assert_eq!(*byte, before[index] ^ mask[index % 4]);
        }
        apply_mask(&mut bytes, mask);
        prop_assert_eq!(bytes, before);
    }
}

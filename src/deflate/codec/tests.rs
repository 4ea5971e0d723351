use miniz_oxide::DataFormat;
use miniz_oxide::MZFlush;
use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::inflate::stream::InflateState;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::fuzz::{Mutation, Raw, check};

/// More than any message here.
const NO_LIMIT: usize = 1 << 30;

/// Another implementation of DEFLATE at the other end of the line: miniz_oxide. It takes its context over.
struct Other {
    compressor: Box<CompressorOxide>,
    inflater: Box<InflateState>,
}

impl Other {
    fn new(level: u8) -> Self {
        let mut compressor = Box::<CompressorOxide>::default();
        compressor.set_format_and_level(DataFormat::Raw, level);
        Self { compressor, inflater: InflateState::new_boxed(DataFormat::Raw) }
    }

    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        let mut compressed = vec![0; 2 * message.len() + 1000];
        let done = miniz_oxide::deflate::stream::deflate(&mut self.compressor, message, &mut compressed, MZFlush::Sync);
        assert_eq!(done.bytes_consumed, message.len());
        compressed.truncate(done.bytes_written);
        compressed[..done.bytes_written].strip_suffix(&FLUSH).expect("a flushed stream").to_vec()
    }

    fn inflate(&mut self, payload: &[u8], len: usize) -> Option<Vec<u8>> {
        let (payload, mut message) = ([payload, &FLUSH].concat(), vec![0; len + 1]);
        let done = miniz_oxide::inflate::stream::inflate(&mut self.inflater, &payload, &mut message, MZFlush::None);
        message.truncate(done.bytes_written);
        (done.status.is_ok() && done.bytes_consumed == payload.len()).then_some(message)
    }
}

/// Messages of an application: repetitive text, noise, and both.
fn message() -> impl Strategy<Value = Raw> {
    let text =
        prop::collection::vec("[a-d]{1,12}|\\{\"id\": [0-9]{1,4}\\}", 0..200).prop_map(|words| words.concat().into());
    let noise = prop::collection::vec(any::<u8>(), 0..3000);
    let run = (any::<u8>(), 0_usize..100_000).prop_map(|(byte, len)| vec![byte; len]);
    prop_oneof![3 => text, 1 => noise, 1 => run].prop_map(Raw)
}

fn setting() -> impl Strategy<Value = (u8, u8, bool)> {
    (1_u8..=9, 8_u8..=15, any::<bool>())
}

#[test]
fn fuzz_messages_arrive_at_another_implementation_and_from_it() {
    check(&(setting(), prop::collection::vec(message(), 1..5)), |((level, bits, takes_over), messages)| {
        let (mut compressor, mut inflater) = (Compressor::new(level, bits), Inflater::new(15));
        let mut own = Inflater::new(bits);
        let mut other = Other::new(level);
        for Raw(message) in &messages {
            if !takes_over {
                compressor.forget();
                inflater.forget();
                own.forget();
                other = Other::new(level);
            }
            let compressed = compressor.compress(message).unwrap();
            prop_assert_eq!(other.inflate(&compressed, message.len()), Some(message.clone()));
            prop_assert_eq!(own.inflate(&compressed, message.len()), Ok(message.clone()));
            prop_assert_eq!(inflater.inflate(&other.compress(message), message.len()), Ok(message.clone()));
        }
        Ok(())
    });
}

/// Whatever is changed, the outcome is a message within the limit or an error, and neither takes more memory.
#[test]
fn fuzz_what_is_damaged_stays_within_the_limit() {
    let input = (message(), Mutation::some(&[0, 1, 2, 3, 4, 5, 0xff]), 0_usize..200_000);
    check(&input, |(Raw(message), mutations, limit)| {
        let mut payload = Compressor::new(4, 15).compress(&message).unwrap();
        mutations.iter().for_each(|mutation| mutation.apply(&mut payload));
        let mut inflater = Inflater::new(15);
        match inflater.inflate(&payload, limit) {
            Ok(inflated) => prop_assert!(inflated.len() <= limit && inflated.capacity() <= limit + 1),
            Err(InflateError::TooBig) => prop_assert!(message.len() > limit || !mutations.is_empty()),
            Err(InflateError::Invalid) => prop_assert!(!mutations.is_empty()),
        }
        // Then it serves the next message.
        inflater.forget();
        let next = Compressor::new(4, 15).compress(b"next").unwrap();
        prop_assert_eq!(inflater.inflate(&next, 4), Ok(b"next".to_vec()));
        Ok(())
    });
}

/// A message that is cut off is never taken for a whole one.
#[test]
fn fuzz_a_message_that_ends_too_early_is_no_message() {
    check(&(message(), any::<Index>()), |(Raw(message), at)| {
        let payload = Compressor::new(6, 15).compress(&message).unwrap();
        let cut = &payload[..at.index(payload.len())];
        match Inflater::new(15).inflate(cut, NO_LIMIT) {
            Err(_) => {}
            // A cut between two blocks.
            Ok(begin) => {
                prop_assert!(begin.len() < message.len().max(1) && message.starts_with(&begin) || message == begin)
            }
        }
        Ok(())
    });
}

/// Nor is the beginning of one block, wherever it is cut: also within the lengths of its codes, of which nothing comes
/// out yet.
#[test]
fn a_block_that_is_cut_anywhere_is_no_message() {
    for count in (1..100).step_by(9) {
        let message: String =
            (0..count).map(|number| format!("{{\"n\":{number},\"s\":{}}}", number * number)).collect();
        let payload = Compressor::new(6, 15).compress(message.as_bytes()).unwrap();
        // The last byte may be nothing but the beginning of an empty block.
        for cut in 1..payload.len() - 1 {
            let cut = &payload[..cut];
            assert_eq!(Inflater::new(15).inflate_alone(cut, NO_LIMIT), Err(InflateError::Invalid), "{cut:?}");
            assert_eq!(Inflater::new(15).inflate(cut, NO_LIMIT), Err(InflateError::Invalid), "{cut:?}");
        }
    }
}

#[test]
fn the_examples_of_the_rfc_are_understood() {
    // RFC 7692 section 7.2.3.
    let compressed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let mut inflater = Inflater::new(15);
    assert_eq!(inflater.inflate(&compressed, 5), Ok(b"Hello".to_vec()));
    // 7.2.3.2: with the context of the message before.
    assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 5), Ok(b"Hello".to_vec()));
    inflater.forget();
    assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 5), Err(InflateError::Invalid), "too far back");
    // 7.2.3.3: a block that is not compressed.
    inflater.forget();
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(inflater.inflate(&stored, 5), Ok(b"Hello".to_vec()));
    // 7.2.3.4: a block that says that it is the last, and a message that refers to it.
    inflater.forget();
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(inflater.inflate(&last, 5), Ok(b"Hello".to_vec()));
    assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 5), Ok(b"Hello".to_vec()));
    // Some leave out the byte after it.
    inflater.forget();
    assert_eq!(inflater.inflate(&last[..7], 5), Ok(b"Hello".to_vec()));
    assert_eq!(inflater.inflate(&compressed, 5), Ok(b"Hello".to_vec()));
    // 7.2.3.5: two blocks in one message.
    inflater.forget();
    let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(inflater.inflate(&two, 5), Ok(b"Hello".to_vec()));
    // 7.2.3.6: nothing.
    assert_eq!(inflater.inflate(&[0x00], 0), Ok(Vec::new()));
    assert_eq!(Compressor::new(4, 15).compress(b""), Some(vec![0x00]));
}

#[test]
fn a_bomb_is_too_big_before_it_costs_more_than_the_limit() {
    let bomb = Compressor::new(9, 15).compress(&vec![0; 16 << 20]).unwrap();
    assert!(bomb.len() < 17 << 10, "{} bytes", bomb.len());
    for limit in [0, 1, 1000, 1 << 20, (16 << 20) - 1] {
        assert_eq!(Inflater::new(15).inflate(&bomb, limit), Err(InflateError::TooBig));
    }
    assert_eq!(Inflater::new(15).inflate(&bomb, 16 << 20).unwrap().len(), 16 << 20);
}

#[test]
fn a_storm_of_last_blocks_is_no_message() {
    let mut payload = Compressor::new(4, 15).compress(&[0; 40_000]).unwrap();
    payload.extend(FLUSH);
    payload.extend([3, 0].repeat(MOST_LAST_BLOCKS));
    assert_eq!(Inflater::new(15).inflate_alone(&payload, NO_LIMIT).map(|message| message.len()), Ok(40_000));
    payload.extend([3, 0]);
    assert_eq!(Inflater::new(15).inflate_alone(&payload, NO_LIMIT), Err(InflateError::Invalid));
}

#[test]
fn a_message_keeps_at_most_twice_its_length() {
    let noise: Vec<u8> = (0..60_000).map(|_| rand::random()).collect();
    for len in [1, 100, 1000, 60_000] {
        let mut payload = Compressor::new(4, 15).compress(&noise[..len]).unwrap();
        // Empty blocks before it.
        payload.splice(0..0, [0, 0, 0, 0xff, 0xff].repeat(1000));
        let message = Inflater::new(15).inflate_alone(&payload, NO_LIMIT).unwrap();
        assert!(message == noise[..len] && message.capacity() <= 2 * len, "{} for {len}", message.capacity());
    }
}

/// The largest distance that a payload refers back, found by a decoder that is as simple as can be (RFC 1951).
fn farthest(payload: &[u8]) -> usize {
    const LENGTHS: [(usize, u32); 29] = [
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 0),
        (7, 0),
        (8, 0),
        (9, 0),
        (10, 0),
        (11, 1),
        (13, 1),
        (15, 1),
        (17, 1),
        (19, 2),
        (23, 2),
        (27, 2),
        (31, 2),
        (35, 3),
        (43, 3),
        (51, 3),
        (59, 3),
        (67, 4),
        (83, 4),
        (99, 4),
        (115, 4),
        (131, 5),
        (163, 5),
        (195, 5),
        (227, 5),
        (258, 0),
    ];
    struct Bits<'a>(&'a [u8], usize);
    impl Bits<'_> {
        fn take(&mut self, count: u32) -> usize {
            (0..count).fold(0, |value, bit| {
                let at = self.1;
                self.1 += 1;
                value | usize::from(self.0[at / 8] >> (at % 8) & 1) << bit
            })
        }
        /// A symbol of the code with these lengths.
        fn symbol(&mut self, lengths: &[u8]) -> usize {
            let (mut code, mut first, mut len) = (0, 0, 0);
            loop {
                len += 1;
                code = code << 1 | self.take(1);
                let of_len: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] == len).collect();
                if code < first + of_len.len() {
                    return of_len[code - first];
                }
                first = (first + of_len.len()) << 1;
                assert!(len < 15, "no such code");
            }
        }
    }
    let bytes = [payload, &FLUSH].concat();
    let (mut bits, mut farthest) = (Bits(&bytes, 0), 0);
    while bits.1 + 3 <= 8 * bytes.len() {
        let _is_last = bits.take(1);
        let (literals, distances) = match bits.take(2) {
            0 => {
                bits.1 = bits.1.next_multiple_of(8);
                let len = bits.take(16);
                bits.1 += 16 + 8 * len;
                continue;
            }
            1 => ([vec![8; 144], vec![9; 112], vec![7; 24], vec![8; 8]].concat(), vec![5; 30]),
            2 => {
                const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
                let (literals, distances, codes) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
                let mut code_lengths = [0; 19];
                ORDER[..codes].iter().for_each(|symbol| code_lengths[*symbol] = bits.take(3) as u8);
                let mut lengths = Vec::new();
                while lengths.len() < literals + distances {
                    let (value, times) = match bits.symbol(&code_lengths) {
                        16 => (*lengths.last().unwrap(), 3 + bits.take(2)),
                        17 => (0, 3 + bits.take(3)),
                        18 => (0, 11 + bits.take(7)),
                        len => (len as u8, 1),
                    };
                    lengths.extend(vec![value; times]);
                }
                let distances = lengths.split_off(literals);
                (lengths, distances)
            }
            _ => panic!("no such block"),
        };
        loop {
            match bits.symbol(&literals) {
                0..256 => {}
                256 => break,
                length => {
                    let _length = LENGTHS[length - 257].0 + bits.take(LENGTHS[length - 257].1);
                    let symbol = bits.symbol(&distances);
                    let extra = (symbol as u32 / 2).saturating_sub(1);
                    let base = if symbol < 4 { symbol + 1 } else { ((2 + symbol % 2) << extra) + 1 };
                    farthest = farthest.max(base + bits.take(extra));
                }
            }
        }
    }
    farthest
}

#[test]
fn no_message_refers_further_back_than_its_window() {
    // Words that come again at all distances.
    let mut text = Vec::new();
    let mut state = 1_u32;
    while text.len() < 60_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{{\"sensor\": {}}} ", state >> 26).as_bytes());
    }
    for level in 1..=9 {
        for bits in [8, 9, 10, 12, 15] {
            let mut compressor = Compressor::new(level, bits);
            // With what came before, as with context takeover.
            for message in text.chunks_exact(20_000) {
                let distance = farthest(&compressor.compress(message).unwrap());
                assert!(distance <= 1 << bits, "level {level}, {bits} bits: {distance}");
                assert!(distance > 100, "level {level}, {bits} bits: {distance}, so nothing was tested");
            }
        }
    }
    // The decoder above finds distances that are larger.
    assert!(farthest(&Compressor::new(6, 15).compress(&text).unwrap()) > 1 << 10);
}

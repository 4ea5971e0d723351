//! Fuzzing on stable Rust: properties that are checked on generated input for as long as you like.
//!
//! `cargo test` tries as many cases as proptest does by default. `HEARTWIRE_FUZZ_SECONDS=300 cargo test --release fuzz`
//! runs each property for that many seconds.

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::{env, fmt};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

/// Checks a property. proptest shrinks a failure and shows it.
pub(crate) fn check<S: Strategy>(input: &S, property: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = env::var("HEARTWIRE_FUZZ_SECONDS").ok().map(|seconds| seconds.parse().expect("whole seconds"));
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let cases = Cell::new(0_u64);
    loop {
        // No file of old failures: each one that was found has a test of its own.
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
        let outcome = runner.run(input, |value| {
            cases.set(cases.get() + 1);
            property(value)
        });
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
        if Instant::now() >= end {
            println!("{} cases", cases.get());
            return;
        }
    }
}

/// Bytes that `Debug` shows as text, so that a failure is readable.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// The bytes in pieces, cut at these places. None of them is empty.
pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let mut start = 0;
    let pieces = ends.into_iter().map(|end| &bytes[std::mem::replace(&mut start, end)..end]);
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// One change to something valid.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Flip(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Delete(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
}

impl Mutation {
    /// Some mutations, often none. Most bytes that they set come from `telling`.
    pub(crate) fn some(telling: &'static [u8]) -> impl Strategy<Value = Vec<Self>> {
        let place = any::<prop::sample::Index>;
        let byte = move || prop_oneof![2 => prop::sample::select(telling), 1 => any::<u8>()];
        let one = prop_oneof![
            (place(), 0_u8..8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (place(), byte()).prop_map(|(at, byte)| Self::Set(at, byte)),
            (place(), prop::collection::vec(byte(), 1..8)).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            (place(), 1_usize..16).prop_map(|(at, len)| Self::Delete(at, len)),
            (place(), 1_usize..64).prop_map(|(at, len)| Self::Repeat(at, len)),
            place().prop_map(Self::Truncate),
        ];
        prop::collection::vec(one, 0..5)
    }

    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let range = |at: &prop::sample::Index, count: usize| at.index(len)..(at.index(len) + count).min(len);
        match self {
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Insert(at, new) => drop(bytes.splice(at.index(len)..at.index(len), new.iter().copied())),
            Self::Delete(at, count) => drop(bytes.drain(range(at, *count))),
            Self::Repeat(at, count) => {
                let again = bytes[range(at, *count)].to_vec();
                bytes.splice(at.index(len)..at.index(len), again);
            }
            Self::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
}

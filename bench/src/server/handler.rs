//! A handler that does what a message asks for, the same function in all servers, and how a server calls it.
//!
//! What is asked for stands after the number of a message ([`Template::asking`](crate::answers::Template::asking)):
//! `block 200` sleeps for 200 ms, as a query or a file would take them, `compute 20` takes 20 ms of processor time.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};

use crate::answers::Template;

/// Where a server calls the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Calls {
    /// Where the message was received: on the connection's thread, or in the middle of its task.
    InPlace,
    /// On the runtime's threads for blocking work; runtimes only. What asks for nothing is answered in place.
    Offloaded,
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Nothing,
    Block(Duration),
    Compute(Duration),
}

impl Work {
    pub(super) fn of(payload: &[u8]) -> Self {
        let asked = payload.get(Template::DIGITS..).and_then(|asked| str::from_utf8(asked).ok()).unwrap_or_default();
        let mut words = asked.split_ascii_whitespace();
        let (verb, millis) = (words.next(), words.next().and_then(|millis| millis.parse().ok()));
        match (verb, millis.map(Duration::from_millis)) {
            (Some("block"), Some(time)) => Self::Block(time),
            (Some("compute"), Some(time)) => Self::Compute(time),
            _ => Self::Nothing,
        }
    }

    /// The handler.
    pub(super) fn run(self) {
        match self {
            Self::Nothing => {}
            Self::Block(time) => thread::sleep(time),
            Self::Compute(time) => compute(time),
        }
    }
}

/// Takes this much processor time, however long that lasts on a busy machine.
fn compute(time: Duration) {
    let until = processor_time() + time;
    let mut number = 1_u64;
    while processor_time() < until {
        for _ in 0..20_000 {
            number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_asks_for_stands_after_its_number() {
        assert_eq!(Work::of(b"0000000000000007 block 200 "), Work::Block(Duration::from_millis(200)));
        assert_eq!(Work::of(b"0000000000000007 compute 20 "), Work::Compute(Duration::from_millis(20)));
        for nothing in [&b"0000000000000007 12 "[..], b"0000000000000007", b"block 200", b"\xff"] {
            assert_eq!(Work::of(nothing), Work::Nothing);
        }
    }

    #[test]
    fn computing_takes_processor_time() {
        let before = processor_time();
        Work::of(b"0000000000000000 compute 5 ").run();
        assert!(processor_time() - before >= Duration::from_millis(5));
    }
}

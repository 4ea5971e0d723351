//! The feature `testing` as the tests of applications use it: each conduct of a peer against a real server and a real
//! client, and handlers in memory. What is asserted is the cause of the end, as the real code reports it.

mod clients;
mod example;
mod memory;
mod servers;

use std::thread;
use std::time::{Duration, Instant};

use heartwire::{CloseCode, CloseReason, HeartbeatPolicy};

/// A ceiling that only a failing test reaches.
const CEILING: Duration = Duration::from_secs(30);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Finds a dead peer soon.
fn quick() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(20), ms(40)).max_missed(2)
}

/// Pings often, and leaves a peer all the time that a busy machine may need to answer.
fn patient() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(20), CEILING)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + CEILING;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        thread::sleep(ms(1));
    }
}

fn closed_by_peer(code: u16, reason: &str) -> CloseReason {
    CloseReason::Peer { code: Some(CloseCode::from(code)), reason: reason.to_owned() }
}

//! Connections over real sockets: their heartbeats, what they send and receive, and how they end.
//!
//! Lower bounds of time are exact, since a peer must be given its time. Upper bounds have [`SLACK`]: on a machine that
//! is busy a deadline may be noticed late, and then it is no miss.

mod closing;
#[cfg(feature = "deflate")]
mod compression;
#[cfg(target_os = "linux")]
mod costs;
mod dead_peers;
mod disconnects;
mod live_peers;
mod peer_led_windows;
mod pings;
mod policies;
mod receiving;
mod report;
mod sending;
mod stand_in;
mod text_heartbeat;
mod violations;

use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;

use crate::support::{Running, SLACK, echo, lost, ms, server, start};

/// Worst case 300 ms.
fn brisk() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(100), ms(100)).max_missed(2)
}

fn start_echo(policy: HeartbeatPolicy) -> Running {
    start(server().heartbeat(policy), echo)
}

fn led(expect: Duration) -> HeartbeatPolicy {
    HeartbeatPolicy::peer_led(expect).timeout(ms(100)).max_missed(2)
}

/// Waits for the peer to be found dead, not before `silence` from now has passed, nor much later.
fn dies_after(running: &Running, last_life: Instant, silence: Duration) {
    let report = running.closed();
    let took = last_life.elapsed();
    assert_eq!((lost(&report), report.pings), (2, 0), "{report:?}");
    assert!(took >= silence && took < silence + SLACK, "dead after {took:?} instead of {silence:?}");
}

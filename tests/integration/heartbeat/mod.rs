//! The state machine of the heartbeat, without a socket: a [`World`](world::World) around it whose clock jumps, so that
//! no test waits. `schedule` is when Pings leave and misses fall, `evidence` what may be concluded from what,
//! `lateness` what our own lateness changes, `peer_led` where the peer beats. `properties` are bounds under random
//! schedules of everything.

mod evidence;
mod lateness;
mod peer_led;
mod properties;
mod schedule;
mod strategies;
mod world;

use std::time::Duration;

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::Action::{self, Ping, Stalled};
use heartwire::heartbeat::Liveness::AnyByte;

use world::{S, World};

/// The default one, spelt out: dead after 30 s of silence from the first Ping on.
fn policy() -> HeartbeatPolicy {
    HeartbeatPolicy::new(20 * S, 10 * S).max_missed(3).liveness(AnyByte)
}

const LIMIT: Action = Stalled(Duration::from_secs(30));

fn misses(world: &World) -> Vec<(Duration, Action)> {
    world.trace.iter().filter(|(_, action)| *action != Ping).copied().collect()
}

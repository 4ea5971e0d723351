//! What the tests share: servers and clients to test, other ends made by hand, ways to wait, and counts of threads.
//!
//! Nothing here waits for ever: whatever does not come within [`CEILING`] fails the test, and says what did come.

pub(crate) mod alone;
mod bare_client;
mod bare_server;
#[cfg(feature = "deflate")]
pub(crate) mod deflate;
#[cfg(feature = "tls")]
pub(crate) mod duplex;
mod events;
mod fake_proxy;
#[cfg(feature = "auth-url")]
pub(crate) mod fake_service;
mod folder;
mod frames;
mod live_peer;
pub(crate) mod over_tls;
#[cfg(feature = "cli")]
pub(crate) mod process;
#[cfg(feature = "topics")]
pub(crate) mod relay;
mod running_client;
mod running_server;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "tls")]
pub(crate) mod tls_end;
#[cfg(feature = "topics")]
pub(crate) mod topics;
#[cfg(target_os = "linux")]
pub(crate) mod usage;
pub(crate) mod wire;

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use heartwire::{Message, Sender, TrySendError};

pub(crate) use alone::alone;
pub(crate) use bare_client::{Answer, Client, End, Incoming, exchange, request, request_with};
pub(crate) use bare_server::{BareConnection, BareServer, BlackHole, ClosedPort, acceptance, refusal, unmasked};
pub(crate) use events::{Events, by_peer, by_us, closures, codes, is_closed, lost};
pub(crate) use fake_proxy::{FakeProxy, ProxyConnection};
pub(crate) use folder::Folder;
pub(crate) use frames::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, fragment, masked};
pub(crate) use live_peer::live;
pub(crate) use over_tls::plain_only;
#[cfg(feature = "topics")]
pub(crate) use relay::Relay;
pub(crate) use running_client::{RunningClient, client, client_for, listen, quick, run, url};
pub(crate) use running_server::{Running, echo, server, start, start_as_it_is, start_listening};
#[cfg(target_os = "linux")]
pub(crate) use usage::{open_sockets, threads_named};

/// How long anything may take on a busy machine before the test fails. Only a failing test ever waits so long.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// What a busy machine may add to a bound.
pub(crate) const SLACK: Duration = Duration::from_secs(10);

/// Longer than any test takes: a timeout of this length is not what ends anything.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Waits until a condition holds that no event tells of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + CEILING;
    while !holds() {
        assert!(Instant::now() < deadline, "waiting in vain until {what}");
        thread::sleep(ms(2));
    }
}

/// Waits for what another thread sends.
pub(crate) fn receive<T>(what: &str, receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(CEILING).unwrap_or_else(|why| panic!("waiting for {what}: {why}"))
}

/// Fills the queue of a peer that does not read, and gives the message that was not taken.
pub(crate) fn fill(sender: &Sender) -> Message {
    let start = Instant::now();
    let mut waiting = None;
    loop {
        match sender.try_send(vec![3; 10_000]) {
            Ok(()) => {
                assert!(start.elapsed() < CEILING, "never full");
                waiting = None;
            }
            // Full for good is what stays so: the kernel may still be making room.
            Err(TrySendError::Full(message)) if waiting == Some(sender.queued()) => return message,
            Err(TrySendError::Full(_)) => {
                waiting = Some(sender.queued());
                thread::sleep(ms(20));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// A small generator of numbers that look random, the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

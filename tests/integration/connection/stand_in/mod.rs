//! While a handler is away from `recv`, a thread stands in for it: the peer is answered and judged all the same, and
//! what it sends waits in order.

mod closing;
mod heartbeat;
mod read_ahead;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender as Queue, bounded, unbounded};
use heartwire::{Connection, Error, HeartbeatPolicy, Sender, Server};

use crate::support::{Running, ms, start};

/// Longer than any test takes: a handler that is away for good, until its test lets it go.
struct Absence {
    gate: Receiver<()>,
}

/// A server whose handler takes one message, if it is to, and then waits for the gate: until that is dropped.
pub(super) fn start_away(server: Server, takes_first: bool, then: Then) -> (Running, Queue<()>, Receiver<Sender>) {
    let (open, gate) = bounded(0);
    let (senders, received) = unbounded();
    let absence = Arc::new(Absence { gate });
    let running = start(server, move |conn| {
        let _ = senders.send(conn.sender());
        if takes_first {
            conn.recv()?;
        }
        let _ = absence.gate.recv();
        then(conn)
    });
    (running, open, received)
}

pub(super) type Then = fn(&mut Connection) -> Result<(), Error>;

fn quick() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(400), ms(400)).max_missed(2)
}

//! The overflow: clients that hold no connection slot but still have a thread.
//!
//! They came when a limit was reached and wait for their refusal, or they were answered without becoming a connection
//! and have not hung up yet. Their number has a bound of its own. Beyond it the client that has been silent for longest
//! is dropped for the newcomer, so a client that sends its request is answered however many others stay silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::supervisor::pending_handshake::PendingHandshake;
use crate::transport::socket;

/// The overflow of one server.
#[derive(Debug)]
pub(crate) struct Overflow {
    slots: usize,
    /// Protects the list; taken for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of arrival.
    clients: Vec<Arc<PendingHandshake>>,
    /// Threads of these clients, and of dropped ones that have not ended yet.
    threads: usize,
}

/// A client's slot in the overflow. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct OverflowSlot {
    overflow: Arc<Overflow>,
    pending: Arc<PendingHandshake>,
}

impl Overflow {
    /// Enough for health checks and for a burst of clients that are told to retry.
    pub(crate) const SLOTS: usize = 64;

    /// With room for so many clients.
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, state: Mutex::default() }
    }

    /// The thread of a dropped client ends as soon as it gets to run. If so many have not, no more clients are
    /// admitted.
    fn max_threads(&self) -> usize {
        2 * self.slots
    }

    /// Takes a client in. If all slots are taken, the client that has been silent for longest is dropped. `None` if
    /// there are too many threads already.
    pub(crate) fn admit(self: &Arc<Self>, pending: &Arc<PendingHandshake>) -> Option<OverflowSlot> {
        let mut state = self.lock();
        if state.threads >= self.max_threads() {
            return None;
        }
        let dropped = (state.clients.len() >= self.slots).then(|| state.remove_longest_silent()).flatten();
        // Under the lock, so that it cannot free its slot and become a connection before it is dropped.
        if let Some(dropped) = dropped {
            dropped.evict();
        }
        state.threads += 1;
        state.clients.push(Arc::clone(pending));
        drop(state);
        Some(OverflowSlot { overflow: Arc::clone(self), pending: Arc::clone(pending) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove_longest_silent(&mut self) -> Option<Arc<PendingHandshake>> {
        let mut by_silence: Vec<_> =
            self.clients.iter().enumerate().map(|(index, pending)| (pending.heard_at(), index)).collect();
        // Among equally silent clients the first to arrive goes.
        by_silence.sort_unstable();
        // Where processors are short, a client's thread may not have got to what the client has sent.
        let is_silent = |(_, index): &&(Instant, usize)| socket::unread_bytes(&self.clients[*index].stream) == 0;
        let (_, index) = *by_silence.iter().find(is_silent).or(by_silence.first())?;
        Some(self.clients.remove(index))
    }
}

impl Drop for OverflowSlot {
    fn drop(&mut self) {
        let mut state = self.overflow.lock();
        state.threads -= 1;
        state.clients.retain(|other| !Arc::ptr_eq(other, &self.pending));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pending_handshakes(count: usize) -> (Vec<Arc<PendingHandshake>>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs = (0..count).map(|number| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            {
                let (stream, peer) = listener.accept().unwrap();
                (Arc::new(PendingHandshake::new(number as u64, peer, stream.into())), client)
            }
        });
        pairs.unzip()
    }

    #[test]
    fn what_has_arrived_and_is_not_read_yet_breaks_the_silence() {
        let (pending_handshakes, mut clients) = pending_handshakes(5);
        let overflow = Arc::new(Overflow::new(3));
        let admit = |number: usize| overflow.admit(&pending_handshakes[number]);
        let mut slots: Vec<_> = (0..3).map(admit).collect();
        // The threads of these two wait for a processor.
        for number in [0, 1] {
            clients[number].write_all(b"hello").unwrap();
            socket::wait_readable(&pending_handshakes[number].stream, None).unwrap();
        }
        let dropped = || (0..5).filter(|number| pending_handshakes[*number].was_evicted()).collect::<Vec<_>>();
        slots.push(admit(3));
        assert_eq!(dropped(), [2]);
        // If all have said something, one of them has to go.
        clients[3].write_all(b"hello").unwrap();
        socket::wait_readable(&pending_handshakes[3].stream, None).unwrap();
        slots.push(admit(4));
        assert_eq!(dropped(), [0, 2]);
    }

    #[test]
    fn the_longest_silent_is_dropped_and_threads_stay_bounded() {
        let (pending_handshakes, _clients) = pending_handshakes(2 * Overflow::SLOTS + 2);
        let overflow = Arc::new(Overflow::new(Overflow::SLOTS));
        let mut slots: Vec<Option<OverflowSlot>> =
            pending_handshakes[..Overflow::SLOTS].iter().map(|pending| overflow.admit(pending)).collect();
        assert!(slots.iter().all(Option::is_some) && !pending_handshakes.iter().any(|pending| pending.was_evicted()));
        // The first has sent something since, so the second is dropped.
        pending_handshakes[0].mark_heard();
        slots.push(overflow.admit(&pending_handshakes[Overflow::SLOTS]));
        let dropped = |pending_handshakes: &[Arc<PendingHandshake>]| -> Vec<usize> {
            (0..pending_handshakes.len()).filter(|number| pending_handshakes[*number].was_evicted()).collect()
        };
        assert_eq!(dropped(&pending_handshakes), [1]);
        // A client that leaves by itself frees its slot.
        slots[2] = None;
        slots.push(overflow.admit(&pending_handshakes[Overflow::SLOTS + 1]));
        assert_eq!(dropped(&pending_handshakes), [1]);
        // The threads of dropped clients do not get to end.
        for pending in &pending_handshakes[Overflow::SLOTS + 2..] {
            slots.push(overflow.admit(pending));
        }
        assert!(slots.iter().filter(|slot| slot.is_some()).count() == overflow.max_threads());
        assert!(slots.last().is_some_and(Option::is_none), "a thread too many");
        slots[1] = None;
        assert!(overflow.admit(pending_handshakes.last().unwrap()).is_some());
    }
}

//! Clients that keep their connection between two plain HTTP requests, and have none under way.
//!
//! Such a client has a thread, and so it holds a connection slot. But it gives way to any newcomer: if no slot is free,
//! the client that has been idle for longest is dropped, and the newcomer takes its slot. So idle clients keep nobody
//! out, and at one listener there are never more threads than there may be connections, and a few.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::supervisor::pending_handshake::PendingHandshake;
use crate::transport::socket;

/// The idle clients of one server.
#[derive(Debug, Default)]
pub(super) struct KeptClients {
    /// Protects the list; taken for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they became idle. Since then they have been silent.
    idle: BTreeMap<u64, Arc<PendingHandshake>>,
    next: u64,
    /// Those that were dropped, and whose threads have not noticed yet.
    dropped: usize,
}

/// The place of one idle client. It must be [left](KeptClients::leave).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl KeptClients {
    /// The thread of a dropped client ends as soon as it gets to run. If so many have not, no more clients are dropped.
    const MOST_DROPPED: usize = 64;
    /// Clients that have sent something are spared, if there is another among so many.
    const MOST_SPARED: usize = 16;

    /// From here on the client is idle, and may be dropped.
    pub(super) fn enter(&self, pending: &Arc<PendingHandshake>) -> Place {
        let mut state = self.lock();
        let place = state.next;
        state.next += 1;
        state.idle.insert(place, Arc::clone(pending));
        Place(place)
    }

    /// The client is idle no longer. Whether it still has its slot: `false` if it was dropped.
    pub(super) fn leave(&self, place: Place) -> bool {
        let mut state = self.lock();
        let is_kept = state.idle.remove(&place.0).is_some();
        state.dropped -= usize::from(!is_kept);
        is_kept
    }

    /// Drops the client that has been idle for longest. If there was one, its slot is the caller's.
    pub(super) fn drop_one(&self) -> bool {
        let mut state = self.lock();
        if state.dropped >= Self::MOST_DROPPED {
            return false;
        }
        let is_silent = |(_, pending): &(&u64, &Arc<PendingHandshake>)| socket::unread_bytes(&pending.stream) == 0;
        let chosen = state.idle.iter().take(Self::MOST_SPARED).find(is_silent).or(state.idle.iter().next());
        let Some(place) = chosen.map(|(place, _)| *place) else { return false };
        if let Some(pending) = state.idle.remove(&place) {
            state.dropped += 1;
            // Under the lock, so that its thread cannot take it for a client that hung up.
            pending.evict();
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().idle.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn clients(count: u64) -> (Vec<Arc<PendingHandshake>>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs = (0..count).map(|number| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            (Arc::new(PendingHandshake::new(number, peer, stream.into())), client)
        });
        pairs.unzip()
    }

    #[test]
    fn the_longest_idle_gives_way_unless_it_has_sent_something() {
        let (pending, mut ends) = clients(3);
        let kept = KeptClients::default();
        assert!(!kept.drop_one(), "there is none");
        let places: Vec<Place> = pending.iter().map(|pending| kept.enter(pending)).collect();
        ends[0].write_all(b"G").unwrap();
        socket::wait_readable(&pending[0].stream, None).unwrap();
        assert!(kept.drop_one());
        let dropped = |pending: &[Arc<PendingHandshake>]| {
            (0..pending.len()).filter(|index| pending[*index].was_evicted()).collect::<Vec<_>>()
        };
        assert_eq!(dropped(&pending), [1]);
        assert!(kept.leave(places[2]) && !kept.leave(places[1]));
        assert!(kept.drop_one(), "better than nobody");
        assert_eq!(dropped(&pending), [0, 1]);
        assert!(!kept.leave(places[0]) && kept.is_empty() && !kept.drop_one());
    }

    #[test]
    fn threads_of_dropped_clients_stay_bounded() {
        let (pending, _ends) = clients(KeptClients::MOST_DROPPED as u64 + 2);
        let kept = KeptClients::default();
        let places: Vec<Place> = pending.iter().map(|pending| kept.enter(pending)).collect();
        for _ in 0..KeptClients::MOST_DROPPED {
            assert!(kept.drop_one());
        }
        assert!(!kept.drop_one(), "a thread too many");
        assert!(!kept.leave(places[0]));
        assert!(kept.drop_one());
    }
}

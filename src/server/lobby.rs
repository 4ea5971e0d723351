//! Clients without a place: those that came when there was none left, and those that were answered or refused and have
//! not hung up yet.
//!
//! Each has a thread, so there is a bound on them of their own. Beyond it whoever has been silent for longest is dropped
//! for the newcomer: a client that says what it wants is answered, however many sit there and say nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::supervisor::pending_handshake::PendingHandshake;

/// Where they wait.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    /// Protects the list; taken for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seated: Vec<Arc<PendingHandshake>>,
    /// Threads of those that are seated, and of those that were dropped and are on their way out.
    threads: usize,
}

/// One of them, until it goes or is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    lobby: Arc<Lobby>,
    pending: Arc<PendingHandshake>,
}

impl Lobby {
    /// Enough for health checks and for a burst of clients that are told to come again.
    pub(crate) const SEATS: usize = 64;
    /// Those that were dropped end as soon as their threads have their turn. If so many have not had it, no more come in.
    const THREADS: usize = 2 * Self::SEATS;

    /// Takes a client in, if need be in the place of the one that has been silent for longest. `None` if that would be too
    /// many threads.
    pub(crate) fn enter(self: &Arc<Self>, pending: &Arc<PendingHandshake>) -> Option<Seat> {
        let mut state = self.lock();
        if state.threads >= Self::THREADS {
            return None;
        }
        let dropped = (state.seated.len() >= Self::SEATS).then(|| state.take_longest_silent()).flatten();
        state.threads += 1;
        state.seated.push(Arc::clone(pending));
        drop(state);
        if let Some(dropped) = dropped {
            dropped.evict();
        }
        Some(Seat { lobby: Arc::clone(self), pending: Arc::clone(pending) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_longest_silent(&mut self) -> Option<Arc<PendingHandshake>> {
        let (place, _) = self.seated.iter().enumerate().min_by_key(|(_, pending)| pending.heard_at())?;
        // The list is in the order of coming, by which those go that have been silent for equally long.
        Some(self.seated.remove(place))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.lobby.lock();
        state.threads -= 1;
        state.seated.retain(|other| !Arc::ptr_eq(other, &self.pending));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pending_handshakes(count: usize) -> (Vec<Arc<PendingHandshake>>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs = (0..count).map(|number| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            {
                let (stream, peer) = listener.accept().unwrap();
                (Arc::new(PendingHandshake::new(number as u64, peer, stream)), client)
            }
        });
        pairs.unzip()
    }

    #[test]
    fn the_longest_silent_makes_room_and_threads_stay_bounded() {
        let (pending_handshakes, _clients) = pending_handshakes(Lobby::THREADS + 2);
        let lobby = Arc::new(Lobby::default());
        let mut seats: Vec<Option<Seat>> =
            pending_handshakes[..Lobby::SEATS].iter().map(|pending| lobby.enter(pending)).collect();
        assert!(seats.iter().all(Option::is_some) && !pending_handshakes.iter().any(|pending| pending.was_evicted()));
        // The first has said something since, so the second goes.
        pending_handshakes[0].mark_heard();
        seats.push(lobby.enter(&pending_handshakes[Lobby::SEATS]));
        let dropped = |pending_handshakes: &[Arc<PendingHandshake>]| -> Vec<usize> {
            (0..pending_handshakes.len()).filter(|number| pending_handshakes[*number].was_evicted()).collect()
        };
        assert_eq!(dropped(&pending_handshakes), [1]);
        // Whoever has left by itself makes room as well.
        seats[2] = None;
        seats.push(lobby.enter(&pending_handshakes[Lobby::SEATS + 1]));
        assert_eq!(dropped(&pending_handshakes), [1]);
        // The threads of those that were dropped do not come to their end.
        for pending in &pending_handshakes[Lobby::SEATS + 2..] {
            seats.push(lobby.enter(pending));
        }
        assert!(seats.iter().filter(|seat| seat.is_some()).count() == Lobby::THREADS);
        assert!(seats.last().is_some_and(Option::is_none), "a thread too many");
        seats[1] = None;
        assert!(lobby.enter(pending_handshakes.last().unwrap()).is_some());
    }
}

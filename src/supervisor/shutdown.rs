//! The shutdown of a server or client: every connection gets a Close frame, peers have until one deadline to answer it,
//! and handlers have until another to return.
//!
//! Invariants: the supervisor does not wait for a lock that a connection's thread holds, unless the last deadline has
//! passed; every connection is reported closed before the shutdown is complete.

use std::sync::Arc;
use std::time::Instant;

use crate::connection::shared::Shared;
use crate::http::forwarded::Remote;
use crate::protocol::close::CloseReason;
use crate::supervisor::{RETRY_PAUSE, Supervisor};
use crate::transport::socket;

/// A shutdown under way.
pub(super) struct Shutdown {
    /// What all connections are closed with.
    reason: CloseReason,
    /// By when peers have to answer our Close frames.
    peer_deadline: Instant,
    /// By when handlers have to return.
    handler_deadline: Instant,
    /// Whether the peers' deadline has passed and connections are cut.
    are_peers_cut: bool,
    /// Connections whose lock another thread held. Where processors are short, that thread may hold it for as long as
    /// it waits for a processor, and so may each of thousands. So the supervisor does not wait, but tries these again.
    locked: Vec<Arc<Shared>>,
}

impl Shutdown {
    /// When the shutdown next has something to do.
    pub(super) fn next_deadline(&self) -> Instant {
        let deadline = if self.are_peers_cut { self.handler_deadline } else { self.peer_deadline };
        match self.locked.is_empty() {
            true => deadline,
            false => deadline.min(Instant::now() + RETRY_PAUSE),
        }
    }

    /// Begins to close a connection, or cuts it after the peers' deadline. Never blocks.
    pub(super) fn stop(&mut self, shared: &Arc<Shared>) {
        let is_done = match self.are_peers_cut {
            false => shared.try_begin_close(self.reason.clone()),
            true => shared.try_abort(self.reason.clone()),
        };
        if !is_done {
            self.locked.push(Arc::clone(shared));
        }
    }

    fn retry_locked(&mut self) {
        for shared in std::mem::take(&mut self.locked) {
            self.stop(&shared);
        }
    }
}

impl Supervisor {
    /// Begins an orderly shutdown: turns pending handshakes away and sends a Close frame to every connection.
    pub(super) fn begin_shutdown(&mut self, reason: CloseReason) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown_under_way(reason);
        for pending in self.pending_handshakes.values() {
            pending.turn_away();
        }
        if let Some(shutdown) = &mut self.shutdown {
            self.registry.values().for_each(|shared| shutdown.stop(shared));
        }
    }

    /// Begins a shutdown that waits for no peer, because a thread of ours has panicked.
    pub(super) fn cut_all(&mut self) {
        self.shutdown_under_way(CloseReason::shutdown()).peer_deadline = Instant::now();
    }

    /// The shutdown under way, which begins now if none has.
    fn shutdown_under_way(&mut self, reason: CloseReason) -> &mut Shutdown {
        let now = Instant::now();
        // The last eighth of the close timeout is for the threads to end in, so that the shutdown as a whole keeps it.
        self.shutdown.get_or_insert(Shutdown {
            reason,
            peer_deadline: now + self.close_timeout * 7 / 8,
            handler_deadline: now + self.close_timeout,
            are_peers_cut: false,
            locked: Vec::new(),
        })
    }

    /// Whether the shutdown is complete. Cuts peers at their deadline and abandons handlers at theirs.
    pub(super) fn has_ended(&mut self, now: Instant) -> bool {
        let Some(shutdown) = &mut self.shutdown else { return false };

        // All threads have ended. Their last notices are in the channel, because each was sent before its thread ended.
        if self.registry.is_empty() && self.pending_handshakes.is_empty() && !self.expects_more {
            return self.notices.is_empty();
        }

        // The peers' deadline: cut and report every connection. One that opens later is cut when its notice arrives.
        if !shutdown.are_peers_cut && now >= shutdown.peer_deadline {
            shutdown.are_peers_cut = true;
            shutdown.locked.clear();
            self.registry.values().for_each(|shared| shutdown.stop(shared));
            for pending in self.pending_handshakes.values() {
                socket::shut_down(&pending.stream);
            }
        } else {
            shutdown.retry_locked();
        }

        // The handlers' deadline: report every connection, even if that has to wait for a lock, and abandon the
        // threads.
        if now < shutdown.handler_deadline {
            return false;
        }
        for shared in std::mem::take(&mut shutdown.locked) {
            shared.abort(shutdown.reason.clone());
        }
        if !self.notices.is_empty() {
            return false;
        }
        let log = &self.supervisor.log;
        for id in self.registry.keys() {
            log.error(format_args!("#{id} handler did not return; its thread is abandoned"));
        }
        for pending in self.pending_handshakes.values() {
            log.error(format_args!(
                "{} opening handshake did not end; its thread is abandoned",
                Remote::from(pending.peer)
            ));
        }
        true
    }
}

//! The slot: holds the receiving end of a connection while its thread does not drive it, and knows where that thread
//! is.
//!
//! The thread takes the [`ReceivingEnd`] when its handler calls `recv`. It puts it back when it leaves `recv`, and
//! while it only waits for the peer.
//!
//! Invariants: other threads use the receiving end only in the slot, briefly and under its lock. They are the stand-in
//! while the thread is away, and threads that change the heartbeat.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connection::receiving_end::{Over, ReceivingEnd};
use crate::connection::shared::Shared;
use crate::error::Error;
use crate::heartbeat::HeartbeatPolicy;
use crate::supervisor::notice::Notice;
use crate::supervisor::stand_in::{Check, GRACE, Socket};

/// The receiving end, while the connection's thread does not drive it.
pub(super) struct Slot {
    /// Protects the receiving end and the whereabouts of the connection's thread. The stand-in holds it for one look,
    /// other threads for moments only.
    state: Mutex<State>,
    /// Whether another thread has requested a heartbeat. Read without the lock.
    has_request: AtomicBool,
}

#[derive(Default)]
struct State {
    /// `None` while the thread drives it, and after the end.
    receiving: Option<Box<ReceivingEnd>>,
    /// When the thread left `recv` for its handler; `None` while it is in `recv`.
    away_since: Option<Instant>,
    /// Whether the current absence was reported as a stalled handler.
    is_reported: bool,
    /// Whether the stand-in looks here soon, so a thread that leaves `recv` need not notify it. Once the stand-in has
    /// taken over, it looks at its own deadlines, which may be far away.
    is_listed: bool,
    /// Whether the thread waits in `recv` with an outdated deadline. The stand-in then keeps the new one.
    is_stale: bool,
    /// A heartbeat that another thread requested while the receiving end was not here.
    requested: Option<HeartbeatPolicy>,
}

impl Slot {
    /// Makes the slot of a connection whose thread has not begun to receive.
    pub(super) fn new(now: Instant) -> Self {
        let state = State { away_since: Some(now), ..State::default() };
        Self { state: Mutex::new(state), has_request: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Takes the receiving end for the connection's thread, which enters `recv` or wakes up there. `None` after the
    /// end.
    pub(crate) fn take_receiving_end(&self) -> Option<Box<ReceivingEnd>> {
        let mut slot = self.slot.lock();
        slot.away_since = None;
        slot.is_reported = false;
        slot.is_stale = false;
        slot.receiving.take()
    }

    /// Announces the connection to the supervisor and the stand-in, before its thread calls the handler.
    pub(crate) fn announce_open(self: &Arc<Self>) {
        self.supervisor.notify(Notice::Opened(Arc::clone(self)));
        self.list_for_stand_in();
    }

    /// Makes the stand-in look at the connection, whether or not it is on its list.
    pub(crate) fn list_for_stand_in(self: &Arc<Self>) {
        self.slot.lock().is_listed = true;
        self.supervisor.stand_in.watch(Arc::clone(self));
    }

    /// Puts the receiving end back when the connection's thread returns to its handler.
    #[inline(always)]
    pub(crate) fn leave_recv(self: &Arc<Self>, mut receiving: Box<ReceivingEnd>, now: Instant) {
        let mut slot = self.slot.lock();
        if slot.requested.is_some() {
            self.apply_request(&mut slot, &mut receiving);
        }
        slot.receiving = Some(receiving);
        slot.away_since = Some(now);
        let is_listed = std::mem::replace(&mut slot.is_listed, true);
        drop(slot);
        if !is_listed {
            self.supervisor.stand_in.watch(Arc::clone(self));
        }
    }

    #[cold]
    fn apply_request(self: &Arc<Self>, slot: &mut State, receiving: &mut ReceivingEnd) {
        if let Some(policy) = slot.requested.take() {
            // If the Ping cannot be written, the next read returns the cause.
            let _ = receiving.change_heartbeat(self, policy);
        }
    }

    /// Puts the receiving end into the slot before the connection's thread begins, or while it waits for the peer.
    ///
    /// Returns it if another thread has requested a heartbeat that is not applied yet.
    pub(crate) fn offer(&self, receiving: Box<ReceivingEnd>) -> Option<Box<ReceivingEnd>> {
        let mut slot = self.slot.lock();
        if slot.requested.is_some() {
            return Some(receiving);
        }
        slot.receiving = Some(receiving);
        None
    }

    /// How long the connection's thread has been in its handler; `None` while it is in `recv`.
    pub(crate) fn away_for(&self, now: Instant) -> Option<Duration> {
        self.slot.lock().away_since.map(|since| now.saturating_duration_since(since))
    }

    // Changing the heartbeat.

    /// Calls a function on the receiving end, if it is in the slot.
    pub(crate) fn with_receiving_end<T>(&self, look: impl FnOnce(&mut ReceivingEnd) -> T) -> Option<T> {
        self.slot.lock().receiving.as_deref_mut().map(look)
    }

    /// Changes the heartbeat from any thread. If the policy sends Pings, one leaves at once: it announces the new
    /// interval, and its miss clock finds a peer that is dead already.
    pub(crate) fn request_heartbeat(self: &Arc<Self>, policy: HeartbeatPolicy) -> Result<(), Error> {
        let mut slot = self.slot.lock();
        let slot_ref = &mut *slot;
        let pinged = match &mut slot_ref.receiving {
            Some(receiving) => {
                let pinged = receiving.change_heartbeat(self, policy);
                slot_ref.is_stale = slot_ref.away_since.is_none();
                slot_ref.is_listed = true;
                pinged
            }
            // The connection's thread has it, and checks for requests soon.
            None => {
                slot_ref.requested = Some(policy);
                self.slot.has_request.store(true, Relaxed);
                drop(slot);
                return if self.write_half.is_closing() { Err(self.closed()) } else { Ok(()) };
            }
        };
        drop(slot);
        self.supervisor.stand_in.watch(Arc::clone(self));
        pinged
    }

    /// Takes the heartbeat that another thread has requested since the last call.
    pub(crate) fn take_requested_heartbeat(&self) -> Option<HeartbeatPolicy> {
        if !self.slot.has_request.load(Relaxed) {
            return None;
        }
        self.slot.has_request.store(false, Relaxed);
        self.slot.lock().requested.take()
    }

    // Standing in.

    /// One look of the stand-in at a connection on its list.
    pub(crate) fn stand_in(self: &Arc<Self>, now: Instant) -> Check {
        self.slot.lock().look(self, now).unwrap_or(Check::NotNeeded)
    }
}

impl State {
    fn look(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Check, Over> {
        self.is_listed = false;
        let Some(receiving) = self.receiving.as_deref_mut() else { return Ok(Check::NotNeeded) };
        let Some(since) = self.away_since else {
            // The thread waits in `recv`.
            if !self.is_stale {
                return Ok(Check::NotNeeded);
            }
            // Bytes that arrive wake the thread, and it reads them. Only its deadline must be kept here.
            let at = receiving.beat_if_due(shared, now)?;
            self.is_stale = at.is_some();
            return Ok(if self.is_stale { Check::Again { at, socket: None } } else { Check::NotNeeded });
        };
        let from = since + GRACE;
        if now < from {
            // The thread has just left. It may soon be back and read by itself, but deadlines do not wait for that.
            let at = receiving.beat_if_due(shared, now)?;
            self.is_listed = true;
            return Ok(Check::Again { at: Some(at.map_or(from, |at| at.min(from))), socket: None });
        }
        // The thread stays away: stand in for it, and report an absence that exceeds the period once.
        let (mut at, reads) = receiving.stand_in(shared, now)?;
        if let Some(period) = receiving.policy().period().filter(|_| !self.is_reported) {
            let away = now.saturating_duration_since(since);
            if away >= period {
                self.is_reported = true;
                shared.notify_unless_over(Notice::HandlerStalled { connection: shared.identity, away });
            } else {
                at = Some(at.map_or(since + period, |at| at.min(since + period)));
            }
        }
        let stream = Arc::clone(receiving.read_half.stream());
        Ok(Check::Again { at, socket: Some(Socket { stream, reads }) })
    }
}

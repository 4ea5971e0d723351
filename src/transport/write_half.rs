//! The write half of a connection, shared by every thread that sends.
//!
//! A frame goes straight to the socket, under a short lock and without blocking. What the socket does not take is
//! queued, and a [drainer] is started: a thread that blocks in writes and ends when the queue is empty. So a
//! connection costs a second thread only while it is behind.
//!
//! Invariants:
//! - Frames are never torn: a frame that is partly written is continued before anything else is.
//! - Data frames leave in the order of the calls. Control frames overtake queued data at a frame boundary; of Pings,
//!   of Pongs and of answers to heartbeats in text only the newest waits, since it answers for the earlier ones.
//! - Nothing follows a Close frame.
//! - Who waits for room gets it in the order of the calls, so that a large message is not kept out by small ones.
//! - The lock is never held across a call that can block, nor while a payload is dropped: the application may have lent
//!   its memory, and then its code runs. Only the thread that sends it, or the drainer, drops such a payload.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::protocol::close::{CloseCode, CloseReason};
use crate::protocol::close_state::{CloseState, Phase};
use crate::protocol::frame::{Frame, Outgoing, Role};
use crate::transport::budget::MemoryBudget;
use crate::transport::sync::{Condvar, Mutex, MutexGuard};

mod admission;
mod batch;
mod closing;
mod drainer;
mod queue;
mod state;

use state::{Outcome, State};

/// The connection that a write half belongs to, as far as the write half needs it.
pub(crate) trait Owner: Send + Sync + Sized + 'static {
    type Socket: Socket;

    fn write_half(&self) -> &WriteHalf<Self>;

    /// Starts a thread, for a drainer.
    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()>;

    /// A write failed. Nothing is sent any more, and the socket is shut down: that wakes whoever reads, who ends the
    /// connection.
    fn write_failed(&self, error: &io::Error);

    /// Ends the connection at once, for this reason if there is no earlier one.
    fn abort(&self, reason: CloseReason);
}

/// The socket, as far as the write half needs it.
pub(crate) trait Socket: Send + Sync {
    /// Takes what it can without blocking; `WouldBlock` if that is nothing.
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Blocks until some is taken, and says how much; `WouldBlock` if that was nothing for a while.
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends it both ways: whoever is blocked in a read or a write of it returns.
    fn shut_down(&self);
}

/// What became of a frame that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket has it.
    Written,
    /// It waits: for the drainer that is at work, or, if it was fed, for the next flush.
    Queued,
}

/// Why a frame was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A Close frame was sent or queued, a write failed, now or before, or the connection has ended.
    Closed,
    /// The queue is full, and the caller did not want to wait any longer.
    Full,
}

/// Whether to wait for room in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    No,
    Until(Instant),
    Forever,
}

/// What has passed over the write half, and how the connection ended, if it has.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Messages accepted.
    pub(crate) messages: u64,
    /// Bytes taken by the socket.
    pub(crate) bytes: u64,
    /// Bytes that wait.
    pub(crate) queued: usize,
    /// Bytes that were accepted, and that the socket will never take.
    pub(crate) unsent: usize,
    pub(crate) reason: CloseReason,
    /// The code in our Close frame, if it has one and the socket has taken it whole.
    pub(crate) sent: Option<CloseCode>,
    /// The code in the peer's Close frame.
    pub(crate) received: Option<CloseCode>,
}

/// How far the socket is with what it was given, for whoever judges the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uptake {
    /// Since when data has waited without any of it being taken; `None` if nothing waits.
    pub(crate) blocked_since: Option<Instant>,
    /// When a Ping was last handed to the socket whole, and how many bytes had been before it.
    pub(crate) ping_left: Option<(Instant, u64)>,
    /// Bytes that the socket has taken.
    pub(crate) bytes: u64,
}

/// The write half of this owner. What may have to start a drainer takes the owner itself.
pub(crate) struct WriteHalf<O: Owner> {
    /// Protects the order of everything that is to be written, the socket's non-blocking use, and how far the
    /// connection is closed.
    state: Mutex<State<O::Socket>>,
    /// Signalled when the queue has become shorter, when nothing is accepted any more, and at the end.
    progress: Condvar,
    /// Whether nobody has begun to close, for those who come by often and need not take the lock to know.
    is_open: AtomicBool,
    /// What the frames that wait may cost in memory.
    queue_limit: usize,
    role: Role,
}

impl<O: Owner> WriteHalf<O> {
    /// What was fed is written when it comes to this, without waiting for a flush.
    const FEED_LIMIT: usize = 16 * 1024;

    /// `queue_limit`: what may wait, as it costs in memory, before `send` does, unless the total is nearly used up.
    /// `close_timeout`: how long a closing handshake may take.
    pub(crate) fn new(
        role: Role,
        socket: Arc<O::Socket>,
        queue_limit: usize,
        total: &Arc<MemoryBudget>,
        close_timeout: Duration,
    ) -> Self {
        Self {
            state: Mutex::new(State::new(socket, total, close_timeout)),
            progress: Condvar::new(),
            is_open: AtomicBool::new(true),
            queue_limit,
            role,
        }
    }

    // Sending.

    /// Sends a data frame. If the queue is full, waits for room as `wait` says, or fails.
    pub(crate) fn send(owner: &Arc<O>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        Self::send_frame(owner, owner.write_half().encode(data), wait)
    }

    /// Sends a data frame that is encoded for our role already.
    pub(crate) fn send_frame(owner: &Arc<O>, mut frame: Frame, wait: Wait) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let mut state = owner.write_half().admit(frame.cost(), wait)?;
        state.messages += 1;
        let outcome = state.write(&mut frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Like [`send`](Self::send), but a small frame stays in memory until [`flush`](Self::flush) or the next `send`.
    pub(crate) fn feed(owner: &Arc<O>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        let mut frame = owner.write_half().encode(data);
        // What stays in memory may be flushed, and dropped, by the stand-in or the supervisor.
        if frame.len() < Self::FEED_LIMIT {
            frame = frame.into_own();
        }
        Self::feed_frame(owner, frame, wait)
    }

    /// Feeds a data frame that is encoded for our role already.
    pub(crate) fn feed_frame(owner: &Arc<O>, mut frame: Frame, wait: Wait) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let write_half = owner.write_half();
        let mut state = write_half.admit(frame.cost(), wait)?;
        state.messages += 1;
        let limit = Self::FEED_LIMIT.min(write_half.queue_limit);
        let outcome = state.feed(&mut frame, limit, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Keeps a frame in memory, to be the first that leaves. It is no message of the application's, and not counted.
    pub(crate) fn feed_first(&self, data: Outgoing) {
        let frame = self.encode(data);
        let mut state = self.lock();
        if state.close_state.accepts() {
            state.queue.push(frame);
        }
    }

    /// Sends a Ping that takes its turn among the data, as a data frame does, but is no message.
    pub(crate) fn send_in_line(owner: &Arc<O>, ping: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        let mut frame = owner.write_half().encode(ping);
        let mut spent = Vec::new();
        let mut state = owner.write_half().admit(frame.cost(), wait)?;
        let outcome = state.write(&mut frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Sends a Ping, a Pong or the answer to a heartbeat in text, ahead of the data that waits and whatever the queue's
    /// limit.
    pub(crate) fn send_control(owner: &Arc<O>, control: Outgoing) -> Result<Sent, Refused> {
        let mut frame = owner.write_half().encode(control);
        let mut spent = Vec::new();
        let mut state = owner.write_half().lock();
        if !state.close_state.accepts() {
            return Err(Refused::Closed);
        }
        let outcome = state.write(&mut frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Writes what was fed.
    pub(crate) fn flush(owner: &Arc<O>) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let mut state = owner.write_half().lock();
        let outcome = state.flush(&mut spent);
        Self::settle(owner, state, outcome)
    }

    /// The frame as our role sends it. Before the lock is taken, for masking copies the payload.
    fn encode(&self, outgoing: Outgoing) -> Frame {
        let mask = match self.role {
            Role::Server => None,
            Role::Client => Some(rand::random()),
        };
        Frame::encode(outgoing, mask)
    }

    /// Lets go of the lock, and does what an attempt to write asks for then.
    fn settle(
        owner: &Arc<O>,
        state: MutexGuard<'_, State<O::Socket>>,
        outcome: io::Result<Outcome>,
    ) -> Result<Sent, Refused> {
        match outcome {
            Ok(Outcome::Written) => Ok(Sent::Written),
            Ok(Outcome::Queued) => Ok(Sent::Queued),
            Ok(Outcome::FellBehind) => {
                drop(state);
                Self::start_drainer(owner)
            }
            Err(error) => {
                owner.write_half().fail(state, &error);
                owner.write_failed(&error);
                Err(Refused::Closed)
            }
        }
    }

    // Looking.

    /// How far the socket is, for the judgement of the peer.
    pub(crate) fn uptake(&self) -> Uptake {
        let state = self.lock();
        Uptake { blocked_since: state.blocked_since, ping_left: state.ping_left, bytes: state.bytes }
    }

    /// How far the connection is closed, and why: for a look, or for something that was read.
    pub(crate) fn close_state<T>(&self, use_it: impl FnOnce(&mut CloseState) -> T) -> T {
        let mut state = self.lock();
        let result = use_it(&mut state.close_state);
        self.note_phase(&state);
        result
    }

    /// Whether nobody has begun to close.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Whether nothing is accepted any more.
    pub(crate) fn is_closing(&self) -> bool {
        !self.lock().close_state.accepts()
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queue.bytes()
    }

    /// What has passed, and how it ended.
    pub(crate) fn figures(&self) -> Figures {
        self.lock().figures()
    }

    fn note_phase(&self, state: &State<O::Socket>) {
        self.is_open.store(state.close_state.phase() == Phase::Open, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State<O::Socket>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody holds it.
    fn try_lock(&self) -> Option<MutexGuard<'_, State<O::Socket>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(all(test, shuttle))]
mod model;
#[cfg(all(test, not(shuttle)))]
mod tests;

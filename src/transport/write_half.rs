//! The write half of a connection, shared by all threads that send.
//!
//! A frame goes straight to the socket, under a short lock and without blocking. What the socket does not take is
//! queued, and a [drainer] starts: a thread that blocks in writes and ends when the queue is empty. A connection thus
//! costs a second thread only while its peer is slow.
//!
//! Invariants:
//! - Frames are never torn: a partly written frame is completed before anything else is written.
//! - Data frames leave in the order of the calls. Control frames overtake queued data at a frame boundary. Of waiting
//!   Pings, Pongs and text heartbeat answers, only the newest of each kind remains, since it answers for the earlier
//!   ones.
//! - Nothing follows a Close frame.
//! - Threads that wait for room get it in the order of their calls, so small messages do not keep out a large one.
//! - The lock is never held across a call that can block, nor while a payload is dropped: the application may have lent
//!   the memory, and then its code runs. Only the sending thread or the drainer drops such a payload.
//!
//! The steps of the fast path are inlined by force, here and in its modules: the compiler takes them for too large, and
//! their calls would cost a tenth of a delivery.

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

/// The connection that owns a write half, as far as the write half needs it.
pub(crate) trait Owner: Send + Sync + Sized + 'static {
    type Socket: Socket;

    fn write_half(&self) -> &WriteHalf<Self>;

    /// Starts a thread for the drainer.
    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()>;

    /// Called after a write has failed. Nothing more is sent, and the socket is shut down. That wakes the thread that
    /// reads, and it ends the connection.
    fn write_failed(&self, error: &io::Error);

    /// Ends the connection at once. `reason` applies if there is no earlier one.
    fn abort(&self, reason: CloseReason);

    /// Called by the drainer, without the lock, after the queue has emptied. There is room for what was refused.
    fn queue_emptied(&self) {}
}

/// The socket, as far as the write half needs it.
pub(crate) trait Socket: Send + Sync {
    /// Writes what the socket takes without blocking. If that is nothing: `WouldBlock`, or what is pinned.
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken>;
    /// Blocks until the socket takes some bytes. If it took none for a while: the same.
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken>;
    /// Called before the last frame, if nothing waits before it: what ends the stream may leave together with it.
    fn end_follows(&self) {}
    /// Shuts the socket down both ways. Threads that are blocked in a read or a write return.
    fn shut_down(&self);
}

/// What a socket has taken in one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes of the frames. Where frames are sealed in records, bytes count once their whole record is taken.
    pub(crate) frames: usize,
    /// Bytes on the wire.
    pub(crate) wire: usize,
    /// How many more bytes a short frame is on the wire than by itself.
    pub(crate) overhead: usize,
    /// Whether the next frame has begun to leave, although none of its bytes counts yet: it has to come first.
    pub(crate) is_pinned: bool,
}

/// What a socket has taken that writes frames as they are.
impl From<usize> for Taken {
    fn from(bytes: usize) -> Self {
        Self { frames: bytes, wire: bytes, overhead: 0, is_pinned: false }
    }
}

/// The outcome of a frame that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket has taken the frame.
    Written,
    /// The frame waits for the drainer, or, if it was fed, for the next flush.
    Queued,
}

/// Why a frame was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A Close frame was sent or queued, a write has failed, or the connection has ended.
    Closed,
    /// The queue is full, and the caller's wait for room is over.
    Full,
}

/// How long to wait for room in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    No,
    Until(Instant),
    Forever,
}

impl Wait {
    /// How long to wait from now on at most; `None` for ever. Whoever may wait no longer is refused.
    pub(crate) fn remaining(self) -> Result<Option<Duration>, Refused> {
        match self {
            Self::No => Err(Refused::Full),
            Self::Forever => Ok(None),
            Self::Until(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => Err(Refused::Full),
                remaining => Ok(Some(remaining)),
            },
        }
    }
}

/// The totals of the write half, and how the connection ended, if it has.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Messages accepted.
    pub(crate) messages: u64,
    /// Bytes taken by the socket, as they are on the wire.
    pub(crate) bytes: u64,
    /// Bytes that wait.
    pub(crate) queued: usize,
    /// Bytes that were accepted and that the socket will never take.
    pub(crate) unsent: usize,
    pub(crate) reason: CloseReason,
    /// The code in our Close frame, if the frame has one and the socket has taken all of it.
    pub(crate) sent: Option<CloseCode>,
    /// The code in the peer's Close frame.
    pub(crate) received: Option<CloseCode>,
}

/// What the socket has taken so far: evidence for judging the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uptake {
    /// Since when data has waited with no byte of it taken; `None` if nothing waits.
    pub(crate) blocked_since: Option<Instant>,
    /// When the socket last took a whole Ping, and how many bytes it had taken before that Ping.
    pub(crate) ping_left: Option<(Instant, u64)>,
    /// Bytes that the socket has taken, as they are on the wire.
    pub(crate) bytes: u64,
}

/// The write half of a connection. A call that may start a drainer takes the owner itself.
pub(crate) struct WriteHalf<O: Owner> {
    /// Protects the order of all frames, the non-blocking use of the socket, and the closing state.
    state: Mutex<State<O::Socket>>,
    /// Signalled when the queue has become shorter, when frames are no longer accepted, and at the end.
    progress: Condvar,
    /// Whether neither side has begun to close. A copy for frequent callers, who need not take the lock.
    is_open: AtomicBool,
    /// The memory in bytes that the waiting frames may cost.
    queue_limit: usize,
    role: Role,
}

impl<O: Owner> WriteHalf<O> {
    /// Fed frames are written once they come to this many bytes, without waiting for a flush.
    const FEED_LIMIT: usize = 16 * 1024;

    /// `queue_limit`: the memory that waiting frames may cost before `send` waits, or less when the total is nearly
    /// used up.
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

    /// Sends a data frame. `wait` limits the wait for room in a full queue.
    pub(crate) fn send(owner: &Arc<O>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        Self::send_frame(owner, &owner.write_half().encode(data), wait)
    }

    /// Sends a data frame that is already encoded for our role. It is cloned only if it has to wait.
    #[inline(always)]
    pub(crate) fn send_frame(owner: &Arc<O>, frame: &Frame, wait: Wait) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let mut state = owner.write_half().admit(frame.cost(), wait)?;
        state.messages += 1;
        let outcome = state.write(frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Like [`send`](Self::send), but a small frame stays in memory until [`flush`](Self::flush) or the next `send`.
    pub(crate) fn feed(owner: &Arc<O>, data: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        let mut frame = owner.write_half().encode(data);
        // The stand-in or the supervisor may flush and drop what stays in memory, so a kept payload must be our own.
        if frame.len() < Self::FEED_LIMIT {
            frame = frame.into_own();
        }
        Self::feed_frame(owner, &frame, wait)
    }

    /// Feeds a data frame that is already encoded for our role. It is cloned only if it is kept as it is.
    pub(crate) fn feed_frame(owner: &Arc<O>, frame: &Frame, wait: Wait) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let write_half = owner.write_half();
        let mut state = write_half.admit(frame.cost(), wait)?;
        state.messages += 1;
        let limit = Self::FEED_LIMIT.min(write_half.queue_limit);
        let outcome = state.feed(frame, limit, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Keeps a frame in memory, to leave before all others. It does not count as a message of the application.
    pub(crate) fn feed_first(&self, data: Outgoing) {
        let frame = self.encode(data);
        let mut state = self.lock();
        if state.close_state.accepts() {
            state.queue.push(frame);
        }
    }

    /// Sends a Ping that keeps its place among the data, as a data frame does. It does not count as a message.
    pub(crate) fn send_in_line(owner: &Arc<O>, ping: Outgoing, wait: Wait) -> Result<Sent, Refused> {
        let frame = owner.write_half().encode(ping);
        let mut spent = Vec::new();
        let mut state = owner.write_half().admit(frame.cost(), wait)?;
        let outcome = state.write(&frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Sends a Ping, a Pong or a text heartbeat answer, ahead of waiting data and regardless of the queue's limit.
    pub(crate) fn send_control(owner: &Arc<O>, control: Outgoing) -> Result<Sent, Refused> {
        let frame = owner.write_half().encode(control);
        let mut spent = Vec::new();
        let mut state = owner.write_half().lock();
        if !state.close_state.accepts() {
            return Err(Refused::Closed);
        }
        let outcome = state.write(&frame, &mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Writes the fed frames.
    pub(crate) fn flush(owner: &Arc<O>) -> Result<Sent, Refused> {
        let mut spent = Vec::new();
        let mut state = owner.write_half().lock();
        let outcome = state.flush(&mut spent);
        Self::settle(owner, state, outcome)
    }

    /// Encodes the frame for our role. Call this without the lock, because masking copies the payload.
    #[inline(always)]
    fn encode(&self, outgoing: Outgoing) -> Frame {
        let mask = match self.role {
            Role::Server => None,
            Role::Client => Some(rand::random()),
        };
        Frame::encode(outgoing, mask)
    }

    /// Releases the lock, and does what the attempt to write requires: starts a drainer, or reports a failed write.
    #[inline(always)]
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

    // Observing.

    /// What the socket has taken so far, for judging the peer.
    pub(crate) fn uptake(&self) -> Uptake {
        let state = self.lock();
        Uptake { blocked_since: state.blocked_since, ping_left: state.ping_left, bytes: state.bytes }
    }

    /// Calls a function on the closing state, under the lock. It may read the state, or record the peer's end.
    pub(crate) fn close_state<T>(&self, use_it: impl FnOnce(&mut CloseState) -> T) -> T {
        let mut state = self.lock();
        let result = use_it(&mut state.close_state);
        self.note_phase(&state);
        result
    }

    /// Which end of the connection this is.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether neither side has begun to close.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Whether frames are no longer accepted.
    pub(crate) fn is_closing(&self) -> bool {
        !self.lock().close_state.accepts()
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queue.bytes()
    }

    /// The totals, and how the connection ended.
    pub(crate) fn figures(&self) -> Figures {
        self.lock().figures()
    }

    /// Releases the lock until [`signal_progress`](Self::signal_progress), or for `limit` at most.
    fn wait_for_progress<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<O::Socket>>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State<O::Socket>> {
        state.sleepers += 1;
        let mut state = match limit {
            Some(limit) => self.progress.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => self.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.sleepers -= 1;
        state
    }

    /// Wakes the threads that wait for progress. If there are none, that takes no system call.
    fn signal_progress(&self, state: &State<O::Socket>) {
        if state.sleepers > 0 {
            self.progress.notify_all();
        }
    }

    fn note_phase(&self, state: &State<O::Socket>) {
        self.is_open.store(state.close_state.phase() == Phase::Open, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State<O::Socket>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if no thread holds it.
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

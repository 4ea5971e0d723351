//! The write half of a connection, shared by every thread that sends.
//!
//! A frame goes straight to the socket, under a short lock and without blocking. What the socket does not take is
//! queued, and [`Sent::StartDrainer`] asks the caller for a thread that runs [`WriteHalf::drain`]: it blocks in writes and
//! ends when the queue is empty. So a connection costs a second thread only while it is behind.
//!
//! Invariants:
//! - Frames are never torn: a frame that is partly written is continued before anything else is.
//! - Data frames leave in the order of the calls. Control frames overtake queued data at a frame boundary; of Pings,
//!   of Pongs and of answers to heartbeats in text only the newest waits, since it answers for the earlier ones.
//! - Nothing follows a Close frame.
//! - Who waits for room gets it in the order of the calls, so that a large message is not kept out by small ones.
//! - The lock is never held across a call that can block.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::protocol::close::{CloseCode, CloseReason, close_payload};
use crate::protocol::close_state::{CloseFrame, CloseState, Phase};
use crate::protocol::frame::{Frame, Kind, Role};
use crate::transport::budget::{BudgetShare, MemoryBudget};
use crate::transport::sync::{Condvar, Mutex, MutexGuard};

mod batch;
use batch::{Batch, Control};

/// The socket, as far as the write half needs it.
pub(crate) trait Socket: Send + Sync {
    /// Takes what it can without blocking; `WouldBlock` if that is nothing.
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Blocks until some is taken, and says how much; `WouldBlock` if that was nothing for a while.
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket has it.
    Written,
    /// It waits: for the drainer that is at work, or, if it was fed, for the next flush.
    Queued,
    /// It waits, and the caller must start a thread that calls [`WriteHalf::drain`].
    StartDrainer,
}

/// Whether to wait for room in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    No,
    Until(Instant),
    Forever,
}

/// Why a frame was not taken.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// A Close frame was sent or queued, or the connection has ended.
    Closed,
    /// The queue is full, and the caller did not want to wait.
    Full,
    /// The socket failed.
    Io(io::Error),
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

/// The write half.
#[derive(Debug)]
pub(crate) struct WriteHalf<S> {
    /// Protects the order of everything that is to be written, the socket's non-blocking use, and how far the connection is
    /// closed.
    state: Mutex<State<S>>,
    /// Signalled when the queue has become shorter, and at the end.
    progress: Condvar,
    /// Whether nobody has begun to close, for those who come by often and need not take the lock to know.
    is_open: AtomicBool,
    /// What the frames that wait may cost in memory.
    queue_limit: usize,
    role: Role,
}

#[derive(Debug)]
struct State<S> {
    /// Taken away at the end, so that a `Sender` kept for longer does not keep the file descriptor.
    socket: Option<Arc<S>>,
    close_state: CloseState,
    /// Frames whose turn has come. While a drainer is at work, it has them.
    batch: Batch,
    ping: Option<Frame>,
    pong: Option<Frame>,
    text_pong: Option<Frame>,
    /// Small frames that were fed, in one piece. They are ahead of `data`.
    fed: Vec<u8>,
    data: VecDeque<Frame>,
    /// Bytes that were accepted and not yet taken by the socket.
    queued: usize,
    /// What the frames that wait cost in memory, but for small ones that were fed. It counts while a drainer is at work: what
    /// goes straight to the socket costs nothing.
    share: BudgetShare,
    is_draining: bool,
    /// Tickets of those who wait for room, in the order in which they came.
    waiting: VecDeque<u64>,
    last_ticket: u64,
    /// While a drainer is at work: when the socket last took anything, or refused the first byte.
    blocked_since: Option<Instant>,
    /// When the newest Ping that was taken whole was, and how many bytes had been before it.
    ping_left: Option<(Instant, u64)>,
    bytes: u64,
    messages: u64,
    /// Bytes that were accepted, and that the socket will never take.
    unsent: usize,
}

impl<S: Socket> WriteHalf<S> {
    /// What was fed is written when it comes to this, without waiting for a flush.
    const FEED_LIMIT: usize = 16 * 1024;

    /// Fed frames up to this length are copied together: cheaper for the kernel than to gather them.
    const JOINED: usize = 1024;

    /// `queue_limit`: what may wait, as it costs in memory, before `send` does, unless the total is nearly used up.
    /// `close_timeout`: how long a closing handshake may take.
    pub(crate) fn new(
        role: Role,
        socket: Arc<S>,
        queue_limit: usize,
        total: &Arc<MemoryBudget>,
        close_timeout: Duration,
    ) -> Self {
        let state = State {
            socket: Some(socket),
            close_state: CloseState::new(close_timeout),
            batch: Batch::default(),
            ping: None,
            pong: None,
            text_pong: None,
            fed: Vec::new(),
            data: VecDeque::new(),
            queued: 0,
            share: BudgetShare::new(total),
            is_draining: false,
            waiting: VecDeque::new(),
            last_ticket: 0,
            blocked_since: None,
            ping_left: None,
            bytes: 0,
            messages: 0,
            unsent: 0,
        };
        Self { state: Mutex::new(state), progress: Condvar::new(), is_open: AtomicBool::new(true), queue_limit, role }
    }

    /// Sends a data frame. If the queue is full, waits for room as `wait` says, or fails.
    pub(crate) fn send(&self, frame: Frame, wait: Wait) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.admit(frame.cost(), wait)?;
        state.messages += 1;
        state.push_and_flush(frame).map_err(SendFailure::Io)
    }

    /// Like [`send`](Self::send), but a small frame stays in memory until [`flush`](Self::flush) or the next `send`.
    pub(crate) fn feed(&self, frame: Frame, wait: Wait) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.admit(frame.cost(), wait)?;
        state.messages += 1;
        let is_enough = state.queued + frame.len() >= Self::FEED_LIMIT.min(self.queue_limit);
        if !state.is_draining && (is_enough || state.data.len() >= Batch::MOST_FRAMES) {
            return state.push_and_flush(frame).map_err(SendFailure::Io);
        }
        if frame.len() <= Self::JOINED && !state.is_draining && state.batch.is_empty() && state.data.is_empty() {
            state.queued += frame.len();
            frame.write_to(&mut state.fed);
        } else {
            state.push(frame);
        }
        Ok(Sent::Queued)
    }

    /// Keeps a frame in memory, to be the first that leaves. It is no message of the application's, and not counted.
    pub(crate) fn greet(&self, frame: Frame) {
        let frame = self.dress(frame);
        let mut state = self.lock();
        if state.close_state.accepts() {
            state.push(frame);
        }
    }

    /// Sends a Ping that takes its turn among the data, as a data frame does, but is no message.
    pub(crate) fn send_in_line(&self, frame: Frame, wait: Wait) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        self.admit(frame.cost(), wait)?.push_and_flush(frame).map_err(SendFailure::Io)
    }

    /// Sends a Ping or a Pong, ahead of the data that waits and whatever the queue's limit.
    pub(crate) fn send_control(&self, frame: Frame) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.lock();
        if !state.close_state.accepts() {
            return Err(SendFailure::Closed);
        }
        state.push_and_flush(frame).map_err(SendFailure::Io)
    }

    /// Writes what was fed.
    pub(crate) fn flush(&self) -> Result<Sent, SendFailure> {
        self.lock().flush().map_err(SendFailure::Io)
    }

    /// Closes, for this reason: a Close frame goes out behind everything that was accepted before it. Whether it was this
    /// call that began it; if the peer was first, it is the answer.
    pub(crate) fn close(&self, reason: CloseReason, now: Instant) -> Result<(bool, Sent), SendFailure> {
        self.close_with(self.lock(), reason, now)
    }

    /// The same, unless another thread is at work here: it may have to wait for a processor, and we shall not.
    pub(crate) fn try_close(&self, reason: CloseReason, now: Instant) -> Option<Result<(bool, Sent), SendFailure>> {
        Some(self.close_with(self.try_lock()?, reason, now))
    }

    fn close_with(
        &self,
        mut state: MutexGuard<'_, State<S>>,
        reason: CloseReason,
        now: Instant,
    ) -> Result<(bool, Sent), SendFailure> {
        let is_first = state.close_state.phase() == Phase::Open;
        let frame = state.close_state.close(reason, now);
        self.note_phase(&state);
        match frame {
            Some(frame) => self.send_close(state, frame).map(|sent| (is_first, sent)),
            None => Err(SendFailure::Closed),
        }
    }

    /// Answers the peer's last word (RFC 6455 section 5.5.1), if that was not done before.
    pub(crate) fn answer_close(&self, now: Instant) -> Result<Sent, SendFailure> {
        let mut state = self.lock();
        match state.close_state.answer(now) {
            Some(frame) => self.send_close(state, frame),
            None => Err(SendFailure::Closed),
        }
    }

    fn send_close(&self, mut state: MutexGuard<'_, State<S>>, (code, text): CloseFrame) -> Result<Sent, SendFailure> {
        let frame = self.dress(Frame::close(close_payload(code, &text)));
        let sent = state.push_and_flush(frame).map_err(SendFailure::Io);
        self.progress.notify_all();
        sent
    }

    /// Waits until all is written, or the deadline has come. Whether all was.
    pub(crate) fn wait_until_drained(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.is_draining && state.socket.is_some() {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = self.progress.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queued == 0
    }

    /// A write has failed: nothing goes out any more. `shut_down` is to wake whoever reads.
    pub(crate) fn write_failed(&self, reason: CloseReason, shut_down: impl FnOnce(&S)) {
        let mut state = self.lock();
        state.close_state.write_failed(reason);
        self.note_phase(&state);
        if let Some(socket) = state.socket.take() {
            shut_down(&socket);
        }
        self.let_go(state);
    }

    /// Ends the connection, for this reason if nobody knows a better one. What was written of it is complete; if nothing
    /// waits, our reason goes out in a Close frame as far as the socket takes it at once. `report` is called the first time
    /// only, before this returns to anybody.
    pub(crate) fn end(
        &self,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&S),
        report: impl FnOnce(Figures),
    ) {
        self.end_with(self.lock(), otherwise, now, shut_down, report);
    }

    /// The same, unless another thread is at work here. Whether it was done.
    pub(crate) fn try_end(
        &self,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&S),
        report: impl FnOnce(Figures),
    ) -> bool {
        let Some(state) = self.try_lock() else { return false };
        self.end_with(state, otherwise, now, shut_down, report);
        true
    }

    fn end_with(
        &self,
        mut state: MutexGuard<'_, State<S>>,
        otherwise: CloseReason,
        now: Instant,
        shut_down: impl FnOnce(&S),
        report: impl FnOnce(Figures),
    ) {
        if !state.is_draining
            && let Some((code, text)) = state.close_state.close(otherwise.clone(), now)
        {
            // Straight into the socket, or not at all.
            let _ = state.push_and_flush(self.dress(Frame::close(close_payload(code, &text))));
        }
        if let Some(socket) = state.socket.take() {
            shut_down(&socket);
        }
        let is_first = state.close_state.end(otherwise);
        self.note_phase(&state);
        state.forget_all();
        self.progress.notify_all();
        if is_first {
            report(state.figures());
        }
    }

    fn let_go(&self, mut state: MutexGuard<'_, State<S>>) {
        state.socket = None;
        state.forget_all();
        self.progress.notify_all();
    }

    /// Writes until the queue is empty. To be called by the one thread that [`Sent::StartDrainer`] asked for.
    pub(crate) fn drain(&self) -> io::Result<()> {
        let mut batch = Batch::default();
        loop {
            let socket = {
                let mut state = self.lock();
                if batch.is_empty() {
                    batch = std::mem::take(&mut state.batch);
                }
                state.refill(&mut batch);
                let socket = state.socket.clone().filter(|_| !batch.is_empty());
                let Some(socket) = socket else {
                    state.catches_up();
                    self.progress.notify_all();
                    return Ok(());
                };
                socket
            };
            match socket.send_patiently(batch.slices(&mut Batch::room())) {
                Ok(count) => {
                    let mut state = self.lock();
                    state.blocked_since = Some(Instant::now());
                    state.taken(&mut batch, count);
                    self.progress.notify_all();
                }
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

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

    fn note_phase(&self, state: &State<S>) {
        self.is_open.store(state.close_state.phase() == Phase::Open, Relaxed);
    }

    /// Whether nothing is accepted any more.
    pub(crate) fn is_closing(&self) -> bool {
        !self.lock().close_state.accepts()
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// What has passed, and how it ended.
    pub(crate) fn figures(&self) -> Figures {
        self.lock().figures()
    }

    /// The lock, once there is room for a frame of this cost. One larger than the whole queue is let in when nothing waits.
    fn admit(&self, cost: usize, wait: Wait) -> Result<MutexGuard<'_, State<S>>, SendFailure> {
        let state = self.lock();
        if !state.close_state.accepts() {
            return Err(SendFailure::Closed);
        }
        if state.waiting.is_empty() && state.has_room(cost, self.queue_limit) {
            return Ok(state);
        }
        self.wait_for_room(state, cost, wait)
    }

    #[cold]
    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<S>>,
        cost: usize,
        wait: Wait,
    ) -> Result<MutexGuard<'a, State<S>>, SendFailure> {
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.waiting.push_back(ticket);
        let outcome = loop {
            if !state.close_state.accepts() {
                break Err(SendFailure::Closed);
            }
            if state.waiting.front() == Some(&ticket) && state.has_room(cost, self.queue_limit) {
                break Ok(());
            }
            state = match wait {
                Wait::No => break Err(SendFailure::Full),
                Wait::Forever => self.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
                Wait::Until(deadline) => {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    if remaining.is_zero() {
                        break Err(SendFailure::Full);
                    }
                    self.progress.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        let was_first = state.waiting.front() == Some(&ticket);
        state.waiting.retain(|other| *other != ticket);
        // There may be room for the next as well, or for a smaller one than this.
        if was_first && !state.waiting.is_empty() {
            self.progress.notify_all();
        }
        outcome.map(|()| state)
    }

    /// The frame as our role sends it. Before the lock is taken, for masking copies the payload.
    fn dress(&self, frame: Frame) -> Frame {
        match self.role {
            Role::Server => frame,
            Role::Client => frame.masked(rand::random()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody holds it.
    fn try_lock(&self) -> Option<MutexGuard<'_, State<S>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<S: Socket> State<S> {
    /// Writes the frame, behind what waits, as far as the socket takes it without blocking.
    fn push_and_flush(&mut self, frame: Frame) -> io::Result<Sent> {
        let waits = self.is_draining || self.queued > 0;
        let Some(socket) = self.socket.as_ref().filter(|_| !waits) else {
            self.push(frame);
            return self.flush();
        };
        // The fast path: nothing waits, so nothing needs to be queued.
        let taken = match send_now(&**socket, &frame.rest(0)) {
            Ok(taken) => taken,
            Err(error) => {
                self.forget_all();
                return Err(error);
            }
        };
        self.bytes += taken as u64;
        if taken == frame.len() {
            match frame.kind() {
                Kind::Close => self.close_is_written(),
                Kind::Ping => self.ping_left = Some((Instant::now(), self.bytes - frame.len() as u64)),
                Kind::Pong | Kind::TextPong | Kind::Data => {}
            }
            return Ok(Sent::Written);
        }
        if taken == 0 {
            self.push(frame);
        } else {
            self.queued += frame.len() - taken;
            self.share.add(frame.cost());
            self.batch.push_written(frame, taken);
        }
        self.falls_behind();
        Ok(Sent::StartDrainer)
    }

    fn falls_behind(&mut self) {
        self.is_draining = true;
        self.share.set_counted(true);
        self.blocked_since = Some(Instant::now());
    }

    /// The drainer has nothing left to do.
    fn catches_up(&mut self) {
        self.is_draining = false;
        self.share.set_counted(false);
        self.blocked_since = None;
        // An empty queue keeps no memory, beyond what a batch takes.
        self.data.shrink_to(Batch::MOST_FRAMES);
    }

    /// Whether a frame of this cost may be queued.
    fn has_room(&self, cost: usize, queue_limit: usize) -> bool {
        // Without a drainer at work what waits was fed, and goes out together with the frame.
        if !self.is_draining || self.queued == 0 {
            return true;
        }
        self.share.held().saturating_add(cost) <= queue_limit && self.share.has_room(cost)
    }

    fn push(&mut self, frame: Frame) {
        self.queued += frame.len();
        self.share.add(frame.cost());
        let replaced = match frame.kind() {
            Kind::Ping => self.ping.replace(frame),
            Kind::Pong => self.pong.replace(frame),
            Kind::TextPong => self.text_pong.replace(frame),
            Kind::Data | Kind::Close => {
                self.data.push_back(frame);
                None
            }
        };
        if let Some(replaced) = replaced {
            self.queued -= replaced.len();
            self.share.sub(replaced.cost());
        }
    }

    fn flush(&mut self) -> io::Result<Sent> {
        if self.is_draining {
            return Ok(Sent::Queued);
        }
        let Some(socket) = self.socket.clone() else { return Ok(Sent::Queued) };
        let mut batch = std::mem::take(&mut self.batch);
        loop {
            self.refill(&mut batch);
            if batch.is_empty() {
                // Keeps the queue's memory for the next time.
                self.batch = batch;
                return Ok(Sent::Written);
            }
            let slices = &mut Batch::room();
            let slices = batch.slices(slices);
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let taken = match send_now(&*socket, slices) {
                Ok(taken) => taken,
                Err(error) => {
                    self.forget_all();
                    return Err(error);
                }
            };
            self.taken(&mut batch, taken);
            if taken < offered {
                self.batch = batch;
                self.falls_behind();
                return Ok(Sent::StartDrainer);
            }
        }
    }

    /// Moves frames whose turn has come to the batch: control frames first.
    fn refill(&mut self, batch: &mut Batch) {
        if !self.fed.is_empty() {
            let fed = std::mem::take(&mut self.fed);
            let frame = Frame::joined(fed);
            self.share.add(frame.cost());
            self.data.push_front(frame);
        }
        while batch.has_room() {
            let urgent = self.pong.take().or_else(|| self.text_pong.take()).or_else(|| self.ping.take());
            let Some(frame) = urgent.or_else(|| self.data.pop_front()) else { return };
            batch.push(frame);
        }
    }

    /// The socket has taken so many bytes of the batch.
    fn taken(&mut self, batch: &mut Batch, count: usize) {
        self.bytes += count as u64;
        self.queued = self.queued.saturating_sub(count);
        let (freed, control) = batch.advance(count);
        self.share.sub(freed);
        match control {
            Some(Control::Close) => self.close_is_written(),
            // Other frames may have been taken behind it: that it is judged to have waited for them as well costs nothing.
            Some(Control::Ping { len }) => self.ping_left = Some((Instant::now(), self.bytes - len as u64)),
            None => {}
        }
    }

    fn close_is_written(&mut self) {
        self.close_state.close_written();
        self.forget_all();
    }

    fn figures(&self) -> Figures {
        Figures {
            messages: self.messages,
            bytes: self.bytes,
            queued: self.queued,
            unsent: self.unsent,
            reason: self.close_state.reason(CloseReason::Disconnected),
            sent: self.close_state.sent(),
            received: self.close_state.received(),
        }
    }

    fn forget_all(&mut self) {
        self.unsent += self.queued;
        self.batch = Batch::default();
        self.ping = None;
        self.pong = None;
        self.text_pong = None;
        self.fed = Vec::new();
        self.data = VecDeque::new();
        self.queued = 0;
        self.share.clear();
    }
}

/// Like [`Socket::send_now`], with nothing taken as 0 and interruptions retried.
fn send_now<S: Socket>(socket: &S, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match socket.send_now(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether this is a socket's timeout, which has two faces depending on the system, and not the end of a connection that
/// the kernel gave up on, which on Unix wears one of them.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::ETIMEDOUT) {
        return false;
    }
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(all(test, shuttle))]
mod model;
#[cfg(all(test, not(shuttle)))]
mod tests;

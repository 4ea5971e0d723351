//! The write half of a connection, shared by every thread that sends.
//!
//! A frame goes straight to the socket, under a short lock and without blocking. What the socket does not take is
//! queued, and [`Sent::StartDrainer`] asks the caller for a thread that runs [`Outbound::drain`]: it blocks in writes and
//! ends when the queue is empty. So a connection costs a second thread only while it is behind.
//!
//! Invariants:
//! - Frames are never torn: a frame that is partly written is continued before anything else is.
//! - Data frames leave in the order of the calls. Control frames overtake queued data at a frame boundary; of Pings
//!   and of Pongs only the newest waits, since it answers for the earlier ones.
//! - Nothing follows a Close frame.
//! - The lock is never held across a call that can block.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::close::{CloseCode, close_payload};
use crate::frame::{Frame, Kind, Role};
use crate::sync::{Condvar, Mutex, MutexGuard};

mod batch;
use batch::Batch;

/// The socket, as far as the write half needs it.
pub(crate) trait Socket: Send + Sync {
    /// Takes what it can without blocking; `WouldBlock` if that is nothing.
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Blocks until all is taken, or the patience is over: then says how much was, `WouldBlock` if nothing.
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// How long [`send_patiently`](Self::send_patiently) may block.
    fn set_patience(&self, patience: Duration) -> io::Result<()>;
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket has it.
    Written,
    /// It waits: for the drainer that is at work, or, if it was fed, for the next flush.
    Queued,
    /// It waits, and the caller must start a thread that calls [`Outbound::drain`].
    StartDrainer,
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

/// Why the drainer gave up.
#[derive(Debug)]
pub(crate) enum DrainFailure {
    /// Not one byte was taken for this long.
    Stalled(Duration),
    /// The socket failed.
    Io(io::Error),
}

/// The write half.
#[derive(Debug)]
pub(crate) struct Outbound<S> {
    /// Protects the order of everything that is to be written, and the socket's non-blocking use.
    state: Mutex<State<S>>,
    /// Signalled when the queue has become shorter, and at the end.
    progress: Condvar,
    queue_limit: usize,
    role: Role,
}

#[derive(Debug)]
struct State<S> {
    /// Taken away at the end, so that a `Sender` kept for longer does not keep the file descriptor.
    socket: Option<Arc<S>>,
    phase: Phase,
    /// Frames whose turn has come. While a drainer is at work, it has them.
    batch: Batch,
    ping: Option<Frame>,
    pong: Option<Frame>,
    /// Small frames that were fed, in one piece. They are ahead of `data`.
    fed: Vec<u8>,
    data: VecDeque<Frame>,
    /// Bytes that were accepted and not yet taken by the socket.
    queued: usize,
    is_draining: bool,
    stall_limit: Option<Duration>,
    bytes: u64,
    messages: u64,
    /// The code in our Close frame, once there is one.
    close_code: Option<CloseCode>,
    is_close_written: bool,
    /// Bytes that were accepted, and that the socket will never take.
    unsent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The Close frame is the last in the queue.
    Closing,
    /// The Close frame was written, or never will be.
    Closed,
}

impl<S: Socket> Outbound<S> {
    /// What was fed is written when it comes to this, without waiting for a flush.
    const FEED_LIMIT: usize = 16 * 1024;

    /// Fed frames up to this length are copied together: cheaper for the kernel than to gather them.
    const JOINED: usize = 1024;

    /// `queue_limit`: bytes that may wait before `send` does. `stall_limit`: how long the peer may take nothing.
    pub(crate) fn new(role: Role, socket: Arc<S>, queue_limit: usize, stall_limit: Option<Duration>) -> Self {
        let state = State {
            socket: Some(socket),
            phase: Phase::Open,
            batch: Batch::default(),
            ping: None,
            pong: None,
            fed: Vec::new(),
            data: VecDeque::new(),
            queued: 0,
            is_draining: false,
            stall_limit,
            bytes: 0,
            messages: 0,
            close_code: None,
            is_close_written: false,
            unsent: 0,
        };
        Self { state: Mutex::new(state), progress: Condvar::new(), queue_limit, role }
    }

    /// Sends a data frame. If the queue is full, waits for room (`wait`), or gives the frame back.
    pub(crate) fn send(&self, frame: Frame, wait: bool) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.admit(frame.len(), wait)?;
        state.messages += 1;
        state.push_and_flush(frame).map_err(SendFailure::Io)
    }

    /// Like [`send`](Self::send), but a small frame stays in memory until [`flush`](Self::flush) or the next `send`.
    pub(crate) fn feed(&self, frame: Frame, wait: bool) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.admit(frame.len(), wait)?;
        state.messages += 1;
        if !state.is_draining && state.queued + frame.len() >= Self::FEED_LIMIT.min(self.queue_limit) {
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
        if state.phase == Phase::Open {
            state.push(frame);
        }
    }

    /// Sends a Ping or a Pong, ahead of the data that waits and whatever the queue's limit.
    pub(crate) fn send_control(&self, frame: Frame) -> Result<Sent, SendFailure> {
        let frame = self.dress(frame);
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(SendFailure::Closed);
        }
        state.push_and_flush(frame).map_err(SendFailure::Io)
    }

    /// Writes what was fed.
    pub(crate) fn flush(&self) -> Result<Sent, SendFailure> {
        self.lock().flush().map_err(SendFailure::Io)
    }

    /// Sends a Close frame behind everything that was accepted before it. From here on no other frame is taken.
    pub(crate) fn close(&self, code: Option<CloseCode>, reason: &str) -> Result<Sent, SendFailure> {
        let frame = self.dress(Frame::close(close_payload(code, reason)));
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(SendFailure::Closed);
        }
        state.phase = Phase::Closing;
        state.close_code = code;
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

    /// Ends the write half: lets go of the socket and of what waits, and wakes whoever waits for room.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.socket = None;
        state.forget_all();
        self.progress.notify_all();
    }

    /// Writes until the queue is empty. To be called by the one thread that [`Sent::StartDrainer`] asked for.
    pub(crate) fn drain(&self) -> Result<(), DrainFailure> {
        let mut batch = Batch::default();
        let mut patience = None;
        let mut last_progress = Instant::now();
        loop {
            let (socket, stall_limit) = {
                let mut state = self.lock();
                if batch.is_empty() {
                    batch = std::mem::take(&mut state.batch);
                }
                state.refill(&mut batch);
                let socket = state.socket.clone().filter(|_| !batch.is_empty());
                let Some(socket) = socket else {
                    state.is_draining = false;
                    self.progress.notify_all();
                    return Ok(());
                };
                (socket, state.stall_limit)
            };
            // A blocked write looks at the clock often enough to find a stall within a sixteenth of its limit.
            let wanted = stall_limit.map_or(Duration::from_secs(1), |limit| {
                (limit / 16).clamp(Duration::from_millis(1), Duration::from_secs(1))
            });
            if patience != Some(wanted) {
                socket.set_patience(wanted).map_err(DrainFailure::Io)?;
                patience = Some(wanted);
            }
            match socket.send_patiently(batch.slices(&mut Batch::room())) {
                Ok(count) => {
                    last_progress = Instant::now();
                    let mut state = self.lock();
                    state.taken(&mut batch, count);
                    self.progress.notify_all();
                }
                Err(error) if is_timeout(&error) => {
                    if let Some(limit) = stall_limit.filter(|limit| last_progress.elapsed() >= *limit) {
                        return Err(DrainFailure::Stalled(limit));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DrainFailure::Io(error)),
            }
        }
    }

    /// How long the peer may take nothing while data waits; `None` for ever.
    pub(crate) fn set_stall_limit(&self, stall_limit: Option<Duration>) {
        self.lock().stall_limit = stall_limit;
    }

    /// Whether data waits for the peer.
    pub(crate) fn is_behind(&self) -> bool {
        self.lock().is_draining
    }

    /// Whether a Close frame was sent or queued, or the connection has ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().phase != Phase::Open
    }

    /// The code in our Close frame, if it has one and the socket has taken it whole.
    pub(crate) fn sent_close_code(&self) -> Option<CloseCode> {
        let state = self.lock();
        state.close_code.filter(|_| state.is_close_written)
    }

    /// Bytes that were accepted and then lost, because the connection ended before the socket had taken them.
    pub(crate) fn unsent(&self) -> usize {
        self.lock().unsent
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Messages accepted, and bytes taken by the socket.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = self.lock();
        (state.messages, state.bytes)
    }

    /// Runs `use_socket` if the connection has not ended. It must not block.
    pub(crate) fn with_socket(&self, use_socket: impl FnOnce(&S)) {
        if let Some(socket) = &self.lock().socket {
            use_socket(socket);
        }
    }

    /// The lock, once there is room for a frame of this length. One larger than the whole queue is let in when nothing waits.
    fn admit(&self, len: usize, wait: bool) -> Result<MutexGuard<'_, State<S>>, SendFailure> {
        let mut state = self.lock();
        loop {
            if state.phase != Phase::Open {
                return Err(SendFailure::Closed);
            }
            // Without a drainer at work what waits was fed, and goes out together with the frame.
            if !state.is_draining || state.queued == 0 || state.queued + len <= self.queue_limit {
                return Ok(state);
            }
            if !wait {
                return Err(SendFailure::Full);
            }
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
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
            if frame.kind() == Kind::Close {
                self.close_is_written();
            }
            return Ok(Sent::Written);
        }
        if taken == 0 {
            self.push(frame);
        } else {
            self.queued += frame.len() - taken;
            self.batch.push_written(frame, taken);
        }
        self.is_draining = true;
        Ok(Sent::StartDrainer)
    }

    fn push(&mut self, frame: Frame) {
        self.queued += frame.len();
        let replaced = match frame.kind() {
            Kind::Ping => self.ping.replace(frame),
            Kind::Pong => self.pong.replace(frame),
            Kind::Data | Kind::Close => {
                self.data.push_back(frame);
                None
            }
        };
        self.queued -= replaced.map_or(0, |frame| frame.len());
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
                self.is_draining = true;
                return Ok(Sent::StartDrainer);
            }
        }
    }

    /// Moves frames whose turn has come to the batch: control frames first.
    fn refill(&mut self, batch: &mut Batch) {
        if !self.fed.is_empty() {
            let fed = std::mem::take(&mut self.fed);
            self.data.push_front(Frame::joined(fed));
        }
        while batch.has_room() {
            let urgent = self.pong.take().or_else(|| self.ping.take());
            let Some(frame) = urgent.or_else(|| self.data.pop_front()) else { return };
            batch.push(frame);
        }
    }

    /// The socket has taken so many bytes of the batch.
    fn taken(&mut self, batch: &mut Batch, count: usize) {
        self.bytes += count as u64;
        self.queued = self.queued.saturating_sub(count);
        if batch.advance(count) {
            self.close_is_written();
        }
    }

    fn close_is_written(&mut self) {
        self.phase = Phase::Closed;
        self.is_close_written = true;
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.unsent += self.queued;
        self.batch = Batch::default();
        self.ping = None;
        self.pong = None;
        self.fed = Vec::new();
        self.data = VecDeque::new();
        self.queued = 0;
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

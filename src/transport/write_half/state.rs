//! What the lock protects: the non-blocking use of the socket, the waiting frames, and the closing state.
//!
//! Invariants:
//! - `blocked_since` is `Some` while a drainer runs or is about to start. Only that drainer writes then.
//! - Without a drainer, only fed frames wait.
//! - Frames that are done with go to `spent`, and the caller drops them after it has released the lock.
//! - Payloads that the application may have lent wait only for a drainer.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, Control};
use super::queue::Queue;
use super::{Figures, Socket, Taken};
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::CloseState;
use crate::protocol::frame::{Frame, Kind};
use crate::transport::budget::MemoryBudget;
use crate::transport::waiting_line::WaitingLine;

#[derive(Debug)]
pub(super) struct State<S> {
    /// Released at the end, so a `Sender` that is kept longer does not keep the file descriptor.
    pub(super) socket: Option<Arc<S>>,
    pub(super) close_state: CloseState,
    pub(super) queue: Queue,
    pub(super) waiting: WaitingLine,
    /// How many threads wait for progress.
    pub(super) sleepers: usize,
    /// While a drainer runs: when the socket last took any byte, or refused the first one.
    pub(super) blocked_since: Option<Instant>,
    /// When the socket took the newest whole Ping, and how many bytes it had taken before that Ping.
    pub(super) ping_left: Option<(Instant, u64)>,
    /// Bytes taken by the socket, as they are on the wire.
    pub(super) bytes: u64,
    /// Messages accepted.
    pub(super) messages: u64,
    /// Bytes that were accepted and that the socket will never take.
    unsent: usize,
    /// The frames that waited when another thread ended the connection. The drainer drops them.
    pub(super) remains: Vec<Frame>,
}

/// The outcome of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The socket has taken everything.
    Written,
    /// Frames wait for the drainer that runs, or for the next flush.
    Queued,
    /// Frames wait, and the caller must start a drainer.
    FellBehind,
}

impl<S: Socket> State<S> {
    pub(super) fn new(socket: Arc<S>, total: &Arc<MemoryBudget>, close_timeout: Duration) -> Self {
        Self {
            socket: Some(socket),
            close_state: CloseState::new(close_timeout),
            queue: Queue::new(total),
            waiting: WaitingLine::default(),
            sleepers: 0,
            blocked_since: None,
            ping_left: None,
            bytes: 0,
            messages: 0,
            unsent: 0,
            remains: Vec::new(),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// Whether frames leave before one that comes now.
    #[inline(always)]
    pub(super) fn has_waiting(&self) -> bool {
        self.is_draining() || self.queue.bytes() > 0
    }

    /// Whether a frame of this cost may be queued.
    pub(super) fn has_room(&self, cost: usize, queue_limit: usize) -> bool {
        // Without a drainer only fed frames wait, and they leave together with this one.
        !self.is_draining() || self.queue.bytes() == 0 || self.queue.has_room(cost, queue_limit)
    }

    /// Writes the waiting frames and then this one, as far as the socket takes them without blocking. `frame` is
    /// cloned only if it has to wait.
    #[inline(always)]
    pub(super) fn write(&mut self, frame: &Frame, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        let waits = self.has_waiting();
        let Some(socket) = self.socket.as_ref().filter(|_| !waits) else {
            self.queue.push(frame.clone());
            return self.flush(spent);
        };
        // The fast path: nothing waits, so nothing is queued.
        let taken = send_now(&**socket, &frame.rest(0))?;
        self.bytes += taken.wire as u64;
        if taken.frames == frame.len() {
            match frame.kind() {
                Kind::Close => self.close_is_written(spent),
                Kind::Ping => self.ping_left = Some((Instant::now(), self.bytes - taken.wire as u64)),
                Kind::Pong | Kind::TextPong | Kind::Data => {}
            }
            return Ok(Outcome::Written);
        }
        self.fall_behind_with(frame.clone(), taken);
        Ok(Outcome::FellBehind)
    }

    /// Keeps a frame of which a full socket has taken this part.
    #[cold]
    fn fall_behind_with(&mut self, frame: Frame, taken: Taken) {
        // Control frames may still overtake a frame of which nothing is written.
        if taken.frames == 0 && !taken.is_pinned {
            self.queue.push(frame);
        } else {
            self.queue.push_written(frame, taken.frames);
        }
        self.fall_behind();
    }

    /// Keeps the frame for the next flush, or writes it if the waiting bytes reach the limit with it.
    pub(super) fn feed(&mut self, frame: &Frame, limit: usize, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        if self.is_draining() {
            self.queue.push(frame.clone());
        } else if self.queue.bytes() + frame.len() >= limit || self.queue.fills_a_batch() {
            return self.write(frame, spent);
        } else {
            self.queue.feed(frame);
        }
        Ok(Outcome::Queued)
    }

    /// Writes the waiting frames as far as the socket takes them without blocking.
    pub(super) fn flush(&mut self, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        if self.is_draining() {
            return Ok(Outcome::Queued);
        }
        let Some(socket) = self.socket.clone() else { return Ok(Outcome::Queued) };
        let mut batch = self.queue.take_batch();
        let result = self.write_batches(&*socket, &mut batch, spent);
        self.queue.put_back(batch);
        result
    }

    fn write_batches(&mut self, socket: &S, batch: &mut Batch, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        while !batch.is_empty() {
            // Mostly there is one frame, for small ones were copied together. It does without room for many.
            let (offered, taken) = match batch.only() {
                Some(slices) => offer(socket, &slices)?,
                None => offer_many(socket, batch)?,
            };
            self.note_taken(batch, taken, spent);
            if taken.frames < offered {
                self.fall_behind();
                return Ok(Outcome::FellBehind);
            }
            self.queue.refill(batch);
        }
        Ok(Outcome::Written)
    }

    /// Records what the socket took of the batch.
    pub(super) fn note_taken(&mut self, batch: &mut Batch, taken: Taken, spent: &mut Vec<Frame>) {
        self.bytes += taken.wire as u64;
        match self.queue.note_taken(batch, taken.frames, spent) {
            Some(Control::Close) => self.close_is_written(spent),
            // Frames after the Ping may have been taken with it. The Ping then counts as having waited for them as
            // well, which does no harm.
            Some(Control::Ping { len }) => {
                self.ping_left = Some((Instant::now(), self.bytes.saturating_sub((len + taken.overhead) as u64)));
            }
            None => {}
        }
    }

    /// Hands the waiting frames to the drainer that the caller starts.
    fn fall_behind(&mut self) {
        self.blocked_since = Some(Instant::now());
        self.queue.set_counted(true);
    }

    /// Ends the drainer's part: nothing waits.
    pub(super) fn catch_up(&mut self) {
        self.blocked_since = None;
        self.queue.set_counted(false);
        self.queue.shrink();
    }

    fn close_is_written(&mut self, spent: &mut Vec<Frame>) {
        self.close_state.close_written();
        self.discard(spent);
    }

    /// Discards all waiting frames.
    pub(super) fn discard(&mut self, spent: &mut Vec<Frame>) {
        self.unsent += self.queue.discard(spent);
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            messages: self.messages,
            bytes: self.bytes,
            queued: self.queue.bytes(),
            unsent: self.unsent,
            reason: self.close_state.reason(CloseReason::Disconnected),
            sent: self.close_state.sent(),
            received: self.close_state.received(),
        }
    }
}

/// Offers a whole batch to the socket. Not inlined: that keeps the stack of an idle connection small.
#[inline(never)]
fn offer_many<S: Socket>(socket: &S, batch: &Batch) -> io::Result<(usize, Taken)> {
    offer(socket, batch.slices(&mut Batch::room()))
}

/// Offers these bytes to the socket. How many they are, and what it took.
fn offer<S: Socket>(socket: &S, slices: &[IoSlice<'_>]) -> io::Result<(usize, Taken)> {
    let offered = slices.iter().map(|slice| slice.len()).sum();
    send_now(socket, slices).map(|taken| (offered, taken))
}

/// Like [`Socket::send_now`], but it is no error if nothing was taken, and retries after an interruption.
#[inline(always)]
fn send_now<S: Socket>(socket: &S, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
    loop {
        match socket.send_now(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

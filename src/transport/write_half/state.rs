//! What the lock protects: the socket's non-blocking use, the frames that wait, and how far the connection is closed.
//!
//! Invariants:
//! - `blocked_since` is `Some` while a drainer is at work, or about to be started, and only that drainer writes then.
//! - Without a drainer, only what was fed waits.
//! - Frames that are done with go to `spent`, which the caller drops after the lock.
//! - Payloads that the application may have lent wait only for a drainer.

use std::io::{self, IoSlice};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::WaitingLine;
use super::batch::{Batch, Control};
use super::queue::Queue;
use super::{Figures, Socket};
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::CloseState;
use crate::protocol::frame::{Frame, Kind};
use crate::transport::budget::MemoryBudget;

#[derive(Debug)]
pub(super) struct State<S> {
    /// Taken away at the end, so that a `Sender` kept for longer does not keep the file descriptor.
    pub(super) socket: Option<Arc<S>>,
    pub(super) close_state: CloseState,
    pub(super) queue: Queue,
    pub(super) waiting: WaitingLine,
    /// While a drainer is at work: when the socket last took anything, or refused the first byte.
    pub(super) blocked_since: Option<Instant>,
    /// When the newest Ping that was taken whole was, and how many bytes had been before it.
    pub(super) ping_left: Option<(Instant, u64)>,
    /// Bytes taken by the socket.
    pub(super) bytes: u64,
    /// Messages accepted.
    pub(super) messages: u64,
    /// Bytes that were accepted, and that the socket will never take.
    unsent: usize,
    /// What waited when another thread ended the connection, for the drainer to drop.
    pub(super) remains: Vec<Frame>,
}

/// What became of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The socket has everything.
    Written,
    /// It waits: for the drainer that is at work, or for the next flush.
    Queued,
    /// It waits, and a drainer must be started.
    FellBehind,
}

impl<S: Socket> State<S> {
    pub(super) fn new(socket: Arc<S>, total: &Arc<MemoryBudget>, close_timeout: Duration) -> Self {
        Self {
            socket: Some(socket),
            close_state: CloseState::new(close_timeout),
            queue: Queue::new(total),
            waiting: WaitingLine::default(),
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

    /// Whether a frame of this cost may be queued.
    pub(super) fn has_room(&self, cost: usize, queue_limit: usize) -> bool {
        // Without a drainer at work what waits was fed, and goes out together with the frame.
        !self.is_draining() || self.queue.bytes() == 0 || self.queue.has_room(cost, queue_limit)
    }

    /// Writes the frame, behind what waits, as far as the socket takes it without blocking. It is taken only if it has
    /// to wait.
    pub(super) fn write(&mut self, frame: &mut Frame, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        let waits = self.is_draining() || self.queue.bytes() > 0;
        let Some(socket) = self.socket.as_ref().filter(|_| !waits) else {
            self.queue.push(mem::take(frame));
            return self.flush(spent);
        };
        // The fast path: nothing waits, so nothing needs to be queued.
        let count = send_now(&**socket, &frame.rest(0))?;
        self.bytes += count as u64;
        if count == frame.len() {
            match frame.kind() {
                Kind::Close => self.close_is_written(spent),
                Kind::Ping => self.ping_left = Some((Instant::now(), self.bytes - frame.len() as u64)),
                Kind::Pong | Kind::TextPong | Kind::Data => {}
            }
            return Ok(Outcome::Written);
        }
        // The socket is full. A frame of which nothing is written may still be overtaken.
        let frame = mem::take(frame);
        if count == 0 {
            self.queue.push(frame);
        } else {
            self.queue.push_written(frame, count);
        }
        self.fall_behind();
        Ok(Outcome::FellBehind)
    }

    /// Keeps the frame for the next flush, or writes it if what waits comes to the limit with it.
    pub(super) fn feed(&mut self, frame: &mut Frame, limit: usize, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        if self.is_draining() {
            self.queue.push(mem::take(frame));
        } else if self.queue.bytes() + frame.len() >= limit || self.queue.fills_a_batch() {
            return self.write(frame, spent);
        } else {
            self.queue.feed(frame);
        }
        Ok(Outcome::Queued)
    }

    /// Writes what waits as far as the socket takes it without blocking.
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

    /// Not inlined, to keep the stack of the fast path low.
    #[inline(never)]
    fn write_batches(&mut self, socket: &S, batch: &mut Batch, spent: &mut Vec<Frame>) -> io::Result<Outcome> {
        while !batch.is_empty() {
            let slices = &mut Batch::room();
            let slices = batch.slices(slices);
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let count = send_now(socket, slices)?;
            self.note_taken(batch, count, spent);
            if count < offered {
                self.fall_behind();
                return Ok(Outcome::FellBehind);
            }
            self.queue.refill(batch);
        }
        Ok(Outcome::Written)
    }

    /// The socket has taken so many bytes of the batch.
    pub(super) fn note_taken(&mut self, batch: &mut Batch, count: usize, spent: &mut Vec<Frame>) {
        self.bytes += count as u64;
        match self.queue.note_taken(batch, count, spent) {
            Some(Control::Close) => self.close_is_written(spent),
            // Other frames may have been taken behind it: that it is judged to have waited for them as well costs
            // nothing.
            Some(Control::Ping { len }) => self.ping_left = Some((Instant::now(), self.bytes - len as u64)),
            None => {}
        }
    }

    /// What waits is the drainer's from now on.
    fn fall_behind(&mut self) {
        self.blocked_since = Some(Instant::now());
        self.queue.set_counted(true);
    }

    /// The drainer has nothing left to do.
    pub(super) fn catch_up(&mut self) {
        self.blocked_since = None;
        self.queue.set_counted(false);
        self.queue.shrink();
    }

    fn close_is_written(&mut self, spent: &mut Vec<Frame>) {
        self.close_state.close_written();
        self.discard(spent);
    }

    /// Forgets everything that waits.
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

//! The queue: the frames that wait, and the order in which they leave.
//!
//! Order: a partly written frame; then a Pong, a text heartbeat answer and a Ping, each the newest of its kind; then
//! the fed frames; then the other data.
//!
//! Invariants: the counts of bytes and memory cover what waits here or in the drainer's batch. Data leaves in the order
//! of its arrival.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::batch::{Batch, Control};
use crate::protocol::frame::{Frame, Kind};
use crate::transport::budget::{BudgetShare, MemoryBudget};

#[derive(Debug)]
pub(super) struct Queue {
    /// The frames whose turn has come. While a drainer runs, it has them.
    batch: Batch,
    ping: Option<Frame>,
    pong: Option<Frame>,
    text_pong: Option<Frame>,
    /// Small fed frames, encoded in one buffer. They leave before `data`.
    fed: Vec<u8>,
    data: VecDeque<Frame>,
    /// Bytes that were accepted and not yet taken by the socket.
    bytes: usize,
    /// The memory cost of the waiting frames, except for small fed ones. It counts toward the total only while a
    /// drainer runs, so frames that go straight to the socket cost nothing.
    share: BudgetShare,
}

impl Queue {
    /// Fed frames up to this length are copied into one buffer. For the kernel that is cheaper than gathering them.
    const COPIED: usize = 1024;

    pub(super) fn new(total: &Arc<MemoryBudget>) -> Self {
        Self {
            batch: Batch::default(),
            ping: None,
            pong: None,
            text_pong: None,
            fed: Vec::new(),
            data: VecDeque::new(),
            bytes: 0,
            share: BudgetShare::new(total),
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn held(&self) -> usize {
        self.share.held()
    }

    /// Whether a frame of this cost fits under `limit` and under the total of all queues.
    pub(super) fn has_room(&self, cost: usize, limit: usize) -> bool {
        self.share.held().saturating_add(cost) <= limit && self.share.has_room(cost)
    }

    /// Whether there are at least as many data frames as one batch takes.
    pub(super) fn fills_a_batch(&self) -> bool {
        self.data.len() >= Batch::MOST_FRAMES
    }

    /// Sets whether the waiting frames count toward the total of all queues.
    pub(super) fn set_counted(&mut self, counts: bool) {
        self.share.set_counted(counts);
    }

    /// Adds a frame. A control frame replaces a waiting one of its kind.
    pub(super) fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
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
            self.bytes -= replaced.len();
            self.share.sub(replaced.cost());
        }
    }

    /// Adds a frame of which `written` bytes are written. The queue must be empty.
    pub(super) fn push_written(&mut self, frame: Frame, written: usize) {
        self.bytes += frame.len() - written;
        self.share.add(frame.cost());
        self.batch.push_written(frame, written);
    }

    /// Adds a data frame while no drainer runs. A small one is copied after the other fed ones.
    pub(super) fn feed(&mut self, frame: &Frame) {
        if frame.len() <= Self::COPIED && self.data.is_empty() {
            self.bytes += frame.len();
            frame.write_to(&mut self.fed);
        } else {
            self.push(frame.clone());
        }
    }

    /// Takes the batch, filled with the next frames as far as it has room.
    pub(super) fn take_batch(&mut self) -> Batch {
        let mut batch = mem::take(&mut self.batch);
        self.refill(&mut batch);
        batch
    }

    /// Returns the batch that [`take_batch`](Self::take_batch) gave. An empty one is worth keeping for its memory.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.batch = batch;
    }

    /// Fills the batch of a drainer, which keeps it.
    pub(super) fn refill_for_drainer(&mut self, batch: &mut Batch) {
        if batch.is_empty() {
            *batch = mem::take(&mut self.batch);
        }
        self.refill(batch);
    }

    /// Moves the next frames into the batch, control frames first.
    pub(super) fn refill(&mut self, batch: &mut Batch) {
        if !self.fed.is_empty() {
            let frame = Frame::from_encoded(mem::take(&mut self.fed));
            self.share.add(frame.cost());
            self.data.push_front(frame);
        }
        while batch.has_room() {
            let urgent = self.pong.take().or_else(|| self.text_pong.take()).or_else(|| self.ping.take());
            let Some(frame) = urgent.or_else(|| self.data.pop_front()) else { return };
            batch.push(frame);
        }
    }

    /// Records that the socket took `count` bytes of the batch. Returns the last completed control frame whose time
    /// matters.
    pub(super) fn note_taken(&mut self, batch: &mut Batch, count: usize, spent: &mut Vec<Frame>) -> Option<Control> {
        self.bytes = self.bytes.saturating_sub(count);
        let (freed, control) = batch.advance(count, spent);
        self.share.sub(freed);
        control
    }

    /// Reduces the memory of the empty queue to what a batch takes.
    pub(super) fn shrink(&mut self) {
        self.data.shrink_to(Batch::MOST_FRAMES);
    }

    /// Discards all frames. Returns how many bytes they had left.
    pub(super) fn discard(&mut self, spent: &mut Vec<Frame>) -> usize {
        mem::take(&mut self.batch).discard(spent);
        spent.extend(mem::take(&mut self.data));
        self.ping = None;
        self.pong = None;
        self.text_pong = None;
        self.fed = Vec::new();
        self.share.clear();
        mem::take(&mut self.bytes)
    }
}

//! The frames that wait, and in which order they leave.
//!
//! Order: a frame that is partly written; then a Pong, an answer in text and a Ping, each the newest of its kind; then
//! what was fed, and then the other data.
//!
//! Invariants: what is counted, in bytes and in memory, is what waits here or in the drainer's batch. Data leaves in
//! the order in which it came.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::batch::{Batch, Control};
use crate::protocol::frame::{Frame, Kind};
use crate::transport::budget::{BudgetShare, MemoryBudget};

#[derive(Debug)]
pub(super) struct Queue {
    /// Frames whose turn has come. While a drainer is at work, it has them.
    batch: Batch,
    ping: Option<Frame>,
    pong: Option<Frame>,
    text_pong: Option<Frame>,
    /// Small frames that were fed, in one piece. They are ahead of `data`.
    fed: Vec<u8>,
    data: VecDeque<Frame>,
    /// Bytes that were accepted and not yet taken by the socket.
    bytes: usize,
    /// What the frames that wait cost in memory, but for small ones that were fed. It counts while a drainer is at
    /// work: what goes straight to the socket costs nothing.
    share: BudgetShare,
}

impl Queue {
    /// Fed frames up to this length are copied together: cheaper for the kernel than to gather them.
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

    /// Whether a frame of this cost may be added under this limit, and that of all queues together.
    pub(super) fn has_room(&self, cost: usize, limit: usize) -> bool {
        self.share.held().saturating_add(cost) <= limit && self.share.has_room(cost)
    }

    /// Whether there are more data frames than are worth gathering.
    pub(super) fn fills_a_batch(&self) -> bool {
        self.data.len() >= Batch::MOST_FRAMES
    }

    /// From now on what waits counts for the total of all queues, or does not.
    pub(super) fn set_counted(&mut self, counts: bool) {
        self.share.set_counted(counts);
    }

    /// Adds a frame; a control frame takes the place of one of its kind.
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

    /// Adds a frame of which so many bytes are written. Nothing else may wait.
    pub(super) fn push_written(&mut self, frame: Frame, written: usize) {
        self.bytes += frame.len() - written;
        self.share.add(frame.cost());
        self.batch.push_written(frame, written);
    }

    /// Adds a data frame while no drainer is at work; a small one is copied behind others that were fed.
    pub(super) fn feed(&mut self, frame: &mut Frame) {
        if frame.len() <= Self::COPIED && self.data.is_empty() {
            self.bytes += frame.len();
            frame.write_to(&mut self.fed);
        } else {
            self.push(mem::take(frame));
        }
    }

    /// The batch, with all frames in it that it has room for.
    pub(super) fn take_batch(&mut self) -> Batch {
        let mut batch = mem::take(&mut self.batch);
        self.refill(&mut batch);
        batch
    }

    /// Takes back what [`take_batch`](Self::take_batch) gave. An empty one is worth keeping: it has memory for the
    /// next.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.batch = batch;
    }

    /// The same for a drainer, which keeps the batch.
    pub(super) fn refill_for_drainer(&mut self, batch: &mut Batch) {
        if batch.is_empty() {
            *batch = mem::take(&mut self.batch);
        }
        self.refill(batch);
    }

    /// Moves frames whose turn has come to the batch: control frames first.
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

    /// The socket has taken so many bytes of the batch. The last control frame in them of which the time counts.
    pub(super) fn note_taken(&mut self, batch: &mut Batch, count: usize, spent: &mut Vec<Frame>) -> Option<Control> {
        self.bytes = self.bytes.saturating_sub(count);
        let (freed, control) = batch.advance(count, spent);
        self.share.sub(freed);
        control
    }

    /// The queue is empty, and keeps no memory beyond what a batch takes.
    pub(super) fn shrink(&mut self) {
        self.data.shrink_to(Batch::MOST_FRAMES);
    }

    /// Forgets everything. How many bytes that was.
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

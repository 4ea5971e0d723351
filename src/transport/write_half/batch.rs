//! A batch: frames on their way into the socket, in one system call.
//!
//! Invariants: a frame leaves the batch when the socket has taken all of it, or is discarded at the end; only the first
//! may be partly written; nothing follows a Close frame.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::protocol::frame::{Frame, Kind};

/// Frames that go out together in one system call. The first may be partly written.
#[derive(Debug, Default)]
pub(super) struct Batch {
    frames: VecDeque<Frame>,
    /// The bytes of the first frame that are written.
    offset: usize,
    /// The bytes of all frames, those written included.
    len: usize,
}

/// The control frames whose time of writing matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Ping { len: usize },
    Close,
}

impl Batch {
    /// Few enough that a control frame soon finds a boundary, many enough to save system calls.
    pub(super) const MOST_FRAMES: usize = 32;
    const MOST_BYTES: usize = 64 * 1024;

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < Self::MOST_FRAMES && self.len < Self::MOST_BYTES
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.len += frame.len();
        self.frames.push_back(frame);
    }

    /// Adds the first frame, of which `written` bytes are written.
    pub(super) fn push_written(&mut self, frame: Frame, written: usize) {
        self.push(frame);
        self.offset = written;
    }

    pub(super) fn room<'a>() -> [IoSlice<'a>; 2 * Self::MOST_FRAMES] {
        [IoSlice::new(&[]); 2 * Self::MOST_FRAMES]
    }

    pub(super) fn slices<'r, 'a>(&'a self, room: &'r mut [IoSlice<'a>; 2 * Self::MOST_FRAMES]) -> &'r [IoSlice<'a>] {
        let mut offset = self.offset;
        for (pair, frame) in room.chunks_exact_mut(2).zip(&self.frames) {
            pair.copy_from_slice(&frame.rest(offset));
            offset = 0;
        }
        &room[..2 * self.frames.len()]
    }

    /// The slices of the only frame. `None` if there are more frames, or none.
    pub(super) fn only(&self) -> Option<[IoSlice<'_>; 2]> {
        self.frames.front().filter(|_| self.frames.len() == 1).map(|frame| frame.rest(self.offset))
    }

    /// Records that the socket took `count` bytes. Returns the memory cost of the frames that were completed, and the
    /// last of them whose time matters.
    pub(super) fn advance(&mut self, count: usize, spent: &mut Vec<Frame>) -> (usize, Option<Control>) {
        let (mut freed, mut control) = (0, None);
        self.offset += count;
        while let Some(first) = self.frames.front().filter(|first| first.len() <= self.offset) {
            let (kind, len) = (first.kind(), first.len());
            freed += first.cost();
            self.offset -= len;
            self.len -= len;
            // Payloads of our own are dropped here, because `spent` would allocate for them.
            spent.extend(self.frames.pop_front().filter(Frame::may_be_lent));
            match kind {
                // Nothing follows a Close frame.
                Kind::Close => return (freed, Some(Control::Close)),
                Kind::Ping => control = Some(Control::Ping { len }),
                Kind::Pong | Kind::TextPong | Kind::Data => {}
            }
        }
        (freed, control)
    }

    pub(super) fn discard(self, spent: &mut Vec<Frame>) {
        spent.extend(self.frames);
    }
}

//! A published message, with what subscribers are sent of it. That is made once for all of them, when the first needs
//! it.
//!
//! Invariant: its payload is our own, because whoever drops the last of it must not run the application's code.

use std::sync::OnceLock;
use std::time::Instant;

use super::name::TopicName;
use super::position::{Epoch, Position};
use super::wire;
use crate::message::Message;
use crate::supervisor::broadcast::Broadcast;
use crate::supervisor::handle::SupervisorHandle;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) message: Message,
    pub(super) published: Instant,
    /// The message by itself.
    bare: OnceLock<Box<Broadcast>>,
    /// The message in the wire format of topics.
    json: OnceLock<Box<Broadcast>>,
}

/// In which form a subscriber gets messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As they are, without their topic and position.
    Bare,
    /// In the wire format of topics.
    Json,
}

impl Entry {
    /// The memory that an entry takes beside what is made of its payload.
    const OVERHEAD: usize = 640;

    pub(super) fn new(offset: u64, message: Message, published: Instant) -> Self {
        Self { offset, message, published, bare: OnceLock::new(), json: OnceLock::new() }
    }

    /// The memory that it takes: its payload as it came, in a frame of each format, and compressed.
    pub(super) fn cost(&self) -> usize {
        4 * self.message.len() + Self::OVERHEAD
    }

    /// Calls a function with the frames for subscribers of this format. They are compressed as well, if somebody takes
    /// them so.
    pub(super) fn with_frames<T>(
        &self,
        format: Format,
        topic: &TopicName,
        epoch: Epoch,
        supervisor: &SupervisorHandle,
        use_them: impl FnOnce(&Broadcast) -> T,
    ) -> T {
        let place = match format {
            Format::Bare => &self.bare,
            Format::Json => &self.json,
        };
        if let Some(frames) = place.get() {
            return use_them(frames);
        }
        let message = match format {
            Format::Bare => self.message.clone(),
            Format::Json => wire::message(topic, Position { epoch, offset: self.offset }, &self.message),
        };
        // JSON may be six times as long as the text in it. Such is not kept.
        let is_kept = message.len() <= 2 * self.message.len() + Self::OVERHEAD / 2;
        let frames = Box::new(supervisor.encode_for_all(message));
        if is_kept { use_them(place.get_or_init(|| frames)) } else { use_them(&frames) }
    }
}

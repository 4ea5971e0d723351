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

/// Frames of one delivery that are too long to be kept with their message.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    bare: Option<Box<Broadcast>>,
    json: Option<Box<Broadcast>>,
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

    /// The frames for subscribers of this format, compressed as well, if somebody takes them so. Those that the message
    /// does not keep stay in `unkept`, for the next subscriber of the same delivery.
    pub(super) fn frames<'a>(
        &'a self,
        format: Format,
        topic: &TopicName,
        epoch: Epoch,
        supervisor: &SupervisorHandle,
        unkept: &'a mut Unkept,
    ) -> &'a Broadcast {
        let place = match format {
            Format::Bare => &self.bare,
            Format::Json => &self.json,
        };
        if let Some(frames) = place.get() {
            return frames;
        }
        let unkept = match format {
            Format::Bare => &mut unkept.bare,
            Format::Json => &mut unkept.json,
        };
        let frames = match unkept.take() {
            Some(frames) => frames,
            None => {
                let message = match format {
                    Format::Bare => self.message.clone(),
                    Format::Json => wire::message(topic, Position { epoch, offset: self.offset }, &self.message),
                };
                // JSON may be six times as long as the text in it. Such is not kept.
                let is_kept = message.len() <= 2 * self.message.len() + Self::OVERHEAD / 2;
                let frames = Box::new(supervisor.encode_for_all(message));
                if is_kept {
                    return place.get_or_init(|| frames);
                }
                frames
            }
        };
        unkept.insert(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_made_once_for_a_delivery_also_if_they_are_not_kept() {
        let (supervisor, _receivers) = SupervisorHandle::new(std::sync::Arc::default(), |_| {}).unwrap();
        let (topic, epoch) = ("news".parse().unwrap(), Epoch::new());
        for (text, is_kept) in [("x", true), ("\u{1}", false)] {
            let entry = Entry::new(1, text.repeat(1000).into(), Instant::now());
            let frames = |unkept: &mut Unkept| {
                let frames: *const Broadcast = entry.frames(Format::Json, &topic, epoch, &supervisor, unkept);
                frames
            };
            let (mut unkept, mut later) = (Unkept::default(), Unkept::default());
            let first = frames(&mut unkept);
            assert_eq!(first, frames(&mut unkept), "{text:?}");
            assert_eq!(first == frames(&mut later), is_kept, "{text:?}");
        }
    }
}

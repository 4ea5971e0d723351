//! The messages that are to be published, from the call to the server's reply. Without I/O or clock, like the rest of
//! the protocol.
//!
//! Invariants:
//! - A message is settled once: by its reply, or by the reason for which there will be none. Until then it keeps its
//!   place and its key, so that sending it again publishes nothing twice.
//! - They leave in the order of their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::super::error::PublishError;
use crate::message::Message;
use crate::topics::{Published, TopicName};

/// Messages that may be without a reply at a time. A server knows the last 1,000 keys of a topic by default, and after
/// a reconnection has to know all of these, although others may have published meanwhile.
pub(super) const MOST_IN_FLIGHT: usize = 256;

/// What a message was settled with.
pub(in super::super) type Settled = Result<Published, PublishError>;

/// The bounds of what waits to be published.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Limits {
    /// Bytes of all messages that have no reply yet.
    pub(in super::super) outbox: usize,
    /// Bytes of a frame.
    pub(in super::super) frame: usize,
    /// How long a message may take.
    pub(in super::super) timeout: Duration,
}

pub(super) struct Outbox {
    /// By their ids: oldest first.
    publications: BTreeMap<u64, Publication>,
    /// Those of them that the connection has not been given.
    unsent: BTreeSet<u64>,
    bytes: usize,
    /// The server could not take a message. Nothing leaves until this is over, so that the order stays.
    is_held: bool,
    /// Messages that were not confirmed, and whose publishers do not wait for that: how many, and the first failure.
    unheard: Option<(u64, String)>,
}

struct Publication {
    topic: TopicName,
    frame: Message,
    /// After this it is not sent any more: the server might not know its key again.
    deadline: Instant,
    settle: channel::Sender<Settled>,
}

impl Publication {
    fn cost(&self) -> usize {
        self.frame.cost()
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { publications: BTreeMap::new(), unsent: BTreeSet::new(), bytes: 0, is_held: false, unheard: None }
    }

    /// Takes a message that was written out. Its outcome comes over the channel.
    pub(super) fn add(
        &mut self,
        id: u64,
        topic: TopicName,
        frame: Message,
        now: Instant,
        limits: &Limits,
    ) -> Result<channel::Receiver<Settled>, PublishError> {
        let cost = frame.cost();
        if frame.len() > limits.frame || cost > limits.outbox {
            return Err(PublishError::TooLarge);
        }
        if self.bytes + cost > limits.outbox {
            self.drop_expired(now);
        }
        if self.bytes + cost > limits.outbox {
            return Err(PublishError::Full);
        }
        let (settle, settled) = channel::bounded(1);
        self.bytes += cost;
        self.publications.insert(id, Publication { topic, frame, deadline: now + limits.timeout, settle });
        self.unsent.insert(id);
        Ok(settled)
    }

    /// The next message to send. It counts as sent.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, Message)> {
        loop {
            if self.is_held || self.publications.len() - self.unsent.len() >= MOST_IN_FLIGHT {
                return None;
            }
            let id = *self.unsent.first()?;
            let publication = &self.publications[&id];
            if publication.deadline > now {
                let frame = publication.frame.clone();
                self.unsent.remove(&id);
                return Some((id, frame));
            }
            self.settle(id, Err(PublishError::Timeout));
        }
    }

    /// A message was not sent.
    pub(super) fn give_back(&mut self, id: u64) {
        if self.publications.contains_key(&id) {
            self.unsent.insert(id);
        }
    }

    /// The connection has ended: what had no reply is to be sent again.
    pub(super) fn closed(&mut self) {
        self.unsent = self.publications.keys().copied().collect();
        self.is_held = false;
    }

    /// The server may take messages again.
    pub(super) fn release(&mut self) {
        self.is_held = false;
    }

    /// The server cannot take a message now, which is to be sent again after [`release`](Self::release). Returns
    /// whether that is news. `None` if there is no such message.
    pub(super) fn hold(&mut self, id: u64) -> Option<bool> {
        if !self.has_sent(id) {
            return None;
        }
        self.unsent.insert(id);
        Some(!std::mem::replace(&mut self.is_held, true))
    }

    /// The server has replied to a message.
    pub(super) fn replied(&mut self, id: u64, outcome: Settled) {
        if self.has_sent(id) {
            self.settle(id, outcome);
        }
    }

    fn has_sent(&self, id: u64) -> bool {
        self.publications.contains_key(&id) && !self.unsent.contains(&id)
    }

    /// There will be no reply to any.
    pub(super) fn end(&mut self) {
        while let Some((id, _)) = self.publications.first_key_value() {
            self.settle(*id, Err(PublishError::Closed));
        }
    }

    /// Nobody waits for the outcome any more, and the message is not to be sent any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.remove(id);
    }

    /// What failed without anybody to hear it, for the log.
    pub(super) fn take_unheard(&mut self) -> Option<String> {
        let (count, first) = self.unheard.take()?;
        Some(match count {
            1 => first,
            count => format!("{count} messages were not confirmed, and nobody waits for that; {first}"),
        })
    }

    fn settle(&mut self, id: u64, outcome: Settled) {
        let Some(publication) = self.remove(id) else { return };
        let failure = outcome.as_ref().err().cloned();
        // If that fails, nobody waits for it.
        if let (Err(_), Some(failure)) = (publication.settle.send(outcome), failure) {
            let first = || (0, format!("a message to {} was not confirmed: {failure}", publication.topic));
            self.unheard.get_or_insert_with(first).0 += 1;
        }
    }

    fn remove(&mut self, id: u64) -> Option<Publication> {
        let publication = self.publications.remove(&id)?;
        self.unsent.remove(&id);
        self.bytes -= publication.cost();
        Some(publication)
    }

    /// Lets go of what is too old to be sent.
    fn drop_expired(&mut self, now: Instant) {
        let is_expired = |id: &&u64| self.publications.get(id).is_some_and(|publication| publication.deadline <= now);
        let expired: Vec<u64> = self.unsent.iter().filter(is_expired).copied().collect();
        for id in expired {
            self.settle(id, Err(PublishError::Timeout));
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.publications.is_empty() && self.unsent.is_empty() && self.bytes == 0
    }
}

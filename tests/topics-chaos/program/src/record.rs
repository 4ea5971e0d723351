//! What a subscriber got of a topic, and whether that is right.
//!
//! The truth comes from the publishers. Each numbers its messages from 1, and publishes the next once the one before is
//! acknowledged. So in each epoch the numbers of a topic are consecutive, and end with the last that was acknowledged,
//! or with one more, which was published just before the epoch was over and not acknowledged any more. That one number
//! is published again in the next epoch, and is the only one that anybody may see twice.
//!
//! A Redis that came back without its latest messages goes on in the same epoch until a server connects to it that
//! knows better. In the last moments of such an epoch a position may mean two messages, for one of which nobody could
//! know of the other. Of that nothing is asked but that all are told `lost` at its end, as at the end of every epoch.
//!
//! A record is right if it begins before the first message, each message is the next one by its position and has the
//! number that belongs there, each change of the epoch comes with one `lost`, there is no other, and it ends with the
//! last message that was published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A place in the history of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
}

impl Position {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parse = || {
            let (epoch, offset) = text.split_once(':')?;
            Some(Self { epoch: u64::from_str_radix(epoch, 16).ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| format!("{text:?} is no position"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.epoch, self.offset)
    }
}

/// What a subscriber hears of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was subscribed for the first time.
    Began(Position),
    /// A message with this number. 0 if it is not what was published.
    Message(Position, u64),
    Lost(Position),
}

impl Event {
    pub(crate) fn position(self) -> Position {
        match self {
            Self::Began(position) | Self::Message(position, _) | Self::Lost(position) => position,
        }
    }
}

/// A life of the histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) id: u64,
    /// What became of the histories at its end.
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All was gone, or nothing yet.
    Complete,
    /// The latest messages were gone, and it went on without them.
    Torn,
}

/// What was published, in each epoch.
#[derive(Debug)]
pub(crate) struct Truth {
    /// In the order in which they were.
    epochs: Vec<Epoch>,
    topics: Vec<Topic>,
}

/// What was acknowledged of a topic.
#[derive(Debug, Default)]
struct Topic {
    /// The numbers at each place of each epoch. In one that was torn there may be several.
    numbers: BTreeMap<(usize, u64), BTreeSet<u64>>,
    /// Of each epoch: the last number up to its end, and the last offset in it, if there is one.
    ends: Vec<(u64, Option<u64>)>,
}

/// What a right record has in it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) messages: u64,
    pub(crate) losts: u64,
    /// Numbers that were lost with that.
    pub(crate) missed: u64,
}

impl Truth {
    /// Takes the positions that publishers got, of each topic in the order of the numbers.
    ///
    /// # Errors
    /// If a message was published twice in an epoch, or at a place that it cannot have.
    pub(crate) fn new(epochs: Vec<Epoch>, topics: &[Vec<Position>]) -> Result<Self, String> {
        let mut truth = Self { epochs, topics: Vec::new() };
        for (number, positions) in topics.iter().enumerate() {
            let topic = truth.topic(positions).map_err(|why| format!("topic {number}: {why}"))?;
            truth.topics.push(topic);
        }
        Ok(truth)
    }

    fn topic(&self, positions: &[Position]) -> Result<Topic, String> {
        let mut topic = Topic { numbers: BTreeMap::new(), ends: vec![(0, None); self.epochs.len()] };
        let mut latest = 0;
        for (index, position) in positions.iter().enumerate() {
            let number = index as u64 + 1;
            let epoch = self.epoch(*position).map_err(|why| format!("number {number}: {why}"))?;
            let wrong = |what: &str| Err(format!("number {number} was published as {position}, {what}"));
            if epoch < latest {
                return wrong("in an epoch that was over");
            }
            for later in latest + 1..=epoch {
                topic.ends[later].0 = topic.ends[later - 1].0;
            }
            latest = epoch;
            // What an epoch begins with depends on what was left of the one before.
            let is_fresh = epoch == 0 || self.epochs[epoch - 1].end == End::Complete;
            match topic.ends[epoch].1 {
                Some(last) if position.offset == last + 1 => {}
                Some(_) if self.epochs[epoch].end == End::Torn => {}
                None if position.offset == 1 || !is_fresh => {}
                last => return wrong(&format!("after :{}", last.unwrap_or(0))),
            }
            topic.ends[epoch] = (number, Some(position.offset));
            topic.numbers.entry((epoch, position.offset)).or_default().insert(number);
        }
        for later in latest + 1..self.epochs.len() {
            topic.ends[later].0 = topic.ends[later - 1].0;
        }
        Ok(topic)
    }

    /// The place of a position's epoch among all.
    fn epoch(&self, position: Position) -> Result<usize, String> {
        let found = self.epochs.iter().position(|epoch| epoch.id == position.epoch);
        found.ok_or_else(|| format!("{position} is of an epoch that never was"))
    }

    /// Whether a number may stand at this place.
    fn may_be(&self, topic: usize, epoch: usize, offset: u64, number: u64) -> bool {
        let topic = &self.topics[topic];
        if topic.numbers.get(&(epoch, offset)).is_some_and(|numbers| numbers.contains(&number)) {
            return true;
        }
        let (last_number, last_offset) = topic.ends[epoch];
        let is_over = epoch + 1 < self.epochs.len();
        match self.epochs[epoch].end {
            End::Torn => is_over && (1..=last_number + 1).contains(&number),
            End::Complete => is_over && number == last_number + 1 && last_offset.is_none_or(|last| offset == last + 1),
        }
    }

    /// Whether there may have been so many.
    fn may_reach(&self, topic: usize, epoch: usize, offset: u64) -> bool {
        let unacknowledged = u64::from(epoch + 1 < self.epochs.len());
        let is_torn = self.epochs[epoch].end == End::Torn;
        self.topics[topic].ends[epoch].1.is_none_or(|last| is_torn || offset <= last + unacknowledged)
    }

    /// # Errors
    /// The first thing that is wrong with a record.
    pub(crate) fn check(&self, topic: usize, end: Position, record: &[Event]) -> Result<Sums, String> {
        let (mut sums, mut last_number) = (Sums::default(), 0);
        let mut events = record.iter().copied();
        let Some(Event::Began(mut at)) = events.next() else { return Err("it was never subscribed".to_owned()) };
        if at != (Position { epoch: self.epochs[0].id, offset: 0 }) {
            return Err(format!("it was subscribed at {at}, after the first message"));
        }
        for event in events {
            let (before, now) = (self.epoch(at)?, self.epoch(event.position())?);
            match event {
                Event::Began(position) => return Err(format!("it began twice, at {position}")),
                Event::Message(position, number) => {
                    if now != before || position.offset != at.offset + 1 {
                        return Err(format!("{position} came after {at}"));
                    }
                    if !self.may_be(topic, now, position.offset, number) {
                        return Err(format!("number {number} came as {position}"));
                    }
                    sums.messages += 1;
                    sums.missed += number.saturating_sub(last_number + 1);
                    last_number = number;
                }
                Event::Lost(position) => {
                    if now <= before || !self.may_reach(topic, now, position.offset) {
                        return Err(format!("lost {position} was told after {at}"));
                    }
                    sums.losts += 1;
                }
            }
            at = event.position();
        }
        if at != end {
            return Err(format!("it ends at {at}, not at {end}"));
        }
        Ok(sums)
    }
}

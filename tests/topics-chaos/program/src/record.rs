//! What a subscriber got of a topic, and whether that is right.
//!
//! The truth comes from the publishers. Each numbers its messages from 1, and publishes the next once the one before is
//! acknowledged. So in each epoch the numbers of a topic are consecutive: they begin with the first that was not
//! acknowledged in an earlier epoch, and end with the last that was acknowledged, or with one more, which was published
//! just before a kill and not acknowledged any more. That one number is published again in the next epoch, and is the
//! only one that anybody may see twice.
//!
//! A record is right if it begins before the first message, each message is the next one by its position and has the
//! number that belongs there, each change of the epoch comes with one `lost`, there is no other, and it ends with the
//! last message that was published.

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

/// What was published, in each epoch.
#[derive(Debug)]
pub(crate) struct Truth {
    /// In the order in which they were.
    epochs: Vec<u64>,
    /// Of each topic: how many messages were acknowledged in each epoch.
    acknowledged: Vec<Vec<u64>>,
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
    pub(crate) fn new(epochs: Vec<u64>, topics: &[Vec<Position>]) -> Result<Self, String> {
        let mut truth = Self { acknowledged: vec![vec![0; epochs.len()]; topics.len()], epochs };
        for (topic, positions) in topics.iter().enumerate() {
            let mut latest = 0;
            for (index, position) in positions.iter().enumerate() {
                let number = index + 1;
                let epoch = truth.epoch(*position).map_err(|why| format!("topic {topic}, number {number}: {why}"))?;
                let count = &mut truth.acknowledged[topic][epoch];
                *count += 1;
                if epoch < latest || position.offset != *count {
                    return Err(format!("topic {topic}: number {number} was published as {position}, not as :{count}"));
                }
                latest = epoch;
            }
        }
        Ok(truth)
    }

    /// The place of a position's epoch among all.
    fn epoch(&self, position: Position) -> Result<usize, String> {
        let found = self.epochs.iter().position(|epoch| *epoch == position.epoch);
        found.ok_or_else(|| format!("{position} is of an epoch that never was"))
    }

    /// The number at a position, or that would come there next.
    fn number(&self, topic: usize, epoch: usize, offset: u64) -> u64 {
        self.acknowledged[topic][..epoch].iter().sum::<u64>() + offset
    }

    /// The last offset that there can have been.
    fn last(&self, topic: usize, epoch: usize) -> u64 {
        let unacknowledged = u64::from(epoch + 1 < self.epochs.len());
        self.acknowledged[topic][epoch] + unacknowledged
    }

    /// The position of the last message of a topic.
    pub(crate) fn end(&self, topic: usize) -> Position {
        let last = self.epochs.len() - 1;
        Position { epoch: self.epochs[last], offset: self.acknowledged[topic][last] }
    }

    /// # Errors
    /// The first thing that is wrong with a record.
    pub(crate) fn check(&self, topic: usize, record: &[Event]) -> Result<Sums, String> {
        let mut sums = Sums::default();
        let mut events = record.iter().copied();
        let Some(Event::Began(mut at)) = events.next() else { return Err("it was never subscribed".to_owned()) };
        if at != (Position { epoch: self.epochs[0], offset: 0 }) {
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
                    if number != self.number(topic, now, position.offset) || position.offset > self.last(topic, now) {
                        return Err(format!("number {number} came as {position}"));
                    }
                    sums.messages += 1;
                }
                Event::Lost(position) => {
                    if now <= before || position.offset > self.last(topic, now) {
                        return Err(format!("lost {position} was told after {at}"));
                    }
                    sums.losts += 1;
                    let resumed = self.number(topic, now, position.offset);
                    sums.missed += resumed.saturating_sub(self.number(topic, before, at.offset));
                }
            }
            at = event.position();
        }
        if at != self.end(topic) {
            return Err(format!("it ends at {at}, not at {}", self.end(topic)));
        }
        Ok(sums)
    }
}

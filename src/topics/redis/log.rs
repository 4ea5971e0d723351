//! The log that all nodes read: its entries, where a node is in it, and what time it is for Redis.

use std::time::{Duration, Instant};

use super::connection::Failure;
use super::node::LogId;
use crate::message::{Message, Text};

/// Names and values of an entry's fields, in turn.
pub(super) type Fields = Vec<Vec<u8>>;
pub(super) type Entries = Vec<(String, Fields)>;

/// So much may be read ahead: what is kept of an entry counts as so many bytes beside its payload.
const MOST_AHEAD: usize = 64 * 1024 * 1024;
const ENTRY_COST: usize = 256;

/// Where the follower is in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) id: LogId,
    /// The number of that entry. The next one's is one more.
    pub(super) number: u64,
}

impl Cursor {
    /// Goes on to this entry. Returns what it is, or `None` if some that came before it are gone.
    pub(super) fn step(&mut self, id: &str, fields: Fields) -> Result<Option<LogEntry>, Failure> {
        let (id, entry): (LogId, _) = (id.parse()?, LogEntry::from(fields));
        if entry.number != self.number + 1 {
            return Ok(None);
        }
        *self = Self { id, number: entry.number };
        Ok(Some(entry))
    }
}

/// What was read of the log while the histories were loaded, and is to be applied after them. To load them may take
/// longer than the log reaches back.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) cursor: Cursor,
    pub(super) entries: Vec<LogEntry>,
    bytes: usize,
    pub(super) was_read: Instant,
    /// Whether some are missing: then all is to be loaded again.
    pub(super) is_broken: bool,
}

impl Ahead {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self { cursor, entries: Vec::new(), bytes: 0, was_read: Instant::now(), is_broken: false }
    }

    pub(super) fn take(&mut self, id: &str, fields: Fields) -> Result<(), Failure> {
        match self.cursor.step(id, fields)? {
            Some(entry) if self.bytes <= MOST_AHEAD => {
                self.bytes += entry.payload.len() + ENTRY_COST;
                self.entries.push(entry);
            }
            _ => self.is_broken = true,
        }
        Ok(())
    }
}

/// What time it is for Redis.
#[derive(Debug)]
pub(super) struct Clock {
    /// In milliseconds.
    pub(super) redis: u64,
    pub(super) here: Instant,
}

impl Clock {
    /// When something happened. What comes from the future happens now.
    pub(super) fn instant(&self, at: u64) -> Instant {
        let now = Instant::now();
        let ahead = u64::try_from((now - self.here).as_millis()).unwrap_or(0);
        let age = Duration::from_millis((self.redis + ahead).saturating_sub(at));
        now.checked_sub(age).unwrap_or(now)
    }
}

/// An entry of the log, or of a history, which has less.
#[derive(Debug, Default)]
pub(super) struct LogEntry {
    pub(super) what: String,
    pub(super) topic: String,
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) kind: String,
    pub(super) payload: Vec<u8>,
    pub(super) at: u64,
}

impl LogEntry {
    pub(super) fn is_message(&self) -> bool {
        self.what == "message"
    }

    /// Whether both are messages of one topic.
    pub(super) fn goes_with(&self, next: &Self) -> bool {
        self.is_message() && next.is_message() && self.topic == next.topic
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub(super) fn message(&self) -> Message {
        match std::str::from_utf8(&self.payload) {
            Ok(text) if self.kind != "b" => Text::from(text).into(),
            _ => Message::binary(self.payload.clone()),
        }
    }
}

impl From<Fields> for LogEntry {
    fn from(fields: Fields) -> Self {
        let mut entry = Self::default();
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            if name == b"m" {
                entry.payload = value;
                continue;
            }
            let Ok(value) = String::from_utf8(value) else { continue };
            match &*name {
                b"w" => entry.what = value,
                b"t" => entry.topic = value,
                b"n" => entry.number = value.parse().unwrap_or_default(),
                b"o" => entry.offset = value.parse().unwrap_or_default(),
                b"k" => entry.kind = value,
                b"a" => entry.at = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(number: u64) -> Fields {
        [("m", "text"), ("n", &number.to_string()), ("w", "message")]
            .iter()
            .flat_map(|(name, value)| [name.as_bytes().to_vec(), value.as_bytes().to_vec()])
            .collect()
    }

    #[test]
    fn an_entry_that_is_missing_is_noticed() {
        let mut ahead = Ahead::new(Cursor { id: LogId::default(), number: 7 });
        ahead.take("1-0", fields(8)).unwrap();
        ahead.take("1-1", fields(9)).unwrap();
        assert!(!ahead.is_broken && ahead.entries.len() == 2 && ahead.cursor.number == 9);
        ahead.take("1-3", fields(11)).unwrap();
        assert!(ahead.is_broken && ahead.cursor.number == 9);
        assert!(ahead.take("no id", fields(10)).is_err());
    }

    #[test]
    fn what_is_read_ahead_is_bounded() {
        let mut ahead = Ahead::new(Cursor::default());
        let mut number = 0;
        while !ahead.is_broken {
            number += 1;
            let mut entry = fields(number);
            entry[1] = vec![0; 1024 * 1024];
            ahead.take(&format!("{number}-0"), entry).unwrap();
        }
        assert!((64..70).contains(&number), "{number}");
    }
}

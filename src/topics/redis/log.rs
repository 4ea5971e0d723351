//! What the log says, as the follower reads it.

use std::time::{Duration, Instant};

use crate::message::{Message, Text};

/// Names and values of an entry's fields, in turn.
pub(super) type Fields = Vec<Vec<u8>>;

/// What time it is for Redis.
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
    payload: Vec<u8>,
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

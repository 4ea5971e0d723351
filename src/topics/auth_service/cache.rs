//! Answers of the authorization service that are used again.
//!
//! Invariants: it takes no more than [`MAX_ENTRIES`] and [`MAX_BYTES`]. When it is full, answers that may no longer be
//! used make room, and if there are none, another is not kept: whoever fills it cannot drive out what is known of
//! others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::answer::Outcome;
use super::question::Question;

const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// When it is full, it is looked through no more often.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    bytes: usize,
    /// When it was last looked through for answers that may no longer be used.
    purged_at: Option<Instant>,
}

struct Entry {
    outcome: Outcome,
    until: Instant,
    bytes: usize,
}

impl Cache {
    /// What is known, and may still be used.
    pub(super) fn find(&self, question: &Question, now: Instant) -> Option<Outcome> {
        let entry = self.entries.get(question).filter(|entry| now < entry.until)?;
        Some(entry.outcome.clone())
    }

    /// Keeps an outcome for some time, in place of what was known.
    pub(super) fn keep(&mut self, question: &Question, outcome: &Outcome, time: Duration, now: Instant) {
        if let Some(earlier) = self.entries.remove(question) {
            self.bytes -= earlier.bytes;
        }
        let Some(until) = now.checked_add(time).filter(|_| !time.is_zero()) else { return };
        let bytes = question.size() + outcome.size() + size_of::<(Question, Entry)>();
        let was_purged_lately = self.purged_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        if !self.has_room(bytes) && !was_purged_lately {
            self.purged_at = Some(now);
            self.entries.retain(|_, entry| now < entry.until);
            self.bytes = self.entries.values().map(|entry| entry.bytes).sum();
        }
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.entries.insert(question.clone(), Entry { outcome: outcome.clone(), until, bytes });
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.entries.len() < MAX_ENTRIES && self.bytes + bytes <= MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Request;

    fn question(path: &str, cookie: &str) -> Question {
        let head = format!("GET /{path} HTTP/1.1\r\nCookie: {cookie}\r\n\r\n");
        let request = Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap();
        Question::new("http://s/", &request, None, None, &[])
    }

    fn refused(status: u16) -> Outcome {
        Outcome::Refused { status, challenge: None }
    }

    #[test]
    fn an_answer_is_found_for_its_time_and_its_question() {
        let (mut cache, now, second) = (Cache::default(), Instant::now(), Duration::from_secs(1));
        cache.keep(&question("", "a"), &refused(403), second, now);
        assert_eq!(cache.find(&question("", "a"), now), Some(refused(403)));
        assert_eq!((cache.find(&question("", "b"), now), cache.find(&question("x", "a"), now)), (None, None));
        assert_eq!(cache.find(&question("", "a"), now + second), None);
        cache.keep(&question("", "a"), &refused(401), second, now);
        assert_eq!((cache.find(&question("", "a"), now), cache.entries.len()), (Some(refused(401)), 1));
        cache.keep(&question("", "a"), &refused(401), Duration::ZERO, now);
        assert_eq!((cache.find(&question("", "a"), now), cache.bytes), (None, 0));
    }

    #[test]
    fn it_is_bounded_in_number_and_in_bytes_and_what_is_known_stays() {
        let (mut cache, now, second) = (Cache::default(), Instant::now(), Duration::from_secs(1));
        let first = question("first", "");
        cache.keep(&first, &refused(403), second, now);
        for number in 0..2 * MAX_ENTRIES {
            cache.keep(&question(&number.to_string(), ""), &refused(403), second, now);
        }
        assert!(cache.entries.len() <= MAX_ENTRIES && cache.bytes <= MAX_BYTES);
        assert!(cache.find(&first, now).is_some());
        let large = "x".repeat(8_000);
        for number in 0..2 * MAX_BYTES / large.len() {
            cache.keep(&question(&number.to_string(), &large), &refused(403), 2 * second, now + second);
        }
        // Those that had expired made room.
        assert!(cache.find(&question("0", &large), now + second).is_some());
        assert!(cache.bytes <= MAX_BYTES && cache.bytes > MAX_BYTES - 2 * large.len());
    }
}

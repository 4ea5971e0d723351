//! The history of one topic: its newest messages, within bounds of number, bytes and age. No I/O and no clock.
//!
//! Invariants:
//! - Offsets grow by one with each message, and the history is always the newest messages without a gap.
//! - A message never leaves before an older one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Entry;

/// How much a topic keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) count: usize,
    /// Bytes of payload.
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

impl Limits {
    /// Nothing is kept.
    pub(super) const NONE: Self = Self { count: 0, bytes: 0, age: Duration::ZERO };
}

#[derive(Debug)]
pub(super) struct History {
    entries: VecDeque<Arc<Entry>>,
    /// Bytes of payload of all entries.
    bytes: usize,
    /// The memory that all entries take.
    cost: usize,
    /// The offset of the newest message, kept or not.
    last: u64,
}

/// Something after an offset is no longer kept, or was never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

impl History {
    /// A history whose first message will have the offset after `last`.
    pub(super) fn starting_after(last: u64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, cost: 0, last }
    }

    /// The offset of the newest message, kept or not.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The offset before the oldest message that is kept.
    pub(super) fn before_oldest(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of payload.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory that the messages take.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Takes the next message, and lets go of what is beyond the limits. The message itself stays only if it is within
    /// them.
    pub(super) fn push(&mut self, entry: Arc<Entry>, limits: &Limits, now: Instant) {
        debug_assert_eq!(entry.offset, self.last + 1, "offsets have no gap");
        self.last = entry.offset;
        self.bytes += entry.message.len();
        self.cost += entry.cost();
        self.entries.push_back(entry);
        self.trim(limits, now);
    }

    /// Begins anew, after this offset.
    #[cfg(feature = "redis")]
    pub(super) fn restart_after(&mut self, last: u64) {
        *self = Self::starting_after(last);
    }

    /// Lets go of what is beyond the limits by now.
    pub(super) fn trim(&mut self, limits: &Limits, now: Instant) {
        while let Some(oldest) = self.entries.front()
            && (self.entries.len() > limits.count
                || self.bytes > limits.bytes
                || now.saturating_duration_since(oldest.published) >= limits.age)
        {
            self.drop_oldest();
        }
    }

    /// When the oldest message that is kept was published.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|oldest| oldest.published)
    }

    pub(super) fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes -= oldest.message.len();
            self.cost -= oldest.cost();
        }
        // Room that messages no longer use is given back, for it is not counted.
        let len = self.entries.len();
        if self.entries.capacity() > 2 * len + 32 {
            self.entries.shrink_to(len + len / 4);
        }
    }

    /// All messages after an offset, the oldest first.
    pub(super) fn after(&self, offset: u64) -> Result<impl Iterator<Item = &Arc<Entry>>, Lost> {
        let missed = self.last.checked_sub(offset).ok_or(Lost)?;
        // An overflow of `usize` would be more than can be kept.
        let missed = usize::try_from(missed).map_err(|_| Lost)?;
        let first = self.entries.len().checked_sub(missed).ok_or(Lost)?;
        Ok(self.entries.range(first..))
    }

    /// The message with this offset, if it is kept.
    #[cfg(feature = "redis")]
    pub(super) fn at(&self, offset: u64) -> Option<&Arc<Entry>> {
        let place = offset.checked_sub(self.before_oldest() + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// All messages that are kept, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn limits(count: usize, bytes: usize, age: u64) -> Limits {
        Limits { count, bytes, age: Duration::from_secs(age) }
    }

    fn push(history: &mut History, text: &str, limits: &Limits, now: Instant) {
        let entry = Entry::new(history.last() + 1, text.into(), now);
        history.push(Arc::new(entry), limits, now);
    }

    fn after(history: &History, offset: u64) -> Result<Vec<String>, Lost> {
        let text = |entry: &Arc<Entry>| entry.message.as_text().unwrap_or_default().to_owned();
        history.after(offset).map(|entries| entries.map(text).collect())
    }

    #[test]
    fn whoever_says_where_it_was_gets_what_follows_or_learns_that_some_is_lost() {
        let (limits, now) = (limits(2, 100, 10), Instant::now());
        let mut history = History::starting_after(0);
        assert_eq!((after(&history, 0), after(&history, 1)), (Ok(vec![]), Err(Lost)));
        for text in ["a", "b", "c"] {
            push(&mut history, text, &limits, now);
        }
        assert_eq!(after(&history, 3), Ok(vec![]));
        assert_eq!(after(&history, 1), Ok(vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!((after(&history, 0), after(&history, 4)), (Err(Lost), Err(Lost)));
        assert_eq!(after(&history, u64::MAX), Err(Lost));
    }

    #[test]
    fn each_limit_lets_go_of_the_oldest() {
        let now = Instant::now();
        let mut history = History::starting_after(7);
        for text in ["aaaa", "bbbb", "cc"] {
            push(&mut history, text, &limits(10, 8, 10), now);
        }
        assert_eq!((history.len(), history.bytes(), history.last()), (2, 6, 10));
        history.trim(&limits(10, 8, 10), now + Duration::from_secs(9));
        assert_eq!(history.len(), 2);
        history.trim(&limits(10, 8, 10), now + Duration::from_secs(10));
        assert_eq!((history.len(), history.bytes(), history.cost()), (0, 0, 0));
        // The offsets go on, so that whoever missed something learns it.
        assert_eq!((after(&history, 10), after(&history, 9)), (Ok(vec![]), Err(Lost)));
    }

    #[test]
    fn a_message_that_is_larger_than_the_history_is_not_kept_and_keeps_its_offset() {
        let (limits, now) = (limits(10, 3, 10), Instant::now());
        let mut history = History::starting_after(0);
        push(&mut history, "aaaa", &limits, now);
        push(&mut history, "b", &limits, now);
        assert_eq!((after(&history, 1), after(&history, 0)), (Ok(vec!["b".to_owned()]), Err(Lost)));
    }

    proptest! {
        #[test]
        fn a_history_is_what_a_plain_list_would_be(
            steps in prop::collection::vec((0_usize..6, 0_u64..4), 1..60),
            count in 0_usize..8,
            bytes in 0_usize..20,
            age in 1_u64..6,
        ) {
            let (limits, start) = (limits(count, bytes, age), Instant::now());
            let (mut history, mut all, mut seconds) = (History::starting_after(0), Vec::new(), 0);
            for (len, pause) in steps {
                seconds += pause;
                push(&mut history, &"x".repeat(len), &limits, start + Duration::from_secs(seconds));
                all.push((len, seconds));
                // The newest that are together within the limits, without a gap.
                let (mut kept, mut sum) = (0, 0);
                for (len, at) in all.iter().rev() {
                    sum += len;
                    if kept == count || sum > bytes || seconds - at >= age {
                        break;
                    }
                    kept += 1;
                }
                prop_assert_eq!(history.len(), kept);
                let total = all.len() as u64;
                for offset in 0..total + 2 {
                    let expected = (offset <= total && total - offset <= kept as u64).then(|| total - offset);
                    prop_assert_eq!(history.after(offset).ok().map(|entries| entries.count() as u64), expected);
                }
            }
        }
    }
}

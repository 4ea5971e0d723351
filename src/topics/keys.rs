//! The idempotency keys of one topic: which messages were published already, so that a publisher that does not know
//! may publish again.
//!
//! Invariant: a key is known for the whole window, unless more keys than the limit came after it, or the memory of all
//! topics is used up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TopicError;

/// How long, and how many, keys are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) age: Duration,
    pub(super) count: usize,
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    offsets: HashMap<Arc<str>, u64>,
    /// The oldest first.
    order: VecDeque<(Arc<str>, Instant)>,
    /// The memory that all keys take.
    cost: usize,
}

impl Keys {
    /// The longest key, in bytes.
    pub(super) const MAX_LEN: usize = 128;

    /// The memory that a key takes beside its bytes.
    const OVERHEAD: usize = 240;

    /// # Errors
    /// [`TopicError::InvalidKey`] if this cannot be a key.
    pub(super) fn check(key: Option<&str>) -> Result<(), TopicError> {
        if key.is_some_and(|key| key.is_empty() || key.len() > Self::MAX_LEN) {
            return Err(TopicError::InvalidKey);
        }
        Ok(())
    }

    /// The offset of the message that was published with this key.
    pub(super) fn find(&mut self, key: &str, now: Instant, window: &Window) -> Option<u64> {
        self.forget(now, window);
        self.offsets.get(key).copied()
    }

    /// Notes a key that is not known.
    pub(super) fn add(&mut self, key: &str, offset: u64, now: Instant, window: &Window) {
        let key: Arc<str> = key.into();
        self.offsets.insert(Arc::clone(&key), offset);
        self.cost += key.len() + Self::OVERHEAD;
        self.order.push_back((key, now));
        self.forget(now, window);
    }

    /// The memory that the keys take.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// When the oldest was noted.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.order.front().map(|(_, noted)| *noted)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All keys with their offsets and when they were noted, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64, Instant)> {
        self.order.iter().filter_map(|(key, noted)| Some((&**key, *self.offsets.get(key)?, *noted)))
    }

    /// Forgets what is older than the window, or more than it has room for.
    pub(super) fn forget(&mut self, now: Instant, window: &Window) {
        while let Some((_, published)) = self.order.front()
            && (self.order.len() > window.count || now.saturating_duration_since(*published) >= window.age)
        {
            self.forget_oldest();
        }
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.cost -= key.len() + Self::OVERHEAD;
            self.offsets.remove(&key);
        }
        // Room that keys no longer use is given back, for it is not counted.
        let len = self.order.len();
        if self.order.capacity() > 2 * len + 32 {
            self.order.shrink_to(len + len / 4);
            self.offsets.shrink_to(len + len / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_for_the_window_and_for_so_many_keys_after_it() {
        let (window, now) = (Window { age: Duration::from_secs(10), count: 2 }, Instant::now());
        let mut keys = Keys::default();
        keys.add("a", 1, now, &window);
        keys.add("b", 2, now + Duration::from_secs(1), &window);
        assert_eq!(keys.find("a", now + Duration::from_secs(9), &window), Some(1));
        assert_eq!(keys.find("a", now + Duration::from_secs(10), &window), None);
        assert_eq!(keys.find("b", now + Duration::from_secs(10), &window), Some(2));
        keys.add("c", 3, now + Duration::from_secs(2), &window);
        keys.add("d", 4, now + Duration::from_secs(2), &window);
        let mut find = |key| keys.find(key, now + Duration::from_secs(2), &window);
        assert_eq!((find("b"), find("c"), find("d")), (None, Some(3), Some(4)));
        let _ = keys.find("d", now + Duration::from_secs(12), &window);
        assert!(keys.is_empty() && keys.cost() == 0 && keys.oldest().is_none());
    }
}

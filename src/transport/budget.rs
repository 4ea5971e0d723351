//! What waits in memory, in all queues and everything read ahead together, and who may add to it.
//!
//! There is one total, and whoever holds most is refused first: a holder may take more only while all that it holds is
//! less than what is left of the total (dynamic thresholds; Choudhury and Hahne, "Dynamic Queue Length Thresholds for
//! Shared-Memory Packet Switches", 1998). So one that is alone gets half, *n* that take what they can get the same part
//! each, an n-plus-first of the whole, and as much is left for one that comes now. Nobody has to be looked for or asked.
//!
//! Invariant: the total is the sum of what all shares that count hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The total of a server, or of a client.
#[derive(Debug)]
pub(crate) struct Total {
    limit: AtomicUsize,
    held: AtomicUsize,
}

/// What one holder has of it, in bytes.
#[derive(Debug)]
pub(crate) struct Share {
    total: Arc<Total>,
    held: usize,
    /// Whether what it holds is part of the total. What is only passing through need not be.
    counts: bool,
}

impl Total {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.into(), held: 0.into() }
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// All that is held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Share {
    /// A share that does not count yet.
    pub(crate) fn new(total: &Arc<Total>) -> Self {
        Self { total: Arc::clone(total), held: 0, counts: false }
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether it may take so much more.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let left = self.total.limit.load(Relaxed).saturating_sub(self.total.held());
        self.held.saturating_add(more) <= left
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.held += bytes;
        if self.counts {
            self.total.held.fetch_add(bytes, Relaxed);
        }
    }

    /// Gives back so much, or all that there is.
    pub(crate) fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        if self.counts {
            self.total.held.fetch_sub(bytes, Relaxed);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.sub(self.held);
    }

    /// From now on what it holds counts, or does not.
    pub(crate) fn set_counts(&mut self, counts: bool) {
        let held = self.held;
        self.clear();
        self.counts = counts;
        self.add(held);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what it can get, in pieces of so many bytes.
    fn take_all(share: &mut Share, piece: usize) {
        while share.has_room(piece) {
            share.add(piece);
        }
    }

    fn counting(total: &Arc<Total>) -> Share {
        let mut share = Share::new(total);
        share.set_counts(true);
        share
    }

    #[test]
    fn the_fattest_are_refused_first_and_something_is_left_for_who_comes_later() {
        let total = Arc::new(Total::new(1000));
        let mut first = counting(&total);
        take_all(&mut first, 1);
        assert_eq!(first.held(), 500);
        let mut others: Vec<Share> = (0..8).map(|_| counting(&total)).collect();
        for _ in 0..1000 {
            others.iter_mut().filter(|share| share.has_room(1)).for_each(|share| share.add(1));
        }
        assert!(others.iter().all(|share| (50..=60).contains(&share.held())), "{others:?}");
        assert!(!first.has_room(1) && total.held() < 1000 && counting(&total).has_room(50));
        // As the fat one loses weight, the others may gain some; who had more keeps it.
        first.clear();
        for _ in 0..1000 {
            others.iter_mut().filter(|share| share.has_room(1)).for_each(|share| share.add(1));
            first.add(usize::from(first.has_room(1)));
        }
        assert!(others.iter().chain([&first]).all(|share| (70..=110).contains(&share.held())), "{others:?}");
        drop((first, others));
        assert_eq!(total.held(), 0);
    }

    #[test]
    fn only_what_counts_is_part_of_the_total() {
        let total = Arc::new(Total::new(100));
        let mut share = Share::new(&total);
        share.add(30);
        assert_eq!((share.held(), total.held()), (30, 0));
        share.set_counts(true);
        share.add(10);
        share.sub(5);
        assert_eq!((share.held(), total.held()), (35, 35));
        assert!(share.has_room(30) && !share.has_room(31));
        share.set_counts(false);
        assert_eq!((share.held(), total.held()), (35, 0));
        share.sub(usize::MAX);
        assert_eq!((share.held(), total.held()), (0, 0));
    }
}

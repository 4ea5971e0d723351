//! The memory that all queues and everything read ahead use together, and who may add to it.
//!
//! One budget serves all connections, and the largest holders are refused first. A holder may take more only while all
//! that it holds is less than what is left of the budget (dynamic thresholds; Choudhury and Hahne, "Dynamic Queue
//! Length Thresholds for Shared-Memory Packet Switches", 1998). So a single holder gets half of the budget. When *n*
//! holders take all they can, each gets 1/(*n* + 1) of it, and as much is left for a newcomer. Nobody has to search for
//! the largest holder or ask it to give memory back.
//!
//! Holders may have taken more than that: what was queued before a connection fell behind is not asked for, and many
//! may ask at the same time. So that those who take little get it even then, each may hold a small floor in any case.
//!
//! Invariant: `held` of the budget is the sum of what all counted shares hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The budget of one server or client, in bytes. By default there is none.
#[derive(Debug, Default)]
pub(crate) struct MemoryBudget {
    limit: AtomicUsize,
    held: AtomicUsize,
}

/// What each holder may have of a budget however little is left: a thousandth, and no more than a connection takes
/// anyway.
fn floor(limit: usize) -> usize {
    (limit / 1024).min(4096)
}

/// What one holder has of the budget, in bytes.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    budget: Arc<MemoryBudget>,
    held: usize,
    /// Whether its bytes are part of the budget. Bytes that only pass through need not be.
    is_counted: bool,
}

impl MemoryBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.into(), held: 0.into() }
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// What all counted shares hold.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl BudgetShare {
    /// An empty share that is not counted yet.
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), held: 0, is_counted: false }
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether the share may take so much more.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let limit = self.budget.limit.load(Relaxed);
        let left = limit.saturating_sub(self.budget.held());
        self.held.saturating_add(more) <= left.max(floor(limit))
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.held += bytes;
        if self.is_counted {
            self.budget.held.fetch_add(bytes, Relaxed);
        }
    }

    /// Gives so much back, or everything if that is less.
    pub(crate) fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        if self.is_counted {
            self.budget.held.fetch_sub(bytes, Relaxed);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.sub(self.held);
    }

    /// Makes the share, with all that it holds, part of the budget, or takes it out.
    pub(crate) fn set_counted(&mut self, is_counted: bool) {
        let held = self.held;
        self.clear();
        self.is_counted = is_counted;
        self.add(held);
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that it can get, in pieces of so many bytes.
    fn take_all(share: &mut BudgetShare, piece: usize) {
        while share.has_room(piece) {
            share.add(piece);
        }
    }

    fn counting(budget: &Arc<MemoryBudget>) -> BudgetShare {
        let mut share = BudgetShare::new(budget);
        share.set_counted(true);
        share
    }

    #[test]
    fn the_largest_holders_are_refused_first_and_something_is_left_for_a_newcomer() {
        let budget = Arc::new(MemoryBudget::new(1000));
        let mut first = counting(&budget);
        take_all(&mut first, 1);
        assert_eq!(first.held(), 500);
        let mut others: Vec<BudgetShare> = (0..8).map(|_| counting(&budget)).collect();
        for _ in 0..1000 {
            others.iter_mut().filter(|share| share.has_room(1)).for_each(|share| share.add(1));
        }
        assert!(others.iter().all(|share| (50..=60).contains(&share.held())), "{others:?}");
        assert!(!first.has_room(1) && budget.held() < 1000 && counting(&budget).has_room(50));
        // When the largest holder gives its bytes back, the others may take more; nobody has to give any up.
        first.clear();
        for _ in 0..1000 {
            others.iter_mut().filter(|share| share.has_room(1)).for_each(|share| share.add(1));
            first.add(usize::from(first.has_room(1)));
        }
        assert!(others.iter().chain([&first]).all(|share| (70..=110).contains(&share.held())), "{others:?}");
        drop((first, others));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn whoever_takes_little_gets_it_though_others_have_taken_more_than_there_is() {
        let budget = Arc::new(MemoryBudget::new(1024 * 1024));
        let mut behind = BudgetShare::new(&budget);
        behind.add(2 * 1024 * 1024);
        behind.set_counted(true);
        let mut newcomer = counting(&budget);
        assert!(!behind.has_room(1) && newcomer.has_room(1024) && !newcomer.has_room(1025));
        newcomer.add(1000);
        assert!(newcomer.has_room(24) && !newcomer.has_room(25));
    }

    #[test]
    fn only_counted_shares_are_part_of_the_budget() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut share = BudgetShare::new(&budget);
        share.add(30);
        assert_eq!((share.held(), budget.held()), (30, 0));
        share.set_counted(true);
        share.add(10);
        share.sub(5);
        assert_eq!((share.held(), budget.held()), (35, 35));
        assert!(share.has_room(30) && !share.has_room(31));
        share.set_counted(false);
        assert_eq!((share.held(), budget.held()), (35, 0));
        share.sub(usize::MAX);
        assert_eq!((share.held(), budget.held()), (0, 0));
    }
}

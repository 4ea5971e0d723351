//! A counter of 64 bits that threads share: std's `AtomicU64`, or a lock where the processor has no such atomic (MIPS,
//! PowerPC, ARMv5 and RISC-V of 32 bits, ESP32).
//!
//! `RUSTFLAGS="--cfg locked_atomics"` chooses the lock anywhere, so that what such machines run can be tested on all.

#[cfg(all(target_has_atomic = "64", not(locked_atomics)))]
pub(crate) use std::sync::atomic::AtomicU64;

#[cfg(not(all(target_has_atomic = "64", not(locked_atomics))))]
pub(crate) use self::locked::AtomicU64;

#[cfg(any(test, not(target_has_atomic = "64"), locked_atomics))]
mod locked {
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Has those methods of std's `AtomicU64` that the crate uses. A lock is as strong as the strongest order, so
    /// it does not matter which one is asked for.
    #[derive(Debug)]
    pub(crate) struct AtomicU64 {
        /// Protects nothing but the number. Whoever holds it takes no other lock, and cannot panic.
        value: Mutex<u64>,
    }

    impl AtomicU64 {
        pub(crate) const fn new(value: u64) -> Self {
            Self { value: Mutex::new(value) }
        }

        pub(crate) fn load(&self, _: Ordering) -> u64 {
            *self.lock()
        }

        pub(crate) fn store(&self, value: u64, _: Ordering) {
            *self.lock() = value;
        }

        /// Adds, and returns what was there before. It wraps around.
        pub(crate) fn fetch_add(&self, count: u64, _: Ordering) -> u64 {
            let mut value = self.lock();
            let before = *value;
            *value = before.wrapping_add(count);
            before
        }

        fn lock(&self) -> MutexGuard<'_, u64> {
            self.value.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::{Arc, Barrier, atomic};
    use std::thread;

    use super::{AtomicU64, locked};

    #[test]
    fn the_lock_counts_as_the_atomic_does() {
        let (locked, atomic) = (locked::AtomicU64::new(u64::MAX - 1), atomic::AtomicU64::new(u64::MAX - 1));
        for count in [0, 1, 1, u64::MAX, 1 << 32] {
            assert_eq!(locked.fetch_add(count, Relaxed), atomic.fetch_add(count, Relaxed));
            assert_eq!(locked.load(Relaxed), atomic.load(Relaxed));
        }
        locked.store(1 << 40, Relaxed);
        assert_eq!(locked.load(Relaxed), 1 << 40);
    }

    #[test]
    fn no_count_is_lost_between_threads() {
        let counter = Arc::new(AtomicU64::new(u64::from(u32::MAX)));
        let start = Arc::new(Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (counter, start) = (Arc::clone(&counter), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    for _ in 0..10_000 {
                        counter.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counter.load(Relaxed), u64::from(u32::MAX) + 40_000);
    }

    /// The build for such machines is the one it says it is.
    #[test]
    fn the_lock_is_chosen_where_it_has_to_be() {
        let is_locked = size_of::<AtomicU64>() != size_of::<u64>();
        assert_eq!(is_locked, cfg!(any(locked_atomics, not(target_has_atomic = "64"))));
    }
}

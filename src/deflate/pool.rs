//! What all connections of a server or a client share for compression: the settings, a few compressors, and a few
//! inflaters.
//!
//! Invariants: there are at most as many compressors as processors, and nobody waits for one. Nobody waits for an
//! inflater either, unless [`MOST_INFLATERS`] threads are decompressing at the same time; a few are kept. Both locks
//! are held for moments, and not while anything is compressed.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::deflate::Deflate;
use crate::deflate::codec::{Compressor, InflateError, Inflater};

/// How many inflaters are kept for each processor, of 48 KB each.
const KEPT_INFLATERS: usize = 4;
/// How many there may be at a time: 48 MB. A thread has one while it computes, which takes milliseconds, so more would
/// wait for processors in any case.
const MOST_INFLATERS: usize = 1024;

/// The compression of one server or client.
#[derive(Debug)]
pub(crate) struct Compression {
    pub(crate) settings: Deflate,
    // Boxed, for what has lain on the stack of a connection's thread stays resident: with copies of these on it, an
    // idle connection kept a page more for each of the two.
    compressors: Stock<Box<Compressor>>,
    inflaters: Stock<Box<Inflater>>,
    /// How many open connections take the same compressed broadcast.
    recipients: AtomicUsize,
}

impl Compression {
    pub(crate) fn new(settings: Deflate) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            settings,
            compressors: Stock::new(processors, processors),
            inflaters: Stock::new(KEPT_INFLATERS * processors, MOST_INFLATERS),
            recipients: AtomicUsize::new(0),
        }
    }

    /// The payload of a message that is compressed by itself, with a window of so many bits. `None` if it is better
    /// sent as it is: it is short, or would not become shorter, or all compressors are busy.
    pub(crate) fn compress(&self, message: &[u8], window_bits: u8) -> Option<Vec<u8>> {
        if message.len() < self.settings.threshold_for(false) {
            return None;
        }
        let (free, mut place) = self.compressors.try_take(|compressor| compressor.window_bits() == window_bits)?;
        let mut compressor = free.unwrap_or_else(|| new_compressor(self.settings.level, window_bits));
        compressor.forget();
        let compressed = compressor.compress(message);
        place.item = Some(compressor);
        compressed.filter(|compressed| compressed.len() < message.len())
    }

    /// The message of a payload that was compressed by itself.
    pub(crate) fn inflate(&self, payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        let (free, mut place) = self.inflaters.take();
        let mut inflater = free.unwrap_or_else(new_inflater);
        let inflated = inflater.inflate_alone(payload, limit);
        place.item = Some(inflater);
        inflated
    }

    /// Like [`inflate`](Self::inflate), and never waits. `None` if there is no message within the limit.
    pub(crate) fn inflate_now(&self, payload: &[u8], limit: usize) -> Option<Vec<u8>> {
        let (mut inflater, place) = match self.inflaters.try_take(|_| true) {
            Some((free, place)) => (free.unwrap_or_else(new_inflater), Some(place)),
            // All are in use, so this one is made for once.
            None => (new_inflater(), None),
        };
        let inflated = inflater.inflate_alone(payload, limit);
        if let Some(mut place) = place {
            place.item = Some(inflater);
        }
        inflated.ok()
    }

    /// A compressor of its own for a connection, which takes its context over.
    pub(crate) fn own_compressor(&self, window_bits: u8) -> Compressor {
        Compressor::new(self.settings.level, window_bits)
    }

    // Broadcasts.

    /// A broadcast for all connections that take the same, compressed once. `None` if there are none, or it is better
    /// sent as it is.
    pub(crate) fn compress_for_all(&self, message: &[u8]) -> Option<Vec<u8>> {
        if self.recipients.load(Relaxed) == 0 {
            return None;
        }
        self.compress(message, self.settings.window_bits)
    }

    pub(crate) fn add_recipient(&self) {
        self.recipients.fetch_add(1, Relaxed);
    }

    pub(crate) fn remove_recipient(&self) {
        self.recipients.fetch_sub(1, Relaxed);
    }
}

// Not inlined, so that only whoever makes one has it on the stack.

#[inline(never)]
fn new_compressor(level: u8, window_bits: u8) -> Box<Compressor> {
    Box::new(Compressor::new(level, window_bits))
}

#[inline(never)]
fn new_inflater() -> Box<Inflater> {
    Box::new(Inflater::new(15))
}

/// A few of something that is worth keeping.
#[derive(Debug)]
struct Stock<T> {
    /// How many are kept that are not in use, and how many there may be.
    kept: usize,
    most: usize,
    /// Protects what is not in use, and the count.
    state: Mutex<StockState<T>>,
    /// Signalled when one is put back.
    put_back: Condvar,
}

#[derive(Debug)]
struct StockState<T> {
    free: Vec<T>,
    /// Those in use and those that are free.
    count: usize,
}

impl<T> Stock<T> {
    fn new(kept: usize, most: usize) -> Self {
        Self { kept, most, state: Mutex::new(StockState { free: Vec::new(), count: 0 }), put_back: Condvar::new() }
    }

    /// Takes one that fits, or the place of one that is still to be made. `None` if all are in use.
    fn try_take(&self, fits: impl Fn(&T) -> bool) -> Option<(Option<T>, Place<'_, T>)> {
        let mut state = self.lock();
        let free = match state.free.iter().position(fits) {
            Some(at) => Some(state.free.swap_remove(at)),
            None if state.count < self.most => {
                state.count += 1;
                None
            }
            // One that does not fit gives way.
            None => state.free.pop().map(drop).map(|()| None)?,
        };
        Some((free, Place { stock: self, item: None }))
    }

    /// Takes one, or the place of one that is still to be made. Waits while all are in use.
    fn take(&self) -> (Option<T>, Place<'_, T>) {
        let mut state = self.lock();
        let free = loop {
            match state.free.pop() {
                None if state.count == self.most => {
                    state = self.put_back.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    state.count += 1;
                    break None;
                }
                free => break free,
            }
        };
        (free, Place { stock: self, item: None })
    }

    fn lock(&self) -> MutexGuard<'_, StockState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of something that was taken. When it is dropped, the item goes back, or, if whoever used it panicked, may
/// be made anew.
struct Place<'a, T> {
    stock: &'a Stock<T>,
    item: Option<T>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut state = self.stock.lock();
        match self.item.take() {
            Some(item) if state.free.len() < self.stock.kept => state.free.push(item),
            item => {
                state.count -= 1;
                drop(state);
                drop(item);
            }
        }
        self.stock.put_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn nobody_waits_for_a_compressor_and_one_of_another_size_gives_way() {
        let stock = Stock::<u8>::new(2, 2);
        let take = |bits: u8| stock.try_take(move |item| *item == bits);
        let (free, mut first) = take(9).unwrap();
        assert_eq!(free, None);
        let second = take(15).unwrap().1;
        assert!(take(9).is_none(), "both are in use");
        first.item = Some(9);
        drop(first);
        assert_eq!(take(9).unwrap().0, Some(9), "it is used again");
        // The place above was dropped without its item, as after a panic.
        assert_eq!(take(9).unwrap().0, None);
        let mut third = take(9).unwrap().1;
        third.item = Some(9);
        drop(third);
        let (free, _third) = take(15).unwrap();
        let state = stock.lock();
        assert_eq!((free, state.count, state.free.len()), (None, 2, 0), "9 gave way to 15");
        drop(state);
        drop(second);
    }

    #[test]
    fn whoever_needs_an_inflater_waits_until_one_is_put_back_also_after_a_panic() {
        let stock = Stock::<u8>::new(1, 1);
        for panics in [false, true] {
            let (_, place) = stock.take();
            std::thread::scope(|scope| {
                let (taken, was_taken) = mpsc::channel();
                let stock = &stock;
                let waiter = scope.spawn(move || {
                    let found = stock.take().0;
                    taken.send(()).unwrap();
                    found
                });
                assert!(was_taken.recv_timeout(std::time::Duration::from_millis(20)).is_err());
                let put_back = catch_unwind(AssertUnwindSafe(|| {
                    let mut place = place;
                    assert!(!panics, "as the test wants it");
                    place.item = Some(7);
                }));
                assert_eq!(put_back.is_err(), panics);
                assert_eq!(waiter.join().unwrap(), (!panics).then_some(7));
            });
            assert_eq!(stock.lock().count, 0, "its waiter has dropped the place");
        }
    }

    #[test]
    fn what_is_short_or_does_not_become_shorter_goes_as_it_is() {
        let compression = Compression::new(Deflate::new().threshold(100));
        assert_eq!(compression.compress(&[b'x'; 99], 15), None);
        let compressed = compression.compress(&[b'x'; 100], 15).unwrap();
        assert_eq!(compression.inflate(&compressed, 100), Ok(vec![b'x'; 100]));
        let random: Vec<u8> = (0..5000).map(|_| rand::random()).collect();
        assert_eq!(compression.compress(&random, 15), None);
        assert_eq!(compression.compress_for_all(&[b'x'; 100]), None, "nobody takes it");
        compression.add_recipient();
        assert_eq!(compression.compress_for_all(&[b'x'; 100]), Some(compressed));
        compression.remove_recipient();
        assert_eq!(compression.compress_for_all(&[b'x'; 100]), None);
    }
}

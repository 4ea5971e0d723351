//! What is counted over all topics of a server, for its metrics and its status page.
//!
//! Invariant: nothing here grows, whatever clients do: there is one number for each way and each error.

use std::array;
use std::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU64;

/// The ways by which a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the application's own code.
    Application,
    /// By a client of the subprotocol.
    Subprotocol,
    /// By a client of a topic's path, as a bare message.
    Path,
    /// By a plain HTTP request.
    Http,
}

impl Way {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Application, "application"),
        (Self::Subprotocol, "subprotocol"),
        (Self::Path, "path"),
        (Self::Http, "http"),
    ];
}

/// All errors of the wire format.
const ERRORS: [&str; 10] = [
    "malformed",
    "unknown-type",
    "bad-topic",
    "bad-position",
    "forbidden",
    "bad-token",
    "no-tokens",
    "too-many",
    "too-large",
    "unavailable",
];

#[derive(Debug)]
pub(crate) struct Counters {
    /// In the order of [`Way::ALL`].
    published: [AtomicU64; Way::ALL.len()],
    lost: AtomicU64,
    /// In the order of [`ERRORS`].
    refused: [AtomicU64; ERRORS.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { published: zeros(), lost: AtomicU64::new(0), refused: zeros() }
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    array::from_fn(|_| AtomicU64::new(0))
}

impl Counters {
    /// A message was published.
    pub(super) fn published(&self, way: Way) {
        self.published[way as usize].fetch_add(1, Relaxed);
    }

    /// Somebody was told that messages are lost.
    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// A client was refused something, or a part of it, with this error of the wire format.
    pub(super) fn refused(&self, error: &str) {
        let number = ERRORS.iter().position(|known| *known == error);
        debug_assert!(number.is_some(), "{error} is no error of the wire format");
        if let Some(number) = number {
            self.refused[number].fetch_add(1, Relaxed);
        }
    }
}

/// Reading.
#[cfg(any(feature = "metrics", feature = "status"))]
impl Counters {
    /// How many messages were published, by each way.
    pub(crate) fn publications(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Way::ALL.into_iter().map(|(way, name)| (name, self.published[way as usize].load(Relaxed)))
    }

    /// How often somebody was told that messages are lost.
    pub(crate) fn losses(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// How often clients were refused something, by each error that there was.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = ERRORS.into_iter().zip(&self.refused);
        all.map(|(error, count)| (error, count.load(Relaxed))).filter(|(_, count)| *count > 0)
    }
}

#[cfg(all(test, any(feature = "metrics", feature = "status")))]
mod tests {
    use super::*;

    #[test]
    fn each_way_and_each_error_has_its_own_number() {
        let counters = Counters::default();
        for (number, (way, _)) in Way::ALL.into_iter().enumerate() {
            assert_eq!(way as usize, number, "in the order of the list");
            (0..=number).for_each(|_| counters.published(way));
        }
        let published: Vec<_> = counters.publications().collect();
        assert_eq!(published, [("application", 1), ("subprotocol", 2), ("path", 3), ("http", 4)]);

        for error in ["forbidden", "too-many", "forbidden"] {
            counters.refused(error);
        }
        assert_eq!(counters.refusals().collect::<Vec<_>>(), [("forbidden", 2), ("too-many", 1)]);
        counters.lost();
        assert_eq!(counters.losses(), 1);
    }
}

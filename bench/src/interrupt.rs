//! Ctrl-C: the measurement that runs is dropped, and what there is so far is printed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The first Ctrl-C is noted, the second ends the program.
pub(crate) fn watch() -> io::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\ninterrupted: printing what there is (again to end at once)");
    })
    .map_err(io::Error::other)
}

pub(crate) fn is_set() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// Sleeps until then, or until Ctrl-C. Whether the time is over.
pub(crate) fn sleep_until(then: Instant) -> bool {
    while !is_set() {
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    false
}

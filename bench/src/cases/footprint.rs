//! What idle connections take in memory, for the cases that compare it with and without something.

use std::time::{Duration, Instant};

use crate::interrupt;
use crate::procfs::{self, Usage};
use crate::report::{Figure, less};

/// The size of the stacks of the servers' threads.
const STACK: u64 = 256 * 1024;

/// A server's memory at one moment.
pub(super) struct Footprint {
    pid: u32,
    usage: Usage,
    stacks: f64,
}

impl Footprint {
    pub(super) fn of(pid: u32) -> Self {
        Self { pid, usage: procfs::usage(pid), stacks: procfs::stacks(pid, STACK) }
    }

    /// What each of so many connections has added, which are idle from now on. The first figure is the whole of it.
    pub(super) fn grown_by(&self, connections: usize) -> [(Figure, f64); 5] {
        // Whatever they left to do is done.
        interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
        let now = Self::of(self.pid);
        let per_connection = |bytes: f64| bytes / connections as f64 / 1024.0;
        let (resident, stacks) = (now.usage.resident - self.usage.resident, now.stacks - self.stacks);
        let page_tables = now.usage.page_tables - self.usage.page_tables;
        [
            (less("resident", "KB/connection"), per_connection(resident)),
            (less("of stacks", "KB/connection"), per_connection(stacks)),
            (less("others", "KB/connection"), per_connection(resident - stacks)),
            (less("page tables", "KB/connection"), per_connection(page_tables)),
            (less("threads", ""), now.usage.threads),
        ]
    }
}

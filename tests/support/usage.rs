//! What this process has in use. Linux alone tells.

use std::fs;
use std::time::Duration;

/// How many threads have a name that begins so. Linux tells 15 bytes of it.
pub(crate) fn threads_named(prefix: &str) -> usize {
    let prefix = &prefix[..prefix.len().min(15)];
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    // A thread that has just ended has no name any more.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}

/// How many sockets are open.
pub(crate) fn open_sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd").expect("Linux");
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

pub(crate) fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    // USER_HZ is 100 on every system that we know.
    Duration::from_millis(10 * ticks)
}

/// Memory of the process's own that is resident, in bytes: without the pages of its program, of which a test that
/// begins reads more and more.
pub(crate) fn resident() -> usize {
    1024 * kib_of("self", "RssAnon:") as usize
}

/// A figure of a process in KiB, such as `VmRSS:`.
pub(crate) fn kib_of(process: &str, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

//! What the system says of a process. Linux only: elsewhere these figures are missing.

use std::fs;
use std::time::Duration;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) resident: f64,
    /// The most that was ever resident.
    pub(crate) peak: f64,
    /// Page tables, in bytes.
    pub(crate) page_tables: f64,
    pub(crate) threads: f64,
    /// Processor time of all its threads, in user mode and in the kernel.
    pub(crate) processor: Duration,
}

pub(crate) fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    Usage {
        resident: resident(pid).unwrap_or_else(|| kilobytes(&status, "VmRSS:")),
        peak: kilobytes(&status, "VmHWM:"),
        page_tables: kilobytes(&status, "VmPTE:"),
        threads: field(&status, "Threads:"),
        processor: processor(pid),
    }
}

/// Processor time used so far, in steps of 10 ms.
pub(crate) fn processor(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks: u64 = behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// A process and those that it has started, at one moment: a group of its own, which is told by its number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    /// Resident memory in bytes. What several of them share counts once.
    pub(crate) resident: f64,
    pub(crate) processor: Duration,
}

pub(crate) fn group(pid: u32) -> Group {
    members(&[pid]).fold(Group::default(), |sum, member| {
        let rollup = fs::read_to_string(format!("/proc/{member}/smaps_rollup")).unwrap_or_default();
        Group { resident: sum.resident + kilobytes(&rollup, "Pss:"), processor: sum.processor + processor(member) }
    })
}

/// Processor time of all processes of these groups.
pub(crate) fn processor_of_groups(pids: &[u32]) -> Duration {
    members(pids).map(processor).sum()
}

fn members(groups: &[u32]) -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|member| group_of(*member).is_some_and(|group| groups.contains(&group)))
}

fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The third field behind the name, in parentheses, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// Processor time that all processes together have used so far, interrupts apart, in steps of 10 ms.
pub(crate) fn processor_of_all() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let cpu = stat.lines().next().unwrap_or_default();
    // Its name, then user, nice and system.
    let ticks: u64 = cpu.split_whitespace().skip(1).take(3).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Memory that could be had for new programs, in bytes: what falls is the cost of everything, kernel included.
pub(crate) fn available() -> f64 {
    kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:")
}

/// Connections that found the backlog of their listener full, since the system began.
pub(crate) fn listen_overflows() -> f64 {
    let netstat = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut rows = netstat.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else { return f64::NAN };
    let found = names.zip(values).find(|(name, _)| *name == "ListenOverflows");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(f64::NAN)
}

/// Resident bytes of the stacks of threads, whose size they are told by.
pub(crate) fn stacks(pid: u32, size: u64) -> f64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut resident, mut is_stack) = (0.0, false);
    for line in smaps.lines() {
        if let Some((range, rest)) = line.split_once(' ').filter(|(range, _)| range.contains('-')) {
            let mut ends = range.split('-').map(|end| u64::from_str_radix(end, 16).unwrap_or_default());
            let (from, to) = (ends.next().unwrap_or_default(), ends.next().unwrap_or_default());
            // The C library adds what threads have of their own.
            is_stack = rest.starts_with("rw-p") && (size..size + 64 * 1024).contains(&(to - from));
        } else if is_stack && line.starts_with("Rss:") {
            resident += kilobytes(line, "Rss:");
        }
    }
    resident
}

fn resident(pid: u32) -> Option<f64> {
    // VmRSS lags behind by up to 64 pages per thread; this one is exact.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(kilobytes(&rollup, "Rss:"))
}

fn kilobytes(text: &str, name: &str) -> f64 {
    field(text, name) * 1024.0
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|value| value.parse().ok()).unwrap_or_default()
}

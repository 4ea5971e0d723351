//! What the control group of the program leaves it: memory and threads (Linux, versions 1 and 2). A container and a
//! service have one. Whoever takes more memory is killed, and without a thread a client cannot even be refused, so the
//! server admits no more connections than fit.

use std::fs;
use std::path::{Path, PathBuf};

/// What a connection takes by itself: its thread and sockets, in the kernel too.
const PER_CONNECTION: u64 = 64 << 10;
/// So many messages a connection may come to hold besides those that wait for room in `max_buffered`: one that arrives,
/// one that its handler has, and one that was queued before it fell behind.
const MESSAGES: u64 = 3;
/// Few clients send larger messages than this, and hardly all at the same time.
const LARGEST_MESSAGE: u64 = 64 << 10;
/// What the program takes by itself, and 64 clients that are only refused.
const PROGRAM: u64 = 6 << 20;
/// Threads of the program itself.
const OWN_THREADS: u64 = 16;
/// Clients that are only refused have a thread each.
const REFUSED: u64 = 64;

/// The limits of a control group, and of those it is in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlGroup {
    /// In bytes.
    memory: Option<u64>,
    /// Most threads, and how many of them others have.
    threads: Option<(u64, u64)>,
}

impl ControlGroup {
    /// That of this process. What cannot be read sets no limit.
    pub(crate) fn of_this_process() -> Self {
        let read = |path: &Path| fs::read_to_string(path).ok();
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
        Self::read(&groups, &mounts, read)
    }

    fn read(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Self {
        let number = |path: PathBuf| read(&path)?.trim().parse().ok();
        let mut limits = Self::default();
        for (controllers, group) in groups.lines().filter_map(group) {
            for (mount, root) in mounts.lines().filter_map(|line| mount(line, controllers)) {
                // In a container the group's path may be that of the host, of which only the end is mounted.
                let Ok(below) = Path::new(group).strip_prefix(root) else { continue };
                for folder in mount.join(below).ancestors().take_while(|folder| folder.starts_with(&mount)) {
                    for file in ["memory.max", "memory.limit_in_bytes"] {
                        limits.memory = least(limits.memory, number(folder.join(file)));
                    }
                    if let Some(most) = number(folder.join("pids.max")) {
                        let taken = number(folder.join("pids.current")).unwrap_or(0).saturating_sub(1);
                        let free = |(most, taken): (u64, u64)| most.saturating_sub(taken);
                        let ours = limits.threads.filter(|&old| free(old) <= free((most, taken)));
                        limits.threads = ours.or(Some((most, taken)));
                    }
                }
            }
        }
        limits
    }

    /// So many connections fit whose messages have this size at most, if there is a limit: one at least. A quarter of
    /// the threads is left for connections that fall behind, and as much of the memory for what waits for them.
    pub(crate) fn connections(self, max_message_size: usize) -> Option<usize> {
        let message = LARGEST_MESSAGE.min(max_message_size as u64);
        let each = PER_CONNECTION + MESSAGES * message;
        let memory = self.memory.map(|limit| (limit / 4 * 3).saturating_sub(PROGRAM) / each);
        let threads = self.threads.map(|(most, taken)| {
            let rest = most.saturating_sub(taken + OWN_THREADS);
            (rest - REFUSED.min(rest / 2)) / 4 * 3
        });
        least(memory, threads).map(|connections| usize::try_from(connections).unwrap_or(usize::MAX).max(1))
    }

    /// So many bytes may wait for all connections together, if there is a limit.
    pub(crate) fn buffered(self) -> Option<usize> {
        self.memory.map(|limit| usize::try_from(limit / 4).unwrap_or(usize::MAX))
    }

    /// The limits in words.
    pub(crate) fn in_words(self) -> String {
        let memory = self.memory.map(|limit| format!("{} KiB of memory", limit >> 10));
        let threads = self.threads.map(|(most, taken)| format!("{most} threads, {taken} of them taken"));
        memory.into_iter().chain(threads).collect::<Vec<_>>().join(" and ")
    }
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// The controllers of a line of `/proc/self/cgroup`, and the group's path: `9:memory:/a`, or `0::/a` in version 2.
fn group(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')?.1.split_once(':')
}

/// Where a line of `/proc/self/mountinfo` has mounted the groups of these controllers, and which group is the root of
/// that (proc_pid_mountinfo(5)).
fn mount<'a>(line: &'a str, controllers: &str) -> Option<(PathBuf, &'a str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    let mut fields = file_system.split(' ');
    let is_ours = match (fields.next()?, controllers) {
        ("cgroup2", "") => true,
        ("cgroup", controllers) if !controllers.is_empty() => {
            let options = fields.nth(1)?;
            controllers.split(',').all(|controller| options.split(',').any(|option| option == controller))
        }
        _ => false,
    };
    is_ours.then(|| (PathBuf::from(at), root))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const VERSION_1: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        36 31 0:32 /docker/c /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        38 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
        39 31 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const VERSION_2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn limits(groups: &str, mounts: &str, files: &[(&str, &str)]) -> ControlGroup {
        let files: BTreeMap<_, _> = files.iter().map(|(path, text)| (Path::new(*path), format!("{text}\n"))).collect();
        ControlGroup::read(groups, mounts, |path| files.get(path).cloned())
    }

    #[test]
    fn both_versions_are_read_where_they_are_mounted() {
        let old = [
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "16777216"),
            ("/sys/fs/cgroup/pids/b/pids.max", "128"),
            ("/sys/fs/cgroup/pids/b/pids.current", "9"),
        ];
        let groups = "9:memory:/docker/c/a\n8:pids:/b\n1:cpu:/\n0::/\n";
        let expected = ControlGroup { memory: Some(16 << 20), threads: Some((128, 8)) };
        assert_eq!(limits(groups, VERSION_1, &old), expected);
        let new = [
            ("/sys/fs/cgroup/a/memory.max", "16777216"),
            ("/sys/fs/cgroup/a/pids.max", "128"),
            ("/sys/fs/cgroup/a/pids.current", "9"),
        ];
        assert_eq!(limits("0::/a\n", VERSION_2, &new), expected);
        assert_eq!(expected.in_words(), "16384 KiB of memory and 128 threads, 8 of them taken");
    }

    #[test]
    fn the_tightest_of_the_groups_above_counts_and_max_is_no_limit() {
        let files = [
            ("/sys/fs/cgroup/memory.max", "4194304"),
            ("/sys/fs/cgroup/a/memory.max", "8388608"),
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            // More are allowed here, and fewer are free.
            ("/sys/fs/cgroup/a/pids.max", "1000"),
            ("/sys/fs/cgroup/a/pids.current", "991"),
            ("/sys/fs/cgroup/a/b/pids.max", "100"),
            ("/sys/fs/cgroup/a/b/pids.current", "1"),
            ("/sys/fs/memory.max", "1"),
        ];
        let expected = ControlGroup { memory: Some(4 << 20), threads: Some((1000, 990)) };
        assert_eq!(limits("0::/a/b\n", VERSION_2, &files), expected);
    }

    #[test]
    fn what_cannot_be_read_sets_no_limit() {
        for (groups, mounts) in
            [("", ""), ("0::/a\n", ""), ("", VERSION_2), ("nonsense", "nonsense"), ("0::/a", "- - -")]
        {
            let limits = limits(groups, mounts, &[("/sys/fs/cgroup/a/memory.max", "max")]);
            assert_eq!(limits, ControlGroup::default());
            assert_eq!((limits.connections(1 << 20), limits.buffered()), (None, None));
        }
    }

    #[test]
    fn connections_are_as_many_as_both_limits_let_in_and_one_at_least() {
        let connections = |memory, threads| ControlGroup { memory, threads }.connections(1 << 20);
        assert_eq!(connections(Some(16 << 20), None), Some(24));
        assert_eq!(connections(Some(32 << 20), Some((128, 0))), Some(42));
        assert_eq!(connections(None, Some((4915, 0))), Some(3624));
        assert_eq!(connections(Some(1 << 20), Some((4, 8))), Some(1));
        // What version 1 says where there is no limit.
        assert!(connections(Some(0x7fff_ffff_ffff_f000), None).unwrap() > 10_000);
    }

    #[test]
    fn more_connections_fit_if_their_messages_are_small() {
        let group = ControlGroup { memory: Some(16 << 20), threads: None };
        assert_eq!(group.connections(4 << 10), Some(80));
        assert_eq!(group.connections(64 << 10), group.connections(1 << 30));
    }
}

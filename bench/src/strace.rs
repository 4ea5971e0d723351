//! A server under strace, which counts its system calls.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::process::Server;
use crate::server::{Kind, ServeOptions};

pub(crate) fn is_available() -> bool {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Starts a server on one processor, lets `exchange` talk to it, and counts when it has ended: system calls of its
/// whole life, by name.
pub(crate) fn count(
    kind: Kind,
    serve: &ServeOptions,
    exchange: impl FnOnce(&Server) -> io::Result<()>,
) -> io::Result<BTreeMap<String, u64>> {
    let summary = std::env::temp_dir().join(format!("heartwire-bench-{}.strace", std::process::id()));
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--summary-only", "--output"]).arg(&summary);
    let served = kind.command(serve)?;
    command.arg(served.get_program()).args(served.get_args());
    let server = on_one_processor(|| Server::spawn(kind, serve, &mut command))?;
    exchange(&server)?;
    server.process.finish()?;
    let text = fs::read_to_string(&summary)?;
    fs::remove_file(&summary)?;
    let calls = parse(&text);
    if calls.is_empty() { Err(io::Error::other(format!("strace said: {text}"))) } else { Ok(calls) }
}

/// What is started meanwhile has one processor, where nothing polls: there what a message takes is always the same.
fn on_one_processor<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let all = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::MAX_CPU).find(|number| all.is_set(*number)) {
        one.set(first);
    }
    sched_setaffinity(None, &one)?;
    let started = start();
    sched_setaffinity(None, &all)?;
    started
}

/// Lines of `% time, seconds, usecs/call, calls, errors if any, name`, between two rules.
fn parse(summary: &str) -> BTreeMap<String, u64> {
    let rows = summary.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let rows = rows.take_while(|line| !line.starts_with("---"));
    rows.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_with_and_without_errors() {
        let summary = "\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
             60.00    0.000300           3       100           recvfrom\n \
             40.00    0.000200           2       120         5 futex\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.000500           2       220         5 total\n";
        assert_eq!(parse(summary), [("recvfrom".to_owned(), 100), ("futex".to_owned(), 120)].into());
    }
}

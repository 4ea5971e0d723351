//! System calls of an echo, counted by strace: heartwire is to need no more than the bare echo.
//!
//! As with instructions, the server runs twice, for a few messages and for many; the difference is what the messages
//! cost.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use clap::Args;

use super::{FEW, MANY, interleave};
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less};
use crate::requester::Requester;
use crate::server::{Kind, ServeOptions};
use crate::strace;

pub(crate) const CASE: &str = "system calls for an echo of 20 bytes";
const TOTAL: Figure = less("all", "");
const OTHERS: Figure = less("others", "");

/// Those that have a column.
const NAMES: [&str; 17] = [
    "read",
    "recvfrom",
    "recvmsg",
    "readv",
    "write",
    "sendto",
    "sendmsg",
    "writev",
    "poll",
    "ppoll",
    "select",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "futex",
    "madvise",
    "sched_yield",
];

const SERVERS: [Kind; 9] = [
    Kind::Bare,
    Kind::Heartwire,
    Kind::HeartwireFeed,
    Kind::Tungstenite,
    Kind::TokioTungstenite,
    Kind::TokioTungstenite4k,
    Kind::Fastwebsockets,
    Kind::ActixWs,
    Kind::Websockets,
];

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of connections, each with one message under way.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10])]
    connections: Vec<usize>,
}

/// Counts in each round: a server that learns how brisk a connection is may learn it sooner or later.
pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    if !strace::is_available() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "strace is not installed"));
    }
    let wanted: Vec<Kind> = SERVERS.into_iter().filter(|kind| common.wants(*kind)).collect();
    let mut failure = None;
    for &connections in &options.connections {
        let cell = if connections == 1 { "1 connection".into() } else { format!("{connections} connections") };
        let mut counted = Vec::new();
        interleave(common, &wanted, |round, &kind| match difference(kind, connections.max(1)) {
            Ok(calls) => {
                let total: f64 = calls.values().sum();
                common.progress(CASE, &cell, round, &format!("{}: {total:.2}", kind.name()));
                counted.push((kind, calls));
            }
            Err(error) => {
                common.progress(CASE, &cell, round, &format!("{}: {error}", kind.name()));
                failure = Some(error);
            }
        });
        record(report, &cell, &counted);
    }
    failure.map_or(Ok(()), Err)
}

/// System calls for each message, by name.
fn difference(kind: Kind, connections: usize) -> io::Result<BTreeMap<String, f64>> {
    // No beat falls into the count.
    let serve = ServeOptions { interval: Some(600_000), ..ServeOptions::default() };
    let [few, many] = [FEW, MANY].map(|messages| {
        let rounds = messages / connections as u64;
        Ok::<_, io::Error>((strace::count(kind, &serve, |server| exchange(server, connections, rounds))?, rounds))
    });
    let ((few, few_rounds), (many, many_rounds)) = (few?, many?);
    let messages = (many_rounds - few_rounds) as f64 * connections as f64;
    let per_message = |(name, count): (String, u64)| {
        let before = few.get(&name).copied().unwrap_or_default();
        (name, (count as f64 - before as f64) / messages)
    };
    Ok(many.into_iter().map(per_message).collect())
}

/// One message on each connection, and the next when all are answered.
fn exchange(server: &Server, connections: usize, rounds: u64) -> io::Result<()> {
    let dialect = server.dialect(false);
    let mut requesters: Vec<Requester> = (0..connections)
        .map(|number| {
            let requester = Requester::open(server.address, dialect, 20, number)?;
            requester.stream().set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(requester)
        })
        .collect::<io::Result<_>>()?;
    let mut scratch = [0; 1024];
    for _ in 0..rounds {
        for requester in &mut requesters {
            requester.request(Instant::now());
            requester.flush()?;
        }
        for requester in &mut requesters {
            while requester.take_answer().is_none() {
                requester.receive(&mut scratch)?;
            }
        }
    }
    Ok(())
}

fn record(report: &mut Report, cell: &str, counted: &[(Kind, BTreeMap<String, f64>)]) {
    // What differs by a few calls in a thousand messages belongs to the clock, not to the messages.
    let told = |calls: &BTreeMap<String, f64>, name| calls.get(name).copied().filter(|count| *count >= 0.005);
    let names: Vec<&str> =
        NAMES.into_iter().filter(|name| counted.iter().any(|(_, calls)| told(calls, *name).is_some())).collect();
    for (kind, calls) in counted {
        let total: f64 = calls.values().sum();
        report.add(CASE, cell, kind.name(), TOTAL, total);
        let mut others = total;
        for &name in &names {
            let count = told(calls, name).unwrap_or_default();
            report.add(CASE, cell, kind.name(), less(name, ""), count);
            others -= count;
        }
        report.add(CASE, cell, kind.name(), OTHERS, others);
    }
}

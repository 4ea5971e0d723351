//! Detection: some of many peers fall silent, and are to be found at the bound: not before, and not long after.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;

use super::interleave;
use crate::cli::Common;
use crate::process::{Process, Server};
use crate::report::{Figure, Report, less};
use crate::server::{Kind, ServeOptions};
use crate::{crowd, interrupt};

pub(crate) const CASE: &str = "detection";
const LATE: [(Figure, f64); 4] = [
    (less("p99 late by", "ms"), 0.99),
    (less("p50", "ms"), 0.5),
    (less("worst", "ms"), 1.0),
    (less("earliest", "ms"), 0.0),
];
const MISSING: Figure = less("not found", "");
const LOST: Figure = less("live ones lost", "");

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Number of connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How many of them fall silent.
    #[arg(long, default_value_t = 1000)]
    silent: usize,
    /// The heartbeat's interval in milliseconds.
    #[arg(long, default_value_t = 2000)]
    interval: u64,
    /// The heartbeat's timeout in milliseconds.
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
    /// Misses allowed.
    #[arg(long, default_value_t = 3)]
    max_missed: u32,
}

/// What the crowd said.
#[derive(Debug, Default)]
struct Found {
    /// From the first unanswered Ping to the end.
    delays: Vec<Duration>,
    /// Clients that answered all, and were ended nevertheless.
    lost: usize,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let cell = format!("{} of {} fall silent", options.silent, options.connections);
    let wanted: Vec<Kind> = [Kind::Heartwire].into_iter().filter(|kind| common.wants(*kind)).collect();
    interleave(common, &wanted, |round, kind| {
        let name = kind.name();
        match measure(*kind, options) {
            Ok(found) => {
                record(report, &cell, name, options, &found);
                common.progress(CASE, &cell, round, &format!("{name}: {} found", found.delays.len()));
            }
            Err(error) => common.progress(CASE, &cell, round, &format!("{name}: {error}")),
        }
    });
    Ok(())
}

fn measure(kind: Kind, options: &Options) -> io::Result<Found> {
    let serve = ServeOptions {
        interval: Some(options.interval),
        timeout: options.timeout,
        max_missed: options.max_missed,
        ..ServeOptions::default()
    };
    let server = Server::start(kind, &serve)?;
    let mut crowd = crowd::start(&server, options.connections)?;
    let interval = Duration::from_millis(options.interval);
    // Every heart has beaten once.
    interrupt::sleep_until(Instant::now() + interval);
    crowd.tell(&format!("silence {}", options.silent))?;
    let bound = interval + Duration::from_millis(options.timeout) * options.max_missed;
    listen(&crowd, options.silent, Instant::now() + bound + Duration::from_secs(10))
}

fn listen(crowd: &Process, silent: usize, deadline: Instant) -> io::Result<Found> {
    let mut found = Found::default();
    while found.delays.len() < silent && Instant::now() < deadline && !interrupt::is_set() {
        match crowd.line(Duration::from_millis(200)) {
            Ok(line) => match line.strip_prefix("late ").and_then(|micros| micros.parse().ok()) {
                Some(micros) => found.delays.push(Duration::from_micros(micros)),
                None => found.lost += 1,
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error),
        }
    }
    found.delays.sort();
    Ok(found)
}

fn record(report: &mut Report, cell: &str, server: &str, options: &Options, found: &Found) {
    let due = f64::from(options.max_missed) * options.timeout as f64;
    let last = found.delays.len().saturating_sub(1);
    for (figure, quantile) in LATE {
        let delay = found.delays.get((quantile * last as f64).round() as usize);
        let late = delay.map_or(f64::NAN, |delay| delay.as_secs_f64() * 1000.0 - due);
        report.add(CASE, cell, server, figure, late);
    }
    report.add(CASE, cell, server, MISSING, (options.silent - found.delays.len()) as f64);
    report.add(CASE, cell, server, LOST, found.lost as f64);
}

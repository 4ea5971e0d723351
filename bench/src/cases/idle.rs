//! Idle connections: what each costs, and what the heartbeat finds when all go silent at once.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::cli::Common;
use crate::interrupt;
use crate::process::{Process, Server};
use crate::procfs::{self, Usage};
use crate::report::{Figure, Report, less};
use crate::server::{Kind, ServeOptions};

pub(crate) const CASE: &str = "idle";
pub(crate) const DETECTION: &str = "all silent";

const RESIDENT: Figure = less("resident", "KB/connection");
const SYSTEM: Figure = less("system, both ends", "KB/connection");
const PAGE_TABLES: Figure = less("page tables", "KB/connection");
const THREADS: Figure = less("threads more than connections", "");
const PROCESSOR: Figure = less("processor", "% of a core");
const OPENING: Figure = less("opened in", "s");

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Number of connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// The heartbeat's interval in milliseconds.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
    /// The heartbeat's timeout in milliseconds.
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
    /// Seconds for which the processor time of the idle server is watched.
    #[arg(long, default_value_t = 5)]
    watch: u64,
    /// Hold the connections for so many seconds before they go silent, for a look at the processes.
    #[arg(long, default_value_t = 0)]
    hold: u64,
}

const SERVERS: [Kind; 7] = [
    Kind::Bare,
    Kind::Heartwire,
    Kind::Tungstenite,
    Kind::TokioTungstenite,
    Kind::TokioTungstenite4k,
    Kind::Fastwebsockets,
    Kind::ActixWs,
];

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let cell = format!("{} connections", options.connections);
    for kind in SERVERS.into_iter().filter(|kind| common.wants(*kind)) {
        if interrupt::is_set() {
            break;
        }
        let mut serve = ServeOptions::default();
        if kind == Kind::Heartwire {
            serve.interval = Some(options.interval);
            serve.timeout = options.timeout;
            serve.events = true;
        }
        let server = Server::start(kind, &serve)?;
        let crowd = measure(&server, options, &cell, report)?;
        if kind == Kind::Heartwire && !interrupt::is_set() {
            silence(&server, &crowd, &serve, options, &cell, report)?;
        }
    }
    Ok(())
}

/// Connects a crowd and looks at the server while nothing happens.
fn measure(server: &Server, options: &Options, cell: &str, report: &mut Report) -> io::Result<Process> {
    let name = server.kind.name();
    let count = options.connections as f64;
    let available = procfs::available();
    let empty = procfs::usage(server.process.pid());

    let began = Instant::now();
    let mut arguments = vec!["crowd".to_owned(), server.address.to_string(), options.connections.to_string()];
    if !server.kind.is_websocket() {
        arguments.push("--bare".into());
    }
    let crowd = Process::start(&arguments)?;
    crowd.line(Duration::from_secs(120))?;
    let opening = began.elapsed();
    eprintln!("idle, {cell}: {name}: open after {opening:.1?}");

    interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
    let full = procfs::usage(server.process.pid());
    let system = available - procfs::available();
    let watched = Duration::from_secs(options.watch);
    interrupt::sleep_until(Instant::now() + watched);
    let later = procfs::usage(server.process.pid());
    interrupt::sleep_until(Instant::now() + Duration::from_secs(options.hold));

    let per_connection = |of: fn(&Usage) -> f64, now: &Usage| (of(now) - of(&empty)) / count / 1024.0;
    let processor = (later.processor - full.processor).as_secs_f64() / watched.as_secs_f64() * 100.0;
    report.add(CASE, cell, name, RESIDENT, per_connection(|usage| usage.resident, &later));
    report.add(CASE, cell, name, PAGE_TABLES, per_connection(|usage| usage.page_tables, &later));
    report.add(CASE, cell, name, SYSTEM, system / count / 1024.0);
    report.add(CASE, cell, name, THREADS, later.threads - count);
    report.add(CASE, cell, name, PROCESSOR, processor);
    report.add(CASE, cell, name, OPENING, opening.as_secs_f64());
    Ok(crowd)
}

/// Freezes the whole crowd, and listens to the server's reports of their deaths.
fn silence(
    server: &Server,
    crowd: &Process,
    serve: &ServeOptions,
    options: &Options,
    cell: &str,
    report: &mut Report,
) -> io::Result<()> {
    let name = server.kind.name();
    let silence = serve.timeout * u64::from(serve.max_missed);
    let bound = Duration::from_millis(options.interval + silence);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crowd.freeze()?;

    let mut reported: HashMap<u64, usize> = HashMap::new();
    let mut causes: HashMap<String, usize> = HashMap::new();
    let mut delays = Vec::new();
    let deadline = Instant::now() + bound + Duration::from_secs(10);
    while reported.len() < options.connections && Instant::now() < deadline && !interrupt::is_set() {
        let Ok(line) = server.process.line(Duration::from_millis(500)) else { continue };
        let Some((id, cause, at)) = closure(&line) else { continue };
        *reported.entry(id).or_default() += 1;
        *causes.entry(cause.to_owned()).or_default() += 1;
        delays.push(at.as_secs_f64() - since.as_secs_f64());
    }
    // A second report of the same would come now.
    while let Ok(line) = server.process.line(Duration::from_secs(1)) {
        if let Some((id, ..)) = closure(&line) {
            *reported.entry(id).or_default() += 1;
        }
    }
    delays.sort_by(f64::total_cmp);
    let at = |quantile: f64| delays.get((quantile * delays.len().saturating_sub(1) as f64) as usize).copied();
    let late = |delay: Option<f64>| delay.map_or(f64::NAN, |delay| (delay - bound.as_secs_f64()) * 1000.0);
    eprintln!("{DETECTION}, {cell}: {name}: causes {causes:?}, bound {bound:?}");
    report.add(DETECTION, cell, name, less("not found", ""), (options.connections - reported.len()) as f64);
    let twice = reported.values().filter(|count| **count != 1).count();
    report.add(DETECTION, cell, name, less("reported twice", ""), twice as f64);
    let early = delays.iter().filter(|delay| **delay < 0.0).count();
    report.add(DETECTION, cell, name, less("before the silence", ""), early as f64);
    let other = delays.len() - causes.get("heartbeat_lost").copied().unwrap_or(0);
    report.add(DETECTION, cell, name, less("other causes", ""), other as f64);
    for (figure, quantile) in [("first", 0.0), ("p50", 0.5), ("p99", 0.99), ("last", 1.0)] {
        report.add(DETECTION, cell, name, less(figure, "ms to the bound"), late(at(quantile)));
    }
    Ok(())
}

/// A line of the server: who was closed, why, and when.
fn closure(line: &str) -> Option<(u64, &str, Duration)> {
    let mut words = line.strip_prefix("closed ")?.split(' ');
    let (id, cause, at) = (words.next()?, words.next()?, words.next()?);
    Some((id.parse().ok()?, cause, Duration::from_micros(at.parse().ok()?)))
}

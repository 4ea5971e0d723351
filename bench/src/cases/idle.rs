//! Idle connections: what each costs, and what the heartbeat finds when all go silent at once.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::cli::Common;
use crate::process::{Process, Server};
use crate::procfs::{self, Usage};
use crate::report::{Figure, Report, less};
use crate::server::{Kind, ServeOptions};
use crate::{crowd, interrupt};

pub(crate) const CASE: &str = "idle";
pub(crate) const DETECTION: &str = "all silent";

const RESIDENT: Figure = less("resident", "KB/connection");
const SYSTEM: Figure = less("system, both ends", "KB/connection");
const PAGE_TABLES: Figure = less("page tables", "KB/connection");
const THREADS: Figure = less("threads", "");
const PROCESSOR: Figure = less("heartbeats' processor", "% of a core");
const OPENING: Figure = less("opened in", "s");

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    connections: Vec<usize>,
    /// The brisk heartbeat's interval and timeout in milliseconds, 3 misses allowed: its processor time is measured
    /// too, and then all fall silent.
    #[arg(long, default_value_t = 1000)]
    brisk: u64,
    /// Seconds for which the processor time of heartbeats is watched.
    #[arg(long, default_value_t = 20)]
    watch: u64,
    /// Hold the connections for so many seconds more, for a look at the processes.
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

/// Measured once: memory does not vary from round to round.
pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    for &count in &options.connections {
        let cell = format!("{count} connections");
        for kind in SERVERS.into_iter().filter(|kind| common.wants(*kind)) {
            let mut idle = Idle { cell: &cell, name: kind.name().into(), count, watch: Duration::from_secs(1) };
            if kind == Kind::Heartwire {
                // The first beats are spread over the second half of the interval, so one interval has one beat of
                // each.
                idle.watch = Duration::from_secs(options.watch);
                idle.name = format!("{} (20 s interval)", kind.name());
            }
            let server = Server::start(kind, &ServeOptions::default())?;
            let crowd = idle.measure(&server, report)?;
            common.progress(CASE, &cell, 1, &idle.name);
            interrupt::sleep_until(Instant::now() + Duration::from_secs(options.hold));
            drop((crowd, server));
            if interrupt::is_set() {
                return Ok(());
            }
            if kind == Kind::Heartwire {
                idle.name = format!("{} ({} s interval)", kind.name(), options.brisk as f64 / 1000.0);
                idle.watch = Duration::from_secs(options.watch.min(5));
                let serve = ServeOptions {
                    interval: Some(options.brisk),
                    timeout: options.brisk,
                    events: true,
                    ..ServeOptions::default()
                };
                let server = Server::start(kind, &serve)?;
                let crowd = idle.measure(&server, report)?;
                idle.silence(&server, &crowd, &serve, report)?;
                common.progress(DETECTION, &cell, 1, &idle.name);
            }
        }
    }
    Ok(())
}

/// So many connections to one server, on which nothing happens.
struct Idle<'a> {
    cell: &'a str,
    name: String,
    count: usize,
    watch: Duration,
}

impl Idle<'_> {
    /// Connects a crowd and looks at the server.
    fn measure(&self, server: &Server, report: &mut Report) -> io::Result<Process> {
        let available = procfs::available();
        let empty = procfs::usage(server.process.pid());
        let began = Instant::now();
        let crowd = crowd::start(server, self.count)?;
        let opening = began.elapsed();

        // Whatever the opening left to do is done.
        interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
        let full = procfs::usage(server.process.pid());
        let system = available - procfs::available();
        interrupt::sleep_until(Instant::now() + self.watch);
        let later = procfs::usage(server.process.pid());

        let count = self.count as f64;
        let per_connection = |of: fn(&Usage) -> f64| (of(&later) - of(&empty)) / count / 1024.0;
        let processor = (later.processor - full.processor).as_secs_f64() / self.watch.as_secs_f64() * 100.0;
        for (figure, value) in [
            (RESIDENT, per_connection(|usage| usage.resident)),
            (PAGE_TABLES, per_connection(|usage| usage.page_tables)),
            (SYSTEM, system / count / 1024.0),
            (THREADS, later.threads),
            (OPENING, opening.as_secs_f64()),
        ] {
            report.add(CASE, self.cell, &self.name, figure, value);
        }
        if server.kind == Kind::Heartwire {
            report.add(CASE, self.cell, &self.name, PROCESSOR, processor);
        }
        Ok(crowd)
    }

    /// Freezes the whole crowd, and listens to the server's reports of their deaths.
    fn silence(&self, server: &Server, crowd: &Process, serve: &ServeOptions, report: &mut Report) -> io::Result<()> {
        let bound = serve.interval.unwrap_or(0) + serve.timeout * u64::from(serve.max_missed);
        let bound = Duration::from_millis(bound);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        crowd.freeze()?;

        let mut reported: HashMap<u64, usize> = HashMap::new();
        let mut causes: HashMap<String, usize> = HashMap::new();
        let mut delays = Vec::new();
        let deadline = Instant::now() + bound + Duration::from_secs(10);
        while reported.len() < self.count && Instant::now() < deadline && !interrupt::is_set() {
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
        for (figure, quantile) in [("last", 1.0), ("p99", 0.99), ("p50", 0.5), ("first", 0.0)] {
            report.add(DETECTION, self.cell, &self.name, less(figure, "ms to the bound"), late(at(quantile)));
        }
        report.add(DETECTION, self.cell, &self.name, less("not found", ""), (self.count - reported.len()) as f64);
        let twice = reported.values().filter(|count| **count != 1).count();
        report.add(DETECTION, self.cell, &self.name, less("reported twice", ""), twice as f64);
        let early = delays.iter().filter(|delay| **delay < 0.0).count();
        report.add(DETECTION, self.cell, &self.name, less("before the silence", ""), early as f64);
        let other = delays.len() - causes.get("heartbeat_lost").copied().unwrap_or(0);
        report.add(DETECTION, self.cell, &self.name, less("other causes", ""), other as f64);
        Ok(())
    }
}

/// A line of the server: who was closed, why, and when.
fn closure(line: &str) -> Option<(u64, &str, Duration)> {
    let mut words = line.strip_prefix("closed ")?.split(' ');
    let (id, cause, at) = (words.next()?, words.next()?, words.next()?);
    Some((id.parse().ok()?, cause, Duration::from_micros(at.parse().ok()?)))
}

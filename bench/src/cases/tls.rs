//! What TLS costs: echoes, handshakes, idle connections, and a storm of clients that come back.

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::footprint::Footprint;
use super::interleave;
use crate::cli::Common;
use crate::load::{self, Load};
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};
use crate::tls::Identity;
use crate::visitors::{self, Visits};
use crate::{crowd, fleet, interrupt, procfs};

pub(crate) const ROUND_TRIPS: &str = "over TLS, round trips of 20 bytes";
pub(crate) const BULK: &str = "over TLS, echoes of 1 MB";
pub(crate) const HANDSHAKES: &str = "over TLS, connections opened, used once and closed";
pub(crate) const IDLE: &str = "over TLS, idle after an echo and a Ping each way";
pub(crate) const STORM: &str = "closed with 1012, until all are back";

const SERVERS: [Kind; 4] = [Kind::Heartwire, Kind::Tungstenite, Kind::TokioTungstenite, Kind::TokioTungstenite4k];

const LOAD_FIGURES: [Figure; 4] =
    [less("p50", "µs"), less("p99", "µs"), less("server", "µs/message"), less("load", "µs/message")];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Echo,
    Bulk,
    Connect,
    Idle,
    Storm,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Only these parts (names with commas between them).
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Numbers of connections with echoes of 20 bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    connections: Vec<usize>,
    /// Numbers of connections with echoes of 1 MB. Each takes some 6 MB of memory, at both ends together.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    bulk: Vec<usize>,
    /// Numbers of clients that open connections, each one at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 100])]
    clients: Vec<usize>,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// heartwire's clients in the storm.
    #[arg(long, default_value_t = 1000)]
    fleet: usize,
    /// A try of all that takes less than a minute: one round, a fifth of a second for each load, fewer connections, and
    /// a Ping each second.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let (mut common, mut options) = (common.clone(), options.clone());
    if options.quick {
        (common.rounds, common.seconds) = (1, 0.2);
        (options.idle, options.fleet) = (1000, 200);
        options.bulk.retain(|connections| *connections <= 10);
        options.clients.truncate(1);
    }
    let identity = Identity::make()?;
    let case = Case { common: &common, options: &options, identity: &identity };
    let wants = |part| (options.parts.is_empty() || options.parts.contains(&part)) && !interrupt::is_set();
    if [Part::Echo, Part::Bulk, Part::Connect].into_iter().any(wants) {
        let servers = case.start_all()?;
        if wants(Part::Echo) {
            for &connections in &options.connections {
                case.echo(&servers, ROUND_TRIPS, &Load { connections, ..common.load() }, report);
            }
        }
        if wants(Part::Bulk) {
            for &connections in &options.bulk {
                let load = common.load();
                // Time for each to have a few answers.
                let duration = load.duration.max(Duration::from_millis(20) * connections as u32);
                let load = Load { connections, payload: 1_000_000, warm_up: duration / 4, duration, ..load };
                case.echo(&servers, BULK, &load, report);
            }
        }
        if wants(Part::Connect) {
            for &clients in &options.clients {
                case.connect(&servers, clients, false, report)?;
                case.connect(&servers, clients, true, report)?;
            }
        }
    }
    if wants(Part::Idle) {
        case.idle(report)?;
    }
    if wants(Part::Storm) && common.wants(Kind::Heartwire) {
        case.storm(report)?;
    }
    Ok(())
}

struct Case<'a> {
    common: &'a Common,
    options: &'a Options,
    identity: &'a Identity,
}

impl Case<'_> {
    fn serve(&self) -> ServeOptions {
        ServeOptions { tls: Some(self.identity.file().to_owned()), ..ServeOptions::default() }
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        SERVERS.into_iter().filter(|kind| self.common.wants(*kind))
    }

    fn start_all(&self) -> io::Result<Vec<Server>> {
        self.kinds().map(|kind| Server::start(kind, &self.serve())).collect()
    }

    fn echo(&self, servers: &[Server], case: &'static str, load: &Load, report: &mut Report) {
        let (first, unit) = match case {
            BULK => (more("echoed", "MB/s"), load.payload as f64 / 1e6),
            _ => (more("messages", "/s"), 1.0),
        };
        let cell = format!("{} connection{}", load.connections, if load.connections == 1 { "" } else { "s" });
        interleave(self.common, servers, |round, server| {
            let name = server.kind.name();
            let told = match load::run(server, load) {
                Ok(Some(outcome)) => {
                    let quantile = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
                    let processors =
                        [outcome.processor, outcome.own_processor].map(|time| time.as_nanos() as f64 / 1e3);
                    let values = [quantile(0.5), quantile(0.99), processors[0], processors[1]];
                    report.add(case, &cell, name, first, outcome.rate * unit);
                    for (figure, value) in LOAD_FIGURES.into_iter().zip(values) {
                        report.add(case, &cell, name, figure, value);
                    }
                    format!("{:.0} {}", outcome.rate * unit, first.unit)
                }
                Ok(None) => return,
                Err(error) => {
                    report.add(case, &cell, name, first, f64::NAN);
                    error.to_string()
                }
            };
            self.common.progress(case, &cell, round, &format!("{name}: {told}"));
        });
    }

    fn connect(&self, servers: &[Server], clients: usize, resumes: bool, report: &mut Report) -> io::Result<()> {
        const FIGURES: [Figure; 5] = [
            less("open p50", "µs"),
            less("open p99", "µs"),
            less("server", "µs/connection"),
            less("load", "µs/connection"),
            less("backlog overflows", ""),
        ];
        let rate = more("connections", "/s");
        let cell = format!("{clients} clients, {}", if resumes { "sessions resumed" } else { "full handshakes" });
        let load = self.common.load();
        let (threads, warm_up, duration) = (load.threads, load.warm_up, load.duration);
        let visits = Visits { clients, threads, resumes, warm_up, duration };
        let mut failure = None;
        interleave(self.common, servers, |round, server| {
            let name = server.kind.name();
            let told = match visitors::run(server, &visits) {
                Ok(Some(outcome)) if outcome.resumed != f64::from(u8::from(resumes)) => {
                    report.add(HANDSHAKES, &cell, name, rate, f64::NAN);
                    format!("{:.1} % resumed", outcome.resumed * 100.0)
                }
                Ok(Some(outcome)) => {
                    let quantile = |quantile| outcome.opening.value_at_quantile(quantile) as f64 / 1e3;
                    let processors =
                        [outcome.processor, outcome.own_processor].map(|time| time.as_nanos() as f64 / 1e3);
                    let values = [quantile(0.5), quantile(0.99), processors[0], processors[1], outcome.overflows];
                    report.add(HANDSHAKES, &cell, name, rate, outcome.rate);
                    for (figure, value) in FIGURES.into_iter().zip(values) {
                        report.add(HANDSHAKES, &cell, name, figure, value);
                    }
                    format!("{:.0} connections/s", outcome.rate)
                }
                Ok(None) => return,
                Err(error) => {
                    report.add(HANDSHAKES, &cell, name, rate, f64::NAN);
                    let told = error.to_string();
                    // That is no fault of the server's: no figure from here on can be believed.
                    failure = Some(error).filter(|error| error.kind() == io::ErrorKind::AddrNotAvailable);
                    told
                }
            };
            self.common.progress(HANDSHAKES, &cell, round, &format!("{name}: {told}"));
        });
        failure.map_or(Ok(()), Err)
    }

    /// Measured once: memory does not vary from round to round. Without TLS too, to tell what TLS adds.
    fn idle(&self, report: &mut Report) -> io::Result<()> {
        let cell = format!("{} connections", self.options.idle);
        let plain = self.common.wants(Kind::Heartwire).then_some((Kind::Heartwire, false));
        for (kind, is_tls) in self.kinds().map(|kind| (kind, true)).chain(plain) {
            if interrupt::is_set() {
                break;
            }
            let name = if is_tls { kind.name().to_owned() } else { format!("{}, without TLS", kind.name()) };
            // Only heartwire sends Pings by itself. Every 20 s, unless that takes too long.
            let interval = (kind == Kind::Heartwire && self.options.quick).then_some(1000);
            let tls = self.serve().tls.filter(|_| is_tls);
            let serve = ServeOptions { tls, interval, timeout: 10_000, ..ServeOptions::default() };
            let server = Server::start(kind, &serve)?;
            let empty = Footprint::of(server.process.pid());
            let began = Instant::now();
            let crowd = crowd::start_talking(&server, self.options.idle, kind == Kind::Heartwire)?;
            let opening = began.elapsed();
            let grown = empty.grown_by(self.options.idle);
            for (figure, value) in grown {
                report.add(IDLE, &cell, &name, figure, value);
            }
            report.add(IDLE, &cell, &name, less("talked after", "s"), opening.as_secs_f64());
            drop(crowd);
            self.common.progress(IDLE, &cell, 1, &format!("{name}: {:.1} KB", grown[0].1));
        }
        Ok(())
    }

    /// heartwire's own clients, which come back at once.
    fn storm(&self, report: &mut Report) -> io::Result<()> {
        let count = self.options.fleet;
        let cell = format!("{count} clients");
        let tls = self.serve().tls;
        let ways = [
            ("without TLS", fleet::Options::default()),
            ("over TLS, full handshakes", fleet::Options { tls: tls.clone(), resumes: false }),
            ("over TLS, sessions resumed", fleet::Options { tls, resumes: true }),
        ];
        let storms = ways
            .iter()
            .map(|(name, options)| {
                let serve = ServeOptions { tls: options.tls.clone(), obeys: true, ..ServeOptions::default() };
                let server = Server::start(Kind::Heartwire, &serve)?;
                let fleet = fleet::start(&server, count, options)?;
                Ok((*name, server, fleet))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut storms: Vec<_> = storms.into_iter().map(std::cell::RefCell::new).collect();
        let mut failure = None;
        interleave(self.common, &storms, |round, storm| {
            let (name, server, fleet) = &mut *storm.borrow_mut();
            let before = procfs::processor(server.process.pid());
            let began = Instant::now();
            match server.process.tell("close").and_then(|()| fleet::await_all(fleet)) {
                Ok(()) => {
                    let time = began.elapsed();
                    let processor = procfs::processor(server.process.pid()) - before;
                    let processor = processor.as_nanos() as f64 / 1e3 / count as f64;
                    report.add(STORM, &cell, name, less("all back after", "ms"), time.as_secs_f64() * 1e3);
                    report.add(STORM, &cell, name, less("server", "µs/connection"), processor);
                    self.common.progress(STORM, &cell, round, &format!("{name}: {time:.1?}"));
                }
                Err(error) => failure = Some(error),
            }
        });
        storms.clear();
        failure.map_or(Ok(()), Err)
    }
}

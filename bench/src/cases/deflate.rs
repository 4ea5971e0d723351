//! Compression (permessage-deflate): state pages in JSON echoed and sent to many, what idle connections cost, and when
//! compressing pays.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::footprint::Footprint;
use super::interleave;
use crate::answers::Seen;
use crate::audience::{self, Fanout};
use crate::cli::Common;
use crate::load::{self, Load, PageLoad};
use crate::pages::{BARE, Pages, WITHOUT_TAKEOVER, Work};
use crate::process::Server;
use crate::procfs::Usage;
use crate::report::{Figure, Report, less, more};
use crate::server::{Deflation, Kind, ServeOptions};
use crate::{crowd, interrupt};

pub(crate) const ECHO: &str = "state pages echoed";
pub(crate) const BROADCAST: &str = "state pages to all";
pub(crate) const IDLE: &str = "idle after a state page echoed";
pub(crate) const WORK: &str = "compressing a state page, on one processor";
pub(crate) const LINE: &str = "until a state page is there, over a line that is slower than the machine";

const UNCOMPRESSED: &str = "heartwire, uncompressed";
/// What ratios are told to.
pub(crate) const REFERENCES: [&str; 3] = [UNCOMPRESSED, "ws (Node)", PYTHON];
const PYTHON: &str = "websockets (Python)";

const SERVERS: [Kind; 3] = [Kind::Heartwire, Kind::NodeWs, Kind::Websockets];

const LEVELS: [Deflation; 3] = [Deflation::Level(4), Deflation::Level(6), Deflation::Defaults];
const BROADCAST_LEVELS: [Deflation; 2] = [Deflation::Level(4), Deflation::Defaults];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Echo,
    Broadcast,
    Idle,
    Pays,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Only these parts (names with commas between them).
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Sizes of pages, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [2_000, 20_000, 200_000])]
    sizes: Vec<usize>,
    /// How to compress: levels of zlib, each message by itself, and `defaults` of each library.
    #[arg(long, value_delimiter = ',', default_values_t = LEVELS)]
    levels: Vec<Deflation>,
    /// The same for broadcasts.
    #[arg(long, value_delimiter = ',', default_values_t = BROADCAST_LEVELS)]
    broadcast_levels: Vec<Deflation>,
    /// Connections with echoes, one message under way on each.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Receivers of broadcasts.
    #[arg(long, default_value_t = 1000)]
    receivers: usize,
    /// Broadcasts under way while the rate is measured.
    #[arg(long, default_value_t = 4)]
    window: usize,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Hold the idle connections for so many seconds more, for a look at the processes.
    #[arg(long, default_value_t = 0)]
    hold: u64,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    for kind in SERVERS {
        let is_wanted = common.servers.is_empty() || common.servers.contains(&kind);
        if let Some(reason) = kind.missing().filter(|_| is_wanted) {
            eprintln!("== {} is left out: {reason}", kind.name());
        }
    }
    let case = Case { common, options };
    let wants = |part| (options.parts.is_empty() || options.parts.contains(&part)) && !interrupt::is_set();
    for &size in &options.sizes {
        let pages = Arc::new(Pages::new(size)?);
        if wants(Part::Echo) {
            for &deflation in &options.levels {
                case.echo(&pages, deflation, report)?;
            }
        }
        if wants(Part::Broadcast) {
            for &deflation in &options.broadcast_levels {
                case.broadcast(&pages, deflation, report);
            }
        }
    }
    if wants(Part::Idle) && common.wants(Kind::Heartwire) {
        case.idle(report)?;
    }
    if wants(Part::Pays) {
        case.pays(report)?;
    }
    Ok(())
}

/// Who is measured, and how it compresses.
#[derive(Debug, Clone, Copy)]
struct Contender {
    kind: Kind,
    deflation: Option<Deflation>,
}

impl Contender {
    fn name(self) -> &'static str {
        match self.kind {
            Kind::Heartwire if self.deflation.is_none() => UNCOMPRESSED,
            Kind::Websockets => PYTHON,
            kind => kind.name(),
        }
    }

    /// With the libraries' defaults the server decides.
    fn load(self, pages: &Arc<Pages>) -> PageLoad {
        let offer = self.deflation.map(|deflation| match deflation {
            Deflation::Level(_) => WITHOUT_TAKEOVER,
            Deflation::Defaults => BARE,
        });
        PageLoad { pages: Arc::clone(pages), offer }
    }

    fn serve(self, broadcast: bool) -> ServeOptions {
        ServeOptions { broadcast, deflate: self.deflation, ..ServeOptions::default() }
    }
}

struct Case<'a> {
    common: &'a Common,
    options: &'a Options,
}

impl Case<'_> {
    /// heartwire without compression comes first.
    fn contenders(&self, deflation: Deflation) -> Vec<Contender> {
        let wanted = SERVERS.into_iter().filter(|kind| self.common.wants(*kind));
        let plain = self.common.wants(Kind::Heartwire).then_some((Kind::Heartwire, None));
        plain
            .into_iter()
            .chain(wanted.map(|kind| (kind, Some(deflation))))
            .map(|(kind, deflation)| Contender { kind, deflation })
            .collect()
    }

    /// The servers are started for each cell, so that their memory is of this one.
    fn echo(&self, pages: &Arc<Pages>, deflation: Deflation, report: &mut Report) -> io::Result<()> {
        let (connections, rate) = (self.options.connections, more("messages", "/s"));
        let cell = format!("{} on {connections} connections, {}", told(pages), named(deflation));
        let servers = self
            .contenders(deflation)
            .into_iter()
            .map(|contender| Ok((contender, Server::start(contender.kind, &contender.serve(false))?)))
            .collect::<io::Result<Vec<_>>>()?;
        interleave(self.common, &servers, |round, (contender, server)| {
            let name = contender.name();
            let load = Load { connections, pages: Some(contender.load(pages)), ..self.common.load() };
            let told = match load::run(server, &load) {
                Ok(Some(outcome)) => {
                    report.add(ECHO, &cell, name, rate, outcome.rate);
                    let quantile = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
                    report.add(ECHO, &cell, name, less("p50", "µs"), quantile(0.5));
                    report.add(ECHO, &cell, name, less("p99", "µs"), quantile(0.99));
                    let processors = [outcome.processor, outcome.own_processor];
                    record(report, (ECHO, &cell, name), "µs/message", processors, outcome.seen, outcome.usage);
                    format!("{:.0} messages/s", outcome.rate)
                }
                Ok(None) => return,
                Err(error) => {
                    report.add(ECHO, &cell, name, rate, f64::NAN);
                    error.to_string()
                }
            };
            self.common.progress(ECHO, &cell, round, &format!("{name}: {told}"));
        });
        Ok(())
    }

    fn broadcast(&self, pages: &Arc<Pages>, deflation: Deflation, report: &mut Report) {
        let (receivers, rate) = (self.options.receivers, more("deliveries", "/s"));
        let cell = format!("{} to {receivers}, {}", told(pages), named(deflation));
        interleave(self.common, &self.contenders(deflation), |round, contender| {
            let name = contender.name();
            let fanout = Fanout {
                listeners: receivers,
                deaf: 0,
                payload: 0,
                pages: Some(contender.load(pages)),
                window: self.options.window.max(1),
                threads: self.common.load().threads,
                duration: Duration::from_secs_f64(self.common.seconds),
            };
            let started = Server::start(contender.kind, &contender.serve(true));
            let told = match started.and_then(|server| audience::run(&server, &fanout)) {
                Ok(Some(outcome)) => {
                    report.add(BROADCAST, &cell, name, rate, outcome.rate);
                    let last = outcome.last.value_at_quantile(0.5) as f64 / 1e6;
                    report.add(BROADCAST, &cell, name, less("last has it p50", "ms"), last);
                    let processors = [outcome.processor, outcome.own_processor];
                    record(report, (BROADCAST, &cell, name), "µs/delivery", processors, outcome.seen, outcome.usage);
                    format!("{:.0} deliveries/s", outcome.rate)
                }
                Ok(None) => return,
                Err(error) => {
                    report.add(BROADCAST, &cell, name, rate, f64::NAN);
                    error.to_string()
                }
            };
            self.common.progress(BROADCAST, &cell, round, &format!("{name}: {told}"));
        });
    }

    /// Measured once: memory does not vary from round to round.
    fn idle(&self, report: &mut Report) -> io::Result<()> {
        let (count, page) = (self.options.idle, self.options.sizes.first().copied().unwrap_or(2000));
        let cell = format!("{count} connections, a page of {page} bytes");
        for deflation in [None, Some(Deflation::Defaults)] {
            if interrupt::is_set() {
                break;
            }
            let name = Contender { kind: Kind::Heartwire, deflation }.name();
            let serve = ServeOptions { deflate: deflation, timeout: 10_000, ..ServeOptions::default() };
            let server = Server::start(Kind::Heartwire, &serve)?;
            let empty = Footprint::of(server.process.pid());
            let crowd = crowd::start_reading(&server, count, page, deflation.is_some())?;
            let grown = empty.grown_by(count);
            for (figure, value) in grown {
                report.add(IDLE, &cell, name, figure, value);
            }
            self.common.progress(IDLE, &cell, 1, &format!("{name}: {:.1} KB", grown[0].1));
            interrupt::sleep_until(Instant::now() + Duration::from_secs(self.options.hold));
            drop(crowd);
        }
        Ok(())
    }

    /// The time of compressing and decompressing is measured, on one processor, and that of the line is computed.
    fn pays(&self, report: &mut Report) -> io::Result<()> {
        const AT: [(&str, u32); 4] = [("level 1", 1), ("level 4", 4), ("level 6", 6), ("level 9", 9)];
        const LINES: [(&str, f64); 5] =
            [("1 Mbit/s", 1e6), ("10 Mbit/s", 1e7), ("100 Mbit/s", 1e8), ("1 Gbit/s", 1e9), ("10 Gbit/s", 1e10)];
        let mut sizes = vec![300, 1000];
        sizes.extend(self.options.sizes.iter().filter(|size| **size > 1000));
        for size in sizes {
            let pages = Pages::new(size)?;
            let cell = told(&pages);
            interleave(self.common, &AT, |round, &(name, level)| {
                let duration = Duration::from_secs_f64(self.common.seconds / 4.0);
                let Ok(work) = pages.measure(level, duration) else { return };
                let Work { bytes, compressing, inflating } = work;
                report.add(WORK, &cell, name, less("becomes", "bytes"), bytes);
                report.add(WORK, &cell, name, less("compressing", "µs"), micros(compressing));
                report.add(WORK, &cell, name, less("decompressing", "µs"), micros(inflating));
                for (line, bits) in LINES {
                    let transfer = |bytes: f64| bytes * 8.0 / bits * 1e6;
                    if level == AT[0].1 {
                        report.add(LINE, &cell, line, less("uncompressed", "µs"), transfer(pages.length()));
                    }
                    let whole = micros(compressing) + transfer(bytes) + micros(inflating);
                    report.add(LINE, &cell, line, less(name, "µs"), whole);
                }
                self.common.progress(WORK, &cell, round, &format!("{name}: {:.1} µs", micros(compressing)));
            });
        }
        Ok(())
    }
}

/// What is told of echoes and broadcasts alike.
fn record(
    report: &mut Report,
    (case, cell, name): (&'static str, &str, &str),
    unit: &'static str,
    [server, load]: [Duration; 2],
    seen: Seen,
    usage: Usage,
) {
    let messages = seen.messages.max(1) as f64;
    let figures: [(Figure, f64); 6] = [
        (less("on the wire", "bytes"), seen.bytes as f64 / messages),
        (more("compressed", "%"), seen.compressed as f64 / messages * 100.0),
        (less("server", unit), micros(server)),
        (less("load", unit), micros(load)),
        (less("resident", "MB"), usage.resident / 1e6),
        (less("at most", "MB"), usage.peak / 1e6),
    ];
    for (figure, value) in figures {
        report.add(case, cell, name, figure, value);
    }
}

fn told(pages: &Pages) -> String {
    format!("{:.0} bytes", pages.length())
}

fn named(deflation: Deflation) -> String {
    match deflation {
        Deflation::Level(level) => format!("level {level}"),
        Deflation::Defaults => "the libraries' defaults".into(),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

//! Isolation: a few connections are rude, and the round trips of all the others are what is measured.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::interleave;
use crate::cli::Common;
use crate::paced::{self, Pace};
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::rude::{Deeds, Gang, Rudeness};
use crate::server::{Calls, Kind, ServeOptions};
use crate::{interrupt, procfs};

pub(crate) const CASE: &str = "isolation";
const P99: Figure = less("p99", "ms");
const TIMES: Figure = less("of its own with none", "times");
const QUANTILES: [(Figure, f64); 2] = [(less("p50", "ms"), 0.5), (less("p99.9", "ms"), 0.999)];
const DEATHS: Figure = less("false deaths", "");
const RUDE_DEATHS: Figure = less("of the rude", "");
const WRONG: Figure = less("wrong answers", "");
const DUE: Figure = more("due", "");
const ANSWERED: Figure = more("answered", "");
const LATE: Figure = less("p99 of the load's delay", "ms");
const BUSY: Figure = less("machine busy", "%");
const OTHERS: Figure = less("by other programs", "%");
const DONE: Figure = more("rude deeds", "/s");
const FAILED: Figure = less("failed rounds", "");

/// A server, and where it calls its handler.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Contender {
    kind: Kind,
    calls: Calls,
    name: &'static str,
}

const fn contender(kind: Kind, calls: Calls, name: &'static str) -> Contender {
    Contender { kind, calls, name }
}

const CONTENDERS: [Contender; 6] = [
    contender(Kind::Bare, Calls::InPlace, "threads, bare TCP"),
    contender(Kind::Heartwire, Calls::InPlace, "heartwire"),
    contender(Kind::TokioTungstenite, Calls::InPlace, "tokio-tungstenite, in the task"),
    contender(Kind::TokioTungstenite, Calls::Offloaded, "tokio-tungstenite, spawn_blocking"),
    contender(Kind::ActixWs, Calls::InPlace, "actix-ws, in the task"),
    contender(Kind::ActixWs, Calls::Offloaded, "actix-ws, web::block"),
];

/// What the rude connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// The same as all others.
    None,
    /// Their handler sleeps.
    Blocks,
    /// Their handler computes.
    Computes,
    /// They send and never read.
    NeverReads,
    /// They flood the server with Pings.
    Pings,
    /// They send the request of their opening handshake byte by byte.
    Handshakes,
    /// The same, and there are many of them.
    ManyHandshakes,
}

impl Row {
    /// Whether there is something to measure. Where the handler has nothing to do, all ways to call it are one, and
    /// plain TCP has neither Pings nor opening handshakes.
    fn concerns(self, contender: Contender) -> bool {
        match self {
            Self::None | Self::Blocks | Self::Computes => true,
            Self::NeverReads => contender.calls == Calls::InPlace,
            Self::Pings | Self::Handshakes | Self::ManyHandshakes => {
                contender.calls == Calls::InPlace && contender.kind.is_websocket()
            }
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Connections in all.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// How many of them are rude.
    #[arg(long, default_value_t = 2)]
    rude: usize,
    /// Messages of 20 bytes a second on each of the others.
    #[arg(long, default_value_t = 100)]
    rate: usize,
    /// Seconds for which each server is watched: more than the heartbeat needs to end somebody.
    #[arg(long, default_value_t = 1.25)]
    watch: f64,
    /// Only these rows (names with commas between them); `none` belongs to each.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Milliseconds for which a blocking handler sleeps for each message; the next is sent when it has answered.
    #[arg(long, default_value_t = 200)]
    block: u64,
    /// Milliseconds of processor time that a computing handler takes for each message.
    #[arg(long, default_value_t = 20)]
    compute: u64,
    /// Milliseconds from one message to a computing handler to the next.
    #[arg(long, default_value_t = 80)]
    every: u64,
    /// Pings a second from each who floods.
    #[arg(long, default_value_t = 20_000)]
    pings: usize,
    /// Milliseconds from one byte of a slow handshake to the next.
    #[arg(long, default_value_t = 20)]
    byte: u64,
    /// Slow handshakes where there are many.
    #[arg(long, default_value_t = 100)]
    handshakes: usize,
    /// Repeat what was measured while other programs took more than this percentage of the machine, and keep the
    /// calmest.
    #[arg(long, default_value_t = 100.0)]
    calm: f64,
    /// How often it is repeated at most.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// The heartbeat's interval in milliseconds.
    #[arg(long, default_value_t = 200)]
    interval: u64,
    /// The heartbeat's timeout in milliseconds.
    #[arg(long, default_value_t = 200)]
    timeout: u64,
    /// Misses allowed.
    #[arg(long, default_value_t = 3)]
    max_missed: u32,
}

impl Options {
    fn wants(&self, row: Row) -> bool {
        row == Row::None || self.rows.is_empty() || self.rows.contains(&row)
    }

    /// How many are rude, and what they do.
    fn rudeness(&self, row: Row) -> (usize, Rudeness) {
        let asks = |what: String, every: Duration| Rudeness::Asks { what, every };
        let creeps = Rudeness::Creeps { every: Duration::from_millis(self.byte) };
        match row {
            Row::None => (self.rude, asks("nothing".into(), Duration::from_secs(1) / self.rate.max(1) as u32)),
            Row::Blocks => (self.rude, asks(format!("block {}", self.block), Duration::ZERO)),
            Row::Computes => (self.rude, asks(format!("compute {}", self.compute), Duration::from_millis(self.every))),
            Row::NeverReads => (self.rude, Rudeness::NeverReads),
            Row::Pings => (self.rude, Rudeness::Pings { per_second: self.pings }),
            Row::Handshakes => (self.rude, creeps),
            Row::ManyHandshakes => (self.handshakes, creeps),
        }
    }

    /// What the table says of a row.
    fn cell(&self, row: Row) -> String {
        let Self { connections, rude, block, compute, every, pings, byte, handshakes, .. } = self;
        let some = format!("{rude} of {connections}");
        match row {
            Row::None => format!("none of {connections} is rude"),
            Row::Blocks => format!("{some} handlers block for {block} ms, again and again"),
            Row::Computes => {
                let duty = *compute as f64 / (*every).max(1) as f64 * 100.0;
                format!("{some} handlers compute for {compute} ms every {every} ms, {duty:.0} % of a core each")
            }
            Row::NeverReads => format!("{some} peers send 1 KiB messages without end and never read"),
            Row::Pings => format!("{some} peers send {pings} Pings/s each"),
            Row::Handshakes => format!("{some} are in their opening handshake, a byte every {byte} ms"),
            Row::ManyHandshakes => format!("{handshakes} more are in their opening handshake, a byte every {byte} ms"),
        }
    }

    fn serve(&self, calls: Calls) -> ServeOptions {
        ServeOptions {
            handler: Some(calls),
            interval: Some(self.interval),
            timeout: self.timeout,
            max_missed: self.max_missed,
            ..ServeOptions::default()
        }
    }
}

/// One measurement.
#[derive(Debug)]
struct Outcome {
    polite: paced::Outcome,
    rude: Deeds,
    /// How long the rude had been at it.
    lasted: Duration,
    /// Of all cores, by server and load.
    busy: f64,
    /// Of all cores, by other programs.
    others: f64,
}

impl Outcome {
    fn quantile(&self, quantile: f64) -> f64 {
        self.polite.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// What a contender did in a row, by round. One that failed is `None`.
type Rounds = Vec<Option<Outcome>>;

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let rows = Row::value_variants().iter().copied().filter(|row| options.wants(*row));
    let contenders: Vec<Contender> = CONTENDERS.into_iter().filter(|contender| common.wants(contender.kind)).collect();
    let pairs: Vec<(Row, Contender)> = rows
        .flat_map(|row| contenders.iter().map(move |contender| (row, *contender)))
        .filter(|(row, contender)| row.concerns(*contender))
        .collect();
    let mut measured: Vec<Rounds> = pairs.iter().map(|_| Vec::new()).collect();
    let numbered: Vec<usize> = (0..pairs.len()).collect();
    interleave(common, &numbered, |round, &number| {
        let (row, contender) = pairs[number];
        let result = measure_calmly(options, row, contender);
        if interrupt::is_set() {
            return;
        }
        let what = match &result {
            Ok(outcome) => format!("p99 {:.2} ms", outcome.quantile(0.99)),
            Err(error) => error.to_string(),
        };
        common.progress(CASE, &options.cell(row), round, &format!("{}: {what}", contender.name));
        measured[number].push(result.ok());
    });
    for ((row, contender), rounds) in pairs.iter().zip(&measured) {
        let own = pairs.iter().position(|pair| *pair == (Row::None, *contender)).map(|number| &measured[number]);
        record(report, &options.cell(*row), contender.name, rounds, own.unwrap_or(rounds));
    }
    Ok(())
}

/// Other programs take the processor from whoever needs it first, for as long as a slice of time lasts: a few of them
/// are all that a p99 tells.
fn measure_calmly(options: &Options, row: Row, contender: Contender) -> io::Result<Outcome> {
    let mut calmest = measure(options, row, contender)?;
    for _ in 0..options.repeats {
        if calmest.others * 100.0 <= options.calm || interrupt::is_set() {
            break;
        }
        let again = measure(options, row, contender)?;
        if again.others < calmest.others {
            calmest = again;
        }
    }
    Ok(calmest)
}

fn measure(options: &Options, row: Row, contender: Contender) -> io::Result<Outcome> {
    // A fresh server each time: what was done to it is over with it.
    let server = Server::start(contender.kind, &options.serve(contender.calls))?;
    let address = server.address;
    let dialect = server.dialect(false);
    let polite = paced::open(address, dialect, options.connections.saturating_sub(options.rude).max(1))?;
    let gap = Duration::from_secs(1) / (polite.len() * options.rate.max(1)) as u32;
    let (peers, rudeness) = options.rudeness(row);
    let gang = Gang::new(address, dialect, peers, &rudeness);
    thread::scope(|scope| {
        let misbehaving = scope.spawn(|| gang.run());
        gang.connected.wait();
        let began = Instant::now();
        let from = began + Duration::from_millis(250);
        let until = from + Duration::from_secs_f64(options.watch);
        let pace = Pace { gap, from, until, patience: Duration::from_secs(2) };
        let load = scope.spawn(move || paced::run(polite, pace));
        let pids = [server.process.pid(), std::process::id()];
        let processor = || pids.map(procfs::processor).iter().sum::<Duration>();
        interrupt::sleep_until(from);
        let before = (processor(), procfs::processor_of_all());
        interrupt::sleep_until(until);
        let used = processor().saturating_sub(before.0);
        let used_by_all = procfs::processor_of_all().saturating_sub(before.1);
        let polite = load.join().map_err(|_| io::Error::other("the load panicked"));
        gang.is_over.store(true, SeqCst);
        let lasted = began.elapsed();
        let rude = misbehaving.join().map_err(|_| io::Error::other("a rude peer panicked"))??;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let share = |used: Duration| used.as_secs_f64() / options.watch / cores as f64;
        let (busy, others) = (share(used), share(used_by_all.saturating_sub(used)));
        Ok(Outcome { polite: polite??, rude, lasted, busy, others })
    })
}

/// Quantiles are told by round, and what is counted as the sum of all rounds: a median would hide what happened once.
fn record(report: &mut Report, cell: &str, name: &str, rounds: &Rounds, own: &Rounds) {
    let by_round = |value: &dyn Fn(&Outcome) -> f64| -> Vec<f64> {
        rounds.iter().map(|outcome| outcome.as_ref().map_or(f64::NAN, value)).collect()
    };
    let p99 = by_round(&|outcome| outcome.quantile(0.99));
    let times = p99.iter().zip(own).map(|(p99, own)| p99 / own.as_ref().map_or(f64::NAN, |own| own.quantile(0.99)));
    let mut series = vec![(P99, p99.clone()), (TIMES, times.collect())];
    series.extend(QUANTILES.map(|(figure, quantile)| (figure, by_round(&|outcome| outcome.quantile(quantile)))));
    let sum = |of: fn(&Outcome) -> u64| vec![rounds.iter().flatten().map(of).sum::<u64>() as f64];
    series.extend([
        (DEATHS, sum(|outcome| outcome.polite.ended as u64)),
        (RUDE_DEATHS, sum(|outcome| outcome.rude.ended as u64)),
        (WRONG, sum(|outcome| (outcome.polite.wrong + outcome.rude.wrong) as u64)),
        (DUE, sum(|outcome| outcome.polite.due)),
        (ANSWERED, sum(|outcome| outcome.polite.answered)),
        (LATE, by_round(&|outcome| outcome.polite.late.value_at_quantile(0.99) as f64 / 1e6)),
        (BUSY, by_round(&|outcome| outcome.busy * 100.0)),
        (OTHERS, by_round(&|outcome| outcome.others * 100.0)),
        (FAILED, vec![rounds.iter().filter(|outcome| outcome.is_none()).count() as f64]),
        (DONE, by_round(&|outcome| outcome.rude.done as f64 / outcome.lasted.as_secs_f64())),
    ]);
    for (figure, values) in series {
        values.into_iter().for_each(|value| report.add(CASE, cell, name, figure, value));
    }
}

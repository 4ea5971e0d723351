//! Two nodes that share their topics by Redis: messages from one to the subscribers of the other, the way between,
//! subscribers that come back to either, and what becomes of messages when something befalls Redis.

mod cluster;
mod faults;
mod page;
mod tally;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use super::measured::{Measured, Rounds, deliveries};
use crate::cli::Common;
use crate::interrupt;
use crate::machine::Machine;
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions, redis};
use crate::topics::TOPIC;
use crate::topics::board::Board;
use crate::topics::crowd::Crowd;
use crate::topics::dialect::Memory;
use crate::topics::publisher::Publisher;
use crate::topics::watch::{Record, Watch};

use cluster::Cluster;
use faults::Fault;

const CASE: &str = "nodes";

const SERVERS: [Kind; 4] = [Kind::HeartwireTopics, Kind::Nchan, Kind::SocketIoRedis, Kind::SocketIoStreams];

/// What ratios are told to.
pub(crate) const REFERENCES: [&str; 3] = ["nchan, 1 worker", "socket.io, Redis adapter", "socket.io, streams adapter"];

/// The cell of lone messages.
const LONE: &str = "a lone message of 20 bytes from A";

fn deliveries_cell(subscribers: usize) -> String {
    format!("20 bytes from A to {subscribers} subscribers at B")
}

fn recovery_cell(options: &Options) -> String {
    format!("{} cut off at B come back at once, {} messages missed", options.crowd, options.missed)
}

/// How long anything may take.
const TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Deliveries,
    Hop,
    Recovery,
    Faults,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Only these parts (names with commas between them).
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Numbers of subscribers at the other node.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    subscribers: Vec<usize>,
    /// Messages under way while deliveries are measured.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Messages that are sent one by one.
    #[arg(long, default_value_t = 200)]
    messages: u64,
    /// Subscribers that come back to each node.
    #[arg(long, default_value_t = 100)]
    crowd: usize,
    /// Messages that they have missed then.
    #[arg(long, default_value_t = 100)]
    missed: u64,
    /// How often each fault of Redis is measured.
    #[arg(long, default_value_t = 1)]
    fault_rounds: usize,
    /// Only these faults (names with commas between them).
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Messages a second, published at one node, while something befalls Redis.
    #[arg(long, default_value_t = 100)]
    pace: u32,
    /// For how many seconds they are published after that is over.
    #[arg(long, default_value_t = 6)]
    after: u64,
    /// Subscribers at each node meanwhile.
    #[arg(long, default_value_t = 10)]
    witnesses: usize,
    /// When Redis writes its log to disk: always, everysec or no.
    #[arg(long, default_value = "always")]
    fsync: String,
    /// Write the tables into this Markdown file, between `<!-- nodes -->` and `<!-- /nodes -->`.
    #[arg(long)]
    into: Option<PathBuf>,
}

#[cfg(test)]
impl Options {
    /// As they are by default.
    fn sample() -> Self {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        <Line as clap::Parser>::parse_from([""]).options
    }
}

pub(crate) fn run(common: &Common, options: &Options, machine: &Machine, report: &mut Report) -> io::Result<()> {
    if let Some(reason) = redis::missing() {
        eprintln!("== nodes are left out: {reason}");
        return Ok(());
    }
    for kind in SERVERS {
        let is_wanted = common.servers.is_empty() || common.servers.contains(&kind);
        if let Some(reason) = kind.missing().filter(|_| is_wanted) {
            eprintln!("== {} is left out: {reason}", kind.name());
        }
    }
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut case = Case { common, options, report };
    if wants(Part::Deliveries) {
        for &subscribers in &options.subscribers {
            case.measure(&deliveries_cell(subscribers), more("deliveries", "/s"), |case, kind| {
                case.deliveries(kind, subscribers)
            });
        }
    }
    if wants(Part::Hop) {
        case.measure(LONE, less("at B, p50", "ms"), Case::hop);
    }
    if wants(Part::Recovery) {
        case.measure(&recovery_cell(options), less("at A: the last has all", "ms"), Case::recovery);
    }
    if wants(Part::Faults) {
        faults::run(common, options, case.report);
    }
    match &options.into {
        // Not by what was measured in part.
        Some(path) if !interrupt::is_set() => page::write_into(path, machine, common, options, report),
        _ => Ok(()),
    }
}

struct Case<'a> {
    common: &'a Common,
    options: &'a Options,
    report: &'a mut Report,
}

impl Case<'_> {
    /// Measures all servers, round by round, each in fresh processes.
    fn measure(&mut self, cell: &str, first: Figure, mut measure: impl FnMut(&Self, Kind) -> io::Result<Measured>) {
        let rounds = Rounds { case: CASE, cell, first };
        // Taken out, for the measurement sees the rest.
        let mut report = std::mem::take(self.report);
        rounds.measure(self.common, &wanted(self.common), &mut report, Kind::name, |kind| measure(self, kind));
        *self.report = report;
    }

    fn deliveries(&self, kind: Kind, subscribers: usize) -> io::Result<Measured> {
        let cluster = Cluster::start(kind, &self.options.fsync)?;
        let window = self.options.window.clamp(1, Board::WINDOW);
        // As many connections, so that none of these messages waits for the answer to another.
        let mut publisher = cluster.publisher(window)?;
        let crowd = Crowd::gather(&cluster.b, subscribers, self.common.load().threads, publisher.waker())?;
        publisher.await_subscribed(&crowd.board)?;
        let names = ["servers and Redis µs/delivery", "load µs/delivery"];
        let measured = deliveries(self.common, &mut publisher, crowd, subscribers, window, names)?;
        cluster.finish()?;
        Ok(measured)
    }

    /// How long a lone message takes to a subscriber of its node, and of the other; and where there is one node only,
    /// without Redis.
    fn hop(&self, kind: Kind) -> io::Result<Measured> {
        let cluster = Cluster::start(kind, &self.options.fsync)?;
        let mut publisher = cluster.publisher(1)?;
        let at_a = self.lone(&cluster.a, &mut publisher)?;
        let at_b = self.lone(&cluster.b, &mut publisher)?;
        cluster.finish()?;
        let single = Server::start(alone(kind), &ServeOptions::default())?;
        let mut publisher = Publisher::open(&single, 1)?;
        let by_itself = self.lone(&single, &mut publisher)?;
        single.process.finish()?;

        let ms = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e6;
        let others = vec![
            (less("at B, p99", "ms"), ms(&at_b, 0.99)),
            (less("at A, p50", "ms"), ms(&at_a, 0.5)),
            (less("at A, p99", "ms"), ms(&at_a, 0.99)),
            (less("the hop, p50", "ms"), ms(&at_b, 0.5) - ms(&at_a, 0.5)),
            (less("the hop, p99", "ms"), ms(&at_b, 0.99) - ms(&at_a, 0.99)),
            (less("without Redis, p50", "ms"), ms(&by_itself, 0.5)),
            (less("without Redis, p99", "ms"), ms(&by_itself, 0.99)),
        ];
        Ok(Measured { first: ms(&at_b, 0.5), others })
    }

    /// Nanoseconds from publishing until the one subscriber at this node has it.
    fn lone(&self, node: &Server, publisher: &mut Publisher) -> io::Result<Histogram<u64>> {
        let crowd = Crowd::gather(node, 1, 1, publisher.waker())?;
        publisher.await_subscribed(&crowd.board)?;
        let times = publisher.one_by_one(&crowd.board, self.options.messages);
        drop(crowd.stop());
        times
    }

    /// Subscribers of B get a message, are cut off, and come back when others were published: half to A, then the rest
    /// to B.
    fn recovery(&self, kind: Kind) -> io::Result<Measured> {
        let (count, missed) = (self.options.crowd, self.options.missed.max(1));
        let cluster = Cluster::start(kind, &self.options.fsync)?;
        let mut publisher = cluster.publisher(1)?;
        let nobody = Board::new(0, publisher.waker());
        let published = |number| (TOPIC.to_owned(), number);
        let watch = Watch::start(&cluster.b, vec![Memory::default(); 2 * count], 1)?;
        watch.await_subscribed(Instant::now() + TIME)?;
        interrupt::sleep_until(Instant::now() + Duration::from_millis(300));
        publisher.publish_all(&nobody, std::iter::once(published(0)))?;
        watch.await_settled(Instant::now() + TIME)?;
        let mut left = watch.stop()?;
        // For the server to notice.
        interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
        publisher.publish_all(&nobody, (1..=missed).map(published))?;
        let right = left.split_off(count);
        let at_a = self.come_back(&cluster.a, left, missed)?;
        let at_b = self.come_back(&cluster.b, right, missed)?;
        cluster.finish()?;
        let others = vec![
            (less("at B: the last has all", "ms"), at_b.took),
            (more("got all at A", ""), at_a.got_all),
            (more("got all at B", ""), at_b.got_all),
            (less("told of a loss at A", ""), at_a.told),
            (less("told of a loss at B", ""), at_b.told),
        ];
        Ok(Measured { first: at_a.took, others })
    }

    fn come_back(&self, node: &Server, left: Vec<Record>, missed: u64) -> io::Result<Return> {
        let memories = left.into_iter().map(|record| record.memory).collect();
        let begin = Instant::now();
        let watch = Watch::start(node, memories, missed)?;
        // Whoever has not got all by then has lost something, and silently.
        let settled = watch.await_settled(begin + TIME / 3);
        let records = watch.stop()?;
        let has_all = |record: &&Record| (1..=missed).eq(record.arrivals.iter().map(|(number, _)| *number));
        let got_all = records.iter().filter(has_all).count();
        let last = records.iter().flat_map(|record| record.arrivals.last()).map(|(_, at)| *at).max();
        let took = last.filter(|_| settled.is_ok() && got_all == records.len());
        Ok(Return {
            took: took.map_or(f64::NAN, |last| (last - begin).as_secs_f64() * 1000.0),
            got_all: got_all as f64,
            told: records.iter().filter(|record| !record.told.is_empty()).count() as f64,
        })
    }
}

/// How it went for those who came back to a node.
struct Return {
    /// Milliseconds until the last had all. Not a number if not all got all.
    took: f64,
    got_all: f64,
    told: f64,
}

fn wanted(common: &Common) -> Vec<Kind> {
    SERVERS.into_iter().filter(|kind| common.wants(*kind)).collect()
}

/// The server that is one node and knows of no other.
fn alone(kind: Kind) -> Kind {
    match kind {
        Kind::SocketIoRedis | Kind::SocketIoStreams => Kind::SocketIo,
        kind => kind,
    }
}

//! Topics: messages to many subscribers, publishing by HTTP, memory, and subscribers that come back.

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::measured::{Measured, Rounds, deliveries};
use crate::cli::Common;
use crate::interrupt;
use crate::process::Server;
use crate::procfs;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};
use crate::topics::TOPIC;
use crate::topics::board::Board;
use crate::topics::crowd::{Crowd, Member};
use crate::topics::publisher::Publisher;

pub(crate) const CASE: &str = "topics";

/// What ratios are told to.
pub(crate) const REFERENCES: [&str; 3] = ["nchan, 1 worker", "nchan, auto", "socket.io"];

const SERVERS: [Kind; 5] = [Kind::HeartwireTopics, Kind::Nchan, Kind::NchanAuto, Kind::SocketIo, Kind::Heartwire];

/// heartwire without topics: a message to all connections. What topics can be compared with, where it can do the same.
const WITHOUT_TOPICS: &str = "heartwire, broadcast";

/// Publishers that fill topics.
const PUBLISHERS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Deliveries,
    Lone,
    Publishes,
    Memory,
    Recovery,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Only these parts (names with commas between them).
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Numbers of subscribers.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    subscribers: Vec<usize>,
    /// Messages under way while deliveries are measured.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Messages that are sent one by one.
    #[arg(long, default_value_t = 200)]
    messages: u64,
    /// Numbers of connections that publish by HTTP.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    publishers: Vec<usize>,
    /// Topics whose memory is measured; heartwire has 10,000 at most.
    #[arg(long, default_value_t = 9_900)]
    topics: usize,
    /// Subscribers whose memory is measured, and who come back.
    #[arg(long, default_value_t = 1000)]
    crowd: usize,
    /// Messages that they have missed then.
    #[arg(long, default_value_t = 100)]
    missed: u64,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
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
            let cell = format!("20 bytes to {subscribers} subscribers");
            case.measure(&cell, true, more("deliveries", "/s"), |case, server| case.deliveries(server, subscribers));
        }
    }
    if wants(Part::Lone) {
        for &subscribers in &options.subscribers {
            let cell = format!("a lone message of 20 bytes, until the last of {subscribers} has it");
            case.measure(&cell, true, less("p50", "ms"), |case, server| case.lone(server, subscribers));
        }
    }
    if wants(Part::Publishes) {
        for &publishers in &options.publishers {
            let cell = format!("published by HTTP, {publishers} at a time, 1 subscriber");
            case.measure(&cell, false, more("messages", "/s"), |case, server| case.publishes(server, publishers));
        }
    }
    if wants(Part::Memory) {
        let cell = format!("{} topics with a message of 20 bytes each", options.topics);
        case.measure(&cell, false, less("resident", "KB/topic"), Case::memory_of_topics);
        let cell = format!("{} idle subscribers", options.crowd);
        case.measure(&cell, true, less("resident", "KB/subscriber"), Case::memory_of_subscribers);
    }
    if wants(Part::Recovery) {
        let cell = format!("{} come back at once, {} messages missed", options.crowd, options.missed);
        case.measure(&cell, false, less("the last has all", "ms"), Case::recovery);
    }
    Ok(())
}

struct Case<'a> {
    common: &'a Common,
    options: &'a Options,
    report: &'a mut Report,
}

impl Case<'_> {
    /// Measures all servers, round by round, each in a fresh process.
    fn measure(
        &mut self,
        cell: &str,
        without_topics: bool,
        first: Figure,
        mut measure: impl FnMut(&Self, &Server) -> io::Result<Measured>,
    ) {
        let is_wanted = |kind: &Kind| self.common.wants(*kind) && (without_topics || *kind != Kind::Heartwire);
        let wanted: Vec<Kind> = SERVERS.into_iter().filter(is_wanted).collect();
        let rounds = Rounds { case: CASE, cell, first };
        let name = |kind: Kind| if kind == Kind::Heartwire { WITHOUT_TOPICS } else { kind.name() };
        // Taken out, for the measurement sees the rest.
        let mut report = std::mem::take(self.report);
        rounds.measure(self.common, &wanted, &mut report, name, |kind| {
            let serve = ServeOptions { broadcast: kind == Kind::Heartwire, ..ServeOptions::default() };
            Server::start(kind, &serve).and_then(|server| {
                let measured = measure(self, &server);
                server.process.finish()?;
                measured
            })
        });
        *self.report = report;
    }

    fn gather(&self, server: &Server, count: usize, publisher: &mut Publisher) -> io::Result<Crowd> {
        let crowd = Crowd::gather(server, count, self.common.load().threads, publisher.waker())?;
        publisher.await_subscribed(&crowd.board)?;
        Ok(crowd)
    }

    fn deliveries(&self, server: &Server, subscribers: usize) -> io::Result<Measured> {
        let window = self.options.window.clamp(1, Board::WINDOW);
        // As many connections, so that none of these messages waits for the answer to another.
        self.paced(server, window, subscribers, window, ["server µs/delivery", "load µs/delivery"])
    }

    fn publishes(&self, server: &Server, publishers: usize) -> io::Result<Measured> {
        self.paced(server, publishers, 1, Board::WINDOW, ["server µs/message", "load µs/message"])
    }

    fn paced(
        &self,
        server: &Server,
        publishers: usize,
        subscribers: usize,
        window: usize,
        processors: [&'static str; 2],
    ) -> io::Result<Measured> {
        let mut publisher = Publisher::open(server, publishers)?;
        let crowd = self.gather(server, subscribers, &mut publisher)?;
        deliveries(self.common, &mut publisher, crowd, subscribers, window, processors)
    }

    fn lone(&self, server: &Server, subscribers: usize) -> io::Result<Measured> {
        let mut publisher = Publisher::open(server, 1)?;
        let crowd = self.gather(server, subscribers, &mut publisher)?;
        let last = publisher.one_by_one(&crowd.board, self.options.messages);
        drop(crowd.stop());
        let last = last?;
        let at = |quantile| last.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Measured { first: at(0.5), others: vec![(less("p99", "ms"), at(0.99)), (less("at most", "ms"), at(1.0))] })
    }

    fn memory_of_topics(&self, server: &Server) -> io::Result<Measured> {
        let mut publisher = Publisher::open(server, PUBLISHERS)?;
        let board = Board::new(0, publisher.waker());
        let named = |name: &'static str| move |number: u64| (format!("{name}/{number}"), number);
        // What the first take once is not counted.
        publisher.publish_all(&board, (0..100).map(named("first")))?;
        let empty = self.resident(server);
        publisher.publish_all(&board, (0..self.options.topics as u64).map(named("topic")))?;
        let grown = self.resident(server) - empty;
        let whole = less("in all", "MB");
        Ok(Measured {
            first: grown / self.options.topics as f64 / 1024.0,
            others: vec![(whole, self.resident(server) / 1024.0 / 1024.0)],
        })
    }

    fn memory_of_subscribers(&self, server: &Server) -> io::Result<Measured> {
        let mut publisher = Publisher::open(server, 1)?;
        let empty = self.resident(server);
        let crowd = self.gather(server, self.options.crowd, &mut publisher)?;
        let full = self.resident(server);
        drop(crowd.stop());
        let first = (full - empty) / self.options.crowd as f64 / 1024.0;
        Ok(Measured { first, others: vec![(less("in all", "MB"), full / 1024.0 / 1024.0)] })
    }

    /// Once whatever there was to do is done.
    fn resident(&self, server: &Server) -> f64 {
        interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
        procfs::group(server.process.pid()).resident
    }

    /// All subscribers get a message, are cut off, and come back when others were published.
    fn recovery(&self, server: &Server) -> io::Result<Measured> {
        const TIME: Duration = Duration::from_secs(60);
        let (count, missed) = (self.options.crowd, self.options.missed.clamp(1, 2 * Board::WINDOW as u64));
        let mut publisher = Publisher::open(server, 1)?;
        let crowd = self.gather(server, count, &mut publisher)?;
        let published = |number| (TOPIC.to_owned(), number);
        publisher.publish_all(&crowd.board, std::iter::once(published(0)))?;
        if !publisher.await_complete(&crowd.board, 1, Instant::now() + TIME)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "not all got the first message"));
        }
        let memories: Vec<_> = crowd.stop().into_iter().map(Member::leave).collect();
        // For the server to notice.
        interrupt::sleep_until(Instant::now() + Duration::from_secs(1));
        let nobody = Board::new(0, publisher.waker());
        publisher.publish_all(&nobody, (1..=missed).map(published))?;

        let begin = Instant::now();
        let before = procfs::group(server.process.pid()).processor;
        let crowd = Crowd::again(server, memories, self.common.load().threads, publisher.waker())?;
        let is_complete = publisher.await_complete(&crowd.board, missed, begin + TIME)?;
        let elapsed = crowd.board.completed().saturating_duration_since(begin);
        let processor = procfs::group(server.process.pid()).processor.saturating_sub(before);
        let got_all = crowd.stop().iter().filter(|member| member.taken() == missed).count();
        let first = if is_complete { elapsed.as_secs_f64() * 1000.0 } else { f64::NAN };
        let server = less("server", "ms");
        Ok(Measured {
            first,
            others: vec![(server, processor.as_secs_f64() * 1000.0), (more("got all", ""), got_all as f64)],
        })
    }
}

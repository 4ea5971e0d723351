//! Something befalls Redis while numbered messages are published at A, at a steady pace: what becomes of each, for the
//! subscribers of both nodes.

use std::io;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::cluster::Cluster;
use super::tally::{IN_TIME, Tally};
use super::{CASE, Options, TIME, wanted};
use crate::cli::Common;
use crate::interrupt;
use crate::report::{Figure, Report, less, more};
use crate::server::Kind;
use crate::topics::dialect::Memory;
use crate::topics::steady::{Sent, Steady};
use crate::topics::watch::Watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// Redis is stopped for 5 s, and its connections stay open.
    Pause,
    /// Redis is killed, and runs again after a second.
    Kill,
    /// Redis ends all connections.
    Cut,
}

impl Fault {
    pub(super) const ALL: [Self; 3] = [Self::Pause, Self::Kill, Self::Cut];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pause => "Redis stopped for 5 s",
            Self::Kill => "Redis killed, and run again after 1 s",
            Self::Cut => "all connections cut by CLIENT KILL",
        }
    }

    fn length(self) -> Duration {
        match self {
            Self::Pause => Duration::from_secs(5),
            Self::Kill => Duration::from_secs(1),
            Self::Cut => Duration::ZERO,
        }
    }

    fn inflict(self, cluster: &mut Cluster) -> io::Result<()> {
        let redis = &mut cluster.redis;
        let end = Instant::now() + self.length();
        match self {
            Self::Pause => {
                redis.freeze()?;
                interrupt::sleep_until(end);
                redis.thaw()
            }
            Self::Kill => {
                redis.kill();
                interrupt::sleep_until(end);
                redis.run()
            }
            Self::Cut => match redis.cut_off_all()? {
                0 => Err(io::Error::other("Redis had no connections")),
                _ => Ok(()),
            },
        }
    }
}

/// How long messages are published before something happens.
const BEFORE: Duration = Duration::from_secs(1);

/// Nothing more will come if nothing has come for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What is told of each fault, for each node.
pub(super) const FIGURES: [Figure; 8] = [
    more("in time", ""),
    less("late", ""),
    less("lost, told", ""),
    less("lost silently", ""),
    less("again", ""),
    less("out of order", ""),
    less("the latest after", "s"),
    less("refused", ""),
];

pub(super) fn cell(fault: Fault, node: char) -> String {
    format!("{}, subscribers at {node}", fault.name())
}

pub(super) fn run(common: &Common, options: &Options, report: &mut Report) {
    let common = &common.with_rounds(options.fault_rounds);
    let is_wanted = |fault: &Fault| options.faults.is_empty() || options.faults.contains(fault);
    for fault in Fault::ALL.into_iter().filter(is_wanted) {
        super::super::interleave(common, &wanted(common), |round, kind| {
            let outcome = measure(*kind, fault, options);
            if interrupt::is_set() {
                return;
            }
            let told = match &outcome {
                Ok(outcome) => format!("{:.1} lost silently at B", each(outcome.at_b.lost_silently, options)),
                Err(error) => error.to_string(),
            };
            common.progress(CASE, fault.name(), round, &format!("{}: {told}", kind.name()));
            note(report, fault, *kind, outcome.ok().as_ref(), options);
        });
    }
}

struct Outcome {
    at_a: Tally,
    at_b: Tally,
    /// Messages whose publisher was not told that they are published.
    refused: usize,
}

/// Of each subscriber.
fn each(count: u64, options: &Options) -> f64 {
    count as f64 / options.witnesses as f64
}

fn note(report: &mut Report, fault: Fault, kind: Kind, outcome: Option<&Outcome>, options: &Options) {
    for node in ['B', 'A'] {
        let cell = cell(fault, node);
        let Some(outcome) = outcome else {
            report.add(CASE, &cell, kind.name(), FIGURES[0], f64::NAN);
            continue;
        };
        let tally = if node == 'A' { outcome.at_a } else { outcome.at_b };
        let counts = [tally.in_time, tally.late, tally.lost_told, tally.lost_silently, tally.again, tally.out_of_order];
        let values = counts.map(|count| each(count, options)).into_iter();
        let values = values.chain([tally.latest.as_secs_f64(), outcome.refused as f64]);
        for (figure, value) in FIGURES.into_iter().zip(values) {
            report.add(CASE, &cell, kind.name(), figure, value);
        }
    }
}

fn measure(kind: Kind, fault: Fault, options: &Options) -> io::Result<Outcome> {
    let mut cluster = Cluster::start(kind, &options.fsync)?;
    let interval = Duration::from_secs(1) / options.pace.max(1);
    let length = BEFORE + fault.length() + Duration::from_secs(options.after);
    let count = (length.as_secs_f64() / interval.as_secs_f64()) as u32;
    let come = |node| Watch::start(node, vec![Memory::default(); options.witnesses], u64::from(count));
    let (at_a, at_b) = (come(&cluster.a)?, come(&cluster.b)?);
    for watch in [&at_a, &at_b] {
        watch.await_subscribed(Instant::now() + TIME)?;
    }
    // A client may be through with its handshake a moment before the server counts it in.
    interrupt::sleep_until(Instant::now() + Duration::from_millis(300));

    let publisher = Steady::start(cluster.a.address, interval, count)?;
    interrupt::sleep_until(Instant::now() + BEFORE);
    fault.inflict(&mut cluster)?;
    let sent = publisher.finish()?;
    at_b.await_quiet(QUIET);
    at_a.await_quiet(QUIET);
    let (at_a, at_b) = (at_a.stop()?, at_b.stop()?);
    let refused = sent.iter().filter(|message| message.accepted.is_none()).count();
    let outcome = Outcome { at_a: Tally::of(&sent, &at_a), at_b: Tally::of(&sent, &at_b), refused };
    cluster.finish()?;
    check(&outcome, &sent)?;
    Ok(outcome)
}

/// # Errors
/// The load itself was so late that nothing can be said.
fn check(outcome: &Outcome, sent: &[Sent]) -> io::Result<()> {
    if sent.is_empty() || (outcome.at_a.in_time == 0 && outcome.at_b.in_time == 0) {
        return Err(io::Error::other(format!("no message came within {} ms", IN_TIME.as_millis())));
    }
    Ok(())
}

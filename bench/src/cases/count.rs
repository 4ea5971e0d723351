//! Instructions of the userland path, counted by callgrind: a figure that does not depend on the machine's mood.
//!
//! The server runs under valgrind twice, for a few messages and for many; the difference is what the messages cost.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;

use super::{FEW, MANY, interleave};
use crate::callgrind;
use crate::channel::SCRATCH;
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less};
use crate::requester::Requester;
use crate::server::{Kind, ServeOptions};
use crate::tls::Identity;

pub(crate) const CASE: &str = "instructions in user mode";
const ECHO: &str = "an echo of 20 bytes";
const DELIVERY: &str = "a delivery of a broadcast of 20 bytes";
const INSTRUCTIONS: Figure = less("instructions", "");

const SERVERS: [Kind; 7] = [
    Kind::Bare,
    Kind::Heartwire,
    Kind::Tungstenite,
    Kind::TokioTungstenite,
    Kind::TokioTungstenite4k,
    Kind::Fastwebsockets,
    Kind::ActixWs,
];

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Fail if one of heartwire's echoes takes more.
    #[arg(long)]
    max_echo: Option<f64>,
    /// Fail if one of heartwire's deliveries takes more.
    #[arg(long)]
    max_delivery: Option<f64>,
    /// Print by function where heartwire's instructions go, and those of other servers named by --servers.
    #[arg(long = "where")]
    by_function: bool,
    /// Over TLS: of those servers that have it, an echo only.
    #[arg(long)]
    tls: bool,
}

/// Counts once: the figure hardly varies.
pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    if !callgrind::is_available() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "valgrind is not installed"));
    }
    let mut once = common.clone();
    once.rounds = 1;
    let identity = if options.tls { Some(Identity::make()?) } else { None };
    let tls = identity.as_ref().map(Identity::file);
    let wanted = SERVERS.into_iter().filter(|kind| common.wants(*kind) && (!options.tls || kind.has_tls()));
    let wanted: Vec<Kind> = wanted.collect();
    let mut failure = None;
    interleave(&once, &wanted, |_, &kind| {
        let broadcasts = matches!(kind, Kind::Bare | Kind::Heartwire | Kind::TokioTungstenite);
        for (cell, listeners, limit) in [(ECHO, 0, options.max_echo), (DELIVERY, 10, options.max_delivery)] {
            if listeners > 0 && (!broadcasts || options.tls) {
                continue;
            }
            // A list is long: of others only if they are named.
            let by_function = options.by_function && (kind == Kind::Heartwire || !common.servers.is_empty());
            match difference(kind, tls, listeners, by_function) {
                Ok((count, functions)) => {
                    if by_function {
                        tell_where(cell, kind.name(), count, &functions);
                    }
                    once.progress(CASE, cell, 1, &format!("{}: {count:.0}", kind.name()));
                    report.add(CASE, cell, kind.name(), INSTRUCTIONS, count);
                    if kind == Kind::Heartwire && limit.is_some_and(|limit| count > limit) {
                        failure = Some(io::Error::other(format!("{cell} takes {count:.0} instructions: too many")));
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
    });
    failure.map_or(Ok(()), Err)
}

/// Instructions for one message to each of its receivers, and by function if that is wanted.
fn difference(
    kind: Kind,
    tls: Option<&Path>,
    listeners: usize,
    by_function: bool,
) -> io::Result<(f64, Vec<(String, f64)>)> {
    // No beat falls into the count.
    let (broadcast, tls) = (listeners > 0, tls.map(Path::to_owned));
    let serve = ServeOptions { broadcast, interval: Some(600_000), tls, ..ServeOptions::default() };
    let count = |messages| callgrind::count(kind, &serve, by_function, |server| exchange(server, listeners, messages));
    let (few, many) = (count(FEW)?, count(MANY)?);
    let per_message = |few: u64, many: u64| (many as f64 - few as f64) / (MANY - FEW) as f64 / listeners.max(1) as f64;
    let mut functions: Vec<(String, f64)> = many
        .functions
        .into_iter()
        .map(|(name, count)| {
            let before = few.functions.get(&name).copied().unwrap_or_default();
            (name, per_message(before, count))
        })
        .collect();
    functions.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    Ok((per_message(few.total, many.total), functions))
}

/// The functions that take most, and what is left.
fn tell_where(cell: &str, server: &str, total: f64, functions: &[(String, f64)]) {
    const TOLD: usize = 25;
    println!("\nwhere the instructions of {cell} go, {server}");
    let mut rest = total;
    for (name, count) in functions.iter().take(TOLD).filter(|(_, count)| *count >= 0.5) {
        rest -= count;
        println!("{count:>9.1}  {name}");
    }
    println!("{rest:>9.1}  the rest\n{total:>9.1}  in all");
}

/// Sends messages one by one, each after all receivers have the one before.
fn exchange(server: &Server, listeners: usize, messages: u64) -> io::Result<()> {
    let dialect = server.dialect(false);
    let mut receivers: Vec<Requester> = (0..listeners.max(1))
        .map(|_| {
            let receiver = Requester::open(server.address, dialect, 20, 0)?;
            receiver.stream().set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(receiver)
        })
        .collect::<io::Result<_>>()?;
    // Under valgrind a server may be a while behind its handshakes.
    std::thread::sleep(Duration::from_millis(500));
    let mut scratch = [0; SCRATCH];
    for _ in 0..messages {
        let (sender, others) = receivers.split_at_mut(1);
        sender[0].request(Instant::now());
        sender[0].flush()?;
        // The others get what the first has asked for.
        others.iter_mut().for_each(Requester::expect);
        for receiver in &mut receivers {
            while receiver.take_answer().is_none() {
                receiver.receive(&mut scratch)?;
            }
        }
    }
    Ok(())
}

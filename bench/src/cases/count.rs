//! Instructions of the userland path, counted by callgrind: a figure that does not depend on the machine's mood.
//!
//! The server runs under valgrind twice, for a few messages and for many; the difference is what the messages cost.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::interleave;
use crate::answers::Dialect;
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less};
use crate::requester::Requester;
use crate::server::{Kind, ServeOptions};

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
}

pub(crate) fn is_available() -> bool {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Counts once: the figure hardly varies.
pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    if !is_available() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "valgrind is not installed"));
    }
    let mut once = common.clone();
    once.rounds = 1;
    let wanted: Vec<Kind> = SERVERS.into_iter().filter(|kind| common.wants(*kind)).collect();
    let mut failure = None;
    interleave(&once, &wanted, |_, &kind| {
        let broadcasts = matches!(kind, Kind::Bare | Kind::Heartwire | Kind::TokioTungstenite);
        for (cell, listeners, limit) in [(ECHO, 0, options.max_echo), (DELIVERY, 10, options.max_delivery)] {
            if listeners > 0 && !broadcasts {
                continue;
            }
            match difference(kind, listeners) {
                Ok(count) => {
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

/// Instructions for one message to each of its receivers.
fn difference(kind: Kind, listeners: usize) -> io::Result<f64> {
    const FEW: u64 = 200;
    const MANY: u64 = 1200;
    let few = instructions(kind, listeners, FEW)?;
    let many = instructions(kind, listeners, MANY)?;
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64 / listeners.max(1) as f64)
}

fn instructions(kind: Kind, listeners: usize, messages: u64) -> io::Result<u64> {
    let log = std::env::temp_dir().join(format!("heartwire-bench-{}.callgrind", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--log-file={}", log.display())).arg(std::env::current_exe()?);
    // No beat falls into the count.
    let serve = ServeOptions { broadcast: listeners > 0, interval: Some(600_000), ..ServeOptions::default() };
    command.args(serve.arguments(kind));
    let server = Server::spawn(kind, &mut command)?;
    exchange(&server, listeners, messages)?;
    server.process.finish()?;
    let text = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    let collected = text.lines().find_map(|line| line.split_once("Collected : ").map(|(_, count)| count.trim()));
    let count = collected.and_then(|count| count.split(' ').next()?.parse().ok());
    count.ok_or_else(|| io::Error::other(format!("callgrind said: {text}")))
}

/// Sends messages one by one, each after all receivers have the one before.
fn exchange(server: &Server, listeners: usize, messages: u64) -> io::Result<()> {
    let dialect = Dialect { is_websocket: server.kind.is_websocket(), text: false };
    let mut receivers: Vec<Requester> = (0..listeners.max(1))
        .map(|_| {
            let receiver = Requester::open(server.address, dialect, 20, 0)?;
            receiver.stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(receiver)
        })
        .collect::<io::Result<_>>()?;
    // Under valgrind a server may be a while behind its handshakes.
    std::thread::sleep(Duration::from_millis(500));
    let mut scratch = [0; 1024];
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

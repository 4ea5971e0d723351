//! The command line.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crate::cases::{connect, count, deflate, detect, echoes, fanout, idle, isolation, nodes, syscalls, tls, topics};
use crate::load::Load;
use crate::machine::Machine;
use crate::report::Report;
#[cfg(feature = "scale")]
use crate::scale;
use crate::server::{self, Kind, ServeOptions, redis};
use crate::{callgrind, crowd, fleet, interrupt, json, plot, strace};

/// Measures heartwire next to others, every server in a process of its own, in one run.
///
/// Ctrl-C prints what there is so far.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// What to measure; all of it if nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// How often everything is measured; the median counts, and from 6 on it has an interval of 95 %.
    #[arg(long, global = true, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds that one measurement of a load takes.
    #[arg(long, global = true, default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// Only these servers (names with commas between them).
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) servers: Vec<Kind>,
    /// Threads of the load.
    #[arg(long, global = true, default_value_t = 2)]
    load_threads: usize,
    /// Text in place of binary messages, for the echoes.
    #[arg(long, global = true)]
    text: bool,
    /// Write everything to this file as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Draw a picture into this file, as SVG.
    #[arg(long, global = true)]
    plot: Option<PathBuf>,
    /// Say nothing while measuring.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[arg(skip = Instant::now())]
    began: Instant,
}

impl Common {
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        (self.servers.is_empty() || self.servers.contains(&kind)) && kind.is_available()
    }

    /// The same, with so many rounds.
    pub(crate) fn with_rounds(&self, rounds: usize) -> Self {
        Self { rounds, ..self.clone() }
    }

    /// Round trips of 20 bytes on one connection.
    pub(crate) fn load(&self) -> Load {
        Load {
            connections: 1,
            window: 1,
            payload: 20,
            text: self.text,
            pages: None,
            threads: self.load_threads.max(1),
            warm_up: Duration::from_secs_f64(self.seconds / 4.0),
            duration: Duration::from_secs_f64(self.seconds),
        }
    }

    pub(crate) fn progress(&self, case: &str, cell: &str, round: usize, what: &str) {
        if !self.quiet {
            let (elapsed, rounds) = (self.began.elapsed().as_secs(), self.rounds);
            eprintln!("[{:02}:{:02}] {case}, {cell}, {round}/{rounds}: {what}", elapsed / 60, elapsed % 60);
        }
    }
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Everything, one after the other.
    All,
    /// Round trips: one message under way on each connection.
    Echo(echoes::EchoOptions),
    /// Many messages under way on each connection.
    Pipelined(echoes::PipelinedOptions),
    /// Large messages.
    Bulk(echoes::BulkOptions),
    /// One message to all.
    Fanout(fanout::Options),
    /// What a few rude connections do to the others.
    Isolation(isolation::Options),
    /// Connections opened per second.
    Connect(connect::Options),
    /// Idle connections: memory, threads, the heartbeat's processor time; then all go silent at once.
    Idle(idle::Options),
    /// Echoes, handshakes, idle connections and returning clients over TLS.
    Tls(tls::Options),
    /// State pages compressed: echoes, broadcasts, idle connections, and when it pays.
    Deflate(deflate::Options),
    /// Topics beside nchan and socket.io: messages to many, publishing by HTTP, memory, subscribers that come back.
    Topics(topics::Options),
    /// Topics on two nodes, beside nchan and socket.io over Redis: deliveries, the hop, recovery, faults of Redis.
    Nodes(nodes::Options),
    /// How exactly dead peers are found.
    Detect(detect::Options),
    /// Instructions for one message, by callgrind.
    Count(count::Options),
    /// System calls for one message, by strace.
    Syscalls(syscalls::Options),
    /// 100 nodes of 10,000 connections that share a Redis, on paper, by what one Redis is measured to take.
    #[cfg(feature = "scale")]
    Scale(scale::Options),
    /// A server, for another process of this program.
    #[command(hide = true)]
    Serve {
        kind: Kind,
        #[command(flatten)]
        options: ServeOptions,
    },
    /// A redis-server, for another process of this program.
    #[command(hide = true)]
    Redis(redis::Options),
    /// Many clients that only answer Pings, for another process of this program.
    #[command(hide = true)]
    Crowd {
        address: std::net::SocketAddr,
        count: usize,
        #[command(flatten)]
        options: crowd::Options,
    },
    /// Many of heartwire's clients, for another process of this program.
    #[command(hide = true)]
    Fleet {
        address: std::net::SocketAddr,
        count: usize,
        #[command(flatten)]
        options: fleet::Options,
    },
}

/// What `all` does.
const ALL: [&str; 12] = [
    "isolation",
    "echo",
    "pipelined",
    "bulk",
    "fanout",
    "connect",
    "idle",
    "tls",
    "deflate",
    "topics",
    "nodes",
    "detect",
];

pub(crate) fn run() -> io::Result<()> {
    let Cli { command, common } = Cli::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let command = match command.unwrap_or(Command::All) {
        Command::Serve { kind, options } => return server::serve(kind, &options),
        Command::Redis(options) => return redis::serve(&options),
        Command::Crowd { address, count, options } => return crowd::run(address, count, options),
        Command::Fleet { address, count, options } => return fleet::run(address, count, &options),
        #[cfg(feature = "scale")]
        Command::Scale(options) => return scale::run(&common, &options),
        command => command,
    };
    interrupt::watch()?;
    let references = match command {
        // Over TLS nothing is bare.
        Command::Tls(_) => vec![Kind::Tungstenite.name(), Kind::TokioTungstenite.name()],
        Command::Deflate(_) => deflate::REFERENCES.to_vec(),
        Command::Topics(_) => topics::REFERENCES.to_vec(),
        Command::Nodes(_) => nodes::REFERENCES.to_vec(),
        Command::All => {
            let bare = [Kind::Bare.name(), Kind::TokioTungstenite.name()];
            [&bare[..], &deflate::REFERENCES, &topics::REFERENCES, &nodes::REFERENCES[1..]].concat()
        }
        _ => vec![Kind::Bare.name(), Kind::TokioTungstenite.name()],
    };
    let machine = Machine::look();
    print!("{machine}");
    let mut report = Report::default();
    let measured = match command {
        Command::All => all(&common, &machine, &mut report),
        one => measure(&common, one, &machine, &mut report),
    };
    print!("{}", report.tables(&references));
    if let Some(path) = &common.json {
        fs::write(path, json::write(&machine, &report, common.rounds, common.seconds))?;
    }
    if let Some(path) = &common.plot {
        fs::write(path, plot::draw(&report, &machine.name()))?;
    }
    measured
}

fn all(common: &Common, machine: &Machine, report: &mut Report) -> io::Result<()> {
    let mut names = ALL.to_vec();
    for (name, tool, is_available) in
        [("count", "valgrind", callgrind::is_available()), ("syscalls", "strace", strace::is_available())]
    {
        if is_available {
            names.push(name);
        } else {
            eprintln!("== {name} is skipped: {tool} is not installed");
        }
    }
    for (index, name) in names.iter().enumerate() {
        if interrupt::is_set() {
            break;
        }
        if !common.quiet {
            eprintln!("== {name} ({} of {})", index + 1, names.len());
        }
        // The defaults of a case are those of its command line.
        let case = Cli::try_parse_from(["heartwire-bench", name]).map_err(io::Error::other)?;
        if let Some(command) = case.command {
            measure(common, command, machine, report)?;
        }
    }
    Ok(())
}

fn measure(common: &Common, command: Command, machine: &Machine, report: &mut Report) -> io::Result<()> {
    match command {
        Command::Echo(options) => echoes::round_trips(common, &options, report),
        Command::Pipelined(options) => echoes::pipelined(common, &options, report),
        Command::Bulk(options) => echoes::bulk(common, &options, report),
        Command::Fanout(options) => fanout::run(common, &options, report),
        Command::Isolation(options) => isolation::run(common, &options, report),
        Command::Connect(options) => connect::run(common, &options, report),
        Command::Idle(options) => idle::run(common, &options, report),
        Command::Tls(options) => tls::run(common, &options, report),
        Command::Deflate(options) => deflate::run(common, &options, report),
        Command::Topics(options) => topics::run(common, &options, report),
        Command::Nodes(options) => nodes::run(common, &options, machine, report),
        Command::Detect(options) => detect::run(common, &options, report),
        Command::Count(options) => count::run(common, &options, report),
        Command::Syscalls(options) => syscalls::run(common, &options, report),
        // Not measurements; they were dealt with before.
        Command::All | Command::Serve { .. } | Command::Redis(_) | Command::Crowd { .. } | Command::Fleet { .. } => {
            Ok(())
        }
        #[cfg(feature = "scale")]
        Command::Scale(_) => Ok(()),
    }
}

//! The command line.

use std::io;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cases::{echo, idle};
use crate::load::Load;
use crate::report::Report;
use crate::server::{self, Kind, ServeOptions};
use crate::{crowd, interrupt};

/// Measures heartwire next to others, in one run.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// How often everything is measured; the median counts.
    #[arg(long, global = true, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds that one measurement of a load takes.
    #[arg(long, global = true, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Only these servers (names with commas between them).
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) servers: Vec<Kind>,
    /// Threads of the load.
    #[arg(long, global = true, default_value_t = 2)]
    load_threads: usize,
    /// Text in place of binary messages.
    #[arg(long, global = true)]
    text: bool,
}

impl Common {
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        (self.servers.is_empty() || self.servers.contains(&kind)) && kind.is_available()
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            connections: 1,
            window: 1,
            payload: 20,
            text: self.text,
            threads: self.load_threads.max(1),
            warm_up: Duration::from_secs_f64(self.seconds / 4.0),
            duration: Duration::from_secs_f64(self.seconds),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Round trips of 20 bytes.
    Echo {
        /// Numbers of connections.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
        connections: Vec<usize>,
    },
    /// Idle connections: memory, threads, the heartbeat's processor time; then all go silent at once.
    Idle(idle::Options),
    /// A server, for another process of this program.
    #[command(hide = true)]
    Serve {
        kind: Kind,
        #[command(flatten)]
        options: ServeOptions,
    },
    /// Many clients that only answer Pings, for another process of this program.
    #[command(hide = true)]
    Crowd {
        address: std::net::SocketAddr,
        count: usize,
        /// Plain TCP, no WebSocket.
        #[arg(long)]
        bare: bool,
    },
}

pub(crate) fn run() -> io::Result<()> {
    let Cli { command, common } = Cli::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut report = Report::default();
    let measured = match command {
        Command::Serve { kind, options } => return server::serve(kind, &options),
        Command::Crowd { address, count, bare } => return crowd::run(address, count, !bare),
        Command::Echo { connections } => {
            interrupt::watch()?;
            echo::run(&common, &connections, &mut report)
        }
        Command::Idle(options) => {
            interrupt::watch()?;
            idle::run(&common, &options, &mut report)
        }
    };
    let references = [Kind::Bare.name(), Kind::TokioTungstenite.name()];
    for case in [echo::CASE, idle::CASE, idle::DETECTION] {
        print!("{}", report.table(case, &references));
    }
    measured
}

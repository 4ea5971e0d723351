//! Connections opened per second: TCP, opening handshake, one echo, closing handshake, and the next.

use std::io;

use clap::Args;

use super::interleave;
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};
use crate::visitors::{self, Visits};

pub(crate) const CASE: &str = "connections opened, used once and closed";
const RATE: Figure = more("connections", "/s");
const OPENING: [(Figure, f64); 2] = [(less("open p50", "µs"), 0.5), (less("open p99", "µs"), 0.99)];
const FIGURES: [Figure; 3] =
    [less("server", "µs/connection"), less("load", "µs/connection"), less("backlog overflows", "")];

const SERVERS: [Kind; 8] = [
    Kind::Bare,
    Kind::Heartwire,
    Kind::Tungstenite,
    Kind::TokioTungstenite,
    Kind::TokioTungstenite4k,
    Kind::Fastwebsockets,
    Kind::ActixWs,
    Kind::Websockets,
];

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of clients, each with one connection at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 100, 1000])]
    clients: Vec<usize>,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let wanted = SERVERS.into_iter().filter(|kind| common.wants(*kind));
    let servers: Vec<Server> =
        wanted.map(|kind| Server::start(kind, &ServeOptions::default())).collect::<io::Result<_>>()?;
    let mut failure = None;
    for &clients in &options.clients {
        let cell = format!("{clients} clients");
        let load = common.load();
        let (threads, warm_up, duration) = (load.threads, load.warm_up, load.duration);
        let visits = Visits { clients, threads, resumes: false, warm_up, duration };
        interleave(common, &servers, |round, server| {
            let name = server.kind.name();
            match visitors::run(server, &visits) {
                Ok(Some(outcome)) => {
                    report.add(CASE, &cell, name, RATE, outcome.rate);
                    for (figure, quantile) in OPENING {
                        let value = outcome.opening.value_at_quantile(quantile) as f64 / 1000.0;
                        report.add(CASE, &cell, name, figure, value);
                    }
                    let processors =
                        [outcome.processor, outcome.own_processor].map(|time| time.as_nanos() as f64 / 1e3);
                    let values = [processors[0], processors[1], outcome.overflows];
                    for (figure, value) in FIGURES.into_iter().zip(values) {
                        report.add(CASE, &cell, name, figure, value);
                    }
                    common.progress(CASE, &cell, round, &format!("{name}: {:.0} connections/s", outcome.rate));
                }
                Ok(None) => {}
                Err(error) => {
                    common.progress(CASE, &cell, round, &format!("{name}: {error}"));
                    report.add(CASE, &cell, name, RATE, f64::NAN);
                    // That is no fault of the server's: no figure from here on can be believed.
                    if error.kind() == io::ErrorKind::AddrNotAvailable {
                        failure = Some(error);
                    }
                }
            }
        });
    }
    failure.map_or(Ok(()), Err)
}

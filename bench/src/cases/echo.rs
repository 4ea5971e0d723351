//! Round trips: one message under way on each connection.

use std::io;
use std::time::Duration;

use crate::cli::Common;
use crate::interrupt;
use crate::load::{self, Load, Outcome};
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};

pub(crate) const CASE: &str = "echo";
const RATE: Figure = more("messages", "/s");
const FIGURES: [Figure; 4] =
    [less("p50", "µs"), less("p99", "µs"), less("p99.9", "µs"), less("server processor", "µs/message")];

pub(crate) const SERVERS: [Kind; 9] = [
    Kind::Bare,
    Kind::Heartwire,
    Kind::HeartwireFeed,
    Kind::Tungstenite,
    Kind::TokioTungstenite,
    Kind::TokioTungstenite4k,
    Kind::Fastwebsockets,
    Kind::ActixWs,
    Kind::Websockets,
];

pub(crate) fn run(common: &Common, connections: &[usize], report: &mut Report) -> io::Result<()> {
    let servers = start(common, &SERVERS)?;
    for &connections in connections {
        let load = Load { connections, window: 1, payload: 20, ..common.load() };
        rounds(common, &servers, &load, CASE, &format!("{connections} connections"), report);
    }
    Ok(())
}

/// Starts those servers of a case that are wanted and can be had.
pub(crate) fn start(common: &Common, kinds: &[Kind]) -> io::Result<Vec<Server>> {
    let wanted = kinds.iter().copied().filter(|kind| common.wants(*kind));
    wanted.map(|kind| Server::start(kind, &ServeOptions::default())).collect()
}

/// Loads one server after the other, and again, each round beginning with another.
pub(crate) fn rounds(
    common: &Common,
    servers: &[Server],
    load: &Load,
    case: &'static str,
    cell: &str,
    report: &mut Report,
) {
    for round in 0..common.rounds {
        for index in 0..servers.len() {
            let server = &servers[(index + round) % servers.len()];
            let name = server.kind.name();
            match load::run(server, load) {
                Ok(Some(outcome)) => {
                    eprintln!("{case}, {cell}, round {}: {name}: {:.0}/s", round + 1, outcome.rate);
                    record(report, case, cell, name, &outcome);
                }
                Ok(None) => {}
                Err(error) => {
                    eprintln!("{case}, {cell}, round {}: {name}: {error}", round + 1);
                    report.add(case, cell, name, RATE, f64::NAN);
                }
            }
            if interrupt::is_set() {
                return;
            }
        }
    }
}

fn record(report: &mut Report, case: &'static str, cell: &str, server: &str, outcome: &Outcome) {
    let micros = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let processor = outcome.processor.max(Duration::ZERO).as_nanos() as f64 / 1000.0;
    report.add(case, cell, server, RATE, outcome.rate);
    for (figure, value) in FIGURES.into_iter().zip([micros(0.5), micros(0.99), micros(0.999), processor]) {
        report.add(case, cell, server, figure, value);
    }
}

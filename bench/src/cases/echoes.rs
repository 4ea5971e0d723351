//! Echoes: one message under way on each connection, many, or large ones.

use std::io;

use clap::Args;

use super::interleave;
use crate::cli::Common;
use crate::load::{self, Load, Outcome};
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};

pub(crate) const ROUND_TRIPS: &str = "round trips of 20 bytes";
pub(crate) const PIPELINED: &str = "pipelined, 64 of 20 bytes under way";
pub(crate) const BULK: &str = "bulk on 4 connections";

const MESSAGES: Figure = more("messages", "/s");
const THROUGHPUT: Figure = more("echoed", "MB/s");
const FIGURES: [Figure; 5] = [
    less("p50", "µs"),
    less("p99", "µs"),
    less("p99.9", "µs"),
    less("server", "µs/message"),
    less("load", "µs/message"),
];

const SERVERS: [Kind; 9] = [
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

#[derive(Debug, Clone, Args)]
pub(crate) struct EchoOptions {
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    connections: Vec<usize>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PipelinedOptions {
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    connections: Vec<usize>,
    /// Messages under way on each.
    #[arg(long, default_value_t = 64)]
    window: usize,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BulkOptions {
    /// Sizes of messages, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [16 * 1024, 64 * 1024, 1_000_000])]
    sizes: Vec<usize>,
}

pub(crate) fn round_trips(common: &Common, options: &EchoOptions, report: &mut Report) -> io::Result<()> {
    let mut kinds = SERVERS.to_vec();
    kinds.insert(2, Kind::HeartwireBusyPoll);
    let servers = start(common, &kinds)?;
    for &connections in &options.connections {
        let load = Load { connections, ..common.load() };
        measure(common, &servers, &load, (ROUND_TRIPS, &plural(connections)), report);
    }
    Ok(())
}

pub(crate) fn pipelined(common: &Common, options: &PipelinedOptions, report: &mut Report) -> io::Result<()> {
    let mut kinds = SERVERS.to_vec();
    kinds.insert(5, Kind::TokioTungsteniteForward);
    let servers = start(common, &kinds)?;
    for &connections in &options.connections {
        let load = Load { connections, window: options.window, ..common.load() };
        measure(common, &servers, &load, (PIPELINED, &plural(connections)), report);
    }
    Ok(())
}

pub(crate) fn bulk(common: &Common, options: &BulkOptions, report: &mut Report) -> io::Result<()> {
    let kinds: Vec<Kind> = SERVERS.into_iter().filter(|kind| *kind != Kind::HeartwireFeed).collect();
    let servers = start(common, &kinds)?;
    for &payload in &options.sizes {
        let load = Load { connections: 4, payload, ..common.load() };
        measure(common, &servers, &load, (BULK, &format!("messages of {payload} bytes")), report);
    }
    Ok(())
}

fn plural(connections: usize) -> String {
    if connections == 1 { "1 connection".into() } else { format!("{connections} connections") }
}

/// Starts those servers that are wanted and can be had.
fn start(common: &Common, kinds: &[Kind]) -> io::Result<Vec<Server>> {
    let wanted = kinds.iter().copied().filter(|kind| common.wants(*kind));
    wanted.map(|kind| Server::start(kind, &ServeOptions::default())).collect()
}

fn measure(common: &Common, servers: &[Server], load: &Load, (case, cell): (&'static str, &str), report: &mut Report) {
    interleave(common, servers, |round, server| {
        let name = server.kind.name();
        match load::run(server, load) {
            Ok(Some(outcome)) => {
                let value = record(report, (case, cell), name, load, &outcome);
                common.progress(case, cell, round, &format!("{name}: {value}"));
            }
            Ok(None) => {}
            Err(error) => {
                common.progress(case, cell, round, &format!("{name}: {error}"));
                report.add(case, cell, name, first_figure(case), f64::NAN);
            }
        }
    });
}

fn first_figure(case: &str) -> Figure {
    if case == BULK { THROUGHPUT } else { MESSAGES }
}

fn record(
    report: &mut Report,
    (case, cell): (&'static str, &str),
    server: &str,
    load: &Load,
    outcome: &Outcome,
) -> String {
    let first = first_figure(case);
    let value = if first == THROUGHPUT { outcome.rate * load.payload as f64 / 1e6 } else { outcome.rate };
    report.add(case, cell, server, first, value);
    let quantile = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let processor = [outcome.processor, outcome.own_processor].map(|time| time.as_nanos() as f64 / 1000.0);
    let values = [quantile(0.5), quantile(0.99), quantile(0.999), processor[0], processor[1]];
    for (figure, value) in FIGURES.into_iter().zip(values) {
        report.add(case, cell, server, figure, value);
    }
    format!("{value:.0} {}", first.unit)
}

//! Fan-out: one message to all.

use std::io;
use std::time::Duration;

use clap::Args;

use super::interleave;
use crate::audience::{self, Fanout};
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::server::{Kind, ServeOptions};

pub(crate) const CASE: &str = "fan-out";
const RATE: Figure = more("deliveries", "/s");
const LAST: [(Figure, f64); 2] = [(less("last has it p50", "ms"), 0.5), (less("p99", "ms"), 0.99)];

const SERVERS: [Kind; 4] = [Kind::Bare, Kind::Heartwire, Kind::TokioTungstenite, Kind::TokioTungstenite4k];

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Numbers of listeners.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    listeners: Vec<usize>,
    /// Messages under way while the rate is measured.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Size of the messages with and without one client that never reads, in bytes.
    #[arg(long, default_value_t = 4096)]
    deaf_size: usize,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let base = Fanout {
        listeners: 100,
        deaf: 0,
        payload: 20,
        pages: None,
        window: options.window.max(1),
        threads: common.load().threads,
        duration: Duration::from_secs_f64(common.seconds),
    };
    let mut cells: Vec<(String, Fanout)> = options
        .listeners
        .iter()
        .map(|&listeners| (format!("20 bytes to {listeners}"), Fanout { listeners, ..base.clone() }))
        .collect();
    for (deaf, suffix) in [(0, ""), (1, ", one more never reads")] {
        let cell = format!("{} bytes to 100{suffix}", options.deaf_size);
        cells.push((cell, Fanout { deaf, payload: options.deaf_size, ..base.clone() }));
    }
    let wanted: Vec<Kind> = SERVERS.into_iter().filter(|kind| common.wants(*kind)).collect();
    for (cell, fanout) in &cells {
        interleave(common, &wanted, |round, kind| {
            let name = kind.name();
            // A fresh server each time: one that was held up stays so.
            let serve = ServeOptions { broadcast: true, ..ServeOptions::default() };
            match Server::start(*kind, &serve).and_then(|server| audience::run(&server, fanout)) {
                Ok(Some(outcome)) => {
                    report.add(CASE, cell, name, RATE, outcome.rate);
                    for (figure, quantile) in LAST {
                        let value = outcome.last.value_at_quantile(quantile) as f64 / 1e6;
                        report.add(CASE, cell, name, figure, value);
                    }
                    common.progress(CASE, cell, round, &format!("{name}: {:.0} deliveries/s", outcome.rate));
                }
                Ok(None) => {}
                Err(error) => {
                    common.progress(CASE, cell, round, &format!("{name}: {error}"));
                    report.add(CASE, cell, name, RATE, f64::NAN);
                }
            }
        });
    }
    Ok(())
}

//! Connections opened per second: TCP, opening handshake, one echo, closing handshake, and the next.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::interleave;
use crate::answers::Dialect;
use crate::cli::Common;
use crate::process::Server;
use crate::report::{Figure, Report, less, more};
use crate::requester::{Requester, close};
use crate::server::{Kind, ServeOptions};
use crate::{interrupt, load};

pub(crate) const CASE: &str = "connections opened, used once and closed";
const RATE: Figure = more("connections", "/s");
const OPENING: [(Figure, f64); 2] = [(less("open p50", "µs"), 0.5), (less("open p99", "µs"), 0.99)];

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
    /// Clients at a time.
    #[arg(long, default_value_t = 8)]
    clients: usize,
}

pub(crate) fn run(common: &Common, options: &Options, report: &mut Report) -> io::Result<()> {
    let cell = format!("{} clients", options.clients);
    let wanted = SERVERS.into_iter().filter(|kind| common.wants(*kind));
    let servers: Vec<Server> =
        wanted.map(|kind| Server::start(kind, &ServeOptions::default())).collect::<io::Result<_>>()?;
    interleave(common, &servers, |round, server| {
        let name = server.kind.name();
        match measure(common, options.clients, server) {
            Ok((count, opening)) => {
                let rate = count as f64 / common.seconds;
                report.add(CASE, &cell, name, RATE, rate);
                for (figure, quantile) in OPENING {
                    report.add(CASE, &cell, name, figure, opening.value_at_quantile(quantile) as f64 / 1000.0);
                }
                common.progress(CASE, &cell, round, &format!("{name}: {rate:.0} connections/s"));
            }
            Err(error) => {
                common.progress(CASE, &cell, round, &format!("{name}: {error}"));
                report.add(CASE, &cell, name, RATE, f64::NAN);
            }
        }
    });
    Ok(())
}

fn measure(common: &Common, clients: usize, server: &Server) -> io::Result<(u64, hdrhistogram::Histogram<u64>)> {
    let dialect = Dialect { is_websocket: server.kind.is_websocket(), text: false };
    let address = server.address;
    let until = Instant::now() + Duration::from_secs_f64(common.seconds);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || {
                    let mut opening = load::new_histogram();
                    while Instant::now() < until && !interrupt::is_set() {
                        let began = Instant::now();
                        let requester = Requester::open(address, dialect, 20, number)?;
                        let opened = began.elapsed();
                        use_once(requester)?;
                        if Instant::now() < until {
                            opening.saturating_record(opened.as_nanos() as u64);
                        }
                    }
                    Ok::<_, io::Error>(opening)
                })
            })
            .collect();
        let mut opening = load::new_histogram();
        for worker in workers {
            let counted = worker.join().map_err(|_| io::Error::other("a client panicked"))??;
            opening.add(counted).map_err(io::Error::other)?;
        }
        Ok((opening.len(), opening))
    })
}

fn use_once(mut requester: Requester) -> io::Result<()> {
    let mut scratch = [0; 256];
    requester.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    requester.request(Instant::now());
    requester.flush()?;
    while requester.take_answer().is_none() {
        requester.receive(&mut scratch)?;
    }
    close(&[requester]);
    Ok(())
}

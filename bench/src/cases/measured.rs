//! A cell of a case whose servers are measured in turn, and what was measured there.

use std::io;
use std::time::Duration;

use super::interleave;
use crate::cli::Common;
use crate::interrupt;
use crate::report::{Figure, Report, less, number};
use crate::server::Kind;
use crate::topics::crowd::Crowd;
use crate::topics::publisher::{Pace, Publisher};

const LOST: Figure = less("lost", "");

/// The value of the first figure of a cell, and the others.
pub(super) struct Measured {
    pub(super) first: f64,
    pub(super) others: Vec<(Figure, f64)>,
}

/// What is measured of each server.
pub(super) struct Rounds<'a> {
    pub(super) case: &'static str,
    pub(super) cell: &'a str,
    pub(super) first: Figure,
}

impl Rounds<'_> {
    /// Measures all servers, round by round.
    pub(super) fn measure(
        &self,
        common: &Common,
        servers: &[Kind],
        report: &mut Report,
        name: impl Fn(Kind) -> &'static str,
        mut measure: impl FnMut(Kind) -> io::Result<Measured>,
    ) {
        let Self { case, cell, first } = *self;
        interleave(common, servers, |round, kind| {
            let (name, measured) = (name(*kind), measure(*kind));
            if interrupt::is_set() {
                return;
            }
            let told = match measured {
                Ok(Measured { first: value, others }) => {
                    report.add(case, cell, name, first, value);
                    for (figure, value) in others {
                        report.add(case, cell, name, figure, value);
                    }
                    format!("{} {} {}", number(value), first.name, first.unit)
                }
                Err(error) => {
                    report.add(case, cell, name, first, f64::NAN);
                    error.to_string()
                }
            };
            common.progress(case, cell, round, &format!("{name}: {told}"));
        });
    }
}

/// Deliveries per second, while so many messages are under way; and the processor time for each delivery.
pub(super) fn deliveries(
    common: &Common,
    publisher: &mut Publisher,
    crowd: Crowd,
    subscribers: usize,
    window: usize,
    processors: [&'static str; 2],
) -> io::Result<Measured> {
    let load = common.load();
    let pace = publisher.paced(&crowd.board, window, load.warm_up, load.duration);
    drop(crowd.stop());
    let Pace { messages, elapsed, processors: times, missing } = pace?;
    let count = messages as f64 * subscribers as f64;
    let first = if missing > 0 { f64::NAN } else { count / elapsed.as_secs_f64() };
    let each = |time: Duration| time.as_secs_f64() * 1e6 / subscribers as f64;
    let others = vec![
        (less(processors[0], ""), each(times[0])),
        (less(processors[1], ""), each(times[1])),
        (LOST, missing as f64),
    ];
    Ok(Measured { first, others })
}

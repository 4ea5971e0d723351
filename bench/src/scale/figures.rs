//! What was measured, as docs/scale.md shows it, and read from there again.

use std::io;

use super::loading::Loading;
use super::measure::Costs;
use super::page::{Table, cells, short};
use crate::spread::Spread;

/// What is measured, with its unit, as the first column of the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Publish,
    Reading,
    Entry,
    Kilobyte,
    ReadingBytes,
    EntryBytes,
    LoneSeat,
    Seat,
    Touch,
    Message,
    LoadedSeat,
}

const ALL: [(What, &str); 11] = [
    (What::Publish, "a message is published, µs"),
    (What::Reading, "a node asks what is new, µs"),
    (What::Entry, "a node is given an entry of the log, µs"),
    (What::Kilobyte, "and for each 1,000 bytes of it, µs"),
    (What::ReadingBytes, "bytes sent for each time that a node asks"),
    (What::EntryBytes, "bytes sent for each entry, beside its payload"),
    (What::LoneSeat, "a subscriber comes or goes, alone, µs"),
    (What::Seat, "among many, µs"),
    (What::Touch, "a topic is said to be in use, µs"),
    (What::Message, "a message is loaded by a node that connects, µs"),
    (What::LoadedSeat, "a subscriber is, µs"),
];

#[derive(Debug, Clone)]
pub(super) struct Figures([f64; ALL.len()]);

impl Figures {
    pub(super) fn of(&self, what: What) -> f64 {
        ALL.iter().position(|(of, _)| *of == what).map_or(f64::NAN, |index| self.0[index])
    }

    /// Reads the table of a page.
    pub(super) fn read(page: &str) -> io::Result<Self> {
        let value = |name: &str| {
            let row = page.lines().map(cells).find(|cells| cells.first().is_some_and(|first| first == name));
            let value = row.and_then(|cells| cells.get(1)?.replace(',', "").parse().ok());
            value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the page does not say {name:?}")))
        };
        let mut figures = [0.0; ALL.len()];
        for (figure, (_, name)) in figures.iter_mut().zip(ALL) {
            *figure = value(name)?;
        }
        Ok(Self(figures))
    }
}

/// The table of what was measured in some rounds.
pub(super) fn table(rounds: &[(Costs, Loading)]) -> Table {
    let mut table = Table::new(&["", "median", "range"]);
    for (what, name) in ALL {
        let values: Vec<f64> = rounds.iter().map(|(costs, loading)| value(what, costs, loading)).collect();
        let Some(spread) = Spread::of(&values) else { continue };
        let range = format!("{}..{}", short(spread.low), short(spread.high));
        table.add([name.to_owned(), short(spread.median), range]);
    }
    table
}

fn value(what: What, costs: &Costs, loading: &Loading) -> f64 {
    match what {
        What::Publish => costs.publish,
        What::Reading => costs.reading,
        What::Entry => costs.entry,
        What::Kilobyte => costs.kilobyte,
        What::ReadingBytes => costs.reading_bytes,
        What::EntryBytes => costs.entry_bytes,
        What::LoneSeat => loading.lone_seat,
        What::Seat => loading.seat,
        What::Touch => loading.touch,
        What::Message => loading.message,
        What::LoadedSeat => loading.loaded_seat,
    }
}

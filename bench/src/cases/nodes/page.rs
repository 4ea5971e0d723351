//! What was measured of nodes, as a part of a Markdown page, which is replaced there.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use super::faults::{self, Fault};
use super::{CASE, LONE, Options, REFERENCES, SERVERS, deliveries_cell, recovery_cell};
use crate::cli::Common;
use crate::machine::Machine;
use crate::report::{Report, Series, number, tell_ratio};

const BEGIN: &str = "<!-- nodes -->\n";
const END: &str = "<!-- /nodes -->\n";

pub(super) fn write_into(
    path: &Path,
    machine: &Machine,
    common: &Common,
    options: &Options,
    report: &Report,
) -> io::Result<()> {
    let page = fs::read_to_string(path)?;
    let part = part(&heading(machine, common, options), options, report);
    let page = replace(&page, &part).ok_or_else(|| {
        io::Error::other(format!("{} has no lines {} and {}", path.display(), BEGIN.trim_end(), END.trim_end()))
    })?;
    fs::write(path, page)
}

/// Puts a part between the marks.
fn replace(page: &str, part: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n\n{END}{after}", part.trim()))
}

fn heading(machine: &Machine, common: &Common, options: &Options) -> String {
    let Common { rounds, seconds, .. } = common;
    let load = machine.load_average().map(|load| format!(", load average {load} before")).unwrap_or_default();
    format!(
        "{}{load}.\n\
         {rounds} rounds of {seconds} s, and {} of each fault; Redis with `appendonly yes` and `appendfsync {}`.\n\
         In parentheses the range of the rounds, or their interval of 95 % from six rounds on.",
        machine.name(),
        options.fault_rounds,
        options.fsync,
    )
}

fn part(heading: &str, options: &Options, report: &Report) -> String {
    let found = Found(report);
    let tables = [found.ratios(options), found.ways(), found.returns(options), found.faults()];
    let mut part = format!("{heading}\n");
    for table in tables.iter().filter(|table| table.rows.len() > 1) {
        let _ = write!(part, "\n{}", table.markdown());
    }
    part
}

/// A heading, and the rows below it.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new<'a>(heading: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![heading.into_iter().map(str::to_owned).collect()] }
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
            }
        }
        text
    }
}

struct Found<'a>(&'a Report);

impl Found<'_> {
    fn series(&self, cell: &str, server: &str, figure: &str) -> Option<&Series> {
        let mut series = self.0.series.iter();
        series.find(|series| {
            series.case == CASE && series.cell == cell && series.server == server && series.figure.name == figure
        })
    }

    /// The median, or why there is none.
    fn value(&self, cell: &str, server: &str, figure: &str) -> String {
        match self.series(cell, server, figure) {
            None => String::new(),
            Some(series) => series.spread().map_or("-".to_owned(), |spread| number(spread.median)),
        }
    }

    /// heartwire, and how it compares to each of the others.
    fn ratios(&self, options: &Options) -> Table {
        let others = REFERENCES.iter().map(|name| format!("to {name}")).collect::<Vec<_>>();
        let mut table = Table::new(["heartwire", ""].into_iter().chain(others.iter().map(String::as_str)));
        let deliveries = options.subscribers.iter().map(|&subscribers| {
            let label = format!("deliveries from A to {subscribers} subscribers at B");
            (label, deliveries_cell(subscribers), "deliveries", "/s")
        });
        let rows = deliveries.chain([
            ("a lone message from A to B, p50".to_owned(), LONE.to_owned(), "at B, p50", "ms"),
            ("p99".to_owned(), LONE.to_owned(), "at B, p99", "ms"),
            (
                format!("{} come back at A: the last has all", options.crowd),
                recovery_cell(options),
                "at A: the last has all",
                "ms",
            ),
            ("at B".to_owned(), recovery_cell(options), "at B: the last has all", "ms"),
        ]);
        for (label, cell, figure, unit) in rows {
            let Some(own) = self.series(&cell, SERVERS[0].name(), figure) else { continue };
            let Some(spread) = own.spread() else { continue };
            let mut row = vec![label, format!("{} {unit}", grouped(&number(spread.median)))];
            row.extend(REFERENCES.iter().map(|other| {
                let ratio = self.0.ratio(own, other);
                ratio.map_or("-".to_owned(), |ratio| tell_ratio(&ratio, ratio.coverage))
            }));
            table.rows.push(row);
        }
        table
    }

    /// A table with a column for each server.
    fn by_server(&self, what: &str, rows: &[(&str, Vec<(String, &str)>)]) -> Table {
        let mut table = Table::new([what].into_iter().chain(SERVERS.iter().map(|kind| kind.name())));
        for (label, figures) in rows {
            let cells = SERVERS.iter().map(|kind| {
                let values = figures.iter().map(|(cell, figure)| self.value(cell, kind.name(), figure));
                values.collect::<Vec<_>>().join(", ")
            });
            let row: Vec<String> = [(*label).to_owned()].into_iter().chain(cells).collect();
            if row[1..].iter().any(|cell| cell.chars().any(|character| character.is_ascii_digit())) {
                table.rows.push(row);
            }
        }
        table
    }

    fn ways(&self) -> Table {
        let lone = |figures: [&'static str; 2]| figures.map(|figure| (LONE.to_owned(), figure)).to_vec();
        self.by_server(
            "a lone message, ms: p50, p99",
            &[
                ("one node, without Redis", lone(["without Redis, p50", "without Redis, p99"])),
                ("two nodes, from A to A", lone(["at A, p50", "at A, p99"])),
                ("from A to B", lone(["at B, p50", "at B, p99"])),
                ("the hop: B less A", lone(["the hop, p50", "the hop, p99"])),
            ],
        )
    }

    fn returns(&self, options: &Options) -> Table {
        let cell = recovery_cell(options);
        let what = format!("of {} that come back, having missed {} messages", options.crowd, options.missed);
        let one = |figure: &'static str| vec![(cell.clone(), figure)];
        self.by_server(
            &what,
            &[
                ("at A: got all, once and in order", one("got all at A")),
                ("told of a loss", one("told of a loss at A")),
                ("the last has all, ms", one("at A: the last has all")),
                ("at B: got all, once and in order", one("got all at B")),
                ("told of a loss", one("told of a loss at B")),
                ("the last has all, ms", one("at B: the last has all")),
            ],
        )
    }

    fn faults(&self) -> Table {
        let names = faults::FIGURES.map(|figure| {
            if figure.unit.is_empty() { figure.name.to_owned() } else { format!("{}, {}", figure.name, figure.unit) }
        });
        let heading = ["what happens", "at", "server"].into_iter().chain(names.iter().map(String::as_str));
        let mut table = Table::new(heading);
        for fault in Fault::ALL {
            for node in ['B', 'A'] {
                let cell = faults::cell(fault, node);
                for kind in SERVERS {
                    if self.series(&cell, kind.name(), faults::FIGURES[0].name).is_none() {
                        continue;
                    }
                    let is_first = node == 'B' && kind == SERVERS[0];
                    let what = if is_first { fault.name() } else { "" };
                    let mut row = vec![what.to_owned(), node.to_string(), kind.name().to_owned()];
                    row.extend(faults::FIGURES.map(|figure| self.value(&cell, kind.name(), figure.name)));
                    table.rows.push(row);
                }
            }
        }
        table
    }
}

/// A number with commas between thousands.
fn grouped(number: &str) -> String {
    let digits = number.find('.').unwrap_or(number.len());
    let comma = |at: usize| at > 0 && at < digits && (digits - at).is_multiple_of(3);
    number.char_indices().flat_map(|(at, digit)| comma(at).then_some(',').into_iter().chain([digit])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{less, more};

    #[test]
    fn a_part_of_a_page_is_replaced_and_nothing_else() {
        let page = format!("above\n{BEGIN}old\n{END}below\n");
        let replaced = replace(&page, "new\n").unwrap();
        assert_eq!(replaced, format!("above\n{BEGIN}\nnew\n\n{END}below\n"));
        assert_eq!(replace(&replaced, "new").unwrap(), replaced);
        assert_eq!(replace("a page without marks", "new"), None);
    }

    #[test]
    fn thousands_are_told_apart() {
        for (number, told) in [("157324", "157,324"), ("1234567", "1,234,567"), ("999", "999"), ("12.3", "12.3")] {
            assert_eq!(grouped(number), told);
        }
    }

    #[test]
    fn tables_have_what_was_measured() {
        let mut report = Report::default();
        for round in 1..=3 {
            for (kind, factor) in SERVERS.iter().zip([4.0, 1.0, 2.0, 8.0]) {
                let value = factor * f64::from(round);
                report.add(CASE, &deliveries_cell(100), kind.name(), more("deliveries", "/s"), value);
                report.add(CASE, &faults::cell(Fault::Pause, 'B'), kind.name(), faults::FIGURES[3], value);
                report.add(CASE, &faults::cell(Fault::Pause, 'B'), kind.name(), faults::FIGURES[0], 7.0);
                report.add(CASE, LONE, kind.name(), less("at B, p50", "ms"), value);
            }
        }
        let options = Options::sample();
        let part = part("Somewhere.", &options, &report);
        for wanted in [
            "Somewhere.\n\n| heartwire |  | to nchan, 1 worker |",
            "| deliveries from A to 100 subscribers at B | 8.00 /s | 4.00 (4.00..4.00) | 2.00 (2.00..2.00) | 0.50 ",
            "| from A to B | 8.00,  | 2.00,  | 4.00,  | 16.0,  |\n",
            "| Redis stopped for 5 s | B | heartwire, topics | 7.00 |  |  | 8.00 |",
            "|  | B | socket.io, streams adapter |",
        ] {
            assert!(part.contains(wanted), "{wanted} is not in {part}");
        }
        assert!(!part.contains("come back"), "{part}");
    }
}

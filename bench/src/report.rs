//! What was measured: series of values, one a round, and how they are told.

use std::fmt::Write as _;

use crate::spread::{Spread, interval_name};

/// A kind of figure. The first of a case is the one whose ratios are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Whether less of it is better.
    pub(crate) less_is_better: bool,
}

pub(crate) const fn more(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, less_is_better: false }
}

pub(crate) const fn less(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, less_is_better: true }
}

/// The values of one figure for one server in one cell of a case.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) case: &'static str,
    pub(crate) cell: String,
    pub(crate) server: String,
    pub(crate) figure: Figure,
    /// By round. One that failed is not a number.
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(&self.values)
    }
}

/// Stands behind a ratio that may as well be 1.
const SWAMPED: &str = "~";

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) series: Vec<Series>,
}

impl Report {
    pub(crate) fn add(&mut self, case: &'static str, cell: &str, server: &str, figure: Figure, value: f64) {
        let found = self.series.iter_mut().find(|series| {
            series.case == case && series.cell == cell && series.server == server && series.figure == figure
        });
        match found {
            Some(series) => series.values.push(value),
            None => {
                let (cell, server) = (cell.to_owned(), server.to_owned());
                self.series.push(Series { case, cell, server, figure, values: vec![value] });
            }
        }
    }

    /// How a server compares to another, round by round: above 1 is better.
    pub(crate) fn ratio(&self, series: &Series, other: &str) -> Option<Spread> {
        let other = self.series.iter().find(|candidate| {
            candidate.server == other
                && (candidate.case, &candidate.cell, candidate.figure) == (series.case, &series.cell, series.figure)
        })?;
        let ratios: Vec<f64> = series
            .values
            .iter()
            .zip(&other.values)
            .map(|(mine, theirs)| if series.figure.less_is_better { theirs / mine } else { mine / theirs })
            .collect();
        Spread::of(&ratios)
    }

    /// All that was measured, with ratios to these servers.
    pub(crate) fn tables(&self, references: &[&str]) -> String {
        let mut cases: Vec<&str> = Vec::new();
        for series in &self.series {
            if !cases.contains(&series.case) {
                cases.push(series.case);
            }
        }
        let mut text: String = cases.into_iter().map(|case| self.table(case, references)).collect();
        if text.contains(SWAMPED) {
            let _ = writeln!(text, "\n{SWAMPED}  the interval contains 1: a difference that the spread swamps");
        }
        text
    }

    fn table(&self, case: &str, references: &[&str]) -> String {
        let mut text = String::new();
        let mut cells: Vec<&str> = Vec::new();
        for series in self.series.iter().filter(|series| series.case == case) {
            if !cells.contains(&series.cell.as_str()) {
                cells.push(&series.cell);
            }
        }
        for cell in cells {
            let rows = self.rows(case, cell, references);
            let _ = writeln!(text, "\n{case}, {cell}");
            text.push_str(&align(&rows));
        }
        text
    }

    fn rows(&self, case: &str, cell: &str, references: &[&str]) -> Vec<Vec<String>> {
        let of_cell: Vec<&Series> =
            self.series.iter().filter(|series| series.case == case && series.cell == cell).collect();
        let mut figures: Vec<Figure> = Vec::new();
        let mut servers: Vec<&str> = Vec::new();
        for series in &of_cell {
            if !figures.contains(&series.figure) {
                figures.push(series.figure);
            }
            if !servers.contains(&series.server.as_str()) {
                servers.push(&series.server);
            }
        }
        let references: Vec<&str> = references.iter().copied().filter(|name| servers.contains(name)).collect();
        let first = figures.first();
        let spreads =
            of_cell.iter().filter(|series| Some(&series.figure) == first).filter_map(|series| series.spread());
        // What most intervals cover. One that lacks a round says it for itself.
        let coverage = spreads.map(|spread| spread.coverage).fold(0.0, f64::max);
        let mut heading = vec![String::new()];
        for (index, figure) in figures.iter().enumerate() {
            heading.push(if figure.unit.is_empty() {
                figure.name.to_owned()
            } else {
                format!("{} {}", figure.name, figure.unit)
            });
            if index == 0 {
                heading.extend((coverage > 0.0).then(|| interval_name(coverage)));
                heading.extend(references.iter().map(|reference| format!("to {reference}")));
            }
        }
        let mut rows = vec![heading];
        for server in servers {
            let mut row = vec![server.to_owned()];
            for (index, figure) in figures.iter().enumerate() {
                let series = of_cell.iter().find(|series| series.server == server && series.figure == *figure);
                let spread = series.and_then(|series| series.spread());
                let failed = if series.is_some() { "failed" } else { "-" };
                row.push(spread.map_or(failed.into(), |spread| number(spread.median)));
                if index == 0 {
                    let interval = spread.map_or("-".into(), |spread| interval(&spread, coverage));
                    row.extend((coverage > 0.0).then_some(interval));
                    for &reference in &references {
                        let ratio = series.and_then(|series| self.ratio(series, reference));
                        row.push(match ratio {
                            Some(_) if server == reference => "1".into(),
                            Some(ratio) => tell_ratio(&ratio, coverage),
                            None => "-".into(),
                        });
                    }
                }
            }
            rows.push(row);
        }
        rows
    }
}

/// An interval, with what it covers if that is less than others do.
fn interval(spread: &Spread, coverage: f64) -> String {
    let (low, high) = (number(spread.low), number(spread.high));
    if spread.is_single() {
        String::new()
    } else if spread.coverage < coverage.min(Spread::WANTED) {
        format!("({low}..{high}, {})", interval_name(spread.coverage))
    } else {
        format!("({low}..{high})")
    }
}

pub(crate) fn tell_ratio(ratio: &Spread, coverage: f64) -> String {
    let is_swamped = !ratio.is_single() && (ratio.low..=ratio.high).contains(&1.0);
    let mark = if is_swamped { SWAMPED } else { "" };
    let told = format!("{}{mark} {}", number(ratio.median), interval(ratio, coverage));
    told.trim_end().into()
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 { write!(text, "  {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// Three digits that count, and no more.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 0.005 => "0".into(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_round_by_round_and_above_one_is_better() {
        let mut report = Report::default();
        for (figure, expected) in [(more("rate", "1/s"), 2.0), (less("time", "s"), 0.5)] {
            for (mine, theirs) in [(2.0, 1.0), (8.0, 4.0), (100.0, 20.0)] {
                report.add("echo", "1", "mine", figure, mine);
                report.add("echo", "1", "theirs", figure, theirs);
            }
            let series = report.series.iter().find(|series| series.figure == figure).unwrap();
            assert_eq!(report.ratio(series, "theirs").unwrap().median, expected);
        }
    }

    #[test]
    fn a_ratio_that_the_spread_swamps_is_marked() {
        let mut report = Report::default();
        for (round, other) in [90.0, 110.0, 95.0, 120.0, 100.0, 130.0].into_iter().enumerate() {
            report.add("echo", "1", "bare", more("rate", "1/s"), 100.0);
            report.add("echo", "1", "close", more("rate", "1/s"), other);
            report.add("echo", "1", "fast", more("rate", "1/s"), other * 2.0);
            report.add("echo", "1", "twice", more("rate", "1/s"), if round < 2 { 300.0 } else { f64::NAN });
        }
        let table = report.tables(&["bare"]);
        for part in ["95 % interval", "1.05~ (0.90..1.30)\n", "2.10 (1.80..2.60)\n", "(3.00..3.00, range, 50 %)\n"] {
            assert!(table.contains(part), "{part} is not in {table}");
        }
        assert!(table.ends_with("~  the interval contains 1: a difference that the spread swamps\n"));
    }

    #[test]
    fn what_was_measured_once_has_no_interval() {
        let mut report = Report::default();
        report.add("idle", "1", "bare", less("memory", "KB"), 2.0);
        report.add("idle", "1", "mine", less("memory", "KB"), 2.0);
        let table = report.tables(&["bare"]);
        assert!(!table.contains(['(', '~', '%']), "{table}");
    }
}

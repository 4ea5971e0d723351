//! What was measured: series of values, one a round, and how they are told.

use std::fmt::Write as _;

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

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) series: Vec<Series>,
}

/// A median with the smallest and the largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Some(Self { median, least, most })
    }
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
        cases.into_iter().map(|case| self.table(case, references)).collect()
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
        let mut heading = vec![String::new()];
        for (index, figure) in figures.iter().enumerate() {
            heading.push(if figure.unit.is_empty() {
                figure.name.to_owned()
            } else {
                format!("{} {}", figure.name, figure.unit)
            });
            if index == 0 {
                heading.push("(least..most)".into());
                heading.extend(references.iter().map(|reference| format!("to {reference}")));
            }
        }
        let mut rows = vec![heading];
        for server in servers {
            let mut row = vec![server.to_owned()];
            for (index, figure) in figures.iter().enumerate() {
                let series = of_cell.iter().find(|series| series.server == server && series.figure == *figure);
                let spread = series.and_then(|series| Spread::of(&series.values));
                let failed = if series.is_some() { "failed" } else { "-" };
                row.push(spread.map_or(failed.into(), |spread| number(spread.median)));
                if index == 0 {
                    row.push(spread.map_or("-".into(), |s| format!("({}..{})", number(s.least), number(s.most))));
                    for reference in &references {
                        let ratio = series.and_then(|series| self.ratio(series, reference));
                        row.push(ratio.map_or("-".into(), |s| {
                            format!("{} ({}..{})", number(s.median), number(s.least), number(s.most))
                        }));
                    }
                }
            }
            rows.push(row);
        }
        rows
    }
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
        0.0 => "0".into(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, f64::NAN]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

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
}

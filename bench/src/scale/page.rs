//! Tables in Markdown, as docs/scale.md has them.

use std::fmt;

#[derive(Debug)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self(vec![heading.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) {
        self.0.push(row.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, row) in self.0.iter().enumerate() {
            row.iter().try_for_each(|cell| write!(f, "|{}{cell} ", if cell.is_empty() { "" } else { " " }))?;
            writeln!(f, "|")?;
            if number == 0 {
                writeln!(f, "|{}", " --- |".repeat(row.len()))?;
            }
        }
        Ok(())
    }
}

/// The cells of a line of a table. Nothing, if it is none.
pub(super) fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map(|inner| inner.split('|').map(|cell| cell.trim().to_owned()).collect()).unwrap_or_default()
}

/// Three digits that count, with commas.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    if value < 100.0 {
        let told = if value < 0.95 {
            format!("{value:.2}")
        } else if value < 9.95 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        };
        return told;
    }
    let scale = 10_f64.powi(value.log10().floor() as i32 - 2).max(1.0);
    whole((value / scale).round() * scale)
}

/// A whole number, with commas.
pub(super) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut told = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

/// Seconds, or milliseconds where there is less than one.
pub(super) fn time(seconds: f64) -> String {
    if seconds < 0.95 { format!("{} ms", short(seconds * 1000.0)) } else { format!("{} s", short(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let told = [0.126, 1.26, 12.6, 126.4, 1264.0, 1_999_500.0].map(short);
        assert_eq!(told, ["0.13", "1.3", "13", "126", "1,260", "2,000,000"]);
        assert_eq!((whole(1_234_567.0), time(0.25), time(12.0)), ("1,234,567".into(), "250 ms".into(), "12 s".into()));
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let mut table = Table::new(&["", "median"]);
        table.add(["a thing, µs".to_owned(), short(1264.0)]);
        let text = table.to_string();
        assert_eq!(text, "| | median |\n| --- | --- |\n| a thing, µs | 1,260 |\n");
        assert_eq!(text.lines().map(cells).next_back().unwrap(), ["a thing, µs", "1,260"]);
        assert!(cells("no table").is_empty());
    }
}

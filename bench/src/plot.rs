//! The report as a picture: for each cell a panel of bars, one for each server, with the interval as whiskers.

use std::fmt::Write as _;

use crate::report::{Report, Series, number};
use crate::spread::{Spread, interval_name};

const WIDTH: f64 = 560.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 46.0;
const MARGIN: f64 = 16.0;
const COLUMNS: usize = 2;

/// The first figure of each cell: what its ratios are made of. Below them the machine.
pub(crate) fn draw(report: &Report, machine: &str) -> String {
    let panels: Vec<Vec<&Series>> = panels(report);
    let mut body = String::new();
    let mut top = MARGIN;
    for line in panels.chunks(COLUMNS) {
        for (column, panel) in line.iter().enumerate() {
            draw_panel(&mut body, panel, MARGIN + column as f64 * (WIDTH + MARGIN), top);
        }
        let rows = line.iter().map(Vec::len).max().unwrap_or(0);
        top += HEAD + rows as f64 * ROW + MARGIN;
    }
    let _ = writeln!(body, "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#666\">{}</text>", top + 4.0, escape(machine));
    top += 2.0 * MARGIN;
    let width = MARGIN + COLUMNS as f64 * (WIDTH + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {top}\" width=\"{width}\" height=\"{top}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

fn panels(report: &Report) -> Vec<Vec<&Series>> {
    let mut panels: Vec<Vec<&Series>> = Vec::new();
    for series in &report.series {
        let same = |panel: &&mut Vec<&Series>| panel[0].case == series.case && panel[0].cell == series.cell;
        match panels.iter_mut().find(same) {
            // Only the first figure of a cell is drawn.
            Some(panel) if panel[0].figure == series.figure => panel.push(series),
            Some(_) => {}
            None => panels.push(vec![series]),
        }
    }
    panels
}

fn draw_panel(body: &mut String, panel: &[&Series], left: f64, top: f64) {
    let Some(first) = panel.first() else { return };
    let figure = first.figure;
    let better = if figure.less_is_better { "less is better" } else { "more is better" };
    let spreads: Vec<Option<Spread>> = panel.iter().map(|series| series.spread()).collect();
    let coverage = spreads.iter().flatten().map(|spread| spread.coverage).fold(0.0, f64::max);
    let interval = if coverage > 0.0 { format!(" and {}", interval_name(coverage)) } else { String::new() };
    let (case, cell) = (escape(first.case), escape(&first.cell));
    let _ = writeln!(
        body,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{case}: {cell}</text>\n\
         <text x=\"{left}\" y=\"{}\" fill=\"#666\">{} {}, {better}; median{interval}</text>",
        top + 14.0,
        top + 30.0,
        escape(figure.name),
        escape(figure.unit),
    );
    let most = spreads.iter().flatten().map(|spread| spread.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| (value.max(0.0) / most) * (WIDTH - LABELS - VALUES);
    for (row, (series, spread)) in panel.iter().zip(&spreads).enumerate() {
        let y = top + HEAD + row as f64 * ROW;
        let middle = y + ROW / 2.0 - 2.0;
        let bars = left + LABELS;
        let colour = if series.server.starts_with("heartwire") { "#c0392b" } else { "#9db4c0" };
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            bars - 8.0,
            middle + 4.0,
            escape(&series.server)
        );
        let Some(spread) = spread else {
            let _ = writeln!(body, "<text x=\"{bars}\" y=\"{}\" fill=\"#666\">failed</text>", middle + 4.0);
            continue;
        };
        let (length, low, high) = (scale(spread.median), bars + scale(spread.low), bars + scale(spread.high));
        let _ = writeln!(
            body,
            "<rect x=\"{bars}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"#222\" fill=\"none\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            ROW - 5.0,
            high + 6.0,
            middle + 4.0,
            number(spread.median)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::more;

    #[test]
    fn a_picture_has_a_bar_for_each_server_and_says_who_failed() {
        let mut report = Report::default();
        report.add("echo", "1 <connection>", "mine", more("rate", "/s"), 12.0);
        report.add("echo", "1 <connection>", "theirs", more("rate", "/s"), f64::NAN);
        let picture = draw(&report, "2 processors & more");
        assert_eq!(picture.matches("fill=\"#9db4c0\"").count(), 1);
        assert!(picture.contains("failed") && picture.contains("1 &lt;connection&gt;"));
        assert!(picture.contains("2 processors &amp; more"));
    }
}

//! The report as JSON, with what is known of the machine.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::report::Report;
use crate::server::Kind;
use crate::spread::Spread;

pub(crate) fn write(machine: &Machine, report: &Report, rounds: usize, seconds: f64) -> String {
    let series: Vec<Value> = report
        .series
        .iter()
        .map(|series| {
            let ratio = |other: Kind| report.ratio(series, other.name()).map(spread);
            json!({
                "case": series.case,
                "cell": series.cell,
                "server": series.server,
                "figure": series.figure.name,
                "unit": series.figure.unit,
                "less_is_better": series.figure.less_is_better,
                "values": series.values,
                "spread": series.spread().map(spread),
                "ratio_to_bare": ratio(Kind::Bare),
                "ratio_to_tokio_tungstenite": ratio(Kind::TokioTungstenite),
            })
        })
        .collect();
    let whole = json!({ "machine": machine.json(), "rounds": rounds, "seconds": seconds, "series": series });
    format!("{whole:#}\n")
}

fn spread(spread: Spread) -> Value {
    json!({ "median": spread.median, "low": spread.low, "high": spread.high, "coverage": spread.coverage })
}

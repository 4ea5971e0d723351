//! The report as JSON, with what is known of the machine.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::report::Report;
use crate::server::Kind;
use crate::spread::Spread;

pub(crate) fn write(report: &Report, rounds: usize, seconds: f64) -> String {
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
    let whole = json!({ "machine": machine(), "rounds": rounds, "seconds": seconds, "series": series });
    format!("{whole:#}\n")
}

fn spread(spread: Spread) -> Value {
    json!({ "median": spread.median, "low": spread.low, "high": spread.high, "coverage": spread.coverage })
}

fn machine() -> Value {
    let first_line = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.lines().next().map(str::to_owned));
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|found| found.1);
    json!({
        "cores": thread::available_parallelism().map(usize::from).ok(),
        "processor": processor,
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "load_average_at_the_end": first_line("/proc/loadavg"),
    })
}

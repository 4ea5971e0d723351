//! What the program says: lines that begin with the time, in seconds since 1970, and then
//!
//! - `opened ID PATH`, `missed ID COUNT`, `stalled ID`, `ended ID REASON` of its connections
//! - `begins ID` when a handler does, so that commands find its connection
//! - `back ID` when a handler has slept long enough
//! - `sent ID`, `confirmed ID` and `unconfirmed ID REASON` of what was asked for by a command
//! - `over ERROR` at the end, if it is not a good one

use std::fmt::Arguments;
use std::time::{SystemTime, UNIX_EPOCH};

use heartwire::Event;

pub fn say(what: Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("{:.6} {what}", now.as_secs_f64());
}

/// Tells of each event, until there will be no more.
pub fn tell(events: impl IntoIterator<Item = Event>) {
    for event in events {
        match event {
            Event::Opened { id, path, .. } => say(format_args!("opened {id} {path}")),
            Event::Missed { id, missed, .. } => say(format_args!("missed {id} {missed}")),
            Event::HandlerStalled { id, .. } => say(format_args!("stalled {id}")),
            Event::Closed(report) => say(format_args!("ended {} {}", report.id, report.reason)),
            _ => {}
        }
    }
}

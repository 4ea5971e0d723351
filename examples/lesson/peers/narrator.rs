//! Prints what happens, with the time since the scene began and who it happens to.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

static BEGINNING: Mutex<Option<Instant>> = Mutex::new(None);

/// Begins a scene: the clock starts again at zero.
pub(crate) fn scene(title: &str) {
    let mut beginning = BEGINNING.lock().unwrap();
    if beginning.is_some() {
        println!();
    }
    println!("{title}");
    *beginning = Some(Instant::now());
}

/// Says what somebody does, or what happens to them.
pub(crate) fn say(who: &str, what: impl Display) {
    say_at(Instant::now(), who, what);
}

/// Says what happened a moment ago.
pub(crate) fn say_at(when: Instant, who: &str, what: impl Display) {
    let beginning = BEGINNING.lock().unwrap().unwrap_or(when);
    println!("{:>6}  {who:<6}  {what}", seconds(when.saturating_duration_since(beginning)));
}

/// A duration for people: `2.5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

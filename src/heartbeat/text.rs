//! What a Ping announces, and Pings as text messages, for browser pages, which can neither send nor see a Ping frame.

use std::time::Duration;

use super::Activity;
use crate::durations::LONGEST;

/// The Ping in a text message, if it is one: `ping`, or `ping next=<milliseconds>`.
pub(crate) fn text_ping(text: &str) -> Option<Activity> {
    let rest = text.strip_prefix("ping")?;
    match rest.strip_prefix(' ') {
        None if rest.is_empty() => Some(Activity::Ping { next: None }),
        Some(rest) if rest.starts_with("next=") => Some(Activity::Ping { next: announcement(rest.as_bytes()) }),
        _ => None,
    }
}

/// The announcement in the payload of a Ping: it begins with `next=` and milliseconds in digits, up to a space or the
/// end. Any other payload announces nothing.
pub(crate) fn announcement(payload: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(payload).ok()?.strip_prefix("next=")?;
    let digits = text.split_once(' ').map_or(text, |(digits, _)| digits);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number too large for the type means the longest duration.
    is_number.then(|| digits.parse().map_or(LONGEST, Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_milliseconds_or_nothing() {
        for (payload, milliseconds) in [("next=0", 0), ("next=1500", 1500), ("next=1500 17", 1500), ("next=007", 7)] {
            assert_eq!(announcement(payload.as_bytes()), Some(Duration::from_millis(milliseconds)));
        }
        assert_eq!(announcement(b"next=99999999999999999999999999"), Some(LONGEST));
        for nonsense in
            ["", "17", "next=", "next=-1", "next=+1", "next=1.5", "next= 5", "Next=5", "next=5s", "next=\u{0661}"]
        {
            assert_eq!(announcement(nonsense.as_bytes()), None, "{nonsense}");
        }
        assert_eq!(announcement(b"next=5\xff"), None);
    }

    #[test]
    fn heartbeats_in_text_are_told_from_messages() {
        assert_eq!(text_ping("ping"), Some(Activity::Ping { next: None }));
        let next = Some(Duration::from_millis(1500));
        assert_eq!(text_ping("ping next=1500"), Some(Activity::Ping { next }));
        for nonsense in ["ping next=", "ping next=soon"] {
            assert_eq!(text_ping(nonsense), Some(Activity::Ping { next: None }), "a heartbeat that announces nothing");
        }
        for message in ["", "Ping", "ping ", "pings", "ping pong", "ping  next=5", "pingnext=5"] {
            assert_eq!(text_ping(message), None, "{message}");
        }
    }
}

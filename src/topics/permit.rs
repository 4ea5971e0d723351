//! What a client has shown that it may do, by a token, and until when.
//!
//! Time is monotonic: a permit lasts as long as its token was good for when it was verified, whatever the clock does
//! later.

use std::time::{Duration, Instant};

use super::grants::Grants;

/// A client is warned so long before its permit expires, or a fifth of the permit's time before if that is less.
const WARNING: Duration = Duration::from_secs(30);
const SHARE: u32 = 5;

#[derive(Debug, Clone)]
pub(crate) struct Permit {
    pub(super) grants: Grants,
    /// `None`: for ever.
    until: Option<Instant>,
    /// When its client is to be warned, unless it was.
    warn_at: Option<Instant>,
}

/// What is due at a permit's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant; `None` for ever.
    Nothing(Option<Instant>),
    /// It expires after this time.
    Warning(Duration),
    Expired,
}

impl Permit {
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "nobody verifies tokens then"))]
    pub(super) fn new(grants: Grants, valid_for: Option<Duration>, now: Instant) -> Self {
        // So far in the future that it cannot be told is for ever.
        let until = valid_for.and_then(|valid| now.checked_add(valid));
        let early = valid_for.map(|valid| WARNING.min(valid / SHARE)).unwrap_or_default();
        Self { grants, until, warn_at: until.and_then(|until| until.checked_sub(early)) }
    }

    /// The user that its token names.
    pub(crate) fn user(&self) -> Option<&str> {
        self.grants.user()
    }

    /// For how long it lasts. `None`: for ever.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now))
    }

    /// Until when. `None`: for ever.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What is due. A warning is due once.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let Some(until) = self.until else { return Due::Nothing(None) };
        if until <= now {
            return Due::Expired;
        }
        match self.warn_at.filter(|at| *at > now) {
            Some(at) => Due::Nothing(Some(at)),
            None if self.warn_at.take().is_some() => Due::Warning(until.saturating_duration_since(now)),
            None => Due::Nothing(Some(until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_warns_once_and_then_expires() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut permit = Permit::new(Grants::new(), Some(100 * second), now);
        assert_eq!(permit.due(now), Due::Nothing(Some(now + 80 * second)));
        assert_eq!(permit.due(now + 80 * second), Due::Warning(20 * second));
        assert_eq!(permit.due(now + 81 * second), Due::Nothing(Some(now + 100 * second)));
        assert_eq!(permit.due(now + 100 * second), Due::Expired);
        let mut long = Permit::new(Grants::new(), Some(3600 * second), now);
        assert_eq!(long.due(now), Due::Nothing(Some(now + 3570 * second)));
        for forever in [None, Some(Duration::MAX)] {
            assert_eq!(Permit::new(Grants::new(), forever, now).due(now + 3600 * second), Due::Nothing(None));
        }
    }
}

//! What a client may do, by its token or by the answer of an authorization service, and until when.
//!
//! Time is monotonic: a permit lasts as long as its token was good for when it was verified, whatever the clock does
//! later.

use std::time::{Duration, Instant};

#[cfg(feature = "auth-url")]
use super::auth_service::AuthError;
use super::grants::Grants;

/// How much longer than it says a permit lasts, for the clocks of its issuer and of the server may differ.
#[cfg(any(feature = "auth-url", feature = "jwt"))]
pub(super) const LEEWAY: Duration = Duration::from_secs(5);

/// The close code when a permit has expired: 401, as far as close codes have it.
pub(super) const EXPIRED: u16 = 4401;

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
    /// What an authorization service is asked with. `None` for a token that was verified here.
    #[cfg(feature = "auth-url")]
    pub(super) asked: Option<Asked>,
}

/// How a permit came from an authorization service.
#[cfg(feature = "auth-url")]
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The token that its client has sent after the opening handshake.
    pub(super) token: Option<std::sync::Arc<str>>,
    /// Whether the service is asked about each topic.
    pub(super) for_topics: bool,
}

/// What is due at a permit's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant; `None` for ever.
    Nothing(Option<Instant>),
    /// It expires soon.
    Warning,
    Expired,
}

impl Permit {
    #[cfg_attr(not(any(feature = "auth-url", feature = "jwt")), allow(dead_code, reason = "nothing permits then"))]
    pub(super) fn new(grants: Grants, valid_for: Option<Duration>, now: Instant) -> Self {
        // So far in the future that it cannot be told is for ever.
        let until = valid_for.and_then(|valid| now.checked_add(valid));
        let early = valid_for.map(|valid| WARNING.min(valid / SHARE)).unwrap_or_default();
        Self {
            grants,
            until,
            warn_at: until.and_then(|until| until.checked_sub(early)),
            #[cfg(feature = "auth-url")]
            asked: None,
        }
    }

    /// The permit of an authorization service, which was asked with this token, and is to be asked about topics.
    #[cfg(feature = "auth-url")]
    pub(super) fn of_service(mut self, token: Option<&str>, for_topics: bool) -> Self {
        self.asked = Some(Asked { token: token.map(Into::into), for_topics });
        self
    }

    /// Gives way to what a service permits now, if that lasts longer. Whether it has. Without an answer, the next
    /// warning comes due when half of the time that is left is over.
    #[cfg(feature = "auth-url")]
    pub(super) fn renew(&mut self, answer: Result<Self, AuthError>) -> bool {
        /// What differs by less is the same time, measured twice.
        const TOLERANCE: Duration = Duration::from_secs(1);
        let Some(until) = self.until else { return false };
        match answer {
            Ok(renewed) => {
                let is_longer = renewed.until.is_none_or(|renewed| renewed > until + TOLERANCE);
                // A connection belongs to one user.
                let is_given = is_longer && (renewed.user().is_none() || renewed.user() == self.user());
                if is_given {
                    *self = renewed;
                }
                is_given
            }
            Err(AuthError::Unavailable) => {
                let now = Instant::now();
                let at = now + (until.saturating_duration_since(now) / 2).max(TOLERANCE);
                self.warn_at = Some(at).filter(|at| *at < until);
                false
            }
            Err(AuthError::Refused { .. }) => false,
        }
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
            None if self.warn_at.take().is_some() => Due::Warning,
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
        assert_eq!(permit.due(now + 80 * second), Due::Warning);
        assert_eq!(permit.due(now + 81 * second), Due::Nothing(Some(now + 100 * second)));
        assert_eq!(permit.due(now + 100 * second), Due::Expired);
        let mut long = Permit::new(Grants::new(), Some(3600 * second), now);
        assert_eq!(long.due(now), Due::Nothing(Some(now + 3570 * second)));
        for forever in [None, Some(Duration::MAX)] {
            assert_eq!(Permit::new(Grants::new(), forever, now).due(now + 3600 * second), Due::Nothing(None));
        }
    }
}

//! What an answer of the authorization service means.
//!
//! Invariant: nothing of an answer is in what is said of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::topics::claims;
use crate::topics::grants::Grants;
use crate::topics::permit::LEEWAY;

/// How long an answer is used again if it does not say so: for all tabs of a page that is loaded anew.
const KEPT: Duration = Duration::from_secs(10);
/// How long at most, whatever it says.
const KEPT_AT_MOST: Duration = Duration::from_secs(3600);
/// The same of a refusal: whoever logs in must not wait.
const REFUSAL_KEPT: Duration = Duration::from_secs(1);
const REFUSAL_KEPT_AT_MOST: Duration = Duration::from_secs(10);

/// The longest `WWW-Authenticate` that is passed on, in bytes.
const MAX_CHALLENGE: usize = 512;

/// What somebody may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) grants: Grants,
    /// Whether each topic is to be asked for.
    pub(super) asks_for_topics: bool,
    /// Until when. `None`: for ever.
    pub(super) valid_until: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Granted(Arc<Answer>),
    /// With 401 or 403.
    Refused {
        status: u16,
        challenge: Option<String>,
    },
}

/// An answer as it came.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) cache_control: String,
    pub(super) challenge: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Outcome {
    /// What an answer means, and for how long it may be used again.
    ///
    /// # Errors
    /// Why it means nothing: the service is at fault.
    pub(super) fn read(received: &Received, clock: SystemTime, now: Instant) -> Result<(Self, Duration), String> {
        let kept = max_age(&received.cache_control);
        match received.status {
            200 | 204 => {
                let answer = Answer::read(&received.body, clock, now)?;
                let kept = kept.unwrap_or(KEPT).min(KEPT_AT_MOST);
                let left = answer.valid_until.map_or(kept, |until| until.saturating_duration_since(now));
                Ok((Self::Granted(Arc::new(answer)), kept.min(left)))
            }
            status @ (401 | 403) => {
                let challenge = received.challenge.clone().filter(|challenge| challenge.len() <= MAX_CHALLENGE);
                let kept = kept.unwrap_or(REFUSAL_KEPT).min(REFUSAL_KEPT_AT_MOST);
                Ok((Self::Refused { status, challenge }, kept))
            }
            status @ 300..=399 => Err(format!(
                "it answered with {status}, and redirects are not followed: 401 is for somebody who has to log in"
            )),
            status => Err(format!("it answered with {status}, which is none of 200, 204, 401 and 403")),
        }
    }

    /// How many bytes it takes, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Granted(answer) => {
                let Answer { grants, .. } = &**answer;
                let patterns = grants.subscribe().iter().chain(grants.publish());
                size_of::<Answer>() + patterns.map(|pattern| pattern.to_string().len() + 48).sum::<usize>()
            }
            Self::Refused { .. } => MAX_CHALLENGE,
        }
    }
}

impl Answer {
    fn read(body: &[u8], clock: SystemTime, now: Instant) -> Result<Self, String> {
        // A service that grants nothing need not say that in JSON.
        let json = if body.trim_ascii().is_empty() { b"{}" } else { body };
        let grants = Grants::from_json(json).map_err(|error| format!("its answer cannot be used: {error}"))?;
        let lists = claims::read(json, ["subscribe", "publish"]).map(|lists| lists.iter().any(Option::is_some));
        let valid_until = match grants.expires() {
            None => None,
            Some(expires) => match (expires + LEEWAY).duration_since(clock) {
                // So far in the future that it cannot be told is for ever.
                Ok(rest) if !rest.is_zero() => now.checked_add(rest),
                _ => return Err("what it granted has expired already: do its clock and ours agree?".to_owned()),
            },
        };
        Ok(Self { grants, asks_for_topics: lists == Ok(false), valid_until })
    }
}

/// For how long an answer may be used again, by its `Cache-Control` (RFC 9111 section 5.2.2).
fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = cache_control.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    let mut ages = directives.filter_map(|directive| match &*directive {
        "no-store" | "no-cache" => Some(Duration::ZERO),
        _ => {
            let seconds = directive.strip_prefix("max-age=")?.trim_matches('"').parse().unwrap_or(0);
            Some(Duration::from_secs(seconds))
        }
    });
    let first = ages.next()?;
    Some(ages.fold(first, Duration::min))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn read(status: u16, cache_control: &str, body: &str) -> Result<(Outcome, Duration), String> {
        let received = Received { status, cache_control: cache_control.to_owned(), challenge: None, body: body.into() };
        Outcome::read(&received, UNIX_EPOCH + Duration::from_secs(1000), Instant::now())
    }

    fn granted(body: &str) -> Arc<Answer> {
        match read(200, "", body) {
            Ok((Outcome::Granted(answer), _)) => answer,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn topics_are_asked_for_if_neither_list_is_there() {
        for (body, asks) in [
            ("", true),
            (" \n", true),
            ("{}", true),
            (r#"{"sub":"alice","exp":2000}"#, true),
            (r#"{"subscribe":[]}"#, false),
            (r#"{"publish":["chat"]}"#, false),
        ] {
            assert_eq!(granted(body).asks_for_topics, asks, "{body}");
        }
        assert_eq!(granted(r#"{"sub":"alice"}"#).grants.user(), Some("alice"));
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_the_services_fault_and_is_not_shown() {
        let million = format!(r#"{{"subscribe":[{}"s3cret"]}}"#, r#""s3cret","#.repeat(5_000));
        for (status, body) in [
            (200, "s3cret"),
            (200, r#"["s3cret"]"#),
            (200, r#"{"sub":5}"#),
            (200, r#"{"sub":"s3cret/x"}"#),
            (200, r#"{"subscribe":"s3cret"}"#),
            (200, r#"{"subscribe":["s3cret//"]}"#),
            (200, r#"{"sub":"s3cret","sub":"s3cret"}"#),
            (200, r#"{"exp":"s3cret"}"#),
            (200, r#"{"exp":1}"#),
            (200, &*million),
            (302, ""),
            (404, "s3cret"),
            (500, ""),
            (201, "{}"),
        ] {
            let error = read(status, "", body).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_within_bounds_and_its_validity() {
        let kept = |status, cache_control: &str, body: &str| read(status, cache_control, body).unwrap().1.as_secs();
        for (cache_control, grant, refusal) in [
            ("", 10, 1),
            ("private", 10, 1),
            ("max-age=60", 60, 10),
            ("Max-Age=\"60\", private", 60, 10),
            ("max-age=60, no-cache", 0, 0),
            ("no-store", 0, 0),
            ("max-age=x", 0, 0),
            ("max-age=99999999", 3600, 10),
        ] {
            assert_eq!(
                (kept(200, cache_control, "{}"), kept(403, cache_control, "")),
                (grant, refusal),
                "{cache_control}"
            );
        }
        // With the leeway.
        assert_eq!(kept(200, "max-age=60", r#"{"exp":1020}"#), 25);
    }
}

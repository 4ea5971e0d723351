//! The topics of the server as JSON for the status page: those in trouble, then the busiest, and the members of the one
//! that a viewer has opened.
//!
//! Invariants:
//! - The size is bounded, whatever clients do: it shows a limited number of topics and of members, whose names are
//!   bounded.
//! - No lock is held for longer than it takes to look at one topic, so who publishes hardly waits for a look.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::message::Message;
use crate::topics::hub::Hub;
use crate::topics::{TopicInfo, TopicName};

/// The most topics, and the most members of the topic that is open, that are shown one by one.
const SHOWN: usize = 30;

/// Rates are those of about this time, or up to twice as much.
const RATE_PERIOD: Duration = Duration::from_secs(2);

/// The longest text that a viewer may send: two names, each with every character escaped.
const LONGEST_WISH: usize = 2 * 6 * TopicName::MAX_LEN + 64;

/// What a viewer wants to see. It may change at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Wish {
    /// Only topics whose names contain this text. Small and capital letters are the same. Empty: all topics.
    #[serde(default)]
    filter: String,
    /// The topic whose members are shown.
    open: Option<String>,
}

/// The wish of a viewer, for its connection's thread, which sets it, and for the publisher.
#[derive(Default)]
pub(super) struct Wished {
    /// Protects nothing but the wish.
    wish: Mutex<Wish>,
}

impl Wished {
    /// Takes what the viewer has sent.
    ///
    /// # Errors
    /// What is wrong with it, as a reason to close.
    pub(super) fn set(&self, message: &Message) -> Result<(), &'static str> {
        let wish = Wish::parse(message)?;
        *self.lock() = wish;
        Ok(())
    }

    pub(super) fn current(&self) -> Wish {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wish {
    fn parse(message: &Message) -> Result<Self, &'static str> {
        let text = message.as_text().filter(|text| text.len() <= LONGEST_WISH);
        let wish: Option<Self> = text.and_then(|text| serde_json::from_str(text).ok());
        let is_short = |text: &str| text.len() <= TopicName::MAX_LEN;
        wish.filter(|wish| is_short(&wish.filter) && wish.open.as_deref().is_none_or(is_short))
            .ok_or(r#"a viewer may send {"filter":"TEXT","open":"TOPIC"} and nothing else"#)
    }
}

/// What is kept from one look to the next, so that rates can be told.
#[derive(Default)]
pub(super) struct Rates {
    older: Option<Seen>,
    newer: Option<Seen>,
}

/// The offset of the last message of each topic at some moment.
struct Seen {
    at: Instant,
    offsets: HashMap<TopicName, u64>,
}

/// All topics at one moment.
pub(super) struct Look<'a> {
    hub: &'a Hub,
    totals: Value,
    topics: Vec<Rated>,
}

/// A topic, and how many messages it has a second. `None` if that is not known yet.
struct Rated {
    info: TopicInfo,
    rate: Option<f64>,
}

impl Rates {
    /// Looks at all topics.
    pub(super) fn look<'a>(&mut self, hub: &'a Hub, now: Instant) -> Look<'a> {
        let topics = hub.infos();
        let base = self.older.as_ref().or(self.newer.as_ref());
        let rated =
            |(info, began_after)| Rated { rate: base.and_then(|base| base.rate(&info, began_after, now)), info };
        let topics: Vec<_> = topics.into_iter().map(rated).collect();
        self.remember(&topics, now);
        Look { hub, totals: totals(hub, &topics), topics }
    }

    fn remember(&mut self, topics: &[Rated], now: Instant) {
        let is_due = |newer: &Seen| now.saturating_duration_since(newer.at) >= RATE_PERIOD;
        if self.newer.as_ref().is_none_or(is_due) {
            let offset = |Rated { info, .. }: &Rated| (info.name.clone(), info.position.offset());
            let seen = Seen { at: now, offsets: topics.iter().map(offset).collect() };
            self.older = self.newer.replace(seen);
        }
    }
}

impl Seen {
    /// Messages a second since then.
    fn rate(&self, info: &TopicInfo, began_after: u64, now: Instant) -> Option<f64> {
        // One that came anew since then began after all that the one before it had.
        let before = self.offsets.get(&info.name).map_or(began_after, |offset| began_after.max(*offset));
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        (seconds > 0.0).then(|| info.position.offset().saturating_sub(before) as f64 / seconds)
    }
}

impl Look<'_> {
    /// What a viewer gets to see of it.
    pub(super) fn text(&self, wish: &Wish) -> String {
        let filter = wish.filter.to_lowercase();
        let mut chosen: Vec<&Rated> = self.topics.iter().filter(|rated| rated.is_named(&filter)).collect();
        let matching = chosen.len();
        if matching > SHOWN {
            let is_open = |rated: &Rated| wish.open.as_deref() == Some(rated.info.name.as_str());
            chosen.select_nth_unstable_by_key(SHOWN, |rated| (!is_open(rated), rated.rank()));
            chosen.truncate(SHOWN);
        }
        // So that nothing jumps while a topic becomes busier than another.
        chosen.sort_unstable_by(|one, other| one.info.name.cmp(&other.info.name));
        let mut topics = self.totals.clone();
        topics["filter"] = json!(wish.filter);
        topics["matching"] = json!(matching);
        topics["shown"] = chosen.into_iter().map(Rated::to_json).collect();
        if let Some(open) = &wish.open {
            topics["open"] = json!({ "name": open, "members": null, "more": 0 });
            if let Some((members, count)) = self.hub.some_members(open, SHOWN) {
                topics["open"]["more"] = json!(count - members.len());
                topics["open"]["members"] = members.iter().filter_map(|member| read(member)).collect();
            }
        }
        json!({ "topics": topics }).to_string()
    }
}

/// A member as [`Hub::some_members`] describes it, which is JSON.
fn read(member: &str) -> Option<Value> {
    serde_json::from_str(member).ok()
}

impl Rated {
    /// `filter` is in small letters.
    fn is_named(&self, filter: &str) -> bool {
        filter.is_empty() || self.info.name.as_str().to_lowercase().contains(filter)
    }

    /// Those with subscribers that are behind come first, then the busiest.
    fn rank(&self) -> impl Ord {
        let thousandths = (self.rate.unwrap_or_default() * 1_000.0) as u64;
        (self.info.behind == 0, Reverse(thousandths), Reverse(self.info.subscribers), self.info.name.clone())
    }

    fn to_json(&self) -> Value {
        let Self { info, rate } = self;
        json!({
            "name": info.name.as_str(),
            "offset": info.position.offset(),
            "rate": rate,
            "subscribers": info.subscribers,
            "behind": info.behind,
            "kept": info.kept,
            "bytes": info.bytes,
        })
    }
}

fn totals(hub: &Hub, topics: &[Rated]) -> Value {
    let sum = |of: fn(&TopicInfo) -> usize| topics.iter().map(|rated| of(&rated.info)).sum::<usize>();
    let counters = hub.counters();
    json!({
        "count": topics.len(),
        "subscribers": sum(|topic| topic.subscribers),
        "behind": sum(|topic| topic.behind),
        "kept": sum(|topic| topic.kept),
        "bytes": sum(|topic| topic.bytes),
        "published": counters.publications().map(|(_, count)| count).sum::<u64>(),
        "lost": counters.losses(),
        "refused": counters.refusals().map(|(_, count)| count).sum::<u64>(),
        "has_presence": hub.has_presence(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, position: &str) -> TopicInfo {
        let (name, position) = (name.parse().unwrap(), position.parse().unwrap());
        TopicInfo { name, position, subscribers: 0, behind: 0, kept: 0, bytes: 0 }
    }

    #[test]
    fn a_rate_is_of_what_came_since_and_never_of_another_topic_of_that_name() {
        let at = Instant::now();
        let seen = Seen { at, offsets: HashMap::from([("a".parse().unwrap(), 100)]) };
        let rate = |name: &str, offset: u64, began_after: u64, seconds: u64| {
            let info = info(name, &format!("0123456789abcdef:{offset}"));
            seen.rate(&info, began_after, at + Duration::from_secs(seconds))
        };
        assert_eq!(
            (rate("a", 100, 0, 2), rate("a", 110, 0, 2), rate("a", 110, 0, 4)),
            (Some(0.0), Some(5.0), Some(2.5))
        );
        assert_eq!(rate("a", 110, 0, 0), None, "not yet");
        // It was removed and came anew, after offsets that others had.
        assert_eq!(rate("a", 1_000_006, 1_000_000, 2), Some(3.0));
        assert_eq!((rate("new", 4, 0, 2), rate("new", 5_004, 5_000, 2)), (Some(2.0), Some(2.0)));
    }

    #[test]
    fn rates_are_of_some_seconds_and_not_of_a_moment() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut window = |tenths: u64| {
            let now = start + Duration::from_millis(tenths * 100);
            let base = rates.older.as_ref().or(rates.newer.as_ref()).map(|base| now - base.at);
            rates.remember(&[], now);
            base
        };
        assert_eq!((window(0), window(5)), (None, Some(Duration::from_millis(500))));
        for tenths in 20..100 {
            let base = window(tenths).expect("something was seen");
            assert!((RATE_PERIOD..=RATE_PERIOD * 2).contains(&base), "{base:?} at {tenths}");
        }
    }

    #[test]
    fn a_wish_has_two_names_at_most() {
        let parse = |text: &str| Wish::parse(&Message::from(text));
        let wish = |filter: &str, open: Option<&str>| Wish { filter: filter.into(), open: open.map(Into::into) };
        assert_eq!(parse("{}"), Ok(Wish::default()));
        assert_eq!(parse(r#"{"filter":"a","open":"b"}"#), Ok(wish("a", Some("b"))));
        let (longest, longer) = ("x".repeat(TopicName::MAX_LEN), "x".repeat(TopicName::MAX_LEN + 1));
        let escaped = r"\u0078".repeat(TopicName::MAX_LEN);
        let text = |filter: &str, open: &str| format!(r#"{{"filter":"{filter}","open":"{open}"}}"#);
        assert_eq!(parse(&text(&escaped, &escaped)), Ok(wish(&longest, Some(&longest))));
        for refused in [text(&longer, "a"), text("a", &longer), "[]".into(), "{".into(), " ".repeat(LONGEST_WISH + 1)] {
            assert!(parse(&refused).is_err(), "{refused}");
        }
        assert!(Wish::parse(&Message::binary(vec![b'{', b'}'])).is_err());
    }
}

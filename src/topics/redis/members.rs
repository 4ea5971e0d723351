//! What this node has to tell the others of who is subscribed here.
//!
//! Invariants:
//! - Of each subscription only its newest state waits, so what waits is bounded by the subscriptions there are.
//! - What was told is known, so that all of it can be told again.
//! - Each user is counted once, however many subscriptions it has, by whoever has the lock.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::connection::identity::ConnectionId;
use crate::topics::name::TopicName;

/// So many changes are told at a time.
const BATCH: usize = 256;

/// A subscription to a topic, as the others are to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::topics) enum Seat {
    /// Somebody is subscribed: its user, and whether Pongs are missed.
    Taken { user: Option<String>, is_missing: bool },
    /// Nobody is subscribed any more, for this cause, which is known within this time after the fact.
    Left { cause: String, within: Duration },
}

impl Seat {
    /// What the others are told: how somebody is, or nothing, and why nobody is there.
    pub(super) fn to_json(&self) -> (String, String) {
        match self {
            Self::Taken { user, is_missing } => {
                (json!({"user": user, "missing": is_missing}).to_string(), String::new())
            }
            Self::Left { cause, within } => {
                (String::new(), json!({"cause": cause, "within": within.as_millis()}).to_string())
            }
        }
    }

    /// Reads what another node tells. `None` if it is something that this version does not know.
    pub(super) fn from_json(text: &str) -> Option<Self> {
        let told: Value = serde_json::from_str(text).ok()?;
        if let Some(is_missing) = told["missing"].as_bool() {
            return Some(Self::Taken { user: told["user"].as_str().map(str::to_owned), is_missing });
        }
        let cause = told["cause"].as_str()?.to_owned();
        Some(Self::Left { cause, within: Duration::from_millis(told["within"].as_u64()?) })
    }
}

/// A topic and a connection.
pub(in crate::topics) type Key = (TopicName, ConnectionId);

#[derive(Debug, Default)]
pub(super) struct Members {
    /// Protects what there is to tell.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Key, Seat>,
    /// What is being told.
    under_way: Vec<(Key, Seat)>,
    /// What the others know, or are about to know.
    told: BTreeMap<Key, Seat>,
    /// How many subscriptions each member has here.
    members: BTreeMap<Who, usize>,
}

/// A user, or a connection that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    User(String),
    Connection(ConnectionId),
}

impl Members {
    /// A subscription is another one. Returns whether that is to be told.
    pub(super) fn note(&self, topic: &TopicName, id: ConnectionId, seat: Seat) -> bool {
        let mut state = self.lock();
        let key = (topic.clone(), id);
        state.count(&key, &seat);
        let is_news = match &seat {
            // Whoever was never told of has not been there.
            Seat::Left { .. } => state.told.contains_key(&key) || state.waiting.contains_key(&key),
            taken => state.told.get(&key) != Some(taken),
        };
        if is_news {
            state.waiting.insert(key, seat);
        } else {
            state.waiting.remove(&key);
        }
        is_news
    }

    /// What is to be told next, and whether there is more.
    pub(super) fn next(&self) -> (Vec<(Key, Seat)>, bool) {
        let mut state = self.lock();
        while state.under_way.len() < BATCH
            && let Some((key, seat)) = state.waiting.pop_first()
        {
            match &seat {
                Seat::Left { .. } => _ = state.told.remove(&key),
                taken => _ = state.told.insert(key.clone(), taken.clone()),
            }
            state.under_way.push((key, seat));
        }
        (state.under_way.clone(), !state.waiting.is_empty())
    }

    /// What was to be told was told.
    pub(super) fn was_told(&self) {
        self.lock().under_way.clear();
    }

    /// What was to be told may not have been told: it is told again, unless it is another one by now.
    pub(super) fn take_back(&self) {
        let mut state = self.lock();
        for (key, seat) in std::mem::take(&mut state.under_way) {
            state.waiting.entry(key).or_insert(seat);
        }
    }

    /// The others may know nothing: all is to be told again.
    pub(super) fn tell_all_again(&self) {
        self.take_back();
        let mut state = self.lock();
        let State { waiting, told, .. } = &mut *state;
        for (key, seat) in std::mem::take(told) {
            waiting.entry(key).or_insert(seat);
        }
    }

    /// How many users are subscribed, and connections that belong to none.
    pub(super) fn count(&self) -> u64 {
        self.lock().members.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A subscription is about to be another one.
    fn count(&mut self, key: &Key, seat: &Seat) {
        let before = self.waiting.get(key).or_else(|| self.told.get(key)).and_then(|seat| Who::of(seat, key.1));
        let after = Who::of(seat, key.1);
        if before == after {
            return;
        }
        if let Some(who) = before
            && let Entry::Occupied(mut count) = self.members.entry(who)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(who) = after {
            *self.members.entry(who).or_default() += 1;
        }
    }
}

impl Who {
    fn of(seat: &Seat, id: ConnectionId) -> Option<Self> {
        match seat {
            Seat::Taken { user: Some(user), .. } => Some(Self::User(user.clone())),
            Seat::Taken { user: None, .. } => Some(Self::Connection(id)),
            Seat::Left { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> Seat {
        Seat::Taken { user: None, is_missing: false }
    }

    fn left() -> Seat {
        Seat::Left { cause: "normal".to_owned(), within: Duration::ZERO }
    }

    fn seats(members: &Members) -> Vec<Seat> {
        members.next().0.into_iter().map(|(_, seat)| seat).collect()
    }

    #[test]
    fn only_news_is_told_and_what_was_not_told_is_told_again() {
        let (members, topic) = (Members::default(), "room".parse().unwrap());
        assert!(!members.note(&topic, 1, left()) && members.note(&topic, 1, taken()));
        assert_eq!(seats(&members), [taken()]);
        // It may be lost on the way.
        members.take_back();
        assert_eq!(seats(&members), [taken()]);
        members.was_told();
        assert!(!members.note(&topic, 1, taken()) && seats(&members).is_empty());
        assert!(members.note(&topic, 1, left()));
        assert_eq!(seats(&members), [left()]);
        // Meanwhile it has come back.
        assert!(members.note(&topic, 1, taken()));
        members.take_back();
        assert_eq!(seats(&members), [taken()]);
    }

    #[test]
    fn a_user_is_counted_once_and_whatever_is_told_or_told_again() {
        let members = Members::default();
        let [room, hall]: [TopicName; 2] = ["room", "hall"].map(|name| name.parse().unwrap());
        let alice = |is_missing| Seat::Taken { user: Some("alice".to_owned()), is_missing };
        for (topic, id, seat, count) in [
            (&room, 1, alice(false), 1),
            (&hall, 1, alice(false), 1),
            (&room, 2, alice(true), 1),
            (&room, 2, alice(false), 1),
            (&room, 3, taken(), 2),
            (&hall, 3, taken(), 2),
            (&room, 4, taken(), 3),
            (&room, 4, left(), 2),
            (&room, 4, left(), 2),
            (&room, 3, left(), 2),
        ] {
            members.note(topic, id, seat);
            assert_eq!(members.count(), count, "{id} in {topic}");
        }
        // Whatever has been told by now, and whatever waits.
        let leave = |topic: &TopicName, id| {
            members.note(topic, id, left());
            members.count()
        };
        assert_eq!(leave(&room, 1), 2);
        members.next();
        assert_eq!(leave(&hall, 3), 1);
        members.tell_all_again();
        assert_eq!((leave(&hall, 1), leave(&hall, 1), leave(&room, 2)), (1, 1, 0));
    }

    #[test]
    fn what_is_told_can_be_read() {
        let user = Seat::Taken { user: Some("a \"b\"".to_owned()), is_missing: true };
        let left = Seat::Left { cause: "peer".to_owned(), within: Duration::from_millis(7) };
        for seat in [user, taken(), left] {
            let (state, cause) = seat.to_json();
            assert_eq!(Seat::from_json(&format!("{state}{cause}")), Some(seat));
        }
        assert_eq!(Seat::from_json("{}"), None);
    }

    #[test]
    fn whoever_knows_nothing_is_told_all_and_who_has_left_meanwhile() {
        let (members, topic) = (Members::default(), "room".parse().unwrap());
        members.note(&topic, 1, taken());
        members.note(&topic, 2, taken());
        assert_eq!(seats(&members).len(), 2);
        members.was_told();
        members.note(&topic, 2, left());
        members.tell_all_again();
        assert!(members.note(&topic, 1, left()));
        assert_eq!(seats(&members), [left(), left()]);
    }
}

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
    /// What is kept for nodes that come later: how somebody is. Nothing, if nobody is there.
    pub(super) fn to_state(&self) -> String {
        match self {
            Self::Taken { .. } => self.to_json().to_string(),
            Self::Left { .. } => String::new(),
        }
    }

    /// Reads what is kept. `None` if it is something that this version does not know.
    pub(super) fn from_state(text: &str) -> Option<Self> {
        Self::from_json(&serde_json::from_str(text).ok()?)
    }

    /// What the others are told.
    pub(super) fn write_batch(batch: &[(Key, Self)]) -> String {
        let told: Vec<_> =
            batch.iter().map(|((topic, id), seat)| json!([topic.as_str(), id, seat.to_json()])).collect();
        Value::from(told).to_string()
    }

    /// Reads what another node tells. What this version does not know is left out.
    pub(super) fn read_batch(told: &[u8]) -> Vec<(TopicName, ConnectionId, Self)> {
        let told: Vec<Value> = serde_json::from_slice(told).unwrap_or_default();
        let read =
            |told: &Value| Some((told[0].as_str()?.parse().ok()?, told[1].as_u64()?, Self::from_json(&told[2])?));
        told.iter().filter_map(read).collect()
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Taken { user, is_missing } => json!({"user": user, "missing": is_missing}),
            Self::Left { cause, within } => {
                json!({"cause": cause, "within": u64::try_from(within.as_millis()).unwrap_or(u64::MAX)})
            }
        }
    }

    fn from_json(told: &Value) -> Option<Self> {
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

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.under_way.is_empty()
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
        let topic: TopicName = "room".parse().unwrap();
        let batch: Vec<_> = [user, taken(), left].into_iter().map(|seat| ((topic.clone(), 7), seat)).collect();
        let read = Seat::read_batch(Seat::write_batch(&batch).as_bytes());
        assert_eq!(read.into_iter().map(|(topic, id, seat)| ((topic, id), seat)).collect::<Vec<_>>(), batch);
        // What a later version writes.
        assert_eq!(Seat::read_batch(br#"[["room",7,{}],["room",8],{}]"#), []);
        assert_eq!(Seat::read_batch(b"{"), []);
        let kept: Vec<_> = batch.iter().map(|(_, seat)| Seat::from_state(&seat.to_state())).collect();
        assert_eq!(kept, [Some(batch[0].1.clone()), Some(taken()), None]);
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

//! A topic that others have too: what is published comes from the backplane, in one order for all.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::entry::{Entry, Format};
use super::super::keys::Keys;
use super::super::position::{Epoch, Position};
use super::super::presence::{Member, Place};
use super::super::redis::NodeName;
use super::super::redis::members::Seat;
use super::super::subscriptions::Since;
use super::super::{Published, wire};
use super::{Pace, Removed, State, Subscriber, Topic};
use crate::connection::identity::ConnectionId;
use crate::message::Message;
use crate::transport::write_half::Refused;

/// How long a subscriber waits for a server that has read all that there is to hear of its epoch.
const LONG_ELSEWHERE: Duration = Duration::from_secs(2);

/// A message as it comes from the backplane.
#[derive(Debug)]
pub(in crate::topics) struct Arrival {
    pub(in crate::topics) offset: u64,
    pub(in crate::topics) message: Message,
    pub(in crate::topics) published: Instant,
}

/// The backplane no longer has what this copy has, or has something else in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::topics) struct Vanished;

impl Topic {
    /// Takes messages in their order, but for those that the copy has. What lies between is lost. Each subscriber that
    /// keeps up gets them by one write.
    pub(in crate::topics) fn apply(&self, messages: impl IntoIterator<Item = Arrival>) {
        let now = Instant::now();
        let has_some_behind = {
            let mut state = self.lock();
            let (mut entries, mut is_gap) = (Vec::new(), false);
            for Arrival { offset, message, published } in messages {
                if offset <= state.history.last() {
                    continue;
                }
                if offset != state.history.last() + 1 {
                    is_gap = true;
                    self.deliver(&mut state, &mem::take(&mut entries));
                    self.change(&mut state, |state| state.history.restart_after(offset - 1));
                    state.send_back();
                }
                let entry = Arc::new(Entry::new(offset, message, published));
                self.change(&mut state, |state| state.history.push(Arc::clone(&entry), self.limits(), now));
                entries.push(entry);
            }
            self.deliver(&mut state, &entries);
            // Whoever has waited for us to come as far goes on.
            let last = state.history.last();
            let can_go_on = |other: &Subscriber| {
                other.ahead_since.is_some() && other.cursor <= last && other.nowhere_since.is_none()
            };
            is_gap || state.subscribers.values().any(can_go_on)
        };
        if has_some_behind {
            self.catch_up_all();
        }
    }

    /// Whether a subscriber has to wait until this server has come as far as it is itself, or until it is known what
    /// became of its position.
    pub(super) fn must_wait(&self, state: &mut State, id: ConnectionId) -> bool {
        let Some(subscriber) = state.subscribers.get(&id) else { return false };
        let is_lost = subscriber.elsewhere.is_some() || subscriber.nowhere_since.is_some();
        let is_ahead = is_lost || state.is_ahead(subscriber.cursor);
        if let Some(subscriber) = state.subscribers.get_mut(&id) {
            subscriber.ahead_since =
                if is_ahead { subscriber.ahead_since.or_else(|| Some(Instant::now())) } else { None };
        }
        if is_ahead && let Some(node) = &self.common.node {
            node.note_ahead();
        }
        is_ahead
    }

    /// Where a subscriber is that comes from an epoch of which this server cannot tell whether it is over.
    pub(super) fn elsewhere(&self, state: &State, since: Since) -> Option<(Position, u64)> {
        let node = self.common.node.as_ref()?;
        match since {
            Since::Position(since) if since.epoch != state.epoch && !node.is_over(since.epoch) => {
                Some((since, state.history.last()))
            }
            _ => None,
        }
    }

    /// This server has read all that there was at a time. Whoever was said to have got more by then is at a position
    /// that is nowhere: what is published there now is another message. Another server may have seen that one as well,
    /// and tells the backplane once it gets to it; then the epoch is over, and all are told that some is lost. If that
    /// does not happen for as `long` as it takes to find such a server dead, these are told alone. Returns whether
    /// others may have to be told yet.
    pub(in crate::topics) fn give_up_those_ahead(&self, when_all_was_read: Instant, long: Duration) -> bool {
        let (mut given_up, mut is_any_left, now) = (Vec::new(), false, Instant::now());
        {
            let state = &mut *self.lock();
            let last = state.history.last();
            for (id, subscriber) in &mut state.subscribers {
                let Some(since) = subscriber.ahead_since else { continue };
                let is_elsewhere = subscriber.elsewhere.is_some();
                if since <= when_all_was_read && (is_elsewhere || subscriber.cursor > last) {
                    subscriber.nowhere_since.get_or_insert(now);
                }
                let patience = if is_elsewhere { LONG_ELSEWHERE } else { long };
                if subscriber.nowhere_since.is_some_and(|since| now - since >= patience) {
                    self.give_up(subscriber, state.epoch);
                    given_up.push(*id);
                } else {
                    is_any_left = true;
                }
            }
        }
        for id in given_up {
            self.catch_up(id);
        }
        is_any_left
    }

    /// A position is nowhere. One of another epoch was so when its subscriber came, and what came since is not lost.
    fn give_up(&self, subscriber: &mut Subscriber, epoch: Epoch) {
        (subscriber.cursor, subscriber.nowhere_since) = (u64::MAX, None);
        let Some((_, last)) = subscriber.elsewhere.take() else { return };
        let told = self.tell_lost(subscriber, Position { epoch, offset: last });
        if told.is_ok() && subscriber.shared.flush().is_ok() {
            subscriber.cursor = last;
        }
    }

    /// Makes the copy what the backplane has: the position of the last message, and those that are kept. Subscribers
    /// get what follows, or are told that some is lost, as all are if the epoch is another one.
    pub(in crate::topics) fn replace(
        &self,
        last: Position,
        entries: Vec<(u64, Message, Instant)>,
    ) -> Result<(), Vanished> {
        let now = Instant::now();
        {
            let mut state = self.lock();
            let is_new = state.epoch != last.epoch;
            let own = |offset| state.history.at(offset).map(|own| &own.message);
            // Of two servers that each took themselves for the master, both may have given out the same offsets.
            let is_other =
                |(offset, message, _): &(u64, Message, Instant)| own(*offset).is_some_and(|own| own != message);
            if !is_new && (last.offset < state.history.last() || entries.iter().any(is_other)) {
                return Err(Vanished);
            }
            if !is_new && last.offset == state.history.last() {
                return Ok(());
            }
            state.epoch = last.epoch;
            self.change(&mut state, |state| {
                state.history.restart_after(last.offset - entries.len() as u64);
                for (offset, message, published) in entries {
                    state.history.push(Arc::new(Entry::new(offset, message, published)), self.limits(), now);
                }
            });
            if is_new {
                state.began_after = 0;
                // A position in an epoch that is over is nowhere. Some have known this one before us.
                for subscriber in state.subscribers.values_mut() {
                    let known = subscriber.elsewhere.take().filter(|(since, _)| since.epoch == last.epoch);
                    subscriber.cursor = known.map_or(u64::MAX, |(since, _)| since.offset);
                    subscriber.nowhere_since = None;
                }
            }
            state.send_back();
        }
        self.catch_up_all();
        Ok(())
    }

    /// Publishes a message to the subscribers of this server alone. It has no place in the history.
    pub(in crate::topics) fn publish_here(&self, message: &Message, key: Option<&str>) -> Result<Published, Removed> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.is_removed {
            return Err(Removed);
        }
        let (here, position) = (state.count_subscribers(), state.position(state.history.last()));
        let window = &self.common.settings.window;
        let again = key.is_some_and(|key| self.change(&mut state, |state| state.keys.find(key, now, window)).is_some());
        let published = Published { position, here, again, only_here: true };
        if again {
            return Ok(published);
        }
        if let Some(key) = key {
            self.change(&mut state, |state| state.keys.add(key, position.offset, now, window));
        }
        let (json, bare) = (wire::message_here(&self.name, position, message), message.clone());
        let [json, bare] = [json, bare].map(|message| self.common.supervisor.encode_for_all(message));
        for subscriber in state.subscribers.values_mut() {
            match subscriber.pace {
                Pace::Live => {}
                // It will not find this in the history, and is told that it has lost some.
                Pace::Held | Pace::Behind => {
                    (subscriber.cursor, subscriber.elsewhere, subscriber.nowhere_since) = (u64::MAX, None, None);
                    continue;
                }
                Pace::Ended => continue,
            }
            let frames = if subscriber.format == Format::Json { &json } else { &bare };
            match subscriber.shared.try_send_frame(frames.frame_for(&subscriber.shared)) {
                Ok(()) => {}
                // It is told that it has lost some, once its queue has emptied.
                Err(Refused::Full) => (subscriber.pace, subscriber.cursor) = (Pace::Behind, u64::MAX),
                Err(Refused::Closed) => subscriber.pace = Pace::Ended,
            }
        }
        Ok(published)
    }

    /// The backplane has nothing of this topic: unless it is of this epoch already, it begins anew.
    pub(in crate::topics) fn begin_anew_unless_of(&self, first: Position) {
        if self.lock().epoch != first.epoch {
            // Of another epoch nothing vanishes.
            let _ = self.replace(first, Vec::new());
        }
    }

    /// Removes the topic, if nobody is subscribed.
    pub(in crate::topics) fn remove_if_unsubscribed(&self) -> bool {
        let mut state = self.lock();
        if !state.subscribers.is_empty() {
            return false;
        }
        self.change(&mut state, |state| {
            state.history.restart_after(state.history.last());
            state.keys = Keys::default();
        });
        state.is_removed = true;
        true
    }

    // Presence.

    /// Somebody on one of the servers is subscribed. Of those on this one it knows already, and better.
    pub(in crate::topics) fn take_seat(&self, place: Place, user: Option<&str>, is_missing: bool) {
        let mut state = self.lock();
        if place.node == state.node {
            return;
        }
        let member = Member::of(user, &place);
        self.take(&mut state, place, &member, is_missing, None);
    }

    /// Somebody is subscribed no more. Returns whether the topic has come to nothing.
    pub(in crate::topics) fn leave_seat(&self, place: &Place, cause: &str, within: Duration) -> bool {
        let mut state = self.lock();
        if !state.is_subscribed_here(place) {
            self.leave(&mut state, place, cause, within);
        }
        state.has_come_to_nothing()
    }

    /// These are all that are subscribed on a node. Whoever watches gets the list anew. Who is subscribed on this one
    /// is known better.
    pub(in crate::topics) fn replace_seats(&self, node: &NodeName, mut seats: Vec<(ConnectionId, Seat)>) {
        {
            let mut state = self.lock();
            if state.node.as_ref() == Some(node) {
                seats.clear();
            }
            let places = state.members.places_of(node);
            if !state.forget(places) && seats.is_empty() {
                return;
            }
            for (id, seat) in seats {
                if let Seat::Taken { user, is_missing } = seat {
                    let place = Place { node: Some(Arc::clone(node)), id };
                    let member = Member::of(user.as_deref(), &place);
                    let _ = state.members.take(place, &member, is_missing);
                }
            }
            state.outdate_watchers();
        }
        self.catch_up_all();
    }

    /// Who is subscribed on a node, as far as it is known here.
    pub(in crate::topics) fn seats_on(&self, node: &NodeName) -> Vec<ConnectionId> {
        self.lock().members.places_of(node).into_iter().map(|place| place.id).collect()
    }

    /// These are subscribed no more on a node, nobody knows why. Whoever watches gets the list anew. Returns whether
    /// the topic has come to nothing.
    pub(in crate::topics) fn forget_seats(&self, node: &NodeName, ids: &[ConnectionId]) -> bool {
        {
            let mut state = self.lock();
            if state.forget(ids.iter().map(|id| Place { node: Some(Arc::clone(node)), id: *id }).collect()) {
                state.outdate_watchers();
            }
        }
        self.catch_up_all();
        self.lock().has_come_to_nothing()
    }

    /// All that were subscribed on a node are gone. Returns whether the topic has come to nothing.
    pub(in crate::topics) fn remove_node(&self, node: &NodeName, cause: &str, within: Duration) -> bool {
        let mut state = self.lock();
        let places = state.members.places_of(node);
        for place in &places {
            self.leave(&mut state, place, cause, within);
        }
        !places.is_empty() && state.has_come_to_nothing()
    }

    /// How many connections are subscribed.
    pub(in crate::topics) fn subscribers(&self) -> usize {
        self.lock().count_subscribers()
    }

    fn catch_up_all(&self) {
        let ids: Vec<_> = self.lock().subscribers.keys().copied().collect();
        for id in ids {
            self.catch_up(id);
        }
    }
}

impl State {
    /// Forgets these places, and whoever has no other, without a word. Returns whether there were any.
    fn forget(&mut self, places: Vec<Place>) -> bool {
        let gone = places.into_iter().filter(|place| !self.is_subscribed_here(place)).collect::<Vec<_>>();
        gone.iter().fold(false, |is_any, place| self.members.leave(place).is_some() | is_any)
    }

    /// Whether a place is that of a connection that is subscribed to this server now, whatever is told of earlier.
    fn is_subscribed_here(&self, place: &Place) -> bool {
        place.node == self.node && self.subscribers.contains_key(&place.id)
    }

    /// Whoever kept up is behind.
    fn send_back(&mut self) {
        for subscriber in self.subscribers.values_mut().filter(|subscriber| subscriber.pace == Pace::Live) {
            subscriber.pace = Pace::Behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::publishing::tests::topic;
    use super::*;
    use crate::supervisor::tests::connection;
    use crate::topics::subscriptions::Terms;

    /// The offsets that are kept after these have come, in batches.
    fn kept(batches: &[&[u64]]) -> Vec<u64> {
        let topic = topic();
        for batch in batches {
            let arrival = |offset: &u64| Arrival {
                offset: *offset,
                message: offset.to_string().into(),
                published: Instant::now(),
            };
            topic.apply(batch.iter().map(arrival));
        }
        let entries = topic.read(None, usize::MAX, usize::MAX).ok().unwrap().entries;
        for entry in &entries {
            assert_eq!(entry.message.as_text(), Some(&*entry.offset.to_string()));
        }
        entries.iter().map(|entry| entry.offset).collect()
    }

    #[test]
    fn replace_finds_another_message_where_the_copy_has_one() {
        let topic = topic();
        let entry = |(offset, text): (u64, &str)| (offset, text.into(), Instant::now());
        let replace = |last: u64, entries: [(u64, &str); 2]| {
            let epoch = topic.lock().epoch;
            topic.replace(Position { epoch, offset: last }, entries.map(entry).into())
        };
        assert_eq!(replace(2, [(1, "one"), (2, "two")]), Ok(()));
        assert_eq!(replace(3, [(2, "two"), (3, "three")]), Ok(()));
        assert_eq!(replace(4, [(3, "other"), (4, "four")]), Err(Vanished));
        assert_eq!(replace(3, [(2, "two"), (3, "other")]), Err(Vanished), "though it is as long");
        // What the copy does not have says nothing.
        assert_eq!(replace(5, [(4, "four"), (5, "five")]), Ok(()));
    }

    /// What a subscriber is sent when somebody publishes to this server alone.
    fn told(is_live: bool) -> String {
        let topic = topic();
        let (shared, mut peer) = connection(&topic.common.supervisor, 1);
        let terms = Terms { format: Format::Json, since: Since::Now, watches: false };
        topic.subscribe(&shared, terms).ok().unwrap();
        if is_live {
            topic.release(1);
        }
        topic.publish_here(&"hello".into(), None).unwrap();
        topic.release(1);
        let mut frame = [0; 256];
        let size = peer.read(&mut frame).unwrap();
        String::from_utf8_lossy(&frame[2..size]).into_owned()
    }

    #[test]
    fn who_is_not_up_to_date_is_told_that_a_message_is_lost_that_no_history_has() {
        let live = told(true);
        assert!(live.contains(r#""type":"message""#) && live.contains(r#""only_here":true"#), "{live}");
        let held = told(false);
        assert!(held.starts_with(r#"{"type":"lost""#), "{held}");
    }

    #[test]
    fn apply_takes_each_message_once_however_they_come_together() {
        let one_by_one: Vec<[u64; 1]> = (1..=5).map(|offset| [offset]).collect();
        let one_by_one: Vec<&[u64]> = one_by_one.iter().map(|offset| &offset[..]).collect();
        for batches in [&one_by_one[..], &[&[1, 2, 3, 4, 5]], &[&[1, 2, 2, 3], &[], &[2, 3, 4, 5]]] {
            assert_eq!(kept(batches), [1, 2, 3, 4, 5], "{batches:?}");
        }
    }

    #[test]
    fn apply_begins_anew_after_what_is_missing() {
        for batches in [&[&[1, 2, 5, 6][..]][..], &[&[1, 2], &[5], &[6]], &[&[1, 3], &[5, 6]]] {
            assert_eq!(kept(batches), [5, 6], "{batches:?}");
        }
    }
}

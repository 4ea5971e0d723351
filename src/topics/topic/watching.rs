//! Subscribers of a topic that watch its presence: who they are told of, and when.
//!
//! Invariants:
//! - A watcher gets the list of all members, and then each change. One that is behind gets the list anew instead. So do
//!   all when changes come faster than they may be told.
//! - Changes reach a watcher after the messages that were published before them.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::PAUSE;
use super::{BATCH, Pace, State, Subscriber, Topic};
use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::message::Message;
use crate::supervisor::broadcast::Broadcast;
use crate::topics::presence::{self, Change, Member};
use crate::transport::write_half::Refused;

/// What a subscriber knows of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// It did not ask.
    Off,
    /// It has missed some, and is to get the list: once it has caught up, or when it is time for all of them.
    Outdated,
    /// All.
    UpToDate,
}

impl Topic {
    fn has_presence(&self) -> bool {
        self.common.settings.presence
    }

    /// A connection has subscribed.
    pub(super) fn joined(&self, state: &mut State, shared: &Shared) {
        if !self.has_presence() {
            return;
        }
        let member = Member::of(shared);
        let has_joined = state.members.add(member.clone(), shared.id());
        // One that joins while its Pongs are missed is told as doubted, and so has to be told as alive later.
        let change = state.judge(&member);
        if let Some(change) = if has_joined { Some(Change::Joined) } else { change } {
            self.tell_change(state, &member, change, has_joined.then(|| shared.id()));
        }
    }

    /// A connection is subscribed no more.
    pub(super) fn gone(&self, state: &mut State, subscriber: &Subscriber, cause: &str, within: Duration) {
        if !self.has_presence() {
            return;
        }
        let member = Member::of(&subscriber.shared);
        if state.members.remove(&member, subscriber.shared.id()) {
            if self.may_tell(state) {
                self.tell(state, presence::gone(&self.name, &member, cause, within), None);
            }
        } else {
            self.judge(state, &member);
        }
    }

    /// A connection misses Pongs, or no longer does: tells the watchers what that makes of its member.
    pub(in crate::topics) fn judge_member_of(&self, shared: &Shared) {
        let mut state = self.lock();
        if state.subscribers.contains_key(&shared.id()) {
            self.judge(&mut state, &Member::of(shared));
        }
    }

    fn judge(&self, state: &mut State, member: &Member) {
        if let Some(change) = state.judge(member) {
            self.tell_change(state, member, change, None);
        }
    }

    fn tell_change(&self, state: &mut State, member: &Member, change: Change, except: Option<ConnectionId>) {
        // Described only if somebody is told.
        if !self.may_tell(state) {
            return;
        }
        let shared = state.members.connections_of(member).filter_map(|id| state.shared_of(id));
        let described = presence::describe(member, shared.map(|shared| shared.info()));
        self.tell(state, presence::changed(&self.name, change, &described), except);
    }

    /// Whether a change is to be told now: somebody watches, and there were not so many changes that all who watch are
    /// to get the list instead.
    fn may_tell(&self, state: &mut State) -> bool {
        let now = Instant::now();
        if state.telling.allows(now) {
            return state.subscribers.values().any(|subscriber| subscriber.watch == Watch::UpToDate);
        }
        for subscriber in state.subscribers.values_mut().filter(|subscriber| subscriber.watch == Watch::UpToDate) {
            subscriber.watch = Watch::Outdated;
        }
        if !std::mem::replace(&mut state.is_to_list, true) {
            let due = state.telling.free_at(now).max(now + PAUSE);
            // Without a server that serves, nobody is subscribed either.
            let _ = self.common.to_list.send((due, self.name.clone()));
        }
        false
    }

    /// Gives the list to all watchers that have missed changes because there were too many, some of them at a time.
    pub(in crate::topics) fn list_members(&self) {
        // Once, at the beginning: who misses something from here on gets the next list.
        self.lock().is_to_list = false;
        let mut after = None;
        loop {
            let (mut state, began) = (self.lock(), Instant::now());
            let state = &mut *state;
            let is_late =
                |subscriber: &Subscriber| (subscriber.watch, subscriber.pace) == (Watch::Outdated, Pace::Live);
            let rest = state.subscribers.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
            let late = rest.filter(|(_, subscriber)| is_late(subscriber)).map(|(id, _)| *id);
            let late: Vec<_> = late.take(BATCH).collect();
            let Some(last) = late.last() else { return };
            after = Some(*last);
            let list = presence::list(None, &self.name, &describe_all(state.members_with_connections()));
            let frames = self.common.supervisor.encode_for_all(list);
            for id in late {
                let Some(subscriber) = state.subscribers.get_mut(&id) else { continue };
                subscriber.watch = Watch::UpToDate;
                subscriber.send_change(&frames);
            }
            state.telling.charge(began, Instant::now());
        }
    }

    /// Tells all watchers but one. Those that cannot take it now get the list later.
    fn tell(&self, state: &mut State, message: Message, except: Option<ConnectionId>) {
        let began = Instant::now();
        let frames = self.common.supervisor.encode_for_all(message);
        for (id, subscriber) in &mut state.subscribers {
            if subscriber.watch != Watch::UpToDate || Some(*id) == except {
                continue;
            }
            subscriber.send_change(&frames);
        }
        state.telling.charge(began, Instant::now());
    }

    /// Gives a watcher the list of all members, if it is to get that.
    pub(super) fn feed_members(&self, state: &mut State, id: ConnectionId) -> Result<(), Refused> {
        if state.subscribers.get(&id).is_none_or(|subscriber| subscriber.watch != Watch::Outdated) {
            return Ok(());
        }
        let Some(shared) = state.shared_of(id) else { return Ok(()) };
        // A long list is not to be made in vain, again and again.
        shared.write_half.check_room(state.members.len() * presence::SHORTEST)?;
        let list = presence::list(None, &self.name, &describe_all(state.members_with_connections()));
        shared.try_feed(list)?;
        let Some(subscriber) = state.subscribers.get_mut(&id) else { return Ok(()) };
        subscriber.watch = Watch::UpToDate;
        Ok(())
    }

    /// All members. `None` if there is no presence.
    pub(in crate::topics) fn members(&self) -> Option<Vec<String>> {
        if !self.has_presence() {
            return None;
        }
        // Described without the lock: it takes long if there are many, and clients may ask often.
        let members = owned(self.lock().members_with_connections());
        Some(describe_all(members.iter().map(|(member, connections)| (member, connections.iter().cloned()))))
    }

    /// At most so many members, those in doubt first, and how many there are. `None` if there is no presence.
    #[cfg(feature = "status")]
    pub(in crate::topics) fn some_members(&self, most: usize) -> Option<(Vec<String>, usize)> {
        if !self.has_presence() {
            return None;
        }
        let (members, count) = {
            let state = self.lock();
            let worst = state.members.worst_first().take(most);
            (owned(worst.map(|(member, ids)| (member, ids.filter_map(|id| state.shared_of(id))))), state.members.len())
        };
        let described = describe_all(members.iter().map(|(member, connections)| (member, connections.iter().cloned())));
        Some((described, count))
    }
}

/// The same, so that the lock need not be held any more.
fn owned<'a>(
    members: impl Iterator<Item = (&'a Member, impl Iterator<Item = Arc<Shared>>)>,
) -> Vec<(Member, Vec<Arc<Shared>>)> {
    members.map(|(member, connections)| (member.clone(), connections.collect())).collect()
}

impl Subscriber {
    /// Sends something about members. If it cannot take that now, it gets the list once it has caught up.
    fn send_change(&mut self, frames: &Broadcast) {
        let told = match self.pace {
            Pace::Live => self.shared.try_send_frame(frames.frame_for(&self.shared)),
            _ => Err(Refused::Full),
        };
        if told.is_err() {
            self.watch = Watch::Outdated;
            if told == Err(Refused::Closed) {
                self.pace = Pace::Ended;
            } else if self.pace == Pace::Live {
                self.pace = Pace::Behind;
            }
        }
    }
}

impl State {
    fn judge(&mut self, member: &Member) -> Option<Change> {
        let Self { subscribers, members, .. } = self;
        let is_missing = |id| subscribers.get(&id).is_some_and(|subscriber| subscriber.shared.stats.missed() > 0);
        members.judge(member, is_missing)
    }

    fn shared_of(&self, id: ConnectionId) -> Option<Arc<Shared>> {
        self.subscribers.get(&id).map(|subscriber| Arc::clone(&subscriber.shared))
    }

    fn members_with_connections(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = Arc<Shared>>)> {
        self.members.iter().map(|(member, ids)| (member, ids.filter_map(|id| self.shared_of(id))))
    }
}

fn describe_all<'a>(members: impl Iterator<Item = (&'a Member, impl Iterator<Item = Arc<Shared>>)>) -> Vec<String> {
    members.map(|(member, shared)| presence::describe(member, shared.map(|shared| shared.info()))).collect()
}

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
use crate::topics::presence::{self, Change, Health, Member, Place};
#[cfg(feature = "redis")]
use crate::topics::redis::members::Seat;
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
        if self.has_presence() {
            self.note(state, shared, Some(shared.id()));
        }
    }

    /// A connection is subscribed no more.
    pub(super) fn gone(&self, state: &mut State, subscriber: &Subscriber, cause: &str, within: Duration) {
        if !self.has_presence() {
            return;
        }
        let id = subscriber.shared.id();
        // It leaves once that comes back: after those who have come to other servers before.
        #[cfg(feature = "redis")]
        if let Some(node) = &self.common.node {
            return node.note_seat(&self.name, id, Seat::Left { cause: cause.to_owned(), within });
        }
        self.leave(state, &Place { node: None, id }, cause, within);
    }

    /// A connection misses Pongs, or no longer does: tells the watchers what that makes of its member.
    pub(in crate::topics) fn judge_member_of(&self, shared: &Shared) {
        let mut state = self.lock();
        if self.has_presence() && state.subscribers.contains_key(&shared.id()) {
            self.note(&mut state, shared, None);
        }
    }

    /// Notes how well a subscribed connection is, where there is presence. Not inlined: most have none, and their
    /// stacks are to stay small.
    #[inline(never)]
    fn note(&self, state: &mut State, shared: &Shared, except: Option<ConnectionId>) {
        let is_missing = shared.stats.missed() > 0;
        // Others have to hear of it too.
        #[cfg(feature = "redis")]
        if let Some(node) = &self.common.node {
            let user = shared.user().map(str::to_owned);
            node.note_seat(&self.name, shared.id(), Seat::Taken { user, is_missing });
        }
        let place = self.place_of(shared.id());
        let member = Member::of(shared.user(), &place);
        self.take(state, place, &member, is_missing, except);
    }

    /// A connection is a member, or part of one. Tells what that changes.
    pub(super) fn take(
        &self,
        state: &mut State,
        place: Place,
        member: &Member,
        is_missing: bool,
        except: Option<ConnectionId>,
    ) {
        if let Some(change) = state.members.take(place, member, is_missing) {
            self.tell_change(state, member, change, except.filter(|_| change == Change::Joined));
        }
    }

    /// A connection is no member any more. Tells what that changes.
    pub(super) fn leave(&self, state: &mut State, place: &Place, cause: &str, within: Duration) {
        match state.members.leave(place) {
            Some((member, Some(Change::Gone))) => {
                if self.may_tell(state) {
                    self.tell(state, presence::gone(&self.name, &member, cause, within), None);
                }
            }
            Some((member, Some(change))) => self.tell_change(state, &member, change, None),
            Some((_, None)) | None => {}
        }
    }

    fn tell_change(&self, state: &mut State, member: &Member, change: Change, except: Option<ConnectionId>) {
        // Described only if somebody is told.
        if !self.may_tell(state) {
            return;
        }
        let described = presence::describe(member, state.health_of(member));
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
            let list = presence::list(None, &self.name, &describe_all(state.members_with_health()));
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
    pub(super) fn feed_members_if_outdated(&self, state: &mut State, id: ConnectionId) -> Result<(), Refused> {
        let is_outdated = state.subscribers.get(&id).is_some_and(|subscriber| subscriber.watch == Watch::Outdated);
        if is_outdated { self.feed_members(state, id) } else { Ok(()) }
    }

    #[inline(never)]
    fn feed_members(&self, state: &mut State, id: ConnectionId) -> Result<(), Refused> {
        let Some(shared) = state.shared_of(id) else { return Ok(()) };
        // A long list is not to be made in vain, again and again.
        shared.write_half.check_room(state.members.len() * presence::SHORTEST)?;
        shared.try_feed(presence::list(None, &self.name, &describe_all(state.members_with_health())))?;
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
        let members = {
            let state = self.lock();
            state.owned(state.members.iter())
        };
        Some(describe_owned(&members))
    }

    /// At most so many members, those in doubt first, and how many there are. `None` if there is no presence.
    #[cfg(feature = "status")]
    pub(in crate::topics) fn some_members(&self, most: usize) -> Option<(Vec<String>, usize)> {
        if !self.has_presence() {
            return None;
        }
        let (members, count) = {
            let state = self.lock();
            (state.owned(state.members.worst_first().take(most)), state.members.len())
        };
        Some((describe_owned(&members), count))
    }

    /// The place of a connection of this server.
    fn place_of(&self, id: ConnectionId) -> Place {
        #[cfg(feature = "redis")]
        if let Some(node) = &self.common.node {
            return Place { node: Some(node.name()), id };
        }
        Place { node: None, id }
    }
}

/// A connection that is subscribed: here, or elsewhere, and then whether its Pongs are missed.
#[derive(Clone)]
enum Connection {
    Here(Arc<Shared>),
    There(bool),
}

impl Connection {
    fn health(&self) -> Health {
        match self {
            Self::Here(shared) => Health::from(shared.info()),
            Self::There(is_missing) => Health::elsewhere(*is_missing),
        }
    }
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
    /// Whoever watches is to get the list of members anew.
    #[cfg(feature = "redis")]
    pub(super) fn outdate_watchers(&mut self) {
        for subscriber in self.subscribers.values_mut().filter(|subscriber| subscriber.watch == Watch::UpToDate) {
            subscriber.watch = Watch::Outdated;
            if subscriber.pace == Pace::Live {
                subscriber.pace = Pace::Behind;
            }
        }
    }

    fn shared_of(&self, id: ConnectionId) -> Option<Arc<Shared>> {
        self.subscribers.get(&id).map(|subscriber| Arc::clone(&subscriber.shared))
    }

    fn connections<'a>(
        &'a self,
        places: impl Iterator<Item = (&'a Place, bool)> + 'a,
    ) -> impl Iterator<Item = Connection> + 'a {
        places.map(|(place, is_missing)| {
            let here = Some(place).filter(|place| self.is_here(place)).and_then(|place| self.shared_of(place.id));
            here.map_or(Connection::There(is_missing), Connection::Here)
        })
    }

    fn is_here(&self, place: &Place) -> bool {
        place.node == self.node
    }

    fn health_of<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = Health> + 'a {
        self.connections(self.members.connections_of(member)).map(|connection| connection.health())
    }

    /// Members with their connections, so that the lock need not be held any more.
    fn owned<'a>(
        &'a self,
        members: impl Iterator<Item = (&'a Member, impl Iterator<Item = (&'a Place, bool)> + 'a)>,
    ) -> Vec<(Member, Vec<Connection>)> {
        members.map(|(member, places)| (member.clone(), self.connections(places).collect())).collect()
    }

    fn members_with_health(&self) -> impl Iterator<Item = (&Member, impl Iterator<Item = Health>)> {
        let health = |connection: Connection| connection.health();
        self.members.iter().map(move |(member, places)| (member, self.connections(places).map(health)))
    }
}

fn describe_all<'a>(members: impl Iterator<Item = (&'a Member, impl Iterator<Item = Health>)>) -> Vec<String> {
    members.map(|(member, connections)| presence::describe(member, connections)).collect()
}

fn describe_owned(members: &[(Member, Vec<Connection>)]) -> Vec<String> {
    describe_all(members.iter().map(|(member, connections)| (member, connections.iter().map(Connection::health))))
}

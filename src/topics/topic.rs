//! One topic: its history, its subscribers, and the way of a message to them.
//!
//! A subscriber is a cursor into the history. A subscriber that keeps up gets each message when it is published. One
//! whose queue is full, or that has come back, is behind: it is given what follows its cursor as its queue has room,
//! and is told if the history no longer has it.
//!
//! Invariants:
//! - A subscriber gets each message after its cursor once and in order, or one word that some were lost.
//! - The lock is held for what does not block: no send under it waits for a peer.
//! - A topic that was removed takes nothing more. Whoever finds that asks for the topic anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::counters::Counters;
use super::entry::{Entry, Format, Unkept};
use super::history::{History, Limits, Lost};
use super::keys::Keys;
use super::name::TopicName;
use super::position::{Epoch, Position};
use super::presence::Members;
#[cfg(feature = "redis")]
use super::redis::node::Node;
use super::subscriptions::{Since, Standing, Terms};
use super::wire;
use super::{Settings, TopicInfo};
use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::supervisor::broadcast::Broadcast;
use crate::supervisor::handle::SupervisorHandle;
use crate::transport::write_half::Refused;

mod budget;
mod publishing;
mod saving;
#[cfg(feature = "redis")]
pub(super) mod shared;
mod watching;

use budget::Budget;
use publishing::Queue;
use watching::Watch;

/// So many messages a subscriber gets at a time when it catches up, and so many are published at a time. Then others
/// have their turn.
const BATCH: usize = 64;

/// What all topics of a server share.
pub(super) struct Common {
    pub(super) settings: Settings,
    pub(super) supervisor: Arc<SupervisorHandle>,
    /// The memory that all histories take together.
    pub(super) cost: AtomicUsize,
    pub(super) counters: Counters,
    /// Topics whose watchers are to get the list of members, and when.
    pub(super) to_list: channel::Sender<(Instant, TopicName)>,
    /// What connects the topics with those of other servers.
    #[cfg(feature = "redis")]
    pub(super) node: Option<Arc<Node>>,
}

impl Common {
    /// The name of this server, if several share the topics.
    fn node_name(&self) -> Option<Arc<str>> {
        #[cfg(feature = "redis")]
        return self.node.as_ref().map(|node| node.name());
        #[cfg(not(feature = "redis"))]
        None
    }
}

pub(super) struct Topic {
    pub(super) name: TopicName,
    common: Arc<Common>,
    /// Protects the messages that are to be published next. It is taken below the other.
    queue: Mutex<Queue>,
    /// Protects the order of the topic's messages, and who gets them.
    state: Mutex<State>,
}

struct State {
    /// That of the history.
    epoch: Epoch,
    history: History,
    subscribers: BTreeMap<ConnectionId, Subscriber>,
    /// Who they are, if there is presence, on all servers.
    members: Members,
    /// The name of this server among those that share the topic.
    node: Option<Arc<str>>,
    /// What may be told of them.
    telling: Budget,
    /// Whether those who watch are to get the list later, because there was too much to tell.
    is_to_list: bool,
    keys: Keys,
    /// The offset that it began with.
    began_after: u64,
    is_removed: bool,
}

struct Subscriber {
    shared: Arc<Shared>,
    format: Format,
    /// The offset of the last message that it was given.
    cursor: u64,
    pace: Pace,
    watch: Watch,
    /// Since when it waits for this server to come as far as it is itself: it was subscribed on another one.
    #[cfg(feature = "redis")]
    ahead_since: Option<Instant>,
    /// The position that it has reached in an epoch that this server does not know, and the last offset here when it
    /// came. The epoch is over, or this server has not heard of it yet.
    #[cfg(feature = "redis")]
    elsewhere: Option<(Position, u64)>,
    /// Since when it is known that the position that it has reached is nowhere: the backplane has lost it. If another
    /// server knows that too, the epoch will soon be over for all.
    #[cfg(feature = "redis")]
    nowhere_since: Option<Instant>,
}

/// How a subscriber gets its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Not yet: its request is to be answered first.
    Held,
    /// From the history, for it has not got all that was published.
    Behind,
    /// As they are published.
    Live,
    /// No more: its connection has ended, and only its thread has not.
    Ended,
}

/// The topic was removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removed;

/// Messages of a topic, to be read at once.
pub(super) struct Excerpt {
    pub(super) entries: Vec<Arc<Entry>>,
    /// Whether others follow them.
    pub(super) has_more: bool,
    /// The position of the topic's last message.
    pub(super) position: Position,
}

impl Topic {
    /// A topic whose first message has the offset after `last`.
    pub(super) fn new(name: TopicName, common: Arc<Common>, Position { epoch, offset: last }: Position) -> Self {
        let state = State {
            epoch,
            history: History::starting_after(last),
            subscribers: BTreeMap::new(),
            members: Members::default(),
            node: common.node_name(),
            telling: Budget::default(),
            is_to_list: false,
            keys: Keys::default(),
            began_after: last,
            is_removed: false,
        };
        Self { name, common, queue: Mutex::default(), state: Mutex::new(state) }
    }

    fn limits(&self) -> &Limits {
        &self.common.settings.history
    }

    fn frames<'a>(&self, entry: &'a Entry, epoch: Epoch, format: Format, unkept: &'a mut Unkept) -> &'a Broadcast {
        entry.frames(format, &self.name, epoch, &self.common.supervisor, unkept)
    }

    // Subscribing.

    /// Subscribes a connection, in place of an earlier subscription of it. It gets nothing until
    /// [`release`](Self::release).
    #[inline(never)]
    pub(super) fn subscribe(&self, shared: &Arc<Shared>, terms: Terms) -> Result<Standing, Removed> {
        let Terms { format, since, watches } = terms;
        let mut state = self.lock_trimmed();
        if state.is_removed {
            return Err(Removed);
        }
        let last = state.history.last();
        let cursor = match since {
            Since::Now => last,
            Since::Earliest => state.history.before_oldest(),
            Since::Position(since) => state.offset_of(since),
        };
        let watch = if watches && self.common.settings.presence { Watch::Outdated } else { Watch::Off };
        let subscriber = Subscriber {
            shared: Arc::clone(shared),
            format,
            cursor,
            pace: Pace::Held,
            watch,
            #[cfg(feature = "redis")]
            ahead_since: None,
            #[cfg(feature = "redis")]
            elsewhere: self.elsewhere(&state, since),
            #[cfg(feature = "redis")]
            nowhere_since: None,
        };
        state.subscribers.insert(shared.id(), subscriber);
        self.joined(&mut state, shared);
        let since = (since == Since::Earliest).then(|| state.position(cursor));
        Ok(Standing { position: state.position(last), since })
    }

    /// The request of a subscriber was answered: it gets what it missed, and what follows.
    pub(super) fn release(&self, id: ConnectionId) {
        if let Some(subscriber) = self.lock().subscribers.get_mut(&id)
            && subscriber.pace == Pace::Held
        {
            subscriber.pace = Pace::Behind;
        }
        self.catch_up(id);
    }

    /// Whether everything after a position is there to be given.
    pub(super) fn has_all_since(&self, since: Position) -> bool {
        let state = self.lock_trimmed();
        let offset = state.offset_of(since);
        state.is_ahead(offset) || state.history.after(offset).is_ok()
    }

    /// Ends the subscription of a connection, for this cause, which is known within this time after the fact. Returns
    /// whether the topic has come to nothing: nobody is subscribed any more, and there never was a message.
    pub(super) fn unsubscribe(&self, id: ConnectionId, cause: &str, within: Duration) -> bool {
        // Declared before the lock, so that it is dropped after: it may be the last that is left of its connection.
        let subscriber;
        let mut state = self.lock();
        subscriber = state.subscribers.remove(&id);
        if let Some(subscriber) = &subscriber {
            self.gone(&mut state, subscriber, cause, within);
        }
        state.has_come_to_nothing()
    }

    /// Gives a subscriber that is behind as much as its queue takes. Called again when the queue has emptied.
    pub(super) fn catch_up(&self, id: ConnectionId) {
        while self.catch_up_by_a_batch(&mut self.lock_trimmed(), id).is_continued() {}
    }

    fn catch_up_by_a_batch(&self, state: &mut State, id: ConnectionId) -> Progress {
        #[cfg(feature = "redis")]
        if self.must_wait(state, id) {
            return Progress::Done;
        }
        let Some(subscriber) = state.subscribers.get_mut(&id).filter(|subscriber| subscriber.pace == Pace::Behind)
        else {
            return Progress::Done;
        };
        // Mostly it has missed nothing.
        if subscriber.cursor == state.history.last() && subscriber.watch != Watch::Outdated {
            subscriber.pace = Pace::Live;
            return Progress::Done;
        }
        let shared = Arc::clone(&subscriber.shared);
        let mut fed = self.feed_batch(&state.history, state.epoch, subscriber);
        if fed == Ok(Progress::Done) {
            fed = self.feed_members_if_outdated(state, id).map(|()| Progress::Done);
        }
        let flushed = shared.flush().map_err(|_| Refused::Closed);
        let Some(subscriber) = state.subscribers.get_mut(&id) else { return Progress::Done };
        match fed.and_then(|progress| flushed.map(|()| progress)) {
            Ok(Progress::Continued) => return Progress::Continued,
            Ok(Progress::Done) => subscriber.pace = Pace::Live,
            // There is a drainer, which calls again when it is done.
            Err(Refused::Full) => {}
            Err(Refused::Closed) => subscriber.pace = Pace::Ended,
        }
        Progress::Done
    }

    /// Not inlined, and neither are its steps: most subscribers have missed nothing, and their stacks are to stay
    /// small.
    #[inline(never)]
    fn feed_batch(&self, history: &History, epoch: Epoch, subscriber: &mut Subscriber) -> Result<Progress, Refused> {
        let missed = match history.after(subscriber.cursor) {
            Ok(missed) => missed,
            Err(Lost) => {
                self.tell_lost(subscriber, Position { epoch, offset: history.last() })?;
                subscriber.cursor = history.last();
                return Ok(Progress::Done);
            }
        };
        for (number, entry) in missed.enumerate() {
            if number == BATCH {
                return Ok(Progress::Continued);
            }
            let mut unkept = Unkept::default();
            let frames = self.frames(entry, epoch, subscriber.format, &mut unkept);
            subscriber.shared.try_feed_frame(frames.frame_for(&subscriber.shared))?;
            subscriber.cursor = entry.offset;
        }
        Ok(Progress::Done)
    }

    /// Tells a subscriber that it has lost some messages. One that gets bare messages has no way to hear it but by the
    /// end of its connection.
    #[inline(never)]
    fn tell_lost(&self, subscriber: &Subscriber, last: Position) -> Result<(), Refused> {
        match subscriber.format {
            Format::Json => {
                subscriber.shared.try_feed(wire::lost(&self.name, last))?;
                self.common.counters.lost();
                Ok(())
            }
            Format::Bare => {
                let reason = format!("messages of topic {} are lost", self.name);
                let reason = CloseReason::Local { code: CloseCode::TRY_AGAIN_LATER, reason };
                // It may be closing already.
                let _ = subscriber.shared.close_from_outside(reason);
                self.common.counters.lost();
                Err(Refused::Closed)
            }
        }
    }

    // Reading.

    /// The first messages after a position, or of all that are kept: so many and so many bytes at most, but one if
    /// there is one and any are wanted. The present position alone if some are lost.
    pub(super) fn read(&self, since: Option<Position>, most: usize, most_bytes: usize) -> Result<Excerpt, Position> {
        let state = self.lock_trimmed();
        let history = &state.history;
        let position = state.position(history.last());
        let oldest = history.last() - history.len() as u64;
        let after = since.map_or(oldest, |since| state.offset_of(since));
        if let Some(position) = since.filter(|_| state.is_ahead(after)) {
            return Ok(Excerpt { entries: Vec::new(), has_more: false, position });
        }
        let mut rest = history.after(after).map_err(|Lost| position)?.peekable();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = rest.peek()
            && entries.len() < most
            && (entries.is_empty() || bytes + entry.message.len() <= most_bytes)
        {
            bytes += entry.message.len();
            entries.extend(rest.next().cloned());
        }
        Ok(Excerpt { entries, has_more: rest.peek().is_some(), position })
    }

    /// What is known of the topic, and the offset that it began with.
    pub(super) fn info(&self) -> (TopicInfo, u64) {
        let state = self.lock_trimmed();
        let (mut subscribers, mut behind) = (0, 0);
        for subscriber in state.subscribers.values() {
            subscribers += usize::from(subscriber.pace != Pace::Ended);
            behind += usize::from(matches!(subscriber.pace, Pace::Behind | Pace::Held));
        }
        let info = TopicInfo {
            name: self.name.clone(),
            position: state.position(state.history.last()),
            subscribers,
            behind,
            kept: state.history.len(),
            bytes: state.history.bytes(),
        };
        (info, state.began_after)
    }

    /// The memory that its messages and keys take.
    pub(super) fn cost(&self) -> usize {
        self.lock().cost()
    }

    // Keeping it small.

    /// Lets go of what is too old, and of the oldest messages and keys of what takes more memory than `most`.
    pub(super) fn trim_to_cost(&self, most: usize) {
        self.change(&mut self.lock_trimmed(), |state| {
            while state.cost() > most {
                state.drop_oldest();
            }
        });
    }

    /// Removes the topic, if nobody would miss it: nobody is subscribed, nothing is kept, and no key is known. One that
    /// never had a message leaves no trace; of others the last offset is returned.
    pub(super) fn remove_if_unused(&self, only_untouched: bool) -> Option<u64> {
        let mut state = self.lock_trimmed();
        let is_untouched = state.history.last() == state.began_after;
        let is_asked_for = !state.subscribers.is_empty() || !state.members.is_empty();
        let is_unused = !is_asked_for && state.history.is_empty() && state.keys.is_empty();
        if state.is_removed || !is_unused || (only_untouched && !is_untouched) {
            return None;
        }
        state.is_removed = true;
        Some(if is_untouched { 0 } else { state.history.last() })
    }

    /// Changes messages or keys, and keeps account of the memory of all.
    fn change<T>(&self, state: &mut State, change: impl FnOnce(&mut State) -> T) -> T {
        let before = state.cost();
        let result = change(state);
        let total = &self.common.cost;
        match state.cost().checked_sub(before) {
            Some(more) => total.fetch_add(more, Relaxed),
            None => total.fetch_sub(before - state.cost(), Relaxed),
        };
        result
    }

    /// The lock, once what is too old has gone: messages and keys.
    fn lock_trimmed(&self) -> MutexGuard<'_, State> {
        let (mut state, now) = (self.lock(), Instant::now());
        self.change(&mut state, |state| {
            state.history.trim(self.limits(), now);
            state.keys.forget(now, &self.common.settings.window);
        });
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
    }

    /// The offset of a position. One of another epoch counts as beyond all that was published, which is lost.
    fn offset_of(&self, position: Position) -> u64 {
        if position.epoch == self.epoch { position.offset } else { u64::MAX }
    }

    /// Whether an offset is beyond what this server knows, but may be known to others that share the topic.
    fn is_ahead(&self, offset: u64) -> bool {
        self.node.is_some() && offset > self.history.last() && offset != u64::MAX
    }

    fn has_come_to_nothing(&self) -> bool {
        self.subscribers.is_empty() && self.members.is_empty() && self.history.last() == self.began_after
    }

    fn count_subscribers(&self) -> usize {
        self.subscribers.values().filter(|subscriber| subscriber.pace != Pace::Ended).count()
    }

    /// The memory that messages and keys take.
    fn cost(&self) -> usize {
        self.history.cost() + self.keys.cost()
    }

    /// Lets go of the oldest message or key, whichever is older.
    fn drop_oldest(&mut self) {
        match (self.history.oldest(), self.keys.oldest()) {
            (message, Some(key)) if message.is_none_or(|message| key < message) => self.keys.forget_oldest(),
            _ => self.history.drop_oldest(),
        }
    }
}

/// How far a subscriber got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There is nothing more to do now.
    Done,
    /// There is more for it.
    Continued,
}

impl Progress {
    fn is_continued(self) -> bool {
        self == Self::Continued
    }
}

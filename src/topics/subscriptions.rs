//! The subscriptions of one connection, and what a handler may do with topics.
//!
//! Invariant: they end with the connection, also if its handler does not return. They are begun by the connection's
//! thread alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::entry::Format;
use super::hub::{Hub, Purpose};
use super::name::TopicName;
use super::position::Position;
use super::topic::Topic;
use super::{Subscribed, TopicError};
use crate::connection::Connection;
use crate::connection::identity::ConnectionId;
use crate::connection::observer::Observer;
use crate::connection::shared::Shared;
use crate::protocol::close::CloseReason;

/// The observer of each connection of a server with topics.
pub(crate) struct Subscriptions {
    pub(super) hub: Arc<Hub>,
    connection: Weak<Shared>,
    id: ConnectionId,
    /// How long after its death a peer is found by the heartbeat.
    worst_case: Duration,
    /// Protects which topics the connection is subscribed to. `None` after its end.
    topics: Mutex<Option<BTreeMap<TopicName, Arc<Topic>>>>,
}

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// With what is published from now on.
    Now,
    /// With all that the history keeps.
    Earliest,
    /// With what follows a position.
    Position(Position),
}

/// Where a subscription stands in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The position of the topic's last message.
    pub(super) position: Position,
    /// The position after which it begins, for one that did not know it: that before the earliest message.
    pub(super) since: Option<Position>,
}

/// What a subscriber asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) format: Format,
    pub(super) since: Since,
    /// Whether it wants to know who else is subscribed.
    pub(super) watches: bool,
}

impl Subscriptions {
    /// Observes a connection that has opened.
    #[inline(never)]
    pub(crate) fn observe(hub: &Arc<Hub>, connection: &Connection) {
        let shared = connection.shared();
        let subscriptions = Arc::new(Self {
            hub: Arc::clone(hub),
            connection: Arc::downgrade(shared),
            id: shared.id(),
            worst_case: connection.heartbeat().worst_case().unwrap_or_default(),
            topics: Mutex::new(Some(BTreeMap::new())),
        });
        hub.add_connection(&subscriptions);
        shared.observe(subscriptions);
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Subscribes the connection. It gets nothing of the topic until that is released.
    pub(super) fn subscribe(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        terms: Terms,
    ) -> Result<(Arc<Topic>, Standing), TopicError> {
        if self.has_ended() {
            return Err(TopicError::Closed);
        }
        {
            let topics = self.lock();
            let topics = topics.as_ref().ok_or(TopicError::Closed)?;
            if topics.len() >= self.hub.settings().max_topics_per_connection && !topics.contains_key(name) {
                return Err(TopicError::TooManySubscriptions);
            }
        }
        let subscribed = self.hub.with_topic(name, Purpose::Subscribing, |topic| {
            topic.subscribe(shared, terms).ok().map(|standing| (Arc::clone(topic), standing))
        })?;
        if let Some(topics) = &mut *self.lock() {
            topics.insert(subscribed.0.name.clone(), Arc::clone(&subscribed.0));
            return Ok(subscribed);
        }
        // The connection has ended meanwhile.
        self.leave(&subscribed.0, "unsubscribed", Duration::ZERO);
        Err(TopicError::Closed)
    }

    /// Ends the subscription to a topic, if there is one.
    pub(super) fn unsubscribe(&self, name: &str) {
        let topic = self.lock().as_mut().and_then(|topics| topics.remove(name));
        if let Some(topic) = topic {
            self.leave(&topic, "unsubscribed", Duration::ZERO);
        }
    }

    /// Ends all of them, once the connection has ended.
    pub(super) fn end(&self) {
        self.hub.remove_connection(self.id);
        let Some(topics) = self.lock().take() else { return };
        let reason = self.connection.upgrade().map_or(CloseReason::Disconnected, |shared| shared.reason());
        let within = if reason.is_death() { self.worst_case } else { Duration::ZERO };
        for topic in topics.values() {
            self.leave(topic, reason.name(), within);
        }
    }

    fn leave(&self, topic: &Arc<Topic>, cause: &str, within: Duration) {
        if topic.unsubscribe(self.id, cause, within) {
            self.hub.remove_if_untouched(topic);
        }
    }

    /// The topics that the connection is subscribed to.
    pub(super) fn names(&self) -> Vec<TopicName> {
        self.lock().iter().flat_map(|topics| topics.keys().cloned()).collect()
    }

    // Presence.

    /// Whether the connection takes nothing any more.
    pub(super) fn has_ended(&self) -> bool {
        self.connection.upgrade().is_none_or(|shared| shared.write_half.is_closing())
    }

    /// Whether Pongs of the connection are missed now.
    pub(super) fn is_missing_pongs(&self) -> bool {
        self.connection.upgrade().is_some_and(|shared| shared.stats.missed() > 0)
    }

    /// Pongs are missed, or are missed no longer: tells whoever wants to know.
    pub(super) fn judge_member(&self) {
        let Some(shared) = self.connection.upgrade() else { return };
        for topic in self.all() {
            topic.judge_member_of(&shared);
        }
    }

    fn all(&self) -> Vec<Arc<Topic>> {
        self.lock().iter().flat_map(|topics| topics.values().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<TopicName, Arc<Topic>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Subscriptions {
    fn queue_emptied(&self) {
        for topic in self.all() {
            topic.catch_up(self.id);
        }
    }

    fn thread_ends(&self) {
        self.end();
    }
}

/// Topics, for handlers.
impl Connection {
    /// Subscribes the connection to a topic: from now on it gets each message that is published there, as it is. Other
    /// messages may come between them, in the order in which they are sent.
    ///
    /// A connection that takes its messages more slowly than they are published gets them from the topic's history as
    /// soon as its queue has room. If the history no longer has them, the connection is closed with 1013 and a reason
    /// that names the topic, since a gap must not go unnoticed. Subscribing to the same topic again begins anew.
    ///
    /// # Errors
    /// [`TopicError::InvalidName`], [`TopicError::TooManySubscriptions`], [`TopicError::TooManyTopics`],
    /// [`TopicError::Closed`] if the connection has ended, and [`TopicError::NoTopics`] on a server without
    /// [topics](crate::Server::topics) and on a client.
    pub fn subscribe(&mut self, topic: &str) -> Result<Subscribed, TopicError> {
        self.subscribe_from(topic, None)
    }

    /// Like [`subscribe`](Self::subscribe), for a client that was subscribed before and says what it has got. If the
    /// history still has all that was published since, it is sent first.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe). That messages are lost is no error, but stands in [`Subscribed::lost`].
    pub fn subscribe_since(&mut self, topic: &str, since: Position) -> Result<Subscribed, TopicError> {
        self.subscribe_from(topic, Some(since))
    }

    fn subscribe_from(&mut self, topic: &str, since: Option<Position>) -> Result<Subscribed, TopicError> {
        let shared = self.shared();
        let subscriptions = shared.observer::<Subscriptions>().ok_or(TopicError::NoTopics)?;
        let is_lost = |since: &Position| !subscriptions.hub.has_all_since(topic, *since);
        let lost = since.as_ref().is_some_and(is_lost);
        let since = since.filter(|_| !lost).map_or(Since::Now, Since::Position);
        let terms = Terms { format: Format::Bare, since, watches: false };
        let (topic, standing) = subscriptions.subscribe(shared, topic, terms)?;
        if lost {
            subscriptions.hub.counters().lost();
        }
        topic.release(shared.id());
        Ok(Subscribed { position: standing.position, lost })
    }

    /// Ends the subscription to a topic. Messages that wait in the connection's queue are still sent. Does nothing if
    /// there is no such subscription.
    pub fn unsubscribe(&mut self, topic: &str) {
        if let Some(subscriptions) = self.shared().observer::<Subscriptions>() {
            subscriptions.unsubscribe(topic);
        }
    }
}

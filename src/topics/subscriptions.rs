//! The subscriptions of one connection, and what a handler may do with topics.
//!
//! Invariant: they end with the connection. They are changed by the connection's thread alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::Format;
use super::hub::Hub;
use super::name::TopicName;
use super::position::Position;
use super::topic::Topic;
use super::{Subscribed, TopicError};
use crate::connection::Connection;
use crate::connection::attachment::Attachment;
use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;

/// What is attached to each connection of a server with topics.
pub(crate) struct Subscriptions {
    pub(super) hub: Arc<Hub>,
    connection: ConnectionId,
    /// Protects which topics the connection is subscribed to.
    topics: Mutex<BTreeMap<TopicName, Arc<Topic>>>,
}

impl Subscriptions {
    pub(crate) fn new(hub: Arc<Hub>, connection: ConnectionId) -> Self {
        Self { hub, connection, topics: Mutex::default() }
    }

    /// Subscribes the connection. It gets nothing of the topic until that is released.
    pub(super) fn subscribe(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        format: Format,
        since: Option<Position>,
    ) -> Result<(Arc<Topic>, Position), TopicError> {
        {
            let topics = self.lock();
            if topics.len() >= self.hub.settings().max_topics_per_connection && !topics.contains_key(name) {
                return Err(TopicError::TooManySubscriptions);
            }
        }
        let subscribed = self.hub.with_topic(name, |topic| {
            topic.subscribe(shared, format, since).ok().map(|position| (Arc::clone(topic), position))
        })?;
        self.lock().insert(subscribed.0.name.clone(), Arc::clone(&subscribed.0));
        Ok(subscribed)
    }

    /// Ends the subscription to a topic, if there is one.
    pub(super) fn unsubscribe(&self, name: &str) {
        let topic = self.lock().remove(name);
        if let Some(topic) = topic {
            self.leave(&topic);
        }
    }

    fn leave(&self, topic: &Arc<Topic>) {
        if topic.unsubscribe(self.connection) {
            self.hub.remove_if_untouched(topic);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicName, Arc<Topic>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attachment for Subscriptions {
    fn queue_emptied(&self) {
        let topics: Vec<_> = self.lock().values().cloned().collect();
        for topic in topics {
            topic.catch_up(self.connection);
        }
    }

    fn thread_ends(&self) {
        let topics = std::mem::take(&mut *self.lock());
        for topic in topics.values() {
            self.leave(topic);
        }
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
    /// [`TopicError::InvalidName`], [`TopicError::TooManySubscriptions`], [`TopicError::TooManyTopics`], and
    /// [`TopicError::NoTopics`] on a server without [topics](crate::Server::topics) and on a client.
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
        let subscriptions = shared.attachment::<Subscriptions>().ok_or(TopicError::NoTopics)?;
        let is_lost = |since: &Position| !subscriptions.hub.has_all_since(topic, *since);
        let lost = since.as_ref().is_some_and(is_lost);
        let (topic, position) = subscriptions.subscribe(shared, topic, Format::Bare, since.filter(|_| !lost))?;
        topic.release(shared.id());
        Ok(Subscribed { position, lost })
    }

    /// Ends the subscription to a topic. Messages that wait in the connection's queue are still sent. Does nothing if
    /// there is no such subscription.
    pub fn unsubscribe(&mut self, topic: &str) {
        if let Some(subscriptions) = self.shared().attachment::<Subscriptions>() {
            subscriptions.unsubscribe(topic);
        }
    }
}

//! The handle to a client of topics, and a message that waits for its reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{self as channel, RecvTimeoutError, TryRecvError};
use data_encoding::BASE64URL_NOPAD;

use super::delivery::Subscription;
use super::error::PublishError;
use super::link::Link;
use super::protocol::Settled;
use crate::client::handle::ClientHandle;
use crate::durations::LONGEST;
use crate::error::Error;
use crate::heartbeat::HeartbeatPolicy;
use crate::message::Message;
use crate::protocol::close::CloseCode;
use crate::supervisor::event::Event;
use crate::supervisor::stats::Stats;
use crate::topics::{InvalidTopic, Position, Published};

/// A handle to a [`TopicsClient`](crate::TopicsClient), for any number of threads. It outlives each connection.
/// Cloning is cheap.
#[derive(Debug, Clone)]
pub struct TopicsHandle {
    pub(super) link: Arc<Link>,
    pub(super) client: ClientHandle,
}

/// A message that was handed over for publishing. Dropping this changes nothing for the message. Its failure is then
/// logged.
#[derive(Debug)]
#[must_use = "without `wait` nobody learns whether it was published"]
pub struct PendingPublish {
    id: u64,
    settled: channel::Receiver<Settled>,
    deadline: Instant,
    link: Arc<Link>,
}

impl TopicsHandle {
    /// Subscribes to a topic, in place of an earlier subscription to it. Several that are made before there is a
    /// connection go in one request. Never waits: the [handler](crate::TopicsClient::run) is told what comes of it.
    ///
    /// # Errors
    /// [`InvalidTopic`] if the name is not that of a topic.
    pub fn subscribe(&self, subscription: impl Into<Subscription>) -> Result<(), InvalidTopic> {
        let subscription = subscription.into();
        self.link.lock().protocol.subscribe(subscription)?;
        self.link.send_due();
        Ok(())
    }

    /// Like [`subscribe`](Self::subscribe), for a client that has had everything up to a position. It gets what
    /// follows, or is told [`Lost`](crate::Delivery::Lost).
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_since(&self, topic: &str, position: Position) -> Result<(), InvalidTopic> {
        self.subscribe(Subscription::new(topic).since(position))
    }

    /// Ends the subscription to a topic, if there is one, and forgets its position. Called by the handler, nothing of
    /// the topic follows; called by another thread, the handler may be in the middle of a message.
    pub fn unsubscribe(&self, topic: &str) {
        self.link.lock().protocol.unsubscribe(topic);
        self.link.send_due();
    }

    /// The position of the last message of a topic that the handler has taken: it has returned from it. Or that of the
    /// last [loss](crate::Delivery::Lost) or, before the first message, where the subscription begins. `None` if that
    /// is not known yet, or the client is not subscribed. It stays after the end of the client, to be stored.
    pub fn position(&self, topic: &str) -> Option<Position> {
        self.link.lock().protocol.position(topic)
    }

    /// Publishes a message, and waits until the server has confirmed it, over any number of connections.
    ///
    /// It is published once, although it is sent again when a connection was lost before the reply: it has a random
    /// key, by which the server knows it again.
    ///
    /// # Errors
    /// [`PublishError`]. With [`Timeout`](PublishError::Timeout) and [`Closed`](PublishError::Closed) the message may
    /// have been published. In the handler: [`PublishError::InHandler`], and nothing is published.
    pub fn publish(&self, topic: &str, message: impl Into<Message>) -> Result<Published, PublishError> {
        self.publish_once(topic, message, &random_key())
    }

    /// Like [`publish`](Self::publish), with a key of 1 to 128 bytes that you choose: publishing again with the same
    /// key, also by another client, publishes nothing within the server's
    /// [window](crate::topics::Topics::key_window), and gives the position of the first time.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`PublishError::InvalidKey`].
    pub fn publish_once(&self, topic: &str, message: impl Into<Message>, key: &str) -> Result<Published, PublishError> {
        if self.link.is_running_here() {
            return Err(PublishError::InHandler);
        }
        self.hand_over(topic, &message.into(), key)?.wait()
    }

    /// Hands a message over for publishing, and never waits, so that many are under way at a time. Messages of one
    /// thread keep their order.
    ///
    /// # Errors
    /// [`PublishError::Full`] if the [outbox](crate::TopicsClient::outbox_size) has no room: wait for one of the
    /// messages before, and try again. [`InvalidTopic`](PublishError::InvalidTopic),
    /// [`TooLarge`](PublishError::TooLarge) and [`Closed`](PublishError::Closed).
    pub fn try_publish(&self, topic: &str, message: impl Into<Message>) -> Result<PendingPublish, PublishError> {
        self.hand_over(topic, &message.into(), &random_key())
    }

    fn hand_over(&self, topic: &str, message: &Message, key: &str) -> Result<PendingPublish, PublishError> {
        let now = self.link.now();
        let (id, settled, timeout) = {
            let protocol = &mut self.link.lock().protocol;
            let (id, settled) = protocol.publish(topic, message, key, now)?;
            (id, settled, protocol.limits.timeout)
        };
        self.link.send_due();
        Ok(PendingPublish { id, settled, deadline: Instant::now() + timeout, link: Arc::clone(&self.link) })
    }

    // What a client's handle has.

    /// Waits until there is a connection: see [`ClientHandle::wait_connected`].
    pub fn wait_connected(&self, timeout: Duration) -> bool {
        self.client.wait_connected(timeout)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    /// Whether [`run`](crate::TopicsClient::run) has returned.
    pub fn has_ended(&self) -> bool {
        self.client.has_ended()
    }

    /// Ends a pause between attempts: see [`ClientHandle::connect_now`].
    pub fn connect_now(&self) {
        self.client.connect_now();
    }

    /// Changes the heartbeat of the open connection: see [`ClientHandle::set_heartbeat`].
    ///
    /// # Errors
    /// [`Error::Closed`] if there is no connection.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.client.set_heartbeat(policy)
    }

    /// Stops the client, and returns at once: see [`ClientHandle::stop`]. The handler is called no more, once it has
    /// returned. Messages that have no reply when the connection is closed fail with [`PublishError::Closed`]: wait
    /// for those that matter before.
    pub fn stop(&self) {
        self.client.stop();
    }

    /// Like [`stop`](Self::stop), with another close code than 1000 and a reason: see [`ClientHandle::stop_with`].
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; the client goes on.
    pub fn stop_with(&self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        self.client.stop_with(code, reason)
    }

    /// All events of the connections from now on: see [`ClientHandle::events`].
    pub fn events(&self) -> channel::Receiver<Event> {
        self.client.events()
    }

    /// The counters since the client started.
    pub fn stats(&self) -> Stats {
        self.client.stats()
    }
}

impl PendingPublish {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`TopicsHandle::publish`]. In the handler: [`PublishError::InHandler`], unless the outcome is known already;
    /// the message is published all the same.
    pub fn wait(self) -> Result<Published, PublishError> {
        self.wait_until(self.deadline).unwrap_or_else(|| {
            self.link.lock().protocol.forget(self.id);
            Err(PublishError::Timeout)
        })
    }

    /// Waits for the outcome, for `timeout` at most. `None` if it is not known by then. In the handler it never waits.
    /// The outcome is given once: later calls give [`PublishError::Closed`].
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Published, PublishError>> {
        let until = Instant::now() + timeout.min(LONGEST);
        match self.wait_until(until.min(self.deadline)) {
            None if until >= self.deadline => {
                self.link.lock().protocol.forget(self.id);
                Some(Err(PublishError::Timeout))
            }
            Some(Err(PublishError::InHandler)) => None,
            outcome => outcome,
        }
    }

    fn wait_until(&self, deadline: Instant) -> Option<Settled> {
        match self.settled.try_recv() {
            Ok(settled) => return Some(settled),
            Err(TryRecvError::Disconnected) => return Some(Err(PublishError::Closed)),
            Err(TryRecvError::Empty) if self.link.is_running_here() => return Some(Err(PublishError::InHandler)),
            Err(TryRecvError::Empty) => {}
        }
        match self.settled.recv_deadline(deadline) {
            Ok(settled) => Some(settled),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(PublishError::Closed)),
        }
    }
}

/// One that nobody else has.
fn random_key() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<u128>().to_ne_bytes())
}

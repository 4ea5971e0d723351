//! What a client of topics is told, and what it asks for.

use std::time::Duration;

use crate::connection::identity::ConnectionId;
use crate::message::Message;
use crate::topics::{Position, TopicName};

use super::error::TopicRefusal;

/// What the handler of [`TopicsClient::run`](crate::TopicsClient::run) is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A message of a topic. Each follows the one before it, or a [`Lost`](Self::Lost).
    #[non_exhaustive]
    Message {
        /// The topic.
        topic: TopicName,
        /// The message, as it was published.
        message: Message,
        /// Its position. A client that ends here and starts again with it gets what follows.
        position: Position,
    },
    /// Messages are missing, because the server's history does not reach back to the position that the client had. It
    /// cannot know which: fetch the state that they would have led to by other means. Messages follow after `position`.
    #[non_exhaustive]
    Lost {
        /// The topic.
        topic: TopicName,
        /// The position after which messages follow.
        position: Position,
    },
    /// The server has accepted a subscription: the first time, and on each later connection again.
    #[non_exhaustive]
    Subscribed {
        /// The topic.
        topic: TopicName,
        /// The position of the topic's last message. What the client has missed up to there follows.
        position: Position,
    },
    /// The server has refused a subscription, or ended it because of a new token. It is over: nothing of the topic
    /// follows, unless the client subscribes again.
    #[non_exhaustive]
    Refused {
        /// The topic.
        topic: TopicName,
        /// What the server says.
        refusal: TopicRefusal,
    },
    /// Who is subscribed, for a subscription with [`presence`](Subscription::presence).
    #[non_exhaustive]
    Presence {
        /// The topic.
        topic: TopicName,
        /// The list, or what has changed.
        presence: Presence,
    },
}

/// Who is subscribed to a topic, and what changes. The list comes first, and again after a reconnection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// All members, in place of those known before.
    Members(Vec<Member>),
    /// The first connection of this member has subscribed.
    Joined(Member),
    /// All connections of this member miss Pongs.
    Doubted(Member),
    /// A member that was doubted was heard again.
    Alive(Member),
    /// The last connection of this member has unsubscribed or ended.
    #[non_exhaustive]
    Gone {
        /// The member.
        member: MemberName,
        /// `unsubscribed`, or the [name](crate::CloseReason::name) of the reason for which its connection ended.
        cause: String,
        /// Within which time after the fact the server knows that.
        within: Duration,
    },
}

/// Somebody who is subscribed. A user with several connections is one member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Who it is.
    pub name: MemberName,
    /// What its heartbeat shows: of several connections, that of the one that is best off. `None` if its last
    /// connection is just ending.
    pub vitals: Option<Vitals>,
}

/// What a member is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MemberName {
    /// A user, by the name that the server has for it.
    User(String),
    /// A connection that belongs to no user.
    Connection {
        /// Its number on its server.
        id: ConnectionId,
        /// The name of its server, if several share the topics. Each counts its connections by itself.
        node: Option<String>,
    },
}

/// What the server's heartbeat shows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vitals {
    /// Pongs missed in a row. With any, the member is doubted.
    pub missed: u32,
    /// How many misses in a row make it dead.
    pub max_missed: u32,
    /// For how long nothing was heard of it.
    pub silent: Duration,
    /// Its last round trip. `None` before the first.
    pub round_trip: Option<Duration>,
}

/// A topic to subscribe to, and where to begin. Made from a name too: `"news".into()`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until `subscribe` is given it"]
pub struct Subscription {
    pub(super) topic: String,
    pub(super) start: Start,
    pub(super) presence: bool,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Now,
    Earliest,
    After(Position),
}

impl Subscription {
    /// A subscription that begins with the next message that is published.
    pub fn new(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), start: Start::Now, presence: false }
    }

    /// Begins with what follows this position, which an earlier subscription to the same topic had reached. If the
    /// server's history no longer reaches back so far, the client is told [`Delivery::Lost`].
    pub fn since(mut self, position: Position) -> Self {
        self.start = Start::After(position);
        self
    }

    /// Begins with the earliest message that the server's history still has.
    pub fn since_earliest(mut self) -> Self {
        self.start = Start::Earliest;
        self
    }

    /// Whether to be told who else is subscribed ([`Delivery::Presence`]). Default `false`. A server without presence
    /// tells nothing.
    pub fn presence(mut self, presence: bool) -> Self {
        self.presence = presence;
        self
    }
}

impl From<&str> for Subscription {
    fn from(topic: &str) -> Self {
        Self::new(topic)
    }
}

impl From<String> for Subscription {
    fn from(topic: String) -> Self {
        Self::new(topic)
    }
}

impl From<TopicName> for Subscription {
    fn from(topic: TopicName) -> Self {
        Self::new(topic.as_str())
    }
}

//! Topics: names under which messages are published, whose subscribers miss nothing.
//!
//! [`Topics`] are the settings, which a server takes by [`Server::topics`](crate::Server::topics). Then handlers
//! [subscribe](crate::Connection::subscribe) their connections, any thread
//! [publishes](crate::ServerHandle::publish), and clients do both by the subprotocol `heartwire.topics.v1`, which
//! docs/topics-protocol.md specifies, or by paths such as `/topics/news`.
//!
//! `hub` has all topics of a server, `topic` is one of them, `history` what it keeps. `session` serves a client of the
//! subprotocol, `wire` is its format, `access` says what a client may do.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::durations::LONGEST;

pub(crate) mod access;
#[cfg(feature = "auth-url")]
mod auth_service;
mod claims;
pub(crate) mod counters;
mod entry;
mod file;
pub(crate) mod grants;
mod history;
pub(crate) mod hub;
#[cfg(feature = "jwt")]
mod key_error;
mod keys;
pub(crate) mod name;
pub(crate) mod permit;
mod position;
mod presence;
#[cfg(feature = "jwt")]
pub(crate) mod publish_keys;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod subscriptions;
#[cfg(feature = "jwt")]
pub(crate) mod token;
pub(crate) mod token_places;
mod topic;
mod wire;

#[cfg(feature = "auth-url")]
pub use auth_service::{AuthError, AuthService, InvalidAuthService, Lease};
pub use grants::{Grants, GrantsError};
#[cfg(feature = "jwt")]
pub use key_error::{KeyError, KeyErrorKind};
pub use name::{InvalidTopic, TopicName, TopicPattern};
pub use position::{InvalidPosition, Position};
#[cfg(feature = "jwt")]
pub use publish_keys::PublishKeys;
#[cfg(feature = "redis")]
pub use redis::{BackplaneInfo, FormerNode, NodeInfo, NodeState, Redis, RedisError};
#[cfg(feature = "jwt")]
pub use token::{TokenError, TokenVerifier, ValidToken, key::TokenKey};

pub use token_places::{RequestTokenError, TokenPlaces};

use access::Access;
use history::Limits;
use keys::Window;
pub(crate) use wire::EARLIEST;

/// The subprotocol of clients that subscribe and publish.
pub(crate) const SUBPROTOCOL: &str = "heartwire.topics.v1";

/// The settings of a server's topics. Give them to [`Server::topics`](crate::Server::topics).
///
/// A topic is a name, such as `sensors/kitchen`. It comes to be when somebody subscribes or publishes. It keeps its
/// newest messages, so that a subscriber that comes back gets what it missed.
///
/// ```no_run
/// use std::time::Duration;
/// use heartwire::Server;
/// use heartwire::topics::Topics;
///
/// fn main() -> Result<(), heartwire::Error> {
///     let topics = Topics::new().history(100, 64 * 1024, Duration::from_secs(60));
///     let server = Server::bind("127.0.0.1:9001")?.topics(topics);
///     let handle = server.handle();
///     std::thread::spawn(move || loop {
///         std::thread::sleep(Duration::from_secs(1));
///         let _ = handle.publish("ticks", "tick");
///     });
///     server.serve(|conn| {
///         conn.subscribe("ticks").map_err(heartwire::Error::handler)?;
///         loop {
///             conn.recv()?;
///         }
///     })
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use = "topics do nothing until a server takes them"]
pub struct Topics {
    pub(crate) settings: Settings,
    pub(crate) access: Access,
    #[cfg(feature = "redis")]
    backplane: Option<Redis>,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    history: Limits,
    total_history: usize,
    window: Window,
    max_topics: usize,
    max_topics_per_connection: usize,
    presence: bool,
    saved_at: Option<PathBuf>,
}

impl Default for Topics {
    fn default() -> Self {
        Self::new()
    }
}

impl Topics {
    /// Topics with a history of 1,000 messages, 1 MiB and 10 minutes each.
    pub fn new() -> Self {
        let settings = Settings {
            history: Limits { count: 1000, bytes: 1024 * 1024, age: Duration::from_secs(600) },
            total_history: 64 * 1024 * 1024,
            window: Window { age: Duration::from_secs(300), count: 1000 },
            max_topics: 10_000,
            max_topics_per_connection: 100,
            presence: false,
            saved_at: None,
        };
        Self {
            settings,
            access: Access::default(),
            #[cfg(feature = "redis")]
            backplane: None,
        }
    }

    /// How much each topic keeps: this many messages, this many bytes of payload, and nothing older than `age`
    /// (clamped to 10 years). Default: 1,000 messages, 1 MiB, 10 minutes.
    ///
    /// Choose `age` longer than your clients take to come back, and the rest so that this many messages come meanwhile.
    /// A subscriber that missed more learns that it has [lost](Subscribed::lost) some.
    pub fn history(mut self, count: usize, bytes: usize, age: Duration) -> Self {
        self.settings.history = Limits { count, bytes, age: age.min(LONGEST) };
        self
    }

    /// Keeps nothing: whoever is not connected when a message is published, or is too slow, loses it, and learns that.
    pub fn ephemeral(mut self) -> Self {
        self.settings.history = Limits::NONE;
        self
    }

    /// The memory in bytes that the histories and the keys of all topics may take together. Default 64 MiB.
    ///
    /// A message counts as four times its length, and 640 bytes: it is kept as it came, and as it is sent. A
    /// [key](crate::ServerHandle::publish_once) counts as its length, and 240 bytes. When the total is used up, each
    /// topic is left its fair share, and a topic that has more makes room for its own messages by its own old ones and
    /// their keys. So a busy topic never costs a quiet one its history.
    pub fn total_history(mut self, bytes: usize) -> Self {
        self.settings.total_history = bytes;
        self
    }

    /// For how long, and for how many keys of a topic, publishing twice with the same key is publishing once. Default:
    /// 5 minutes, and the last 1,000 keys, as far as there is [memory](Self::total_history).
    pub fn key_window(mut self, age: Duration, count: usize) -> Self {
        self.settings.window = Window { age: age.min(LONGEST), count };
        self
    }

    /// The most topics of a server. Default 10,000. When there are as many, those are forgotten that nobody is
    /// subscribed to and that keep no message; if all are in use, another cannot be made.
    ///
    /// Subscribing makes no topic of the last quarter of them, so that clients that subscribe to names that they make
    /// up keep nobody from publishing. They may still use up the rest, and keep others from subscribing to topics that
    /// are not there yet: let [`on_subscribe`](Self::on_subscribe) or tokens say which names there are, or choose this
    /// number larger than what all clients may have together.
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.settings.max_topics = topics;
        self
    }

    /// The most topics that one connection may be subscribed to. Default 100.
    pub fn max_topics_per_connection(mut self, topics: usize) -> Self {
        self.settings.max_topics_per_connection = topics;
        self
    }

    /// Lets whoever may subscribe to a topic know who else is subscribed, who is in doubt because Pongs are missed, and
    /// who is gone and why. Default off: it is more than many clients should know of one another, and each change is
    /// told to all that ask.
    pub fn presence(mut self, presence: bool) -> Self {
        self.settings.presence = presence;
        self
    }

    /// Saves all topics to this file when [`Server::serve`](crate::Server::serve) ends in order, and goes on with them
    /// when the next server with this setting serves. Default: nothing is saved.
    ///
    /// Then a restart loses nothing: subscribers that come back get what they missed, and publishing twice with the
    /// same key is publishing once. The time in between counts for the ages of messages and keys.
    ///
    /// The file is removed when it was read, so a server that is killed leaves none, and subscribers learn that
    /// messages may be [lost](Subscribed::lost). Only its owner may read the file (mode 0600). A file that is damaged
    /// is kept as `PATH.damaged`, with an error in the log, as is a failure to save. Give each server a path of its
    /// own: two that run at the same time must not share one.
    ///
    /// If a message is published, or topics are listed, before the server serves, the file is read then. Once the file
    /// is being written, publishing fails with [`TopicError::Closed`].
    pub fn saved_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.saved_at = Some(path.into());
        self
    }

    /// Decides which topics a client may subscribe to by itself: by the subprotocol, or by the path `/topics/NAME`. The
    /// function gets the request of the opening handshake.
    ///
    /// Default: all topics, except for those whose name begins with `user/`.
    ///
    /// It runs in the connection's thread. If it panics, the client is refused and an error is logged. It is not asked
    /// when a handler [subscribes](crate::Connection::subscribe).
    pub fn on_subscribe(mut self, allow: impl Fn(&crate::Request, &TopicName) -> bool + Send + Sync + 'static) -> Self {
        self.access.on_subscribe = Some(Arc::new(allow));
        self
    }

    /// Decides which topics a client may publish to by itself. Default: none.
    ///
    /// It runs as [`on_subscribe`](Self::on_subscribe) does.
    pub fn on_publish(mut self, allow: impl Fn(&crate::Request, &TopicName) -> bool + Send + Sync + 'static) -> Self {
        self.access.on_publish = Some(Arc::new(allow));
        self
    }
}

/// Several servers.
#[cfg(feature = "redis")]
impl Topics {
    /// Shares all topics with other servers, by a Redis that has their histories. Default: the topics are the server's
    /// own, and in its memory.
    ///
    /// Nothing changes for subscribers and publishers: positions come from Redis, and mean the same on all servers. All
    /// servers should have the same settings of topics. [`saved_at`](Self::saved_at) has no effect.
    ///
    /// While Redis cannot be reached, subscribers stay, and get what was published once it can. Publishing waits for
    /// [a time](Redis::publish_timeout), and then fails with [`TopicError::BackplaneUnavailable`].
    pub fn backplane(mut self, redis: Redis) -> Self {
        self.backplane = Some(redis);
        self
    }
}

/// Tokens.
#[cfg(feature = "jwt")]
impl Topics {
    /// Lets clients do what their signed token grants, and nothing without one. Default: no tokens are taken.
    ///
    /// The token comes in the opening handshake, where `places` say, or later in a request of the subprotocol. One in
    /// the handshake that is not good is refused with 401. A connection whose token expires is closed with 4401, unless
    /// a new one came before. The user that the token names is the [user](crate::Connection::user) of the connection,
    /// unless `on_handshake` has named one; it may subscribe to `user/NAME` and all below. If
    /// [`on_subscribe`](Self::on_subscribe) or [`on_publish`](Self::on_publish) is given as well, it has to allow what
    /// the token grants.
    ///
    /// ```no_run
    /// use heartwire::topics::{TokenKey, TokenPlaces, TokenVerifier, Topics};
    ///
    /// # fn f() -> Result<Topics, Box<dyn std::error::Error>> {
    /// let verifier = TokenVerifier::new(TokenKey::from_file("jwt.key")?);
    /// let topics = Topics::new().tokens(verifier, TokenPlaces::new());
    /// # Ok(topics) }
    /// ```
    pub fn tokens(mut self, verifier: TokenVerifier, places: TokenPlaces) -> Self {
        self.access.authority = access::Authority::Tokens(Arc::new(access::Tokens { verifier, places }));
        self
    }

    /// Lets whoever has one of these keys publish and read every topic by HTTP, from any machine. Default: none, and
    /// then programs on the server's own machine may do that.
    ///
    /// The key comes in the header `Authorization: Bearer KEY`. Use TLS, or a network that nobody else reads. Once
    /// there are keys or [tokens](Self::tokens), programs on the server's own machine need one too.
    pub fn publish_keys(mut self, keys: PublishKeys) -> Self {
        self.access.publish_keys = Some(Arc::new(keys));
        self
    }

    /// Whether tokens may stand in queries, which then must not be shown.
    pub(crate) fn has_tokens_in_queries(&self) -> bool {
        matches!(&self.access.authority, access::Authority::Tokens(tokens) if tokens.places.takes_query())
    }
}

/// An authorization service.
#[cfg(feature = "auth-url")]
impl Topics {
    /// Lets clients do what an HTTP service grants them, and nothing else. Default: no service is asked. It takes the
    /// place of [`tokens`](Self::tokens), and they that of a service: of both, the later call counts.
    ///
    /// It is asked in each opening handshake of a client of topics, after `on_handshake`. The user that it names is the
    /// [user](crate::Connection::user) of the connection, unless `on_handshake` has named one; it may subscribe to
    /// `user/NAME` and all below. A client may also send a token later, in a request of the subprotocol. The service is
    /// then asked with that as `Authorization: Bearer`.
    ///
    /// Before the grants of a connection expire, the service is asked again. If that gives no more time, the client is
    /// warned, and the connection closed with 4401 in the end. If [`on_subscribe`](Self::on_subscribe) or
    /// [`on_publish`](Self::on_publish) is given as well, it has to allow what the service grants.
    ///
    /// Plain HTTP requests to topics are asked for too, but pages of other origins are refused: cookies would let them
    /// publish for their visitors.
    ///
    /// While the service is asked, only the client that it is about waits. Its heartbeat goes on.
    pub fn auth_service(mut self, service: AuthService) -> Self {
        self.access.authority = access::Authority::Service(service);
        self
    }
}

/// A message was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its place in the topic.
    pub position: Position,
    /// How many connections to this server were subscribed.
    pub here: usize,
    /// Whether it was published before with the same key, and was not published again now.
    pub again: bool,
    /// Whether only the subscribers of this server got it, because the [backplane](Topics::backplane) is away and the
    /// topics are [ephemeral](Topics::ephemeral). It has no position of its own then, and `position` is that of the
    /// message before it.
    pub only_here: bool,
}

/// A connection was subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscribed {
    /// The position of the topic's last message. What it missed up to there, if it said where it was, is on its way.
    pub position: Position,
    /// Whether some of what it missed is no longer kept. Then nothing of it is sent, and messages follow after the
    /// position.
    pub lost: bool,
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// The position of its last message.
    pub position: Position,
    /// Connections that are subscribed.
    pub subscribers: usize,
    /// How many of them are slower than the messages come, and get them from the history.
    pub behind: usize,
    /// Messages in the history.
    pub kept: usize,
    /// Their payload in bytes.
    pub bytes: usize,
}

/// Why subscribing or publishing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// The name is not that of a topic.
    InvalidName(InvalidTopic),
    /// A position is not written as one.
    InvalidPosition,
    /// The key is empty, or longer than 128 bytes.
    InvalidKey,
    /// The client may not do that.
    Forbidden,
    /// Nobody can say now whether the client may do that.
    Unavailable,
    /// The connection is subscribed to as many topics as it may be
    /// ([`max_topics_per_connection`](Topics::max_topics_per_connection)).
    TooManySubscriptions,
    /// The server has as many topics as it may have, and all are in use ([`max_topics`](Topics::max_topics)).
    TooManyTopics,
    /// The connection has ended, or the server has and [saves](Topics::saved_at) its topics.
    Closed,
    /// What the server shares its topics by cannot be reached, or does not answer in time.
    BackplaneUnavailable,
    /// The connection or handle is not one of a server with topics.
    NoTopics,
    /// The server does not tell who is subscribed ([`presence`](Topics::presence)).
    NoPresence,
}

impl TopicError {
    /// Its name in the wire format.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "bad-topic",
            Self::InvalidPosition => "bad-position",
            Self::InvalidKey => "malformed",
            Self::Forbidden => "forbidden",
            Self::TooManySubscriptions | Self::TooManyTopics => "too-many",
            Self::Unavailable | Self::BackplaneUnavailable | Self::Closed | Self::NoTopics | Self::NoPresence => {
                "unavailable"
            }
        }
    }
}

impl From<InvalidTopic> for TopicError {
    fn from(invalid: InvalidTopic) -> Self {
        Self::InvalidName(invalid)
    }
}

impl From<InvalidPosition> for TopicError {
    fn from(_: InvalidPosition) -> Self {
        Self::InvalidPosition
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(invalid) => invalid.fmt(f),
            Self::InvalidPosition => InvalidPosition.fmt(f),
            Self::InvalidKey => f.write_str("a key has 1 to 128 bytes"),
            Self::Forbidden => f.write_str("it is not allowed"),
            Self::Unavailable => f.write_str("nobody can say now whether it is allowed"),
            Self::TooManySubscriptions => f.write_str("the connection is subscribed to as many topics as it may be"),
            Self::TooManyTopics => f.write_str("the server has as many topics as it may have"),
            Self::Closed => f.write_str("the connection or the server has ended"),
            Self::BackplaneUnavailable => f.write_str("the backplane of the topics cannot be reached"),
            Self::NoTopics => f.write_str("the server has no topics"),
            Self::NoPresence => f.write_str("the server does not tell who is subscribed"),
        }
    }
}

impl std::error::Error for TopicError {}

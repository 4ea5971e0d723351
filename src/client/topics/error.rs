//! Why a server of topics refuses something, and why a message was not published.

use std::error::Error as StdError;
use std::fmt;

use crate::escape::Escaped;
use crate::topics::InvalidTopic;

/// What a server says when it refuses a subscription or a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRefusal {
    code: String,
    reason: String,
}

impl TopicRefusal {
    pub(super) fn new(code: String, reason: String) -> Self {
        Self { code, reason }
    }

    /// What was wrong, as one of the names in the specification of the protocol: `forbidden`, `bad-topic`,
    /// `bad-position`, `too-many`, `too-large`, `malformed`, or another of a later version.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The server's words. They are the peer's: print them by [`Escaped`].
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for TopicRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Escaped(&self.code), Escaped(&self.reason))
    }
}

impl StdError for TopicRefusal {}

/// Why a message was not published, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The name is not that of a topic.
    InvalidTopic(InvalidTopic),
    /// The key is empty, or longer than 128 bytes.
    InvalidKey,
    /// The message is longer, as JSON, than [`max_message_size`](crate::Client::max_message_size). A server with the
    /// same setting would close the connection because of it. Or it is larger than the
    /// [outbox](crate::TopicsClient::outbox_size).
    TooLarge,
    /// The [outbox](crate::TopicsClient::outbox_size) has no room for it.
    Full,
    /// The server has refused it.
    Refused(TopicRefusal),
    /// There was no reply within [`publish_timeout`](crate::TopicsClient::publish_timeout). It may have been published
    /// or not.
    Timeout,
    /// The client was stopped or has ended. If the message was sent by then, it may have been published.
    Closed,
    /// The call would wait for a reply in the thread that takes the replies: that of
    /// [`run`](crate::TopicsClient::run), in its handler. Use [`try_publish`](crate::TopicsHandle::try_publish) there.
    InHandler,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTopic(invalid) => invalid.fmt(f),
            Self::InvalidKey => f.write_str("a key has 1 to 128 bytes"),
            Self::TooLarge => f.write_str("the message is larger than the maximum message size, or than the outbox"),
            Self::Full => f.write_str("the outbox is full"),
            Self::Refused(refusal) => write!(f, "the server refused it: {refusal}"),
            Self::Timeout => f.write_str("the server did not confirm it in time"),
            Self::Closed => f.write_str("the client ended before the server confirmed it"),
            Self::InHandler => f.write_str("the handler cannot wait for a reply that its own thread has to take"),
        }
    }
}

impl StdError for PublishError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::InvalidTopic(invalid) => Some(invalid),
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

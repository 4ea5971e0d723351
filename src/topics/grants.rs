//! What somebody may do with topics.
//!
//! Invariants: a user's name is one part of a topic's name, so that what is below `user/NAME` is one user's alone. What
//! came as JSON is bounded.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::claims::{self, MAX_ITEMS, ObjectError, Value};
use super::name::{InvalidTopic, TopicName, TopicPattern};
use crate::connection::user::{InvalidUserName, UserName};

/// Which topics somebody may subscribe to and publish to, until when, and who it is.
///
/// [`new`](Self::new) grants nothing. As JSON, in the claims of a token as in the answer of a service:
///
/// ```
/// use heartwire::topics::Grants;
///
/// let json = br#"{"sub": "alice", "subscribe": ["news", "sensors/*"], "publish": ["chat/*"], "exp": 1790000000}"#;
/// let grants = Grants::from_json(json)?;
///
/// assert_eq!(grants.user(), Some("alice"));
/// assert!(grants.may_subscribe(&"sensors/kitchen".parse()?));
/// assert!(grants.may_publish(&"chat/lobby".parse()?) && !grants.may_publish(&"news".parse()?));
/// // Every user may subscribe to what is addressed to that user.
/// assert!(grants.may_subscribe(&"user/alice".parse()?) && grants.may_subscribe(&"user/alice/inbox".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "grants do nothing by themselves"]
pub struct Grants {
    user: Option<String>,
    subscribe: Vec<TopicPattern>,
    publish: Vec<TopicPattern>,
    expires: Option<SystemTime>,
}

/// Why JSON, or the name of a user, does not make [`Grants`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrantsError {
    /// It is longer than [`Grants::MAX_JSON`] bytes.
    TooLong,
    /// It is not JSON.
    NotJson,
    /// It is JSON, and not an object.
    NotAnObject,
    /// It has a member twice.
    Duplicate {
        /// The member's name.
        member: &'static str,
    },
    /// A member has a value of the wrong type.
    WrongType {
        /// The member's name.
        member: &'static str,
        /// What its value should be.
        expected: &'static str,
    },
    /// `sub` is no name of a user.
    InvalidUser {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A list has more than [`Grants::MAX_PATTERNS`] items.
    TooMany {
        /// The member's name.
        member: &'static str,
    },
    /// An item of a list is no pattern of topics.
    InvalidPattern {
        /// The member's name.
        member: &'static str,
        /// The item's place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        why: InvalidTopic,
    },
    /// A date is before 1970 or after the year 9999.
    InvalidDate {
        /// The member's name.
        member: &'static str,
    },
}

impl Grants {
    /// The most patterns in `subscribe`, and in `publish`, of grants that come as JSON.
    pub const MAX_PATTERNS: usize = MAX_ITEMS;

    /// The longest JSON, in bytes.
    pub const MAX_JSON: usize = 64 * 1024;

    /// The longest name of a user, in bytes.
    pub const MAX_USER: usize = UserName::MAX_LEN;

    /// Grants nothing, to nobody in particular, for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads grants from JSON: an object with the members `sub` (the user), `subscribe` and `publish` (lists of
    /// patterns), and `exp` (when they expire, in seconds since 1970). Each may be left out. Other members are ignored.
    ///
    /// # Errors
    /// If it is too long, not such an object, has one of these members twice, or one with a value of another type:
    /// `null` is one. None of its text is in the error.
    pub fn from_json(json: &[u8]) -> Result<Self, GrantsError> {
        if json.len() > Self::MAX_JSON {
            return Err(GrantsError::TooLong);
        }
        let [user, subscribe, publish, expires] = claims::read(json, ["sub", "subscribe", "publish", "exp"])?;
        let grants = Self {
            user: None,
            subscribe: patterns("subscribe", subscribe)?,
            publish: patterns("publish", publish)?,
            expires: expires.map(|value| date("exp", &value)).transpose()?,
        };
        match text("sub", user)? {
            Some(user) => grants.for_user(user),
            None => Ok(grants),
        }
    }

    /// Says who the user is, who may then also subscribe to the topic `user/NAME` and to all below it. Default: nobody
    /// in particular.
    ///
    /// A name of more than 251 bytes does not fit into a topic's name, so it grants nothing.
    ///
    /// # Errors
    /// [`GrantsError::InvalidUser`] unless the name has 1 to 256 bytes, and no control character. `/` and `*` are not
    /// allowed either: the user `a/b` would own a topic below that of the user `a`.
    pub fn for_user(mut self, name: impl Into<String>) -> Result<Self, GrantsError> {
        let why = |invalid| match invalid {
            InvalidUserName::Empty => "it is empty",
            InvalidUserName::TooLong => "it is longer than 256 bytes",
            InvalidUserName::Control(_) => "it contains a control character",
        };
        let name = UserName::new(name.into()).map_err(|invalid| GrantsError::InvalidUser { why: why(invalid) })?;
        if name.as_str().contains(['/', '*']) {
            return Err(GrantsError::InvalidUser { why: "it contains / or *, which have a meaning in topics" });
        }
        self.user = Some(name.as_str().to_owned());
        Ok(self)
    }

    /// Also allows to subscribe to these topics.
    pub fn allow_subscribe(mut self, topics: TopicPattern) -> Self {
        self.subscribe.push(topics);
        self
    }

    /// Also allows to publish to these topics.
    pub fn allow_publish(mut self, topics: TopicPattern) -> Self {
        self.publish.push(topics);
        self
    }

    /// Sets when the grants expire. Default: never.
    pub fn expire_at(mut self, time: SystemTime) -> Self {
        self.expires = Some(time);
        self
    }

    /// The user, if it is known who it is.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The topics that may be subscribed to, besides those of the user.
    pub fn subscribe(&self) -> &[TopicPattern] {
        &self.subscribe
    }

    /// The topics that may be published to.
    pub fn publish(&self) -> &[TopicPattern] {
        &self.publish
    }

    /// When the grants expire, if ever.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// How much longer the grants are valid. Zero if they have expired, `None` if they never will.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.expires.map(|expires| expires.duration_since(now).unwrap_or_default())
    }

    /// Whether they allow to subscribe to this topic. Whether they have expired is not asked here.
    pub fn may_subscribe(&self, topic: &TopicName) -> bool {
        topic.is_for(self.user()) || self.subscribe.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether they allow to publish to this topic. Whether they have expired is not asked here.
    pub fn may_publish(&self, topic: &TopicName) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(topic))
    }
}

/// The text in a member.
pub(super) fn text(member: &'static str, value: Option<Value>) -> Result<Option<String>, GrantsError> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(GrantsError::WrongType { member, expected: "a text" }),
    }
}

/// The date in a member: seconds since 1970, with a fraction or without (`NumericDate` of RFC 7519 section 2).
pub(super) fn date(member: &'static str, value: &Value) -> Result<SystemTime, GrantsError> {
    /// The last second of the year 9999.
    const LAST: f64 = 253_402_300_799.0;
    let Value::Number(seconds) = *value else {
        return Err(GrantsError::WrongType { member, expected: "a number of seconds" });
    };
    let since_1970 = Some(seconds).filter(|seconds| (0.0..=LAST).contains(seconds)).map(Duration::from_secs_f64);
    since_1970.and_then(|since| UNIX_EPOCH.checked_add(since)).ok_or(GrantsError::InvalidDate { member })
}

fn patterns(member: &'static str, value: Option<Value>) -> Result<Vec<TopicPattern>, GrantsError> {
    let wrong_type = GrantsError::WrongType { member, expected: "a list of texts" };
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::List(items)) => items,
        Some(_) => return Err(wrong_type),
    };
    if items.len() > Grants::MAX_PATTERNS {
        return Err(GrantsError::TooMany { member });
    }
    let pattern = |(index, item): (usize, Option<String>)| {
        let pattern = item.ok_or(wrong_type)?.parse();
        pattern.map_err(|why| GrantsError::InvalidPattern { member, index, why })
    };
    items.into_iter().enumerate().map(pattern).collect()
}

impl From<ObjectError> for GrantsError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotJson => Self::NotJson,
            ObjectError::NotAnObject => Self::NotAnObject,
            ObjectError::Duplicate(member) => Self::Duplicate { member },
        }
    }
}

impl fmt::Display for GrantsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the grants are longer than {} bytes", Grants::MAX_JSON),
            Self::NotJson => f.write_str("the grants are not JSON"),
            Self::NotAnObject => f.write_str("the grants are not a JSON object"),
            Self::Duplicate { member } => write!(f, "the grants have {member:?} twice"),
            Self::WrongType { member, expected } => write!(f, "{member:?} in the grants is not {expected}"),
            Self::InvalidUser { why } => write!(f, "\"sub\" in the grants is no name of a user: {why}"),
            Self::TooMany { member } => {
                write!(f, "{member:?} in the grants has more than {} items", Grants::MAX_PATTERNS)
            }
            Self::InvalidPattern { member, index, why } => {
                write!(f, "item {index} of {member:?} in the grants is no pattern of topics: {why}")
            }
            Self::InvalidDate { member } => {
                write!(f, "{member:?} in the grants is no date between 1970 and 9999, in seconds since 1970")
            }
        }
    }
}

impl std::error::Error for GrantsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidPattern { why, .. } => Some(why),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

//! The names of topics, and patterns that stand for many of them.
//!
//! Invariant: a name is short, can be printed, and has no empty part, so that it has one spelling.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a topic, such as `sensors/kitchen/temperature`. Cloning is cheap.
///
/// It has 1 to 256 bytes. `/` separates its parts, none of which is empty. Control characters and `*` are not allowed.
/// Names that differ in case are different.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Names for which something is allowed: one topic, such as `news`, or all below a prefix, such as `sensors/*`.
///
/// `sensors/*` stands for `sensors/kitchen` and `sensors/kitchen/temperature`, and not for `sensors`. `*` alone stands
/// for all topics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern {
    /// Without the `*`, so it is empty or ends in `/` if it is a prefix.
    text: Arc<str>,
    is_prefix: bool,
}

/// Why a text is no name or pattern of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidTopic {
    /// It is empty, or has an empty part, as in `a//b` or `/a`.
    EmptyPart,
    /// It is longer than 256 bytes.
    TooLong,
    /// It contains a control character, or `*` where it stands for nothing.
    Forbidden(char),
}

impl TopicName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 256;

    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of those that are for single users.
    pub(super) fn is_for_a_user(&self) -> bool {
        self.0.split('/').next() == Some("user")
    }

    /// Whether it is `user/NAME` of this user, or below that. A user whose name has a `/` has no such topics: they
    /// might be those of another.
    pub(super) fn is_for(&self, user: Option<&str>) -> bool {
        self.is_for_a_user() && user.is_some() && self.0.split('/').nth(1) == user
    }
}

impl TopicPattern {
    /// Whether it stands for this topic.
    pub fn matches(&self, topic: &TopicName) -> bool {
        if self.is_prefix { topic.as_str().starts_with(&*self.text) } else { *self.text == *topic.0 }
    }

    /// The topic that it stands for, if it is a single one.
    pub fn as_name(&self) -> Option<TopicName> {
        (!self.is_prefix).then(|| TopicName(Arc::clone(&self.text)))
    }
}

fn check(name: &str) -> Result<(), InvalidTopic> {
    if name.len() > TopicName::MAX_LEN {
        return Err(InvalidTopic::TooLong);
    }
    if let Some(forbidden) = name.chars().find(|char| *char == '*' || char.is_control()) {
        return Err(InvalidTopic::Forbidden(forbidden));
    }
    if name.split('/').any(str::is_empty) { Err(InvalidTopic::EmptyPart) } else { Ok(()) }
}

/// A map of topics can be asked by text.
impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        match text.strip_suffix('*') {
            Some("") => {}
            Some(prefix) => check(prefix.strip_suffix('/').ok_or(InvalidTopic::Forbidden('*'))?)?,
            None => check(text)?,
        }
        let is_prefix = text.ends_with('*');
        Ok(Self { text: text.trim_end_matches('*').into(), is_prefix })
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPart => f.write_str("the name of a topic, or a part of it, is empty"),
            Self::TooLong => write!(f, "the name of a topic is longer than {} bytes", TopicName::MAX_LEN),
            Self::Forbidden(char) => write!(f, "the name of a topic contains {char:?}"),
        }
    }
}

impl std::error::Error for InvalidTopic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_parts_that_are_not_empty_and_can_be_printed() {
        for name in ["news", "sensors/kitchen/temperature", "user/Zoë", "a b", &"a".repeat(256)] {
            assert_eq!(name.parse::<TopicName>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
        let wrong = |name: &str| name.parse::<TopicName>().unwrap_err();
        for name in ["", "/", "/a", "a/", "a//b"] {
            assert_eq!(wrong(name), InvalidTopic::EmptyPart, "{name:?}");
        }
        assert_eq!(wrong(&"a".repeat(257)), InvalidTopic::TooLong);
        for (name, char) in [("a/*", '*'), ("*", '*'), ("a\nb", '\n'), ("a\u{85}", '\u{85}')] {
            assert_eq!(wrong(name), InvalidTopic::Forbidden(char), "{name:?}");
        }
    }

    #[test]
    fn a_pattern_stands_for_one_topic_or_for_all_below_a_prefix() {
        let matches = |pattern: &str, name: &str| {
            pattern.parse::<TopicPattern>().unwrap().matches(&name.parse::<TopicName>().unwrap())
        };
        for (pattern, name) in [("a", "a"), ("a/*", "a/b"), ("a/*", "a/b/c"), ("*", "a"), ("*", "a/b")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "A"), ("a", "a/b"), ("a/*", "a"), ("a/*", "ab"), ("a/b/*", "a/c")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for pattern in ["", "a*", "/*", "a//*", "a/*/b", "*/a", "a/**", "**"] {
            assert!(pattern.parse::<TopicPattern>().is_err(), "{pattern:?}");
        }
        for pattern in ["a/b", "a/b/*", "*"] {
            assert_eq!(pattern.parse::<TopicPattern>().unwrap().to_string(), pattern);
        }
    }

    #[test]
    fn a_user_has_the_topics_below_its_name_and_no_others() {
        let is_for = |user: &str, topic: &str| topic.parse::<TopicName>().unwrap().is_for(Some(user));
        assert!(is_for("alice", "user/alice") && is_for("alice", "user/alice/mail"));
        assert!(!is_for("alice", "user/alice2") && !is_for("alice", "user/bob") && !is_for("alice", "alice"));
        assert!(!is_for("a/b", "user/a/b") && !is_for("a", "user"));
        let name = |topic: &str| topic.parse::<TopicName>().unwrap();
        assert!(!name("user/a").is_for(None) && !name("user").is_for(None));
        assert!(name("user").is_for_a_user() && name("user/a").is_for_a_user() && !name("users/a").is_for_a_user());
    }
}

//! The name of the user whom a connection belongs to, as [`Accept::user`](crate::Accept::user) has it.
//!
//! Invariants: a name is not empty, is bounded, and has no control characters. It is one pointer wide, because every
//! connection has a place for it and few may need it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a user. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UserName(Arc<String>);

/// Why a text is no name of a user. Its `Display` completes "`on_handshake` returned".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvalidUserName {
    Empty,
    TooLong,
    Control(char),
}

impl UserName {
    /// The longest name, in bytes.
    pub(crate) const MAX_LEN: usize = 256;

    pub(crate) fn new(name: String) -> Result<Self, InvalidUserName> {
        if name.is_empty() {
            return Err(InvalidUserName::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(InvalidUserName::TooLong);
        }
        match name.chars().find(|char| char.is_control()) {
            Some(control) => Err(InvalidUserName::Control(control)),
            None => Ok(Self(Arc::new(name))),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names are found by their text.
impl Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for InvalidUserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty user name"),
            Self::TooLong => write!(f, "a user name longer than {} bytes", UserName::MAX_LEN),
            Self::Control(control) => write!(f, "a user name that contains {control:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_and_has_no_control_characters() {
        for name in ["anna", "Zoë Müller", "auth0|5f7c", "a\"b", &"ä".repeat(128)] {
            assert_eq!(UserName::new(name.to_owned()).unwrap().as_str(), name);
        }
        for (name, why) in [
            ("", InvalidUserName::Empty),
            (&"ä".repeat(129)[..], InvalidUserName::TooLong),
            (&"a".repeat(257), InvalidUserName::TooLong),
            ("a\nb", InvalidUserName::Control('\n')),
            ("\u{0}", InvalidUserName::Control('\u{0}')),
            ("a\u{7f}", InvalidUserName::Control('\u{7f}')),
            ("a\u{9b}", InvalidUserName::Control('\u{9b}')),
        ] {
            assert_eq!(UserName::new(name.to_owned()), Err(why), "{name:?}");
        }
    }

    #[test]
    fn a_connection_without_a_user_pays_one_pointer() {
        assert_eq!(size_of::<Option<UserName>>(), size_of::<usize>());
    }
}

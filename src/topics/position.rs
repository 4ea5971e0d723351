//! Where a message stands in its topic, so that a subscriber can say what it has seen.
//!
//! Invariant: two positions of a topic can only be compared if their epochs are equal. An epoch is never used twice.

use std::fmt;
use std::str::FromStr;

/// The place of a message in its topic, written `EPOCH:OFFSET`, such as `4f2a90c1d3e5b607:42`.
///
/// The offset grows by one with each message of the topic. Offset 0 stands before the first. The epoch is another one
/// after the history was lost: an offset of an earlier epoch means nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
}

/// One life of a history, written as 16 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(u64);

/// A text is no [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidPosition;

impl Position {
    /// The offset, which grows by one with each message of the topic.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether both belong to the same life of a history, so that their offsets can be compared.
    pub fn is_comparable_to(&self, other: &Self) -> bool {
        self.epoch == other.epoch
    }
}

impl Epoch {
    /// One that has never been.
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }
}

impl FromStr for Epoch {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        // The one spelling that we write: clients compare texts.
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(InvalidPosition);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidPosition)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, offset) = text.split_once(':').ok_or(InvalidPosition)?;
        let is_decimal = offset.bytes().all(|byte| byte.is_ascii_digit());
        let is_canonical = is_decimal && (offset == "0" || !offset.starts_with('0'));
        let offset = offset.parse().ok().filter(|_| is_canonical).ok_or(InvalidPosition)?;
        Ok(Self { epoch: epoch.parse()?, offset })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InvalidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is EPOCH:OFFSET, such as 4f2a90c1d3e5b607:42")
    }
}

impl std::error::Error for InvalidPosition {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_one_spelling() {
        for text in ["0000000000000000:0", "4f2a90c1d3e5b607:42", "ffffffffffffffff:18446744073709551615"] {
            assert_eq!(text.parse::<Position>().map(|position| position.to_string()), Ok(text.to_owned()));
        }
        let wrong = ["", ":", "4f2a90c1d3e5b607", "4f2a90c1d3e5b607:", "4F2A90C1D3E5B607:1", "4f2a90c1d3e5b60:1"];
        let more = ["4f2a90c1d3e5b607:01", "4f2a90c1d3e5b607:-1", "4f2a90c1d3e5b607:+1", " 4f2a90c1d3e5b607:1"];
        let large = ["4f2a90c1d3e5b607:18446744073709551616", "+f2a90c1d3e5b607:1", "4f2a90c1d3e5b607:1:1"];
        for text in wrong.into_iter().chain(more).chain(large) {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text:?}");
        }
    }
}

//! Messages: what handlers receive and send.
//!
//! [`Text`] is our own type; [`Bytes`] is that of the crate `bytes`, which many libraries share.

use bytes::Bytes;

mod text;

pub use text::Text;

/// A whole data message (RFC 6455 section 5.6), reassembled from its fragments.
///
/// RFC 6455 has only these two kinds, so this enum is complete. Ping, Pong and Close never reach a handler. Payloads
/// are reference-counted: cloning a message does not copy it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)]
pub enum Message {
    /// Text, checked to be UTF-8.
    Text(Text),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// The memory that a kept message or frame takes beyond its payload: its place in a queue that may be half empty,
    /// and the allocator's overhead.
    pub(crate) const OVERHEAD: usize = 128;

    /// The memory that it takes while it is kept.
    pub(crate) fn cost(&self) -> usize {
        self.len() + Self::OVERHEAD
    }

    /// Makes the payload our own, by a copy unless it is known to be. Dropping the message then runs no code of the
    /// application.
    #[cfg(feature = "topics")]
    pub(crate) fn into_own(self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.as_str().into()),
            Self::Binary(bytes) if !bytes.is_unique() => Self::Binary(Bytes::copy_from_slice(&bytes)),
            own @ Self::Binary(_) => own,
        }
    }

    /// A text message.
    pub fn text(text: impl Into<Text>) -> Self {
        Self::Text(text.into())
    }

    /// A binary message.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::Binary(bytes.into())
    }

    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload, whatever its kind.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_ref(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The text of a text message. `None` for a binary message.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&String> for Message {
    fn from(text: &String) -> Self {
        Self::text(text)
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Self::Binary(Bytes::copy_from_slice(bytes))
    }
}

impl<const LEN: usize> From<&[u8; LEN]> for Message {
    fn from(bytes: &[u8; LEN]) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::binary(bytes)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Text> for Message {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

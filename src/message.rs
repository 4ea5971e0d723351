//! What handlers receive and send.
//!
//! [`Text`] is ours; [`Bytes`] is the type of the crate `bytes` that many libraries share.

use bytes::Bytes;

mod text;

pub use text::Text;

/// A whole data message (RFC 6455 section 5.6), reassembled from its fragments.
///
/// RFC 6455 knows these two kinds and no other, so this enum is complete. Ping, Pong and Close never reach a handler.
/// The payloads are reference-counted: cloning a message does not copy it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)]
pub enum Message {
    /// Text, checked to be UTF-8.
    Text(Text),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// What it costs in memory to keep a message, or its frame, beyond the payload: its place in a queue that may be
    /// half empty, and what the allocator adds to a payload.
    pub(crate) const OVERHEAD: usize = 128;

    /// What it costs in memory to keep it.
    pub(crate) fn cost(&self) -> usize {
        self.len() + Self::OVERHEAD
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

    /// The text of a text message.
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

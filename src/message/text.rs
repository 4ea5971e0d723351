//! The payload of a text message: a string that is cheap to clone.
//!
//! Invariant: the bytes are UTF-8. Each constructor checks that once, and nothing checks it again. The inner type keeps
//! this invariant without `unsafe` code of ours. It is private, so that no other crate's version is part of our API.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::Utf8Error;

use bytes::Bytes;
use tungstenite::Utf8Bytes;

/// The payload of a text message: an immutable UTF-8 string (RFC 6455 section 5.6).
///
/// It dereferences to [`str`], and so has all methods of `str`. `Text` is to [`Bytes`] what `String` is to `Vec<u8>`.
/// The payload is reference-counted: cloning does not copy it.
///
/// ```
/// use heartwire::{Bytes, Message, Text};
///
/// let text = Text::from("good morning");
/// assert_eq!(text, "good morning");
/// assert!(text.starts_with("good") && text.len() == 12);
///
/// let again = text.clone(); // shares the payload
/// let message = Message::from(text);
/// assert_eq!(message.as_text(), Some(again.as_str()));
///
/// let bytes: Bytes = again.into_bytes(); // still shares it
/// assert_eq!(Text::try_from(bytes)?, "good morning"); // checks that it is UTF-8
/// assert!(Text::try_from(Bytes::from_static(b"\xff")).is_err());
/// # Ok::<(), std::str::Utf8Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Utf8Bytes);

impl Text {
    /// A text that lives as long as the program. Nothing is copied or reference-counted.
    ///
    /// ```
    /// const GREETING: heartwire::Text = heartwire::Text::from_static("welcome");
    /// assert_eq!(GREETING, "welcome");
    /// ```
    pub const fn from_static(text: &'static str) -> Self {
        Self(Utf8Bytes::from_static(text))
    }

    /// The text as a string slice.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The payload as bytes, without copying it.
    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// `Hash`, `Eq` and `Ord` are those of `str`, so a map with keys of this type can be queried with a `&str`.
impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Copies the text. [`from_static`](Self::from_static) does not.
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Copies the text.
impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self(text.into())
    }
}

/// Reuses the string's memory.
impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Copies the text.
impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        text.into_bytes()
    }
}

/// Checks that the bytes are UTF-8, without copying them.
impl TryFrom<Bytes> for Text {
    type Error = Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Utf8Error> {
        bytes.try_into().map(Self)
    }
}

/// Checks that the bytes are UTF-8, without copying them.
impl TryFrom<Vec<u8>> for Text {
    type Error = Utf8Error;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Utf8Error> {
        bytes.try_into().map(Self)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Text> for str {
    fn eq(&self, other: &Text) -> bool {
        other == self
    }
}

impl PartialEq<Text> for &str {
    fn eq(&self, other: &Text) -> bool {
        other == self
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        other == self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn a_text_compares_hashes_and_prints_like_the_string_that_it_holds() {
        let (text, string, before) = (Text::from("é\n"), String::from("é\n"), Text::from("e"));
        assert!(text == "é\n" && text == *"é\n" && text == string);
        assert!("é\n" == text && *"é\n" == text && string == text);
        assert!(text != "é" && text > before);
        assert!(HashSet::from([text.clone()]).contains("é\n"));
        assert!(BTreeSet::from([text.clone()]).contains("é\n"));
        assert_eq!((format!("{text:?}"), text.to_string()), (r#""é\n""#.to_owned(), "é\n".to_owned()));
        assert_eq!(format!("[{:>3}]", Text::from("a")), "[  a]");
    }

    #[test]
    fn only_utf_8_becomes_a_text() {
        for bytes in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80"] {
            assert!(Text::try_from(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
            assert!(Text::try_from(bytes.to_vec()).is_err(), "{bytes:?}");
        }
        assert_eq!(Text::try_from("é".as_bytes().to_vec()).unwrap(), "é");
    }

    #[test]
    fn a_text_and_its_bytes_share_their_memory() {
        let bytes = Bytes::from("a payload of some length".to_owned());
        let place = bytes.as_ptr();
        let text = Text::try_from(bytes).unwrap();
        assert_eq!([text.as_ptr(), text.clone().as_ptr(), text.into_bytes().as_ptr()], [place; 3]);
    }
}

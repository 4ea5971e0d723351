//! The keys of those that publish by HTTP.
//!
//! Invariants: a key is kept as an HMAC under a random key, and compared as such, in constant time. How long that takes
//! shows neither how much of a key is right nor how long a key is. Nothing prints one.

use std::fmt;
use std::path::Path;

use ring::hmac;

use super::key_error::{KeyError, KeyErrorKind, read_file};

/// The keys, each of which lets its bearer publish. Cloning is not cheap: share them.
#[derive(Clone)]
pub struct PublishKeys {
    hashing: hmac::Key,
    hashes: Vec<hmac::Tag>,
}

impl PublishKeys {
    /// The shortest key, in bytes.
    pub const MIN_LEN: usize = 16;
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 512;
    /// The most keys.
    pub const MAX_KEYS: usize = 100;

    /// Makes them of text with one key on each line. Empty lines and those that begin with `#` do not count, nor does
    /// space around a key.
    ///
    /// `openssl rand -hex 32` makes a good key. Two keys at a time let their bearers change from one to the other.
    ///
    /// # Errors
    /// If there is no key or more than [`MAX_KEYS`](Self::MAX_KEYS), or one that is not of
    /// [`MIN_LEN`](Self::MIN_LEN) to [`MAX_LEN`](Self::MAX_LEN) visible ASCII characters. The error names the line.
    pub fn from_text(text: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let mut keys = Self { hashing: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()), hashes: vec![] };
        for (index, line) in text.as_ref().split(|byte| *byte == b'\n').enumerate() {
            let key = line.trim_ascii();
            if key.is_empty() || key.starts_with(b"#") {
                continue;
            }
            let refuse = |kind, what: String| Err(KeyError::new(kind, format!("the key on line {}{what}", index + 1)));
            if !key.iter().all(u8::is_ascii_graphic) {
                let what = " has a character that no header can carry: use letters, digits and - _ . ~ + / =";
                return refuse(KeyErrorKind::Unsupported, what.to_owned());
            }
            if key.len() < Self::MIN_LEN {
                let what = format!(" has less than {} characters (openssl rand -hex 32 makes one)", Self::MIN_LEN);
                return refuse(KeyErrorKind::TooShort, what);
            }
            if key.len() > Self::MAX_LEN {
                return refuse(KeyErrorKind::TooLong, format!(" has more than {} characters", Self::MAX_LEN));
            }
            if keys.hashes.len() == Self::MAX_KEYS {
                return refuse(KeyErrorKind::TooLong, format!(" is one more than the {} allowed", Self::MAX_KEYS));
            }
            keys.hashes.push(hmac::sign(&keys.hashing, key));
        }
        if keys.hashes.is_empty() {
            return Err(KeyError::new(KeyErrorKind::Empty, "there is no key in it: write one on a line"));
        }
        Ok(keys)
    }

    /// Reads them from a file: see [`from_text`](Self::from_text). Only the server should be able to read it.
    ///
    /// # Errors
    /// As for [`from_text`](Self::from_text), or if the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        read_file(path.as_ref(), |text| Self::from_text(text))
    }

    /// Whether this is one of the keys. How long that takes tells nothing about them but their number.
    pub fn matches(&self, key: &[u8]) -> bool {
        // A longer one is none, whatever the keys are.
        let is = |hash: &hmac::Tag| hmac::verify(&self.hashing, key, hash.as_ref()).is_ok();
        key.len() <= Self::MAX_LEN && self.hashes.iter().fold(false, |found, hash| found | is(hash))
    }
}

impl fmt::Debug for PublishKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishKeys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-key-0123456789";
    const NEW: &str = "a/new+key=0123456789";

    #[test]
    fn each_line_is_a_key() {
        let text = format!("# for the shop\n\n  {OLD}\t\r\n   # until May\n{NEW}");
        let keys = PublishKeys::from_text(text).unwrap();
        assert!(keys.matches(OLD.as_bytes()) && keys.matches(NEW.as_bytes()));
        for other in ["", "# for the shop", &OLD[1..], &OLD[..20], &format!("{OLD} "), &format!("{OLD}{NEW}")] {
            assert!(!keys.matches(other.as_bytes()), "{other:?}");
        }
        assert!(!keys.matches(&[b'a'; 1 << 20]));
    }

    #[test]
    fn a_key_that_is_not_safe_is_refused_by_its_line() {
        let refused = |text: &str| {
            let error = PublishKeys::from_text(text).unwrap_err();
            (error.kind(), error.to_string())
        };
        for (text, kind, line) in [
            ("", KeyErrorKind::Empty, "write one"),
            ("# nothing\n\n", KeyErrorKind::Empty, "write one"),
            (&format!("{OLD}\n123456789012345"), KeyErrorKind::TooShort, "line 2"),
            (&"a".repeat(513), KeyErrorKind::TooLong, "line 1"),
            (&format!("{OLD}\n").repeat(101), KeyErrorKind::TooLong, "line 101"),
            ("\nan old key 0123456789", KeyErrorKind::Unsupported, "line 2"),
            ("an-öld-key-0123456789", KeyErrorKind::Unsupported, "line 1"),
        ] {
            let (found, shown) = refused(text);
            assert!(found == kind && shown.contains(line), "{shown}");
            assert!(!shown.contains("12345") && !shown.contains("old"), "{shown}");
        }
        for len in [16, 512] {
            let key = "k".repeat(len);
            assert!(PublishKeys::from_text(&key).unwrap().matches(key.as_bytes()));
        }
    }

    #[test]
    fn nothing_shows_a_key() {
        assert_eq!(format!("{:?}", PublishKeys::from_text(OLD).unwrap()), "PublishKeys { .. }");
    }

    #[test]
    fn an_error_names_the_file() {
        let error = PublishKeys::from_file("/nowhere/keys").unwrap_err();
        assert_eq!(error.kind(), KeyErrorKind::Unreadable);
        assert!(error.to_string().starts_with("key file /nowhere/keys: it cannot be read: "), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

//! Why a file of keys, or a key, cannot be used; and how such a file is read.
//!
//! Invariant: no text here shows any of a key.

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Why a key cannot be used. Its text says what is wrong, in which file, and what to do. It shows nothing of the key.
#[derive(Debug)]
pub struct KeyError {
    kind: KeyErrorKind,
    text: String,
    cause: Option<io::Error>,
}

/// What a [`KeyError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// The file cannot be read.
    Unreadable,
    /// There is no key in it.
    Empty,
    /// A key is too short to be safe.
    TooShort,
    /// A key or the file is too long, or there are too many keys in it.
    TooLong,
    /// A private key, where a public one is expected.
    PrivateKey,
    /// A key of another kind, or not in the form that is expected.
    Unsupported,
}

impl KeyError {
    pub(super) fn new(kind: KeyErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), cause: None }
    }

    /// What it is about.
    pub fn kind(&self) -> KeyErrorKind {
        self.kind
    }
}

/// Reads a file of keys, and makes something of it. Errors name the file.
pub(super) fn read_file<T>(path: &Path, make: impl FnOnce(&[u8]) -> Result<T, KeyError>) -> Result<T, KeyError> {
    /// More than a hundred of the longest keys.
    const MAX_SIZE: u64 = 128 * 1024;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes));
    let made = match read {
        Err(error) => {
            let text = format!("it cannot be read: {error}");
            Err(KeyError { cause: Some(error), ..KeyError::new(KeyErrorKind::Unreadable, text) })
        }
        Ok(len) if len as u64 > MAX_SIZE => Err(KeyError::new(KeyErrorKind::TooLong, "it is too large for keys")),
        Ok(_) => make(&bytes),
    };
    made.map_err(|error| KeyError { text: format!("key file {}: {}", path.display(), error.text), ..error })
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for KeyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

//! What the application can change in each attempt to connect.

use std::fmt;

/// An attempt to connect that is about to begin, for the function given to [`Client::prepare`](crate::Client::prepare).
/// It starts with the client's own URL and headers.
pub struct Attempt {
    pub(super) number: u32,
    pub(super) refused_with: Option<u16>,
    pub(super) url: Option<String>,
    pub(super) headers: Vec<(String, String)>,
}

impl Attempt {
    /// The number of the attempt, from 1. A connection that lasts for
    /// [`Backoff::stable_after`](crate::Backoff::stable_after) starts the count again.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The HTTP status with which the server refused the previous attempt. `None` if it did not refuse it.
    pub fn refused_with(&self) -> Option<u16> {
        self.refused_with
    }

    /// Connects to this URL in this attempt, instead of the client's.
    pub fn url(&mut self, url: impl Into<String>) -> &mut Self {
        self.url = Some(url.into());
        self
    }

    /// Sends this header in this attempt, instead of the client's headers of the same name.
    pub fn header(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let name = name.into();
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.headers.push((name, value.into()));
        self
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs and headers may hold credentials.
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .field("refused_with", &self.refused_with)
            .finish_non_exhaustive()
    }
}

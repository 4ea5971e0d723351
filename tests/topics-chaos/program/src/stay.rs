//! One connection of a subscriber, as its client knows it: what there is to know of whether others may, or must, see
//! its user among the members of its topics.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A client that has not read for longer may have missed a Ping, and then the server may be right to give it up. Pings
/// come more often.
pub(crate) const ATTENTION: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(crate) struct Stay {
    /// The process of a server that it leads to, if that is known.
    pub(crate) process: Option<SocketAddr>,
    /// Not before then the server can have known of it.
    pub(crate) asked: Instant,
    /// When the server had said that it is subscribed to all of its topics.
    pub(crate) subscribed: Option<Instant>,
    /// Until when nothing was done to it, and it has read everything at once.
    pub(crate) well_until: Instant,
    is_well: bool,
    /// When it had ended.
    pub(crate) ended: Option<Instant>,
}

impl Stay {
    pub(crate) fn new(process: Option<SocketAddr>) -> Self {
        let now = Instant::now();
        Self { process, asked: now, subscribed: None, well_until: now, is_well: true, ended: None }
    }

    /// Something was read.
    pub(crate) fn heard(&mut self) {
        let now = Instant::now();
        if self.is_well && now - self.well_until <= ATTENTION {
            self.well_until = now;
        } else {
            self.is_well = false;
        }
    }

    /// Something is about to be done to it.
    pub(crate) fn is_touched(&mut self) {
        self.is_well = false;
    }
}

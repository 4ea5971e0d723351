//! HTTP/1.1 as far as an opening handshake needs it, for both ends and without I/O.
//!
//! [`head`] reads the head of a message, [`request`] and [`response`] are what it turns out to be, [`upgrade`] is the
//! handshake of RFC 6455 section 4, and [`forwarded`] finds the client that a proxy speaks for.

pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod origin;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod upgrade;

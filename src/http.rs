//! The part of HTTP/1.1 that opening handshakes and plain requests need, for both ends and without I/O.
//!
//! [`head`] reads the head of a message, [`request`] and [`response`] interpret it, [`body`] reads what follows the
//! head of a request, [`upgrade`] is the handshake of RFC 6455 section 4, `extensions` its one header with a grammar
//! of its own, [`origin`] knows the origins of pages, and [`forwarded`] finds the client behind a proxy.

pub(crate) mod body;
#[cfg(feature = "deflate")]
pub(crate) mod extensions;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod origin;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod upgrade;

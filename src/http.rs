//! HTTP as far as an opening handshake needs it, without I/O: requests, responses, and who stands behind a proxy.

pub(crate) mod forwarded;
pub(crate) mod origin;
pub(crate) mod request;
pub(crate) mod response;

//! Bytes over a TCP connection: the socket, the half that reads, the half that writes, and what both may keep in
//! memory.

pub(crate) mod budget;
pub(crate) mod busy_polling;
pub(crate) mod read_half;
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "nothing secures a connection then"))]
pub(crate) mod secured;
pub(crate) mod socket;
pub(crate) mod stream;
mod sync;
pub(crate) mod waiting_line;
pub(crate) mod write_half;

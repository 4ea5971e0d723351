//! The WebSocket protocol (RFC 6455) without I/O and without a clock: frames, their decoder, close codes, and how far a
//! connection is closed.

pub(crate) mod close;
pub(crate) mod close_state;
pub(crate) mod decoder;
pub(crate) mod frame;

//! TLS: configurations of both ends, made from files, replaced while they are in use; what is wrong when a handshake
//! fails; and the handshake itself. The transport seals and opens with what comes of it.
//!
//! Invariants: neither `Debug` output nor an error shows a key or a certificate. Every configuration names its crypto
//! provider, so that it does not matter which one the process has installed, or whether it has one. What cannot be used
//! replaces nothing.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

mod certificate;
mod client;
mod der;
mod error;
pub(crate) mod handshake;
mod names;
mod pem;
mod server;
pub(crate) mod session;
#[cfg(test)]
mod tests;
mod text;

pub use certificate::Certificate;
pub use client::ClientTls;
pub use error::{TlsError, TlsErrorKind};
pub use server::ServerTls;

/// The protocol that an upgrade to WebSocket begins with (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

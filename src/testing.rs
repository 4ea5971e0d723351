//! For the tests of applications (feature `testing`): peers that behave well or badly on demand, handlers that run
//! without ports, requests that nobody has sent, and a heartbeat under a virtual clock.
//!
//! | you test | with |
//! | --- | --- |
//! | a handler, or a whole [`Server`](crate::Server) with its settings | [`TestServer`], in memory |
//! | a function that takes a [`Connection`](crate::Connection), step by step | [`pair`](fn@pair) |
//! | how your server bears a peer that is silent, slow or gone | [`Peer`] with a [`Conduct`] |
//! | how your [`Client`](crate::Client) bears such a server | [`PeerServer`] |
//! | a function for `on_handshake` or `on_request` | [`Request::builder`](crate::Request::builder) |
//! | when a [`HeartbeatPolicy`](crate::HeartbeatPolicy) finds a peer dead | [`Timeline`] |
//!
//! All but the last two run the real code: its threads, its heartbeat, its stand-in, its events and reports. A handler
//! takes milliseconds:
//!
//! ```
//! use heartwire::CloseReason;
//! use heartwire::testing::TestServer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::run(|conn| {
//!     loop {
//!         let name = conn.recv()?;
//!         conn.send(format!("hello, {}", name.as_text().unwrap_or("whoever you are")))?;
//!     }
//! })?;
//! let mut peer = server.connect("/")?;
//! peer.send("Ada")?;
//! assert_eq!(peer.recv()?.as_text(), Some("hello, Ada"));
//!
//! peer.close(1000, "")?;
//! assert!(matches!(server.closed()?.reason, CloseReason::Peer { .. }));
//! # Ok(()) }
//! ```
//!
//! Whatever waits here gives up after 30 s, with an error of the kind `TimedOut`: a test that hangs says nothing. The
//! page [docs/testing.md](https://docs.rs/crate/heartwire/latest/source/docs/testing.md) has more examples.
//!
//! This module is for tests. It is not made to be fast, and peers keep whatever they receive.

use std::time::Duration;

mod actor;
mod conduct;
mod pair;
mod peer;
mod peer_server;
mod test_server;
mod timeline;

pub use crate::http::request::builder::RequestBuilder;
pub use conduct::Conduct;
pub use pair::{TestConnection, pair, pair_for};
pub use peer::{Peer, PeerEnd};
pub use peer_server::PeerServer;
pub use test_server::TestServer;
pub use timeline::{Beat, Timeline};

/// How long anything here waits before it gives up. Only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the examples of the page.
#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
struct Page;

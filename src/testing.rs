//! For the tests of applications (feature `testing`).

use std::time::Duration;

mod actor;
mod conduct;
mod peer;
mod peer_server;
mod timeline;

pub use crate::http::request::builder::RequestBuilder;
pub use conduct::Conduct;
pub use peer::{Peer, PeerEnd};
pub use peer_server::PeerServer;
pub use timeline::{Beat, Timeline};

/// How long anything here waits before it gives up. Only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

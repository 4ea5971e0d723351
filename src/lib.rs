//! Blocking WebSockets that know when the other side is gone.

mod accept;
mod close;
mod connection;
mod decoder;
mod error;
mod event;
mod frame;
mod handle;
mod handshake;
pub mod heartbeat;
mod inbound;
mod link;
mod message;
mod outbound;
mod request;
mod response;
mod round_trip;
mod sender;
mod server;
mod supervisor;
mod tcp;

pub use close::{CloseCode, CloseReason, CloseReport, ConnectionId, Traffic};
pub use connection::Connection;
pub use error::{Error, TrySendError};
pub use event::{ConnectionInfo, Event, Stats};
pub use handle::Handle;
pub use heartbeat::{HeartbeatPolicy, Liveness};
pub use message::Message;
pub use request::Request;
pub use response::{Accept, Response};
pub use round_trip::RoundTrip;
pub use sender::Sender;
pub use server::Server;

pub use tungstenite::{Bytes, Utf8Bytes};

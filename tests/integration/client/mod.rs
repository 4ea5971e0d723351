//! The client: how it connects, what it does while it is connected, how that ends, and how it comes back.

mod callbacks;
mod connecting;
mod ending;
mod events;
mod heartbeat;
mod log;
mod messages;
mod outbox;
mod proxies;
mod reconnecting;
mod stopping;
mod storm;
#[cfg(feature = "topics")]
mod topics;

use std::net::SocketAddr;

use heartwire::{Connection, Error, HeartbeatPolicy, Message, Server};

use crate::support::{Running, echo, start};

/// Passes what comes on to the test.
fn forward(messages: crossbeam_channel::Sender<Message>) -> impl FnMut(&mut Connection) -> Result<(), Error> + Send {
    move |conn| {
        loop {
            let _ = messages.send(conn.recv()?);
        }
    }
}

/// Serves again where another server has just ended.
fn start_again(address: SocketAddr) -> Running {
    start(Server::bind(address).expect("the same port").heartbeat(HeartbeatPolicy::off()), echo)
}

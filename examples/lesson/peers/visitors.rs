//! The peers of step 4: one lives and closes in order, one is stopped, and one is cut off.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::narrator::scene;
use super::{cable, websocket};

/// Has them connect, in this order, and gives their number.
pub(crate) fn send_to(address: SocketAddr) -> usize {
    scene("#1 lives, and closes after 3 s; #2 is stopped; #3 is cut off");
    thread::spawn(move || -> Result<(), tungstenite::Error> {
        let mut living = websocket::connect(address)?;
        // A peer that does nothing is like one whose process was stopped.
        let _stopped = websocket::connect(address)?;
        let cut_off = websocket::connect(address)?;
        cable::pull(cut_off.get_ref())?;
        websocket::live(&mut living, Duration::from_secs(3))?;
        websocket::close(&mut living)?;
        // The others never close.
        loop {
            thread::park();
        }
    });
    3
}

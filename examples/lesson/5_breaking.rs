//! Step 5 of the lesson (docs/lesson): four ways to break the heartbeat of step 4, of which not one line is changed.
//!
//! Run `cargo run --example lesson-5`, or one trial: `cargo run --example lesson-5 trickle`, `blocked-write`,
//! `busy-handler` or `suspend`. Look for peers that are not found, and for peers that live and are taken for dead.

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use tungstenite::{Message, WebSocket};

#[path = "4_heartbeat.rs"]
#[allow(dead_code, reason = "it has other peers, and another supervisor")]
mod heartbeat;
use heartbeat::peers::trials::{self, Beat};
use heartbeat::{INTERVAL, MAX_MISSED, TIMEOUT};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        name => trials::run(name, Beat { interval: INTERVAL, bound: INTERVAL + MAX_MISSED * TIMEOUT }),
    }
}

/// The server of step 4, in a process of its own.
fn serve() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (events, supervisor) = mpsc::channel();
    thread::spawn(move || heartbeat::serve(&listener, handle, &events));
    for (id, event) in supervisor {
        println!("#{id} {event}");
    }
    Ok(())
}

/// Does what the peer asks for, and sends its message back.
fn handle(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), tungstenite::Error> {
    match message.to_text() {
        Ok(trials::WORK) => thread::sleep(trials::WORK_TIME),
        Ok(trials::SEND_A_LOT) => {
            for _ in 0..1024 {
                socket.send(Message::binary(vec![0; 64 << 10]))?;
            }
        }
        _ => {}
    }
    socket.send(message)
}

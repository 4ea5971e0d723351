//! Pushing: a second thread sends to the client, while the connection's own thread waits in `recv`.
//!
//! Run `cargo run --example ticker [ADDRESS]`, connect, and watch it tick. It also echoes what you send. Close the
//! connection or vanish, and the ticker prints that it stopped: after the end, the next `send` of a `Sender` fails.

use std::thread;
use std::time::Duration;

use heartwire::{Error, Sender, Server};

const PERIOD: Duration = Duration::from_millis(250);

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let server = Server::bind(address)?;
    println!("listening on ws://{}", server.local_addr());
    server.serve(|conn| {
        let sender = conn.sender();
        thread::spawn(move || tick(&sender));
        loop {
            let message = conn.recv()?;
            conn.send(message)?;
        }
    })
}

fn tick(sender: &Sender) {
    for count in 1_u64.. {
        if let Err(error) = sender.send(format!("tick {count}")) {
            return println!("#{} ticker stopped at {count}: {error}", sender.id());
        }
        thread::sleep(PERIOD);
    }
}

//! An echo server in ten lines: it sends every message back, drops a client that dies, and ends in order on SIGTERM or
//! Ctrl-C.
//!
//! Run `cargo run --example echo [ADDRESS]`, and connect any WebSocket client to the address that it prints.

use heartwire::{Error, Server};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let server = Server::bind(address)?.shutdown_on_signals()?;
    println!("listening on ws://{}", server.local_addr());
    server.serve(|conn| {
        loop {
            let message = conn.recv()?;
            conn.send(message)?;
        }
    })
}

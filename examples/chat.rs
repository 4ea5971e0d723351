//! A chat room: everybody sees every message, and who joins, who leaves and why.
//!
//! Run `cargo run --example chat [ADDRESS]` and connect some clients, each with its name as the path, such as
//! `ws://127.0.0.1:9001/ann`. Unplug one of them and watch the others: they go on, and learn of the loss.

use heartwire::{Connection, Error, Server, ServerHandle};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let server = Server::bind(address)?;
    println!("listening on ws://{}", server.local_addr());
    let room = server.handle();
    server.serve(move |conn| {
        let name = name_of(conn);
        room.broadcast(format!("* {name} joined"));
        let end = talk(&room, conn, &name);
        if let Err(Error::Closed(reason)) = &end {
            room.broadcast(format!("* {name} left: {reason}"));
        }
        end
    })
}

fn talk(room: &ServerHandle, conn: &mut Connection, name: &str) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        if let Some(text) = message.as_text() {
            // One thread sends to all, so all see the same order. The speaker gets the message too.
            room.broadcast(format!("{name}: {text}"));
        }
    }
}

fn name_of(conn: &Connection) -> String {
    match conn.path().trim_matches('/') {
        "" => format!("guest {}", conn.id()),
        name => name.to_owned(),
    }
}

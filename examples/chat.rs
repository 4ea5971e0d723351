//! A chat room: everybody gets what anybody says, and learns who joins and who leaves, and why.
//!
//! `cargo run --example chat [ADDRESS]`, then connect some clients, each with its name as the path, such as
//! `ws://127.0.0.1:9001/ann`. Pull somebody's cable and watch the others: they talk on, and are told of the loss.

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
            // One thread fans out, so that all see one order; the speaker, too, is told when it was their turn.
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

//! The loop of tungstenite's README, with a thread for each connection.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use tungstenite::accept;

use crate::process::announce;

pub(super) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().stack_size(256 * 1024).spawn(move || echo(stream))?;
    }
    Ok(())
}

fn echo(stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut websocket = accept(stream).ok()?;
    loop {
        let message = websocket.read().ok()?;
        if message.is_binary() || message.is_text() {
            websocket.send(message).ok()?;
        }
    }
}

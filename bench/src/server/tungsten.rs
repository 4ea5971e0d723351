//! The loop of tungstenite's README, with a thread for each connection; over TLS with rustls' own stream.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::accept;

use super::ServeOptions;
use crate::process::announce;
use crate::tls;

pub(super) fn serve(options: &ServeOptions) -> io::Result<()> {
    let config = options.tls.as_deref().map(tls::server).transpose()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, config) = (stream?, config.clone());
        thread::Builder::new().stack_size(256 * 1024).spawn(move || open(stream, config))?;
    }
    Ok(())
}

fn open(stream: TcpStream, config: Option<Arc<ServerConfig>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    match config {
        None => echo(stream),
        Some(config) => echo(StreamOwned::new(ServerConnection::new(config).ok()?, stream)),
    }
}

fn echo(stream: impl Read + Write) -> Option<()> {
    let mut websocket = accept(stream).ok()?;
    loop {
        let message = websocket.read().ok()?;
        if message.is_binary() || message.is_text() {
            websocket.send(message).ok()?;
        }
    }
}

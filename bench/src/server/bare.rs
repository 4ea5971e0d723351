//! A TCP echo with a thread for each connection: what this shape can do when nothing is done.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::process::announce;

/// The buffer that heartwire starts with, and the one that it grows to.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024;

pub(super) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().stack_size(256 * 1024).spawn(move || echo(stream))?;
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; SMALL];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
        if count == buffer.len() {
            buffer.resize(LARGE, 0);
        }
    }
}

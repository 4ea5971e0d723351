//! Step 1 of the lesson (docs/lesson): TCP alone. Three peers go away, and the server hears of two.
//!
//! Run `cargo run --example lesson-1`. Look at what `read` returns for each peer, and at when it does not return.

use std::io::{self, Read};
use std::net::TcpStream;

mod peers;

fn main() -> io::Result<()> {
    peers::silence::play(converse)
}

/// Serves one connection: reads, until that ends.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

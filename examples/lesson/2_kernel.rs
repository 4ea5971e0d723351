//! Step 2 of the lesson (docs/lesson): what the kernel finds out if it is asked to, and what it cannot.
//!
//! Run `cargo run --example lesson-2`, on Linux. Look for the peers that are gone and not found, and for the one that
//! lives and is given up.

use std::io::{self, Read, Write};
use std::net::TcpStream;

mod peers;
use peers::kernel::Options;

fn main() -> io::Result<()> {
    peers::kernel::play(converse)
}

/// Serves one connection: says something, and reads, until that ends.
fn converse(mut stream: TcpStream, options: Options, greeting: &[u8]) -> io::Result<()> {
    set_options(&stream, options)?;
    stream.write_all(greeting)?;
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(target_os = "linux")]
fn set_options(stream: &TcpStream, options: Options) -> io::Result<()> {
    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
    let socket = socket2::SockRef::from(stream);
    if options.keepalive {
        let keepalive = socket2::TcpKeepalive::new().with_time(SECOND).with_interval(SECOND).with_retries(2);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if options.user_timeout {
        socket.set_tcp_user_timeout(Some(2 * SECOND))?;
    }
    Ok(())
}

/// Other systems have other options.
#[cfg(not(target_os = "linux"))]
fn set_options(_: &TcpStream, _: Options) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

//! Step 3 of the lesson (docs/lesson): a read timeout, and why the server has to ask: silence alone proves nothing.
//!
//! Run `cargo run --example lesson-3`. Look at who is taken for dead though it lives, and at how long it takes to find
//! the dead: it depends on when they died.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod peers;

/// From one Ping to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    peers::bound::play(converse_without_asking, converse, INTERVAL, TIMEOUT)
}

/// Serves one connection as in step 1, but takes silence for death.
fn converse_without_asking(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(INTERVAL))?;
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Serves one connection: asks on a schedule, and takes a peer for dead that does not answer in time.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut next_ping = Instant::now() + INTERVAL;
    // While a Ping is unanswered: when its answer is due.
    let mut pong_due = None;
    loop {
        let (now, due) = (Instant::now(), pong_due.unwrap_or(next_ping));
        if due <= now {
            if pong_due.is_some() {
                return Err(dead());
            }
            stream.write_all(b"ping\n")?;
            (next_ping, pong_due) = (due + INTERVAL, Some(due + TIMEOUT));
            continue;
        }
        stream.set_read_timeout(Some(due - now))?;
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            // Whatever it says, the peer lives.
            Ok(_) => pong_due = None,
            // Time to look at what is due.
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Unix says `WouldBlock`, Windows `TimedOut`. A signal may interrupt a read that has a timeout.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn dead() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "heartbeat lost")
}

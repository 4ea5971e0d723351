//! The heartbeat alone, heartwire's state machine, drives a plain blocking `tungstenite` socket.
//!
//! Run `cargo run --example plain_tungstenite [ADDRESS]`, connect to the address that it prints, and stop the client
//! with SIGSTOP: after three misses it is dead, 2.5 s after its last message at the latest. The loop in `run_heartbeat`
//! does it all: it hands the heartbeat the evidence, does what it asks for, and reads until its next deadline.
//!
//! `tungstenite` returns only with a whole message, so only whole messages are evidence here: the bytes of a partial
//! message are no sign of life, and a peer that trickles them blocks the loop. Only one thread can send. A timeout for
//! each system call notices a write that blocks, but a slow reader can stretch it. heartwire's connections have none of
//! these limits. The lesson in docs/lesson counts misses by hand in such a loop, and shows where it fails.

use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::HeartbeatPolicy;
use heartwire::heartbeat::{Action, Evidence, Heartbeat};
use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket};

const TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let listener = TcpListener::bind(address)?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        thread::spawn(move || match serve(stream) {
            Ok(missed) => println!("{peer} is dead after {missed} misses"),
            Err(error) => println!("{peer} is gone: {error}"),
        });
    }
}

/// Serves a client until it is found dead (`Ok`) or ends otherwise.
fn serve(stream: TcpStream) -> Result<u32, Error> {
    // Otherwise a peer that does not read could block our write, and with it the heartbeat, for ever.
    stream.set_write_timeout(Some(3 * TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream).map_err(|error| std::io::Error::other(error.to_string()))?;
    let missed = run_heartbeat(&mut socket)?;
    // Probably nobody reads it, and we do not wait for an answer.
    let _ = socket.send(Message::Close(Some(CloseFrame { code: CloseCode::Error, reason: "heartbeat lost".into() })));
    socket.get_ref().shutdown(Shutdown::Both)?;
    Ok(missed)
}

fn run_heartbeat(socket: &mut WebSocket<TcpStream>) -> Result<u32, Error> {
    let policy = HeartbeatPolicy::new(Duration::from_secs(1), TIMEOUT).max_missed(3);
    let mut heartbeat = Heartbeat::new(policy, Instant::now(), 1.0);
    let mut pings = 0;
    // Counts messages, because bytes cannot be seen here.
    let mut evidence = Evidence::new(0, Instant::now());
    loop {
        match heartbeat.judge(Instant::now(), &evidence) {
            Action::Ping => {
                pings += 1;
                // `send` and not `write`: nobody answers a Ping that stays in the buffer.
                socket.send(Message::Ping(pings.to_string().into()))?;
                heartbeat.ping_written(Instant::now(), evidence.arrived);
            }
            Action::Missed(missed) => println!("{} missed Pong {missed}", socket.get_ref().peer_addr()?),
            Action::Dead(missed) => return Ok(missed),
            Action::Wait(deadline) => read_until(socket, deadline, &mut evidence)?,
            _ => {}
        }
    }
}

/// Reads one message, or nothing by the deadline. Only then does the heartbeat judge again: it must not judge a peer
/// whose answer has already arrived.
fn read_until(
    socket: &mut WebSocket<TcpStream>,
    deadline: Option<Instant>,
    evidence: &mut Evidence,
) -> Result<(), Error> {
    // Never zero, which `set_read_timeout` refuses.
    let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    socket.get_ref().set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
    let message = match socket.read() {
        Ok(message) => message,
        // Unix returns WouldBlock, Windows TimedOut. A partial message is kept.
        Err(Error::Io(error)) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => return Ok(()),
        Err(error) => return Err(error),
    };
    *evidence = Evidence::new(evidence.arrived + 1, Instant::now());
    match message {
        // WouldBlock here means "queued", not "send again". Nothing moved for three timeouts, so this is the end.
        Message::Text(_) | Message::Binary(_) => socket.send(message),
        // `read` has buffered the Pong, or the reply to a Close. It leaves now and not with the next call.
        Message::Ping(_) | Message::Close(_) => socket.flush(),
        Message::Pong(_) | Message::Frame(_) => Ok(()),
    }
}

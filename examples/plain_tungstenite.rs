//! The heartbeat alone, driving a plain blocking `tungstenite` socket: how a dead peer is found, with nothing hidden.
//!
//! `cargo run --example plain_tungstenite [ADDRESS]`, then connect to the address that it prints, and stop the client
//! with SIGSTOP: three misses, and it is dead, 2.5 s after its last message at the latest. The loop in `beat` is all
//! there is: tell the heartbeat what is known of the peer, do what it asks for, then read until its next deadline.
//!
//! It is for learning. `tungstenite` gives control back only with a whole message, so whole messages are all the evidence
//! there is here: the bytes of a half-received one are no life, and a peer that trickles them holds the loop up. Only one
//! thread can send. A write that blocks is noticed by a timeout per system call, which a slow reader can stretch.
//! heartwire's connections have none of this.

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

/// Serves a client until it is found dead, which is the `Ok` of this game, or ends otherwise.
fn serve(stream: TcpStream) -> Result<u32, Error> {
    // Without it, a peer that does not read would block our write, and with it the heartbeat, for ever.
    stream.set_write_timeout(Some(3 * TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream).map_err(|error| std::io::Error::other(error.to_string()))?;
    let missed = beat(&mut socket)?;
    // It will hardly be read, and nobody waits for an answer.
    let _ = socket.send(Message::Close(Some(CloseFrame { code: CloseCode::Error, reason: "heartbeat lost".into() })));
    socket.get_ref().shutdown(Shutdown::Both)?;
    Ok(missed)
}

fn beat(socket: &mut WebSocket<TcpStream>) -> Result<u32, Error> {
    let policy = HeartbeatPolicy::new(Duration::from_secs(1), TIMEOUT).max_missed(3);
    let mut heart = Heartbeat::new(policy, Instant::now(), 1.0);
    let mut pings = 0;
    // What has arrived is counted in messages, for they are all that can be seen here.
    let mut evidence = Evidence::new(0, Instant::now());
    loop {
        match heart.judge(Instant::now(), &evidence) {
            Action::Ping => {
                pings += 1;
                // `send` and not `write`: a Ping that stays in the buffer is answered by nobody.
                socket.send(Message::Ping(pings.to_string().into()))?;
                heart.ping_written(Instant::now(), evidence.arrived);
            }
            Action::Missed(missed) => println!("{} missed Pong {missed}", socket.get_ref().peer_addr()?),
            Action::Dead(missed) => return Ok(missed),
            Action::Wait(deadline) => read_until(socket, deadline, &mut evidence)?,
            _ => {}
        }
    }
}

/// Reads one message, or nothing by the deadline. Only then is the heartbeat asked again: it must not judge a peer whose
/// answer is already here.
fn read_until(
    socket: &mut WebSocket<TcpStream>,
    deadline: Option<Instant>,
    evidence: &mut Evidence,
) -> Result<(), Error> {
    // Never zero, which the system would refuse.
    let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    socket.get_ref().set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
    let message = match socket.read() {
        Ok(message) => message,
        // Unix says WouldBlock, Windows says TimedOut. What has arrived of a message is kept.
        Err(Error::Io(error)) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => return Ok(()),
        Err(error) => return Err(error),
    };
    *evidence = Evidence::new(evidence.arrived + 1, Instant::now());
    match message {
        // Here WouldBlock would mean "queued", never "send again"; three timeouts long nothing moved, so it is the end.
        Message::Text(_) | Message::Binary(_) => socket.send(message),
        // `read` has put the Pong, or the reply to a Close, into the buffer. It leaves now and not with the next call.
        Message::Ping(_) | Message::Close(_) => socket.flush(),
        Message::Pong(_) | Message::Frame(_) => Ok(()),
    }
}

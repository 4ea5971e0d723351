//! Step 4 of the lesson (docs/lesson): a heartbeat with Ping and Pong on plain `tungstenite`, and a supervisor that
//! hears of every miss and of every end.
//!
//! Run `cargo run --example lesson-4`. Look at what the supervisor hears of each peer, and when. Then compare this
//! `converse` with that of step 3.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Error, Message, WebSocket};

pub(crate) mod peers;

/// From one Ping to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// How long the Pong may take.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(500);
/// How many missed Pongs in a row make a peer dead.
pub(crate) const MAX_MISSED: u32 = 3;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connections = peers::visitors::send_to(listener.local_addr()?);
    let (events, supervisor) = mpsc::channel();
    thread::spawn(move || serve(&listener, echo, &events));
    supervise(&supervisor, connections);
    Ok(())
}

/// What the supervisor hears of a connection.
pub(crate) enum Event {
    Opened,
    /// One more Pong is missed. So many are, in a row.
    Missed(u32),
    /// The last event of each connection, with what ended it.
    Closed(Error),
}

/// Says what happens, until so many connections have ended.
fn supervise(supervisor: &Receiver<(u32, Event)>, connections: usize) {
    let mut ended = 0;
    for (id, event) in supervisor {
        peers::narrator::say("server", format!("#{id} {event}"));
        ended += usize::from(matches!(event, Event::Closed(_)));
        if ended == connections {
            break;
        }
    }
}

/// What the application does with a message.
pub(crate) type Handler = fn(&mut WebSocket<TcpStream>, Message) -> Result<(), Error>;

fn echo(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), Error> {
    socket.send(message)
}

/// Serves each connection on a thread of its own.
pub(crate) fn serve(listener: &TcpListener, handler: Handler, events: &Sender<(u32, Event)>) {
    for (id, stream) in (1..).zip(listener.incoming().flatten()) {
        let events = events.clone();
        thread::spawn(move || {
            // Fails only if the supervisor is gone.
            let report = |event| drop(events.send((id, event)));
            report(Event::Opened);
            let Err(end) = converse(stream, handler, report);
            report(Event::Closed(end));
        });
    }
}

/// Serves one connection: pings on a schedule, and takes a peer for dead that misses too many Pongs in a row. To
/// `tungstenite` an orderly end is an error too.
fn converse(stream: TcpStream, handler: Handler, report: impl Fn(Event)) -> Result<Infallible, Error> {
    let mut socket = tungstenite::accept(stream).map_err(|error| io::Error::other(error.to_string()))?;
    let mut next_ping = Instant::now() + INTERVAL;
    // While a Ping is unanswered: when its Pong is due.
    let mut pong_due = None;
    let mut missed = 0;
    loop {
        let (now, due) = (Instant::now(), pong_due.unwrap_or(next_ping));
        if due <= now {
            if pong_due.is_some() {
                missed += 1;
                report(Event::Missed(missed));
                if missed == MAX_MISSED {
                    return Err(dead());
                }
            }
            // `send` and not `write`, after which the Ping would wait in a buffer.
            socket.send(Message::Ping("".into()))?;
            (next_ping, pong_due) = (due + INTERVAL, Some(due + TIMEOUT));
            continue;
        }
        socket.get_ref().set_read_timeout(Some(due - now))?;
        match socket.read() {
            Ok(message) => {
                // Whatever it says, the peer lives.
                (pong_due, missed) = (None, 0);
                match message {
                    Message::Text(_) | Message::Binary(_) => handler(&mut socket, message)?,
                    // What `read` has made ready leaves now: a Pong, or the answer to a Close frame.
                    _ => socket.flush()?,
                }
            }
            // Time to look at what is due.
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Unix says `WouldBlock`, Windows `TimedOut`. A signal may interrupt a read that has a timeout.
fn is_timeout(error: &Error) -> bool {
    let Error::Io(error) = error else { return false };
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn dead() -> Error {
    io::Error::new(ErrorKind::TimedOut, "heartbeat lost").into()
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("opened"),
            Self::Missed(missed) => write!(f, "missed Pong {missed} of {MAX_MISSED}"),
            Self::Closed(Error::ConnectionClosed) => f.write_str("closed by peer"),
            Self::Closed(Error::Io(error)) => write!(f, "closed: {error}"),
            Self::Closed(error) => write!(f, "closed: {error}"),
        }
    }
}

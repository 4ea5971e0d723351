//! The peers of step 2, and a table of what the server notices of each.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::cable;
use super::narrator::seconds;

/// The options that the server is to set on its socket.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// One second of silence, and two probes, a second apart.
    pub(crate) keepalive: bool,
    /// Two seconds.
    pub(crate) user_timeout: bool,
}

/// Serves one connection with these options, and says so much first.
type Converse = fn(TcpStream, Options, &[u8]) -> io::Result<()>;

/// How long we wait for the server to notice something.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, PartialEq)]
enum Peer {
    /// Its cable is pulled.
    CutOff,
    /// It never reads, as a process that was stopped. Its kernel works.
    Stopped,
    /// It lives, and reads everything after a pause of 4 s.
    Pausing,
}
use Peer::{CutOff, Pausing, Stopped};

const NOTHING: usize = 0;
const A_LINE: usize = 80;
/// More than the buffers of both ends take.
const A_LOT: usize = 64 << 20;

/// A peer, how much the server writes to it, and whether with `SO_KEEPALIVE` and `TCP_USER_TIMEOUT`.
type Trial = (Peer, usize, bool, bool);

const TRIALS: &[Trial] = &[
    (CutOff, NOTHING, false, false),
    (CutOff, NOTHING, true, false),
    (CutOff, A_LINE, true, false),
    (CutOff, A_LINE, true, true),
    (Stopped, NOTHING, true, true),
    (Stopped, A_LINE, true, true),
    (Pausing, A_LOT, true, false),
    (Pausing, A_LOT, true, true),
];

pub(crate) fn play(converse: Converse) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell_defaults(&listener)?;

    println!("{}", row("the peer", "the server writes", "keepalive", "user timeout", "what the server notices"));
    let started: Vec<_> = TRIALS.iter().map(|trial| start(&listener, converse, trial)).collect::<Result<_, _>>()?;
    let until = Instant::now() + PATIENCE;
    for (trial, end) in TRIALS.iter().zip(started) {
        println!("{}", row_of(trial, &what_it_notices(&end, until)));
    }
    Ok(())
}

/// Says what the system does if it is asked for keepalive and nothing else.
#[cfg(target_os = "linux")]
fn tell_defaults(listener: &TcpListener) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    let (idle, pause) = (socket.tcp_keepalive_time()?, socket.tcp_keepalive_interval()?);
    let probes = socket.tcp_keepalive_retries()?;
    let enabled = if socket.keepalive()? { "on" } else { "off" };
    println!("SO_KEEPALIVE is {enabled} by default. Once on, it takes {idle:?} of silence and {probes} probes,");
    println!("{pause:?} apart: {}. Here it takes 1s and 2 probes, 1s apart.\n", seconds(idle + probes * pause));
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn tell_defaults(_: &TcpListener) -> io::Result<()> {
    println!("This step needs Linux: other systems have other options.\n");
    Ok(())
}

/// Starts a server and a peer. The channel says how the server's connection ended, and after how long.
fn start(
    listener: &TcpListener,
    converse: Converse,
    &(kind, writes, keepalive, user_timeout): &Trial,
) -> io::Result<Receiver<(io::Result<()>, Duration)>> {
    let peer = TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    if kind == CutOff {
        cable::pull(&peer)?;
    }
    thread::spawn(move || live(peer, kind));

    let (report, end) = mpsc::channel();
    let begin = Instant::now();
    thread::spawn(move || {
        let end = converse(stream, Options { keepalive, user_timeout }, &vec![0; writes]);
        report.send((end, begin.elapsed()))
    });
    Ok(end)
}

/// What the peer does. It keeps its socket open to the end.
fn live(mut peer: TcpStream, kind: Peer) {
    thread::sleep(PATIENCE * 2 / 3);
    if kind == Pausing {
        let _ = io::copy(&mut peer, &mut io::sink());
    }
    thread::sleep(PATIENCE);
}

fn what_it_notices(end: &Receiver<(io::Result<()>, Duration)>, until: Instant) -> String {
    match end.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok((Ok(()), after)) => format!("closed after {}", seconds(after)),
        Ok((Err(error), after)) => format!("{} after {}", error.kind(), seconds(after)),
        Err(_) => format!("nothing for {}", seconds(PATIENCE)),
    }
}

fn row_of(&(kind, writes, keepalive, user_timeout): &Trial, notices: &str) -> String {
    let peer = match kind {
        CutOff => "cut off",
        Stopped => "stopped",
        Pausing => "alive, pauses 4 s",
    };
    let writes = match writes {
        NOTHING => "nothing",
        A_LINE => "a line",
        _ => "64 MiB",
    };
    row(peer, writes, if keepalive { "3 s" } else { "-" }, if user_timeout { "2 s" } else { "-" }, notices)
}

fn row(peer: &str, writes: &str, keepalive: &str, user_timeout: &str, notices: &str) -> String {
    format!("{peer:<18}  {writes:<17}  {keepalive:<9}  {user_timeout:<12}  {notices}")
}

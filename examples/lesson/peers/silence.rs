//! The peers of step 1: one closes, one crashes, and one loses its cable for a while.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::cable;
use super::narrator::{say, scene, seconds};

/// How long we wait for the server to notice something.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn play(converse: fn(TcpStream) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;

    scene("A peer closes its socket");
    let visit = Visit::start(&listener, converse)?;
    say("peer", "closes");
    drop(visit.peer);
    watch(&visit.end);

    scene("A peer's process crashes, with data unread");
    let mut visit = Visit::start(&listener, converse)?;
    visit.server.write_all(b"welcome")?;
    say("peer", "crashes: its kernel closes the socket");
    drop(visit.peer);
    watch(&visit.end);

    scene("A peer's cable is pulled");
    let mut visit = Visit::start(&listener, converse)?;
    say("peer", "is cut off");
    cable::pull(&visit.peer)?;
    watch(&visit.end);
    visit.server.write_all(b"are you there?")?;
    let written = Instant::now();
    say("server", "writes \"are you there?\": the kernel takes it");
    watch(&visit.end);
    say("peer", "is connected again");
    cable::put_back(&visit.peer)?;
    let text = receive(&mut visit.peer)?;
    say("peer", format!("reads {text:?}, {} after it was written", seconds(written.elapsed())));

    if let Some(retries) = retransmissions() {
        say("kernel", format!("would have given up after {retries} retransmissions: {}", seconds(patience(retries))));
    }
    Ok(())
}

/// One connection.
struct Visit {
    peer: TcpStream,
    /// The server's socket once more, to write to.
    server: TcpStream,
    /// Says how the server's `converse` ended.
    end: Receiver<io::Result<()>>,
}

impl Visit {
    fn start(listener: &TcpListener, converse: fn(TcpStream) -> io::Result<()>) -> io::Result<Self> {
        let peer = TcpStream::connect(listener.local_addr()?)?;
        say("peer", "connects");
        let (stream, _) = listener.accept()?;
        let server = stream.try_clone()?;
        let (report, end) = mpsc::channel();
        thread::spawn(move || report.send(converse(stream)));
        Ok(Self { peer, server, end })
    }
}

/// Says how the server's connection ended, or that it has not.
fn watch(end: &Receiver<io::Result<()>>) {
    match end.recv_timeout(PATIENCE) {
        Ok(Ok(())) => say("server", "read returns 0 bytes: the peer has closed"),
        Ok(Err(error)) => say("server", format!("read fails: {}", error.kind())),
        Err(_) => say("server", format!("has noticed nothing for {}", seconds(PATIENCE))),
    }
}

fn receive(peer: &mut TcpStream) -> io::Result<String> {
    let mut buffer = [0; 1024];
    let count = peer.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// How often Linux retransmits what nobody acknowledges.
fn retransmissions() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_retries2").ok()?.trim().parse().ok()
}

/// How long Linux waits for an acknowledgement at least: for 200 ms, and after each retransmission for twice as long as
/// before, but never for more than 2 minutes.
fn patience(retransmissions: u32) -> Duration {
    (0..=retransmissions).map(|n| Duration::from_millis(200 << n.min(20)).min(Duration::from_secs(120))).sum()
}

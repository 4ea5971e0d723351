//! Peers that ask much of a server, or behave badly. What they do to others is what is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::answers::{Dialect, Template};
use crate::channel::Channel;
use crate::requester::Requester;
use crate::wire::{self, Parser, Piece};

/// What a peer does.
#[derive(Debug, Clone)]
pub(crate) enum Rudeness {
    /// Sends a message that the handler has to work for, awaits the answer, and sends the next: not sooner than `every`
    /// after the last.
    Asks { what: String, every: Duration },
    /// Sends messages of 1 KiB as fast as the server takes them, and reads nothing.
    NeverReads,
    /// Sends so many Pings in a second, a batch each millisecond, and reads the Pongs.
    Pings { per_second: usize },
    /// Sends the request of the opening handshake one byte at a time.
    Creeps { every: Duration },
}

/// What they did, all of them together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deeds {
    /// Messages answered, messages sent, Pings sent or bytes sent: it says whether they were as rude as they should be.
    pub(crate) done: u64,
    /// Live peers that the server ended. Those who never read do not answer Pings, and do not count.
    pub(crate) ended: usize,
    /// Peers that got something else than the next answer.
    pub(crate) wrong: usize,
}

/// Some rude peers at one server.
pub(crate) struct Gang<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
    pub(crate) peers: usize,
    pub(crate) rudeness: &'a Rudeness,
    pub(crate) is_over: AtomicBool,
    /// Passed when all are connected: by each peer, and by whoever waits for them.
    pub(crate) connected: Barrier,
}

impl<'a> Gang<'a> {
    pub(crate) fn new(address: SocketAddr, dialect: Dialect, peers: usize, rudeness: &'a Rudeness) -> Self {
        let mut gang =
            Self { address, dialect, peers, rudeness, is_over: AtomicBool::new(false), connected: Barrier::new(1) };
        gang.connected = Barrier::new(gang.threads() + 1);
        gang
    }

    /// Those who creep are many, and share a thread.
    fn threads(&self) -> usize {
        if matches!(self.rudeness, Rudeness::Creeps { .. }) { 1 } else { self.peers }
    }

    /// Until `is_over`.
    pub(crate) fn run(&self) -> io::Result<Deeds> {
        thread::scope(|scope| {
            let peers: Vec<_> = (0..self.threads()).map(|_| scope.spawn(|| self.misbehave())).collect();
            let mut all = Deeds::default();
            for peer in peers {
                let deeds = peer.join().map_err(|_| io::Error::other("a rude peer panicked"))??;
                all.done += deeds.done;
                all.ended += deeds.ended;
                all.wrong += deeds.wrong;
            }
            Ok(all)
        })
    }

    fn misbehave(&self) -> io::Result<Deeds> {
        match self.rudeness {
            Rudeness::Asks { what, every } => self.ask(what, *every),
            Rudeness::NeverReads => self.never_read(),
            Rudeness::Pings { per_second } => self.ping(*per_second),
            Rudeness::Creeps { every } => self.creep(*every),
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Connects, and waits until all are connected, whether it worked or not.
    fn meet<T>(&self, opened: io::Result<T>) -> io::Result<T> {
        self.connected.wait();
        opened
    }

    fn ask(&self, what: &str, every: Duration) -> io::Result<Deeds> {
        let open = || Requester::with_template(self.address, self.dialect, Template::asking(self.dialect, what));
        let mut requester = self.meet(open())?;
        let mut deeds = Deeds::default();
        let mut scratch = [0; 4096];
        let mut due = Instant::now();
        while !self.is_over() {
            let now = Instant::now();
            if now >= due && requester.under_way() == 0 {
                requester.request(now);
                due = now.max(due + every);
            }
            let wait = if requester.under_way() > 0 { Duration::MAX } else { due.saturating_duration_since(now) };
            let wait = wait.clamp(Duration::from_micros(1), Duration::from_millis(20));
            requester.stream().set_read_timeout(Some(wait))?;
            let exchanged = requester.flush().and_then(|()| requester.receive(&mut scratch));
            while requester.take_answer().is_some() {
                deeds.done += 1;
            }
            if let Err(error) = exchanged.and_then(|()| requester.flush()) {
                match error.kind() {
                    io::ErrorKind::InvalidData => deeds.wrong += 1,
                    _ => deeds.ended += 1,
                }
                requester = open()?;
            }
        }
        Ok(deeds)
    }

    /// The server may end those who never read, for they answer no Pings: they come back.
    fn never_read(&self) -> io::Result<Deeds> {
        let mut frame = Vec::new();
        wire::frame(&mut frame, wire::BINARY, &[b'0'; 1024]);
        let mut stream = self.meet(self.open_deaf())?;
        let (mut position, mut written) = (0, 0_u64);
        while !self.is_over() {
            match stream.write(&frame[position..]) {
                Ok(count) => {
                    position = (position + count) % frame.len();
                    written += count as u64;
                }
                Err(error) if is_temporary(&error) => {}
                Err(_) => {
                    stream = self.open_deaf()?;
                    position = 0;
                }
            }
        }
        Ok(Deeds { done: written / frame.len() as u64, ..Deeds::default() })
    }

    /// A connection whose buffer is small, so that the server soon notices that nobody reads.
    fn open_deaf(&self) -> io::Result<TcpStream> {
        let mut channel = Channel::connect(self.address, None)?;
        if self.dialect.is_websocket {
            channel.upgrade()?;
        }
        let stream = channel.into_stream();
        socket2::SockRef::from(&stream).set_recv_buffer_size(4096)?;
        stream.set_write_timeout(Some(Duration::from_millis(20)))?;
        Ok(stream)
    }

    fn ping(&self, per_second: usize) -> io::Result<Deeds> {
        const TICK: Duration = Duration::from_millis(1);
        let mut batch = Vec::new();
        let count = (per_second / 1000).max(1);
        (0..count).for_each(|_| wire::frame(&mut batch, wire::PING, b"rude"));
        let mut pinger = self.meet(Pinger::open(self.address))?;
        let mut deeds = Deeds::default();
        let mut next = Instant::now();
        while !self.is_over() {
            // What the socket did not take of the last batch comes first: never is more than one under way to it.
            let exchanged = pinger.exchange();
            if exchanged.is_ok() && pinger.out.is_empty() {
                pinger.out.extend_from_slice(&batch);
                deeds.done += count as u64;
            }
            if exchanged.and_then(|()| pinger.exchange()).is_err() {
                deeds.ended += 1;
                pinger = Pinger::open(self.address)?;
            }
            next = (next + TICK).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()).max(TICK / 10));
        }
        Ok(deeds)
    }

    /// Each sends a byte of its request in turn. One that is answered, or ended, comes back.
    fn creep(&self, every: Duration) -> io::Result<Deeds> {
        let open = || wire::connect(self.address).map(|stream| (stream, 0));
        let opened: io::Result<Vec<_>> = (0..self.peers).map(|_| open()).collect();
        let mut peers: Vec<(TcpStream, usize)> = self.meet(opened)?;
        let gap = every / u32::try_from(self.peers.max(1)).unwrap_or(u32::MAX);
        let mut deeds = Deeds::default();
        let mut next = Instant::now();
        for turn in 0.. {
            if self.is_over() {
                break;
            }
            let peer = &mut peers[turn % self.peers];
            let sent = peer.0.write(&wire::UPGRADE[peer.1..=peer.1]);
            deeds.done += u64::from(sent.is_ok());
            peer.1 += 1;
            if sent.is_err() || peer.1 == wire::UPGRADE.len() {
                *peer = open()?;
            }
            next += gap;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(deeds)
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Sends Pings, takes Pongs, and answers the server's own Pings.
struct Pinger {
    stream: TcpStream,
    parser: Parser,
    /// The payload of the server's Ping that is arriving.
    ping: Option<Vec<u8>>,
    out: Vec<u8>,
}

impl Pinger {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let mut channel = Channel::connect(address, None)?;
        let tail = channel.upgrade()?;
        let stream = channel.into_stream();
        stream.set_nonblocking(true)?;
        let mut pinger = Self { stream, parser: Parser::default(), ping: None, out: Vec::new() };
        pinger.take(&tail)?;
        Ok(pinger)
    }

    /// Writes what the socket takes, and takes what it has.
    fn exchange(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if is_temporary(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.take(&chunk[..count])?,
                Err(error) if is_temporary(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(piece) = self.parser.next(&mut bytes)? {
            match (piece, &mut self.ping) {
                (Piece::Begin(wire::CLOSE, _), _) => return Err(io::ErrorKind::ConnectionAborted.into()),
                (Piece::Begin(opcode, _), ping) => *ping = (opcode == wire::PING).then(Vec::new),
                (Piece::Payload(payload), Some(ping)) => ping.extend_from_slice(payload),
                (Piece::End, Some(ping)) => wire::frame(&mut self.out, wire::PONG, ping),
                (Piece::Payload(_) | Piece::End, None) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_creeps_sends_the_whole_request_byte_by_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialect = Dialect { is_websocket: true, is_tls: false, text: false };
        let rudeness = Rudeness::Creeps { every: Duration::from_micros(100) };
        let gang = Gang::new(listener.local_addr().unwrap(), dialect, 1, &rudeness);
        thread::scope(|scope| {
            let creeping = scope.spawn(|| gang.run());
            let (mut stream, _) = listener.accept().unwrap();
            gang.connected.wait();
            let mut request = vec![0; wire::UPGRADE.len()];
            stream.read_exact(&mut request).unwrap();
            gang.is_over.store(true, SeqCst);
            assert_eq!(request, wire::UPGRADE);
            assert!(creeping.join().unwrap().unwrap().done >= request.len() as u64);
        });
    }
}

//! A TCP relay that does to a connection what bad lines do: late, in small pieces, not at all for a while, cut off,
//! reset, silent for ever, or a bit wrong. It knows nothing of WebSockets.
//!
//! All of it follows from a [`Plan`] for each connection, and a plan from a seed: the same seed, the same faults.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use crate::support::Dice;

/// What is done to one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Of the dice that are rolled on the way.
    pub(crate) seed: u64,
    /// Everything is held up by as much as this.
    pub(crate) delay: Duration,
    /// Everything is cut into pieces of at most so many bytes; 0 leaves it whole.
    pub(crate) pieces: usize,
    /// Nothing passes for a while, after so many bytes.
    pub(crate) stall: Option<(usize, Duration)>,
    /// One bit of the byte at this place is flipped.
    pub(crate) corrupt: Option<usize>,
    /// It ends, after so many bytes.
    pub(crate) end: Option<(usize, Ending)>,
}

/// How the relay ends a connection. Counts of bytes are of those towards the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sockets are closed.
    Drop,
    /// Both connections are reset.
    Reset,
    /// Nothing passes any more, and nobody is told.
    Silence,
}

/// A relay that runs until it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
    pumps: Arc<AtomicUsize>,
}

/// How often a pump looks whether it is over.
const GLANCE: Duration = Duration::from_millis(10);

impl Relay {
    /// Relays to `target`; the plan is made from the number of the connection, counted from 0.
    pub(crate) fn start(target: SocketAddr, plan: impl Fn(u64) -> Plan + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let is_over = Arc::new(AtomicBool::new(false));
        let pumps = Arc::new(AtomicUsize::new(0));
        let (over, running) = (Arc::clone(&is_over), Arc::clone(&pumps));
        let acceptor = thread::spawn(move || {
            for number in 0.. {
                let Ok((client, _)) = listener.accept() else { return };
                if over.load(SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                Line::start(client, server, plan(number), &over, &running);
            }
        });
        Self { address, is_over, acceptor: Some(acceptor), pumps }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        // Each looks every GLANCE, and none waits for a peer.
        for _ in 0..1000 {
            if self.pumps.load(SeqCst) == 0 {
                return;
            }
            thread::sleep(GLANCE);
        }
    }
}

/// One connection, relayed by two pumps. The sockets are closed when both have ended.
struct Line {
    client: TcpStream,
    server: TcpStream,
    plan: Plan,
    /// Of the relay.
    is_over: Arc<AtomicBool>,
    has_ended: AtomicBool,
    is_silent: AtomicBool,
    /// Directions that have come to their end.
    ends: AtomicUsize,
}

impl Line {
    fn start(client: TcpStream, server: TcpStream, plan: Plan, is_over: &Arc<AtomicBool>, running: &Arc<AtomicUsize>) {
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(GLANCE));
            let _ = stream.set_write_timeout(Some(GLANCE));
        }
        let is_over = Arc::clone(is_over);
        let line =
            Self { client, server, plan, is_over, has_ended: false.into(), is_silent: false.into(), ends: 0.into() };
        let line = Arc::new(line);
        for is_upward in [true, false] {
            let (line, running) = (Arc::clone(&line), Arc::clone(running));
            running.fetch_add(1, SeqCst);
            thread::spawn(move || {
                // A peer that went away ends the line as well.
                let _ = line.pump(is_upward);
                line.has_ended.store(true, SeqCst);
                drop(line);
                running.fetch_sub(1, SeqCst);
            });
        }
    }

    fn is_over(&self) -> bool {
        self.has_ended.load(SeqCst) || self.is_over.load(SeqCst)
    }

    fn pump(&self, is_upward: bool) -> io::Result<()> {
        let (from, to) = if is_upward { (&self.client, &self.server) } else { (&self.server, &self.client) };
        let mut dice = Dice::new(self.plan.seed.wrapping_add(u64::from(is_upward)));
        let mut passed = 0;
        let mut chunk = [0; 16 * 1024];
        while !self.is_over() {
            let mut from = from;
            let count = match from.read(&mut chunk) {
                // The other direction may still have something to say.
                Ok(0) => return self.half_close(to),
                Ok(count) => count,
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            };
            let mut rest = &mut chunk[..count];
            while !rest.is_empty() {
                let most = if self.plan.pieces == 0 { rest.len() } else { self.plan.pieces };
                let most = 1 + dice.roll(most as u64) as usize;
                let (piece, later) = rest.split_at_mut(most.min(rest.len()));
                rest = later;
                if is_upward {
                    self.afflict(piece, passed, &mut dice);
                }
                if !self.plan.delay.is_zero() {
                    thread::sleep(self.plan.delay.mul_f64(dice.roll(1000) as f64 / 1000.0));
                }
                self.write_all(to, piece)?;
                passed += piece.len();
            }
        }
        Ok(())
    }

    /// What the plan has for the bytes from `passed` on.
    fn afflict(&self, piece: &mut [u8], passed: usize, dice: &mut Dice) {
        let place = |at: usize| at.checked_sub(passed).filter(|offset| *offset < piece.len());
        let (corrupt, stall) =
            (self.plan.corrupt.and_then(place), self.plan.stall.filter(|(at, _)| place(*at).is_some()));
        let end = self.plan.end.filter(|(at, _)| place(*at).is_some());
        if let Some(offset) = corrupt {
            piece[offset] ^= 1 << dice.roll(8);
        }
        if let Some((_, pause)) = stall {
            thread::sleep(pause);
        }
        match end {
            Some((_, Ending::Silence)) => self.is_silent.store(true, SeqCst),
            Some((_, Ending::Drop)) => self.has_ended.store(true, SeqCst),
            Some((_, Ending::Reset)) => {
                for stream in [&self.client, &self.server] {
                    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
                self.has_ended.store(true, SeqCst);
            }
            None => {}
        }
    }

    fn half_close(&self, to: &TcpStream) -> io::Result<()> {
        if !self.is_silent.load(SeqCst) {
            to.shutdown(std::net::Shutdown::Write)?;
        }
        self.ends.fetch_add(1, SeqCst);
        // The sockets are closed when the other direction has ended too.
        while !self.is_over() && self.ends.load(SeqCst) < 2 {
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Writes it, however slowly it is taken, unless the line has ended or fallen silent.
    fn write_all(&self, mut to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && !self.is_over() && !self.is_silent.load(SeqCst) {
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

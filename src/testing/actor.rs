//! A peer's thread, which behaves as its conduct says.
//!
//! Invariant: once its conduct is `Stopped`, nothing more is sent, except for a frame that is under way.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::PATIENCE;
use super::conduct::Conduct;
use super::peer::PeerEnd;
use crate::message::Message;
use crate::protocol::close::{CloseCode, close_payload};
use crate::protocol::decoder::{Decoder, Incoming};
use crate::protocol::frame::{Frame, Outgoing, Role};
use crate::transport::socket;
use crate::transport::stream::Stream;

/// What a peer and its thread share.
#[derive(Debug)]
pub(super) struct Stage {
    role: Role,
    stream: Arc<Stream>,
    /// Protects the conduct.
    state: Mutex<State>,
    /// Tells of a change of it.
    changed: Condvar,
    /// Keeps frames whole. Unlike any other lock it is held while a write waits, for [`PATIENCE`] at most, or while a
    /// frame trickles out: only the peer's own thread and the test take it, and neither holds up anything but this
    /// peer.
    writing: Mutex<()>,
    pings: AtomicUsize,
    pongs: AtomicUsize,
    /// Whether the peer has sent a Close frame.
    has_closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    conduct: Conduct,
    /// Whether the peer was dropped.
    is_over: bool,
}

/// What a peer receives.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    End(PeerEnd),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    pub(super) fn new(role: Role, stream: Arc<Stream>, conduct: Conduct) -> Self {
        let state = State { conduct, is_over: false };
        Self {
            role,
            stream,
            state: Mutex::new(state),
            changed: Condvar::new(),
            writing: Mutex::default(),
            pings: AtomicUsize::new(0),
            pongs: AtomicUsize::new(0),
            has_closed: AtomicBool::new(false),
        }
    }

    /// How it behaves now. `None` if it is over.
    fn conduct(&self) -> Option<Conduct> {
        let state = lock(&self.state);
        (!state.is_over).then(|| state.conduct.clone())
    }

    pub(super) fn set_conduct(&self, conduct: Conduct) {
        lock(&self.state).conduct = conduct;
        self.changed.notify_all();
    }

    /// Ends the thread, and with it the connection.
    pub(super) fn end(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
        // Wakes the thread out of a read or a write. It fails if the connection has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub(super) fn pings(&self) -> usize {
        self.pings.load(SeqCst)
    }

    pub(super) fn pongs(&self) -> usize {
        self.pongs.load(SeqCst)
    }

    /// Waits while the conduct stays this one. Returns at `until` at the latest, if there is one.
    fn wait_while(&self, conduct: &Conduct, until: Option<Instant>) {
        let mut state = lock(&self.state);
        while !state.is_over && state.conduct == *conduct {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return,
                Some(remaining) => {
                    self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    // Writing.

    /// Sends a frame, whole.
    pub(super) fn send(&self, outgoing: Outgoing) -> io::Result<()> {
        let mask = (self.role == Role::Client).then(rand::random);
        let mut bytes = Vec::new();
        Frame::encode(outgoing, mask).write_to(&mut bytes);
        self.write(&bytes)
    }

    /// Sends a Close frame with whatever code.
    pub(super) fn close(&self, code: Option<CloseCode>, reason: &str) -> io::Result<()> {
        // Before, so that their answer is not taken for a Close that wants an answer.
        self.has_closed.store(true, SeqCst);
        self.send(Outgoing::close(close_payload(code, reason)))
    }

    /// Writes these bytes, whatever they are.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let _whole = lock(&self.writing);
        match self.conduct() {
            Some(trickle @ Conduct::Trickle { pause }) => {
                for byte in bytes.chunks(1) {
                    self.wait_while(&trickle, Some(Instant::now() + pause));
                    self.check_that_it_acts()?;
                    socket::write_before(&self.stream, byte, Instant::now() + PATIENCE)?;
                }
                Ok(())
            }
            _ => {
                self.check_that_it_acts()?;
                socket::write_before(&self.stream, bytes, Instant::now() + PATIENCE)
            }
        }
    }

    fn check_that_it_acts(&self) -> io::Result<()> {
        match self.conduct() {
            None | Some(Conduct::Stopped) => Err(io::Error::other("the peer is stopped, and sends nothing")),
            Some(_) => Ok(()),
        }
    }
}

/// A peer's thread.
pub(super) struct Actor {
    stage: Arc<Stage>,
    decoder: Decoder,
    /// What was read and not given to the decoder yet.
    unfed: Vec<u8>,
    received: channel::Sender<Received>,
}

/// The connection has ended.
struct Over;

impl Actor {
    /// `tail`: what came with the opening handshake.
    pub(super) fn new(stage: Arc<Stage>, tail: Vec<u8>, received: channel::Sender<Received>) -> Self {
        /// A handler under test sends no more than that in one message.
        const MAX_MESSAGE: usize = 64 * 1024 * 1024;
        let decoder = Decoder::new(stage.role, &tail, 16 * 1024, MAX_MESSAGE);
        Self { stage, decoder, unfed: Vec::new(), received }
    }

    pub(super) fn run(mut self) {
        while let Some(conduct) = self.stage.conduct() {
            let acted = match &conduct {
                Conduct::Stopped => {
                    self.stage.wait_while(&conduct, None);
                    Ok(())
                }
                Conduct::NeverReads { every } => {
                    let sent = self.stage.send(Outgoing::pong(""));
                    self.stage.wait_while(&conduct, Some(Instant::now() + *every));
                    self.after_sending(sent)
                }
                Conduct::Close { code, reason } => {
                    // From here on as a good peer, unless the test wants something else by now.
                    let mut state = lock(&self.stage.state);
                    if state.conduct == conduct {
                        state.conduct = Conduct::Live;
                    }
                    drop(state);
                    let closed = self.stage.close(Some(*code), reason);
                    self.after_sending(closed)
                }
                Conduct::Live | Conduct::Echo | Conduct::Trickle { .. } | Conduct::Silent => self.read(&conduct),
            };
            if let Err(Over) = acted {
                return;
            }
        }
    }

    /// Deals with one frame, or reads once. The conduct may have changed before the next.
    fn read(&mut self, conduct: &Conduct) -> Result<(), Over> {
        match self.decoder.next() {
            Ok(Some(incoming)) => return self.on_frame(incoming, conduct),
            Ok(None) => {}
            Err(reason) => return self.over(PeerEnd::Violation(reason.to_string())),
        }
        if self.unfed.is_empty() {
            let mut chunk = vec![0; 16 * 1024];
            match socket::read_before(&self.stage.stream, &mut chunk, Instant::now() + PATIENCE) {
                Ok(None) => return Ok(()),
                Ok(Some(0)) => return self.over(PeerEnd::Disconnected),
                Ok(Some(count)) => self.unfed.extend_from_slice(&chunk[..count]),
                Err(error) => return self.failed(&error),
            }
        }
        let unfed = &mut self.unfed;
        let fed = self.decoder.fill(|buffer| {
            let count = unfed.len().min(buffer.capacity() - buffer.len());
            buffer.extend(unfed.drain(..count));
            Ok(count)
        });
        fed.map(drop).or_else(|error| self.failed(&error))
    }

    fn on_frame(&mut self, incoming: Incoming, conduct: &Conduct) -> Result<(), Over> {
        let is_silent = *conduct == Conduct::Silent;
        let answered = match incoming {
            Incoming::Message(message) if matches!(conduct, Conduct::Echo | Conduct::Trickle { .. }) => {
                self.stage.send(Outgoing::message(message))
            }
            Incoming::Message(message) => {
                // Fails only if the peer was dropped.
                let _ = self.received.send(Received::Message(message));
                Ok(())
            }
            // Peers agree to no compression.
            Incoming::Compressed(_) => Ok(()),
            Incoming::Ping(payload) => {
                self.stage.pings.fetch_add(1, SeqCst);
                if is_silent { Ok(()) } else { self.stage.send(Outgoing::pong(payload)) }
            }
            Incoming::Pong(_) => {
                self.stage.pongs.fetch_add(1, SeqCst);
                Ok(())
            }
            Incoming::Close(code, reason) => {
                // The answer, unless theirs is the answer. If it cannot be written, they did not wait for it.
                if !is_silent && !self.stage.has_closed.load(SeqCst) {
                    let _ = self.stage.close(code, "");
                }
                if !is_silent && self.stage.role == Role::Server {
                    // A server ends the TCP connection first (RFC 6455 section 7.1.1).
                    let _ = self.stage.stream.end_writing();
                }
                return self.over(PeerEnd::Closed { code, reason });
            }
        };
        self.after_sending(answered)
    }

    /// A peer that was stopped meanwhile has sent nothing, and is not over for that.
    fn after_sending(&mut self, sent: io::Result<()>) -> Result<(), Over> {
        match sent {
            Err(error) if self.stage.check_that_it_acts().is_ok() => self.failed(&error),
            _ => Ok(()),
        }
    }

    fn failed(&mut self, error: &io::Error) -> Result<(), Over> {
        self.over(PeerEnd::Lost(error.kind()))
    }

    /// The other end has ended the connection: what is left is to wait until it has closed its socket.
    fn over(&mut self, end: PeerEnd) -> Result<(), Over> {
        let is_final = matches!(end, PeerEnd::Lost(_));
        let _ = self.received.send(Received::End(end));
        if !is_final {
            socket::discard_to_end(&self.stage.stream, Instant::now() + PATIENCE, || {});
        }
        if self.stage.conduct().is_some_and(|conduct| conduct != Conduct::Silent && conduct != Conduct::Stopped) {
            socket::shut_down(&self.stage.stream);
        }
        Err(Over)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::http::request::Request;
    use crate::testing::Peer;

    /// A peer, and the other end by hand.
    fn opposite(role: Role, conduct: Conduct) -> (Peer, UnixStream) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE / 3)).unwrap();
        let stream = Arc::new(Stream::new(theirs.into()));
        let peer = Peer::start(role, stream, Vec::new(), conduct, Request::builder("/").build(), None).unwrap();
        (peer, ours)
    }

    /// All that comes up to the end.
    fn rest(mut stream: UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    const CLOSE: [u8; 4] = [0x88, 2, 3, 232];
    const MASKED_CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 3, 232];

    #[test]
    fn a_peer_that_has_closed_does_not_answer_the_answer() {
        let (mut peer, mut stream) = opposite(Role::Client, Conduct::Live);
        peer.close(1000, "").unwrap();
        stream.read_exact(&mut [0; MASKED_CLOSE.len()]).unwrap();
        stream.write_all(&CLOSE).unwrap();
        assert_eq!(peer.expect_close().unwrap().0, Some(1000.into()));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(stream), [0; 0]);
    }

    #[test]
    fn a_peer_that_is_a_server_answers_a_close_and_ends_first() {
        let (_peer, mut stream) = opposite(Role::Server, Conduct::Live);
        stream.write_all(&MASKED_CLOSE).unwrap();
        assert_eq!(rest(stream), CLOSE);
    }

    #[test]
    fn a_peer_that_is_a_client_answers_a_close_and_waits_for_the_end() {
        let (mut peer, mut stream) = opposite(Role::Client, Conduct::Live);
        stream.write_all(&CLOSE).unwrap();
        stream.read_exact(&mut [0; MASKED_CLOSE.len()]).unwrap();
        assert_eq!(peer.expect_close().unwrap().0, Some(1000.into()));
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_peer_that_vanishes_sends_no_fin_until_it_is_dropped() {
        for conduct in [Conduct::Stopped, Conduct::Silent] {
            let (peer, mut stream) = opposite(Role::Client, conduct);
            stream.write_all(&[0x89, 0]).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(peer);
            // What it has not read makes its end a reset.
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let end = stream.read(&mut [0]).or_else(|error| match error.kind() {
                io::ErrorKind::ConnectionReset => Ok(0),
                _ => Err(error),
            });
            assert_eq!(end.unwrap(), 0);
        }
    }
}

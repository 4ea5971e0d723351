//! The read half of a connection: the socket, read under a deadline.
//!
//! A socket's read timeout is per system call, so a peer that trickles bytes would starve whoever waits for a whole
//! message. Here every call reads once and gives control back: with bytes, with the end, or because the deadline has
//! come. Past the deadline it takes only what is already in the socket.
//!
//! There are two ways to wait. A quiet connection waits by poll(2) and reads when something is there: its timer is exact
//! and needs no setting, so a heartbeat wakes the thread twice, when the Ping is due and when the Pong is here. On a brisk
//! one, where poll would be one system call more for each message, the read itself waits, under a short timeout of the
//! socket that is set once; when that ends, the connection is a quiet one again. (A timeout of the socket is no way to
//! wait for long: Linux ends it up to an eighth late, 2 s at 20 s; kernel/time/timer.c, "timer wheel".)

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close::CloseReason;
use crate::decoder::Decoder;
use crate::outbound::is_timeout;
use crate::tcp;

/// What a read came to.
#[derive(Debug)]
pub(crate) enum Filled {
    /// So many bytes more are in the decoder, and whether that was all there was.
    Bytes(usize, bool),
    /// The peer has sent its last byte.
    End,
    /// Nothing came before the deadline.
    Timeout,
}

/// The read half.
#[derive(Debug)]
pub(crate) struct Inbound {
    stream: Arc<TcpStream>,
    pub(crate) decoder: Decoder,
    /// Waits in a row, up to [`BRISK`](Self::BRISK), that something ended soon.
    soon: u8,
}

impl Inbound {
    /// What is soon: the longest that a read blocks. The kernel's timers are exact to a tick for so short a time.
    const SOON: Duration = Duration::from_millis(100);
    /// How many waits in a row have to end soon for a connection to be brisk. The answer to a lone Ping is not enough.
    const BRISK: u8 = 4;

    pub(crate) fn new(stream: Arc<TcpStream>, decoder: Decoder) -> io::Result<Self> {
        stream.set_read_timeout(Some(Self::SOON))?;
        Ok(Self { stream, decoder, soon: 0 })
    }

    /// Waits for bytes until the deadline. `now` is a recent reading of the clock.
    pub(crate) fn fill(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<Filled> {
        let mut now = now;
        loop {
            let wait = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let is_brisk = self.soon == Self::BRISK && wait.is_none_or(|wait| wait >= Self::SOON);
            if is_brisk || self.is_readable(wait, now)? {
                match self.decoder.fill(|buffer| tcp::read(&self.stream, buffer)) {
                    Ok((0, _)) => return Ok(Filled::End),
                    Ok((count, is_all)) => return Ok(Filled::Bytes(count, is_all)),
                    Err(error) if is_timeout(&error) => self.soon = 0,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(Filled::Timeout);
            }
        }
    }

    /// Waits for something to read, without a buffer unless the connection is brisk, and notes whether that was soon.
    fn is_readable(&mut self, wait: Option<Duration>, now: Instant) -> io::Result<bool> {
        if self.soon < Self::BRISK {
            self.decoder.release();
        }
        let is_readable = tcp::wait_readable(&self.stream, wait)?;
        let is_soon = is_readable && now.elapsed() < Self::SOON;
        self.soon = if is_soon { (self.soon + 1).min(Self::BRISK) } else { 0 };
        Ok(is_readable)
    }

    /// What the end of the stream means. The kernel tells of a reset only once, and another thread's write may have been
    /// told; but after a reset, and not after an orderly end, the socket has no peer any more.
    pub(crate) fn end_reason(&self) -> CloseReason {
        match self.stream.peer_addr() {
            Ok(_) => CloseReason::Disconnected,
            Err(_) => CloseReason::io(&io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Reads and forgets until the peer's end, an error or the deadline.
    pub(crate) fn discard_to_end(&self, deadline: Instant) {
        tcp::discard_to_end(&self.stream, deadline);
    }

    pub(crate) fn shut_down(&self, how: Shutdown) {
        // It fails only when the connection has ended already.
        let _ = self.stream.shutdown(how);
    }
}

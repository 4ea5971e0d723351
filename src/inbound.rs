//! The read half of a connection: the socket, read under a deadline.
//!
//! A socket's read timeout is per system call, so a peer that trickles bytes would starve whoever waits for a whole
//! message. Here every call reads once and gives control back: with bytes, with the end, or because the deadline has
//! come. Past the deadline it takes only what is already in the socket.

use std::io::{self, Read};
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
    /// So many bytes more are in the decoder.
    Bytes(usize),
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
    /// The read timeout that the socket has now.
    armed: Option<Duration>,
}

impl Inbound {
    /// How much later than its deadline a read may return, for the sake of a system call saved: a busy connection would
    /// otherwise set its timeout anew for every message.
    const SLACK: Duration = Duration::from_millis(5);

    pub(crate) fn new(stream: Arc<TcpStream>, decoder: Decoder) -> io::Result<Self> {
        stream.set_read_timeout(None)?;
        Ok(Self { stream, decoder, armed: None })
    }

    /// Waits for bytes until the deadline. `now` is a recent reading of the clock.
    pub(crate) fn fill(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<Filled> {
        let mut now = now;
        loop {
            self.arm(deadline.map(|deadline| deadline.saturating_duration_since(now)))?;
            let mut stream = &*self.stream;
            match stream.read(self.decoder.space()) {
                Ok(0) => return Ok(Filled::End),
                Ok(count) => {
                    self.decoder.filled(count);
                    return Ok(Filled::Bytes(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => now = Instant::now(),
                Err(error) if is_timeout(&error) => {
                    now = Instant::now();
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return Ok(Filled::Timeout);
                    }
                }
                Err(error) => return Err(error),
            }
        }
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

    /// Sets the read timeout, unless the one that is set will do: it must not end after the wait, nor so early that most
    /// of the wait is left.
    fn arm(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let will_do = match (self.armed, wait) {
            (None, None) => true,
            (Some(armed), Some(wait)) => latest_end(armed) <= wait + Self::SLACK && armed >= timeout_for(wait) / 2,
            _ => false,
        };
        if !will_do {
            let timeout = wait.map(timeout_for);
            self.stream.set_read_timeout(timeout)?;
            self.armed = timeout;
        }
        Ok(())
    }
}

/// Up to this, the kernel's timers are exact to a tick. Longer ones Linux rounds up, by an eighth at most: with 250 ticks
/// a second, 20 s may become 22 s (kernel/time/timer.c, "timer wheel").
const EXACT: Duration = Duration::from_millis(200);

/// The timeout that surely ends within the wait; the rest is waited for with another.
fn timeout_for(wait: Duration) -> Duration {
    // Zero would mean for ever. The shortest wait is the nearest thing to not waiting at all.
    if wait <= EXACT { wait.max(Duration::from_micros(1)) } else { (wait * 8 / 9).max(EXACT) }
}

/// When a timeout ends at the latest.
fn latest_end(timeout: Duration) -> Duration {
    if timeout <= EXACT { timeout } else { timeout * 9 / 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timeout_ends_after_its_wait() {
        for ms in [1, 199, 200, 201, 224, 225, 226, 1000, 20_000, 10_000_000] {
            let wait = Duration::from_millis(ms);
            assert!(latest_end(timeout_for(wait)) <= wait, "{wait:?}");
            assert!(timeout_for(wait) >= wait * 8 / 9, "{wait:?}");
        }
        assert!(!timeout_for(Duration::ZERO).is_zero());
    }
}

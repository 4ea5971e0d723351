//! The read half of a connection: the socket, read once at a time.
//!
//! A socket's read timeout is per system call, so a peer that trickles bytes would starve whoever waits for a whole
//! message. Here every call reads once and gives control back.
//!
//! There are two ways to wait. A quiet connection waits by poll(2) and reads when something is there: its timer needs no
//! setting and is a thousandth late at most (fs/select.c, `select_estimate_accuracy`), so a heartbeat wakes the thread
//! twice, when the Ping is due and when the Pong is here; and nobody holds the read half meanwhile. On a brisk one, where
//! poll would be one system call more for each message, the read itself waits, under a short timeout of the socket that
//! is set once; when that ends, the connection is a quiet one again. (A timeout of the socket is no way to wait for long:
//! Linux ends it up to an eighth late, 2 s at 20 s; kernel/time/timer.c, "timer wheel".)
//!
//! Where a peer answers faster than a thread falls asleep and wakes up, and processors are idle, the read does not sleep
//! but tries again for a moment (busy polling).

use std::io;
use std::net::{Shutdown, TcpStream};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::close::CloseReason;
use crate::protocol::decoder::Decoder;
use crate::transport::socket;
use crate::transport::write_half::is_timeout;

/// What a read came to.
#[derive(Debug)]
pub(crate) enum Filled {
    /// So many bytes more are in the decoder.
    Bytes {
        count: usize,
        /// Whether that was all there was.
        is_all: bool,
    },
    /// The peer has sent its last byte.
    End,
    /// Nothing came.
    Nothing,
}

/// The read half.
#[derive(Debug)]
pub(crate) struct ReadHalf {
    stream: Arc<TcpStream>,
    pub(crate) decoder: Decoder,
    /// Waits in a row that something ended soon, until there were enough of them.
    soon: u8,
    brisk: Option<Brisk>,
    last_wait: Duration,
}

impl ReadHalf {
    /// What is soon: the longest that a read blocks. The kernel's timers are exact to a tick for so short a time.
    const SOON: Duration = Duration::from_millis(100);
    /// How many waits in a row have to end soon for a connection to be brisk. The answer to a lone Ping is not enough.
    const BRISK: u8 = 4;

    pub(crate) fn new(stream: Arc<TcpStream>, decoder: Decoder) -> io::Result<Self> {
        stream.set_read_timeout(Some(Self::SOON))?;
        Ok(Self { stream, decoder, soon: 0, brisk: None, last_wait: Duration::MAX })
    }

    pub(crate) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// Whether to wait in the read itself, if the next deadline is so far away.
    pub(crate) fn waits_in_read(&self, wait: Option<Duration>) -> bool {
        self.brisk.is_some() && wait.is_none_or(|wait| wait >= Self::SOON)
    }

    /// A quiet connection is about to wait: it needs no buffer meanwhile.
    pub(crate) fn rest(&mut self) {
        if self.brisk.is_none() {
            self.decoder.release();
        }
    }

    /// Reads what is there.
    pub(crate) fn read_now(&mut self) -> io::Result<Filled> {
        let stream = &self.stream;
        let read = self.decoder.fill(|buffer| socket::read_now(stream, buffer));
        filled(read)
    }

    /// Waits in the read, but not for long.
    pub(crate) fn read_waiting(&mut self) -> io::Result<Filled> {
        let polls = self.last_wait < Brisk::POLLING && self.brisk.as_ref().is_some_and(Brisk::may_poll);
        let stream = &self.stream;
        let read = self.decoder.fill(|buffer| match polls {
            true => socket::read_polling(stream, buffer, Brisk::POLLING),
            false => socket::read(stream, buffer),
        });
        filled(read)
    }

    /// Waits until the deadline for a read that gives something, and holds the read half for as long. `now` is a recent
    /// reading of the clock, and is one again afterwards.
    pub(crate) fn fill_before(&mut self, deadline: Instant, now: &mut Instant) -> io::Result<Filled> {
        loop {
            let wait = deadline.saturating_duration_since(*now);
            let is_last = wait.is_zero();
            let filled =
                if socket::wait_readable(&self.stream, Some(wait))? { self.read_now()? } else { Filled::Nothing };
            *now = Instant::now();
            if is_last || !matches!(filled, Filled::Nothing) {
                return Ok(filled);
            }
        }
    }

    /// Notes how long a wait took, and whether something ended it: from that it follows how to wait next.
    pub(crate) fn waited(&mut self, wait: Duration, has_come: bool) {
        self.last_wait = wait;
        if !has_come || wait >= Self::SOON {
            (self.soon, self.brisk) = (0, None);
        } else if self.brisk.is_none() {
            self.soon += 1;
            self.brisk = (self.soon >= Self::BRISK).then(Brisk::new);
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

    /// Why the socket has failed, if it has: for whoever does not read.
    pub(crate) fn failure(&self) -> Option<CloseReason> {
        let error = self.stream.take_error().ok().flatten().map(|error| CloseReason::io(&error));
        error.or_else(|| self.stream.peer_addr().err().map(|_| self.end_reason()))
    }

    /// Reads and forgets until the peer's end, an error or the deadline.
    pub(crate) fn discard_to_end(&self, deadline: Instant) {
        socket::discard_to_end(&self.stream, deadline, || {});
    }

    pub(crate) fn shut_down(&self, how: Shutdown) {
        // It fails only when the connection has ended already.
        let _ = self.stream.shutdown(how);
    }
}

/// A signal is as good as nothing.
fn filled(read: io::Result<(usize, bool)>) -> io::Result<Filled> {
    match read {
        Ok((0, _)) => Ok(Filled::End),
        Ok((count, is_all)) => Ok(Filled::Bytes { count, is_all }),
        Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(Filled::Nothing),
        Err(error) => Err(error),
    }
}

/// A brisk connection. While there are few in the process, they may keep processors from sleep.
#[derive(Debug)]
struct Brisk;

static BRISK: AtomicUsize = AtomicUsize::new(0);

impl Brisk {
    /// For so long a read is tried again before it blocks, if the last wait was no longer.
    const POLLING: Duration = Duration::from_micros(20);

    fn new() -> Self {
        BRISK.fetch_add(1, Relaxed);
        Self
    }

    /// Whether there is a processor for each brisk connection and one for its peer. With more of them, or a single
    /// processor, whoever polled would keep it from those who have something to do.
    fn may_poll(&self) -> bool {
        static PROCESSORS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
        2 * BRISK.load(Relaxed) <= *PROCESSORS
    }
}

impl Drop for Brisk {
    fn drop(&mut self) {
        BRISK.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::protocol::frame::Role;

    fn pair() -> (ReadHalf, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (ReadHalf::new(Arc::new(stream), Decoder::new(Role::Server, &[], 256, 1000)).unwrap(), peer)
    }

    #[test]
    fn a_read_never_waits_for_more_than_is_there() {
        let (mut read_half, mut peer) = pair();
        assert!(matches!(read_half.read_now().unwrap(), Filled::Nothing));
        assert_eq!(socket::waiting(read_half.stream()), 0);
        peer.write_all(b"12345").unwrap();
        read_half.stream().peek(&mut [0]).unwrap();
        assert_eq!(socket::waiting(read_half.stream()), 5);
        assert!(matches!(read_half.read_now().unwrap(), Filled::Bytes { count: 5, is_all: true }));
        assert!(matches!(read_half.read_now().unwrap(), Filled::Nothing));
        drop(peer);
        assert!(matches!(read_half.fill_before(Instant::now(), &mut Instant::now()).unwrap(), Filled::End));
    }

    #[test]
    fn a_deadline_is_kept_and_not_before_its_time() {
        let (mut read_half, _peer) = pair();
        for wait in [0, 1, 30, 99, 101, 250].map(Duration::from_millis) {
            let mut now = Instant::now();
            let deadline = now + wait;
            assert!(matches!(read_half.fill_before(deadline, &mut now).unwrap(), Filled::Nothing));
            assert!(now >= deadline, "{:?} before {wait:?} were over", deadline - now);
            assert!(now < deadline + Duration::from_secs(10));
        }
    }

    #[test]
    fn a_connection_is_brisk_after_several_short_waits_and_quiet_after_one_that_is_long_or_in_vain() {
        let (mut read_half, _peer) = pair();
        let (short, long) = (Duration::from_millis(1), ReadHalf::SOON);
        for end in [(short, false), (long, true)] {
            for n in 1..=ReadHalf::BRISK {
                assert!(!read_half.waits_in_read(None), "brisk after {n}");
                read_half.waited(short, true);
            }
            assert!(read_half.waits_in_read(None) && read_half.waits_in_read(Some(long)));
            assert!(!read_half.waits_in_read(Some(short)), "a deadline is nearer than a read may block");
            read_half.waited(end.0, end.1);
            assert!(!read_half.waits_in_read(None));
        }
    }
}

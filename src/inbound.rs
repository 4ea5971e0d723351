//! The read half of a connection: the socket, read under a deadline.
//!
//! A socket's read timeout is per system call, so a peer that trickles bytes would starve whoever waits for a whole
//! message. Here every call reads once and gives control back: with bytes, with the end, or because the deadline has
//! come. Past the deadline it takes only what is already in the socket.
//!
//! There are two ways to wait. A quiet connection waits by poll(2) and reads when something is there: its timer needs no
//! setting and is a thousandth late at most (fs/select.c, `select_estimate_accuracy`), so a heartbeat wakes the thread
//! twice, when the Ping is due and when the Pong is here. On a brisk one, where poll would be one system call more for each
//! message, the read itself waits, under a short timeout of the socket that is set once; when that ends, the connection
//! is a quiet one again. (A timeout of the socket is no way to wait for long: Linux ends it up to an eighth late, 2 s at
//! 20 s; kernel/time/timer.c, "timer wheel".)
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
    /// When the last look at the socket began that has emptied it, or found it empty. What came since was perhaps not seen:
    /// the thread may have been kept from running between that look and the next reading of the clock.
    emptied_at: Option<Instant>,
    /// Waits in a row that something ended soon, until there were enough of them.
    soon: u8,
    brisk: Option<Brisk>,
    last_wait: Duration,
}

impl Inbound {
    /// What is soon: the longest that a read blocks. The kernel's timers are exact to a tick for so short a time.
    const SOON: Duration = Duration::from_millis(100);
    /// How many waits in a row have to end soon for a connection to be brisk. The answer to a lone Ping is not enough.
    const BRISK: u8 = 4;

    pub(crate) fn new(stream: Arc<TcpStream>, decoder: Decoder) -> io::Result<Self> {
        stream.set_read_timeout(Some(Self::SOON))?;
        Ok(Self { stream, decoder, emptied_at: None, soon: 0, brisk: None, last_wait: Duration::MAX })
    }

    /// Waits for bytes until the deadline. `now` is a recent reading of the clock, and is one again afterwards.
    pub(crate) fn fill(&mut self, deadline: Option<Instant>, now: &mut Instant) -> io::Result<Filled> {
        loop {
            let from = *now;
            let wait = deadline.map(|deadline| deadline.saturating_duration_since(from));
            let may_block = self.brisk.is_some() && wait.is_none_or(|wait| wait >= Self::SOON);
            let read = if may_block || self.is_readable(wait)? { self.read() } else { Ok(None) };
            *now = Instant::now();
            self.last_wait = now.saturating_duration_since(from);
            self.note(self.last_wait < Self::SOON && !matches!(read, Ok(None)));
            let (filled, is_empty) = match read? {
                Some((0, _)) => (Some(Filled::End), true),
                Some((count, is_all)) => (Some(Filled::Bytes(count)), is_all),
                // Only a look that began past the deadline says that nothing came before it.
                None => (deadline.filter(|deadline| *deadline <= from).map(|_| Filled::Timeout), true),
            };
            if is_empty {
                self.emptied_at = Some(from);
            }
            if let Some(filled) = filled {
                return Ok(filled);
            }
        }
    }

    /// Whether all that had arrived by `instant` is in the decoder.
    pub(crate) fn has_all_until(&self, instant: Instant) -> bool {
        self.emptied_at >= Some(instant)
    }

    /// Notes whether something came soon.
    fn note(&mut self, is_soon: bool) {
        if !is_soon {
            (self.soon, self.brisk) = (0, None);
        } else if self.brisk.is_none() {
            self.soon += 1;
            self.brisk = (self.soon >= Self::BRISK).then(Brisk::new);
        }
    }

    /// Waits for something to read, without a buffer unless the connection is brisk.
    fn is_readable(&mut self, wait: Option<Duration>) -> io::Result<bool> {
        if self.brisk.is_none() {
            self.decoder.release();
        }
        tcp::wait_readable(&self.stream, wait)
    }

    /// One read: so many bytes, and whether that was all there was. `None` if nothing came, or a signal.
    fn read(&mut self) -> io::Result<Option<(usize, bool)>> {
        let polls = self.last_wait < Brisk::POLLING && self.brisk.as_ref().is_some_and(Brisk::may_poll);
        let stream = &self.stream;
        let read = self.decoder.fill(|buffer| match polls {
            true => tcp::read_polling(stream, buffer, Brisk::POLLING),
            false => tcp::read(stream, buffer),
        });
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
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
    use crate::frame::Role;

    fn pair() -> (Inbound, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (Inbound::new(Arc::new(stream), Decoder::new(Role::Server, &[], 256, 1000)).unwrap(), peer)
    }

    fn receive(inbound: &mut Inbound, peer: &mut TcpStream) {
        const EMPTY: [u8; 6] = [0x82, 0x80, 0, 0, 0, 0];
        peer.write_all(&EMPTY).unwrap();
        let filled = inbound.fill(None, &mut Instant::now()).unwrap();
        assert!(matches!(filled, Filled::Bytes(6)), "{filled:?}");
        while inbound.decoder.next().unwrap().is_some() {}
    }

    #[test]
    fn a_deadline_is_kept_and_not_before_its_time_by_quiet_and_by_brisk_connections() {
        let (mut inbound, mut peer) = pair();
        for wait in [0, 1, 30, 99, 101, 250].map(Duration::from_millis) {
            for is_brisk in [false, true] {
                while is_brisk && inbound.brisk.is_none() {
                    receive(&mut inbound, &mut peer);
                }
                assert_eq!(inbound.brisk.is_some(), is_brisk);
                let mut now = Instant::now();
                let deadline = now + wait;
                let filled = inbound.fill(Some(deadline), &mut now).unwrap();
                assert!(matches!(filled, Filled::Timeout), "{filled:?}");
                assert!(now >= deadline, "{:?} before {wait:?} were over", deadline - now);
                assert!(now < deadline + Duration::from_secs(10));
                assert!(inbound.has_all_until(deadline), "the last look was past the deadline");
                assert!(inbound.brisk.is_none(), "a silence makes it quiet");
            }
        }
    }

    #[test]
    fn what_is_there_is_taken_even_past_the_deadline() {
        let (mut inbound, mut peer) = pair();
        peer.write_all(b"12345").unwrap();
        inbound.stream.peek(&mut [0]).unwrap();
        let mut now = Instant::now();
        let past = now;
        assert!(matches!(inbound.fill(Some(past), &mut now).unwrap(), Filled::Bytes(5)));
        assert!(matches!(inbound.fill(Some(past), &mut now).unwrap(), Filled::Timeout));
        drop(peer);
        assert!(matches!(inbound.fill(None, &mut now).unwrap(), Filled::End));
    }

    #[test]
    fn a_look_says_nothing_of_what_came_while_it_was_under_way() {
        let (mut inbound, mut peer) = pair();
        let begin = Instant::now();
        let sender = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            peer.write_all(b"12345").unwrap();
            peer
        });
        let mut now = begin;
        assert!(matches!(inbound.fill(None, &mut now).unwrap(), Filled::Bytes(5)));
        assert!(now >= begin + Duration::from_millis(20));
        assert!(inbound.has_all_until(begin));
        assert!(!inbound.has_all_until(now), "nobody has looked since");
        let past = now;
        assert!(matches!(inbound.fill(Some(past), &mut now).unwrap(), Filled::Timeout));
        assert!(inbound.has_all_until(past));
        drop(sender.join().unwrap());
    }
}

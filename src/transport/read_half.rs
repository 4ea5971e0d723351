//! The read half of a connection: it reads the socket once per call.
//!
//! A socket's read timeout applies to one system call, so a peer that trickles bytes would starve a caller that waits
//! for a whole message. Here every call reads once and gives control back.
//!
//! There are two ways to wait:
//! - A quiet connection waits in poll(2) and reads when data is there. The timer of poll needs no setting and is late
//!   by a thousandth at most (fs/select.c, `select_estimate_accuracy`). The heartbeat wakes the thread only twice per
//!   Ping: when the Ping is due, and when the Pong arrives. Nobody holds the read half during the wait.
//! - An active connection waits in the read itself, since poll would cost one more system call per message. The read
//!   ends at a short timeout that is set once on the socket, and a read that times out makes the connection quiet
//!   again. (A socket timeout is no way to wait for long: Linux ends it up to an eighth late, 2 s at 20 s;
//!   kernel/time/timer.c, "timer wheel".)
//!
//! If processors are idle, such a read tries again for a moment before it sleeps (busy polling).

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::close::CloseReason;
use crate::protocol::decoder::Decoder;
use crate::transport::busy_polling::BusyPolling;
use crate::transport::secured::Arrived;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// What a read gave.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// So many bytes were read. The decoder has what is in them.
    Bytes {
        count: usize,
        /// Whether the read emptied the socket.
        is_drained: bool,
    },
    /// The end of the stream.
    End,
    /// Nothing arrived.
    Nothing,
}

/// The read half.
#[derive(Debug)]
pub(crate) struct ReadHalf {
    stream: Arc<Stream>,
    pub(crate) decoder: Decoder,
    /// The records of TLS that are not whole yet, if the stream is secured.
    arrived: Option<Box<Arrived>>,
    /// Short waits in a row, counted until they make the connection active.
    short_waits: u8,
    /// Set while the connection is active. Boxed, so that an idle one does not pay for it.
    active: Option<Box<BusyPolling>>,
    /// The longest that a read may poll.
    busy_poll: Duration,
    /// Whether the socket has its read timeout, which it gets when the connection first becomes active.
    has_timeout: bool,
}

impl ReadHalf {
    /// The longest time that a read blocks, and the limit of a short wait. The kernel keeps a timeout this short to a
    /// tick.
    const READ_TIMEOUT: Duration = Duration::from_millis(100);
    /// How many short waits in a row make a connection active. More than one, because the answer to a lone Ping must
    /// not.
    const SHORT_WAITS_UNTIL_ACTIVE: u8 = 4;

    /// `busy_poll`: the longest that a read may poll before it sleeps.
    pub(crate) fn new(stream: Arc<Stream>, decoder: Decoder, busy_poll: Duration) -> Self {
        let arrived = stream.secured().map(|secured| Box::new(Arrived::new(secured.take_arrived())));
        Self { stream, decoder, arrived, short_waits: 0, active: None, busy_poll, has_timeout: false }
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Whether to wait in the read itself from now on, if the next deadline is `wake`.
    pub(crate) fn blocks_in_read(&self, wake: Option<Instant>, now: Instant) -> bool {
        self.active.is_some() && wake.is_none_or(|wake| wake >= now + Self::READ_TIMEOUT)
    }

    /// Frees the buffer of a quiet connection before it waits.
    pub(crate) fn release_idle_buffer(&mut self) {
        if self.active.is_none() {
            self.decoder.release();
            if let Some(arrived) = &mut self.arrived {
                arrived.release();
            }
        }
    }

    /// Reads what is there, without blocking.
    pub(crate) fn read_now(&mut self) -> io::Result<ReadOutcome> {
        outcome(fill(&self.stream, &mut self.decoder, &mut self.arrived, socket::read_now))
    }

    /// Reads once and blocks for [`READ_TIMEOUT`](Self::READ_TIMEOUT) at most.
    pub(crate) fn read_blocking(&mut self) -> io::Result<ReadOutcome> {
        let polling = self.active.as_mut().and_then(|polling| polling.begin());
        outcome(fill(&self.stream, &mut self.decoder, &mut self.arrived, |stream, buffer| match polling {
            None => socket::read(stream, buffer),
            Some((time, polled)) => socket::read_busy_polling(stream, buffer, time, polled),
        }))
    }

    /// Waits until the deadline for a read that gives something. Unlike the wait of a quiet connection, this one holds
    /// the read half. `now` is a recent reading of the clock, before the call and after it.
    pub(crate) fn read_until(&mut self, deadline: Instant, now: &mut Instant) -> io::Result<ReadOutcome> {
        loop {
            // A last look at the socket is due even if the deadline has passed.
            let wait = deadline.saturating_duration_since(*now);
            let is_last = wait.is_zero();
            let read = match socket::wait_readable(&self.stream, Some(wait))? {
                true => self.read_now()?,
                false => ReadOutcome::Nothing,
            };
            // poll may return early with nothing, and so may the read: then wait for the rest of the time.
            *now = Instant::now();
            if is_last || !matches!(read, ReadOutcome::Nothing) {
                return Ok(read);
            }
        }
    }

    /// Records how long a wait took, which ended now, and whether data ended it. That decides how to wait next.
    pub(crate) fn record_wait(&mut self, wait: Duration, now: Instant, has_data: bool) {
        if !has_data || wait >= Self::READ_TIMEOUT {
            (self.short_waits, self.active) = (0, None);
        } else if let Some(polling) = &mut self.active {
            polling.record(wait, now);
        } else {
            self.short_waits = self.short_waits.saturating_add(1);
            let is_active = self.short_waits >= Self::SHORT_WAITS_UNTIL_ACTIVE && self.set_timeout();
            self.active = is_active.then(|| Box::new(BusyPolling::new(self.busy_poll, now)));
        }
    }

    /// Sets the socket's read timeout. Returns whether it is set.
    fn set_timeout(&mut self) -> bool {
        self.has_timeout = self.has_timeout || self.stream.set_read_timeout(Some(Self::READ_TIMEOUT)).is_ok();
        self.has_timeout
    }

    /// What the end of the stream means. The kernel reports a reset only once, and another thread's write may have got
    /// the report. But after a reset the socket has no peer any more, and after an orderly end it still has.
    pub(crate) fn end_reason(&self) -> CloseReason {
        match self.stream.has_peer() {
            true => CloseReason::Disconnected,
            false => CloseReason::io(&io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Why the socket has failed, if it has. For callers that do not read.
    pub(crate) fn failure(&self) -> Option<CloseReason> {
        let error = self.stream.take_error().ok().flatten().map(|error| CloseReason::io(&error));
        error.or_else(|| (!self.stream.has_peer()).then(|| self.end_reason()))
    }

    /// Reads and discards until the end of the stream, an error or the deadline.
    pub(crate) fn discard_to_end(&self, deadline: Instant) {
        socket::discard_to_end(&self.stream, deadline, || {});
    }

    pub(crate) fn shut_down(&self, how: Shutdown) {
        // It fails only if the connection has ended already.
        let _ = self.stream.shutdown(how);
    }
}

/// Reads once, and gives the decoder what is in the bytes.
#[inline(always)]
fn fill(
    stream: &Stream,
    decoder: &mut Decoder,
    arrived: &mut Option<Box<Arrived>>,
    read: impl FnOnce(&Stream, &mut Vec<u8>) -> io::Result<usize>,
) -> io::Result<(usize, bool)> {
    match arrived.as_mut().zip(stream.secured()) {
        None => decoder.fill(|buffer| read(stream, buffer)),
        Some((arrived, secured)) => {
            arrived.read(stream, secured, |buffer| read(stream, buffer), |open| decoder.fill(|buffer| open(buffer)))
        }
    }
}

/// A read that a signal interrupts gave nothing.
fn outcome(read: io::Result<(usize, bool)>) -> io::Result<ReadOutcome> {
    match read {
        Ok((0, _)) => Ok(ReadOutcome::End),
        Ok((count, is_drained)) => Ok(ReadOutcome::Bytes { count, is_drained }),
        Err(error) if socket::is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
            Ok(ReadOutcome::Nothing)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::protocol::frame::Role;

    fn pair() -> (ReadHalf, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (ReadHalf::new(Arc::new(stream.into()), Decoder::new(Role::Server, &[], 256, 1000), Duration::ZERO), peer)
    }

    #[test]
    fn a_read_never_waits_for_more_than_is_there() {
        let (mut read_half, mut peer) = pair();
        assert!(matches!(read_half.read_now().unwrap(), ReadOutcome::Nothing));
        assert_eq!(socket::unread_bytes(read_half.stream()), 0);
        peer.write_all(b"12345").unwrap();
        socket::wait_readable(read_half.stream(), None).unwrap();
        assert_eq!(socket::unread_bytes(read_half.stream()), 5);
        assert!(matches!(read_half.read_now().unwrap(), ReadOutcome::Bytes { count: 5, is_drained: true }));
        assert!(matches!(read_half.read_now().unwrap(), ReadOutcome::Nothing));
        drop(peer);
        assert!(matches!(read_half.read_until(Instant::now(), &mut Instant::now()).unwrap(), ReadOutcome::End));
    }

    #[cfg(unix)]
    #[test]
    fn a_polling_read_takes_what_comes_while_it_tries_or_blocks_for_it() {
        let (read_half, mut peer) = pair();
        let stream = read_half.stream();
        for time in [Duration::from_secs(30), Duration::from_micros(1)] {
            let mut polled = crate::transport::busy_polling::Polled::default();
            let mut buffer = Vec::with_capacity(16);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    peer.write_all(b"12345").unwrap();
                });
                assert_eq!(socket::read_busy_polling(stream, &mut buffer, time, &mut polled).unwrap(), 5);
            });
            assert_eq!(buffer, b"12345");
            // It ends with the first try that finds something, or with the first that is over the time.
            assert_eq!(polled.time < time, time > Duration::from_secs(1), "{polled:?}");
        }
    }

    #[test]
    fn a_deadline_is_kept_and_not_before_its_time() {
        let (mut read_half, _peer) = pair();
        for wait in [0, 1, 30, 99, 101, 250].map(Duration::from_millis) {
            let mut now = Instant::now();
            let deadline = now + wait;
            assert!(matches!(read_half.read_until(deadline, &mut now).unwrap(), ReadOutcome::Nothing));
            assert!(now >= deadline, "{:?} before {wait:?} were over", deadline - now);
            assert!(now < deadline + Duration::from_secs(10));
        }
    }

    #[test]
    fn a_connection_is_active_after_several_short_waits_and_quiet_after_a_long_or_vain_one() {
        let (mut read_half, _peer) = pair();
        let (short, long, now) = (Duration::from_millis(1), ReadHalf::READ_TIMEOUT, Instant::now());
        for end in [(short, false), (long, true)] {
            for n in 1..=ReadHalf::SHORT_WAITS_UNTIL_ACTIVE {
                assert!(!read_half.blocks_in_read(None, now), "active after {n}");
                read_half.record_wait(short, now, true);
            }
            assert!(read_half.blocks_in_read(None, now) && read_half.blocks_in_read(Some(now + long), now));
            assert!(!read_half.blocks_in_read(Some(now + short), now), "the deadline is nearer than the read timeout");
            read_half.record_wait(end.0, now, end.1);
            assert!(!read_half.blocks_in_read(None, now));
        }
    }
}

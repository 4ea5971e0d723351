//! What is done with a connected socket: its options, and reads and writes that do not block or keep a deadline.
//!
//! On Linux and macOS a single call can be non-blocking (`MSG_DONTWAIT`). Windows can only make the whole socket
//! non-blocking, reads included. There `send_now` takes nothing, so every frame goes through the drainer. The
//! guarantees are the same, at the cost of a second thread while there is something to write.

#[cfg(not(unix))]
use std::io::Write;
use std::io::{self, IoSlice, Read};
#[cfg(not(unix))]
use std::mem::MaybeUninit;
use std::net::Shutdown;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

#[cfg(all(unix, not(target_os = "espidf")))]
use rustix::net::SendAncillaryBuffer;
#[cfg(unix)]
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};

use crate::transport::busy_polling::Polled;
use crate::transport::secured::{MAX_PAYLOAD, MAX_SEALED};
use crate::transport::stream::Stream;
use crate::transport::write_half::{Socket, Taken};

impl Socket for Stream {
    #[inline(always)]
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        match self.secured() {
            None => send_raw(self, slices).map(Taken::from),
            Some(secured) => secured.send(slices, MAX_SEALED, |bytes| write_now(self, bytes)),
        }
    }

    /// Writes what fits as soon as there is room, so that the heartbeat sees every step of the peer's progress. Over
    /// TLS a record at a time, for a Ping may wait behind what is sealed, and the peer is slow.
    #[cfg(unix)]
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        if !poll_for(self, rustix::event::PollFlags::OUT, Some(DRAINER_WAIT))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.secured() {
            None => send_raw(self, slices).map(Taken::from),
            Some(secured) => secured.send(slices, MAX_PAYLOAD, |bytes| write_now(self, bytes)),
        }
    }

    #[cfg(not(unix))]
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<Taken> {
        let mut socket = self.socket();
        self.set_write_timeout(Some(DRAINER_WAIT))?;
        match self.secured() {
            None => socket.write_vectored(slices).map(Taken::from),
            // One write at a time, so that its progress is seen.
            Some(secured) => {
                let mut has_written = false;
                secured.send(slices, MAX_PAYLOAD, |bytes| {
                    if std::mem::replace(&mut has_written, true) { Ok(0) } else { socket.write(bytes) }
                })
            }
        }
    }

    fn end_follows(&self) {
        if let Some(secured) = self.secured() {
            secured.end_follows();
        }
    }

    fn shut_down(&self) {
        shut_down(self);
    }
}

/// Writes what the socket takes without blocking.
#[cfg(unix)]
#[inline(always)]
fn send_raw(stream: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    /// Up to this size, copying is cheaper than a gathering write. The copy lies on the stack of every thread that
    /// sends a Ping, so it is short.
    const MAX_COPIED: usize = 128;

    if let [header, payload] = slices
        && header.is_empty()
    {
        return write_now(stream, payload);
    }
    if let [header, payload] = slices
        && header.len() + payload.len() <= MAX_COPIED
    {
        let mut frame = [0; MAX_COPIED];
        let len = header.len() + payload.len();
        frame[..header.len()].copy_from_slice(header);
        frame[header.len()..len].copy_from_slice(payload);
        return write_now(stream, &frame[..len]);
    }
    send_gathered(stream, slices)
}

#[cfg(all(unix, not(target_os = "espidf")))]
#[inline(always)]
fn send_gathered(stream: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS)?)
}

/// There rustix has no gathering write. What does not fit into the copy counts as not taken, and comes next.
#[cfg(target_os = "espidf")]
fn send_gathered(stream: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    const MOST: usize = 4096;
    let mut copy = Vec::with_capacity(MOST);
    for slice in slices {
        copy.extend_from_slice(&slice[..slice.len().min(MOST - copy.len())]);
    }
    write_now(stream, &copy)
}

#[cfg(not(unix))]
fn send_raw(_: &Stream, _: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(0)
}

/// Writes what the socket takes of these bytes without blocking, without any layer between.
#[cfg(unix)]
#[inline(always)]
pub(super) fn write_now(stream: &Stream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SEND_FLAGS)?)
}

#[cfg(not(unix))]
pub(super) fn write_now(_: &Stream, _: &[u8]) -> io::Result<usize> {
    Ok(0)
}

/// A send with these flags neither blocks nor raises SIGPIPE. SIGPIPE would end a process that does not ignore it: Rust
/// programs do, but a library may be linked into others.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// On Apple's systems [`set_options`] turns SIGPIPE off for the whole socket.
#[cfg(target_vendor = "apple")]
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

/// How long a drainer waits before it checks whether it is still needed. The end of the connection wakes it at once.
const DRAINER_WAIT: Duration = Duration::from_secs(1);

/// How many unsent bytes the send buffer of the system may hold. Anything beyond that waits in our queue, where a Ping
/// can overtake it and where we see how fast the peer takes it. (Linux and macOS; tcp(7) of macOS, and
/// Documentation/networking/ip-sysctl.rst of Linux, `tcp_notsent_lowat`.)
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_LIMIT: u32 = 16 * 1024;

/// Whether this is a socket's timeout, which has two faces depending on the system, and not the end of a connection
/// that the kernel gave up on, which on Unix wears one of them.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::ETIMEDOUT) {
        return false;
    }
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Sets the options of every connection: small frames leave at once (no Nagle), the socket blocks (on some systems it
/// inherits the listener's mode), no write raises SIGPIPE, and the send buffer holds few unsent bytes.
pub(crate) fn set_options(stream: &Stream) -> io::Result<()> {
    stream.socket().set_nonblocking(false)?;
    set_stream_options(stream.socket())
}

/// Sets the same on a listener, and a timeout for its `accept`. Its connections block anyway, and inherit the rest.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_options_for_all(listener: &socket2::Socket, accept_timeout: Duration) -> io::Result<()> {
    // A connection inherits this timeout too. Whoever reads from it sets its own before.
    listener.set_read_timeout(Some(accept_timeout))?;
    set_stream_options(listener)
}

/// Only Linux has connections that inherit options, and an `accept` that keeps to a timeout (socket(7)).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn set_options_for_all(_: &socket2::Socket, _: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A Unix socket has neither Nagle's algorithm nor a limit of unsent bytes.
fn set_stream_options(socket: &socket2::Socket) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    if socket.local_addr()?.is_unix() {
        return Ok(());
    }
    socket.set_tcp_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(UNSENT_LIMIT)?;
    Ok(())
}

/// Whether the send buffer of the system still holds unsent bytes that were written before the last `newest` bytes,
/// because the peer has no room for them. `false` on systems that cannot tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn has_unsent_before_last(stream: &Stream, newest: u64) -> bool {
    use rustix::event::PollFlags;
    let socket = SockRef::from(stream);
    // A socket is writable if it has fewer unsent bytes than half of the mark (net/ipv4/tcp.c,
    // `tcp_stream_memory_free`).
    let mark = u32::try_from(newest.saturating_mul(2).saturating_add(1)).unwrap_or(u32::MAX);
    if socket.set_tcp_notsent_lowat(mark).is_err() {
        return false;
    }
    let is_sent = poll_for(stream, PollFlags::OUT, Some(Duration::ZERO)).unwrap_or(true);
    // If this fails, the send buffer may fill up further; nothing else changes.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_LIMIT);
    !is_sent
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn has_unsent_before_last(_: &Stream, _: u64) -> bool {
    false
}

/// How many bytes have arrived and were not read.
#[cfg(all(unix, not(target_os = "espidf")))]
pub(crate) fn unread_bytes(stream: &Stream) -> u64 {
    // It does not fail for an open socket.
    rustix::io::ioctl_fionread(stream).unwrap_or(0)
}

/// 1 if bytes have arrived and were not read, else 0: this system does not tell how many there are.
#[cfg(any(not(unix), target_os = "espidf"))]
pub(crate) fn unread_bytes(stream: &Stream) -> u64 {
    wait_readable(stream, Some(Duration::ZERO)).unwrap_or(false).into()
}

/// Turns TCP keepalive on (RFC 9293 section 3.8.4), for a peer that we do not read from for now. The system then probes
/// the peer's host and reports it gone after `limit`.
pub(crate) fn start_keepalive(stream: &Stream, limit: Duration) -> io::Result<()> {
    const PROBES: u32 = 4;
    let probe = (limit / (PROBES + 1)).clamp(Duration::from_secs(1), Duration::from_secs(30_000));
    let keepalive = TcpKeepalive::new().with_time(probe);
    #[cfg(not(target_os = "espidf"))]
    let keepalive = keepalive.with_interval(probe);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let keepalive = keepalive.with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Turns TCP keepalive off: we read again, so the heartbeat judges the peer.
pub(crate) fn stop_keepalive(stream: &Stream) {
    // If it fails, the system sends needless probes.
    let _ = SockRef::from(stream).set_keepalive(false);
}

/// Shuts down both directions to a dead peer, and limits how long the system keeps trying to deliver unsent data.
pub(crate) fn abandon(stream: &Stream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Long enough for a peer whose line comes back to get our Close frame, and to reconnect.
        const LAST_CHANCE: Duration = Duration::from_secs(60);
        // Without the option, the system may retransmit for a quarter of an hour.
        let _ = SockRef::from(stream).set_tcp_user_timeout(Some(LAST_CHANCE));
    }
    shut_down(stream);
}

/// Shuts down both directions. A thread that is blocked in a read or a write of the socket returns at once. Over TLS
/// the peer is told that nothing follows, if the socket takes that at once.
pub(crate) fn shut_down(stream: &Stream) {
    if let Some(secured) = stream.secured() {
        secured.end(stream);
    }
    // It fails only if the connection has ended already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads and discards until the end of the stream, an error or the deadline, and calls `on_bytes` after each read that
/// gave any. Closing a socket with unread bytes resets the connection, and the peer may lose what we sent last.
pub(crate) fn discard_to_end(stream: &Stream, deadline: Instant, mut on_bytes: impl FnMut()) {
    let mut scratch = [0; 2048];
    let mut reader = stream.socket();
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() || stream.set_read_timeout(Some(remaining)).is_err() {
            return;
        }
        match reader.read(&mut scratch) {
            Ok(0) => return,
            Ok(_) => on_bytes(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Reads once before the deadline. `None` if the deadline passes first.
pub(crate) fn read_before(stream: &Stream, space: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
    match stream.secured() {
        None => read_raw_before(stream, space, deadline),
        Some(secured) => secured.read_before(stream, space, deadline),
    }
}

/// The same without any layer between.
#[cfg(unix)]
pub(crate) fn read_raw_before(stream: &Stream, space: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
    use rustix::net::{RecvFlags, recv};
    before(stream, deadline, rustix::event::PollFlags::IN, || {
        recv(stream, &mut *space, RecvFlags::DONTWAIT).map(|(count, _)| count).map_err(Into::into)
    })
}

/// Tries at once, for mostly the socket is ready. Then tries again whenever it is, until the deadline. After it there
/// is no try at all: what came before may have taken too long.
#[cfg(unix)]
fn before<T>(
    stream: &Stream,
    deadline: Instant,
    events: rustix::event::PollFlags,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<Option<T>> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(None);
        }
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
            outcome => return outcome.map(Some),
        }
        poll_for(stream, events, Some(remaining))?;
    }
}

#[cfg(not(unix))]
pub(crate) fn read_raw_before(stream: &Stream, space: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(remaining))?;
        match stream.socket().read(space) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads once and appends to the buffer, up to its capacity.
#[cfg(unix)]
pub(crate) fn read(stream: &Stream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    Ok(rustix::io::read(stream, rustix::buffer::spare_capacity(buffer))?)
}

/// Like [`read`], but tries for so long before it blocks. Not inlined, for few reads poll.
#[cfg(unix)]
#[inline(never)]
pub(crate) fn read_busy_polling(
    stream: &Stream,
    buffer: &mut Vec<u8>,
    time: Duration,
    polled: &mut Polled,
) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let mut before = Instant::now();
    while polled.time < time {
        let received = recv(stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT);
        let now = Instant::now();
        polled.add(now - before);
        before = now;
        match received {
            Err(rustix::io::Errno::AGAIN) => {}
            received => return Ok(received?.0),
        }
    }
    read(stream, buffer)
}

/// Like [`read`], but never blocks: `WouldBlock` if nothing is there.
#[cfg(unix)]
pub(crate) fn read_now(stream: &Stream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    Ok(recv(stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT)?.0)
}

/// This system can only make the whole socket non-blocking. A drainer that writes at this moment tries again.
#[cfg(not(unix))]
pub(crate) fn read_now(stream: &Stream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    stream.socket().set_nonblocking(true)?;
    let read = read(stream, buffer);
    stream.socket().set_nonblocking(false)?;
    read
}

/// This system has no non-blocking read to poll with.
#[cfg(not(unix))]
pub(crate) fn read_busy_polling(
    stream: &Stream,
    buffer: &mut Vec<u8>,
    _: Duration,
    _: &mut Polled,
) -> io::Result<usize> {
    read(stream, buffer)
}

#[cfg(not(unix))]
pub(crate) fn read(stream: &Stream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let len = buffer.len();
    buffer.resize(buffer.capacity(), 0);
    let read = stream.socket().read(&mut buffer[len..]);
    buffer.truncate(len + *read.as_ref().unwrap_or(&0));
    read
}

/// Waits until there is data to read, the end of the stream or an error, or until `wait` is over; `None` waits for
/// ever. It may return `false` early.
#[cfg(unix)]
pub(crate) fn wait_readable(stream: &Stream, wait: Option<Duration>) -> io::Result<bool> {
    poll_for(stream, rustix::event::PollFlags::IN, wait)
}

/// Waits until a client can be accepted, or the other end of `waker` is closed. It may return early.
#[cfg(unix)]
pub(crate) fn wait_for_client(listener: &impl AsFd, waker: Option<BorrowedFd<'_>>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    if let Some(waker) = waker {
        both[1] = PollFd::from_borrowed_fd(waker, PollFlags::IN);
    }
    match poll(&mut both, None) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(rustix::io::Errno::NOMEM) => {
            pause_briefly(None);
            Ok(())
        }
        polled => Ok(polled.map(drop)?),
    }
}

#[cfg(unix)]
fn poll_for(socket: &impl AsFd, events: rustix::event::PollFlags, wait: Option<Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, Timespec, poll};
    // A wait that is too long for a timespec has no end that anybody would see.
    let timespec = wait.and_then(|wait| Timespec::try_from(wait).ok());
    match poll(&mut [PollFd::new(socket, events)], timespec.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(rustix::io::Errno::NOMEM) => {
            pause_briefly(wait);
            Ok(false)
        }
        ready => Ok(ready? > 0),
    }
}

/// Sleeps for a moment, `wait` at most, in place of a poll(2) that fails for want of memory. The shortage says nothing
/// about any peer; without the pause the caller would spin until it passes.
#[cfg(unix)]
pub(crate) fn pause_briefly(wait: Option<Duration>) {
    const PAUSE: Duration = Duration::from_millis(10);
    std::thread::sleep(wait.map_or(PAUSE, |wait| wait.min(PAUSE)));
}

/// The same by a peek under a read timeout. The socket's own timeout is restored afterwards.
#[cfg(not(unix))]
pub(crate) fn wait_readable(stream: &Stream, wait: Option<Duration>) -> io::Result<bool> {
    let before = stream.socket().read_timeout()?;
    stream.set_read_timeout(wait)?;
    let looked = stream.socket().peek(&mut [MaybeUninit::uninit()]);
    stream.set_read_timeout(before)?;
    match looked {
        Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(false),
        // The next read reports an error.
        _ => Ok(true),
    }
}

/// `write_all` under one deadline for the whole.
pub(crate) fn write_before(stream: &Stream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    match stream.secured() {
        None => write_raw_before(stream, bytes, deadline),
        Some(secured) => secured.write_before(stream, bytes, deadline),
    }
}

/// The same without any layer between.
#[cfg(unix)]
pub(crate) fn write_raw_before(stream: &Stream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match before(stream, deadline, rustix::event::PollFlags::OUT, || write_now(stream, bytes))? {
            Some(count) => bytes = &bytes[count..],
            None => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn write_raw_before(stream: &Stream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(remaining))?;
        match stream.socket().write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

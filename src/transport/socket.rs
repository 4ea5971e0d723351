//! The TCP socket: its options, and writes that do not block.
//!
//! Linux and macOS can ask for a single call not to block (`MSG_DONTWAIT`). Windows cannot without turning the whole
//! socket, reads included, non-blocking; there `send_now` takes nothing, so every frame goes through the drainer: the
//! same guarantees, at the price of a second thread while there is something to write.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::transport::write_half::{Socket, is_timeout};

impl Socket for TcpStream {
    #[cfg(unix)]
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        /// Below this, copying is cheaper than having the kernel gather. It lies on the stack of every thread that has
        /// sent a Ping, so it is short.
        const COPIED: usize = 128;

        if let [header, payload] = slices
            && header.is_empty()
        {
            return SockRef::from(self).send_with_flags(payload, FLAGS);
        }
        if let [header, payload] = slices
            && header.len() + payload.len() <= COPIED
        {
            let mut frame = [0; COPIED];
            let len = header.len() + payload.len();
            frame[..header.len()].copy_from_slice(header);
            frame[header.len()..len].copy_from_slice(payload);
            return SockRef::from(self).send_with_flags(&frame[..len], FLAGS);
        }
        SockRef::from(self).send_vectored_with_flags(slices, FLAGS)
    }

    #[cfg(not(unix))]
    fn send_now(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    /// What there is room for, as soon as there is room: so that whoever judges the peer sees each step that it takes.
    #[cfg(unix)]
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if wait_for(self, rustix::event::PollFlags::OUT, Some(PATIENCE))? {
            self.send_now(slices)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    #[cfg(not(unix))]
    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = self;
        self.set_write_timeout(Some(PATIENCE))?;
        stream.write_vectored(slices)
    }

    fn shut_down(&self) {
        shut_down(self);
    }
}

/// How a single call is asked not to block, and not to raise SIGPIPE: that would end a process which has not told the
/// system to ignore it, as Rust's own programs do and others need not.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(crate) const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// On Apple's systems the socket is asked instead, by [`prepare`].
#[cfg(target_vendor = "apple")]
pub(crate) const FLAGS: i32 = libc::MSG_DONTWAIT;

/// How long a drainer waits before it looks whether it is still needed. The end of the connection wakes it at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes the system's own buffer may hold that were not sent yet. What waits beyond that waits in our queue, where
/// a Ping overtakes it, and where it can be seen how fast the peer takes it. (Linux and macOS; tcp(7) of macOS, and
/// Documentation/networking/ip-sysctl.rst of Linux, `tcp_notsent_lowat`.)
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 16 * 1024;

/// Small frames leave at once (no Nagle), writes may block again (some systems hand the listener's mode on), none raises
/// SIGPIPE, and little waits in the system's own buffer.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    #[cfg(target_vendor = "apple")]
    SockRef::from(stream).set_nosigpipe(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

/// Whether bytes that were written before the last `behind` still wait in the system's own buffer, because the peer has
/// no room for them. Where it cannot be told, they do not.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn holds_back(stream: &TcpStream, behind: u64) -> bool {
    use rustix::event::PollFlags;
    let socket = SockRef::from(stream);
    // Writable is what has fewer unsent bytes than half of the mark (net/ipv4/tcp.c, `tcp_stream_memory_free`).
    let mark = u32::try_from(behind.saturating_mul(2).saturating_add(1)).unwrap_or(u32::MAX);
    if socket.set_tcp_notsent_lowat(mark).is_err() {
        return false;
    }
    let is_sent = wait_for(stream, PollFlags::OUT, Some(Duration::ZERO)).unwrap_or(true);
    // If that fails, more waits in the system's buffer than is good, and nothing else.
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
    !is_sent
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn holds_back(_: &TcpStream, _: u64) -> bool {
    false
}

/// How many bytes wait to be read.
#[cfg(unix)]
pub(crate) fn waiting(stream: &TcpStream) -> u64 {
    // It fails for no socket that is open.
    rustix::io::ioctl_fionread(stream).unwrap_or(0)
}

/// Whether any bytes wait to be read: how many cannot be asked here.
#[cfg(not(unix))]
pub(crate) fn waiting(stream: &TcpStream) -> u64 {
    wait_readable(stream, Some(Duration::ZERO)).unwrap_or(false).into()
}

/// Has the system probe a peer from which nothing more can be read for now, and give up on a host that is gone after so
/// long (RFC 9293 section 3.8.4).
pub(crate) fn keep_alive(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    const PROBES: u32 = 4;
    let probe = (limit / (PROBES + 1)).clamp(Duration::from_secs(1), Duration::from_secs(30_000));
    let keepalive = TcpKeepalive::new().with_time(probe).with_interval(probe);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let keepalive = keepalive.with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The peer can be heard again, and its silence be judged.
pub(crate) fn stop_keeping_alive(stream: &TcpStream) {
    // If it fails, its host is probed for nothing.
    let _ = SockRef::from(stream).set_keepalive(false);
}

/// Ends the connection to a peer that is dead both ways, and has the system let go of what it still holds for it.
pub(crate) fn give_up(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // A peer whose line is back by then learns from our Close frame that it is given up, and can come again.
        const LAST_CHANCE: Duration = Duration::from_secs(60);
        // Without it, the system may hold what was sent for a quarter of an hour.
        let _ = SockRef::from(stream).set_tcp_user_timeout(Some(LAST_CHANCE));
    }
    shut_down(stream);
}

/// Ends the connection both ways; a thread that is blocked in a read or a write of it returns at once.
pub(crate) fn shut_down(stream: &TcpStream) {
    // It fails only when the connection has ended already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads and forgets until the peer's end, an error or the deadline, and tells `heard` whenever something came. A socket that is closed with unread bytes in it
/// resets the connection, and the peer may lose our last words.
pub(crate) fn discard_to_end(stream: &TcpStream, deadline: Instant, mut heard: impl FnMut()) {
    let mut scratch = [0; 2048];
    let mut reader = stream;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() || stream.set_read_timeout(Some(remaining)).is_err() {
            return;
        }
        match reader.read(&mut scratch) {
            Ok(0) => return,
            Ok(_) => heard(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// One read before the deadline; `None` when that has come.
pub(crate) fn read_before(mut stream: &TcpStream, space: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(remaining))?;
        match stream.read(space) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads once, behind what is in the buffer already, up to its capacity.
#[cfg(unix)]
pub(crate) fn read(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    Ok(rustix::io::read(stream, rustix::buffer::spare_capacity(buffer))?)
}

/// The same, but for a while it does not wait and tries again, before it does wait.
#[cfg(unix)]
pub(crate) fn read_polling(stream: &TcpStream, buffer: &mut Vec<u8>, polling: Duration) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    let begin = Instant::now();
    while begin.elapsed() < polling {
        match recv(stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => {}
            received => return Ok(received?.0),
        }
    }
    read(stream, buffer)
}

/// The same, but it never waits: `WouldBlock` if nothing is there.
#[cfg(unix)]
pub(crate) fn read_now(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    use rustix::net::{RecvFlags, recv};
    Ok(recv(stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT)?.0)
}

/// Here only the whole socket can be asked not to wait, a drainer that is about to write included, which then tries again.
#[cfg(not(unix))]
pub(crate) fn read_now(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let read = read(stream, buffer);
    stream.set_nonblocking(false)?;
    read
}

/// Here a read cannot be asked not to wait.
#[cfg(not(unix))]
pub(crate) fn read_polling(stream: &TcpStream, buffer: &mut Vec<u8>, _: Duration) -> io::Result<usize> {
    read(stream, buffer)
}

#[cfg(not(unix))]
pub(crate) fn read(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let len = buffer.len();
    buffer.resize(buffer.capacity(), 0);
    let read = stream.read(&mut buffer[len..]);
    buffer.truncate(len + *read.as_ref().unwrap_or(&0));
    read
}

/// Waits until there is something to read, or the end, or an error; `None` for ever. It may return early with nothing.
#[cfg(unix)]
pub(crate) fn wait_readable(stream: &TcpStream, wait: Option<Duration>) -> io::Result<bool> {
    wait_for(stream, rustix::event::PollFlags::IN, wait)
}

/// Waits until a client can be accepted. It may return early.
#[cfg(unix)]
pub(crate) fn wait_for_client(listener: &TcpListener, wait: Duration) -> io::Result<()> {
    wait_for(listener, rustix::event::PollFlags::IN, Some(wait)).map(drop)
}

#[cfg(unix)]
fn wait_for(socket: &impl AsFd, events: rustix::event::PollFlags, wait: Option<Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, Timespec, poll};
    // A wait that is too long for a timespec is as good as none.
    let timespec = wait.and_then(|wait| Timespec::try_from(wait).ok());
    match poll(&mut [PollFd::new(socket, events)], timespec.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(rustix::io::Errno::NOMEM) => {
            sit_out(wait);
            Ok(false)
        }
        ready => Ok(ready? > 0),
    }
}

/// The system is too short of memory to wait in it. That says nothing of any peer, and passes; until then nobody spins.
#[cfg(unix)]
pub(crate) fn sit_out(wait: Option<Duration>) {
    const PAUSE: Duration = Duration::from_millis(10);
    std::thread::sleep(wait.map_or(PAUSE, |wait| wait.min(PAUSE)));
}

/// The same by a look that takes nothing, under a timeout of the socket; the socket has its own again afterwards.
#[cfg(not(unix))]
pub(crate) fn wait_readable(stream: &TcpStream, wait: Option<Duration>) -> io::Result<bool> {
    let before = stream.read_timeout()?;
    stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_micros(1))))?;
    let looked = stream.peek(&mut [0]);
    stream.set_read_timeout(before)?;
    match looked {
        Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(false),
        // An error is for the read to tell.
        _ => Ok(true),
    }
}

/// Writes all of it before the deadline: `write_all` under one deadline for the whole. A plain `write` of std's raises no
/// SIGPIPE, unlike its `write_vectored`.
pub(crate) fn write_before(stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut writer = stream;
    while !bytes.is_empty() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(remaining))?;
        match writer.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

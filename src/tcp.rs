//! The TCP socket: its options, and writes that do not block.
//!
//! Linux and macOS can ask for a single call not to block (`MSG_DONTWAIT`). Windows cannot without turning the whole
//! socket, reads included, non-blocking; there `send_now` takes nothing, so every frame goes through the drainer: the
//! same guarantees, at the price of a second thread while there is something to write.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::outbound::{Socket, is_timeout};

impl Socket for TcpStream {
    #[cfg(unix)]
    fn send_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        /// Below this, copying is cheaper than having the kernel gather. It lies on the stack of every thread that has
        /// sent a Ping, so it is short.
        const COPIED: usize = 128;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const FLAGS: i32 = libc::MSG_DONTWAIT;

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

    fn send_patiently(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = self;
        stream.write_vectored(slices)
    }

    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(patience))
    }
}

/// Small frames leave at once (no Nagle), and writes may block again (some systems hand the listener's mode on).
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)
}

/// Has the kernel give up on data that is not acknowledged, a little after the heartbeat would have: it knows of lost
/// packets even while our thread is busy. Linux only; elsewhere the heartbeat is alone.
pub(crate) fn limit_unacknowledged(stream: &TcpStream, worst_case: Option<Duration>) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let limit = worst_case.map(|worst| worst.saturating_add(worst / 8).saturating_add(Duration::from_secs(1)));
        let longest = Duration::from_millis(i32::MAX as u64);
        // A system without the option has the heartbeat all the same.
        if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(limit.map(|limit| limit.min(longest))) {
            log::debug!("TCP_USER_TIMEOUT could not be set: {error}");
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, worst_case);
}

/// Ends the connection both ways; a thread that is blocked in a read or a write of it returns at once.
pub(crate) fn shut_down(stream: &TcpStream) {
    // It fails only when the connection has ended already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads and forgets until the peer's end, an error or the deadline. A socket that is closed with unread bytes in it
/// resets the connection, and the peer may lose our last words.
pub(crate) fn discard_to_end(stream: &TcpStream, deadline: Instant) {
    let mut scratch = [0; 2048];
    let mut reader = stream;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() || stream.set_read_timeout(Some(remaining)).is_err() {
            return;
        }
        match reader.read(&mut scratch) {
            Ok(0) => return,
            Ok(_) => {}
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
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // A wait that is too long for a timespec is as good as none.
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], wait.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
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

/// Writes all of it before the deadline: `write_all` under one deadline for the whole.
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

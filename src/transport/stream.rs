//! A connected socket, which the two halves of a connection share.

use std::borrow::Cow;
use std::io;
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(windows)]
use std::os::windows::io::{AsSocket, BorrowedSocket};
use std::sync::OnceLock;
use std::time::Duration;

use socket2::Socket;

use crate::transport::secured::Secured;

/// A connected socket. Reads and writes are functions of [`socket`](crate::transport::socket).
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    /// The layer of TLS, once its handshake is complete. Boxed, so that a connection without does not pay for it.
    secured: OnceLock<Box<Secured>>,
}

impl Stream {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, secured: OnceLock::new() }
    }

    /// Puts the layer of TLS between the connection and its socket, from now on.
    #[cfg_attr(not(any(feature = "tls", test)), expect(dead_code, reason = "nothing else secures a connection"))]
    pub(crate) fn secure(&self, secured: Secured) {
        // A second layer would be a mistake of ours, and would change nothing.
        let _ = self.secured.set(Box::new(secured));
    }

    /// The layer of TLS, if there is one.
    #[inline(always)]
    pub(crate) fn secured(&self) -> Option<&Secured> {
        self.secured.get().map(|secured| &**secured)
    }

    /// What has arrived after the opening handshake: the bytes that were read together with its end, and those that
    /// were opened together with it.
    pub(crate) fn tail<'a>(&self, read: &'a [u8]) -> Cow<'a, [u8]> {
        match self.secured() {
            None => read.into(),
            Some(secured) => [read, &secured.take_early_rest()].concat().into(),
        }
    }

    /// How many bytes of a record that is not whole yet have arrived with the opening handshake.
    pub(crate) fn begun(&self) -> usize {
        self.secured().map_or(0, Secured::begun)
    }

    /// Ends our side in an orderly way: nothing follows what was written.
    pub(crate) fn end_writing(&self) -> io::Result<()> {
        if let Some(secured) = self.secured() {
            secured.end(self);
        }
        self.shutdown(Shutdown::Write)
    }

    /// Shuts down one direction or both.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Limits each blocking read. No limit is so short that it would be none.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout.map(in_ticks))
    }

    /// The same for each blocking write.
    #[cfg(not(unix))]
    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(timeout.map(in_ticks))
    }

    /// The error that the system has noted since the last call.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// Whether the socket has a peer: after an orderly end it still has, after a reset not.
    pub(crate) fn has_peer(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }

    /// The socket itself, for reads and writes.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// A timeout as the socket counts it, rounded up. socket2 rounds down, and 0 is no limit to the system.
fn in_ticks(timeout: Duration) -> Duration {
    const TICK: Duration = if cfg!(windows) { Duration::from_millis(1) } else { Duration::from_micros(1) };
    timeout.saturating_add(TICK - Duration::from_nanos(1)).max(TICK)
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::new(stream.into())
    }
}

#[cfg(unix)]
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(windows)]
impl AsSocket for Stream {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        self.socket.as_socket()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn set_read_timeout_never_means_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Stream::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        for nanos in [0, 1, 999, 1000, 1001, 999_999] {
            stream.set_read_timeout(Some(Duration::from_nanos(nanos))).unwrap();
            let began = Instant::now();
            // Without a timeout it would wait for ever.
            stream.socket().read(&mut [0]).expect_err("nothing arrives");
            assert!(began.elapsed() >= Duration::from_nanos(nanos), "{:?} for {nanos} ns", began.elapsed());
        }
    }
}

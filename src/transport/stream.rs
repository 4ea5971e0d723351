//! A connected socket, which the two halves of a connection share.

use std::io;
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(windows)]
use std::os::windows::io::{AsSocket, BorrowedSocket};
use std::time::Duration;

use socket2::Socket;

/// A connected socket. Reads and writes are functions of [`socket`](crate::transport::socket).
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
}

impl Stream {
    /// Shuts down one direction or both.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Limits each blocking read. `Some(0)` is an error.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
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

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self { socket }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Socket::from(stream).into()
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

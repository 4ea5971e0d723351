//! The listening socket, and how a blocked `accept` is ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::SockRef;

use crate::logging::Log;
use crate::server::idle_threads;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
    /// Whether we made the socket. Otherwise another process may hold it too, and use it after us.
    pub(super) is_ours: bool,
    /// Whether connections have all our socket options from the start, and `accept` gives up after
    /// [`PATIENCE`](idle_threads::PATIENCE).
    pub(super) is_prepared: bool,
}

impl Listener {
    /// Listens on an address.
    pub(super) fn bind(address: impl ToSocketAddrs, log: &Log) -> io::Result<Self> {
        /// How many clients may wait to be accepted. With the 128 of std, a mass reconnect would take seconds.
        const BACKLOG: i32 = 4096;
        let socket = TcpListener::bind(address)?;
        // Listening again changes the backlog. If that is refused, the smaller one will do.
        if let Err(error) = SockRef::from(&socket).listen(BACKLOG) {
            log.debug(format_args!("the backlog stays as it is: {error}"));
        }
        let mut listener = Self::new(socket, true)?;
        listener.is_prepared = socket::set_options_for_all(&listener.socket, idle_threads::PATIENCE).is_ok();
        Ok(listener)
    }

    /// Takes over a socket that the application has made.
    pub(super) fn from_socket(socket: TcpListener) -> io::Result<Self> {
        Self::new(socket, false)
    }

    fn new(socket: TcpListener, is_ours: bool) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, is_ours, is_prepared: false })
    }

    /// Waits for the next client.
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.socket.accept()?;
        Ok((stream.into(), peer))
    }

    /// Makes a blocked `accept` return.
    pub(super) fn wake(&self, log: &Log) {
        let shut_down = || SockRef::from(&self.socket).shutdown(Shutdown::Both);
        // On Linux this is enough. Elsewhere, and for a socket that others may share, only a connection wakes it.
        if self.is_ours && shut_down().is_ok() {
            return;
        }
        if let Err(error) = TcpStream::connect_timeout(&reachable(self.address), Duration::from_millis(200)) {
            log.debug(format_args!("accept could not be woken by connecting: {error}"));
            let _ = shut_down();
        }
    }
}

/// The address at which this process can connect to a listener of its own.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

//! The listening socket, and how a blocked `accept` is ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::{fd::AsFd, unix::net::UnixStream};
#[cfg(unix)]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockAddr, Socket};

use crate::http::forwarded::UNIX_PEER;
use crate::logging::Log;
use crate::server::idle_threads;
#[cfg(unix)]
use crate::server::socket_file::SocketFile;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// The file of a Unix socket that we made. First, so that it is gone before the socket is.
    #[cfg(unix)]
    _file: Option<SocketFile>,
    socket: Socket,
    /// Where it listens, or [`UNIX_PEER`].
    pub(super) address: SocketAddr,
    /// Where it listens, if it is a Unix socket.
    pub(super) path: Option<PathBuf>,
    /// Whether we made the socket. Otherwise another process may hold it too, and use it beside us or after us.
    pub(super) is_ours: bool,
    /// Wakes whoever waits for a client on a socket that is not ours, which cannot be shut down for others.
    #[cfg(unix)]
    waker: Option<(UnixStream, UnixStream)>,
    /// Whether connections have all our socket options from the start, and `accept` gives up after
    /// [`PATIENCE`](idle_threads::PATIENCE).
    pub(super) is_prepared: bool,
}

impl Listener {
    /// Listens on an address.
    pub(super) fn bind(address: impl ToSocketAddrs, log: &Log) -> io::Result<Self> {
        let socket = Socket::from(TcpListener::bind(address)?);
        // Listening again changes the backlog. If that is refused, the smaller one will do.
        if let Err(error) = socket.listen(BACKLOG) {
            log.debug(format_args!("the backlog stays as it is: {error}"));
        }
        Ok(Self::new(socket, true)?.prepared())
    }

    /// Listens at a Unix socket.
    #[cfg(unix)]
    pub(super) fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        let (file, socket) = SocketFile::listen(path, mode, BACKLOG)?;
        let path = file.path().to_owned();
        Ok(Self { path: Some(path), _file: Some(file), ..Self::new(socket, true)?.prepared() })
    }

    /// Takes over a socket that the application has made.
    pub(super) fn from_socket(socket: impl Into<Socket>) -> io::Result<Self> {
        let socket = socket.into();
        // Elsewhere the first `accept` says so.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        Self::new(socket, false)
    }

    fn prepared(self) -> Self {
        let is_prepared = socket::set_options_for_all(&self.socket, idle_threads::PATIENCE).is_ok();
        Self { is_prepared, ..self }
    }

    fn new(socket: Socket, is_ours: bool) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let address = socket.local_addr()?;
        Ok(Self {
            #[cfg(unix)]
            _file: None,
            socket,
            address: address.as_socket().unwrap_or(UNIX_PEER),
            path: path_of(&address),
            is_ours,
            #[cfg(unix)]
            waker: if is_ours { None } else { Some(UnixStream::pair()?) },
            is_prepared: false,
        })
    }

    /// Waits for the next client. On a socket that is not ours it may return `WouldBlock` instead: see
    /// [`wait`](Self::wait).
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        // Whoever shares it may have changed that, such as systemd when it starts another process with it. And a client
        // that is there now may be another process's in a moment.
        #[cfg(unix)]
        if !self.is_ours {
            self.socket.set_nonblocking(true)?;
        }
        let (stream, peer) = self.socket.accept()?;
        Ok((Stream::new(stream), peer.as_socket().unwrap_or(UNIX_PEER)))
    }

    /// Waits until a client has come, or somebody calls [`wake`](Self::wake). It may return early. For a listener whose
    /// `accept` does not wait: it has given up, or is not ours.
    #[cfg(unix)]
    pub(super) fn wait(&self) -> io::Result<()> {
        socket::wait_for_client(&self.socket, self.waker.as_ref().map(|(_, woken)| woken.as_fd()))
    }

    #[cfg(not(unix))]
    pub(super) fn wait(&self) -> io::Result<()> {
        self.socket.set_nonblocking(false)
    }

    /// Makes a blocked `accept` return, and [`wait`](Self::wait), then and from now on.
    pub(super) fn wake(&self, log: &Log) {
        #[cfg(unix)]
        if let Some((waker, _)) = &self.waker {
            // Fails only if it was called before.
            let _ = waker.shutdown(Shutdown::Both);
            return;
        }
        let shut_down = || self.socket.shutdown(Shutdown::Both);
        // On Linux this is enough. Elsewhere only a connection wakes it, also where the call says that it succeeded.
        if cfg!(unix) && self.is_ours && shut_down().is_ok() {
            return;
        }
        if let Err(error) = self.connect() {
            log.debug(format_args!("accept could not be woken by connecting: {error}"));
            let _ = shut_down();
        }
    }

    fn connect(&self) -> io::Result<()> {
        const TIMEOUT: Duration = Duration::from_millis(200);
        #[cfg(unix)]
        if let Some(path) = &self.path {
            return UnixStream::connect(path).map(drop);
        }
        TcpStream::connect_timeout(&reachable(self.address), TIMEOUT).map(drop)
    }
}

/// How many clients may wait to be accepted. With the 128 of std, a mass reconnect would take seconds.
const BACKLOG: i32 = 4096;

#[cfg(unix)]
fn path_of(address: &SockAddr) -> Option<PathBuf> {
    // A name that is not in the file system has no path.
    address.is_unix().then(|| address.as_pathname().unwrap_or(Path::new("")).to_owned())
}

#[cfg(not(unix))]
fn path_of(_: &SockAddr) -> Option<PathBuf> {
    None
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

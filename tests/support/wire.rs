//! What the other ends made by hand read and write: TCP, or TLS over it, by rustls' own connection.
//!
//! The socket is as visible as without TLS: what is not read stays in it, a timeout ends a read or write in the middle
//! of a record without harm, and its end is a FIN or a reset. A FIN that nobody announced (`close_notify`) is an error.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

#[cfg(feature = "tls")]
use super::tls_end::TlsEnd;
#[cfg(feature = "tls")]
use super::{over_tls, tls};

/// A connection, at the end that a test plays.
pub(crate) struct Wire {
    socket: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<TlsEnd>,
}

impl Wire {
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// TLS of which nothing has been said: its handshake comes before the first byte that is written or read.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(socket: TcpStream, tls: impl Into<rustls::Connection>) -> Self {
        Self { socket, tls: Some(TlsEnd::new(tls.into())) }
    }

    /// To a server that speaks whatever the tests run over.
    pub(crate) fn to_server(socket: TcpStream) -> Self {
        #[cfg(feature = "tls")]
        if over_tls::is_on() {
            return Self::to_tls_server(socket, tls::client_config(rustls::ALL_VERSIONS));
        }
        Self::plain(socket)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn to_tls_server(socket: TcpStream, config: rustls::ClientConfig) -> Self {
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        Self::secured(socket, rustls::ClientConnection::new(config.into(), name).expect("a configuration"))
    }

    /// From a client that speaks whatever the tests run over.
    pub(crate) fn from_client(socket: TcpStream) -> Self {
        #[cfg(feature = "tls")]
        if over_tls::is_on() {
            return Self::from_tls_client(socket, tls::server_config(rustls::ALL_VERSIONS));
        }
        Self::plain(socket)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn from_tls_client(socket: TcpStream, config: rustls::ServerConfig) -> Self {
        Self::secured(socket, rustls::ServerConnection::new(config.into()).expect("a configuration"))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What does TLS here.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> &TlsEnd {
        self.tls.as_ref().expect("it speaks TLS")
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(timeout)
    }

    /// Says that nothing follows. Goes on reading.
    pub(crate) fn end_writing(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.end_writing(&self.socket)?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Has the connection be reset once its last handle is dropped.
    pub(crate) fn reset_at_end(&self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Another handle to the same connection, for another thread: one may read while the other writes.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        })
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.read(&self.socket, buffer);
        }
        self.socket.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.write(&self.socket, bytes);
        }
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! A proxy made by hand, for clients under test. What comes through its tunnels ends in the test itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::Wire;
use super::{BareConnection, CEILING, ms};

/// The listener of a proxy.
pub(crate) struct FakeProxy(TcpListener);

/// A connection to the proxy.
pub(crate) struct ProxyConnection {
    pub(crate) stream: TcpStream,
}

impl FakeProxy {
    pub(crate) fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    /// The next connection, on which nothing has been said.
    pub(crate) fn accept(&self) -> ProxyConnection {
        self.accept_within(CEILING).expect("nobody connects to the proxy")
    }

    /// The next connection, if there is one by then.
    pub(crate) fn accept_within(&self, timeout: Duration) -> Option<ProxyConnection> {
        let deadline = Instant::now() + timeout;
        self.0.set_nonblocking(true).expect("a listener");
        loop {
            if let Ok((stream, _)) = self.0.accept() {
                stream.set_nonblocking(false).expect("a stream");
                stream.set_nodelay(true).expect("TCP_NODELAY");
                stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
                stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
                return Some(ProxyConnection { stream });
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(ms(1));
        }
    }
}

impl ProxyConnection {
    /// Reads exactly so many bytes.
    pub(crate) fn read<const LEN: usize>(&mut self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.stream.read_exact(&mut bytes).expect("the client says more");
        bytes
    }

    /// Reads the head of a request, and not a byte more.
    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read::<1>());
        }
        String::from_utf8(head).expect("ASCII")
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the client takes it");
    }

    /// Writes byte by byte.
    pub(crate) fn trickle(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(&[*byte]);
        }
    }

    /// Says no more, unless the client has left already.
    pub(crate) fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// From here on the connection is one to the server, which is played by the test.
    pub(crate) fn tunnel(self) -> BareConnection {
        BareConnection::on(Wire::from_client(self.stream))
    }
}

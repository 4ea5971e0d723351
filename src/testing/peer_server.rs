//! A server for a client under test.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::PATIENCE;
use super::conduct::Conduct;
use super::peer::Peer;
use crate::http::head::HeadBuffer;
use crate::http::request::Request;
use crate::http::upgrade;
use crate::protocol::frame::Role;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// A server for a [`Client`](crate::Client) under test, on a free port of the loopback interface. It accepts every
/// opening handshake, without TLS, and chooses the first subprotocol that is offered. Each connection is a [`Peer`]
/// with the server's [`Conduct`], from the start on, whether or not the test [takes it](Self::accept).
///
/// ```
/// use heartwire::testing::{Conduct, PeerServer};
/// use heartwire::{Client, CloseReason, Error, HeartbeatPolicy};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A server that accepts connections and then hangs.
/// let server = PeerServer::bind(Conduct::Silent)?;
/// let policy = HeartbeatPolicy::new(Duration::from_millis(50), Duration::from_millis(50));
/// let client = Client::new(&server.url())?.heartbeat(policy).no_reconnect();
/// let lost = client.run(|conn| loop { conn.recv()?; });
/// assert!(matches!(lost, Err(Error::Closed(CloseReason::HeartbeatLost { .. }))));
/// # Ok(()) }
/// ```
///
/// Dropping it refuses clients, and ends connections that were not taken.
#[derive(Debug)]
pub struct PeerServer {
    address: SocketAddr,
    peers: channel::Receiver<Peer>,
    is_over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl PeerServer {
    /// Listens on a free port of `127.0.0.1`.
    ///
    /// # Errors
    /// The system's error if there is no port, file descriptor or thread left.
    pub fn bind(conduct: Conduct) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sender, peers) = channel::unbounded();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let accepting = thread::Builder::new().name("heartwire-peers".to_owned()).spawn(move || {
            while let Ok((stream, _)) = accept(&listener) {
                if ends.load(SeqCst) {
                    return;
                }
                let (peers, conduct) = (sender.clone(), conduct.clone());
                // In a thread of its own, for a client may be slow. Without a thread it is refused, which it notices.
                let _ = thread::Builder::new().name("heartwire-opening".to_owned()).spawn(move || {
                    if let Ok(peer) = open(stream, conduct) {
                        let _ = peers.send(peer);
                    }
                });
            }
        })?;
        Ok(Self { address, peers, is_over, accepting: Some(accepting) })
    }

    /// The URL for the client: `ws://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Waits for it for up to 30 s.
    ///
    /// # Errors
    /// `TimedOut` if no client comes, or none completes the opening handshake.
    pub fn accept(&self) -> io::Result<Peer> {
        let what = || io::Error::new(io::ErrorKind::TimedOut, format!("no client within {PATIENCE:?}"));
        self.peers.recv_timeout(PATIENCE).map_err(|_| what())
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        // Wakes the thread. If nobody can connect any more, it is left behind.
        if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
            let _ = self.accepting.take().map(JoinHandle::join);
        }
    }
}

/// The next client. Whatever is short is so for a moment, or the test fails by its timeout.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    const TRIES: usize = 1000;
    let mut accepted = listener.accept();
    for _ in 0..TRIES {
        if accepted.is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        accepted = listener.accept();
    }
    accepted
}

/// Performs the server's side of the opening handshake.
fn open(stream: TcpStream, conduct: Conduct) -> io::Result<Peer> {
    let from = stream.peer_addr()?;
    let stream = Arc::new(Stream::from(stream));
    socket::set_options(&stream)?;
    let deadline = Instant::now() + PATIENCE;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut buffer = HeadBuffer::new();
    let (request, tail) = loop {
        let count = match socket::read_before(&stream, buffer.space(), deadline)? {
            None => return Err(io::ErrorKind::TimedOut.into()),
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => count,
        };
        let complete = buffer.filled(count, |bytes| Request::parse(bytes, from));
        if let Some(complete) = complete.map_err(|_| invalid("not an HTTP request"))? {
            break complete;
        }
    };
    upgrade::check_request(&request).map_err(|_| invalid("no opening handshake"))?;
    let subprotocol = request.subprotocols().next().map(str::to_owned);
    let response = upgrade::encode_response(&request, subprotocol.as_deref(), None, &[]).map_err(invalid)?;
    socket::write_before(&stream, &response, deadline)?;
    Peer::start(Role::Server, stream, tail, conduct, request, subprotocol)
}

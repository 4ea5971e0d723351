//! A server for a handler under test, without a port.

use std::thread::{self, JoinHandle};

use crossbeam_channel as channel;

use super::PATIENCE;
use super::conduct::Conduct;
use super::peer::Peer;
use crate::client::Client;
use crate::connection::Connection;
use crate::connection::report::CloseReport;
use crate::error::Error;
use crate::server::Server;
use crate::server::handle::ServerHandle;
use crate::supervisor::event::Event;

/// A running [`Server`] for a test: the real one, at a Unix socket in the folder for temporary files, whose file is
/// removed at the end. (On systems without Unix sockets: at a free port of the loopback interface.) A test of a handler
/// takes milliseconds, and any number of them run beside one another.
///
/// ```
/// use heartwire::testing::{Conduct, TestServer};
/// use heartwire::{CloseReason, Event, HeartbeatPolicy};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = HeartbeatPolicy::new(Duration::from_millis(40), Duration::from_millis(20)).max_missed(2);
/// let server = TestServer::with(|server| server.heartbeat(policy), |conn| loop { conn.recv()?; })?;
///
/// let vanished = server.connect("/")?;
/// vanished.vanish();
/// assert!(matches!(server.closed()?.reason, CloseReason::HeartbeatLost { missed: 2, .. }));
/// # Ok(()) }
/// ```
///
/// A connection has no address, as at any Unix socket: [`peer_addr`](Connection::peer_addr) is `0.0.0.0:0`. Dropping
/// the `TestServer` shuts the server down and waits for its end, for which handlers have the
/// [close timeout](Server::close_timeout).
#[derive(Debug)]
pub struct TestServer {
    handle: ServerHandle,
    events: channel::Receiver<Event>,
    serving: Option<JoinHandle<Result<(), Error>>>,
}

impl TestServer {
    /// Serves with this handler and default settings.
    ///
    /// # Errors
    /// [`Error::Io`] if the socket cannot be made, or no thread can be started.
    pub fn run<H>(handler: H) -> Result<Self, Error>
    where
        H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        Self::with(|server| server, handler)
    }

    /// Serves with this handler, and with settings such as [`on_handshake`](Server::on_handshake) or
    /// [`heartbeat`](Server::heartbeat). Without TLS: a client of a Unix socket has none.
    ///
    /// # Errors
    /// Like [`run`](Self::run).
    pub fn with<H>(set_up: impl FnOnce(Server) -> Server, handler: H) -> Result<Self, Error>
    where
        H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        let server = set_up(bind()?);
        let handle = server.handle();
        let events = handle.events();
        let serving = thread::Builder::new().name("heartwire-serve".to_owned()).spawn(move || server.serve(handler))?;
        Ok(Self { handle, events, serving: Some(serving) })
    }

    /// A good peer that requests this path (with the query, if there is one): see [`Conduct::Live`].
    ///
    /// # Errors
    /// Like [`Peer::connect`].
    pub fn connect(&self, path: &str) -> Result<Peer, Error> {
        self.connect_as(path, |client| client, Conduct::Live)
    }

    /// A peer whose opening handshake is that of the client, such as with a header, and that behaves like this.
    ///
    /// ```
    /// use heartwire::testing::{Conduct, TestServer};
    /// use heartwire::{Accept, Response};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = TestServer::with(
    ///     |server| server.on_handshake(|request| match request.header("Authorization") {
    ///         Some("Bearer swordfish") => Ok(Accept::new()),
    ///         _ => Err(Response::new(401)),
    ///     }),
    ///     |conn| loop { conn.recv()?; },
    /// )?;
    /// assert!(server.connect("/").is_err());
    /// let known = |client: heartwire::Client| client.header("Authorization", "Bearer swordfish");
    /// assert!(server.connect_as("/", known, Conduct::Echo).is_ok());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Like [`Peer::connect`].
    pub fn connect_as(
        &self,
        path: &str,
        set_up: impl FnOnce(Client) -> Client,
        conduct: Conduct,
    ) -> Result<Peer, Error> {
        Peer::connect_as(&set_up(Client::new(&self.url(path))?), conduct)
    }

    /// The URL of this path, for a [`Client`] of your own.
    pub fn url(&self, path: &str) -> String {
        match self.handle.unix_paths().first() {
            Some(socket) => format!("unix:{}:{path}", socket.display()),
            None => format!("ws://{}{path}", self.handle.local_addr()),
        }
    }

    /// The server's handle.
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// The next event since the start that was not taken yet. Waits for it for up to 30 s.
    ///
    /// # Errors
    /// [`Error::Io`] with `TimedOut` if none comes.
    pub fn next_event(&self) -> Result<Event, Error> {
        let what = || std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no event within {PATIENCE:?}"));
        self.events.recv_timeout(PATIENCE).map_err(|_| Error::Io(what()))
    }

    /// The report of the next connection that ends. Takes the events before it, and waits for it for up to 30 s after
    /// the last of them.
    ///
    /// # Errors
    /// Like [`next_event`](Self::next_event).
    pub fn closed(&self) -> Result<CloseReport, Error> {
        loop {
            if let Event::Closed(report) = self.next_event()? {
                return Ok(report);
            }
        }
    }

    /// Shuts the server down, and returns what [`Server::serve`] returns.
    ///
    /// # Errors
    /// Like [`Server::serve`].
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.handle.shutdown();
        match self.serving.take().map(JoinHandle::join) {
            Some(Ok(served)) => served,
            // `serve` lets no panic through.
            Some(Err(_)) => Err(Error::Internal("serve panicked".to_owned())),
            None => Ok(()),
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // Whoever wants to know calls `shutdown`.
        let _ = self.end();
    }
}

#[cfg(unix)]
fn bind() -> Result<Server, Error> {
    use std::process;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    let path = std::env::temp_dir().join(format!("heartwire-{}-{number}.sock", process::id()));
    // Nobody else is to connect. The file that a process with this number has left is replaced.
    Server::bind_unix(path, Some(0o600))
}

#[cfg(not(unix))]
fn bind() -> Result<Server, Error> {
    Server::bind("127.0.0.1:0")
}

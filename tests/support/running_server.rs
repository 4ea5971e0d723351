//! A server that runs in a thread of its own, to be tested.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use heartwire::{CloseReport, Connection, Error, Event, HeartbeatPolicy, Sender, Server, ServerHandle};

use super::{CEILING, Client, Events};
#[cfg(feature = "tls")]
use super::{over_tls, tls};

/// A server on a free port, without a heartbeat: a test that is about it sets its own.
pub(crate) fn server() -> Server {
    Server::bind("127.0.0.1:0").expect("a free port").heartbeat(HeartbeatPolicy::off())
}

/// The handler of most tests.
pub(crate) fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

/// Serves in a thread of its own until it is dropped, whatever the tests run over.
pub(crate) fn start<H>(server: Server, handler: H) -> Running
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    #[cfg(feature = "tls")]
    let server = if over_tls::is_on() { server.tls(tls::server_tls()) } else { server };
    start_as_it_is(server, handler)
}

/// Serves in a thread of its own until it is dropped, with TLS only if the server has it.
pub(crate) fn start_as_it_is<H>(server: Server, handler: H) -> Running
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    let handle = server.handle();
    let events = Events::new(handle.events());
    let (sender, ended) = bounded(1);
    thread::spawn(move || {
        let _ = sender.send(server.serve(handler));
    });
    Running { handle, events, ended }
}

/// A server whose handlers wait in `recv`, and the `Sender` of each connection.
pub(crate) fn start_listening(server: Server) -> (Running, Receiver<Sender>) {
    let (sender, senders) = unbounded();
    let running = start(server, move |conn| {
        let _ = sender.send(conn.sender());
        loop {
            conn.recv()?;
        }
    });
    (running, senders)
}

/// A server that runs. Dropping it shuts it down and waits for its end.
pub(crate) struct Running {
    pub(crate) handle: ServerHandle,
    pub(crate) events: Events,
    ended: Receiver<Result<(), Error>>,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// A client whose opening handshake is done.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Waits until the one connection that ended is reported.
    pub(crate) fn closed(&self) -> CloseReport {
        self.events.closed()
    }

    /// Waits for `serve` to return, and says how long that took.
    pub(crate) fn wait_for_end(&self) -> Duration {
        let start = Instant::now();
        self.ended.recv_timeout(CEILING).expect("serve returns").expect("serve ends without an error");
        start.elapsed()
    }

    /// Shuts down, waits for the end, and gives all events that nobody has taken.
    pub(crate) fn stop(self) -> Vec<Event> {
        self.handle.shutdown();
        self.wait_for_end();
        self.events.rest()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        // A test that waited for the end itself has taken the result already.
        let hangs = self.ended.recv_timeout(CEILING).is_err_and(|error| error.is_timeout());
        assert!(!hangs || thread::panicking(), "the server does not end");
    }
}

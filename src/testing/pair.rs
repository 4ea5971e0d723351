//! A connection in memory, in the hands of the test.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;

use crossbeam_channel as channel;

use super::conduct::Conduct;
use super::peer::Peer;
use crate::connection::Connection;
use crate::connection::attached::Attached;
use crate::connection::identity::Identity;
use crate::connection::receiving_end::ReceivingEnd;
use crate::connection::report::CloseReport;
use crate::connection::shared::{NewConnection, Shared};
use crate::error::Error;
use crate::foreign;
use crate::heartbeat::HeartbeatPolicy;
use crate::http::request::Request;
use crate::protocol::close::CloseReason;
use crate::protocol::frame::Role;
use crate::settings::Settings;
use crate::supervisor::event::Event;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::supervisor::threads::ServiceThreads;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// The number of the only connection.
const ID: u64 = 1;

/// A [`Connection`] of a server and its peer, without a server: for a function that takes a `&mut Connection`, which
/// the test calls itself. They are joined by a pair of sockets in memory (on systems without Unix sockets, by a TCP
/// connection over loopback). Heartbeat, stand-in, events and the report are the real ones; the settings are the
/// defaults. The heartbeat can be changed by [`Connection::set_heartbeat`].
///
/// ```
/// use heartwire::testing::pair;
/// use heartwire::{Connection, CloseReason, Error};
///
/// // What is to be tested: it reads a number, and answers with the next.
/// fn next(conn: &mut Connection) -> Result<(), Error> {
///     let number: u32 = conn.recv()?.as_text().unwrap_or_default().parse().map_err(Error::handler)?;
///     conn.send((number + 1).to_string())
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut conn, mut peer) = pair()?;
/// peer.send("41")?;
/// next(&mut conn)?;
/// assert_eq!(peer.recv()?.as_text(), Some("42"));
///
/// peer.send("many")?;
/// let failed = next(&mut conn);
/// let report = conn.finish(failed);
/// assert!(matches!(report.reason, CloseReason::HandlerFailed(_)));
/// assert_eq!(peer.expect_close()?.0, Some(1011.into()));
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Io`] if the system has no file descriptors or threads left.
pub fn pair() -> Result<(TestConnection, Peer), Error> {
    pair_for(Request::builder("/").build())
}

/// Like [`pair`], for this request.
///
/// # Errors
/// Like [`pair`].
pub fn pair_for(request: Request) -> Result<(TestConnection, Peer), Error> {
    let (ours, theirs) = sockets()?;
    let peer = Peer::start(Role::Client, Arc::new(theirs), Vec::new(), Conduct::Live, request.clone(), None)?;
    Ok((TestConnection::open(ours, request)?, peer))
}

#[cfg(unix)]
fn sockets() -> Result<(Stream, Stream), Error> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let (ours, theirs) = (Stream::new(ours.into()), Stream::new(theirs.into()));
    socket::set_options(&ours)?;
    socket::set_options(&theirs)?;
    Ok((ours, theirs))
}

#[cfg(not(unix))]
fn sockets() -> Result<(Stream, Stream), Error> {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let theirs = TcpStream::connect(listener.local_addr()?)?;
    let ours = loop {
        let (stream, from) = listener.accept()?;
        // Somebody else may have found the port.
        if from == theirs.local_addr()? {
            break stream;
        }
    };
    let (ours, theirs) = (Stream::from(ours), Stream::from(theirs));
    socket::set_options(&ours)?;
    socket::set_options(&theirs)?;
    Ok((ours, theirs))
}

/// The [`Connection`] of a [`pair`], in the hands of the test. Dropping it cuts the connection;
/// [`finish`](Self::finish) ends it in order.
pub struct TestConnection {
    connection: Connection,
    shared: Arc<Shared>,
    supervisor: Arc<SupervisorHandle>,
    threads: Option<ServiceThreads>,
    events: channel::Receiver<Event>,
    /// The same events, for the report.
    reported: channel::Receiver<Event>,
}

impl TestConnection {
    fn open(stream: Stream, request: Request) -> Result<Self, Error> {
        let settings = Settings::default();
        let heartbeat: HeartbeatPolicy = settings.heartbeat;
        let (supervisor, receivers) = SupervisorHandle::new(Arc::default(), |_| {})?;
        let threads = ServiceThreads::start(&supervisor, receivers, &settings)?;
        let (events, reported) = (supervisor.subscribers.add(), supervisor.subscribers.add());
        let stream = Arc::new(stream);
        let shared = Arc::new(Shared::new(NewConnection {
            role: Role::Server,
            identity: Identity { id: ID, remote: request.remote() },
            user: None,
            target: request.target().into(),
            certificate: request.certificate().clone(),
            #[cfg(feature = "deflate")]
            agreed: None,
            stream: Arc::clone(&stream),
            settings: Arc::new(settings),
            takes_broadcasts: false,
            shares_frames: false,
            supervisor: Arc::clone(&supervisor),
        }));
        let receiving = ReceivingEnd::open(&shared, Role::Server, &stream, &[], heartbeat, false);
        let connection = Connection::new(Arc::clone(&shared), receiving, request, None, Attached::default());
        shared.announce_open();
        Ok(Self { connection, shared, supervisor, threads: Some(threads), events, reported })
    }

    /// The events of this connection, as from [`ServerHandle::events`](crate::ServerHandle::events).
    pub fn events(&self) -> &channel::Receiver<Event> {
        &self.events
    }

    /// Ends the connection as a server does when its handler has returned `result`: with 1000 after `Ok`, and with 1011
    /// after an error other than the end of this connection. Waits for the peer's Close frame for the [close
    /// timeout](crate::Server::close_timeout) (5 s), and returns the report.
    pub fn finish(mut self, result: Result<(), Error>) -> CloseReport {
        let reason = match result {
            Ok(()) => CloseReason::normal(),
            Err(Error::Closed(reason)) if self.connection.is_closing() => reason,
            Err(error) => {
                let text = foreign::display_text(&error);
                foreign::dispose(error);
                CloseReason::HandlerFailed(text)
            }
        };
        self.connection.conclude(reason);
        // After that its report is there, unless it was lost among too many events.
        self.supervisor.thread_ends(ID);
        let report = self.reported.try_iter().find_map(|event| match event {
            Event::Closed(report) => Some(report),
            _ => None,
        });
        report.unwrap_or_else(|| self.shared.last_report())
    }
}

impl Deref for TestConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for TestConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for TestConnection {
    fn drop(&mut self) {
        // Changes nothing if it has ended.
        self.shared.abort(CloseReason::shutdown());
        self.supervisor.thread_ends(ID);
        self.supervisor.notify(Notice::NoMoreConnections);
        self.supervisor.end();
        if let Some(threads) = self.threads.take() {
            // The stand-in may look up only after a tenth of a second, which no test should wait for. Without a thread
            // for this, they would idle until the process ends.
            let supervisor = Arc::clone(&self.supervisor);
            let end = move || threads.join(&supervisor);
            // A thread of ours that has panicked has said so.
            let _ = thread::Builder::new().name("heartwire-pair-end".to_owned()).spawn(end);
        }
    }
}

impl fmt::Debug for TestConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestConnection").field("request", self.connection.request()).finish_non_exhaustive()
    }
}

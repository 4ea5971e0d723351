//! The other end: a client with the same connection and the same heartbeat, which notices that its server is gone and
//! comes back.
//!
//! [`Client::run`] is the counterpart of [`Server::serve`](crate::Server::serve): it connects, calls the handler with
//! the connection, and when that is lost, waits and connects again. One attempt is made at a time, in a thread of its
//! own, so that neither a slow name server nor a silent host keeps [`ClientHandle::stop`] waiting.

use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel as channel;

use crate::connection::Connection;
use crate::durations::clamp_duration;
use crate::error::{ConnectError, Error};
use crate::settings::{Settings, setters_of_both_ends};
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::supervisor::threads::ServiceThreads;

mod attempt;
mod backoff;
mod dial;
mod handle;
mod race;
mod run;
mod target;

pub use attempt::Attempt;
pub use backoff::Backoff;
pub use handle::ClientHandle;
use handle::ClientState;
use run::Run;
use target::Target;

/// A WebSocket client: settings first, then [`run`](Self::run).
///
/// ```no_run
/// use heartwire::Client;
///
/// fn main() -> Result<(), heartwire::Error> {
///     Client::new("ws://127.0.0.1:9001/")?.run(|conn| {
///         conn.send("hello")?;
///         loop {
///             println!("{:?}", conn.recv()?);
///         }
///     })
/// }
/// ```
#[derive(Debug)]
#[must_use = "a client does not connect until `run` is called"]
pub struct Client {
    target: Target,
    settings: Settings,
    /// How to come back; `None`: not at all.
    backoff: Option<Backoff>,
    state: Arc<ClientState>,
    receivers: crate::supervisor::handle::Receivers,
    /// Told when the client is to look whether it is to stop, or to end its pause.
    woken: channel::Receiver<()>,
}

impl Client {
    /// A client of this server. The URL is `ws://HOST[:PORT][/PATH]`; TLS is not supported yet.
    ///
    /// A user name and password have no place in it: send them in a [`header`](Self::header). Errors about a URL show
    /// neither them nor the query.
    ///
    /// # Errors
    /// [`Error::Connect`] with [`ConnectError::Invalid`].
    pub fn new(url: &str) -> Result<Self, Error> {
        let target = Target::parse(url).map_err(Error::Connect)?;
        let (wake, woken) = channel::bounded(1);
        let wake_at_the_end = wake.clone();
        let (supervisor, receivers) = SupervisorHandle::new(Arc::default(), move || _ = wake_at_the_end.try_send(()))?;
        let state = ClientState::new(supervisor, wake);
        Ok(Self {
            target,
            settings: Settings::default(),
            backoff: Some(Backoff::default()),
            state: Arc::new(state),
            receivers,
            woken,
        })
    }

    /// The remote control. May be taken, and listened to, before [`run`](Self::run).
    pub fn handle(&self) -> ClientHandle {
        ClientHandle { state: Arc::clone(&self.state) }
    }

    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> Arc<SupervisorHandle> {
        Arc::clone(&self.state.supervisor)
    }

    setters_of_both_ends!();

    /// Adds a header to the opening handshake, such as `Authorization`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.target.headers.push((name.into(), value.into()));
        self
    }

    /// Offers a subprotocol; the first that is offered is preferred.
    pub fn subprotocol(mut self, subprotocol: impl Into<String>) -> Self {
        self.target.subprotocols.push(subprotocol.into());
        self
    }

    /// Calls this function before each attempt to connect. What it sets holds for that attempt: a header with a token that
    /// expires, or the URL of another server.
    ///
    /// It runs in the thread of the attempt, before the connect timeout begins, and may block; neither
    /// [`stop`](ClientHandle::stop) nor [`run`](Self::run) waits for it. If it fails, or gives what is not valid, the
    /// attempt has failed with [`ConnectError::Prepare`], and after a pause there is another. So it is after a panic.
    ///
    /// ```no_run
    /// # fn new_token() -> Result<String, std::io::Error> { unimplemented!() }
    /// # fn f() -> Result<(), heartwire::Error> {
    /// use heartwire::{Client, ConnectError, Error};
    ///
    /// let client = Client::new("ws://127.0.0.1:9001/")?
    ///     .prepare(|attempt| {
    ///         attempt.header("Authorization", format!("Bearer {}", new_token()?));
    ///         Ok(())
    ///     })
    ///     // A token may expire on its way: the next attempt has another.
    ///     .give_up_if(|error| match error {
    ///         Error::Connect(ConnectError::Refused { status: 401, .. }) => false,
    ///         error => error.is_fatal(),
    ///     });
    /// # Ok(()) }
    /// ```
    pub fn prepare<F>(mut self, prepare: F) -> Self
    where
        F: Fn(&mut Attempt) -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    {
        self.target.prepare = Some(Arc::new(prepare));
        self
    }

    /// Decides which errors end the client: an attempt that failed ([`Error::Connect`]) or a connection that was lost
    /// ([`Error::Closed`]) for which `gives_up` is `true`. After any other it comes back. Default
    /// [`Error::is_fatal`].
    ///
    /// Answers need not be the server's own: a captive portal redirects with 302, a proxy whose server is down may say 404.
    /// A device that nobody can restart had better never give up, and says `give_up_if(|_| false)`.
    ///
    /// It is called in the thread that called [`run`](Self::run); a panic passes through, as the handler's does.
    pub fn give_up_if(mut self, gives_up: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.target.gives_up = Arc::new(gives_up);
        self
    }

    /// How to come back when the connection is lost, or cannot be made. Default: see [`Backoff`].
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Makes a single attempt, and ends with the connection.
    pub fn no_reconnect(mut self) -> Self {
        self.backoff = None;
        self
    }

    /// How many bytes of messages to keep while there is no connection, to be sent with the next, each counted with 128
    /// more, which it takes to keep it. Default 0: they are refused. What was never sent can be [taken out](ClientHandle::take_outbox).
    pub fn outbox_size(self, bytes: usize) -> Self {
        self.state.current().outbox_limit = bytes;
        self
    }

    /// Whether a full [outbox](Self::outbox_size) drops its oldest messages for a new one, which suits readings, of which
    /// the newest count. Default `false`: [`send`](ClientHandle::send) gives the new one back as
    /// [`TrySendError::Full`](crate::TrySendError::Full).
    ///
    /// Those that were dropped are counted by [`outbox_dropped`](ClientHandle::outbox_dropped), and logged when the next
    /// connection opens. Only a message that is larger than the outbox is still `Full`.
    pub fn outbox_drops_oldest(self, drops_oldest: bool) -> Self {
        self.state.current().drops_oldest = drops_oldest;
        self
    }

    /// How long a TCP connection to the host may take, whichever of its addresses it is to. Default 10 s; kept between
    /// 1 ms and 10 years.
    ///
    /// The time begins when the host's name is resolved; the system's resolver has timeouts of its own. Of several
    /// addresses the next is tried as well when one has not answered within 250 ms, or at once when it has failed, IPv6
    /// and IPv4 in turn (happy eyeballs, RFC 8305). The first that answers is taken.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.target.connect_timeout = clamp_duration(timeout);
        self
    }

    /// Runs: connects, calls `handler` in this thread with each connection, and comes back when one is lost.
    ///
    /// It ends with `Ok` when the handler returns `Ok` (the connection is then closed with 1000), when anybody closes
    /// the connection from this end, and when the client was [stopped](ClientHandle::stop). A panic of the handler
    /// passes through, after the connection was closed with 1011.
    ///
    /// # Errors
    /// [`Error::Connect`] when it is pointless to try again ([`Error::is_fatal`], or what
    /// [`give_up_if`](Self::give_up_if) says) or nobody wants to. [`Error::Closed`] when the server closed for a reason
    /// that would come up again, by the same rule, or for any reason without reconnection. The handler's own error, after
    /// which the connection was closed with 1011. [`Error::Io`] if no thread can be started. [`Error::Internal`] if a thread
    /// of heartwire itself has panicked, which is a bug.
    pub fn run<H>(self, mut handler: H) -> Result<(), Error>
    where
        H: FnMut(&mut Connection) -> Result<(), Error>,
    {
        let Self { target, mut settings, backoff, state, receivers, woken } = self;
        let supervisor = Arc::clone(&state.supervisor);
        settings.make_room_for(state.current().most_that_leaves());
        let checked = target.check().map_err(Error::Connect);
        let started = checked.and_then(|()| Ok(ServiceThreads::start(&supervisor, receivers, &settings)?));
        let threads = started.inspect_err(|_| {
            // Its handles wait for no connection.
            supervisor.mark_ended();
            state.ended();
        })?;
        let target = Arc::new(target);
        let settings = Arc::new(settings);
        let mut run = Run { target, settings, backoff, state, woken, last_id: 0, handler: &mut handler };
        let result = catch_unwind(AssertUnwindSafe(|| run.until_done()));
        run.state.ended();
        supervisor.notify(Notice::NoMoreConnections);
        supervisor.shut_down();
        let joined = threads.join(&supervisor);
        joined.and(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::server::Server;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_slow_resolver_takes_nothing_from_the_connect_timeout() {
        let server = Server::bind("127.0.0.1:0").unwrap();
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve(|conn| conn.recv().map(drop)));
        let timeout = Duration::from_millis(500);
        let mut client = Client::new("ws://name.invalid/").unwrap().no_reconnect().connect_timeout(timeout);
        // The second address has its turn only while there is time left.
        let (silent, _held) = race::tests::silent();
        let addresses = vec![silent, handle.local_addr()];
        client.target.resolve = Arc::new(move |_, _| {
            thread::sleep(timeout + Duration::from_millis(200));
            Ok(addresses.clone())
        });
        client.run(|_| Ok(())).unwrap();
        handle.shutdown();
        serving.join().unwrap().unwrap();
    }
}

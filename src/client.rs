//! The client: the same connection and the same heartbeat as on a server. It notices that its server is gone, and
//! reconnects.
//!
//! [`Client::run`] is the counterpart of [`Server::serve`](crate::Server::serve): it connects, calls the handler with
//! the connection, and, when the connection is lost, waits and reconnects. It makes one attempt at a time, in a thread
//! of its own, so that neither a slow name server nor a silent host delays [`ClientHandle::stop`].

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
#[cfg(feature = "tls")]
use crate::tls::ClientTls;

mod attempt;
mod backoff;
mod dial;
mod handle;
mod proxy;
mod race;
mod run;
mod target;
#[cfg(feature = "topics")]
pub(crate) mod topics;

pub use attempt::Attempt;
pub use backoff::Backoff;
pub use handle::ClientHandle;
use handle::ClientState;
pub use proxy::Proxy;
use run::Run;
use target::Target;

/// A WebSocket client. Set it up, then call [`run`](Self::run).
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
    /// The pauses between attempts. `None`: no reconnection.
    backoff: Option<Backoff>,
    /// For `wss://`.
    state: Arc<ClientState>,
    receivers: crate::supervisor::handle::Receivers,
    /// Wakes the client, so that it checks whether to stop, and ends its pause.
    woken: channel::Receiver<()>,
}

impl Client {
    /// A client for this URL, `ws://HOST[:PORT][/PATH]`, or `wss://` with TLS, for which the feature `tls` is needed.
    ///
    /// A server at a Unix socket has the URL `unix:/run/heartwire.sock`, or `unix:/run/heartwire.sock:/PATH`; so it is
    /// written for nginx too. `ws+unix:///run/heartwire.sock:/PATH`, as Node's `ws` has it, means the same. The `Host`
    /// is `localhost`.
    ///
    /// The URL must not contain a user name or password: send them in a [`header`](Self::header). Errors about a URL
    /// show neither them nor the query.
    ///
    /// # Errors
    /// [`Error::Connect`] with [`ConnectError::Invalid`] if the URL is not valid. [`Error::Io`] if the process has no
    /// file descriptors left.
    pub fn new(url: &str) -> Result<Self, Error> {
        let target = Target::parse(url).map_err(Error::Connect)?;
        let (wake, woken) = channel::bounded(1);
        let wake_at_the_end = wake.clone();
        let (supervisor, receivers) = SupervisorHandle::new(Arc::default(), move |_| _ = wake_at_the_end.try_send(()))?;
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

    /// Makes one attempt to connect, for a peer that is to look like this client.
    #[cfg(feature = "testing")]
    pub(crate) fn dial_once(&self) -> Result<dial::Dialed, Error> {
        self.target.check().map_err(Error::Connect)?;
        let target = self.target.prepared(1, None).map_err(Error::Connect)?;
        target.dial(self.settings.handshake_timeout).map_err(Error::Connect)
    }

    /// A handle to the client, for any thread. It works before [`run`](Self::run) too.
    pub fn handle(&self) -> ClientHandle {
        ClientHandle { state: Arc::clone(&self.state) }
    }

    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> Arc<SupervisorHandle> {
        Arc::clone(&self.state.supervisor)
    }

    setters_of_both_ends!();

    /// Whom a `wss://` URL trusts, and the client's own certificate. Default: [the system's roots](ClientTls::new), and
    /// no certificate. It changes nothing for a `ws://` URL.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.target.tls = tls;
        self
    }

    /// Connects through a proxy: an HTTP proxy by `CONNECT`, or a SOCKS5 proxy. Default: no proxy, whatever the
    /// environment says; give it [`Proxy::from_env`] to follow that.
    ///
    /// The [connect timeout](Self::connect_timeout) is then that of the connection to the proxy. What the proxy needs
    /// to reach the host counts as part of the opening handshake, under the one
    /// [`handshake_timeout`](Self::handshake_timeout) with TLS and HTTP. A proxy that does not let us through is
    /// [`ConnectError::Proxy`].
    ///
    /// The heartbeat judges the server behind the proxy, and works as without one: a proxy does not answer Pings.
    /// [`Connection::peer_addr`] is the address of the proxy.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.target.proxy = Some(proxy);
        self
    }

    /// Adds a header to the opening handshake, such as `Authorization`. Default: no extra headers.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.target.headers.push((name.into(), value.into()));
        self
    }

    /// Offers a subprotocol. The first one offered is preferred. Default: none.
    pub fn subprotocol(mut self, subprotocol: impl Into<String>) -> Self {
        self.target.subprotocols.push(subprotocol.into());
        self
    }

    /// Calls this function before each attempt to connect. It can set headers, such as a token that expires, and the
    /// URL, for that attempt. Default: no function.
    ///
    /// It runs in the thread of the attempt, before the connect timeout begins, and may block: neither
    /// [`stop`](ClientHandle::stop) nor [`run`](Self::run) waits for it. If it returns an error, panics, or sets
    /// something that is not valid, the attempt fails with [`ConnectError::Prepare`], and the client retries after a
    /// pause.
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
    ///     // A token may expire on the way: the next attempt has a new one.
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

    /// Decides which errors end the client. Default [`Error::is_fatal`].
    ///
    /// The error is a failed attempt ([`Error::Connect`]) or a lost connection ([`Error::Closed`]). If `gives_up`
    /// returns `true`, [`run`](Self::run) returns that error; otherwise the client reconnects.
    ///
    /// A response need not come from the server itself: a captive portal redirects with 302, and a proxy whose server
    /// is down may answer 404. A device that nobody can restart should never give up: `give_up_if(|_| false)`.
    ///
    /// It runs in the thread that called [`run`](Self::run). A panic passes through, like the handler's.
    pub fn give_up_if(mut self, gives_up: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.target.gives_up = Arc::new(gives_up);
        self
    }

    /// Sets the pauses before the next attempt, when a connection is lost or an attempt fails. Default: see
    /// [`Backoff`].
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Makes a single attempt, and ends with its connection. Default: the client reconnects.
    pub fn no_reconnect(mut self) -> Self {
        self.backoff = None;
        self
    }

    /// Size of the outbox, in bytes: it keeps messages while there is no connection, and the next connection sends them
    /// first. Default 0: messages without a connection are refused. Each message counts with its payload and 128 bytes
    /// more. Messages that were never sent can be [taken out](ClientHandle::take_outbox).
    pub fn outbox_size(self, bytes: usize) -> Self {
        self.state.current().outbox_limit = bytes;
        self
    }

    /// Whether a full [outbox](Self::outbox_size) drops its oldest messages for a new one. Default `false`:
    /// [`send`](ClientHandle::send) gives the new message back as
    /// [`ClientSendError::Full`](crate::ClientSendError::Full). Dropping suits readings, of which the newest matter.
    ///
    /// [`outbox_dropped`](ClientHandle::outbox_dropped) counts the dropped messages, and the log reports them when the
    /// next connection opens. A message larger than the outbox is refused as `Full` even so.
    pub fn outbox_drops_oldest(self, drops_oldest: bool) -> Self {
        self.state.current().drops_oldest = drops_oldest;
        self
    }

    /// Time limit for a TCP connection to the host, for all of its addresses together. Default 10 s; clamped to 1 ms to
    /// 10 years.
    ///
    /// It begins once the host's name is resolved; the system's resolver has its own timeouts. If the host has several
    /// addresses, the client tries the next one too when one has not answered within 250 ms, or at once when it has
    /// failed. IPv6 and IPv4 take turns (happy eyeballs, RFC 8305). The first address that answers wins.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.target.connect_timeout = clamp_duration(timeout);
        self
    }

    /// Connects, calls `handler` in this thread with each connection, and reconnects when one is lost.
    ///
    /// Returns `Ok` when the handler returns `Ok` (which closes the connection with 1000), when this end closes the
    /// connection, or when the client is [stopped](ClientHandle::stop). A panic of the handler closes the connection
    /// with 1011 and then passes through.
    ///
    /// # Errors
    /// - [`Error::Connect`] if an attempt failed and retrying is pointless ([`Error::is_fatal`], or
    ///   [`give_up_if`](Self::give_up_if)), or the client does not reconnect.
    /// - [`Error::Closed`] if the connection was lost, under the same conditions.
    /// - The handler's own error, after the connection was closed with 1011.
    /// - [`Error::Io`] if no thread can be started.
    /// - [`Error::Internal`] if a thread of heartwire itself panicked, which is a bug in heartwire.
    pub fn run<H>(self, mut handler: H) -> Result<(), Error>
    where
        H: FnMut(&mut Connection) -> Result<(), Error>,
    {
        let Self { target, mut settings, backoff, state, receivers, woken, .. } = self;
        #[cfg(feature = "deflate")]
        let target = Target { deflate: settings.compression.as_ref().map(|shared| shared.settings), ..target };
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
        supervisor.end();
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

//! The server: its settings, and the life of a connection's thread.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel as channel;
use ipnet::IpNet;

use crate::connection::Connection;
use crate::error::Error;
use crate::foreign;
use crate::http::origin::Origin;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::logging::Log;
use crate::settings::{Settings, setters_of_both_ends};
use crate::supervisor::handle::{Receivers, SupervisorHandle};
use crate::supervisor::notice::Notice;
use crate::supervisor::pending_handshake::PendingHandshake;
use crate::supervisor::threads::ServiceThreads;

pub(crate) mod accept;
mod accept_loop;
#[cfg(any(feature = "metrics", feature = "status"))]
pub(crate) mod access;
mod addresses;
mod admission;
mod connection_thread;
pub(crate) mod handle;
mod handshake;
mod listener;
#[cfg(feature = "metrics")]
mod metrics;
mod overflow;
mod routes;
#[cfg(feature = "status")]
mod status;

use accept::Accept;
use admission::Limits;
use connection_thread::ServerInner;
use handle::ServerHandle;
use handshake::HandshakeConfig;
use listener::Listener;

/// A WebSocket server: settings first, then [`serve`](Self::serve).
///
/// ```no_run
/// use heartwire::{HeartbeatPolicy, Server};
/// use std::time::Duration;
///
/// fn main() -> Result<(), heartwire::Error> {
///     Server::bind("127.0.0.1:9001")?
///         .heartbeat(HeartbeatPolicy::new(Duration::from_secs(5), Duration::from_secs(2)))
///         .max_connections(500)
///         .serve(|conn| loop {
///             let message = conn.recv()?;
///             conn.send(message)?;
///         })
/// }
/// ```
#[must_use = "a server accepts nobody until `serve` is called"]
pub struct Server {
    listener: Arc<Listener>,
    address: SocketAddr,
    /// Told when the accept loop is to look whether all is to end.
    stop: channel::Receiver<()>,
    supervisor: Arc<SupervisorHandle>,
    receivers: Receivers,
    settings: Settings,
    max_connections: usize,
    max_per_address: Option<usize>,
    text_heartbeat: bool,
    config: HandshakeConfig,
    /// What `serve` starts for a status page.
    #[cfg(feature = "status")]
    status: Option<status::publisher::Start>,
}

impl Server {
    /// Listens on an address, such as `"127.0.0.1:9001"`, `"[::]:9001"` (IPv6, and on most systems IPv4 too) or
    /// `"127.0.0.1:0"` (any free port; [`local_addr`](Self::local_addr) says which).
    ///
    /// # Errors
    /// [`Error::Io`] if the address is not understood, in use, or not ours to use.
    pub fn bind(address: impl ToSocketAddrs) -> Result<Self, Error> {
        let log = Arc::default();
        Self::new(Listener::bind(address, &log)?, log)
    }

    /// Serves a listener that exists already.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener cannot tell its address.
    pub fn from_listener(listener: TcpListener) -> Result<Self, Error> {
        Self::new(Listener::from_socket(listener)?, Arc::default())
    }

    fn new(listener: Listener, log: Arc<Log>) -> Result<Self, Error> {
        let (address, listener) = (listener.address, Arc::new(listener));
        let config = HandshakeConfig { log: Arc::clone(&log), ..HandshakeConfig::default() };
        // Wakes the accept loop, in `accept` as long as there is a listener, and in a pause.
        let (stop_sender, stop) = channel::bounded(1);
        let (waiting, its_log) = (Arc::downgrade(&listener), Arc::clone(&log));
        let (supervisor, receivers) = SupervisorHandle::new(log, move || {
            let _ = stop_sender.try_send(());
            if let Some(listener) = waiting.upgrade() {
                listener.wake(&its_log);
            }
        })?;
        Ok(Self {
            listener,
            address,
            stop,
            supervisor,
            receivers,
            settings: Settings::default(),
            max_connections: 10_000,
            max_per_address: None,
            text_heartbeat: false,
            config,
            #[cfg(feature = "status")]
            status: None,
        })
    }

    /// The address really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The remote control. May be taken, and listened to, before [`serve`](Self::serve).
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.supervisor), self.address)
    }

    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> Arc<SupervisorHandle> {
        Arc::clone(&self.supervisor)
    }

    setters_of_both_ends!();

    /// Most connections at a time, those in the opening handshake included. Default 10,000: each costs a thread, and
    /// systems have limits of threads, memory maps and file descriptors.
    ///
    /// More are answered 503 with `Retry-After`, and plain HTTP requests are answered as ever. Those that are answered,
    /// or refused, take no place among the connections while they have not hung up; there may be 64 of them. For one
    /// more, whoever has been silent for longest is dropped, so that whoever asks at once is answered at once.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Most connections at a time that one client's address may have; more are answered 429 with `Retry-After`. Default
    /// `None`: as many as there are, for behind one address there may be many people (NAT).
    ///
    /// The address is [`remote_ip()`](crate::Connection::remote_ip), so a [trusted proxy](Self::trust_proxies) may bring any
    /// number of clients. An IPv6 network of 64 bits counts as one address, since its owner can choose any in it. A
    /// client without a proxy is counted from its TCP connection on, one behind a proxy from its request on.
    pub fn max_connections_per_address(mut self, connections: Option<usize>) -> Self {
        self.max_per_address = connections;
        self
    }

    /// Takes the texts `ping` and `ping next=<milliseconds>` of every client as heartbeats: they are answered with the
    /// text `pong` and never reach the handler. It is meant for pages, which can neither send nor see a Ping frame.
    /// Default off; a client that offers the subprotocol `heartwire.v1`, when `on_handshake` does not choose another,
    /// has it for itself.
    ///
    /// Such a client is also told the heartbeat of its connection, by a first text of `heartwire ` and a JSON object:
    /// its number as `connection`, who beats as `leader` (`server`, `peer` or `off`), `interval` or, where the peer
    /// beats, `expect`, and `timeout` and `max_missed`; durations in milliseconds. The module
    /// [`heartwire.js`](crate::HEARTWIRE_JS) reads it.
    pub fn text_heartbeat(mut self, text_heartbeat: bool) -> Self {
        self.text_heartbeat = text_heartbeat;
        self
    }

    /// Takes the word of these reverse proxies on whom they speak for: `remote_ip()` of requests and connections, the log
    /// and all reports then give the client's address, from `X-Forwarded-For`, or from `X-Real-IP` if the request has
    /// no such list. Called again, it adds. Default: nobody's.
    ///
    /// Headers of any other peer change nothing. Whoever can connect can write anything into them, and would choose
    /// under which address to be logged, limited or let in; the address of a TCP connection cannot be chosen like that.
    /// So name the addresses of your proxies and no others, and have each proxy set `X-Forwarded-For` itself, by
    /// appending the address that it was called from or by replacing the header: one that hands it on untouched vouches
    /// for what its clients wrote. The list is read from the right, over the hops that are trusted; the first that is
    /// not is the client. An entry that is no address ends the way, and the last hop before it stands.
    ///
    /// ```no_run
    /// # use heartwire::{IpNet, Server};
    /// # use std::net::{IpAddr, Ipv4Addr};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let balancers: IpNet = "10.1.0.0/16".parse()?;
    /// let server = Server::bind("0.0.0.0:9001")?
    ///     .trust_proxies([IpAddr::V4(Ipv4Addr::LOCALHOST)])
    ///     .trust_proxies([balancers]);
    /// # Ok(()) }
    /// ```
    pub fn trust_proxies(mut self, proxies: impl IntoIterator<Item = impl Into<IpNet>>) -> Self {
        self.config.trusted.add(proxies);
        self
    }

    /// Lets browsers in only from pages of these origins; any other page is answered 403, and the log says why. Called
    /// again, it adds. Default: none is named, and pages of all origins are let in.
    ///
    /// Browsers let every page open a WebSocket to everywhere, and send the cookies along that its user has for that
    /// place. So a server that trusts cookies, or the network that its clients are in, must know whose page it is (RFC
    /// 6455 section 10.2): otherwise any page acts with the rights of whoever looks at it (cross-site WebSocket
    /// hijacking). Name the origins of your own pages, also that of pages which this server sends itself. Behind a
    /// proxy that speaks TLS that is an origin with `https`.
    ///
    /// Only browsers send an `Origin`: a client without one is let in. One that is no browser can send any, so this
    /// replaces no authentication. An origin must be the same as a whole, whatever its case; the check comes before
    /// [`on_handshake`](Self::on_handshake), and plain HTTP requests are not concerned.
    ///
    /// ```no_run
    /// # use heartwire::Server;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::bind("0.0.0.0:9001")?
    ///     .allow_origins(["https://example.org".parse()?, "http://localhost:8080".parse()?]);
    /// # Ok(()) }
    /// ```
    pub fn allow_origins(mut self, origins: impl IntoIterator<Item = Origin>) -> Self {
        self.config.origins.extend(origins);
        self
    }

    /// Decides on opening handshakes: authentication, path, subprotocol, extra headers, a heartbeat of its own, or a
    /// rejection with a status from 300 to 599 (another is an error of ours, as is a panic: 500 and a line in the log).
    /// It is called in the connection's thread, within the handshake's time. By default all are accepted.
    ///
    /// ```no_run
    /// # use heartwire::{Accept, Response, Server};
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = Server::bind("127.0.0.1:9001")?.on_handshake(|request| match request.path() {
    ///     "/chat" => Ok(Accept::new()),
    ///     _ => Err(Response::new(404).text("only /chat is served\n")),
    /// });
    /// # Ok(()) }
    /// ```
    pub fn on_handshake(
        mut self,
        decide: impl Fn(&Request) -> Result<Accept, Response> + Send + Sync + 'static,
    ) -> Self {
        self.config.on_handshake = Some(Arc::new(decide));
        self
    }

    /// Answers plain HTTP requests, those that ask for no upgrade and that the server does not answer by itself
    /// ([`health`](Self::health), [`browser_module`](Self::browser_module)); `None` leaves it to the server: 426 for
    /// GET and HEAD, 405 for the rest. It is called in the connection's thread.
    pub fn on_request(mut self, answer: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) -> Self {
        self.config.on_request = Some(Arc::new(answer));
        self
    }

    /// Serves: each connection gets a thread of its own, in which `handler` is called. Returns when the server was
    /// [shut down](ServerHandle::shutdown).
    ///
    /// When the handler returns, the connection is closed: with 1000 after `Ok`, with 1011 after an error that is not
    /// this connection's own end, and with 1011 after a panic, which concerns nobody else. That needs `panic =
    /// "unwind"`, Rust's default: with `panic = "abort"` a panic ends the whole process, and a warning in the log says
    /// so at the start.
    ///
    /// # Errors
    /// [`Error::Io`] if the server's own threads cannot be started. [`Error::Internal`] if one of them has panicked,
    /// which is a bug of heartwire: all connections were cut then, and reported.
    pub fn serve<H>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        let Self {
            listener,
            stop,
            supervisor,
            receivers,
            settings,
            max_connections,
            max_per_address,
            text_heartbeat,
            config,
            #[cfg(feature = "status")]
            status,
            ..
        } = self;
        // Ends, and is waited for, when all else has ended.
        #[cfg(feature = "status")]
        let _publisher = match status {
            Some(status) => Some(status.start(settings.heartbeat).inspect_err(|_| supervisor.mark_ended())?),
            None => None,
        };
        let threads = ServiceThreads::start(&supervisor, receivers, &settings)?;

        let server = Arc::new(ServerInner {
            supervisor: Arc::clone(&supervisor),
            settings: Arc::new(settings),
            limits: Arc::new(Limits::new(max_connections, max_per_address)),
            text_heartbeat,
            config,
            handler,
            last_id: AtomicU64::new(0),
        });
        let mut accepted = 0;
        let looped = foreign::call(|| {
            accept_loop::run(&listener.socket, &supervisor, &stop, |stream, peer| {
                accepted += 1;
                server.start(PendingHandshake::new(accepted, peer, stream))
            });
        });
        if let Err(message) = looped {
            supervisor.fail("the accept loop", &message);
        }
        // From here on clients are refused by the system.
        drop(listener);
        supervisor.notify(Notice::NoMoreConnections);
        threads.join(&supervisor)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Server");
        fields.field("address", &self.address).field("settings", &self.settings);
        fields.field("max_connections", &self.max_connections).field("max_per_address", &self.max_per_address);
        fields.field("text_heartbeat", &self.text_heartbeat);
        fields.finish_non_exhaustive()
    }
}

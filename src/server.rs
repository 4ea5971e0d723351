//! The server: its settings, and the life of a connection's thread.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(feature = "topics")]
use std::sync::OnceLock;
use std::time::Duration;

use ipnet::IpNet;

use crate::atomic::AtomicU64;
use crate::connection::Connection;
use crate::durations;
use crate::error::Error;
use crate::http::origin::Origin;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::logging::Log;
use crate::settings::{Settings, setters_of_both_ends};
use crate::supervisor::handle::{Receivers, SupervisorHandle};
use crate::supervisor::notice::Notice;
use crate::supervisor::threads::ServiceThreads;
#[cfg(feature = "tls")]
use crate::tls::ServerTls;
#[cfg(feature = "topics")]
use crate::topics::hub::Hub;
#[cfg(feature = "topics")]
use crate::topics::service::Service;

pub(crate) mod accept;
mod accept_loop;
#[cfg(any(feature = "metrics", feature = "status", feature = "topics"))]
pub(crate) mod access;
mod addresses;
mod admission;
mod connection_thread;
mod exchange;
pub(crate) mod handle;
mod handshake;
mod idle_threads;
mod kept_clients;
mod listener;
pub(crate) mod listeners;
#[cfg(feature = "metrics")]
mod metrics;
mod overflow;
pub(crate) mod probe;
mod routes;
#[cfg(feature = "tls")]
mod secure;
#[cfg(feature = "signals")]
mod signals;
#[cfg(unix)]
mod socket_file;
#[cfg(feature = "status")]
mod status;
#[cfg(feature = "topics")]
mod topics;

use accept::Accept;
use admission::Limits;
use connection_thread::{ListenerState, ServerInner};
use handle::ServerHandle;
use handshake::HandshakeConfig;
use listener::Listener;
use listeners::{ActiveListener, Listeners};
use probe::Probes;

/// A WebSocket server. Set it up, then call [`serve`](Self::serve).
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
#[must_use = "a server accepts no connections until `serve` is called"]
pub struct Server {
    /// Where it listens, and the same as its handles know it.
    listening: Vec<ActiveListener>,
    listeners: Arc<Listeners>,
    supervisor: Arc<SupervisorHandle>,
    probes: Arc<Probes>,
    receivers: Receivers,
    settings: Settings,
    max_connections: usize,
    max_per_address: Option<usize>,
    text_heartbeat: bool,
    config: HandshakeConfig,
    /// Its topics, once it has any.
    #[cfg(feature = "topics")]
    topics: Arc<OnceLock<Arc<Hub>>>,
    /// How connections are encrypted. `None`: not at all.
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    /// Whether signals end it, and so the limit of open files is to be raised.
    #[cfg(feature = "signals")]
    ends_with_signals: bool,
    /// What SIGHUP does, if it is not to end the server.
    #[cfg(feature = "signals")]
    on_hangup: Option<signals::OnHangup>,
    /// The publisher of a status page, which `serve` starts.
    #[cfg(feature = "status")]
    status: Option<status::publisher::Start>,
}

impl Server {
    /// Listens on an address, such as `"127.0.0.1:9001"`, `"[::]:9001"` (IPv6, and on most systems IPv4 too) or
    /// `"127.0.0.1:0"` (any free port; [`local_addr`](Self::local_addr) says which).
    ///
    /// # Errors
    /// [`Error::Io`] if the address cannot be resolved, is in use, or may not be used by this process. Also if the
    /// process has no file descriptors left.
    pub fn bind(address: impl ToSocketAddrs) -> Result<Self, Error> {
        let log = Arc::default();
        Self::new(Listener::bind(address, &log)?, log)
    }

    /// Listens on one more address, such as that of another network, or of IPv4 beside IPv6. Clients of all addresses
    /// are treated alike. May be called any number of times; each address has a thread that accepts its clients.
    ///
    /// ```no_run
    /// # use heartwire::Server;
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = Server::bind("127.0.0.1:9001")?.also_bind("[::1]:9001")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn also_bind(self, address: impl ToSocketAddrs) -> Result<Self, Error> {
        let listener = Listener::bind(address, &self.config.log)?;
        Ok(self.with(listener))
    }

    /// Serves an existing listener. Other processes may share it, so its socket options stay as they are, and a new
    /// thread is started for each connection. It is made non-blocking. A server that [drains](ServerHandle::drain)
    /// stops accepting from it at once.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener's address cannot be read, or the process has no file descriptors left.
    pub fn from_listener(listener: TcpListener) -> Result<Self, Error> {
        Self::new(Listener::from_socket(listener)?, Arc::default())
    }

    /// Serves one more existing listener, like [`from_listener`](Self::from_listener).
    ///
    /// # Errors
    /// As [`from_listener`](Self::from_listener).
    pub fn also_from_listener(self, listener: TcpListener) -> Result<Self, Error> {
        let listener = Listener::from_socket(listener)?;
        Ok(self.with(listener))
    }

    /// Listens at a Unix socket, such as `/run/heartwire.sock`, for clients on this machine or a proxy in front. Its
    /// file is removed at the end. One that a server has left that was killed is replaced; if somebody answers there,
    /// or if it is no socket, it stays, and this fails.
    ///
    /// `mode` are the permissions of the file, such as `0o660`: to connect, a process must be allowed to write it.
    /// `None` leaves them to the umask. They take effect before anybody can connect.
    ///
    /// Clients have no address. [`peer_addr`](Connection::peer_addr) is `0.0.0.0:0`, and so is
    /// [`local_addr`](Self::local_addr) if there is no other listener. [`remote_ip`](Connection::remote_ip) is
    /// `0.0.0.0`, or what a proxy says if it is [trusted](Self::trust_proxies) under that address.
    /// [Limits](Self::max_connections_per_address) for each address do not concern clients without one, and
    /// `StatusAccess::Loopback` refuses them, since a proxy may stand there for the whole world.
    ///
    /// ```no_run
    /// # use heartwire::Server;
    /// # use std::net::{IpAddr, Ipv4Addr};
    /// # fn main() -> Result<(), heartwire::Error> {
    /// // nginx in front, with proxy_pass http://unix:/run/heartwire.sock
    /// let nginx = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    /// let server = Server::bind_unix("/run/heartwire.sock", Some(0o660))?.trust_proxies([nginx]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if somebody listens there already, the path is too long (some 100 bytes), or this process may not
    /// make a file there.
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<Path>, mode: Option<u32>) -> Result<Self, Error> {
        Self::new(Listener::bind_unix(path.as_ref(), mode)?, Arc::default())
    }

    /// Listens at a Unix socket as well, like [`bind_unix`](Self::bind_unix).
    ///
    /// # Errors
    /// As [`bind_unix`](Self::bind_unix).
    #[cfg(unix)]
    pub fn also_bind_unix(self, path: impl AsRef<Path>, mode: Option<u32>) -> Result<Self, Error> {
        let listener = Listener::bind_unix(path.as_ref(), mode)?;
        Ok(self.with(listener))
    }

    /// Serves an existing listener at a Unix socket, like [`from_listener`](Self::from_listener). Its file stays at the
    /// end.
    ///
    /// # Errors
    /// As [`from_listener`](Self::from_listener).
    #[cfg(unix)]
    pub fn from_unix_listener(listener: UnixListener) -> Result<Self, Error> {
        Self::new(Listener::from_socket(listener)?, Arc::default())
    }

    /// Serves one more existing listener at a Unix socket, like [`from_unix_listener`](Self::from_unix_listener).
    ///
    /// # Errors
    /// As [`from_listener`](Self::from_listener).
    #[cfg(unix)]
    pub fn also_from_unix_listener(self, listener: UnixListener) -> Result<Self, Error> {
        let listener = Listener::from_socket(listener)?;
        Ok(self.with(listener))
    }

    fn with(mut self, listener: Listener) -> Self {
        self.listening.push(self.listeners.add(listener));
        self
    }

    fn new(listener: Listener, log: Arc<Log>) -> Result<Self, Error> {
        let mut config = HandshakeConfig { log: Arc::clone(&log), ..HandshakeConfig::default() };
        // A message of most services, and with 10,000 connections 640 MB, which `max_buffered` bounds further.
        config.max_request_body = 64 * 1024;
        // Shorter than clients wait before they forget a connection, and long enough for a burst of requests.
        config.keep_alive_timeout = Duration::from_secs(10);
        let listeners = Arc::<Listeners>::default();
        let (woken, its_log) = (Arc::clone(&listeners), Arc::clone(&log));
        let (supervisor, receivers) = SupervisorHandle::new(log, move |wake| woken.wake(wake, &its_log))?;
        config.buffered = Arc::clone(&supervisor.buffered);
        Ok(Self {
            listening: vec![listeners.add(listener)],
            listeners,
            supervisor,
            probes: Arc::default(),
            receivers,
            settings: Settings::default(),
            max_connections: 10_000,
            max_per_address: None,
            text_heartbeat: false,
            config,
            #[cfg(feature = "topics")]
            topics: Arc::default(),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "signals")]
            ends_with_signals: false,
            #[cfg(feature = "signals")]
            on_hangup: None,
            #[cfg(feature = "status")]
            status: None,
        })
    }

    /// The bound address, with the real port. Of several the first. `0.0.0.0:0` if there are only Unix sockets.
    pub fn local_addr(&self) -> SocketAddr {
        self.listeners.first_address()
    }

    /// All bound addresses, with the real ports, in the order in which they were added.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// The paths of all Unix sockets that it listens at, in the order in which they were added.
    pub fn unix_paths(&self) -> Vec<PathBuf> {
        self.listeners.paths()
    }

    /// A handle to the server, for any thread. It works before [`serve`](Self::serve) too.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            supervisor: Arc::clone(&self.supervisor),
            probes: Arc::clone(&self.probes),
            listeners: Arc::clone(&self.listeners),
            #[cfg(feature = "topics")]
            topics: Arc::clone(&self.topics),
        }
    }

    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> Arc<SupervisorHandle> {
        Arc::clone(&self.supervisor)
    }

    setters_of_both_ends!();

    /// The most connections at a time, including those in the opening handshake. Default 10,000: each costs a thread,
    /// and systems limit threads, memory maps and file descriptors.
    ///
    /// Further opening handshakes get 503 with `Retry-After`. Plain HTTP requests are answered as usual. A client that
    /// is [idle between two of them](Self::keep_alive_timeout) gives way to any other. One that was answered for the
    /// last time or refused, and has not hung up yet, does not count as a connection. Up to 64 such clients are kept;
    /// for one more, the client that has been silent longest is dropped. A client that sends its request at once
    /// therefore gets an answer at once.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The most connections at a time from one client address. Further ones get 429 with `Retry-After`. Default `None`,
    /// no limit: many people may share one address (NAT).
    ///
    /// The address is [`remote_ip()`](crate::Connection::remote_ip), so a [trusted proxy](Self::trust_proxies) may
    /// carry any number of clients. An IPv6 network of 64 bits counts as one address, since its owner can choose any
    /// address in it. A client without a proxy counts from its TCP connection on, a client behind a proxy from its
    /// request on.
    pub fn max_connections_per_address(mut self, connections: Option<usize>) -> Self {
        self.max_per_address = connections;
        self
    }

    /// Encrypts all connections (`wss://` and `https://`). Default: none.
    ///
    /// Keep a clone to [reload](ServerTls::reload) certificates while the server runs.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Accepts the texts `ping` and `ping next=<milliseconds>` from every client as heartbeats. Default off.
    ///
    /// The server answers them with the text `pong`, and they never reach the handler. This is meant for pages, which
    /// can neither send nor see a Ping frame. A client that offers the subprotocol `heartwire.v1` gets it for its own
    /// connection, unless `on_handshake` chooses another subprotocol.
    ///
    /// The first text to such a client describes the heartbeat of its connection: `heartwire ` and a JSON object. The
    /// object has the connection's number as `connection`, who leads as `leader` (`server`, `peer` or `off`),
    /// `interval` (or `expect`, if the peer leads), `timeout` and `max_missed`. Durations are in milliseconds. The
    /// module [`heartwire.js`](crate::HEARTWIRE_JS) reads it.
    pub fn text_heartbeat(mut self, text_heartbeat: bool) -> Self {
        self.text_heartbeat = text_heartbeat;
        self
    }

    /// Trusts these reverse proxies to name the clients that they forward. Default: none. Further calls add to the
    /// list.
    ///
    /// For such a peer, `remote_ip()` of requests and connections, the log and all reports give the client's address
    /// from `X-Forwarded-For`, or from `X-Real-IP` if the request has no `X-Forwarded-For`.
    ///
    /// Headers of any other peer change nothing. A client can write anything into them, and would choose the address
    /// under which it is logged, limited or let in. It cannot choose the address of its TCP connection like that. Name
    /// the addresses of your proxies and no others. Have each proxy set `X-Forwarded-For` itself, by appending the
    /// address of its client or by replacing the header: a proxy that passes the header on untouched vouches for what
    /// its clients wrote.
    ///
    /// The list is read from the right, past the hops that are trusted. The first address that is not trusted is the
    /// client. An entry that is not an address ends the search, and the last hop before it counts.
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

    /// Lets browsers in only from pages of these origins. Pages of other origins get 403, and the log says why. Further
    /// calls add to the list. Default: an empty list, which lets in pages of all origins.
    ///
    /// Browsers let every page open a WebSocket to any server, and send that server's cookies along. A server that
    /// trusts cookies, or the network of its clients, must therefore know whose page it is (RFC 6455 section 10.2).
    /// Otherwise any page acts with the rights of its visitor (cross-site WebSocket hijacking). Name the origins of
    /// your own pages, including those that this server sends itself. Behind a proxy that speaks TLS, such an origin
    /// begins with `https`.
    ///
    /// Only browsers send an `Origin`, so a client without one is let in. Other clients can send any `Origin`: this
    /// setting does not replace authentication. An origin must match as a whole, whatever its case. The check comes
    /// before [`on_handshake`](Self::on_handshake). Plain HTTP requests are not checked.
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

    /// Keeps the values of this parameter of queries, such as `token`, out of all [events](ServerHandle::events),
    /// [reports](crate::CloseReport) and [lists of connections](ServerHandle::connections). There, `***` stands for
    /// each. Further calls add to the list. Default: an empty list.
    ///
    /// The log, the status page and `Debug` output show no queries at all. The [request](Connection::request) keeps the
    /// values, for [`on_handshake`](Self::on_handshake) and the handler.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = heartwire::Server::bind("127.0.0.1:9001")?.redact_query("token");
    /// # Ok(()) }
    /// ```
    pub fn redact_query(mut self, parameter: impl Into<String>) -> Self {
        self.config.redacted.push(parameter.into());
        self
    }

    /// Decides on each opening handshake. Default: all are accepted.
    ///
    /// The function can check authentication and the path, choose a subprotocol, and add headers or a heartbeat for
    /// this connection. It rejects with a status from 300 to 599. Any other status, or a panic, is answered with 500
    /// and logged as an error. It runs in the connection's thread, within the [handshake
    /// timeout](Self::handshake_timeout).
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

    /// Answers plain HTTP requests: those that request no upgrade, and that the server does not answer itself
    /// ([`health`](Self::health), [`browser_module`](Self::browser_module)).
    ///
    /// `None` leaves the request to the server, which answers 426 to GET and HEAD and 405 to other methods. This is
    /// also the default. The function runs in the connection's thread.
    ///
    /// The [body](Request::body) is read before, up to [`max_request_body`](Self::max_request_body). The connection is
    /// kept for further requests, as long as [`keep_alive_timeout`](Self::keep_alive_timeout) says.
    ///
    /// ```no_run
    /// # use heartwire::{Response, Server};
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = Server::bind("127.0.0.1:9001")?;
    /// let handle = server.handle();
    /// // curl -d hello http://127.0.0.1:9001/publish
    /// let server = server.on_request(move |request| match (request.method(), request.path()) {
    ///     ("POST", "/publish") => match std::str::from_utf8(request.body()) {
    ///         Ok(text) => {
    ///             handle.broadcast(text);
    ///             Some(Response::new(204))
    ///         }
    ///         Err(_) => Some(Response::new(400).text("not UTF-8\n")),
    ///     },
    ///     _ => None,
    /// });
    /// # Ok(()) }
    /// ```
    pub fn on_request(mut self, answer: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) -> Self {
        self.config.on_request = Some(Arc::new(answer));
        self
    }

    /// The longest body of a plain HTTP request, in bytes, without its transfer coding. A request with a longer one
    /// gets 413. Default 64 KiB; with 0 only requests without a body are answered.
    ///
    /// The whole request, with its body, has to come within the [handshake timeout](Self::handshake_timeout), or gets
    /// 408. Bodies take memory as they arrive, and count against [`max_buffered`](Self::max_buffered) until the request
    /// is answered; without room for one the request gets 503.
    ///
    /// A body that may end in two places, and a chunked one that is not exactly valid, get 400, so that no client can
    /// hide a request from a proxy in one of its own. After each of these responses the connection is closed. Bodies of
    /// requests that nobody reads are not read, and end the connection after the response.
    pub fn max_request_body(mut self, bytes: usize) -> Self {
        self.config.max_request_body = bytes;
        self
    }

    /// How long a client may be idle between two plain HTTP requests before the server hangs up. Default 10 s; kept
    /// at 10 years or less. Zero closes the connection after each response.
    ///
    /// A connection is kept after a response of [`on_request`](Self::on_request) or of one of the server's own paths,
    /// unless the client wants it closed, which is the rule in HTTP/1.0, or the server drains or shuts down. Requests
    /// that are sent in advance (pipelining) are answered in order, and each has the [handshake
    /// timeout](Self::handshake_timeout) to itself. The next request may be an opening handshake.
    ///
    /// An idle client counts as a connection, but keeps nobody out: when there are
    /// [`max_connections`](Self::max_connections), a newcomer takes the place of the one that has been idle for
    /// longest. A client that comes when all places are taken by others gets its answer and is not kept.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.config.keep_alive_timeout = timeout.min(durations::LONGEST);
        self
    }

    /// Serves until the server is [shut down](ServerHandle::shutdown). Each connection has a thread to itself, which
    /// calls `handler`.
    ///
    /// A thread may serve one connection after another (on Linux, and unless the server was made [from a
    /// listener](Self::from_listener)): starting a thread takes longer than opening a connection. So what a handler
    /// leaves in a `thread_local!` may be seen by the handler of another connection. Up to 64 threads wait for the next
    /// client, for three seconds each, and reserve a file descriptor for it; so do all whose peers were found dead,
    /// however many, for such peers come back. One whose connection has used much of its stack is not used again, for
    /// that memory would stay with the next connection.
    ///
    /// The connection is closed when the handler returns: with 1000 after `Ok`, and with 1011 after a panic or after an
    /// error other than the end of this connection. A panic affects no other connection. That needs `panic = "unwind"`,
    /// Rust's default: with `panic = "abort"` a panic ends the whole process, and a warning in the log says so at the
    /// start.
    ///
    /// # Errors
    /// [`Error::Io`] if one of the server's own threads cannot be started. [`Error::Internal`] if one of them panicked,
    /// which is a bug in heartwire; by then all connections have been cut and reported.
    pub fn serve<H>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        #[cfg(feature = "redis")]
        if let Some(hub) = self.topics.get() {
            hub.set_address(self.local_addr().to_string());
        }
        let Self {
            listening,
            supervisor,
            probes,
            receivers,
            settings,
            max_connections,
            max_per_address,
            text_heartbeat,
            config,
            #[cfg(feature = "topics")]
            topics,
            #[cfg(feature = "signals")]
            ends_with_signals,
            #[cfg(feature = "status")]
            status,
            #[cfg(feature = "tls")]
            tls,
            ..
        } = self;
        #[cfg(feature = "tls")]
        let config =
            HandshakeConfig { secure: tls.map(|tls| Arc::new(secure::Secure::new(tls, max_connections))), ..config };
        #[cfg(feature = "deflate")]
        let config = HandshakeConfig { deflate: settings.compression.as_ref().map(|shared| shared.settings), ..config };
        #[cfg(feature = "topics")]
        let topics = topics.get();
        // Dropped with the others, which waits for its thread.
        #[cfg(feature = "topics")]
        let _service = match topics {
            Some(hub) => Some(Service::start(Arc::clone(hub)).inspect_err(|_| supervisor.mark_ended())?),
            None => None,
        };
        #[cfg(feature = "topics")]
        let config = HandshakeConfig { topics: topics.cloned(), ..config };
        // Dropped last, which waits for its thread.
        #[cfg(feature = "status")]
        let _publisher = match status {
            Some(status) => Some(status.start(settings.heartbeat).inspect_err(|_| supervisor.mark_ended())?),
            None => None,
        };
        let threads = ServiceThreads::start(&supervisor, receivers, &settings)?;
        #[cfg(feature = "signals")]
        if ends_with_signals {
            signals::raise_file_limit(max_connections, &supervisor.log);
        }

        let server = Arc::new(ServerInner {
            supervisor: Arc::clone(&supervisor),
            probes,
            settings: Arc::new(settings),
            limits: Arc::new(Limits::new(max_connections, max_per_address)),
            config: HandshakeConfig { text_heartbeat, ..config },
            handler,
            listeners: listening.iter().map(|active| ListenerState::new(&active.listener)).collect(),
            accepted: AtomicU64::new(0),
            last_id: AtomicU64::new(0),
        });
        let accepted = server.accept_at_all(listening);
        supervisor.notify(Notice::NoMoreConnections);
        let joined = threads.join(&supervisor);
        accepted.map_err(Error::Io).and(joined)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Server");
        fields
            .field("addresses", &self.local_addrs())
            .field("unix_paths", &self.unix_paths())
            .field("settings", &self.settings);
        fields.field("max_connections", &self.max_connections).field("max_per_address", &self.max_per_address);
        fields.field("text_heartbeat", &self.text_heartbeat);
        fields.field("max_request_body", &self.config.max_request_body);
        fields.field("keep_alive_timeout", &self.config.keep_alive_timeout);
        fields.finish_non_exhaustive()
    }
}

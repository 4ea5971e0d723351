//! The server: its settings, and the life of a connection's thread.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use ipnet::IpNet;
use socket2::SockRef;

use crate::accept;
use crate::close::{CloseCode, CloseReason, ConnectionId};
use crate::connection::Connection;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::foreign;
use crate::forwarded::Remote;
use crate::frame::Role;
use crate::handle::{Handle, Hub, Listener, Receivers};
use crate::handshake::{self, Arrival, Failure, Outcome, Rules, TEXT_HEARTBEAT, TOO_MANY};
use crate::heartbeat::HeartbeatPolicy;
use crate::inbound::Inbound;
use crate::link::{Link, Opening};
use crate::request::Request;
use crate::response::{Accept, Response};
use crate::settings::{Settings, setters_of_both_ends};
use crate::staff::Staff;
use crate::supervisor::Notice;
use crate::tcp;

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
pub struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    hub: Arc<Hub>,
    receivers: Receivers,
    settings: Settings,
    max_connections: usize,
    text_heartbeat: bool,
    rules: Rules,
}

impl Server {
    /// Listens on an address, such as `"127.0.0.1:9001"`, `"[::]:9001"` (IPv6, and on most systems IPv4 too) or
    /// `"127.0.0.1:0"` (any free port; [`local_addr`](Self::local_addr) says which).
    ///
    /// # Errors
    /// [`Error::Io`] if the address is not understood, in use, or not ours to use.
    pub fn bind(address: impl ToSocketAddrs) -> Result<Self, Error> {
        /// Clients that may wait to be accepted. The 128 of std would make a mass reconnect wait for seconds.
        const BACKLOG: i32 = 4096;
        let listener = TcpListener::bind(address)?;
        // To listen once more is to change the backlog. Where that is refused, the smaller one does as well.
        let listened = SockRef::from(&listener).listen(BACKLOG);
        let server = Self::new(listener, true)?;
        if let Err(error) = listened {
            server.hub.log.debug(format_args!("the backlog stays as it is: {error}"));
        }
        Ok(server)
    }

    /// Serves a listener that exists already.
    ///
    /// # Errors
    /// [`Error::Io`] if the listener cannot tell its address.
    pub fn from_listener(listener: TcpListener) -> Result<Self, Error> {
        Self::new(listener, false)
    }

    fn new(listener: TcpListener, is_ours: bool) -> Result<Self, Error> {
        listener.set_nonblocking(false)?;
        let address = listener.local_addr()?;
        let listener = Arc::new(listener);
        let (hub, receivers) = Hub::new(Some(Listener { address, socket: Arc::clone(&listener), is_ours }))?;
        let rules = Rules { log: Arc::clone(&hub.log), ..Rules::default() };
        Ok(Self {
            listener,
            address,
            hub,
            receivers,
            settings: Settings::default(),
            max_connections: 10_000,
            text_heartbeat: false,
            rules,
        })
    }

    /// The address really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The remote control. May be taken, and listened to, before [`serve`](Self::serve).
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.hub), self.address)
    }

    #[cfg(test)]
    pub(crate) fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }

    setters_of_both_ends!();

    /// Most connections at a time, those in the opening handshake included; more are answered 503, up to 64 at a time,
    /// and beyond that dropped. Default 10,000: each costs a thread, and systems have limits of threads, memory maps and
    /// file descriptors.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Takes the texts `ping` and `ping next=<milliseconds>` of every client as heartbeats: they are answered with the
    /// text `pong` and never reach the handler. It is meant for pages, which can neither send nor see a Ping frame.
    /// Default off; a client that offers the subprotocol `heartwire.v1`, when `on_handshake` does not choose another, has
    /// it for itself.
    ///
    /// Such a client is also told the heartbeat of its connection, by a first text of `heartwire ` and a JSON object:
    /// its number as `connection`, who beats as `leader` (`server`, `peer` or `off`), `interval` or, where the peer
    /// beats, `expect`, and `timeout` and `max_missed`; durations in milliseconds. The module `heartwire.js`, which the
    /// program serves, reads it.
    pub fn text_heartbeat(mut self, text_heartbeat: bool) -> Self {
        self.text_heartbeat = text_heartbeat;
        self
    }

    /// Takes the word of these reverse proxies on whom they speak for: `client()` of requests and connections, the log
    /// and all reports then give the client's address, from `X-Forwarded-For`, or from `X-Real-IP` if the request has no
    /// such list. Called again, it adds. Default: nobody's.
    ///
    /// Headers of any other peer change nothing. Whoever can connect can write anything into them, and would choose
    /// under which address to be logged, limited or let in; the address of a TCP connection cannot be chosen like that. So
    /// name the addresses of your proxies and no others, and have each proxy set `X-Forwarded-For` itself, by appending
    /// the address that it was called from or by replacing the header: one that hands it on untouched vouches for what
    /// its clients wrote. The list is read from the right, over the hops that are trusted; the first that is not is the
    /// client. An entry that is no address ends the way, and the last hop before it stands.
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
        self.rules.trusted.add(proxies);
        self
    }

    /// Decides on opening handshakes: authentication, `Origin`, path, subprotocol, extra headers, a heartbeat of its
    /// own, or a rejection with a status from 300 to 599 (another is an error of ours, as is a panic: 500 and a line in the
    /// log). It is called in the connection's thread, within the handshake's time. By default all are accepted.
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
        self.rules.on_handshake = Some(Arc::new(decide));
        self
    }

    /// Answers plain HTTP requests, those that ask for no upgrade; `None` leaves it to the server: 426 for GET and HEAD,
    /// 405 for the rest. It is called in the connection's thread.
    pub fn on_request(mut self, answer: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) -> Self {
        self.rules.on_request = Some(Arc::new(answer));
        self
    }

    /// Serves: each connection gets a thread of its own, in which `handler` is called. Returns when the server was
    /// [shut down](Handle::shutdown).
    ///
    /// When the handler returns, the connection is closed: with 1000 after `Ok`, with 1011 after an error that is not
    /// this connection's own end, and with 1011 after a panic, which concerns nobody else (with `panic = "unwind"`, Rust's
    /// default).
    ///
    /// # Errors
    /// [`Error::Io`] if the server's own threads cannot be started. [`Error::Internal`] if one of them has panicked, which
    /// is a bug of heartwire: all connections were cut then, and reported.
    pub fn serve<H>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        let Self { listener, hub, receivers, settings, max_connections, text_heartbeat, rules, .. } = self;
        let (staff, stop) = Staff::start(&hub, receivers, settings.close_timeout)?;

        let site = Arc::new(Site {
            hub: Arc::clone(&hub),
            settings,
            max_connections,
            text_heartbeat,
            rules,
            handler,
            places: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
        });
        let mut arrivals = 0;
        let accepted = foreign::call(|| {
            accept::run(&listener, &hub, &stop, |stream, peer| {
                arrivals += 1;
                site.start(Arrival::new(arrivals, peer, stream))
            });
        });
        if let Err(message) = accepted {
            hub.fail("the accept loop", &message);
        }
        // From here on clients are refused by the system.
        drop(listener);
        hub.accept_ends();
        staff.join(&hub)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Server");
        fields.field("address", &self.address).field("settings", &self.settings);
        fields.field("max_connections", &self.max_connections).field("text_heartbeat", &self.text_heartbeat);
        fields.finish_non_exhaustive()
    }
}

/// What all connection threads share.
struct Site<H> {
    hub: Arc<Hub>,
    settings: Settings,
    max_connections: usize,
    text_heartbeat: bool,
    rules: Rules,
    handler: H,
    /// Connections, and handshakes that may come to one.
    places: AtomicUsize,
    /// Threads that only have a refusal to deliver.
    refusing: AtomicUsize,
    /// The number of the newest connection.
    last_id: AtomicU64,
}

/// A connection's thread, from its start to its end, whatever ends it.
struct Slot<H> {
    site: Arc<Site<H>>,
    arrival: Arc<Arrival>,
    /// The connection's number, once it has opened.
    id: Option<ConnectionId>,
    /// Whether it is counted among the places, or among those that refuse.
    has_place: bool,
}

impl<H> Slot<H> {
    /// Gives its place to somebody else: this one will not become a connection any more.
    fn leave_place(&mut self) {
        if std::mem::take(&mut self.has_place) {
            self.site.refusing.fetch_add(1, Relaxed);
            self.site.places.fetch_sub(1, Relaxed);
        }
    }

    fn failed(&self, remote: Remote, failure: Box<Failure>) {
        self.site.hub.notify(Notice::HandshakeFailed { remote, failure });
    }
}

impl<H> Drop for Slot<H> {
    fn drop(&mut self) {
        let counter = if self.has_place { &self.site.places } else { &self.site.refusing };
        counter.fetch_sub(1, Relaxed);
        self.site.hub.notify(match self.id {
            Some(id) => Notice::ThreadEnds { id },
            None => Notice::ArrivalEnds { number: self.arrival.number },
        });
    }
}

impl<H> Site<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// Over the limit, so many threads may tell clients so. Beyond, clients are dropped without a word.
    const MOST_REFUSING: usize = 64;

    /// Called by the accept loop alone, so nobody else takes a place between the look and the taking.
    fn start(self: &Arc<Self>, arrival: Arrival) -> io::Result<()> {
        let has_place = self.places.load(Relaxed) < self.max_connections;
        let counter = if has_place { &self.places } else { &self.refusing };
        let before = counter.fetch_add(1, Relaxed);
        let arrival = Arc::new(arrival);
        self.hub.notify(Notice::Accepted(Arc::clone(&arrival)));
        let peer = arrival.peer;
        // Counts down again, here or in the thread.
        let slot = Slot { site: Arc::clone(self), arrival, id: None, has_place };
        if !has_place && before >= Self::MOST_REFUSING {
            self.hub.count(|stats| stats.refused += 1);
            slot.failed(peer.into(), Failure::early(None, TOO_MANY));
            return Ok(());
        }
        let builder = thread::Builder::new().name("heartwire-conn".to_owned()).stack_size(self.settings.stack_size);
        builder.spawn(move || slot.run())?;
        Ok(())
    }
}

impl<H> Slot<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// The thread. What its stack was once used for stays resident for as long as it lives, so its three parts are not
    /// inlined, and their frames lie over one another.
    fn run(mut self) {
        let arrival = Arc::clone(&self.arrival);
        let (remote, outcome) = match tcp::prepare(&arrival.stream) {
            Ok(()) => {
                let deadline = Instant::now() + self.site.settings.handshake_timeout;
                handshake::perform(&arrival, &self.site.rules, deadline, !self.has_place, &self.site.last_id)
            }
            Err(error) => (arrival.peer.into(), Outcome::Failed(Failure::early(None, error.to_string()))),
        };
        if let Some(mut connection) = self.enter(&arrival.stream, remote, outcome) {
            self.handle(&mut connection);
        }
        // This may be the last who has the application's functions, if the server has left its thread behind.
        let site = Arc::clone(&self.site);
        drop(self);
        foreign::dispose(site);
    }

    /// From the handshake to a connection, or to the end of what there is to say.
    #[inline(never)]
    fn enter(&mut self, stream: &Arc<TcpStream>, remote: Remote, outcome: Outcome) -> Option<Box<Connection>> {
        match outcome {
            Outcome::Plain(plain) => {
                self.site.hub.log.debug(format_args!("{remote} {plain}"));
                self.site.hub.count(|stats| match plain.is_unclaimed {
                    true => stats.http_unclaimed += 1,
                    false => stats.http_requests += 1,
                });
                self.let_go(stream, plain.answer.is_ok());
            }
            Outcome::Nothing { is_there } => {
                self.site.hub.log.debug(format_args!("{remote} connected, and sent no request"));
                self.site.hub.count(|stats| stats.without_request += 1);
                self.let_go(stream, is_there);
            }
            Outcome::Failed(failure) => {
                if !self.has_place {
                    self.site.hub.count(|stats| stats.refused += 1);
                }
                let is_there = failure.status.is_some();
                self.failed(remote, failure);
                self.let_go(stream, is_there);
            }
            Outcome::Upgraded { id, request, accept, tail } => {
                let heartbeat = accept.heartbeat.unwrap_or(self.site.settings.heartbeat);
                let link = self.link(id, stream, &request, accept.takes_broadcasts);
                match self.open(&link, stream, request, &accept, heartbeat, &tail) {
                    Ok(connection) => {
                        link.is_open();
                        self.id = Some(id);
                        // After the notice that it is open, so that the supervisor always knows it as one or the other.
                        self.site.hub.notify(Notice::ArrivalEnds { number: self.arrival.number });
                        if is_agreed(&accept) {
                            // The greeting. If it cannot be written, the first read will tell why.
                            let _ = link.flush();
                        }
                        return Some(connection);
                    }
                    Err(error) => self.failed(remote, Failure::early(None, error.to_string())),
                }
            }
        }
        None
    }

    /// It becomes no connection. Whoever was answered is given the time to take the answer.
    fn let_go(&mut self, stream: &TcpStream, was_answered: bool) {
        self.leave_place();
        if was_answered {
            tcp::discard_to_end(stream, Instant::now() + handshake::LINGER);
        }
    }

    #[inline(never)]
    fn open(
        &self,
        link: &Arc<Link>,
        stream: &Arc<TcpStream>,
        request: Request,
        accept: &Accept,
        heartbeat: HeartbeatPolicy,
        tail: &[u8],
    ) -> io::Result<Box<Connection>> {
        let settings = &self.site.settings;
        link.count_bytes_in(tail.len(), link.opened);
        let decoder = Decoder::new(Role::Server, tail, settings.read_buffer_size, settings.max_message_size);
        let inbound = Inbound::new(Arc::clone(stream), decoder)?;
        let text_heartbeat = self.site.text_heartbeat || is_agreed(accept);
        if is_agreed(accept) {
            // Before anybody knows of the connection, so that nothing gets ahead of it.
            link.greet(format!("heartwire {}", heartbeat.to_json(link.id)));
        }
        let connection =
            Connection::new(Arc::clone(link), inbound, heartbeat, request, accept.subprotocol.clone(), text_heartbeat);
        Ok(Box::new(connection))
    }

    #[inline(never)]
    fn link(&self, id: ConnectionId, stream: &Arc<TcpStream>, request: &Request, takes_broadcasts: bool) -> Arc<Link> {
        let settings = &self.site.settings;
        Arc::new(Link::new(Opening {
            role: Role::Server,
            id,
            remote: request.remote(),
            target: request.target().into(),
            stream: Arc::clone(stream),
            settings,
            takes_broadcasts,
            hub: Arc::clone(&self.site.hub),
        }))
    }

    /// Calls the handler, and closes when it is done.
    #[inline(never)]
    fn handle(&self, connection: &mut Connection) {
        let reason = match foreign::call(|| (self.site.handler)(connection)) {
            Ok(Ok(())) => CloseReason::Local { code: CloseCode::NORMAL, reason: String::new() },
            // This connection's own end; it is over already, or the reason is known.
            Ok(Err(Error::Closed(reason))) if connection.is_closing() => reason,
            Ok(Err(error)) => {
                let text = foreign::in_words(&error);
                foreign::dispose(error);
                CloseReason::HandlerFailed(text)
            }
            Err(message) => CloseReason::HandlerPanicked(message),
        };
        connection.conclude(reason);
    }
}

/// Whether the client has agreed to beat in text.
fn is_agreed(accept: &Accept) -> bool {
    accept.subprotocol.as_deref() == Some(TEXT_HEARTBEAT)
}

//! The life of a connection's thread on a server: a place, the opening handshake, the handler, the end.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use crate::connection::Connection;
use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::shared::{NewConnection, Shared};
use crate::error::Error;
use crate::foreign;
use crate::heartbeat::HeartbeatPolicy;
use crate::http::forwarded::Remote;
use crate::http::request::Request;
use crate::protocol::close::{CloseCode, CloseReason};
use crate::protocol::decoder::Decoder;
use crate::protocol::frame::Role;
use crate::server::accept::Accept;
use crate::server::addresses::{Addresses, Counted};
use crate::server::handshake;
use crate::server::handshake::{Full, HandshakeConfig, Outcome, TEXT_HEARTBEAT};
use crate::server::lobby::{Lobby, Seat};
use crate::settings::Settings;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::transport::read_half::ReadHalf;
use crate::transport::socket;

/// What all connection threads share.
pub(super) struct ServerInner<H> {
    pub(super) supervisor: Arc<SupervisorHandle>,
    pub(super) settings: Arc<Settings>,
    pub(super) max_connections: usize,
    pub(super) text_heartbeat: bool,
    pub(super) config: HandshakeConfig,
    pub(super) handler: H,
    /// Connections, and handshakes that may come to one.
    pub(super) places: AtomicUsize,
    /// Those that have no place.
    pub(super) lobby: Arc<Lobby>,
    /// Where connections of an address are limited.
    pub(super) addresses: Option<Arc<Addresses>>,
    /// The number of the newest connection.
    pub(super) last_id: AtomicU64,
}

/// A connection's thread, from its start to its end, whatever ends it.
struct ConnectionThread<H> {
    server: Arc<ServerInner<H>>,
    pending: Arc<PendingHandshake>,
    /// The connection's number, once it has opened.
    id: Option<ConnectionId>,
    standing: Standing,
    /// Its place in the count of its client's address.
    counted: Option<Counted>,
    /// Whether it was refused because there was no room.
    was_refused: bool,
}

/// What a client is counted among.
enum Standing {
    /// Connections, and those that may become one.
    Place,
    /// Those that came when there was none left, for this reason.
    Late { full: Full, _seat: Seat },
    /// Those that will not become one any more.
    Done { _seat: Option<Seat> },
}

impl<H> ConnectionThread<H> {
    /// Gives its place to somebody else: this one will not become a connection any more. Whether it may stay to be hung up
    /// on in good order.
    fn leave_place(&mut self) -> bool {
        if !matches!(self.standing, Standing::Place) {
            return true;
        }
        self.pending.heard();
        let seat = self.server.lobby.enter(&self.pending);
        let stays = seat.is_some();
        self.standing = Standing::Done { _seat: seat };
        self.server.places.fetch_sub(1, Relaxed);
        self.counted = None;
        stays
    }

    /// Whether one more connection of this client can be let in.
    fn find_room(&mut self, client: IpAddr) -> Result<(), Full> {
        let found = self.look_for_room(client);
        self.was_refused = found.is_err();
        found
    }

    fn look_for_room(&mut self, client: IpAddr) -> Result<(), Full> {
        if let Standing::Late { full, .. } = self.standing {
            return Err(full);
        }
        if self.counted.is_none()
            && let Some(addresses) = &self.server.addresses
        {
            self.counted = Some(addresses.count(client).ok_or(Full::Address)?);
        }
        Ok(())
    }

    fn failed(&self, remote: Remote, failure: Box<HandshakeFailure>) {
        self.server.supervisor.notify(Notice::HandshakeFailed { remote, failure });
    }
}

impl<H> Drop for ConnectionThread<H> {
    fn drop(&mut self) {
        if let Standing::Place = self.standing {
            self.server.places.fetch_sub(1, Relaxed);
        }
        self.server.supervisor.notify(match self.id {
            Some(id) => Notice::ThreadEnds { id, heard: None },
            None => Notice::HandshakeEnds { number: self.pending.number },
        });
    }
}

impl<H> ServerInner<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// Called by the accept loop alone, so nobody else takes a place between the look and the taking.
    pub(super) fn start(self: &Arc<Self>, pending: PendingHandshake) -> io::Result<()> {
        let pending = Arc::new(pending);
        self.supervisor.notify(Notice::Accepted(Arc::clone(&pending)));
        let mut thread = ConnectionThread {
            server: Arc::clone(self),
            pending,
            id: None,
            standing: Standing::Done { _seat: None },
            counted: None,
            was_refused: false,
        };
        let peer = thread.pending.peer;
        match self.take_place(peer) {
            Ok(counted) => (thread.standing, thread.counted) = (Standing::Place, counted),
            Err(full) => match self.lobby.enter(&thread.pending) {
                Some(seat) => thread.standing = Standing::Late { full, _seat: seat },
                None => {
                    self.supervisor.count(|stats| stats.refused += 1);
                    thread.failed(peer.into(), HandshakeFailure::early(None, full.reason()));
                    return Ok(());
                }
            },
        }
        let builder = thread::Builder::new().name("heartwire-conn".to_owned()).stack_size(self.settings.stack_size);
        builder.spawn(move || thread.run())?;
        Ok(())
    }

    /// A place for one more, and in the count of its address if that can be told already.
    fn take_place(&self, peer: SocketAddr) -> Result<Option<Counted>, Full> {
        if self.places.load(Relaxed) >= self.max_connections {
            return Err(Full::Server);
        }
        let addresses = self.addresses.as_ref().filter(|_| !self.config.trusted.speaks_for_others(peer));
        let counted = match addresses {
            Some(addresses) => Some(addresses.count(peer.ip()).ok_or(Full::Address)?),
            None => None,
        };
        self.places.fetch_add(1, Relaxed);
        Ok(counted)
    }
}

impl<H> ConnectionThread<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// The thread. What its stack was once used for stays resident for as long as it lives, so its three parts are not
    /// inlined, and their frames lie over one another.
    fn run(mut self) {
        let pending = Arc::clone(&self.pending);
        let (remote, outcome) = match socket::set_options(&pending.stream) {
            Ok(()) => {
                let deadline = Instant::now() + self.server.settings.handshake_timeout;
                let server = Arc::clone(&self.server);
                let find_room = |client| self.find_room(client);
                handshake::perform(&pending, &server.config, deadline, find_room, &server.last_id)
            }
            Err(error) => (pending.peer.into(), Outcome::Failed(HandshakeFailure::early(None, error.to_string()))),
        };
        if let Some(mut connection) = self.enter(&pending.stream, remote, outcome) {
            self.handle(&mut connection);
        }
        // This may be the last who has the application's functions, if the server has left its thread behind.
        let server = Arc::clone(&self.server);
        drop(self);
        foreign::dispose(server);
    }

    /// From the handshake to a connection, or to the end of what there is to say.
    #[inline(never)]
    fn enter(&mut self, stream: &Arc<TcpStream>, remote: Remote, outcome: Outcome) -> Option<Box<Connection>> {
        match outcome {
            Outcome::Nothing { .. } | Outcome::Failed(_) if self.pending.was_dropped() => {
                self.server.supervisor.count(|stats| stats.refused += 1);
                self.failed(remote, HandshakeFailure::early(None, "dropped: it was silent for longest among too many"));
            }
            Outcome::Plain(plain) => {
                self.server.supervisor.log.debug(format_args!("{remote} {plain}"));
                self.server.supervisor.count(|stats| match plain.is_unclaimed {
                    true => stats.http_unclaimed += 1,
                    false => stats.http_requests += 1,
                });
                self.let_go(plain.answer.is_ok());
            }
            Outcome::Nothing { is_there } => {
                self.server.supervisor.log.debug(format_args!("{remote} connected, and sent no request"));
                self.server.supervisor.count(|stats| stats.without_request += 1);
                self.let_go(is_there);
            }
            Outcome::Failed(failure) => {
                if self.was_refused {
                    self.server.supervisor.count(|stats| stats.refused += 1);
                }
                let is_there = failure.status.is_some();
                self.failed(remote, failure);
                self.let_go(is_there);
            }
            Outcome::Upgraded { id, request, accept, tail } => {
                let heartbeat = accept.heartbeat.unwrap_or(self.server.settings.heartbeat);
                let shared = self.shared(id, stream, &request, accept.takes_broadcasts);
                match self.open(&shared, stream, request, &accept, heartbeat, &tail) {
                    Ok(connection) => {
                        shared.announce_open();
                        self.id = Some(id);
                        // After the notice that it is open, so that the supervisor always knows it as one or the other.
                        self.server.supervisor.notify(Notice::HandshakeEnds { number: self.pending.number });
                        if is_agreed(&accept) {
                            // The greeting. If it cannot be written, the first read will tell why.
                            let _ = shared.flush();
                        }
                        return Some(connection);
                    }
                    Err(error) => self.failed(remote, HandshakeFailure::early(None, error.to_string())),
                }
            }
        }
        None
    }

    /// It becomes no connection. Whoever was answered is given the time to take the answer.
    fn let_go(&mut self, was_answered: bool) {
        if was_answered && self.leave_place() {
            let pending = &self.pending;
            socket::discard_to_end(&pending.stream, Instant::now() + handshake::LINGER, || pending.heard());
        }
    }

    #[inline(never)]
    fn open(
        &self,
        shared: &Arc<Shared>,
        stream: &Arc<TcpStream>,
        request: Request,
        accept: &Accept,
        heartbeat: HeartbeatPolicy,
        tail: &[u8],
    ) -> io::Result<Box<Connection>> {
        let settings = &self.server.settings;
        shared.stats.count_bytes_in(tail.len(), shared.stats.opened);
        let decoder = Decoder::new(Role::Server, tail, settings.read_buffer_size, settings.max_message_size);
        let read_half = ReadHalf::new(Arc::clone(stream), decoder)?;
        let text_heartbeat = self.server.text_heartbeat || is_agreed(accept);
        if is_agreed(accept) {
            // Before anybody knows of the connection, so that nothing gets ahead of it.
            shared.greet(format!("heartwire {}", heartbeat.to_json(shared.id())));
        }
        let connection = Connection::new(
            Arc::clone(shared),
            read_half,
            heartbeat,
            request,
            accept.subprotocol.clone(),
            text_heartbeat,
        );
        Ok(Box::new(connection))
    }

    #[inline(never)]
    fn shared(
        &self,
        id: ConnectionId,
        stream: &Arc<TcpStream>,
        request: &Request,
        takes_broadcasts: bool,
    ) -> Arc<Shared> {
        let settings = &self.server.settings;
        Arc::new(Shared::new(NewConnection {
            role: Role::Server,
            identity: Identity { id, remote: request.remote() },
            target: request.target().into(),
            stream: Arc::clone(stream),
            settings: Arc::clone(settings),
            takes_broadcasts,
            supervisor: Arc::clone(&self.server.supervisor),
        }))
    }

    /// Calls the handler, and closes when it is done.
    #[inline(never)]
    fn handle(&self, connection: &mut Connection) {
        let reason = match foreign::call(|| (self.server.handler)(connection)) {
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

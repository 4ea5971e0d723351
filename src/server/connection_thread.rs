//! The thread of a connection on a server, from its start to its end: plain requests, the opening handshake, the
//! handler, the closing handshake.
//!
//! What a stack was once used for stays resident as long as its thread lives. So the parts of a thread's life are not
//! inlined into one another, and their stack frames overlap.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use crate::atomic::AtomicU64;
use crate::connection::Connection;
use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::receiving_end::ReceivingEnd;
use crate::connection::shared::{NewConnection, Shared};
use crate::error::Error;
use crate::foreign;
use crate::heartbeat::HeartbeatPolicy;
use crate::http::forwarded::Remote;
use crate::http::request::{Request, RequestTarget};
use crate::protocol::close::CloseReason;
use crate::protocol::frame::Role;
use crate::server::accept::Accept;
use crate::server::accept_loop;
use crate::server::admission::{Admission, Limits};
use crate::server::exchange::{self, Exchange, Next, Session};
use crate::server::handshake::{self, HandshakeConfig, Outcome, Upgraded};
use crate::server::idle_threads::IdleThreads;
use crate::server::listener::Listener;
use crate::server::listeners::ActiveListener;
use crate::server::probe::Probes;
use crate::settings::Settings;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::transport::socket;
use crate::transport::stream::Stream;

/// What all connection threads share.
pub(super) struct ServerInner<H> {
    pub(super) supervisor: Arc<SupervisorHandle>,
    pub(super) probes: Arc<Probes>,
    pub(super) settings: Arc<Settings>,
    pub(super) limits: Arc<Limits>,
    pub(super) config: HandshakeConfig,
    pub(super) handler: H,
    /// One for each listener.
    pub(super) listeners: Vec<ListenerState>,
    /// How many clients have connected.
    pub(super) accepted: AtomicU64,
    /// The number of the newest connection.
    pub(super) last_id: AtomicU64,
}

/// What belongs to one listener, for the connections that came from there.
pub(super) struct ListenerState {
    /// Whether connections have our socket options from the start.
    is_prepared: bool,
    /// Whether others may share the listener. Its clients are let in even if the server drains by now.
    is_shared: bool,
    idle_threads: IdleThreads,
}

impl ListenerState {
    pub(super) fn new(listener: &Arc<Listener>) -> Self {
        Self {
            is_prepared: listener.is_prepared,
            is_shared: !listener.is_ours,
            idle_threads: IdleThreads::new(Arc::downgrade(listener)),
        }
    }
}

/// A client, with all that its thread does for it. Dropping it reports that the thread is done with it, for whatever
/// reason.
struct ServedClient<H> {
    server: Arc<ServerInner<H>>,
    /// Which listener it came in at.
    listener: usize,
    pending: Arc<PendingHandshake>,
    /// The connection's number, once it has opened.
    id: Option<ConnectionId>,
    admission: Admission,
}

impl<H> Drop for ServedClient<H> {
    fn drop(&mut self) {
        self.admission.free_connection();
        let supervisor = &self.server.supervisor;
        supervisor.notify(match self.id {
            Some(id) => {
                supervisor.directory.remove(id);
                Notice::ThreadEnds { id, heard: None }
            }
            None => Notice::HandshakeEnds { number: self.pending.number },
        });
    }
}

impl<H> ServerInner<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// Accepts clients at all listeners, each in a thread of its own, until the server ends.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started. Then the server ends.
    pub(super) fn accept_at_all(self: &Arc<Self>, listeners: Vec<ActiveListener>) -> io::Result<()> {
        thread::scope(|scope| {
            let mut listeners = listeners.into_iter().enumerate();
            let first = listeners.next();
            let others = listeners.try_for_each(|(index, active)| {
                let builder = thread::Builder::new().name("heartwire-accept".to_owned());
                builder.spawn_scoped(scope, move || self.accept_at(index, active)).map(drop)
            });
            if others.is_err() {
                self.supervisor.end();
            }
            if let Some((index, active)) = first {
                self.accept_at(index, active);
            }
            others
        })
    }

    fn accept_at(self: &Arc<Self>, index: usize, active: ActiveListener) {
        let ActiveListener { listener, stop } = active;
        let idle_threads = &self.listeners[index].idle_threads;
        let looped = foreign::call(|| {
            let start = |stream, peer| self.start(index, stream, peer);
            accept_loop::run(&listener, idle_threads, &self.supervisor, &stop, start);
        });
        if let Err(message) = looped {
            self.supervisor.fail("the accept loop", &message);
        }
        // From here on the system refuses clients.
        drop(listener);
        idle_threads.wait_until_none();
    }

    /// Starts the thread of a client that has just connected. Returns whether it needed one.
    ///
    /// # Errors
    /// The system's error if the thread cannot be started.
    fn start(self: &Arc<Self>, listener: usize, stream: Stream, peer: SocketAddr) -> io::Result<bool> {
        let Some(client) = self.admit(listener, stream, peer) else { return Ok(false) };
        let server = Arc::clone(self);
        let builder = thread::Builder::new().name("heartwire-conn".to_owned()).stack_size(self.settings.stack_size);
        builder.spawn(move || server.run_thread(client)).map(|_| true)
    }

    /// Serves a client, and then others as long as they come.
    fn run_thread(self: Arc<Self>, first: Box<ServedClient<H>>) {
        let listener = first.listener;
        let idle_threads = &self.listeners[listener].idle_threads;
        let mut client = Some(first);
        loop {
            let was_found_dead = client.take().is_some_and(|mut client| client.serve());
            let admit = |stream, peer| self.admit(listener, stream, peer);
            let Some(admitted) = idle_threads.accept(&self.supervisor, was_found_dead, admit) else { break };
            client = admitted;
        }
        // If the server has abandoned this thread, it may own the last reference to the application's functions.
        foreign::dispose(self);
    }

    /// Admits a client that has just connected. `None` if it was refused without a word, or is a probe of our own.
    #[inline(never)]
    fn admit(self: &Arc<Self>, listener: usize, stream: Stream, peer: SocketAddr) -> Option<Box<ServedClient<H>>> {
        if self.probes.is_one(peer, &stream) {
            return None;
        }
        let number = self.accepted.fetch_add(1, Relaxed) + 1;
        let pending = Arc::new(PendingHandshake::new(number, peer, stream));
        self.supervisor.notify(Notice::Accepted(Arc::clone(&pending)));
        let is_proxy = self.config.trusted.speaks_for_others(peer);
        let is_late = self.supervisor.is_draining() && !self.listeners[listener].is_shared;
        match self.limits.admit(&pending, is_proxy, is_late) {
            // Boxed, for what a thread is given is moved over its stack more than once.
            Ok(admission) => {
                Some(Box::new(ServedClient { server: Arc::clone(self), listener, pending, id: None, admission }))
            }
            Err(limit) => {
                self.supervisor.count(|stats| stats.refused += 1);
                let failure = HandshakeFailure::without_request(None, limit.reason());
                self.supervisor.notify(Notice::HandshakeFailed { remote: peer.into(), failure });
                self.supervisor.notify(Notice::HandshakeEnds { number });
                None
            }
        }
    }
}

impl<H> ServedClient<H>
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    /// Returns whether it became a connection whose peer was found dead.
    #[inline(never)]
    fn serve(&mut self) -> bool {
        let Some(mut connection) = self.meet() else { return false };
        self.handle(&mut connection);
        connection.reason().is_death()
    }

    /// Answers the client's plain requests, until one is an opening handshake that makes it a connection.
    #[inline(never)]
    fn meet(&mut self) -> Option<Box<Connection>> {
        let pending = Arc::clone(&self.pending);
        if let Err(error) = self.prepare(&pending.stream) {
            self.report_failure(pending.peer.into(), HandshakeFailure::without_request(None, error.to_string()));
            return None;
        }
        let mut session = Session::default();
        loop {
            let (remote, outcome) = self.exchange(&mut session);
            let is_kept = matches!(&outcome, Outcome::PlainHttp(plain) if plain.is_kept);
            let connection = self.conclude(&pending.stream, remote, outcome);
            if !is_kept || !self.await_next(&mut session) {
                return connection;
            }
        }
    }

    /// Reads one request and responds to it.
    #[inline(never)]
    fn exchange(&mut self, session: &mut Session) -> (Remote, Outcome) {
        let server = Arc::clone(&self.server);
        let is_kept_so_long = !server.config.keep_alive_timeout.is_zero() && self.admission.may_be_kept();
        let exchange = Exchange {
            pending: &Arc::clone(&self.pending),
            config: &server.config,
            deadline: Instant::now() + server.settings.handshake_timeout,
            may_keep: &|| is_kept_so_long && !server.supervisor.is_draining() && !server.supervisor.is_ending(),
        };
        // A client that came before the drain may still connect by its first request, but not by a later one.
        let is_late = session.answered > 0 && server.supervisor.is_draining();
        let check_limits = |client| self.admission.check(client, is_late);
        handshake::perform(&exchange, session, check_limits, &server.last_id)
    }

    /// Waits for the next request of a client whose connection is kept. `false` if it does not come.
    #[inline(never)]
    fn await_next(&mut self, session: &mut Session) -> bool {
        let pending = Arc::clone(&self.pending);
        self.admission.rest(&pending);
        // From here on a shutdown finds the client idle, and hangs up. One that began before has not.
        let next = match self.server.supervisor.is_ending() {
            true => Next::Nothing,
            false => {
                let until = Instant::now() + self.server.config.keep_alive_timeout;
                exchange::wait_for_next(&pending, session, until)
            }
        };
        let has_slot = self.admission.resume();
        if has_slot && next == Next::Request {
            return true;
        }
        let (peer, answered) = (Remote::from(pending.peer), session.answered);
        let why = match next {
            _ if !has_slot => "was dropped for another client",
            Next::End => "hung up",
            Next::Nothing | Next::Request => "sent no more",
        };
        self.server.supervisor.log.debug(format_args!("{peer} {why} after plain requests: {answered}"));
        // Also to a client that hangs up: it may have said no more than that it sends nothing.
        let is_told = pending.stream.end_writing().is_ok();
        self.linger(has_slot && next == Next::Nothing && is_told);
        false
    }

    /// Sets the socket's options, unless the listener has passed them on.
    fn prepare(&self, stream: &Stream) -> io::Result<()> {
        if self.server.listeners[self.listener].is_prepared { Ok(()) } else { socket::set_options(stream) }
    }

    /// Makes a connection of a complete handshake. Logs, counts and reports any other outcome.
    #[inline(never)]
    fn conclude(&mut self, stream: &Arc<Stream>, remote: Remote, outcome: Outcome) -> Option<Box<Connection>> {
        match outcome {
            Outcome::NoRequest { .. } | Outcome::Failed(_) if self.pending.was_evicted() => {
                self.server.supervisor.count(|stats| stats.refused += 1);
                let reason = "dropped: too many clients were waiting, and it was silent for longest";
                self.report_failure(remote, HandshakeFailure::without_request(None, reason));
            }
            Outcome::PlainHttp(plain) => {
                self.server.supervisor.log.debug(format_args!("{remote} {plain}"));
                self.server.supervisor.count(|stats| match plain.is_unclaimed {
                    true => stats.http_unclaimed += 1,
                    false => stats.http_requests += 1,
                });
                self.linger(plain.answer.is_ok() && !plain.is_kept);
            }
            Outcome::NoRequest { is_there } => {
                self.server.supervisor.log.debug(format_args!("{remote} connected and sent no request"));
                self.server.supervisor.count(|stats| stats.without_request += 1);
                self.linger(is_there);
            }
            Outcome::Failed(failure) => {
                if self.admission.was_refused() {
                    self.server.supervisor.count(|stats| stats.refused += 1);
                }
                let is_there = failure.status.is_some();
                self.report_failure(remote, failure);
                self.linger(is_there);
            }
            Outcome::Upgraded(upgraded) => {
                let Upgraded { id, request, accept, tail } = *upgraded;
                let heartbeat = accept.heartbeat.unwrap_or(self.server.settings.heartbeat);
                let answers_texts = self.server.config.takes_text_heartbeat(&accept);
                let shared = self.shared(id, stream, &request, &accept);
                let receiving = ReceivingEnd::open(&shared, Role::Server, stream, &tail, heartbeat, answers_texts);
                return Some(self.open(shared, receiving, request, accept, heartbeat));
            }
        }
        None
    }

    fn report_failure(&self, remote: Remote, failure: Box<HandshakeFailure>) {
        self.server.supervisor.notify(Notice::HandshakeFailed { remote, failure });
    }

    /// Waits until a client that becomes no connection has taken its answer and hung up.
    fn linger(&mut self, was_answered: bool) {
        if was_answered && self.admission.move_to_overflow(&self.pending) {
            let pending = &self.pending;
            socket::discard_to_end(&pending.stream, Instant::now() + exchange::LINGER, || pending.mark_heard());
        }
    }

    /// The connection is complete: the supervisor and the stand-in learn of it.
    #[inline(never)]
    #[allow(clippy::boxed_local, reason = "it would be moved over the stack")]
    fn open(
        &mut self,
        shared: Arc<Shared>,
        receiving: Box<ReceivingEnd>,
        request: Request,
        accept: Box<Accept>,
        heartbeat: HeartbeatPolicy,
    ) -> Box<Connection> {
        let is_greeted = accept.has_text_heartbeat();
        if is_greeted {
            // Before anybody knows of the connection, so that the greeting is its first message.
            shared.feed_first(format!("heartwire {}", heartbeat.to_json(shared.id())));
        }
        let connection = Connection::new(Arc::clone(&shared), receiving, request, accept.subprotocol, accept.attached);
        // Before anybody learns of it, so that whoever does can send to it.
        self.server.supervisor.directory.add(&shared);
        shared.announce_open();
        self.id = Some(shared.id());
        // After the notice that it is open, so that the supervisor always knows of the client.
        self.server.supervisor.notify(Notice::HandshakeEnds { number: self.pending.number });
        if is_greeted {
            // Sends the greeting. If it cannot be written, the first read reports why.
            let _ = shared.flush();
        }
        Box::new(connection)
    }

    #[inline(never)]
    fn shared(&self, id: ConnectionId, stream: &Arc<Stream>, request: &Request, accept: &Accept) -> Arc<Shared> {
        let settings = &self.server.settings;
        Arc::new(Shared::new(NewConnection {
            role: Role::Server,
            identity: Identity { id, remote: request.remote() },
            target: RequestTarget::redacted(request.target(), &self.server.config.redacted),
            // An invalid name was refused in the handshake.
            user: accept.user_name().ok().flatten(),
            certificate: request.certificate().clone(),
            #[cfg(feature = "deflate")]
            agreed: accept.agreed,
            stream: Arc::clone(stream),
            settings: Arc::clone(settings),
            takes_broadcasts: accept.takes_broadcasts,
            shares_frames: accept.takes_broadcasts || accept.has_topics(),
            supervisor: Arc::clone(&self.server.supervisor),
        }))
    }

    /// Calls the handler, and closes the connection after it.
    #[inline(never)]
    fn handle(&self, connection: &mut Connection) {
        let handled = foreign::call(|| self.call_handler(connection));
        let reason = match handled {
            Ok(Ok(())) => CloseReason::normal(),
            // The handler returned the end of this very connection, whose reason is known.
            Ok(Err(Error::Closed(reason))) if connection.is_closing() => reason,
            Ok(Err(error)) => {
                let text = foreign::display_text(&error);
                foreign::dispose(error);
                CloseReason::HandlerFailed(text)
            }
            Err(message) => CloseReason::HandlerPanicked(message),
        };
        connection.conclude(reason);
        #[cfg(feature = "topics")]
        connection.shared().tell_thread_ends();
    }

    /// Calls whoever handles connections of this path: the server itself, or the application.
    fn call_handler(&self, connection: &mut Connection) -> Result<(), Error> {
        let HandshakeConfig { routes, .. } = &self.server.config;
        if let Some(stream) = routes.stream(connection.path()) {
            return stream.run(connection);
        }
        #[cfg(feature = "topics")]
        if let Some(hub) = &self.server.config.topics
            && let Some(outcome) = super::topics::handle(hub, connection)
        {
            return outcome;
        }
        (self.server.handler)(connection)
    }
}

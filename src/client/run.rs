//! A running client: it connects, hands the connection to the handler, and decides what follows its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::client::backoff::{Backoff, Failures, Hint};
use crate::client::dial::Dialed;
use crate::client::handle::ClientState;
use crate::client::target::Target;
use crate::connection::Connection;
use crate::connection::attached::Attached;
use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::receiving_end::ReceivingEnd;
use crate::connection::shared::{NewConnection, Shared};
use crate::error::{ConnectError, Error};
use crate::foreign;
use crate::http::request::PeerCertificate;
use crate::protocol::close::{CloseCode, CloseReason, is_to_reconnect_at_once};
use crate::protocol::frame::Role;
use crate::settings::Settings;
use crate::supervisor::event::Event;

/// A running client.
pub(super) struct Run<'a, H> {
    pub(super) target: Arc<Target>,
    pub(super) settings: Arc<Settings>,
    pub(super) backoff: Option<Backoff>,
    pub(super) state: Arc<ClientState>,
    pub(super) woken: channel::Receiver<()>,
    pub(super) last_id: ConnectionId,
    pub(super) handler: &'a mut H,
}

/// How a connection or an attempt ended, for the loop that decides what comes next.
enum Outcome {
    /// The client ends with this result.
    Done(Result<(), Error>),
    /// The next attempt may succeed.
    Lost(Hint),
}

impl<H> Run<'_, H>
where
    H: FnMut(&mut Connection) -> Result<(), Error>,
{
    pub(super) fn until_done(&mut self) -> Result<(), Error> {
        let mut failures = Failures::new(self.backoff.unwrap_or_default());
        let mut refused_with = None;
        while !self.is_stopping() {
            let attempt = failures.next_attempt();
            self.state.supervisor.subscribers.publish(|| Event::Connecting { attempt });
            let outcome = match self.dial(attempt, refused_with.take()) {
                None => break,
                Some(Ok(dialed)) => {
                    let opened = Instant::now();
                    let outcome = self.handle(dialed)?;
                    failures.was_open_for(opened.elapsed());
                    outcome
                }
                Some(Err(error)) => {
                    if let ConnectError::Refused { status, .. } = error {
                        refused_with = Some(status);
                    }
                    self.not_connected(error)
                }
            };
            match outcome {
                Outcome::Done(result) => return result,
                Outcome::Lost(hint) => self.pause(hint, failures.next_delay(hint, rand::random())),
            }
        }
        Ok(())
    }

    /// Whether to make no more attempts.
    fn is_stopping(&self) -> bool {
        self.state.is_stopping() || self.state.supervisor.is_ending()
    }

    /// Makes one attempt. `None` if the client was stopped meanwhile; the attempt then ends by itself.
    fn dial(&self, attempt: u32, refused_with: Option<u16>) -> Option<Result<Dialed, ConnectError>> {
        let (done, dialed) = channel::bounded(1);
        let (target, state) = (Arc::clone(&self.target), Arc::clone(&self.state));
        let handshake_timeout = self.settings.handshake_timeout;
        let dialer = thread::Builder::new().name("heartwire-dial".into()).spawn(move || {
            let prepared = target.prepared(attempt, refused_with);
            // That may have taken long, and a client that was stopped meanwhile must not connect to its server.
            if state.is_stopping() {
                foreign::dispose(prepared);
            } else {
                // `send` gives it back if the client no longer waits for it.
                foreign::dispose(done.send(prepared.and_then(|target| target.dial(handshake_timeout))));
            }
            // This may be the last reference to the application's functions.
            foreign::dispose(target);
        });
        if let Err(error) = dialer {
            return Some(Err(ConnectError::Unreachable(error)));
        }
        loop {
            channel::select! {
                recv(dialed) -> result => return match result {
                    Ok(dialed) => Some(dialed),
                    Err(_) if self.is_stopping() => None,
                    Err(_) => {
                        let error = io::Error::other("the connecting thread panicked");
                        Some(Err(ConnectError::Unreachable(error)))
                    }
                },
                recv(self.woken) -> _ => if self.is_stopping() { return None },
            }
        }
    }

    fn not_connected(&self, error: ConnectError) -> Outcome {
        let told = foreign::display_text(&error);
        self.state.supervisor.log.warn(format_args!("not connected: {told}"));
        let hint = match error {
            ConnectError::Refused { retry_after: Some(delay), .. } => Hint::NotBefore(delay),
            _ => Hint::Nothing,
        };
        let error = Error::Connect(error);
        let is_fatal = (self.target.gives_up)(&error);
        self.state.supervisor.subscribers.publish(|| Event::ConnectFailed { error: told, is_fatal });
        if is_fatal || self.backoff.is_none() {
            return Outcome::Done(Err(error));
        }
        // The error may come from `prepare`, and so be the application's own.
        foreign::dispose(error);
        Outcome::Lost(hint)
    }

    /// Waits before the next attempt. A stop or `connect_now` ends the wait.
    fn pause(&self, hint: Hint, delay: Duration) {
        // A `connect_now` that came during the connection does not count.
        self.woken.try_iter().for_each(drop);
        if self.is_stopping() {
            return;
        }
        let log = &self.state.supervisor.log;
        match hint {
            Hint::NotBefore(asked) if self.backoff.is_some_and(|backoff| backoff.is_too_long(asked)) => {
                log.info(format_args!(
                    "retrying in {delay:.1?}, although the server asked for {asked:?} (Retry-After)"
                ));
            }
            _ => log.info(format_args!("retrying in {delay:.1?}")),
        }
        self.state.supervisor.subscribers.publish(|| Event::Retrying { delay });
        let deadline = Instant::now().checked_add(delay);
        let wait = deadline.map_or_else(channel::never, channel::at);
        channel::select! {
            recv(self.woken) -> _ => {}
            recv(wait) -> _ => {}
        }
    }

    /// Hands a connection to the handler, and finds out how it ended.
    fn handle(&mut self, dialed: Dialed) -> Result<Outcome, Error> {
        let mut connection = self.open(dialed)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.handler)(&mut connection)));
        self.state.current().connection = None;
        let (reason, done) = match outcome {
            Ok(Ok(())) => (CloseReason::normal(), Some(Ok(()))),
            Ok(Err(Error::Closed(reason))) if connection.is_closing() => (reason, None),
            Ok(Err(error)) => (CloseReason::HandlerFailed(foreign::display_text(&error)), Some(Err(error))),
            Err(panic) => {
                connection.conclude(CloseReason::HandlerPanicked(foreign::panic_message(&*panic)));
                self.closed();
                resume_unwind(panic)
            }
        };
        connection.conclude(reason);
        self.closed();
        Ok(match done {
            Some(result) => Outcome::Done(result),
            // A failed write does not know what the peer said before it. By now that has been read.
            None => self.after(connection.reason()),
        })
    }

    /// The connection has ended. Returns once the supervisor has published that, so that later events come after it.
    fn closed(&self) {
        self.state.supervisor.thread_ends(self.last_id);
    }

    /// What follows the end of a connection, unless the handler decided it.
    fn after(&self, reason: CloseReason) -> Outcome {
        let hint = match &reason {
            CloseReason::Peer { code: Some(code), reason } if is_to_reconnect_at_once(*code, reason) => Hint::AtOnce,
            CloseReason::Peer { code: Some(CloseCode::RESTART | CloseCode::TRY_AGAIN_LATER), .. } => Hint::Restart,
            _ => Hint::Nothing,
        };
        if matches!(reason, CloseReason::Local { .. }) || self.is_stopping() {
            return Outcome::Done(Ok(()));
        }
        let error = Error::Closed(reason);
        if (self.target.gives_up)(&error) || self.backoff.is_none() {
            return Outcome::Done(Err(error));
        }
        Outcome::Lost(hint)
    }

    fn open(&mut self, dialed: Dialed) -> Result<Connection, Error> {
        let Dialed { stream, peer, request, subprotocol, tail, .. } = dialed;
        let settings = &self.settings;
        self.last_id += 1;
        let stream = Arc::new(stream);
        let shared = Arc::new(Shared::new(NewConnection {
            role: Role::Client,
            identity: Identity { id: self.last_id, remote: peer.into() },
            user: None,
            target: request.target().into(),
            certificate: PeerCertificate::default(),
            #[cfg(feature = "deflate")]
            agreed: dialed.agreed,
            stream: Arc::clone(&stream),
            settings: Arc::clone(settings),
            takes_broadcasts: true,
            shares_frames: true,
            supervisor: Arc::clone(&self.state.supervisor),
        }));
        let receiving = ReceivingEnd::open(&shared, Role::Client, &stream, &tail, settings.heartbeat, false);
        let connection = Connection::new(Arc::clone(&shared), receiving, request, subprotocol, Attached::default());
        shared.announce_open();
        if let Some(next) = settings.heartbeat.announcement() {
            // The server may expect our first Ping much sooner. If it cannot be written, the first read says why.
            let _ = shared.ping(Some(next), None);
        }
        self.state.opened(shared);
        Ok(connection)
    }
}

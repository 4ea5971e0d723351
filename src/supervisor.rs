//! The supervisor: one thread that owns the registry of connections and receives a notice of everything that happens to
//! them.
//!
//! It logs every opening, miss and closure, keeps the counters, and hands events to subscribers. It fans broadcasts
//! out, so that all receivers see one order and nobody waits for a slow peer. It enforces the deadlines of closing
//! handshakes that other threads have begun, of a drain, and of the shutdown.
//!
//! Invariants: it never blocks on a peer or a subscriber, and runs no foreign code. If it panics all the same, the
//! server ends, and every open connection is reported.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::identity::{ConnectionId, Identity};
use crate::connection::report::CloseReport;
use crate::connection::shared::Shared;
use crate::foreign;
use crate::http::forwarded::Remote;
use crate::protocol::close::CloseReason;
use crate::supervisor::event::Event;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::pending_handshake::{HandshakeFailure, PendingHandshake};
use crate::supervisor::stats::Snapshot;

pub(crate) mod broadcast;
pub(crate) mod directory;
mod drain;
pub(crate) mod event;
pub(crate) mod handle;
pub(crate) mod notice;
pub(crate) mod pending_handshake;
mod shutdown;
pub(crate) mod stand_in;
pub(crate) mod stats;
mod subscribers;
pub(crate) mod threads;

use drain::Drain;
use notice::{Command, Notice};
use shutdown::Shutdown;

/// After so long a connection whose lock another thread held has another try.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

pub(crate) struct Supervisor {
    notices: channel::Receiver<Notice>,
    commands: channel::Receiver<Command>,
    supervisor: Arc<SupervisorHandle>,
    close_timeout: Duration,
    /// Clients that have a thread and are not, or not yet, a connection.
    pending_handshakes: BTreeMap<u64, Arc<PendingHandshake>>,
    /// Connections that have a thread.
    registry: BTreeMap<ConnectionId, Arc<Shared>>,
    /// Closing handshakes by their deadlines. Most end long before; cutting one that has ended does nothing.
    closing: BTreeMap<(Instant, ConnectionId), Arc<Shared>>,
    /// Whether more connections may come.
    expects_more: bool,
    drain: Option<Drain>,
    shutdown: Option<Shutdown>,
}

impl Supervisor {
    pub(crate) fn new(
        notices: channel::Receiver<Notice>,
        commands: channel::Receiver<Command>,
        supervisor: Arc<SupervisorHandle>,
        close_timeout: Duration,
    ) -> Self {
        Self {
            notices,
            commands,
            supervisor,
            close_timeout,
            pending_handshakes: BTreeMap::new(),
            registry: BTreeMap::new(),
            closing: BTreeMap::new(),
            expects_more: true,
            drain: None,
            shutdown: None,
        }
    }

    /// Runs until the server or client has shut down.
    pub(crate) fn run(mut self) {
        /// Panics that often cannot be recovered from.
        const MOST_PANICS: usize = 100;
        for _ in 0..MOST_PANICS {
            match foreign::call(|| self.work()) {
                Ok(()) => break,
                Err(message) => self.supervisor.fail("the supervisor", &message),
            }
        }
        let unreported: Vec<Arc<Shared>> = self.open_connections().cloned().collect();
        for shared in unreported {
            // A panic has lost its report.
            shared.abort(CloseReason::shutdown());
            self.closed(shared.last_report());
        }
    }

    fn work(&mut self) {
        let mut is_busy = false;
        loop {
            let retry = self.supervisor.subscribers.report_lost();
            let wake = self.next_wake().into_iter().chain(retry).min();
            let command = if is_busy { self.wait_for_command(wake) } else { self.wait_for_anything(wake) };
            is_busy = self.take(command);
            let now = Instant::now();
            self.cut_overdue_closings(now);
            self.drain(now);
            if self.has_ended(now) {
                return;
            }
        }
    }

    /// Waits for a notice, a command or the deadline.
    fn wait_for_anything(&self, wake: Option<Instant>) -> Option<Command> {
        let mut select = channel::Select::new();
        select.recv(&self.notices);
        select.recv(&self.commands);
        match wake {
            Some(wake) => _ = select.ready_deadline(wake),
            None => _ = select.ready(),
        }
        self.commands.try_recv().ok()
    }

    /// Lets notices gather for a moment, while they come one after another. A wake-up for each would cost more than all
    /// that is done for it. Commands do not wait.
    fn wait_for_command(&self, wake: Option<Instant>) -> Option<Command> {
        const MOMENT: Duration = Duration::from_millis(1);
        let moment = Instant::now() + MOMENT;
        self.commands.recv_deadline(wake.map_or(moment, |wake| wake.min(moment))).ok()
    }

    /// Deals with all notices that wait, and then with a command and those that wait after it: a handler's first
    /// broadcast is to find its own connection, which was reported before. Returns whether others may follow at once.
    fn take(&mut self, command: Option<Command>) -> bool {
        /// Enough to save system calls, and few enough that notices do not wait for long.
        const MOST_AT_ONCE: usize = 64;
        // Before the notices are counted, for a connection may open while they are dealt with.
        let commands: Vec<Command> = match command {
            Some(command) => iter::once(command).chain(self.commands.try_iter().take(MOST_AT_ONCE - 1)).collect(),
            None => Vec::new(),
        };
        let waiting = self.notices.len();
        let mut is_busy = false;
        for notice in self.notices.clone().try_iter().take(waiting) {
            // Whoever asks waits for the answer, and may ask again at once.
            is_busy |= !matches!(notice, Notice::Snapshot { .. } | Notice::Probe { .. });
            self.on_notice(notice);
        }
        if !commands.is_empty() {
            self.broadcast(&commands);
        }
        is_busy
    }

    fn next_wake(&self) -> Option<Instant> {
        let closing = self.closing.keys().next().map(|(deadline, _)| *deadline);
        let shutdown = self.shutdown.as_ref().map(Shutdown::next_deadline);
        let drain = self.drain.as_ref().filter(|_| shutdown.is_none()).map(Drain::next_deadline);
        [closing, drain, shutdown].into_iter().flatten().min()
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Accepted(pending) => {
                self.supervisor.count(|stats| stats.accepted += 1);
                if self.shutdown.is_some() {
                    pending.turn_away();
                }
                self.pending_handshakes.insert(pending.number, pending);
            }
            Notice::HandshakeEnds { number } => {
                self.pending_handshakes.remove(&number);
            }
            Notice::Opened(shared) => self.opened(shared),
            Notice::HandshakeFailed { remote, failure } => {
                self.supervisor.log.info(format_args!("{remote} {failure}"));
                let Remote { peer_addr, remote_ip } = remote;
                let HandshakeFailure { status, reason, path, origin } = *failure;
                self.supervisor.count(|stats| stats.handshakes_failed += 1);
                let reason = reason.into_owned();
                self.supervisor.subscribers.publish(|| Event::HandshakeFailed {
                    peer_addr,
                    remote_ip,
                    status,
                    reason,
                    path,
                    origin,
                });
            }
            Notice::Missed { connection, what, missed, max_missed } => {
                self.supervisor.log.warn(format_args!("{connection} missed {what} {missed} of {max_missed}"));
                let Identity { id, remote } = connection;
                self.supervisor.subscribers.publish(|| Event::Missed {
                    id,
                    peer_addr: remote.peer_addr,
                    missed,
                    max_missed,
                });
            }
            Notice::Closing { shared, deadline } => {
                self.closing.insert((deadline, shared.id()), shared);
            }
            Notice::Closed(report) => self.closed(*report),
            Notice::ThreadEnds { id, heard } => {
                self.registry.remove(&id);
                drop(heard);
            }
            Notice::HandlerStalled { connection, away } => {
                self.supervisor.log.warn(format_args!("{connection} handler has not called recv for {away:.1?}"));
                let Identity { id, remote } = connection;
                self.supervisor.subscribers.publish(|| Event::HandlerStalled { id, peer_addr: remote.peer_addr, away });
            }
            Notice::Beat { connection, beat } => self.supervisor.log.trace(format_args!("{connection} {beat}")),
            Notice::WriteFailed { connection, error } => {
                self.supervisor.log.debug(format_args!("{connection} write failed: {error}"));
            }
            Notice::Snapshot { reply } => {
                let connections = self.open_connections().map(|shared| shared.info()).collect();
                // The caller may have gone.
                let _ = reply.try_send(Snapshot { connections, stats: self.supervisor.stats() });
            }
            Notice::Probe { reply } => _ = reply.try_send(()),
            Notice::Shutdown { reason } => self.begin_shutdown(*reason),
            Notice::Drain { until } => self.begin_drain(until),
            Notice::Failed => self.cut_all(),
            #[cfg(test)]
            Notice::Panic => panic!("as the test wants it"),
            #[cfg(test)]
            Notice::Stall(until_released) => _ = until_released.recv(),
            Notice::NoMoreConnections => self.expects_more = false,
        }
    }

    fn opened(&mut self, shared: Arc<Shared>) {
        self.registry.insert(shared.id(), Arc::clone(&shared));
        // Before the log line and the event, so that their readers find the counters up to date.
        self.supervisor.count(|stats| {
            stats.opened += 1;
            stats.open += 1;
        });
        let (connection, path) = (shared.identity, shared.target.path());
        match shared.user() {
            Some(user) => self.supervisor.log.info(format_args!("{connection} opened {path}, user {user:?}")),
            None => self.supervisor.log.info(format_args!("{connection} opened {path}")),
        }
        let Identity { id, remote: Remote { peer_addr, remote_ip } } = shared.identity;
        self.supervisor.subscribers.publish(|| {
            let (path, target) = (path.to_owned(), shared.target.clone());
            Event::Opened { id, peer_addr, remote_ip, user: shared.user().map(str::to_owned), path, target }
        });
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.stop(&shared);
        } else if let Some(drain) = &mut self.drain {
            drain.opened(shared.id());
        }
    }

    fn closed(&mut self, report: CloseReport) {
        let CloseReport { id, peer_addr, remote_ip, .. } = report;
        let connection = Identity { id, remote: Remote { peer_addr, remote_ip } };
        self.supervisor.count(|stats| {
            stats.open -= 1;
            *stats.closed.entry(report.reason.name()).or_default() += 1;
            stats.traffic += report.traffic;
        });
        if let Some(shared) = self.registry.get(&id) {
            shared.is_reported.store(true, Relaxed);
        }
        let line = format_args!("{connection} ended: {report}");
        match &report.reason {
            reason if reason.is_clean() => self.supervisor.log.info(line),
            CloseReason::HandlerPanicked(_) | CloseReason::HandlerFailed(_) => self.supervisor.log.error(line),
            _ => self.supervisor.log.warn(line),
        }
        self.supervisor.subscribers.publish(|| Event::Closed(report));
    }

    fn open_connections(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.registry.values().filter(|shared| !shared.is_reported.load(Relaxed))
    }

    // Closing handshakes.

    fn cut_overdue_closings(&mut self, now: Instant) {
        while let Some(entry) = self.closing.first_entry().filter(|entry| entry.key().0 <= now) {
            let shared = entry.remove();
            // The cause stays that of the closing handshake.
            shared.abort(CloseReason::Disconnected);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

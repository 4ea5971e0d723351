//! The supervisor: one thread that owns the registry of connections and hears of everything that happens to them.
//!
//! It logs every opening, miss and closure, keeps the counters, and hands events to whoever subscribed. It fans
//! broadcasts out, so that all receivers see one order and nobody waits for a slow peer. It sees to the end of closing
//! handshakes that were begun from outside the connection's thread, and of the server itself.
//!
//! Invariants: it never blocks, neither on a peer nor on a subscriber, and runs no foreign code. Should it panic all the
//! same, the server ends, and what was open is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
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
use crate::transport::socket;

pub(crate) mod event;
pub(crate) mod handle;
pub(crate) mod notice;
pub(crate) mod pending_handshake;
pub(crate) mod stand_in;
pub(crate) mod stats;
mod subscribers;
pub(crate) mod threads;

use notice::{Command, Notice};

pub(crate) struct Supervisor {
    notices: channel::Receiver<Notice>,
    commands: channel::Receiver<Command>,
    supervisor: Arc<SupervisorHandle>,
    close_timeout: Duration,
    /// Those that have a thread and are no connection, or not yet.
    pending_handshakes: BTreeMap<u64, Arc<PendingHandshake>>,
    /// Connections that have a thread.
    registry: BTreeMap<ConnectionId, Open>,
    /// Closing handshakes by their deadlines. Most are over long before; cutting such a one does nothing.
    closing: BTreeMap<(Instant, ConnectionId), Arc<Shared>>,
    /// Whether there may be more connections.
    expects_more: bool,
    shutdown: Option<Shutdown>,
}

struct Open {
    shared: Arc<Shared>,
    /// It was reported closed, and only its thread has not ended yet.
    is_reported: bool,
}

/// The server's shutdown under way.
struct Shutdown {
    /// Until when peers may answer our Close frames.
    peers: Instant,
    /// Until when handlers may return.
    handlers: Instant,
    peers_are_cut: bool,
    /// Those that another thread was at work on. Where processors are short it may hold the connection's lock for as long
    /// as it waits for one, and so could each of thousands: they are asked again a little later.
    busy: Vec<Arc<Shared>>,
}

impl Shutdown {
    const RETRY: Duration = Duration::from_millis(2);

    /// Closes a connection, or cuts it, without waiting for anybody.
    fn stop(&mut self, shared: &Arc<Shared>) {
        let is_done = match self.peers_are_cut {
            false => shared.try_begin_close(CloseReason::Shutdown),
            true => shared.try_abort(CloseReason::Shutdown),
        };
        if !is_done {
            self.busy.push(Arc::clone(shared));
        }
    }

    fn stop_busy(&mut self) {
        for shared in std::mem::take(&mut self.busy) {
            self.stop(&shared);
        }
    }
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
            shutdown: None,
        }
    }

    /// Runs until the server has shut down.
    pub(crate) fn run(mut self) {
        /// Whoever panics so often has lost its way.
        const MOST_PANICS: usize = 100;
        for _ in 0..MOST_PANICS {
            match foreign::call(|| self.work()) {
                Ok(()) => break,
                Err(message) => self.supervisor.fail("the supervisor", &message),
            }
        }
        let unreported: Vec<Arc<Shared>> = self.open_connections().map(|open| Arc::clone(&open.shared)).collect();
        for shared in unreported {
            // Its report was lost to a panic.
            shared.abort(CloseReason::Shutdown);
            self.closed(shared.last_report());
        }
    }

    fn work(&mut self) {
        loop {
            let lost = self.supervisor.subscribers.tell_lost();
            let wake = self.next_wake().into_iter().chain(lost).min().map_or_else(channel::never, channel::at);
            channel::select_biased! {
                // The other ends are kept by the hub, so neither channel can be disconnected.
                recv(self.notices) -> notice => if let Ok(notice) = notice { self.on_notice(notice) },
                recv(self.commands) -> command => if let Ok(command) = command { self.broadcast(command) },
                recv(wake) -> _ => {}
            }
            let now = Instant::now();
            self.cut_overdue_closings(now);
            if self.has_ended(now) {
                return;
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let closing = self.closing.keys().next().map(|(deadline, _)| *deadline);
        let shutdown = self.shutdown.as_ref().map(|end| if end.peers_are_cut { end.handlers } else { end.peers });
        let busy = self
            .shutdown
            .as_ref()
            .filter(|shutdown| !shutdown.busy.is_empty())
            .map(|_| Instant::now() + Shutdown::RETRY);
        [closing, shutdown, busy].into_iter().flatten().min()
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
                self.supervisor.log.debug(format_args!("{connection}: write failed: {error}"));
            }
            Notice::Snapshot { reply } => {
                let connections = self.open_connections().map(|open| open.shared.info()).collect();
                // Whoever asked may have stopped waiting.
                let _ = reply.try_send(Snapshot { connections, stats: self.supervisor.stats() });
            }
            Notice::Shutdown => self.begin_shutdown(),
            Notice::Failed => self.cut_all(),
            #[cfg(test)]
            Notice::Panic => panic!("as the test wants it"),
            Notice::NoMoreConnections => self.expects_more = false,
        }
    }

    fn opened(&mut self, shared: Arc<Shared>) {
        self.registry.insert(shared.id(), Open { shared: Arc::clone(&shared), is_reported: false });
        // Whoever reads a line, or takes out an event, finds the counters up to date.
        self.supervisor.count(|stats| {
            stats.opened += 1;
            stats.open += 1;
        });
        self.supervisor.log.info(format_args!("{} opened {}", shared.identity, shared.target.path()));
        let Identity { id, remote: Remote { peer_addr, remote_ip } } = shared.identity;
        self.supervisor.subscribers.publish(|| {
            let (path, target) = (shared.target.path().to_owned(), shared.target.clone());
            Event::Opened { id, peer_addr, remote_ip, path, target }
        });
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.stop(&shared);
        }
    }

    fn closed(&mut self, report: CloseReport) {
        let CloseReport { id, peer_addr, remote_ip, .. } = report;
        let remote = Remote { peer_addr, remote_ip };
        self.supervisor.count(|stats| {
            stats.open -= 1;
            *stats.closed.entry(report.reason.name()).or_default() += 1;
            stats.traffic += report.traffic;
        });
        if let Some(open) = self.registry.get_mut(&id) {
            open.is_reported = true;
        }
        let line = format_args!("#{id} {remote} ended: {report}");
        match &report.reason {
            reason if reason.is_clean() => self.supervisor.log.info(line),
            CloseReason::HandlerPanicked(_) | CloseReason::HandlerFailed(_) => self.supervisor.log.error(line),
            _ => self.supervisor.log.warn(line),
        }
        self.supervisor.subscribers.publish(|| Event::Closed(report));
    }

    /// Carries out a broadcast, together with those that wait behind it: each connection gets all of them with one system
    /// call.
    fn broadcast(&mut self, first: Command) {
        /// Enough to save system calls, few enough for notices not to wait for long.
        const MOST_AT_ONCE: usize = 64;
        let waiting = self.commands.try_iter().take(MOST_AT_ONCE - 1);
        let broadcasts: Vec<_> = std::iter::once(first).chain(waiting).collect();
        for Open { shared, .. } in self.open_connections().filter(|open| open.shared.takes_broadcasts) {
            let is_for_it = |except: &Option<ConnectionId>| *except != Some(shared.id());
            match &broadcasts[..] {
                [Command::Broadcast { frame, except }] if is_for_it(except) => shared.send_copy(frame),
                [_] => {}
                several => {
                    for Command::Broadcast { frame, except } in several {
                        if is_for_it(except) {
                            shared.feed_copy(frame);
                        }
                    }
                    let _ = shared.flush();
                }
            }
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = &Open> {
        self.registry.values().filter(|open| !open.is_reported)
    }

    // Closing handshakes.

    fn cut_overdue_closings(&mut self, now: Instant) {
        while let Some(entry) = self.closing.first_entry().filter(|entry| entry.key().0 <= now) {
            let shared = entry.remove();
            // The cause stays what it was: the one that closed.
            shared.abort(CloseReason::Disconnected);
        }
    }

    // Shutdown.

    fn begin_shutdown(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        self.begin_ending();
        for pending in self.pending_handshakes.values() {
            pending.turn_away();
        }
        if let Some(shutdown) = &mut self.shutdown {
            self.registry.values().for_each(|open| shutdown.stop(&open.shared));
        }
    }

    /// Nothing can be promised any more: no peer is waited for.
    fn cut_all(&mut self) {
        self.begin_ending().peers = Instant::now();
    }

    /// The server's end begins, unless it has begun before.
    fn begin_ending(&mut self) -> &mut Shutdown {
        let now = Instant::now();
        // An eighth of the time is for the threads to end in, so that all of it is over within the close timeout.
        self.shutdown.get_or_insert(Shutdown {
            peers: now + self.close_timeout * 7 / 8,
            handlers: now + self.close_timeout,
            peers_are_cut: false,
            busy: Vec::new(),
        })
    }

    /// Whether the shutdown is complete. Cuts peers and abandons handlers whose time is up.
    fn has_ended(&mut self, now: Instant) -> bool {
        let Some(shutdown) = &mut self.shutdown else { return false };
        if self.registry.is_empty() && self.pending_handshakes.is_empty() && !self.expects_more {
            // What the last threads said is in the channel, for they said it before they ended.
            return self.notices.is_empty();
        }
        let is_over = now >= shutdown.handlers;
        if !shutdown.peers_are_cut && now >= shutdown.peers {
            shutdown.peers_are_cut = true;
            shutdown.busy.clear();
            // Reports whoever was not reported yet. Whoever opens from here on is cut when that is heard of.
            self.registry.values().for_each(|open| shutdown.stop(&open.shared));
            for pending in self.pending_handshakes.values() {
                socket::shut_down(&pending.stream);
            }
        } else {
            shutdown.stop_busy();
        }
        if is_over {
            // All are reported before the end, even if that has to wait.
            shutdown.busy.drain(..).for_each(|shared| shared.abort(CloseReason::Shutdown));
        }
        let time_is_up = is_over && self.notices.is_empty();
        if time_is_up {
            for id in self.registry.keys() {
                self.supervisor.log.error(format_args!("#{id} handler did not return; its thread is abandoned"));
            }
            for pending in self.pending_handshakes.values() {
                self.supervisor
                    .log
                    .error(format_args!("{} opening handshake did not end; its thread is abandoned", pending.peer));
            }
        }
        time_is_up
    }
}

#[cfg(test)]
mod tests;

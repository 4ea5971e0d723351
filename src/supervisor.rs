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

use crate::close::{CloseReason, CloseReport, ConnectionId};
use crate::event::{Event, Snapshot};
use crate::foreign;
use crate::forwarded::Remote;
use crate::frame::Frame;
use crate::handle::Hub;
use crate::handshake::{Arrival, Failure};
use crate::link::Link;
use crate::tcp;

/// What connections and the accept loop report: a few for each connection, and while too many wait none is accepted. Misses
/// and absences are not told then. Kept small: it passes
/// over the stack of every connection's thread.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A TCP connection was accepted, and its thread is about to start.
    Accepted(Arc<Arrival>),
    /// It has become a connection, or its thread is about to end.
    ArrivalEnds { number: u64 },
    /// The opening handshake is complete.
    Opened(Arc<Link>),
    /// The opening handshake came to nothing.
    HandshakeFailed { remote: Remote, failure: Box<Failure> },
    /// A Pong, or whatever the peer was to give, was missed.
    Missed { id: ConnectionId, remote: Remote, what: &'static str, missed: u32, max_missed: u32 },
    /// A Ping was sent, or a Pong came. Only while lines of that level are logged.
    Beat { id: ConnectionId, remote: Remote, beat: String },
    /// A handler has been away from `recv` for longer than the heartbeat's interval.
    HandlerStalled { id: ConnectionId, remote: Remote, away: Duration },
    /// A write has failed. What the connection ended of is told by its report.
    WriteFailed { id: ConnectionId, remote: Remote, error: String },
    /// A closing handshake has begun that must not last beyond the deadline.
    Closing { link: Arc<Link>, deadline: Instant },
    /// The connection has ended.
    Closed(Box<CloseReport>),
    /// The connection's thread is about to end.
    ThreadEnds { id: ConnectionId },
    /// Somebody wants to know what is open.
    Snapshot { reply: channel::Sender<Snapshot> },
    /// The server is to end.
    Shutdown,
    /// One of our own threads has panicked: the server is to end at once.
    Failed,
    /// Has the supervisor panic.
    #[cfg(test)]
    Panic,
    /// Nothing will be accepted any more.
    AcceptEnds,
}

/// What users ask for. Bounded: whoever broadcasts faster than the fan-out waits.
#[derive(Debug)]
pub(crate) enum Command {
    Broadcast { frame: Frame, except: Option<ConnectionId> },
}

pub(crate) struct Supervisor {
    notices: channel::Receiver<Notice>,
    commands: channel::Receiver<Command>,
    hub: Arc<Hub>,
    close_timeout: Duration,
    /// Those that have a thread and are no connection, or not yet.
    arrivals: BTreeMap<u64, Arc<Arrival>>,
    /// Connections that have a thread.
    registry: BTreeMap<ConnectionId, Open>,
    /// Closing handshakes by their deadlines. Most are over long before; cutting such a one does nothing.
    closing: BTreeMap<(Instant, ConnectionId), Arc<Link>>,
    /// The accept loop runs, and may tell of more connections.
    accepts: bool,
    ending: Option<Ending>,
}

struct Open {
    link: Arc<Link>,
    /// It was reported closed, and only its thread has not ended yet.
    is_reported: bool,
}

/// The server's shutdown under way.
struct Ending {
    /// Until when peers may answer our Close frames.
    peers: Instant,
    /// Until when handlers may return.
    handlers: Instant,
    peers_are_cut: bool,
    /// Those that another thread was at work on. Where processors are short it may hold the connection's lock for as long
    /// as it waits for one, and so could each of thousands: they are asked again a little later.
    busy: Vec<Arc<Link>>,
}

impl Ending {
    const RETRY: Duration = Duration::from_millis(2);

    /// Closes a connection, or cuts it, without waiting for anybody.
    fn stop(&mut self, link: &Arc<Link>) {
        let is_done = match self.peers_are_cut {
            false => link.try_begin_close(CloseReason::Shutdown),
            true => link.try_abort(CloseReason::Shutdown),
        };
        if !is_done {
            self.busy.push(Arc::clone(link));
        }
    }

    fn stop_busy(&mut self) {
        for link in std::mem::take(&mut self.busy) {
            self.stop(&link);
        }
    }
}

impl Supervisor {
    pub(crate) fn new(
        notices: channel::Receiver<Notice>,
        commands: channel::Receiver<Command>,
        hub: Arc<Hub>,
        close_timeout: Duration,
    ) -> Self {
        Self {
            notices,
            commands,
            hub,
            close_timeout,
            arrivals: BTreeMap::new(),
            registry: BTreeMap::new(),
            closing: BTreeMap::new(),
            accepts: true,
            ending: None,
        }
    }

    /// Runs until the server has shut down.
    pub(crate) fn run(mut self) {
        /// Whoever panics so often has lost its way.
        const MOST_PANICS: usize = 100;
        for _ in 0..MOST_PANICS {
            match foreign::call(|| self.work()) {
                Ok(()) => break,
                Err(message) => self.hub.fail("the supervisor", &message),
            }
        }
        let unreported: Vec<Arc<Link>> = self.open_connections().map(|open| Arc::clone(&open.link)).collect();
        for link in unreported {
            // Its report was lost to a panic.
            link.abort(CloseReason::Shutdown);
            self.closed(link.last_report());
        }
    }

    fn work(&mut self) {
        loop {
            let lost = self.hub.tell_lost();
            let wake = self.next_wake().into_iter().chain(lost).min().map_or_else(channel::never, channel::at);
            channel::select_biased! {
                // The other ends are kept by the hub, so neither channel can be disconnected.
                recv(self.notices) -> notice => if let Ok(notice) = notice { self.hear(notice) },
                recv(self.commands) -> command => if let Ok(command) = command { self.obey(command) },
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
        let ending = self.ending.as_ref().map(|end| if end.peers_are_cut { end.handlers } else { end.peers });
        let busy =
            self.ending.as_ref().filter(|ending| !ending.busy.is_empty()).map(|_| Instant::now() + Ending::RETRY);
        [closing, ending, busy].into_iter().flatten().min()
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Accepted(arrival) => {
                self.hub.count(|stats| stats.accepted += 1);
                if self.ending.is_some() {
                    arrival.turn_away();
                }
                self.arrivals.insert(arrival.number, arrival);
            }
            Notice::ArrivalEnds { number } => {
                self.arrivals.remove(&number);
            }
            Notice::Opened(link) => self.opened(link),
            Notice::HandshakeFailed { remote, failure } => {
                self.hub.log.info(format_args!("{remote} {failure}"));
                let Remote { peer, client } = remote;
                let Failure { status, reason, path, origin } = *failure;
                self.hub.count(|stats| stats.handshakes_failed += 1);
                let reason = reason.into_owned();
                self.hub.publish(|| Event::HandshakeFailed { peer, client, status, reason, path, origin });
            }
            Notice::Missed { id, remote, what, missed, max_missed } => {
                self.hub.log.warn(format_args!("#{id} {remote} missed {what} {missed} of {max_missed}"));
                self.hub.publish(|| Event::Missed { id, peer: remote.peer, missed, max_missed });
            }
            Notice::Closing { link, deadline } => {
                self.closing.insert((deadline, link.id), link);
            }
            Notice::Closed(report) => self.closed(*report),
            Notice::ThreadEnds { id } => {
                self.registry.remove(&id);
            }
            Notice::HandlerStalled { id, remote, away } => {
                self.hub.log.warn(format_args!("#{id} {remote} handler has not called recv for {away:.1?}"));
                self.hub.publish(|| Event::HandlerStalled { id, peer: remote.peer, away });
            }
            Notice::Beat { id, remote, beat } => self.hub.log.trace(format_args!("#{id} {remote} {beat}")),
            Notice::WriteFailed { id, remote, error } => {
                self.hub.log.debug(format_args!("#{id} {remote}: write failed: {error}"));
            }
            Notice::Snapshot { reply } => {
                let connections = self.open_connections().map(|open| open.link.info()).collect();
                // Whoever asked may have stopped waiting.
                let _ = reply.try_send(Snapshot { connections, stats: self.hub.stats() });
            }
            Notice::Shutdown => self.begin_shutdown(),
            Notice::Failed => self.cut_all(),
            #[cfg(test)]
            Notice::Panic => panic!("as the test wants it"),
            Notice::AcceptEnds => self.accepts = false,
        }
    }

    fn opened(&mut self, link: Arc<Link>) {
        self.registry.insert(link.id, Open { link: Arc::clone(&link), is_reported: false });
        // Whoever reads a line, or takes out an event, finds the counters up to date.
        self.hub.count(|stats| {
            stats.opened += 1;
            stats.open += 1;
        });
        self.hub.log.info(format_args!("#{} {} opened {}", link.id, link.remote, link.target.path()));
        let Remote { peer, client } = link.remote;
        self.hub.publish(|| {
            let (path, target) = (link.target.path().to_owned(), link.target.clone());
            Event::Opened { id: link.id, peer, client, path, target }
        });
        if let Some(ending) = &mut self.ending {
            ending.stop(&link);
        }
    }

    fn closed(&mut self, report: CloseReport) {
        let CloseReport { id, peer, client, .. } = report;
        let remote = Remote { peer, client };
        self.hub.count(|stats| {
            stats.open -= 1;
            *stats.closed.entry(report.reason.name()).or_default() += 1;
            stats.traffic += report.traffic;
        });
        if let Some(open) = self.registry.get_mut(&id) {
            open.is_reported = true;
        }
        let line = format_args!("#{id} {remote} ended: {report}");
        match &report.reason {
            reason if reason.is_clean() => self.hub.log.info(line),
            CloseReason::HandlerPanicked(_) | CloseReason::HandlerFailed(_) => self.hub.log.error(line),
            _ => self.hub.log.warn(line),
        }
        self.hub.publish(|| Event::Closed(report));
    }

    /// Carries out a broadcast, together with those that wait behind it: each connection gets all of them with one system
    /// call.
    fn obey(&mut self, first: Command) {
        /// Enough to save system calls, few enough for notices not to wait for long.
        const MOST_AT_ONCE: usize = 64;
        let waiting = self.commands.try_iter().take(MOST_AT_ONCE - 1);
        let broadcasts: Vec<_> = std::iter::once(first).chain(waiting).collect();
        for Open { link, .. } in self.open_connections().filter(|open| open.link.takes_broadcasts) {
            let is_for_it = |except: &Option<ConnectionId>| *except != Some(link.id);
            match &broadcasts[..] {
                [Command::Broadcast { frame, except }] if is_for_it(except) => link.send_copy(frame),
                [_] => {}
                several => {
                    for Command::Broadcast { frame, except } in several {
                        if is_for_it(except) {
                            link.feed_copy(frame);
                        }
                    }
                    let _ = link.flush();
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
            let link = entry.remove();
            // The cause stays what it was: the one that closed.
            link.abort(CloseReason::Disconnected);
        }
    }

    // Shutdown.

    fn begin_shutdown(&mut self) {
        if self.ending.is_some() {
            return;
        }
        self.begin_ending();
        for arrival in self.arrivals.values() {
            arrival.turn_away();
        }
        if let Some(ending) = &mut self.ending {
            self.registry.values().for_each(|open| ending.stop(&open.link));
        }
    }

    /// Nothing can be promised any more: no peer is waited for.
    fn cut_all(&mut self) {
        self.begin_ending().peers = Instant::now();
    }

    /// The server's end begins, unless it has begun before.
    fn begin_ending(&mut self) -> &mut Ending {
        let now = Instant::now();
        // An eighth of the time is for the threads to end in, so that all of it is over within the close timeout.
        self.ending.get_or_insert(Ending {
            peers: now + self.close_timeout * 7 / 8,
            handlers: now + self.close_timeout,
            peers_are_cut: false,
            busy: Vec::new(),
        })
    }

    /// Whether the shutdown is complete. Cuts peers and abandons handlers whose time is up.
    fn has_ended(&mut self, now: Instant) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        if self.registry.is_empty() && self.arrivals.is_empty() && !self.accepts {
            // What the last threads said is in the channel, for they said it before they ended.
            return self.notices.is_empty();
        }
        let is_over = now >= ending.handlers;
        if !ending.peers_are_cut && now >= ending.peers {
            ending.peers_are_cut = true;
            ending.busy.clear();
            // Reports whoever was not reported yet. Whoever opens from here on is cut when that is heard of.
            self.registry.values().for_each(|open| ending.stop(&open.link));
            for arrival in self.arrivals.values() {
                tcp::shut_down(&arrival.stream);
            }
        } else {
            ending.stop_busy();
        }
        if is_over {
            // All are reported before the end, even if that has to wait.
            ending.busy.drain(..).for_each(|link| link.abort(CloseReason::Shutdown));
        }
        let time_is_up = is_over && self.notices.is_empty();
        if time_is_up {
            for id in self.registry.keys() {
                self.hub.log.error(format_args!("#{id} handler did not return; its thread is abandoned"));
            }
            for arrival in self.arrivals.values() {
                self.hub
                    .log
                    .error(format_args!("{} opening handshake did not end; its thread is abandoned", arrival.peer));
            }
        }
        time_is_up
    }
}

#[cfg(test)]
mod tests;

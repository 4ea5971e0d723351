//! The stand-in: one thread that does what a connection's own thread does in `recv`, while that thread is away in its
//! handler.
//!
//! A thread that leaves `recv` has its connection watched here, unless it is watched already. That is all that a quick
//! handler costs. A little later the stand-in checks whether the thread is back. If not, it takes over: it reads ahead,
//! answers the peer's Pings, sends ours and judges the peer, until the thread is in `recv` again.
//!
//! Invariants: the stand-in never blocks on a peer and runs no foreign code. It holds a connection's receiving end only
//! for one check, which does a bounded amount of work, so a thread that comes back waits for a moment at most.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::transport::stream::Stream;

mod wait;
use wait::{Sleep, Waker};

/// How long a thread may be away before the stand-in takes over. A Ping of the peer may be answered that much later.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// The shortest time between two polls of sockets. What arrives in between waits, so many talkative peers cost few
/// calls.
const SOCKET_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// What other threads ask of the stand-in.
#[derive(Debug)]
enum Command {
    /// Watch this connection: its thread has left `recv`, or waits there by a deadline that is out of date.
    Watch(Arc<Shared>),
    /// Answer, to show that the stand-in makes progress.
    Probe(channel::Sender<()>),
    End,
    /// Has the stand-in panic.
    #[cfg(test)]
    Panic,
    /// Stalls the stand-in until the other end is dropped.
    #[cfg(test)]
    Stall(channel::Receiver<()>),
}

/// The stand-in as other threads know it.
#[derive(Debug)]
pub(crate) struct StandInHandle {
    commands: channel::Sender<Command>,
    /// Whether the stand-in sleeps for so long that a command has to wake it.
    is_asleep: Arc<AtomicBool>,
    waker: Waker,
}

impl StandInHandle {
    pub(crate) fn new() -> io::Result<(Self, StandIn)> {
        let (sender, commands) = channel::unbounded();
        let (waker, sleep) = wait::pair()?;
        let is_asleep = Arc::new(AtomicBool::new(false));
        let stand_in = StandIn {
            commands,
            is_asleep: Arc::clone(&is_asleep),
            sleep,
            watched: HashMap::new(),
            checks: BTreeSet::new(),
            next_socket_poll: Instant::now(),
        };
        Ok((Self { commands: sender, is_asleep, waker }, stand_in))
    }

    /// Has the stand-in watch a connection, and check it soon.
    pub(crate) fn watch(&self, shared: Arc<Shared>) {
        self.send(Command::Watch(shared));
    }

    /// Has the stand-in answer as soon as it gets to its commands.
    pub(crate) fn probe(&self, reply: channel::Sender<()>) {
        self.send(Command::Probe(reply));
    }

    /// Ends the stand-in.
    pub(crate) fn end(&self) {
        self.send(Command::End);
    }

    /// Has the stand-in panic.
    #[cfg(test)]
    pub(crate) fn panic(&self) {
        self.send(Command::Panic);
    }

    /// Stalls the stand-in until the other end is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self, until_released: channel::Receiver<()>) {
        self.send(Command::Stall(until_released));
    }

    fn send(&self, command: Command) {
        // Fails only after the stand-in has ended, and the server with it.
        if self.commands.send(command).is_ok() && self.is_asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
    }
}

/// The stand-in's thread.
#[derive(Debug)]
pub(crate) struct StandIn {
    commands: channel::Receiver<Command>,
    is_asleep: Arc<AtomicBool>,
    sleep: Sleep,
    watched: HashMap<ConnectionId, Watched>,
    /// When to check which connection, whatever arrives.
    checks: BTreeSet<(Instant, ConnectionId)>,
    /// When sockets may next be polled.
    next_socket_poll: Instant,
}

/// A connection that the stand-in watches.
#[derive(Debug)]
struct Watched {
    shared: Arc<Shared>,
    next_check: Option<Instant>,
    socket: Option<Socket>,
}

/// The socket of a connection that the stand-in drives.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: Arc<Stream>,
    /// Whether the stand-in would read what arrives. If not, only a failure of the socket matters.
    pub(crate) reads: bool,
}

/// What a check of a connection has found.
#[derive(Debug)]
pub(crate) enum Check {
    /// The connection needs no stand-in: its thread is back, or it has ended.
    NotNeeded,
    /// Check again at this instant, or when something arrives on the socket.
    Again { at: Option<Instant>, socket: Option<Socket> },
}

impl StandIn {
    /// Runs until it is told to end.
    pub(crate) fn run(mut self) {
        loop {
            let ready = self.wait();
            let now = Instant::now();
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Watch(shared) => self.check(shared, now),
                    Command::Probe(reply) => _ = reply.try_send(()),
                    Command::End => return,
                    #[cfg(test)]
                    Command::Panic => panic!("as the test wants it"),
                    #[cfg(test)]
                    Command::Stall(until_released) => _ = until_released.recv(),
                }
            }
            for id in ready {
                self.check_by_id(id, now);
            }
            while let Some((_, id)) = self.checks.first().copied().filter(|(at, _)| *at <= now) {
                self.check_by_id(id, now);
            }
        }
    }

    /// Sleeps until a check is due, a socket is ready or a command arrives. Returns the connections whose sockets are
    /// ready.
    fn wait(&mut self) -> Vec<ConnectionId> {
        let now = Instant::now();
        let may_poll_sockets = now >= self.next_socket_poll;
        let sockets: Vec<(ConnectionId, &Socket)> =
            self.watched.iter().filter_map(|(id, watched)| Some((*id, watched.socket.as_ref()?))).collect();
        // Until when: the next check, or the next poll of sockets if it is too early for one now.
        let next_check = self.checks.first().map(|(at, _)| *at);
        let next_socket_poll = (!may_poll_sockets && !sockets.is_empty()).then_some(self.next_socket_poll);
        let until = [next_check, next_socket_poll].into_iter().flatten().min();
        let mut timeout = until.map(|until| until.saturating_duration_since(now));
        // Before a long sleep, ask to be woken. A command that arrived just before was sent without a wake-up.
        if timeout.is_none_or(|timeout| timeout > GRACE) {
            self.is_asleep.store(true, SeqCst);
            if !self.commands.is_empty() {
                timeout = Some(Duration::ZERO);
            }
        }
        let ready = self.sleep.wait(if may_poll_sockets { &sockets } else { &[] }, timeout);
        self.is_asleep.store(false, SeqCst);
        if !ready.is_empty() {
            self.next_socket_poll = Instant::now() + SOCKET_POLL_INTERVAL;
        }
        ready
    }

    fn check_by_id(&mut self, id: ConnectionId, now: Instant) {
        if let Some(watched) = self.watched.get(&id) {
            self.check(Arc::clone(&watched.shared), now);
        }
    }

    fn check(&mut self, shared: Arc<Shared>, now: Instant) {
        /// The shortest time between two checks of a connection, since others are due as well.
        const MIN_PAUSE: Duration = Duration::from_millis(1);

        // This check replaces the one that was planned.
        let id = shared.id();
        if let Some(at) = self.watched.remove(&id).and_then(|before| before.next_check) {
            self.checks.remove(&(at, id));
        }

        // The check itself takes the connection's lock, and returns at once.
        if let Check::Again { at, socket } = shared.stand_in(now) {
            let at = at.map(|at| at.max(now + MIN_PAUSE));
            self.checks.extend(at.map(|at| (at, id)));
            self.watched.insert(id, Watched { shared, next_check: at, socket });
        }
    }
}

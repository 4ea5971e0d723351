//! The stand-in: one thread that does for connections what their own threads do in `recv`, while those are away in their
//! handlers.
//!
//! A thread that leaves `recv` lists its connection here, unless it is listed already; that is all that it costs a quick
//! handler. A little later the stand-in looks whether the thread is back. If not, it takes over: it reads ahead, answers
//! the peer's Pings, sends ours and judges, until the thread is in `recv` again.
//!
//! Invariants: it never blocks on a peer, and runs no foreign code. It holds a connection's reception only for one look,
//! which does a bounded amount of work, so a thread that comes back waits for a moment at most.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;

mod wait;
use wait::{Sleep, Waker};

/// How long a thread may be away before it is stood in for. A Ping of the peer is answered that much later.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// How often sockets are looked at, at most: what comes in between waits, so that many talkative peers cost few calls.
const PAUSE: Duration = Duration::from_millis(25);

/// What comes to the stand-in.
#[derive(Debug)]
enum Command {
    /// This connection's thread has left `recv`, or sleeps by a deadline that is no longer true.
    Listed(Arc<Shared>),
    End,
    /// Has the stand-in panic.
    #[cfg(test)]
    Panic,
}

/// The list of those that may need a stand-in, as all threads write to it.
#[derive(Debug)]
pub(crate) struct Register {
    commands: channel::Sender<Command>,
    /// Whether the stand-in sleeps for so long that it has to be woken.
    is_asleep: Arc<AtomicBool>,
    waker: Waker,
}

impl Register {
    pub(crate) fn new() -> io::Result<(Self, StandIn)> {
        let (sender, commands) = channel::unbounded();
        let (waker, sleep) = wait::pair()?;
        let is_asleep = Arc::new(AtomicBool::new(false));
        let stand_in = StandIn {
            commands,
            is_asleep: Arc::clone(&is_asleep),
            sleep,
            watched: HashMap::new(),
            looks: BTreeSet::new(),
            next_sockets: Instant::now(),
        };
        Ok((Self { commands: sender, is_asleep, waker }, stand_in))
    }

    /// Puts a connection on the list.
    pub(crate) fn list(&self, shared: Arc<Shared>) {
        self.send(Command::Listed(shared));
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

    fn send(&self, command: Command) {
        // Fails only when the stand-in has ended, and then the server has.
        if self.commands.send(command).is_ok() && self.is_asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct StandIn {
    commands: channel::Receiver<Command>,
    is_asleep: Arc<AtomicBool>,
    sleep: Sleep,
    watched: HashMap<ConnectionId, Watched>,
    /// When to look at whom, whatever comes.
    looks: BTreeSet<(Instant, ConnectionId)>,
    /// When sockets may next be looked at.
    next_sockets: Instant,
}

/// A connection that is on the list.
#[derive(Debug)]
struct Watched {
    shared: Arc<Shared>,
    look: Option<Instant>,
    socket: Option<Socket>,
}

/// The socket of a connection that is stood in for.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: Arc<TcpStream>,
    /// Whether what comes would be read. Otherwise only its failure matters.
    pub(crate) reads: bool,
}

/// What a look at a connection came to.
#[derive(Debug)]
pub(crate) enum Look {
    /// Its thread is back, or it has ended.
    Back,
    /// Look again then, or when something comes on the socket.
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
                    Command::Listed(shared) => self.look(shared, now),
                    Command::End => return,
                    #[cfg(test)]
                    Command::Panic => panic!("as the test wants it"),
                }
            }
            for id in ready {
                self.look_at(id, now);
            }
            while let Some((_, id)) = self.looks.first().copied().filter(|(at, _)| *at <= now) {
                self.look_at(id, now);
            }
        }
    }

    /// Sleeps until there is something to do. Those whose sockets have something to say.
    fn wait(&mut self) -> Vec<ConnectionId> {
        let now = Instant::now();
        let may_look = now >= self.next_sockets;
        let sockets: Vec<(ConnectionId, &Socket)> =
            self.watched.iter().filter_map(|(id, watched)| Some((*id, watched.socket.as_ref()?))).collect();
        let next_look = self.looks.first().map(|(at, _)| *at);
        let next_sockets = (!may_look && !sockets.is_empty()).then_some(self.next_sockets);
        let until = [next_look, next_sockets].into_iter().flatten().min();
        let mut timeout = until.map(|until| until.saturating_duration_since(now));
        if timeout.is_none_or(|timeout| timeout > GRACE) {
            self.is_asleep.store(true, SeqCst);
            if !self.commands.is_empty() {
                timeout = Some(Duration::ZERO);
            }
        }
        let ready = self.sleep.wait(if may_look { &sockets } else { &[] }, timeout);
        self.is_asleep.store(false, SeqCst);
        if !ready.is_empty() {
            self.next_sockets = Instant::now() + PAUSE;
        }
        ready
    }

    fn look_at(&mut self, id: ConnectionId, now: Instant) {
        if let Some(watched) = self.watched.get(&id) {
            self.look(Arc::clone(&watched.shared), now);
        }
    }

    fn look(&mut self, shared: Arc<Shared>, now: Instant) {
        /// Before this nobody is looked at again: others are due as well.
        const ROUND: Duration = Duration::from_millis(1);
        let id = shared.id();
        if let Some(look) = self.watched.remove(&id).and_then(|before| before.look) {
            self.looks.remove(&(look, id));
        }
        if let Look::Again { at, socket } = shared.stand_in(now) {
            let at = at.map(|at| at.max(now + ROUND));
            self.looks.extend(at.map(|at| (at, id)));
            self.watched.insert(id, Watched { shared, look: at, socket });
        }
    }
}

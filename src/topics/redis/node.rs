//! This server as one of the nodes that share a Redis: what its two threads have together, and what others may ask.
//!
//! Invariants:
//! - Nobody waits for Redis but these threads, and whoever has published and wants to know what became of it.
//! - What this node has seen of the log, or was told is in it, is never forgotten: a Redis that no longer has it has
//!   lost some, and is found out.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;
use redis::Cmd;
use socket2::Socket;

use super::connection::{Connection, Failure};
use super::link::Link;
use super::members::{Members, Seat};
use super::nodes::Nodes;
use super::outbox::{Answer, Outbox, Publication};
use super::scripts::Scripts;
use super::{BackplaneInfo, FormerNode, Load, NodeInfo, NodeName, NodeState, Redis, follower, retrying, writer};
use crate::connection::identity::ConnectionId;
use crate::foreign;
use crate::topics::hub::Hub;
use crate::topics::name::TopicName;
use crate::topics::position::Epoch;

/// How long the end of the server waits for the threads: they may be in the system's resolver.
const END: Duration = Duration::from_secs(3);

/// How long the end of the server waits for the others to be told.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// So many epochs are known.
const EPOCHS: usize = 100;

pub(in crate::topics) struct Node {
    pub(super) redis: Redis,
    /// Its name among the nodes.
    name: NodeName,
    pub(super) outbox: Outbox,
    /// What the others are to know of who is subscribed here.
    pub(super) members: Members,
    /// Protects what is known of the other nodes.
    nodes: Mutex<Nodes>,
    /// Where this server listens.
    address: OnceLock<String>,
    began: Instant,
    /// Protects what is known of Redis, and the sockets.
    state: Mutex<State>,
    /// Signalled when the epoch is another one, and at the end.
    changed: Condvar,
    is_ending: AtomicBool,
    /// Whether there may be subscribers that are ahead of this server.
    has_some_ahead: AtomicBool,
}

struct State {
    /// The epochs that the copies of the histories have had, the present one first. None before that.
    epochs: Vec<Epoch>,
    /// The newest entries of the log that are known to have been there: that was read, and that was written.
    read: LogId,
    written: LogId,
    /// The sockets of both threads, so that whoever waits for Redis can be woken.
    sockets: [Option<Socket>; 2],
    link: Link,
}

/// The id of an entry in the log, `MILLISECONDS-NUMBER`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogId(u64, u64);

/// The two threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Follower,
    Writer,
}

/// The threads. Dropping this ends them.
pub(in crate::topics) struct NodeThreads {
    node: Arc<Node>,
    threads: Vec<(JoinHandle<()>, channel::Receiver<()>)>,
}

impl Node {
    pub(in crate::topics) fn new(redis: Redis) -> Self {
        let (began, name) = (Instant::now(), NodeName::from(format!("{:016x}", rand::random::<u64>())));
        let link = Link::new(redis.answer_patience(), began);
        Self {
            nodes: Mutex::new(redis.nodes(Arc::clone(&name))),
            address: OnceLock::new(),
            began,
            redis,
            name,
            outbox: Outbox::default(),
            members: Members::default(),
            state: Mutex::new(State {
                epochs: Vec::new(),
                read: LogId::default(),
                written: LogId::default(),
                sockets: [None, None],
                link,
            }),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
            has_some_ahead: AtomicBool::new(false),
        }
    }

    /// Publishes a message. The answer may come on any thread, at the timeout at the latest.
    pub(in crate::topics) fn publish(&self, publication: Publication, answer: Answer) {
        self.outbox.put(publication, Instant::now() + self.redis.publish_timeout, answer);
    }

    /// How long whoever publishes may have to wait.
    pub(in crate::topics) fn publish_timeout(&self) -> Duration {
        self.redis.publish_timeout
    }

    /// Answers what waits for too long.
    pub(in crate::topics) fn expire(&self, now: Instant) {
        self.outbox.expire(now);
    }

    /// Its name among the nodes.
    pub(in crate::topics) fn name(&self) -> NodeName {
        Arc::clone(&self.name)
    }

    /// A connection has subscribed, has left, or is better or worse off. The others are told by the log.
    pub(in crate::topics) fn note_seat(&self, topic: &TopicName, id: ConnectionId, seat: Seat) {
        if self.members.note(topic, id, seat) {
            self.outbox.wake();
        }
    }

    /// A subscriber has been told more by another server than this one knows yet.
    pub(in crate::topics) fn note_ahead(&self) {
        self.has_some_ahead.store(true, Relaxed);
    }

    /// Whether that may be so, until it is noted anew.
    pub(super) fn take_ahead(&self) -> bool {
        self.has_some_ahead.swap(false, Relaxed)
    }

    /// Whether Redis is connected, and there is a copy of all histories.
    pub(in crate::topics) fn is_connected(&self) -> bool {
        self.lock().link.is_connected()
    }

    /// How it is with the backplane.
    pub(in crate::topics) fn info(&self) -> BackplaneInfo {
        let (waiting, nodes_lost) = (self.outbox.len(), self.nodes().lost());
        BackplaneInfo { waiting, nodes_lost, ..self.lock().link.info(Instant::now()) }
    }

    /// Where Redis is, without any password.
    #[cfg(feature = "status")]
    pub(in crate::topics) fn backplane_address(&self) -> String {
        self.redis.address.to_string()
    }

    /// All nodes, this one first.
    pub(in crate::topics) fn infos(&self, load: Load) -> Vec<NodeInfo> {
        let mut infos = vec![self.own_info(load)];
        infos.extend(self.nodes().others(Instant::now()));
        infos
    }

    /// Nodes that were there, those that went last first.
    pub(in crate::topics) fn former(&self) -> Vec<FormerNode> {
        self.nodes().all_gone(Instant::now()).collect()
    }

    fn own_info(&self, load: Load) -> NodeInfo {
        let Load { connections, subscriptions, has_presence } = load;
        NodeInfo {
            name: self.name.to_string(),
            is_own: true,
            address: self.address.get().cloned().unwrap_or_default(),
            age: self.began.elapsed(),
            connections,
            subscriptions,
            members: has_presence.then(|| self.members.count()),
            backplane: self.info(),
            state: NodeState::Alive,
            silent: Duration::ZERO,
            patience: self.redis.longest_return(),
            bound: self.redis.node_worst_case(),
        }
    }

    /// Where this server listens, as the others are to know it.
    pub(in crate::topics) fn set_address(&self, address: String) {
        // A server serves once.
        let _ = self.address.set(address);
    }

    // For the threads.

    /// What this node tells of itself.
    pub(super) fn about(&self, load: Load) -> String {
        self.own_info(load).to_json()
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects, for one of the threads.
    pub(super) fn connect(&self, role: Role) -> Result<Connection, Failure> {
        let hold = |socket: Socket| {
            let mut state = self.lock();
            if self.is_ending() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state.sockets[role as usize] = Some(socket);
            Ok(())
        };
        Connection::open(&self.redis.address, self.redis.heartbeat, hold)
    }

    /// A thread has a connection, or has lost it. Returns whether that is news.
    pub(super) fn set_connected(&self, role: Role, is_connected: bool) -> bool {
        let mut state = self.lock();
        if !is_connected {
            state.sockets[role as usize] = None;
        }
        state.link.set_connected(role, is_connected, Instant::now())
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.lock().epoch()
    }

    /// The copies of the histories have this epoch from now on.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        let mut state = self.lock();
        if state.epoch() != Some(epoch) {
            if !state.epochs.is_empty() {
                state.link.count_epoch();
            }
            state.epochs.insert(0, epoch);
            state.epochs.truncate(EPOCHS);
        }
        state.link.set_copy(Instant::now());
        drop(state);
        self.changed.notify_all();
        // The others are told at once that this node lives, and who is subscribed here.
        self.outbox.wake();
    }

    /// Whether the histories of this epoch are known to be over.
    pub(in crate::topics) fn is_over(&self, epoch: Epoch) -> bool {
        self.lock().epochs.iter().skip(1).any(|over| *over == epoch)
    }

    /// Waits until there is an epoch other than this one, for a moment at most.
    pub(super) fn wait_for_other_epoch(&self, than: Option<Epoch>, moment: Duration) {
        let deadline = Instant::now() + moment;
        let mut state = self.lock();
        while state.epoch() == than && !self.is_ending() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The question to Redis whether it has what this node knows to have been there. If it has lost any of that, or its
    /// epoch is `lost`, the history becomes another one, for all nodes.
    pub(super) fn attach_command(&self, scripts: &Scripts, lost: Option<Epoch>) -> Cmd {
        let or_nothing = |epoch: Option<Epoch>| epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        let state = self.lock();
        let mut attach = scripts.attach();
        attach.arg(&self.redis.prefix).arg(Epoch::new().to_string()).arg(or_nothing(state.epoch()));
        attach.arg(state.read.to_string()).arg(state.written.to_string()).arg(or_nothing(lost));
        attach
    }

    /// The log was read up to this entry.
    pub(super) fn has_read(&self, id: LogId) {
        let mut state = self.lock();
        state.read = state.read.max(id);
    }

    /// This entry was written to the log.
    pub(super) fn has_written(&self, id: LogId) {
        let mut state = self.lock();
        state.written = state.written.max(id);
    }

    /// The history is another one: of the log before this entry nothing need be there.
    pub(super) fn begin_log_at(&self, id: LogId) {
        let mut state = self.lock();
        (state.read, state.written) = (id, LogId::default());
    }

    pub(super) fn set_round_trip(&self, round_trip: Duration) {
        self.lock().link.set_round_trip(round_trip);
    }

    /// Redis has answered then, and the copy was behind by so many entries of the log.
    pub(super) fn set_lag(&self, lag: u64, answered: Instant) {
        self.lock().link.set_lag(lag, answered);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    /// Waits before the next attempt to connect.
    pub(super) fn pause(&self, failures: u32) {
        self.wait(retrying::pause(failures, rand::random()));
    }

    /// Waits before the log is read again, if many nodes do.
    pub(super) fn rest(&self) {
        let pause = self.nodes().reading_pause();
        if !pause.is_zero() {
            self.wait(pause);
        }
    }

    /// Waits. Ends at the end.
    fn wait(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut state = self.lock();
        while !self.is_ending() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes whoever waits for Redis, for the last time.
    fn end(&self) {
        let sockets = {
            let mut state = self.lock();
            self.is_ending.store(true, Relaxed);
            std::mem::take(&mut state.sockets)
        };
        self.changed.notify_all();
        self.outbox.close();
        for socket in sockets.into_iter().flatten() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn epoch(&self) -> Option<Epoch> {
        self.epochs.first().copied()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("redis", &self.redis).field("name", &self.name).finish_non_exhaustive()
    }
}

impl NodeThreads {
    /// Starts the threads of a server whose topics have a backplane.
    ///
    /// # Errors
    /// The system's error if one cannot be started.
    pub(in crate::topics) fn start(hub: &Arc<Hub>, node: &Arc<Node>) -> io::Result<Self> {
        let mut threads = Self { node: Arc::clone(node), threads: Vec::new() };
        threads.start_one("heartwire-redis-in", hub, follower::run)?;
        threads.start_one("heartwire-redis-out", hub, writer::run)?;
        Ok(threads)
    }

    /// If the thread panics, all connections end at once: subscribers would go without messages, and not be told.
    fn start_one(&mut self, name: &'static str, hub: &Arc<Hub>, run: fn(&Hub, &Node)) -> io::Result<()> {
        let (ended, end) = channel::bounded::<()>(0);
        let (hub, node) = (Arc::clone(hub), Arc::clone(&self.node));
        let body = move || {
            if let Err(message) = foreign::call(|| run(&hub, &node)) {
                hub.fail(name, &message);
                node.outbox.close();
            }
            drop(ended);
        };
        self.threads.push((thread::Builder::new().name(name.into()).spawn(body)?, end));
        Ok(())
    }
}

impl Drop for NodeThreads {
    fn drop(&mut self) {
        // The writer says good-bye, if Redis listens.
        self.node.outbox.close();
        if let Some((_, end)) = self.threads.get(Role::Writer as usize) {
            let _ = end.recv_timeout(GOOD_BYE);
        }
        self.node.end();
        let deadline = Instant::now() + END;
        for (thread, end) in self.threads.drain(..) {
            // Disconnected at its end. One that hangs in the system's resolver ends when that lets go of it.
            let has_ended = end.recv_deadline(deadline) == Err(channel::RecvTimeoutError::Disconnected);
            if has_ended {
                // It has logged its own panic.
                let _ = thread.join();
            }
        }
    }
}

impl std::str::FromStr for LogId {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parts =
            text.split_once('-').and_then(|(time, number)| Some(Self(time.parse().ok()?, number.parse().ok()?)));
        parts.ok_or_else(|| Failure::Garbled(format!("{text:?} is no id of a stream's entry")))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::handle::SupervisorHandle;
    use crate::topics::Topics;

    #[test]
    fn a_thread_that_panics_ends_the_server() {
        let (supervisor, _receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
        let hub = Hub::new(Topics::new().backplane(Redis::new("redis://127.0.0.1").unwrap()), Arc::clone(&supervisor));
        let hub = Arc::new(hub);
        let mut threads = NodeThreads { node: Arc::clone(hub.node().unwrap()), threads: Vec::new() };
        threads.start_one("a thread", &hub, |_, _| panic!("as it may")).unwrap();
        drop(threads);
        assert_eq!(supervisor.failure().as_deref(), Some("a thread panicked: as it may"));
    }
}

//! What all threads of a server or a client hold of its supervisor: the channels to it, and what it shares with them.
//!
//! Its creator says how `serve` or `run` is woken when all is to end: a server out of `accept`, a client out of a
//! pause.

#[cfg(feature = "deflate")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
#[cfg(feature = "deflate")]
use crate::deflate::pool::Compression;
use crate::logging::Log;
use crate::message::Message;
use crate::protocol::close::CloseReason;
use crate::settings::Settings;
use crate::supervisor::broadcast::Broadcast;
use crate::supervisor::directory::Directory;
use crate::supervisor::event::Event;
use crate::supervisor::notice::{Command, Notice};
use crate::supervisor::stand_in::{StandIn, StandInHandle};
use crate::supervisor::stats::{Snapshot, Stats};
use crate::supervisor::subscribers::Subscribers;
use crate::transport::budget::MemoryBudget;

/// The supervisor as its server or client, their connections and their handles know it.
pub(crate) struct SupervisorHandle {
    notices: channel::Sender<Notice>,
    commands: channel::Sender<Command>,
    pub(crate) log: Arc<Log>,
    /// The connections of a server, for those who send to one of them or to those of a user.
    pub(crate) directory: Directory,
    /// The subscribers to events.
    pub(crate) subscribers: Subscribers,
    /// Protects the counters.
    stats: Mutex<Stats>,
    is_running: AtomicBool,
    is_draining: AtomicBool,
    is_ending: AtomicBool,
    /// Protects the first panic of a thread of ours. There should be none.
    failure: Mutex<Option<String>>,
    /// Wakes whoever called `serve` or `run`.
    wake: Box<dyn Fn(Wake) + Send + Sync>,
    /// The thread that stands in for handlers that are away.
    pub(crate) stand_in: StandInHandle,
    /// The memory that all queues and everything read ahead may use together.
    pub(crate) buffered: Arc<MemoryBudget>,
    /// What compresses broadcasts, if anything does.
    #[cfg(feature = "deflate")]
    compression: OnceLock<Arc<Compression>>,
    /// An instant that all connections share, for the phases of their heartbeats.
    pub(crate) epoch: Instant,
}

/// What `serve` or `run` is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The server drains, and leaves clients of sockets that are not its own to others.
    Drain,
    /// All is to end.
    End,
}

/// The other ends, for the supervisor and the stand-in.
#[derive(Debug)]
pub(crate) struct Receivers {
    pub(crate) notices: channel::Receiver<Notice>,
    pub(crate) commands: channel::Receiver<Command>,
    pub(crate) stand_in: StandIn,
}

impl SupervisorHandle {
    /// How many broadcasts may wait for the fan-out before `broadcast` blocks.
    const MAX_COMMANDS: usize = 64;
    /// How many notices may wait for the supervisor: several for each of 10,000 connections.
    const MAX_NOTICES: usize = 64 * 1024;

    /// `wake` makes `serve` or `run` check whether all is to end. It may be called at any time, from any thread.
    ///
    /// # Errors
    /// The system's error if the stand-in cannot have a socket pair.
    pub(crate) fn new(
        log: Arc<Log>,
        wake: impl Fn(Wake) + Send + Sync + 'static,
    ) -> io::Result<(Arc<Self>, Receivers)> {
        let (notices, notices_receiver) = channel::unbounded();
        let (commands, commands_receiver) = channel::bounded(Self::MAX_COMMANDS);
        let (stand_in_handle, stand_in) = StandInHandle::new()?;
        let supervisor = Self {
            notices,
            commands,
            log,
            directory: Directory::default(),
            subscribers: Subscribers::default(),
            stats: Mutex::default(),
            is_running: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            failure: Mutex::default(),
            wake: Box::new(wake),
            stand_in: stand_in_handle,
            buffered: Arc::new(MemoryBudget::new(0)),
            #[cfg(feature = "deflate")]
            compression: OnceLock::new(),
            epoch: Instant::now(),
        };
        Ok((Arc::new(supervisor), Receivers { notices: notices_receiver, commands: commands_receiver, stand_in }))
    }

    // Its life.

    /// From here on there may be connections with these settings.
    pub(crate) fn mark_running(&self, settings: &Settings) {
        self.buffered.set_limit(settings.max_buffered);
        #[cfg(feature = "deflate")]
        if let Some(compression) = &settings.compression {
            let _ = self.compression.set(Arc::clone(compression));
        }
        self.is_running.store(true, SeqCst);
    }

    /// Begins an orderly shutdown, which closes all connections with this reason, and returns at once.
    pub(crate) fn shut_down(&self, reason: CloseReason) {
        if !self.is_ending.swap(true, SeqCst) {
            self.subscribers.publish(|| Event::ShuttingDown);
            self.begin_to_end(reason);
        }
    }

    /// Begins to send clients away, evenly until the period is over, and then shuts down. Returns at once. Of several
    /// calls the one whose period is over first counts.
    pub(crate) fn drain(&self, period: Duration) {
        if self.is_ending() {
            return;
        }
        if !self.is_draining.swap(true, SeqCst) {
            self.subscribers.publish(|| Event::Draining { period });
        }
        self.notify(Notice::Drain { until: Instant::now() + period });
        (self.wake)(Wake::Drain);
    }

    /// Ends a client, or a server that could not start in full. Nobody need be told.
    pub(crate) fn end(&self) {
        if !self.is_ending.swap(true, SeqCst) {
            self.begin_to_end(CloseReason::shutdown());
        }
    }

    fn begin_to_end(&self, reason: CloseReason) {
        self.notify(Notice::Shutdown { reason: Box::new(reason) });
        (self.wake)(Wake::End);
    }

    /// A thread of ours has panicked with this message, which is a bug of heartwire. Nothing is guaranteed without that
    /// thread, so all connections end at once, and `serve` or `run` returns an error.
    pub(crate) fn fail(&self, thread: &str, message: &str) {
        let text = format!("{thread} panicked: {message}");
        self.log.error(format_args!("{text}; all connections are cut"));
        lock(&self.failure).get_or_insert(text);
        self.notify(Notice::Failed);
        self.is_ending.store(true, SeqCst);
        (self.wake)(Wake::End);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(SeqCst)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(SeqCst)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(SeqCst)
    }

    /// Everything has ended. Subscribers learn it by the end of their channels.
    pub(crate) fn mark_ended(&self) {
        self.is_running.store(false, SeqCst);
        self.is_ending.store(true, SeqCst);
        self.directory.clear();
        self.subscribers.end();
    }

    // Reporting to it.

    pub(crate) fn notify(&self, notice: Notice) {
        // Fails only after the supervisor has ended, when no notice matters any more.
        let _ = self.notices.send(notice);
    }

    /// Like [`notify`](Self::notify), for a notice that peers can cause at any time and that is not essential. If the
    /// supervisor is behind, the notice is dropped, and subscribers learn that something was lost.
    pub(crate) fn notify_if_room(&self, notice: Notice) {
        if self.is_behind() {
            self.subscribers.count_lost();
        } else {
            self.notify(notice);
        }
    }

    /// Whether so many notices wait that no more connections are accepted, each of which would add some.
    pub(crate) fn is_behind(&self) -> bool {
        self.notices.len() >= Self::MAX_NOTICES
    }

    /// Reports the end of a connection's thread, and returns when the supervisor has received the notice. What is
    /// reported from then on comes after everything about the connection.
    pub(crate) fn thread_ends(&self, id: ConnectionId) {
        let (heard, until_heard) = channel::bounded(0);
        self.notify(Notice::ThreadEnds { id, heard: Some(heard) });
        // The supervisor drops the other end, or it is dropped together with the supervisor.
        let _ = until_heard.recv();
    }

    /// Sends a message to all connections, or to all but one. Blocks while too many broadcasts wait.
    pub(crate) fn broadcast(&self, message: Message, except: Option<ConnectionId>) {
        if self.is_running.load(SeqCst) {
            let broadcast = self.encode_for_all(message);
            // Fails only after the supervisor has ended, when nobody is left to receive it.
            let _ = self.commands.send(Command::Broadcast { broadcast, except });
        }
    }

    /// Encodes a message once for many connections, and compresses it if some of them take it so.
    pub(crate) fn encode_for_all(&self, message: Message) -> Broadcast {
        #[cfg(feature = "deflate")]
        if let Some(compression) = self.compression.get() {
            return Broadcast::compressed(message, compression);
        }
        Broadcast::new(message)
    }

    // Asking it.

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
    }

    pub(crate) fn with_stats<T>(&self, read: impl FnOnce(&Stats) -> T) -> T {
        read(&lock(&self.stats))
    }

    pub(crate) fn stats(&self) -> Stats {
        let (buffered, log_lines_lost) = (self.buffered.held() as u64, self.log.lost());
        Stats { buffered, log_lines_lost, ..lock(&self.stats).clone() }
    }

    /// The open connections and the counters at one moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (reply, snapshot) = channel::bounded(1);
        if self.is_running.load(SeqCst) {
            // Over the unbounded channel: if the supervisor ends first, that channel drops its notices when the
            // receiver is dropped, which ends our wait.
            self.notify(Notice::Snapshot { reply });
        } else {
            drop(reply);
        }
        snapshot.recv().unwrap_or_else(|_| Snapshot { connections: Vec::new(), stats: self.stats() })
    }
}

impl fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorHandle").field("is_running", &self.is_running).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

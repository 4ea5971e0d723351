//! What all threads of a server or a client hold of its supervisor: the ways to tell it something, and what it shares.
//!
//! Whoever makes one says how it is woken itself when all is to end: a server out of `accept`, a client out of a pause.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{fmt, io};

use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::logging::Log;
use crate::protocol::frame::Frame;
use crate::supervisor::notice::{Command, Notice};
use crate::supervisor::stand_in::{self, StandIn};
use crate::supervisor::stats::{Snapshot, Stats};
use crate::supervisor::subscribers::Subscribers;
use crate::transport::budget::MemoryBudget;

/// The supervisor, as its server or client, their connections and their handles know it.
pub(crate) struct SupervisorHandle {
    notices: channel::Sender<Notice>,
    commands: channel::Sender<Command>,
    pub(crate) log: Arc<Log>,
    /// Those who listen to events.
    pub(crate) subscribers: Subscribers,
    /// Protects the counters.
    stats: Mutex<Stats>,
    is_running: AtomicBool,
    is_ending: AtomicBool,
    /// Protects the first failure of our own threads, of which there should be none.
    failure: Mutex<Option<String>>,
    /// Wakes whoever called `serve` or `run`.
    wake: Box<dyn Fn() + Send + Sync>,
    /// Those that may need a stand-in.
    pub(crate) stand_in: stand_in::Register,
    /// What all queues and everything read ahead cost in memory.
    pub(crate) buffered: Arc<MemoryBudget>,
    /// An instant that all connections have in common.
    pub(crate) epoch: Instant,
}

/// What the supervisor and the stand-in take out.
#[derive(Debug)]
pub(crate) struct Receivers {
    pub(crate) notices: channel::Receiver<Notice>,
    pub(crate) commands: channel::Receiver<Command>,
    pub(crate) stand_in: StandIn,
}

impl SupervisorHandle {
    /// Broadcasts that may wait for the fan-out before the broadcaster does.
    const COMMANDS: usize = 64;
    /// Notices that may wait for the supervisor: several for each of 10,000 connections.
    const NOTICES: usize = 64 * 1024;

    /// `wake`: has whoever called `serve` or `run` look whether all is to end. It may be called at any time, from any
    /// thread.
    pub(crate) fn new(log: Arc<Log>, wake: impl Fn() + Send + Sync + 'static) -> io::Result<(Arc<Self>, Receivers)> {
        let (notices, notices_receiver) = channel::unbounded();
        let (commands, commands_receiver) = channel::bounded(Self::COMMANDS);
        let (register, stand_in) = stand_in::Register::new()?;
        let supervisor = Self {
            notices,
            commands,
            log,
            subscribers: Subscribers::default(),
            stats: Mutex::default(),
            is_running: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            failure: Mutex::default(),
            wake: Box::new(wake),
            stand_in: register,
            buffered: Arc::new(MemoryBudget::new(0)),
            epoch: Instant::now(),
        };
        Ok((Arc::new(supervisor), Receivers { notices: notices_receiver, commands: commands_receiver, stand_in }))
    }

    // How far it is.

    /// From here on there are connections, which may buffer so much together.
    pub(crate) fn starts(&self, max_buffered: usize) {
        self.buffered.set_limit(max_buffered);
        self.is_running.store(true, SeqCst);
    }

    /// Has everything come to its end in good order, and returns at once.
    pub(crate) fn shut_down(&self) {
        if !self.is_ending.swap(true, SeqCst) {
            self.notify(Notice::Shutdown);
            (self.wake)();
        }
    }

    /// One of our own threads has panicked, with this message: a bug of ours. Nothing can be promised without it, so all
    /// ends, at once and with an error.
    pub(crate) fn fail(&self, thread: &str, message: &str) {
        let text = format!("{thread} panicked: {message}");
        self.log.error(format_args!("{text}; all connections are cut"));
        lock(&self.failure).get_or_insert(text);
        self.notify(Notice::Failed);
        self.is_ending.store(true, SeqCst);
        (self.wake)();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(SeqCst)
    }

    /// The end: whoever listens to events learns it by the end of the channel.
    pub(crate) fn ended(&self) {
        self.is_running.store(false, SeqCst);
        self.is_ending.store(true, SeqCst);
        self.subscribers.end();
    }

    // Telling it something.

    pub(crate) fn notify(&self, notice: Notice) {
        // Fails only when the supervisor has ended, and then nobody wants to know.
        let _ = self.notices.send(notice);
    }

    /// The same for something that peers can make happen at any time, and that can be done without: if too much waits, it
    /// is not told, and subscribers learn that something was lost.
    pub(crate) fn notify_if_room(&self, notice: Notice) {
        if self.is_behind() {
            self.subscribers.lose();
        } else {
            self.notify(notice);
        }
    }

    /// Whether so many notices wait that no more connections are to be accepted, each of which brings some.
    pub(crate) fn is_behind(&self) -> bool {
        self.notices.len() >= Self::NOTICES
    }

    /// Tells of the end of a connection's thread, and returns when the supervisor has heard of it: whatever is told from
    /// then on comes after all that was told of the connection.
    pub(crate) fn thread_ends(&self, id: ConnectionId) {
        let (heard, until_heard) = channel::bounded(0);
        self.notify(Notice::ThreadEnds { id, heard: Some(heard) });
        // The other end is dropped, by the supervisor or with it.
        let _ = until_heard.recv();
    }

    /// Sends a frame to all connections, or to all but one. Waits while too many broadcasts wait already.
    pub(crate) fn broadcast(&self, frame: Frame, except: Option<ConnectionId>) {
        if self.is_running.load(SeqCst) {
            // Fails only when the supervisor has ended, and then there is nobody to receive it.
            let _ = self.commands.send(Command::Broadcast { frame, except });
        }
    }

    // What it knows.

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
    }

    pub(crate) fn stats(&self) -> Stats {
        let (buffered, log_lines_lost) = (self.buffered.held() as u64, self.log.lost());
        Stats { buffered, log_lines_lost, ..lock(&self.stats).clone() }
    }

    /// What is open, and the counters, at one moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (reply, snapshot) = channel::bounded(1);
        if self.is_running.load(SeqCst) {
            // Over the unbounded channel, for that one drops what it still holds when its receiver goes, and so ends our
            // wait if the supervisor ends first.
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

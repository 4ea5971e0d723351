//! A server's remote control, for any thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;
use socket2::SockRef;

use crate::connection::report::ConnectionId;
use crate::logging::Log;
use crate::protocol::frame::Frame;
use crate::supervisor::event::Event;
use crate::supervisor::notice::{Command, Notice};
use crate::supervisor::stand_in;
use crate::supervisor::stand_in::StandIn;
use crate::supervisor::stats::{Snapshot, Stats};
use crate::supervisor::subscribers::Subscribers;
use crate::transport::budget::Total;

/// What the server's threads and its handles share.
#[derive(Debug)]
pub(crate) struct SupervisorHandle {
    /// A server's, for waking its accept loop, as long as that runs.
    listener: Mutex<Option<Listener>>,
    pub(crate) notices: channel::Sender<Notice>,
    commands: channel::Sender<Command>,
    pub(crate) log: Arc<Log>,
    /// Protects the list of those who listen to events; `None` after the end. Nobody waits for them, so it is held for
    /// moments only.
    subscribers: Mutex<Option<Subscribers>>,
    /// Whether some of them have lost something, and are to be told.
    has_lost: AtomicBool,
    /// Protects the counters.
    stats: Mutex<Stats>,
    is_running: AtomicBool,
    is_ending: AtomicBool,
    /// Protects the first failure of our own threads, of which there should be none.
    failure: Mutex<Option<String>>,
    /// Wakes the accept loop when it is not in `accept`.
    stop: channel::Sender<()>,
    /// Those that may need a stand-in.
    pub(crate) stand_in: stand_in::Register,
    /// What all queues and everything read ahead cost in memory.
    pub(crate) buffered: Arc<Total>,
    /// An instant that all connections have in common.
    pub(crate) epoch: Instant,
}

/// The listening socket.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) socket: Arc<TcpListener>,
    /// Whether it was made by us. Another process may hold the same socket otherwise, and go on with it after us.
    pub(crate) is_ours: bool,
}

/// The receiving ends of a hub.
#[derive(Debug)]
pub(crate) struct Receivers {
    pub(crate) notices: channel::Receiver<Notice>,
    pub(crate) commands: channel::Receiver<Command>,
    pub(crate) stop: channel::Receiver<()>,
    pub(crate) stand_in: StandIn,
}

impl SupervisorHandle {
    /// Broadcasts that may wait for the fan-out before the broadcaster does.
    const COMMANDS: usize = 64;
    /// Notices that may wait for the supervisor: several for each of 10,000 connections.
    const NOTICES: usize = 64 * 1024;

    pub(crate) fn new(listener: Option<Listener>) -> io::Result<(Arc<Self>, Receivers)> {
        let (notices, notices_receiver) = channel::unbounded();
        let (commands, commands_receiver) = channel::bounded(Self::COMMANDS);
        let (stop, stop_receiver) = channel::bounded(1);
        let (register, stand_in) = stand_in::Register::new()?;
        let supervisor = Self {
            listener: Mutex::new(listener),
            notices,
            commands,
            log: Arc::default(),
            subscribers: Mutex::new(Some(Subscribers::default())),
            has_lost: AtomicBool::new(false),
            stats: Mutex::default(),
            is_running: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            failure: Mutex::default(),
            stop,
            stand_in: register,
            buffered: Arc::new(Total::new(0)),
            epoch: Instant::now(),
        };
        let receivers =
            Receivers { notices: notices_receiver, commands: commands_receiver, stop: stop_receiver, stand_in };
        Ok((Arc::new(supervisor), receivers))
    }

    /// From here on there are connections, which may buffer so much together.
    pub(crate) fn starts(&self, max_buffered: usize) {
        self.buffered.set_limit(max_buffered);
        self.is_running.store(true, SeqCst);
    }

    /// Nothing is accepted any more: lets go of the listening socket.
    pub(crate) fn accept_ends(&self) {
        *lock(&self.listener) = None;
        self.notify(Notice::AcceptEnds);
    }

    /// Has a blocked `accept` return.
    fn wake_accept(&self) {
        let Some(listener) = lock(&self.listener).clone() else { return };
        let shut_down = || SockRef::from(&*listener.socket).shutdown(Shutdown::Both);
        // On Linux this is enough. Elsewhere, and for a socket that others may share, somebody has to connect.
        if listener.is_ours && shut_down().is_ok() {
            return;
        }
        let mut address = listener.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        if let Err(error) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            self.log.debug(format_args!("accept could not be woken by connecting: {error}"));
            let _ = shut_down();
        }
    }

    /// The server has ended: whoever listens to events learns it by the end of the channel.
    pub(crate) fn ended(&self) {
        self.is_running.store(false, SeqCst);
        self.is_ending.store(true, SeqCst);
        if let Some(subscribers) = lock(&self.subscribers).take() {
            subscribers.end();
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(SeqCst)
    }

    /// One of our own threads has panicked, with this message: a bug of ours. Nothing can be promised without it, so all
    /// ends, at once and with an error.
    pub(crate) fn fail(&self, thread: &str, message: &str) {
        let text = format!("{thread} panicked: {message}");
        self.log.error(format_args!("{text}; all connections are cut"));
        lock(&self.failure).get_or_insert(text);
        self.notify(Notice::Failed);
        self.is_ending.store(true, SeqCst);
        self.wake_up();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Wakes whoever waits for clients or for its next attempt.
    fn wake_up(&self) {
        let _ = self.stop.try_send(());
        self.wake_accept();
    }

    pub(crate) fn notify(&self, notice: Notice) {
        // Fails only when the supervisor has ended, and then nobody wants to know.
        let _ = self.notices.send(notice);
    }

    /// The same for something that peers can make happen at any time, and that can be done without: if too much waits, it
    /// is not told, and subscribers learn that something was lost.
    pub(crate) fn notify_if_room(&self, notice: Notice) {
        if self.is_behind() {
            if let Some(subscribers) = &mut *lock(&self.subscribers) {
                subscribers.lose();
                self.has_lost.store(true, SeqCst);
            }
        } else {
            self.notify(notice);
        }
    }

    /// Whether so many notices wait that no more connections are to be accepted, each of which brings some.
    pub(crate) fn is_behind(&self) -> bool {
        self.notices.len() >= Self::NOTICES
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
    }

    pub(crate) fn stats(&self) -> Stats {
        let (buffered, log_lines_lost) = (self.buffered.held() as u64, self.log.lost());
        Stats { buffered, log_lines_lost, ..lock(&self.stats).clone() }
    }

    pub(crate) fn subscribe(&self) -> channel::Receiver<Event> {
        match &mut *lock(&self.subscribers) {
            Some(subscribers) => subscribers.add(),
            // Nothing happens any more.
            None => channel::bounded(0).1,
        }
    }

    /// Sends a frame to all connections, or to all but one. Waits while too many broadcasts wait already.
    pub(crate) fn broadcast(&self, frame: Frame, except: Option<ConnectionId>) {
        if self.is_running.load(SeqCst) {
            // Fails only when the supervisor has ended, and then there is nobody to receive it.
            let _ = self.commands.send(Command::Broadcast { frame, except });
        }
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

    /// Has everything come to its end in good order, and returns at once.
    pub(crate) fn shut_down(&self) {
        if !self.is_ending.swap(true, SeqCst) {
            self.notify(Notice::Shutdown);
            self.wake_up();
        }
    }

    /// Hands an event to all subscribers. It is only made if there are any.
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        if let Some(subscribers) = &mut *lock(&self.subscribers) {
            subscribers.tell(event);
            self.has_lost.store(subscribers.tell_lost(), SeqCst);
        }
    }

    /// Tells subscribers that have lost something, and have room again. When to try once more, if some had none.
    pub(crate) fn tell_lost(&self) -> Option<Instant> {
        const PAUSE: Duration = Duration::from_millis(100);
        if !self.has_lost.load(SeqCst) {
            return None;
        }
        if let Some(subscribers) = &mut *lock(&self.subscribers) {
            self.has_lost.store(subscribers.tell_lost(), SeqCst);
        }
        self.has_lost.load(SeqCst).then(|| Instant::now() + PAUSE)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

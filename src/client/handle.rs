//! A client's remote control, and what it shares with the client: the connection that is open, and the outbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::close::{CloseCode, CloseReason};
use crate::error::{Error, TrySendError};
use crate::event::{Event, Stats};
use crate::handle::Hub;
use crate::heartbeat::HeartbeatPolicy;
use crate::link::Link;
use crate::message::Message;
use crate::settings::LONGEST;

/// The remote control of a [`Client`](crate::Client), for any number of threads. It stays the same over all
/// connections. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    pub(super) shared: Arc<Shared>,
}

impl ClientHandle {
    /// What a message in the outbox counts for, its frame's header included.
    fn size(message: &Message) -> usize {
        message.len() + 16
    }

    /// Sends a message over the connection that is open, waiting for room as [`Sender::send`](crate::Sender::send)
    /// does. Without a connection it is kept, if there is an [outbox](crate::Client::outbox_size), and refused
    /// otherwise.
    ///
    /// # Errors
    /// The message comes back: [`TrySendError::NotConnected`] without a connection and an outbox,
    /// [`TrySendError::Full`] when the outbox is full, [`TrySendError::Closed`] when the client was stopped or has ended.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), TrySendError<Message>> {
        let message = message.into();
        loop {
            let link = {
                let mut current = self.shared.current();
                if self.shared.is_stopping() || current.has_ended {
                    return Err(TrySendError::Closed(message));
                }
                match current.open_link() {
                    Some(link) => link,
                    None => return current.keep(message),
                }
            };
            if link.send(message.clone()).is_ok() {
                return Ok(());
            }
            // It was lost meanwhile, and the message is for the next: from here on the loop cannot find it again.
            debug_assert!(link.outbound.is_closing());
        }
    }

    /// Waits until there is a connection. `false` if there was none within `timeout`, or there will be none any more.
    pub fn wait_connected(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(LONGEST);
        let mut current = self.shared.current();
        while current.open_link().is_none() && !current.has_ended {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            current = self.shared.changed.wait_timeout(current, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        current.open_link().is_some()
    }

    /// Whether [`Client::run`](crate::Client::run) has returned, so that there will be no connection any more.
    pub fn has_ended(&self) -> bool {
        self.shared.current().has_ended
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.shared.current().open_link().is_some()
    }

    /// How many messages wait in the [outbox](crate::Client::outbox_size). After the end: how many were never sent.
    pub fn outbox_len(&self) -> usize {
        self.shared.current().outbox.len()
    }

    /// Changes the heartbeat of the connection that is open, such as to a slower one while an app is in the background.
    /// A Ping leaves at once; if the policy [announces](HeartbeatPolicy::announcing), it tells the server. The change
    /// itself is made when the server next shows life, as by its Pong; a server that shows none is found dead by the
    /// heartbeat that was in force. The next connection begins with [`Client::heartbeat`](crate::Client::heartbeat)
    /// again.
    ///
    /// # Errors
    /// [`Error::Closed`] without a connection.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        let link = self.shared.current().open_link();
        match link {
            Some(link) => link.ask_heartbeat(policy),
            None => Err(Error::Closed(CloseReason::Disconnected)),
        }
    }

    /// Cuts a pause between attempts short, for instance because the network is back.
    pub fn connect_now(&self) {
        let _ = self.shared.control.try_send(Control::ConnectNow);
    }

    /// Stops the client, and returns at once: an open connection is closed with 1000, after what is queued; an attempt
    /// or a pause ends at once. [`Client::run`](crate::Client::run) then returns `Ok`.
    pub fn stop(&self) {
        self.shared.is_stopping.store(true, SeqCst);
        let link = self.shared.current().link.clone();
        if let Some(link) = link {
            // Fails only when it is closing already.
            let _ = link.close_from_outside(normal_closure());
        }
        let _ = self.shared.control.try_send(Control::Stop);
    }

    /// Everything that happens from now on: attempts, pauses, openings, misses, closures. The channel is unbounded, and
    /// disconnected when the client has ended.
    pub fn events(&self) -> channel::Receiver<Event> {
        self.shared.hub.subscribe()
    }

    /// The counters since the client started.
    pub fn stats(&self) -> Stats {
        self.shared.hub.stats()
    }
}

/// What the client and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    /// Protects the connection that is open now, and what waits for the next. Never held across a call that can block.
    current: Mutex<Current>,
    /// Signalled when a connection has opened, and at the end.
    changed: Condvar,
    control: channel::Sender<Control>,
    is_stopping: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Current {
    pub(super) link: Option<Arc<Link>>,
    outbox: VecDeque<Message>,
    outbox_size: usize,
    pub(super) outbox_limit: usize,
    has_ended: bool,
}

#[derive(Debug)]
pub(super) enum Control {
    Stop,
    ConnectNow,
}

impl Shared {
    pub(super) fn new(hub: Arc<Hub>, control: channel::Sender<Control>) -> Self {
        Self { hub, current: Mutex::default(), changed: Condvar::new(), control, is_stopping: AtomicBool::new(false) }
    }

    pub(super) fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Sends what waited, ahead of whatever is sent from now on, and lets everybody know.
    ///
    /// The lock is not held while a message is handed over, for a write that fails is logged, and the logger may send
    /// over a handle. Until the last has left there is no link: what is sent meanwhile waits in its turn.
    pub(super) fn opened(&self, link: Arc<Link>) {
        while let Some(message) = self.next_to_leave(&link) {
            // The queue has room for all of it. What a connection that is lost already does not take waits for the
            // next.
            if let Err(error) = link.try_send(message) {
                let mut current = self.current();
                current.outbox.push_front(error.into_inner());
                current.connect(&link);
                break;
            }
        }
        self.changed.notify_all();
        if self.is_stopping() {
            let _ = link.close_from_outside(normal_closure());
        }
    }

    /// The oldest message of the outbox; when there is none left, the link is there for all.
    fn next_to_leave(&self, link: &Arc<Link>) -> Option<Message> {
        let mut current = self.current();
        let message = current.outbox.pop_front();
        if message.is_none() {
            current.connect(link);
        }
        message
    }

    pub(super) fn ended(&self) {
        let unsent = {
            let mut current = self.current();
            current.has_ended = true;
            current.outbox.len()
        };
        self.changed.notify_all();
        if unsent > 0 {
            log::warn!("{unsent} messages were kept for a connection that never came");
        }
    }
}

impl Current {
    /// The connection that can be sent to.
    fn open_link(&self) -> Option<Arc<Link>> {
        self.link.clone().filter(|link| !link.outbound.is_closing())
    }

    /// Has this link be the one that is sent to. What has left the outbox does not count for it any more.
    fn connect(&mut self, link: &Arc<Link>) {
        self.link = Some(Arc::clone(link));
        self.outbox_size = self.outbox.iter().map(ClientHandle::size).sum();
    }

    fn keep(&mut self, message: Message) -> Result<(), TrySendError<Message>> {
        if self.outbox_limit == 0 {
            return Err(TrySendError::NotConnected(message));
        }
        let size = ClientHandle::size(&message);
        if self.outbox_size + size > self.outbox_limit {
            return Err(TrySendError::Full(message));
        }
        self.outbox_size += size;
        self.outbox.push_back(message);
        Ok(())
    }
}

fn normal_closure() -> CloseReason {
    CloseReason::Local { code: CloseCode::NORMAL, reason: String::new() }
}

//! The handle to a client, and what it shares with the client: the open connection and the outbox.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::connection::shared::Shared;
use crate::durations::LONGEST;
use crate::error::{ClientSendError, Error, TrySendError, sendable};
use crate::heartbeat::HeartbeatPolicy;
use crate::message::Message;
use crate::protocol::close::{CloseCode, CloseReason, counted};
use crate::supervisor::event::Event;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::stats::Stats;
use crate::transport::write_half::Wait;

/// A handle to a [`Client`](crate::Client), for any number of threads. It outlives each connection. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    pub(super) state: Arc<ClientState>,
}

impl ClientHandle {
    /// What a message in the outbox counts for: as much as in a connection's queue, which has to have room for all of
    /// them.
    fn size(message: &Message) -> usize {
        message.cost()
    }

    /// Sends a message over the open connection. Waits for room like [`Sender::send`](crate::Sender::send).
    ///
    /// Without a connection, the [outbox](crate::Client::outbox_size) keeps the message; without an outbox it is
    /// refused.
    ///
    /// # Errors
    /// All give the message back. [`ClientSendError::NotConnected`] if there is neither a connection nor an outbox.
    /// [`ClientSendError::Full`] if the outbox is full (see also
    /// [`outbox_drops_oldest`](crate::Client::outbox_drops_oldest)). [`ClientSendError::Closed`] if the client was
    /// stopped or has ended.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), ClientSendError<Message>> {
        self.send_or_keep(message.into(), Wait::Forever)
    }

    /// Like [`send`](Self::send), but never waits.
    ///
    /// # Errors
    /// Like [`send`](Self::send). [`ClientSendError::Full`] also if the queue of the open connection is full.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), ClientSendError<Message>> {
        self.send_or_keep(message.into(), Wait::No)
    }

    fn send_or_keep(&self, mut message: Message, wait: Wait) -> Result<(), ClientSendError<Message>> {
        loop {
            let connection = {
                let mut current = self.state.current();
                if self.state.is_stopping() || current.has_ended {
                    return Err(ClientSendError::Closed(message));
                }
                match current.open_connection() {
                    Some(connection) => connection,
                    None => {
                        let dropped = current.keep(message);
                        drop(current);
                        return dropped.map(drop);
                    }
                }
            };
            message = match connection.try_send(message, wait) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(message)) => return Err(ClientSendError::Full(message)),
                Err(TrySendError::Closed(message)) => message,
            };
            // The connection was lost, so the message goes to the next. The loop cannot find this one again.
            debug_assert!(connection.write_half.is_closing());
        }
    }

    /// Waits until there is a connection, for `timeout` at most. `false` if there was none in time, or the client has
    /// ended.
    pub fn wait_connected(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(LONGEST);
        let mut current = self.state.current();
        while current.open_connection().is_none() && !current.has_ended {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            current = self.state.changed.wait_timeout(current, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        current.open_connection().is_some()
    }

    /// Whether [`Client::run`](crate::Client::run) has returned, so that there will be no more connections.
    pub fn has_ended(&self) -> bool {
        self.state.current().has_ended
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.state.current().open_connection().is_some()
    }

    /// How many messages wait in the [outbox](crate::Client::outbox_size). After the client's end: how many were never
    /// sent.
    pub fn outbox_len(&self) -> usize {
        self.state.current().outbox.len()
    }

    /// Takes all messages out of the [outbox](crate::Client::outbox_size), oldest first. They will not be sent. After
    /// the client's end these are the messages that were never sent, so that you can store them.
    pub fn take_outbox(&self) -> Vec<Message> {
        self.state.current().take_outbox().into()
    }

    /// How many messages a full outbox has dropped so far, if it [drops the
    /// oldest](crate::Client::outbox_drops_oldest).
    pub fn outbox_dropped(&self) -> u64 {
        self.state.current().dropped
    }

    /// Changes the heartbeat of the open connection, for instance to a slower one while an app is in the background.
    ///
    /// It takes effect at once. If we lead, a Ping leaves at once: it finds a server that is dead already, and tells
    /// the server the new interval if the policy [announces](HeartbeatPolicy::announcing). The next connection starts
    /// with [`Client::heartbeat`](crate::Client::heartbeat) again.
    ///
    /// # Errors
    /// [`Error::Closed`] if there is no connection.
    pub fn set_heartbeat(&self, policy: HeartbeatPolicy) -> Result<(), Error> {
        let connection = self.state.current().open_connection();
        match connection {
            Some(connection) => connection.request_heartbeat(policy),
            None => Err(Error::Closed(CloseReason::Disconnected)),
        }
    }

    /// Ends a pause between attempts, for instance because the network is back.
    pub fn connect_now(&self) {
        let _ = self.state.wake.try_send(());
    }

    /// Stops the client, and returns at once. An open connection sends what is queued and is then closed with 1000. An
    /// attempt or a pause ends at once. [`Client::run`](crate::Client::run) then returns `Ok`.
    pub fn stop(&self) {
        self.state.stop(CloseReason::normal());
    }

    /// Like [`stop`](Self::stop), with another close code than 1000 and a reason, of which 123 bytes are sent. Does
    /// nothing if the client was stopped already.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent; the client goes on.
    pub fn stop_with(&self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = sendable(code)?;
        self.state.stop(CloseReason::Local { code, reason: reason.to_owned() });
        Ok(())
    }

    /// All events from now on: attempts, pauses, openings, misses, closures. The channel is disconnected when the
    /// client has ended. It has the same bound and the same type of receiver as
    /// [`ServerHandle::events`](crate::ServerHandle::events).
    pub fn events(&self) -> channel::Receiver<Event> {
        self.state.supervisor.subscribers.add()
    }

    /// The counters since the client started.
    pub fn stats(&self) -> Stats {
        self.state.supervisor.stats()
    }
}

/// What the client and its handles share.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) supervisor: Arc<SupervisorHandle>,
    /// Protects the open connection and the outbox. Never held across a call that can block or that runs foreign code:
    /// the logger, or the `Drop` of memory that the application lent to a message. The write half's lock may be taken
    /// while it is held.
    current: Mutex<Current>,
    /// Signalled when a connection has opened, and at the end.
    changed: Condvar,
    /// Wakes the client, so that it checks whether to stop, and ends its pause.
    wake: channel::Sender<()>,
    /// What the client was stopped with.
    stopped_with: OnceLock<CloseReason>,
}

#[derive(Debug, Default)]
pub(super) struct Current {
    pub(super) connection: Option<Arc<Shared>>,
    outbox: VecDeque<Message>,
    /// What the messages in the outbox count for.
    outbox_size: usize,
    /// What the messages count for that have left the outbox while the connection opens: one outbox at most. If a full
    /// outbox refuses messages, these keep their room until all have left.
    leaving: usize,
    pub(super) outbox_limit: usize,
    pub(super) drops_oldest: bool,
    /// How many were dropped, and how many of them were logged.
    dropped: u64,
    dropped_and_logged: u64,
    has_ended: bool,
}

impl ClientState {
    pub(super) fn new(supervisor: Arc<SupervisorHandle>, wake: channel::Sender<()>) -> Self {
        Self { supervisor, current: Mutex::default(), changed: Condvar::new(), wake, stopped_with: OnceLock::new() }
    }

    pub(super) fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopped_with.get().is_some()
    }

    fn stop(&self, reason: CloseReason) {
        let reason = self.stopped_with.get_or_init(|| reason);
        let connection = self.current().connection.clone();
        if let Some(connection) = connection {
            // Fails only if it is closing already.
            let _ = connection.close_from_outside(reason.clone());
        }
        let _ = self.wake.try_send(());
    }

    /// Sends what waited in the outbox ahead of all later messages, and wakes all who wait for a connection.
    ///
    /// Until then, the outbox keeps what others send. They may fill it as fast as it empties, and the handler must not
    /// wait for that. So one outbox leaves message by message, and what waits then leaves at once. The connection's
    /// queue has room for both.
    pub(super) fn opened(&self, connection: Arc<Shared>) {
        while let Some(message) = self.next_to_leave() {
            // Without the lock: the application may have lent the message's memory, which is given back here.
            if let Err(error) = connection.try_send(message, Wait::No) {
                self.current().put_back(error.into_inner());
                break;
            }
        }
        self.connect(&connection);
        self.changed.notify_all();
        self.log_dropped();
        if let Some(reason) = self.stopped_with.get() {
            let _ = connection.close_from_outside(reason.clone());
        }
    }

    /// The oldest message of the outbox. `None` once as much has left as an outbox holds.
    fn next_to_leave(&self) -> Option<Message> {
        let mut current = self.current();
        let leaving = current.leaving + current.outbox.front().map(ClientHandle::size)?;
        if leaving > current.outbox_limit {
            return None;
        }
        current.leaving = leaving;
        current.pop()
    }

    /// Sends the rest of the outbox at once, and opens the connection to all senders. If the connection is already
    /// lost, what it does not take waits for the next.
    fn connect(&self, connection: &Arc<Shared>) {
        let mut current = self.current();
        // Feeding never waits, and it drops only clones: the messages stay here until the lock is released.
        let is_taken = |message: &&Message| connection.try_feed(Message::clone(message)).is_ok();
        let taken = current.outbox.iter().take_while(is_taken).count();
        let left: Vec<Message> = std::iter::from_fn(|| current.pop()).take(taken).collect();
        current.connection = Some(Arc::clone(connection));
        current.leaving = 0;
        drop(current);
        drop(left);
        // If it cannot be written, the first read returns the cause.
        let _ = connection.flush();
    }

    /// Logs the dropped messages. Not when they are dropped: a successful send logs nothing, because loggers may send.
    fn log_dropped(&self) {
        let dropped = {
            let mut current = self.current();
            let dropped = current.dropped - current.dropped_and_logged;
            current.dropped_and_logged = current.dropped;
            dropped
        };
        if dropped > 0 {
            self.supervisor
                .log
                .warn(format_args!("the full outbox dropped {}, oldest first", counted(dropped, "message")));
        }
    }

    pub(super) fn ended(&self) {
        let unsent = {
            let mut current = self.current();
            current.has_ended = true;
            current.outbox.len() as u64
        };
        self.changed.notify_all();
        self.log_dropped();
        if unsent > 0 {
            self.supervisor.log.warn(format_args!("ended with {} unsent in the outbox", counted(unsent, "message")));
        }
    }
}

impl Current {
    /// The connection that can be sent to.
    fn open_connection(&self) -> Option<Arc<Shared>> {
        self.connection.clone().filter(|connection| !connection.write_half.is_closing())
    }

    /// Keeps a message. Returns the messages that gave way to it, for the caller to drop without the lock.
    fn keep(&mut self, message: Message) -> Result<Vec<Message>, ClientSendError<Message>> {
        if self.outbox_limit == 0 {
            return Err(ClientSendError::NotConnected(message));
        }
        let size = ClientHandle::size(&message);
        let taken = if self.drops_oldest { 0 } else { self.leaving + self.outbox_size };
        if size > self.outbox_limit.saturating_sub(taken) {
            return Err(ClientSendError::Full(message));
        }
        let mut dropped = Vec::new();
        while self.outbox_size + size > self.outbox_limit {
            dropped.extend(self.pop());
        }
        self.dropped += dropped.len() as u64;
        self.outbox_size += size;
        self.outbox.push_back(message);
        Ok(dropped)
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.outbox.pop_front()?;
        self.outbox_size -= ClientHandle::size(&message);
        Some(message)
    }

    fn put_back(&mut self, message: Message) {
        self.outbox_size += ClientHandle::size(&message);
        self.outbox.push_front(message);
    }

    fn take_outbox(&mut self) -> VecDeque<Message> {
        self.outbox_size = 0;
        std::mem::take(&mut self.outbox)
    }

    /// How much may leave the outbox when a connection opens, before the peer takes any of it: one outbox. Or two, if a
    /// full one drops its oldest messages, for then senders can fill it again meanwhile.
    pub(super) fn most_that_leaves(&self) -> usize {
        self.outbox_limit.saturating_mul(if self.drops_oldest { 2 } else { 1 })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::client::Client;

    /// An outbox with room for so many messages of one byte.
    fn outbox(messages: usize, drops_oldest: bool) -> Current {
        Current { outbox_limit: messages * Message::from("x").cost(), drops_oldest, ..Current::default() }
    }

    fn kept(current: &mut Current, text: &str) -> Option<Vec<Message>> {
        current.keep(text.into()).ok()
    }

    #[test]
    fn a_full_outbox_refuses_or_drops_the_oldest() {
        let mut refuses = outbox(2, false);
        assert_eq!(["a", "b", "c"].map(|text| kept(&mut refuses, text)), [Some(vec![]), Some(vec![]), None]);
        let mut drops = outbox(2, true);
        let dropped = ["a", "b", "c"].map(|text| kept(&mut drops, text));
        assert_eq!(dropped, [Some(vec![]), Some(vec![]), Some(vec!["a".into()])]);
        // A longer one takes the place of several; one that can never fit drops none.
        let longest = "x".repeat(2 + Message::OVERHEAD);
        assert_eq!(kept(&mut drops, &longest), Some(vec!["b".into(), "c".into()]));
        assert_eq!(kept(&mut drops, &(longest.clone() + "x")), None);
        assert_eq!((drops.take_outbox(), drops.dropped, drops.outbox_size), (vec![longest.into()].into(), 3, 0));
    }

    /// The oldest message leaves.
    fn leave(current: &mut Current) {
        current.leaving += current.pop().map(|message| ClientHandle::size(&message)).unwrap();
    }

    #[test]
    fn what_is_leaving_takes_its_room_in_an_outbox_that_refuses() {
        let mut current = outbox(2, false);
        for text in ["a", "b"] {
            kept(&mut current, text).unwrap();
        }
        leave(&mut current);
        assert_eq!(kept(&mut current, "c"), None, "the connection's queue has room for one outbox");
        leave(&mut current);
        assert_eq!(kept(&mut current, "c"), None);
        current.leaving = 0;
        assert_eq!(kept(&mut current, "c"), Some(vec![]));
    }

    #[test]
    fn try_send_never_waits_and_says_why_it_gives_the_message_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("ws://{}/", listener.local_addr().unwrap())).unwrap();
        let client = client.heartbeat(HeartbeatPolicy::off()).queue_size(1).close_timeout(Duration::from_secs(1));
        let handle = client.handle();
        assert_eq!(handle.try_send("x"), Err(ClientSendError::NotConnected("x".into())));

        let running = thread::spawn(move || {
            client.run(|conn| {
                loop {
                    conn.recv()?;
                }
            })
        });
        let never_reads = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        assert!(handle.wait_connected(Duration::from_secs(30)));
        let message = Message::from(vec![0; 1 << 20]);
        let refused = (0..1000).find_map(|_| handle.try_send(message.clone()).err());
        assert_eq!(refused, Some(ClientSendError::Full(message)), "the system does not buffer a gigabyte");

        handle.stop();
        assert_eq!(handle.try_send("x"), Err(ClientSendError::Closed("x".into())));
        drop(never_reads);
        running.join().unwrap().unwrap();
    }
}

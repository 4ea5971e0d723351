//! What all threads that touch a connection share: who it is, its write half, and the first cause of its end.
//!
//! The connection's own thread, every [`Sender`](crate::Sender), the drainer and the supervisor hold a [`Link`]. Whoever
//! finds that the connection is over says so here; the first one wins, and the report goes out exactly once.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::close::{CloseCode, CloseReason, CloseReport, ConnectionId, Traffic};
use crate::error::{Error, TrySendError};
use crate::event::ConnectionInfo;
use crate::forwarded::Remote;
use crate::frame::{Frame, Role};
use crate::handle::Hub;
use crate::heartbeat::HeartbeatPolicy;
use crate::message::Message;
use crate::outbound::{DrainFailure, Outbound, SendFailure, Sent};
use crate::round_trip::PingLedger;
use crate::supervisor::Notice;
use crate::tcp;

pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) remote: Remote,
    pub(crate) path: String,
    pub(crate) opened: Instant,
    pub(crate) outbound: Outbound<TcpStream>,
    pub(crate) close_timeout: Duration,
    stack_size: usize,
    hub: Arc<Hub>,
    /// Whether broadcasts are for this connection too.
    pub(crate) takes_broadcasts: bool,
    /// Protects the Pings that are under way; taken for moments only.
    ledger: Mutex<PingLedger>,
    cause: OnceLock<CloseReason>,
    /// A write that failed: the cause, unless what was received before it says another.
    write_error: OnceLock<CloseReason>,
    /// Until when the closing handshake may take; set by whoever begins it.
    close_deadline: OnceLock<Instant>,
    received_code: OnceLock<CloseCode>,
    /// Held while the report is handed over, so that it is in the channel before anything else is said of the end.
    is_reported: Mutex<bool>,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    dropped: AtomicU64,
    missed: AtomicU32,
    max_missed: AtomicU32,
    /// Milliseconds from `opened` to the newest byte from the peer.
    heard_at: AtomicU64,
    /// Milliseconds from `opened`, plus one, since when the connection's thread has been away from `recv`; 0 while it
    /// listens.
    away_since: AtomicU64,
    /// A heartbeat that another thread has asked for, until the connection's thread takes it up.
    asked_heartbeat: Mutex<Option<HeartbeatPolicy>>,
    /// The heartbeat's interval in milliseconds, for the pacemaker; 0 without one.
    interval_ms: AtomicU64,
}

/// What a [`Link`] is made from.
pub(crate) struct Opening {
    pub(crate) role: Role,
    pub(crate) id: ConnectionId,
    pub(crate) remote: Remote,
    pub(crate) path: String,
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) queue_size: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) stack_size: usize,
    pub(crate) takes_broadcasts: bool,
    pub(crate) hub: Arc<Hub>,
}

impl Link {
    pub(crate) fn new(opening: Opening) -> Self {
        let Opening { role, id, remote, path, stream, queue_size, close_timeout, stack_size, takes_broadcasts, hub } =
            opening;
        Self {
            id,
            remote,
            path,
            opened: Instant::now(),
            outbound: Outbound::new(role, stream, queue_size, None),
            close_timeout,
            stack_size,
            hub,
            takes_broadcasts,
            ledger: Mutex::default(),
            cause: OnceLock::new(),
            write_error: OnceLock::new(),
            close_deadline: OnceLock::new(),
            received_code: OnceLock::new(),
            is_reported: Mutex::new(false),
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            missed: AtomicU32::new(0),
            max_missed: AtomicU32::new(0),
            heard_at: AtomicU64::new(0),
            away_since: AtomicU64::new(0),
            asked_heartbeat: Mutex::new(None),
            interval_ms: AtomicU64::new(0),
        }
    }

    // Sending.

    /// Sends a message, waiting for room in the queue.
    pub(crate) fn send(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        let sent = self.outbound.send(Frame::message(message), true);
        self.settle(sent).map(drop)
    }

    /// Sends a message when the thread next blocks in `recv`, or earlier.
    pub(crate) fn feed(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        let sent = self.outbound.feed(Frame::message(message), true);
        self.settle(sent).map(drop)
    }

    /// The first frame of all, which waits in memory until [`flush`](Self::flush) or the next frame. It counts as no
    /// message.
    pub(crate) fn greet(&self, text: String) {
        self.outbound.greet(Frame::message(text.into()));
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        let sent = self.outbound.flush();
        self.settle(sent).map(drop)
    }

    pub(crate) fn try_send(self: &Arc<Self>, message: Message) -> Result<(), TrySendError<Message>> {
        match self.outbound.send(Frame::message(message.clone()), false) {
            Err(SendFailure::Full) => Err(TrySendError::Full(message)),
            sent => self.settle(sent).map(drop).map_err(|_| TrySendError::Closed(message)),
        }
    }

    /// Sends a copy of a frame that goes to many, or drops it for a peer that is behind.
    pub(crate) fn send_copy(self: &Arc<Self>, frame: &Frame) {
        let sent = self.outbound.send(frame.clone(), false);
        self.settle_copy(sent);
    }

    /// The same, but it may wait for [`flush`](Self::flush).
    pub(crate) fn feed_copy(self: &Arc<Self>, frame: &Frame) {
        let sent = self.outbound.feed(frame.clone(), false);
        self.settle_copy(sent);
    }

    fn settle_copy(self: &Arc<Self>, sent: Result<Sent, SendFailure>) {
        if let Err(SendFailure::Full) = sent {
            if self.dropped.fetch_add(1, Relaxed) == 0 {
                log::warn!("#{} {}: queue full, dropping broadcasts", self.id, self.remote);
            }
        } else {
            // If it cannot be written, the connection's thread will find out why.
            let _ = self.settle(sent);
        }
    }

    /// Sends a Ping with the next number, which may announce when the next is due. `waiter` is told the round-trip time.
    pub(crate) fn ping(
        self: &Arc<Self>,
        next: Option<Duration>,
        waiter: Option<channel::Sender<Duration>>,
    ) -> Result<Sent, Error> {
        // Entered before it is written: the Pong may be here before this thread is back.
        let payload = self.enter_ping(next, waiter);
        let sent = self.outbound.send_control(Frame::ping(payload.clone()));
        let sent = self.settle(sent)?;
        if sent != Sent::Written {
            self.ledger().queued(&payload);
        }
        self.hub.count(|stats| stats.pings += 1);
        Ok(sent)
    }

    /// Not inlined, to keep the stack low for the send that follows.
    #[inline(never)]
    fn enter_ping(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> tungstenite::Bytes {
        self.ledger().ping(Instant::now(), next, waiter).into()
    }

    /// Sends a Pong: the answer to a Ping, or an unsolicited one without payload (RFC 6455 section 5.5.3).
    pub(crate) fn pong(self: &Arc<Self>, payload: tungstenite::Bytes) -> Result<(), Error> {
        let sent = self.outbound.send_control(Frame::pong(payload));
        self.settle(sent).map(drop)
    }

    /// Answers a heartbeat in text. A peer that is behind on what it was sent gets it when it has caught up.
    pub(crate) fn text_pong(self: &Arc<Self>) -> Result<(), Error> {
        let sent = self.outbound.send_control(Frame::text_pong());
        self.settle(sent).map(drop)
    }

    /// Starts the drainer if one is needed, and turns a failure into the error for the caller.
    fn settle(self: &Arc<Self>, sent: Result<Sent, SendFailure>) -> Result<Sent, Error> {
        match sent {
            Ok(Sent::StartDrainer) => match self.start_drainer() {
                Ok(()) => Ok(Sent::Queued),
                Err(error) => {
                    self.abort(CloseReason::io(&error));
                    Err(self.closed())
                }
            },
            Ok(sent) => Ok(sent),
            Err(SendFailure::Io(error)) => {
                self.broken(&error);
                Err(self.closed())
            }
            Err(SendFailure::Closed | SendFailure::Full) => Err(self.closed()),
        }
    }

    fn start_drainer(self: &Arc<Self>) -> io::Result<()> {
        let link = Arc::clone(self);
        let builder = thread::Builder::new().name(format!("heartwire-drain-{}", self.id)).stack_size(self.stack_size);
        builder.spawn(move || match link.outbound.drain() {
            Ok(()) => {}
            Err(DrainFailure::Stalled(limit)) => link.abort(CloseReason::WriteStalled { limit }),
            Err(DrainFailure::Io(error)) => link.broken(&error),
        })?;
        Ok(())
    }

    // Closing.

    /// The first cause of the end, if it has begun.
    pub(crate) fn cause(&self) -> Option<&CloseReason> {
        self.cause.get()
    }

    /// Names the cause of the end, unless there is one already. Returns the first.
    pub(crate) fn set_cause(&self, reason: CloseReason) -> &CloseReason {
        self.cause.get_or_init(|| reason)
    }

    /// The error for whoever uses a connection that is closed.
    pub(crate) fn closed(&self) -> Error {
        Error::Closed(self.end_of_socket(CloseReason::Disconnected))
    }

    /// Begins the closing handshake with what `reason` says, behind everything accepted so far. Whether it was this call
    /// that began it; the caller sees to its end, or has the supervisor do it.
    pub(crate) fn begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        let Some((code, text)) = reason.close_frame() else { return false };
        let text = text.to_owned();
        let is_first = self.cause.set(reason).is_ok();
        is_first && self.send_close(Some(code), &text)
    }

    /// Answers the peer's Close frame with its own code (RFC 6455 section 5.5.1).
    pub(crate) fn answer_close(self: &Arc<Self>, code: Option<CloseCode>) {
        if let Some(code) = code {
            let _ = self.received_code.set(code);
        }
        self.send_close(code, "");
    }

    fn send_close(self: &Arc<Self>, code: Option<CloseCode>, text: &str) -> bool {
        let _ = self.close_deadline.set(Instant::now() + self.close_timeout);
        match self.outbound.close(code, text) {
            Err(SendFailure::Closed) => false,
            sent => self.settle(sent).is_ok(),
        }
    }

    /// Closes from a thread that is not the connection's: the supervisor watches that the handshake comes to an end.
    pub(crate) fn close_from_outside(self: &Arc<Self>, reason: CloseReason) -> Result<(), Error> {
        if !self.begin_close(reason) {
            return Err(self.closed());
        }
        if let Some(deadline) = self.close_deadline() {
            self.hub.notify(Notice::Closing { link: Arc::clone(self), deadline });
        }
        Ok(())
    }

    pub(crate) fn close_deadline(&self) -> Option<Instant> {
        self.close_deadline.get().copied()
    }

    /// Ends the connection at once: best-effort Close frame, socket shut down both ways, reported.
    pub(crate) fn abort(self: &Arc<Self>, reason: CloseReason) {
        let reason = self.end_of_socket(reason);
        let first = self.set_cause(reason);
        if let Some((code, text)) = first.close_frame()
            && !self.outbound.is_behind()
            && !self.outbound.is_closing()
        {
            // Straight into the socket, or not at all.
            let _ = self.outbound.close(Some(code), text);
        }
        self.outbound.with_socket(tcp::shut_down);
        self.ended();
    }

    /// A write failed. The peer may have said Close before it went, and that would still be in the socket: so nothing
    /// is sent any more, but the last word on the cause has the thread that reads.
    fn broken(&self, error: &io::Error) {
        log::debug!("#{} {}: write failed: {error}", self.id, self.remote);
        let _ = self.write_error.set(CloseReason::io(error));
        self.outbound.with_socket(|stream| {
            // Wakes the reader, which still gets what was received before.
            let _ = stream.shutdown(Shutdown::Both);
        });
        self.outbound.end();
    }

    /// The kernel has given up on the peer: nothing that it may have sent before can still arrive.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.write_error.get(), Some(CloseReason::Io { kind: io::ErrorKind::TimedOut, .. }))
    }

    /// The connection is over: lets go of the socket and reports, once.
    pub(crate) fn ended(&self) {
        self.outbound.end();
        self.ledger().close();
        let mut is_reported = self.is_reported.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_reported {
            *is_reported = true;
            // The channel is unbounded, so this cannot block.
            self.hub.notify(Notice::Closed(Box::new(self.report())));
        }
    }

    /// What ended the connection, for the thread that found its socket at an end.
    pub(crate) fn end_of_socket(&self, otherwise: CloseReason) -> CloseReason {
        self.cause().or(self.write_error.get()).cloned().unwrap_or(otherwise)
    }

    // Bookkeeping.

    pub(crate) fn ledger(&self) -> MutexGuard<'_, PingLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count_bytes_in(&self, count: usize, now: Instant) {
        self.bytes_in.fetch_add(count as u64, Relaxed);
        self.heard_at.store(self.milliseconds(now), Relaxed);
    }

    /// Time from the opening to `now`, as it is kept in one atomic number.
    fn milliseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_millis() as u64
    }

    /// A Pong arrived: its round trip counts for this connection and for all of them.
    pub(crate) fn pong_received(&self, payload: &[u8], now: Instant) {
        let mut ledger = self.ledger();
        let samples = |ledger: &PingLedger| ledger.round_trip().map_or(0, |round_trip| round_trip.samples);
        let before = samples(&ledger);
        let answered = ledger.pong(payload, now);
        let is_sample = samples(&ledger) > before;
        drop(ledger);
        if let Some(elapsed) = answered {
            self.hub.count(|stats| {
                stats.pongs += 1;
                if is_sample {
                    stats.round_trips.add(elapsed);
                }
            });
        }
    }

    pub(crate) fn count_message_in(&self) {
        self.messages_in.fetch_add(1, Relaxed);
    }

    /// The count of misses in a row has changed, and with it how long a blocked write may last.
    pub(crate) fn set_missed(&self, missed: u32, policy: &HeartbeatPolicy) {
        self.missed.store(missed, Relaxed);
        self.outbound.set_stall_limit(policy.stall_limit(missed));
    }

    /// One more miss: noted, and told to the supervisor.
    pub(crate) fn miss(&self, missed: u32, policy: &HeartbeatPolicy) {
        self.set_missed(missed, policy);
        let max_missed = policy.misses_allowed();
        let what = if policy.ping_interval().is_some() { "Pong" } else { "sign of life" };
        self.hub.notify(Notice::Missed { id: self.id, remote: self.remote, what, missed, max_missed });
    }

    /// The heartbeat has this policy from now on: the pacemaker, the limit of a stalled write and the kernel go by it.
    pub(crate) fn set_heartbeat(&self, policy: &HeartbeatPolicy) {
        let interval = policy.pace().map_or(0, |interval| interval.as_millis() as u64);
        self.interval_ms.store(interval, Relaxed);
        self.max_missed.store(policy.misses_allowed(), Relaxed);
        self.set_missed(0, policy);
        self.outbound.with_socket(|stream| tcp::limit_unacknowledged(stream, policy.worst_case()));
    }

    /// Has the connection's thread change its heartbeat. The Ping that is sent tells the peer of it, if it announces, and
    /// its Pong wakes the thread.
    pub(crate) fn ask_heartbeat(self: &Arc<Self>, policy: HeartbeatPolicy) -> Result<(), Error> {
        *self.asked_heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(policy);
        self.ping(policy.announcement(), None).map(drop)
    }

    pub(crate) fn take_asked_heartbeat(&self) -> Option<HeartbeatPolicy> {
        self.asked_heartbeat.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has the pacemaker follow a heartbeat that was changed.
    pub(crate) fn notify_pace(&self) {
        if let Some(interval) = self.interval() {
            self.hub.notify(Notice::Pace(interval));
        }
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.interval_ms.load(Relaxed))).filter(|interval| !interval.is_zero())
    }

    /// The connection's thread waits for its peer.
    pub(crate) fn listening(&self) {
        self.away_since.store(0, Relaxed);
    }

    /// The connection's thread goes back to its handler.
    pub(crate) fn away(&self, now: Instant) {
        self.away_since.store(self.milliseconds(now) + 1, Relaxed);
    }

    /// How long the connection's thread has been in its handler.
    pub(crate) fn away_for(&self, now: Instant) -> Option<Duration> {
        let since = self.away_since.load(Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.opened).saturating_sub(Duration::from_millis(since)))
    }

    fn traffic(&self) -> Traffic {
        let (messages_out, bytes_out) = self.outbound.totals();
        Traffic {
            messages_in: self.messages_in.load(Relaxed),
            messages_out,
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out,
            dropped: self.dropped.load(Relaxed),
            unsent: self.outbound.unsent() as u64,
        }
    }

    fn report(&self) -> CloseReport {
        let (pings, pongs, round_trip) = self.ledger().figures();
        CloseReport {
            id: self.id,
            peer: self.remote.peer,
            client: self.remote.client,
            path: self.path.clone(),
            reason: self.end_of_socket(CloseReason::Disconnected),
            sent: self.outbound.sent_close_code(),
            received: self.received_code.get().copied(),
            missed: self.missed.load(Relaxed),
            round_trip,
            pings,
            pongs,
            age: self.opened.elapsed(),
            traffic: self.traffic(),
        }
    }

    /// The connection as it is now.
    pub(crate) fn info(&self) -> ConnectionInfo {
        let now = Instant::now();
        let age = now.saturating_duration_since(self.opened);
        let heard_at = Duration::from_millis(self.heard_at.load(Relaxed));
        let (pings, pongs, round_trip) = self.ledger().figures();
        ConnectionInfo {
            id: self.id,
            peer: self.remote.peer,
            client: self.remote.client,
            path: self.path.clone(),
            age,
            silent: age.saturating_sub(heard_at),
            missed: self.missed.load(Relaxed),
            max_missed: self.max_missed.load(Relaxed),
            round_trip,
            pings,
            pongs,
            traffic: self.traffic(),
            queued: self.outbound.queued(),
            away: self.away_for(now),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("remote", &self.remote).finish_non_exhaustive()
    }
}

//! What all threads that touch a connection share: who it is, its two halves, and the first cause of its end.
//!
//! The connection's own thread, every [`Sender`](crate::Sender), the drainer, the stand-in and the supervisor hold a
//! [`Shared`]. Whoever finds that the connection is over says so here; the first one wins, and the report goes out exactly
//! once.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel as channel;

use crate::connection::identity::ConnectionId;
use crate::connection::report::ConnectionInfo;
use crate::connection::report::{CloseReport, Traffic};
use crate::error::{Error, TrySendError};
use crate::heartbeat;
use crate::heartbeat::HeartbeatPolicy;
use crate::http::request::RequestTarget;
use crate::message::Message;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::{PeerEnd, Phase};
use crate::protocol::frame::{Frame, Outgoing, Role};
use crate::settings::Settings;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::transport::budget::BudgetShare;
use crate::transport::socket;
use crate::transport::write_half::{Figures, Owner, Refused, Sent, Wait, WriteHalf};

use crate::connection::identity::Identity;
use crate::connection::pings::{Answered, Pings};
use crate::connection::slot::Slot;
use crate::connection::stats::ConnectionStats;

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) target: RequestTarget,
    pub(crate) settings: Arc<Settings>,
    /// Whether broadcasts are for this connection too.
    pub(crate) takes_broadcasts: bool,
    pub(crate) write_half: WriteHalf<Self>,
    pub(super) slot: Slot,
    pub(super) pings: Pings,
    pub(crate) stats: ConnectionStats,
    pub(super) supervisor: Arc<SupervisorHandle>,
}

/// What a [`Shared`] is made from.
pub(crate) struct NewConnection {
    pub(crate) role: Role,
    pub(crate) identity: Identity,
    pub(crate) target: RequestTarget,
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) takes_broadcasts: bool,
    pub(crate) supervisor: Arc<SupervisorHandle>,
}

impl Shared {
    pub(crate) fn new(new: NewConnection) -> Self {
        let NewConnection { role, identity, target, stream, settings, takes_broadcasts, supervisor } = new;
        let opened = Instant::now();
        let budget = &supervisor.buffered;
        Self {
            identity,
            target,
            takes_broadcasts,
            write_half: WriteHalf::new(role, stream, settings.queue_size, budget, settings.close_timeout),
            slot: Slot::new(opened),
            pings: Pings::default(),
            stats: ConnectionStats::new(opened),
            settings,
            supervisor,
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.identity.id
    }

    // Sending.

    /// Sends a message, waiting for room in the queue.
    pub(crate) fn send(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(WriteHalf::send(self, Outgoing::message(message), Wait::Forever))
    }

    /// Sends a message when the thread next blocks in `recv`, or earlier.
    pub(crate) fn feed(self: &Arc<Self>, message: Message) -> Result<(), Error> {
        self.accepted(WriteHalf::feed(self, Outgoing::message(message), Wait::Forever))
    }

    /// The first frame of all, which waits in memory until [`flush`](Self::flush) or the next frame. It counts as no
    /// message.
    pub(crate) fn feed_first(&self, text: String) {
        self.write_half.feed_first(Outgoing::message(text.into()));
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::flush(self))
    }

    /// Sends a message, waiting for room only as long as `wait` says.
    pub(crate) fn try_send(self: &Arc<Self>, message: Message, wait: Wait) -> Result<(), TrySendError<Message>> {
        match WriteHalf::send(self, Outgoing::message(message.clone()), wait) {
            Ok(_) => Ok(()),
            Err(Refused::Full) => Err(TrySendError::Full(message)),
            Err(Refused::Closed) => Err(TrySendError::Closed(message)),
        }
    }

    /// Like [`feed`](Self::feed), without ever waiting for room. The caller keeps what the message may have borrowed.
    pub(crate) fn try_feed(self: &Arc<Self>, message: Message) -> Result<(), Refused> {
        WriteHalf::feed(self, Outgoing::message(message), Wait::No).map(drop)
    }

    /// Sends a copy of a frame that goes to many, or drops it for a peer that is behind.
    pub(crate) fn send_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::send_frame(self, frame.clone(), Wait::No));
    }

    /// The same, but it may wait for [`flush`](Self::flush).
    pub(crate) fn feed_copy(self: &Arc<Self>, frame: &Frame) {
        self.count_dropped(WriteHalf::feed_frame(self, frame.clone(), Wait::No));
    }

    fn count_dropped(&self, sent: Result<Sent, Refused>) {
        // If the connection has ended, its thread will find out why.
        if let Err(Refused::Full) = sent
            && self.stats.count_dropped_broadcast()
        {
            self.supervisor.log.warn(format_args!("{}: queue full, dropping broadcasts", self.identity));
        }
    }

    /// Sends a Ping with the next number, which may announce when the next is due. `waiter` is told the round-trip
    /// time.
    pub(crate) fn ping(
        self: &Arc<Self>,
        next: Option<Duration>,
        waiter: Option<channel::Sender<Duration>>,
    ) -> Result<Sent, Error> {
        // Entered before it is written: the Pong may be here before this thread is back.
        let payload = self.enter_ping(next, waiter);
        let sent = WriteHalf::send_control(self, Outgoing::ping(payload.clone())).map_err(|_| self.closed())?;
        if sent == Sent::Written {
            self.pings.written(&payload);
        }
        self.trace_ping(&payload, sent);
        self.supervisor.count(|stats| stats.pings += 1);
        Ok(sent)
    }

    /// Sends a Ping behind everything that was accepted before, and has `waiter` told of its Pong: then the peer has
    /// read all of it. `false` if there was no room for it as long as `wait` says.
    pub(crate) fn ping_in_line(self: &Arc<Self>, waiter: channel::Sender<Duration>, wait: Wait) -> Result<bool, Error> {
        let payload = self.pings.enter_ordered(waiter);
        let sent = match WriteHalf::send_in_line(self, Outgoing::ping_in_line(payload.clone()), wait) {
            Ok(sent) => sent,
            Err(Refused::Full) => return Ok(false),
            Err(Refused::Closed) => return Err(self.closed()),
        };
        self.trace_ping(payload.as_bytes(), sent);
        self.supervisor.count(|stats| stats.pings += 1);
        Ok(true)
    }

    /// Not inlined, to keep the stack low for the send that follows.
    #[inline(never)]
    fn enter_ping(&self, next: Option<Duration>, waiter: Option<channel::Sender<Duration>>) -> Bytes {
        self.pings.enter(next, waiter).into()
    }

    /// Sends a Pong: the answer to a Ping, or an unsolicited one without payload (RFC 6455 section 5.5.3).
    pub(crate) fn pong(self: &Arc<Self>, payload: Bytes) -> Result<(), Error> {
        self.accepted(WriteHalf::send_control(self, Outgoing::pong(payload)))
    }

    /// Answers a heartbeat in text. A peer that is behind on what it was sent gets it when it has caught up.
    pub(crate) fn text_pong(self: &Arc<Self>) -> Result<(), Error> {
        self.accepted(WriteHalf::send_control(self, Outgoing::text_pong()))
    }

    /// For what waits for room as long as there may be any: it is refused only at the end.
    fn accepted(&self, sent: Result<Sent, Refused>) -> Result<(), Error> {
        sent.map(drop).map_err(|_| self.closed())
    }

    // Closing.

    /// The error for whoever uses a connection that is closed.
    pub(crate) fn closed(&self) -> Error {
        Error::Closed(self.reason())
    }

    /// Why the connection ended, or is ending.
    pub(crate) fn reason(&self) -> CloseReason {
        self.write_half.close_state(|close_state| close_state.reason(CloseReason::Disconnected))
    }

    /// Begins the closing handshake with what `reason` says, behind everything accepted so far. Whether it was this call
    /// that began it; the caller sees to its end, or has the supervisor do it.
    pub(crate) fn begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::close(self, reason, Instant::now())
    }

    /// The same, unless another thread is at work on the connection. Whether it was done, now or before.
    pub(crate) fn try_begin_close(self: &Arc<Self>, reason: CloseReason) -> bool {
        WriteHalf::try_close(self, reason, Instant::now()).is_some()
    }

    /// The peer has said its last word.
    pub(crate) fn peer_ended(&self, last: PeerEnd, now: Instant) {
        self.write_half.close_state(|close_state| close_state.peer_ended(last, now));
    }

    /// Answers the peer's last word (RFC 6455 section 5.5.1).
    pub(crate) fn answer_close(self: &Arc<Self>, now: Instant) {
        WriteHalf::answer_close(self, now);
    }

    /// Closes from a thread that is not the connection's: the supervisor watches that the handshake comes to an end.
    pub(crate) fn close_from_outside(self: &Arc<Self>, reason: CloseReason) -> Result<(), Error> {
        if !self.begin_close(reason) {
            return Err(self.closed());
        }
        self.watch_closing();
        Ok(())
    }

    /// Has the supervisor see to it that the closing handshake comes to an end.
    pub(crate) fn watch_closing(self: &Arc<Self>) {
        if let Some(deadline) = self.close_deadline() {
            self.supervisor.notify(Notice::Closing { shared: Arc::clone(self), deadline });
        }
    }

    /// Until when the closing handshake may take, if it has begun.
    pub(crate) fn close_deadline(&self) -> Option<Instant> {
        self.write_half.close_state(|close_state| close_state.deadline())
    }

    /// Ends the connection at once: best-effort Close frame, socket shut down both ways, reported.
    pub(crate) fn abort(&self, reason: CloseReason) {
        let is_dead = matches!(reason, CloseReason::HeartbeatLost { .. } | CloseReason::WriteStalled { .. });
        self.end(reason, if is_dead { socket::abandon } else { socket::shut_down });
    }

    /// The same, unless another thread is at work on the connection. Whether it was done, now or before.
    pub(crate) fn try_abort(&self, reason: CloseReason) -> bool {
        let has_ended =
            self.write_half.try_end(reason, Instant::now(), socket::shut_down, |figures| self.notify_end(figures));
        if has_ended {
            self.pings.close();
        }
        has_ended
    }

    /// Ends our side in good order: what was to be sent is on its way, and the peer learns that nothing follows.
    pub(crate) fn end_in_order(&self) {
        self.end(CloseReason::Disconnected, |stream| {
            // It fails only when the connection has ended already.
            let _ = stream.shutdown(Shutdown::Write);
        });
    }

    /// The connection is over: lets go of the socket and reports, once.
    fn end(&self, otherwise: CloseReason, shut_down: fn(&TcpStream)) {
        self.write_half.end(otherwise, Instant::now(), shut_down, |figures| self.notify_end(figures));
        self.pings.close();
    }

    /// The channel is unbounded, so this cannot block; and the report is in it before anything else is said of the end.
    fn notify_end(&self, figures: Figures) {
        self.supervisor.notify(Notice::Closed(Box::new(self.report(figures))));
    }

    // Bookkeeping.

    /// A Pong arrived: its round trip counts for this connection and for all of them.
    pub(crate) fn pong_received(&self, payload: &[u8], now: Instant) {
        let answered = self.pings.answer(payload, now);
        self.trace(|| match answered {
            Some(Answered { elapsed, .. }) => {
                format!("Pong {} received, round trip {elapsed:.1?}", String::from_utf8_lossy(payload))
            }
            None => "Pong received that answers no Ping of ours".to_owned(),
        });
        if let Some(Answered { elapsed, is_sample }) = answered {
            self.supervisor.count(|stats| {
                stats.pongs += 1;
                if is_sample {
                    stats.round_trips.add(elapsed);
                }
            });
        }
    }

    fn trace_ping(&self, payload: &[u8], sent: Sent) {
        self.trace(|| {
            let what = if sent == Sent::Written { "sent" } else { "queued: the socket takes nothing now" };
            format!("Ping {} {what}", String::from_utf8_lossy(payload))
        });
    }

    /// Has the supervisor log a beat, if anybody listens at that level: others hold locks here, and must not be held up.
    fn trace(&self, beat: impl FnOnce() -> String) {
        if log::max_level() == log::LevelFilter::Trace {
            self.tell_beat(beat);
        }
    }

    /// Not inlined, to keep the stack of all others low.
    #[cold]
    #[inline(never)]
    fn tell_beat(&self, beat: impl FnOnce() -> String) {
        self.supervisor.notify(Notice::Beat { connection: self.identity, beat: beat() });
    }

    /// One more miss: noted, and told to the supervisor, unless the end was told before.
    pub(crate) fn miss(&self, missed: u32, policy: &HeartbeatPolicy) {
        self.stats.set_missed(missed);
        let max_missed = policy.misses_allowed();
        let what = if policy.ping_interval().is_some() { "Pong" } else { "sign of life" };
        self.notify_unless_over(Notice::Missed { connection: self.identity, what, missed, max_missed });
    }

    /// Tells the supervisor something that nobody wants to hear after the end, and that can be done without: it is counted
    /// here.
    pub(super) fn notify_unless_over(&self, notice: Notice) {
        self.write_half.close_state(|close_state| {
            if close_state.phase() != Phase::Over {
                self.supervisor.count(|stats| match notice {
                    Notice::Missed { .. } => stats.missed += 1,
                    Notice::HandlerStalled { .. } => stats.handlers_stalled += 1,
                    _ => {}
                });
                self.supervisor.notify_if_room(notice);
            }
        });
    }

    /// When in its interval a heartbeat that begins now first beats.
    pub(crate) fn phase(&self, policy: &HeartbeatPolicy, now: Instant) -> f64 {
        heartbeat::phase(self.id(), policy, now.saturating_duration_since(self.supervisor.epoch))
    }

    /// A share of what may be buffered for all connections together.
    pub(crate) fn share(&self) -> BudgetShare {
        BudgetShare::new(&self.supervisor.buffered)
    }

    fn traffic(&self, figures: &Figures) -> Traffic {
        Traffic {
            messages_in: self.stats.messages_in(),
            messages_out: figures.messages,
            bytes_in: self.stats.bytes_in(),
            bytes_out: figures.bytes,
            dropped: self.stats.broadcasts_dropped(),
            unsent: figures.unsent as u64,
        }
    }

    /// The report of a connection that has ended, for whoever has lost it.
    pub(crate) fn last_report(&self) -> CloseReport {
        self.report(self.write_half.figures())
    }

    fn report(&self, figures: Figures) -> CloseReport {
        let (pings, pongs, round_trip) = self.pings.figures();
        CloseReport {
            id: self.id(),
            peer_addr: self.identity.remote.peer_addr,
            remote_ip: self.identity.remote.remote_ip,
            path: self.target.path().to_owned(),
            target: self.target.clone(),
            traffic: self.traffic(&figures),
            reason: figures.reason,
            sent: figures.sent,
            received: figures.received,
            missed: self.stats.missed(),
            round_trip,
            pings,
            pongs,
            age: self.stats.opened.elapsed(),
        }
    }

    /// The connection as it is now.
    pub(crate) fn info(&self) -> ConnectionInfo {
        let now = Instant::now();
        let age = now.saturating_duration_since(self.stats.opened);
        let figures = self.write_half.figures();
        let (pings, pongs, round_trip) = self.pings.figures();
        ConnectionInfo {
            id: self.id(),
            peer_addr: self.identity.remote.peer_addr,
            remote_ip: self.identity.remote.remote_ip,
            path: self.target.path().to_owned(),
            target: self.target.clone(),
            age,
            silent: age.saturating_sub(self.stats.heard_after()),
            missed: self.stats.missed(),
            max_missed: self.stats.max_missed(),
            round_trip,
            pings,
            pongs,
            traffic: self.traffic(&figures),
            queued: figures.queued,
            away: self.away_for(now),
        }
    }
}

impl Owner for Shared {
    type Socket = TcpStream;

    fn write_half(&self) -> &WriteHalf<Self> {
        &self.write_half
    }

    fn start_thread(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder =
            thread::Builder::new().name(format!("heartwire-drain-{}", self.id())).stack_size(self.settings.stack_size);
        builder.spawn(run).map(drop)
    }

    /// The peer may have said Close before it went, and that would still be in the socket: so the last word on the cause
    /// has whoever reads.
    fn write_failed(&self, error: &io::Error) {
        self.supervisor.notify(Notice::WriteFailed { connection: self.identity, error: error.to_string() });
    }

    fn abort(&self, reason: CloseReason) {
        self.abort(reason);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", &self.identity).finish_non_exhaustive()
    }
}

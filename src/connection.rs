//! A connection as its handler sees it: receiving, the heartbeat's drive, and the closing handshake.
//!
//! [`Connection::recv`] waits in one place: a read of the socket that ends at the next deadline of the heartbeat. After
//! each read the heartbeat hears what came, and then, and only then, what time it is: nobody is judged before all that
//! waited in the socket has been looked at.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::close::{CloseCode, CloseReason, ConnectionId};
use crate::decoder::Incoming;
use crate::error::Error;
use crate::heartbeat::{Action, Heartbeat, HeartbeatPolicy, Sign, parse_announcement};
use crate::inbound::{Filled, Inbound};
use crate::link::Link;
use crate::message::Message;
use crate::outbound::Sent;
use crate::request::Request;
use crate::round_trip::RoundTrip;
use crate::sender::Sender;

mod closing;

/// An open WebSocket, in the hands of its handler and its own thread.
///
/// Receiving belongs to this thread. Sending belongs to everybody: see [`sender`](Self::sender).
pub struct Connection {
    link: Arc<Link>,
    inbound: Inbound,
    heartbeat: Heartbeat,
    request: Request,
    subprotocol: Option<String>,
    /// Whether texts that are heartbeats are taken as such, and kept from the handler.
    text_heartbeat: bool,
    /// Some message was fed and perhaps not written yet.
    has_fed: bool,
    /// The connection has ended and was reported.
    is_over: bool,
}

impl Connection {
    /// `heartbeat` is what the link was told as well.
    pub(crate) fn new(
        link: Arc<Link>,
        inbound: Inbound,
        heartbeat: HeartbeatPolicy,
        request: Request,
        subprotocol: Option<String>,
        text_heartbeat: bool,
    ) -> Self {
        let phase = first_beat(link.id, &heartbeat, link.opened);
        let heartbeat = Heartbeat::new(heartbeat, link.opened, phase);
        link.away(link.opened);
        Self { link, inbound, heartbeat, request, subprotocol, text_heartbeat, has_fed: false, is_over: false }
    }

    /// Waits for the next message. Meanwhile the heartbeat beats, Pings are answered, and other threads may send.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection has ended, with the first cause; `?` is all that a handler needs. By then
    /// the closing handshake is done and the supervisor knows; every further call gives the same.
    pub fn recv(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.receive(None)? {
                return Ok(message);
            }
        }
    }

    /// Waits for the next message for `timeout` at most. `Ok(None)` if none was complete by then; what has arrived of
    /// one is kept. A timeout of zero takes what is there.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// Sends a message. If the queue is full because the peer is slow, waits until there is room: that ends, at the
    /// latest, when the peer is found to take nothing any more (with a heartbeat that has a timeout).
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closing; the message is not sent.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Error> {
        self.link.send(message.into())
    }

    /// Like [`send`](Self::send), but the message may stay in memory until this thread next waits in `recv`, anything is
    /// sent, or 16 KiB have come together: many small replies become one system call. Do not feed and then work for
    /// long.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn feed(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        self.has_fed = true;
        self.link.feed(message.into())
    }

    /// A handle for sending, to be given to any number of other threads.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.link))
    }

    /// Closes: sends what is queued and a Close frame, waits for the peer's, and ends the TCP connection; all of it
    /// within the close timeout, for which this call may block. A reason of more than 123 bytes is cut. What the peer still sends is discarded.
    ///
    /// # Errors
    /// [`Error::InvalidCloseCode`] if the code must not be sent, [`Error::Closed`] if the connection was closed already.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<(), Error> {
        let code = code.into();
        if !code.is_sendable() {
            return Err(Error::InvalidCloseCode(code));
        }
        if self.is_over || !self.link.begin_close(CloseReason::Local { code, reason: reason.to_owned() }) {
            return Err(self.link.closed());
        }
        self.await_close();
        Ok(())
    }

    /// This connection's number.
    pub fn id(&self) -> ConnectionId {
        self.link.id
    }

    /// The peer's address: behind a proxy, the proxy's.
    pub fn peer(&self) -> SocketAddr {
        self.link.remote.peer
    }

    /// The client's address: the one that a [trusted proxy](crate::Server::trust_proxies) named, or else the peer's own.
    /// Where we are the client ourselves, that is the server's.
    pub fn client(&self) -> IpAddr {
        self.link.remote.client
    }

    /// The path that the peer asked for, without the query.
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// The request of the opening handshake, with its headers.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The subprotocol agreed upon in the opening handshake.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Round-trip figures; `None` before the first Pong.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.link.ledger().round_trip()
    }

    /// Pongs missed in a row.
    pub fn missed(&self) -> u32 {
        self.heartbeat.missed()
    }

    /// The heartbeat in force.
    pub fn heartbeat(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    /// Changes the heartbeat from now on. Misses so far are forgotten, and the schedule starts afresh. If the new one
    /// [announces](HeartbeatPolicy::announcing), a Ping tells the peer at once.
    pub fn set_heartbeat(&mut self, policy: HeartbeatPolicy) {
        self.adopt_heartbeat(policy);
        if let Some(next) = policy.announcement() {
            // If it cannot be written, the next read will tell why.
            let _ = self.link.ping(Some(next), None);
        }
    }

    fn adopt_heartbeat(&mut self, policy: HeartbeatPolicy) {
        let now = Instant::now();
        self.heartbeat.set_policy(policy, now, first_beat(self.link.id, &policy, now));
        self.link.set_heartbeat(&policy);
        self.link.notify_pace();
    }

    // Receiving.

    fn receive(&mut self, until: Option<Instant>) -> Result<Option<Message>, Error> {
        if self.is_over {
            return Err(self.link.closed());
        }
        let mut now = Instant::now();
        let mut has_looked = false;
        self.link.listening();
        loop {
            if let Some(message) = self.next_message(now)? {
                self.link.away(now);
                return Ok(Some(message));
            }
            let deadline = self.next_deadline(now, has_looked)?;
            if has_looked && until.is_some_and(|until| until <= now) {
                self.link.away(now);
                return Ok(None);
            }
            if std::mem::take(&mut self.has_fed) {
                // If it cannot be written, the read will tell why.
                let _ = self.link.flush();
            }
            let wake = until.map_or(deadline, |until| Some(deadline.map_or(until, |deadline| deadline.min(until))));
            now = self.read(wake, now)?;
            has_looked = true;
        }
    }

    /// The next message among what has arrived. Control frames on the way to it are dealt with.
    fn next_message(&mut self, now: Instant) -> Result<Option<Message>, Error> {
        loop {
            match self.inbound.decoder.next() {
                Ok(Some(Incoming::Message(Message::Text(text)))) if self.text_heartbeat && is_text_ping(&text) => {
                    self.life(Sign::Ping { next: text.strip_prefix("ping ").and_then(announcement_in) }, now);
                    // If an answer cannot be written, here or below, the next read will tell why.
                    let _ = self.link.text_pong();
                }
                Ok(Some(Incoming::Message(message))) => {
                    self.link.count_message_in();
                    self.beat_if_due(now, false)?;
                    return Ok(Some(message));
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    self.life(Sign::Ping { next: parse_announcement(&payload) }, now);
                    let _ = self.link.pong(payload);
                }
                Ok(Some(Incoming::Pong(payload))) => {
                    self.link.pong_received(&payload, now);
                    self.life(Sign::Pong, now);
                }
                Ok(Some(Incoming::Close(code, reason))) => return Err(self.closed_by_peer(code, reason)),
                Ok(None) => return Ok(None),
                Err(violation) => return Err(self.fail(violation)),
            }
        }
    }

    /// Does what is due, and says until when nothing else is.
    fn next_deadline(&mut self, now: Instant, has_looked: bool) -> Result<Option<Instant>, Error> {
        match self.link.close_deadline() {
            // Another thread has begun to close: the peer has until then to answer, and no heart beats any more.
            Some(deadline) if has_looked && deadline <= now => Err(self.finish()),
            Some(deadline) => Ok(Some(deadline)),
            None => {
                self.beat_if_due(now, true)?;
                Ok(self.heartbeat.deadline())
            }
        }
    }

    /// Reads once, and tells the heartbeat what came. Gives the time after that.
    fn read(&mut self, wake: Option<Instant>, now: Instant) -> Result<Instant, Error> {
        let mut now = now;
        let filled = self.inbound.fill(wake, &mut now);
        match filled {
            Ok(Filled::Bytes(count)) => {
                self.link.count_bytes_in(count, now);
                self.life(Sign::Bytes, now);
                if let Some(policy) = self.link.take_asked_heartbeat() {
                    self.adopt_heartbeat(policy);
                }
            }
            Ok(Filled::Timeout) => {}
            Ok(Filled::End) => return Err(self.ended(self.inbound.end_reason())),
            Err(error) => return Err(self.ended(CloseReason::io(&error))),
        }
        Ok(now)
    }

    fn life(&mut self, sign: Sign, now: Instant) {
        let had_missed = self.heartbeat.missed() > 0;
        self.heartbeat.life(sign, now);
        if had_missed {
            self.link.set_missed(self.heartbeat.missed(), &self.heartbeat.policy());
        }
    }

    /// Does what the heartbeat asks for, if its deadline has come. `all_decoded` says that whatever was read has been
    /// looked at; a miss is only counted then, and only if the socket was seen empty after the deadline.
    fn beat_if_due(&mut self, now: Instant, all_decoded: bool) -> Result<(), Error> {
        if self.heartbeat.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        if let Some(due) = self.heartbeat.would_miss(now)
            && !(all_decoded && self.inbound.has_all_until(due))
        {
            return Ok(());
        }
        loop {
            match self.heartbeat.poll(now, self.link.outbound.is_behind()) {
                Action::Ping => match self.link.ping(self.heartbeat.policy().announcement(), None) {
                    Ok(Sent::Written) => self.heartbeat.ping_written(Instant::now()),
                    // Behind data; or not sent at all, and the next read will tell why.
                    Ok(_) | Err(_) => self.heartbeat.ping_queued(),
                },
                Action::Missed(missed) => self.link.miss(missed, &self.heartbeat.policy()),
                Action::Dead(missed) => {
                    self.link.miss(missed, &self.heartbeat.policy());
                    self.link.abort(CloseReason::HeartbeatLost { missed });
                    self.is_over = true;
                    return Err(self.link.closed());
                }
                Action::Wait(_) => return Ok(()),
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("peer", &self.peer())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// A heartbeat for pages, which cannot send Ping frames: `ping`, or `ping next=<milliseconds>`.
fn is_text_ping(text: &str) -> bool {
    text == "ping" || text.starts_with("ping next=")
}

fn announcement_in(text: &str) -> Option<Duration> {
    parse_announcement(text.as_bytes())
}

/// When in its interval a connection first beats: in the second half, evenly spread over connections that were opened
/// one after the other, for multiples of the golden ratio are.
fn spread(id: ConnectionId) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    1.0 - (id as f64 * GOLDEN).fract() * (0.5 - 1.0 / f64::from(SLOTS))
}

/// Instants in each interval at which Pings leave, on all connections of the process the same. Where many beat, one
/// wake-up of the processor then serves several, which halves what they cost.
const SLOTS: u32 = 100;

/// The phase of a connection's heartbeat: where [`spread`] has it, or a little earlier, at the beginning of a slot.
fn first_beat(id: ConnectionId, policy: &HeartbeatPolicy, now: Instant) -> f64 {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    let phase = spread(id);
    let Some(interval) = policy.ping_interval() else { return phase };
    let since_epoch = now.saturating_duration_since(*EPOCH).as_secs_f64() + interval.as_secs_f64() * phase;
    let into_slot = since_epoch % (interval.as_secs_f64() / f64::from(SLOTS));
    phase - into_slot / interval.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_opened_together_do_not_beat_together() {
        let mut phases: Vec<f64> = (1..=1000).map(spread).collect();
        assert!(phases.iter().all(|phase| *phase > 0.5 && *phase <= 1.0));
        phases.sort_by(f64::total_cmp);
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(widest < 3.0 * 0.5 / 1000.0, "the widest gap is {widest}");
    }

    #[test]
    fn many_connections_beat_at_few_instants() {
        let interval = Duration::from_secs(20);
        let policy = HeartbeatPolicy::keepalive(interval);
        let start = Instant::now();
        let mut instants: Vec<u128> = Vec::new();
        for id in 1..=1000 {
            let opened = start + Duration::from_micros(137 * id);
            let phase = first_beat(id, &policy, opened);
            assert!((0.5..=1.0).contains(&phase), "{phase}");
            let first = opened + interval.mul_f64(phase) - start;
            // To a millisecond, for the clock of the slots has begun at another time than this test.
            instants.push((first.as_micros() + 500) / 1000);
        }
        instants.sort_unstable();
        instants.dedup_by(|later, earlier| *later - *earlier <= 1);
        assert!(instants.len() <= SLOTS as usize / 2 + 2, "{}", instants.len());
        assert!(instants.len() >= SLOTS as usize / 3, "{}", instants.len());
    }
}

//! The receiving end of a connection: reads and decodes what arrives, answers control frames, and drives the heartbeat.
//!
//! Invariants:
//! - One thread at a time drives it. That is the connection's own thread while its handler waits in `recv`, and the
//!   [stand-in](crate::supervisor::stand_in) while the handler is away. Both use the same decoder, heartbeat and
//!   evidence, so the handler makes no difference to the peer.
//! - Messages reach the handler in the order of their arrival, and before the peer's end. That end is its Close frame,
//!   a violation of the protocol, or the end of its stream ([`PeerEnd`]).
//! - The stand-in never waits, reads only as far as there is room, and does a bounded amount of work in each look.
//!
//! What every message passes through is inlined by force, and what answers control frames is not. Both keep the path of
//! a message short; the second keeps the stack small as well.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::connection::shared::Shared;
#[cfg(feature = "deflate")]
use crate::deflate::codec::Inflater;
use crate::heartbeat::{Activity, Heartbeat, HeartbeatPolicy, Reading, announcement, text_ping};
use crate::message::Message;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::{PeerEnd, Phase};
#[cfg(feature = "deflate")]
use crate::protocol::decoder::Compressed;
use crate::protocol::decoder::{Decoder, Incoming};
use crate::protocol::frame::Role;
use crate::transport::budget::BudgetShare;
use crate::transport::read_half::{ReadHalf, ReadOutcome};
use crate::transport::socket;
use crate::transport::stream::Stream;

pub(crate) struct ReceivingEnd {
    pub(crate) read_half: ReadHalf,
    pub(super) heartbeat: Heartbeat,
    /// Whether no check is needed before `deadline`, whatever bytes arrive until then. A decoded sign of life, a Ping
    /// and a new policy clear this.
    pub(super) is_calm: bool,
    pub(super) deadline: Option<Instant>,
    /// Whether text heartbeats are answered here, and kept from the handler.
    pub(super) text_heartbeat: bool,
    /// How many bytes have arrived in all, read or not, and when the newest of them were first seen.
    pub(super) arrived: u64,
    pub(super) last_arrival: Instant,
    /// When bytes that come are next worth telling other threads.
    next_heard: Instant,
    pub(super) reading: Reading,
    /// The Ping whose miss clock runs.
    pub(super) ping: JudgedPing,
    /// Messages that were read while the handler was away, in order.
    pub(super) ahead: VecDeque<Received>,
    /// The memory that these messages cost.
    pub(super) ahead_share: BudgetShare,
    /// The peer's end, if it follows the messages that were read ahead.
    pub(super) peer_end: Option<Box<PeerEnd>>,
    /// Whether TCP keepalive is on.
    pub(super) is_kept_alive: bool,
    /// Whether the peer was found dead. The handler still receives what the peer sent before.
    pub(super) is_dead: bool,
    /// What decompresses this connection's messages, if they refer to those before them.
    #[cfg(feature = "deflate")]
    inflater: Option<Box<Inflater>>,
    /// Whether the handler is done, so that messages are not worth decompressing.
    is_discarding: bool,
}

/// A message that has arrived.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    /// Of one that the stand-in has read: it does not decompress.
    #[cfg(feature = "deflate")]
    Compressed(Compressed),
}

impl Received {
    /// The memory that it takes while it is kept.
    fn cost(&self) -> usize {
        match self {
            Self::Message(message) => message.cost(),
            #[cfg(feature = "deflate")]
            Self::Compressed(compressed) => compressed.payload.len() + Message::OVERHEAD,
        }
    }
}

/// Who drives a receiving end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// The connection's own thread.
    Owner,
    StandIn,
}

/// The Ping that the peer's silence is measured from: the first unanswered one, or the first after a miss.
#[derive(Debug)]
pub(super) struct JudgedPing {
    pub(super) asked: Instant,
    /// When the Ping left our queue, and how many bytes the socket had taken before it.
    pub(super) left: Option<(Instant, u64)>,
}

/// The connection has ended, and its end is reported.
#[derive(Debug)]
pub(crate) struct Over;

impl ReceivingEnd {
    /// The most reads in one look of the stand-in: other connections wait for it, too.
    const READS: usize = 16;
    /// The most frames in one look. One read may bring thousands of Pings, and each answer is a system call.
    const FRAMES: usize = 256;
    /// How exactly other threads know when the peer was last heard. Telling them of each read would cost a twentieth of
    /// an echo.
    const HEARD_PRECISION: Duration = Duration::from_millis(1);
    /// The time until the next look for room, if other connections have used up the memory budget.
    const RETRY: Duration = Duration::from_millis(250);

    /// Makes the receiving end of a connection that has just opened. `tail` holds the bytes that followed the opening
    /// handshake.
    ///
    /// Not inlined: the value is built on the stack, and the caller's frame is as large again.
    #[inline(never)]
    pub(crate) fn open(
        shared: &Shared,
        role: Role,
        stream: &Arc<Stream>,
        tail: &[u8],
        policy: HeartbeatPolicy,
        text_heartbeat: bool,
    ) -> Box<Self> {
        let (settings, now) = (&shared.settings, shared.stats.opened);
        let tail = stream.tail(tail);
        shared.stats.count_bytes_in(tail.len() + stream.begun());
        shared.stats.begin_heartbeat(policy.misses_allowed());
        let decoder = Decoder::new(role, &tail, settings.read_buffer_size, settings.max_message_size);
        #[cfg(feature = "deflate")]
        let decoder = decoder.taking_compressed(shared.deflating.is_some());
        let mut ahead_share = shared.share();
        ahead_share.set_counted(true);
        Box::new(Self {
            read_half: ReadHalf::new(Arc::clone(stream), decoder, settings.busy_poll),
            heartbeat: Heartbeat::new(policy, now, shared.phase(&policy, now)),
            is_calm: false,
            deadline: None,
            text_heartbeat,
            arrived: 0,
            last_arrival: now,
            next_heard: now,
            reading: Reading::Always,
            ping: JudgedPing { asked: now, left: None },
            ahead: VecDeque::new(),
            ahead_share,
            peer_end: None,
            is_kept_alive: false,
            is_dead: false,
            #[cfg(feature = "deflate")]
            inflater: None,
            is_discarding: false,
        })
    }

    // Receiving.

    /// The next message among the bytes that were read, or the peer's end. Handles the control frames before it.
    #[inline(always)]
    pub(crate) fn next(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Message>, Box<PeerEnd>> {
        // First come the messages that were read ahead, then the end that followed them.
        if self.ahead_share.held() > 0
            && let Some(message) = self.next_ahead(shared, now)?
        {
            return Ok(Some(message));
        }
        match self.peer_end.take() {
            Some(last) => Err(last),
            None if self.read_half.decoder.needs_more() => Ok(None),
            None => Ok(match self.decode(shared, now, Driver::Owner, &mut { usize::MAX })? {
                Some(Received::Message(message)) => Some(message),
                _ => None,
            }),
        }
    }

    /// The next of the messages that were read ahead.
    #[cfg_attr(not(feature = "deflate"), allow(unused_variables, reason = "for what is compressed"))]
    fn next_ahead(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Message>, Box<PeerEnd>> {
        while let Some(received) = self.ahead.pop_front() {
            self.ahead_share.sub(received.cost());
            let received = match received {
                #[cfg(feature = "deflate")]
                Received::Compressed(compressed) => self.on_compressed(shared, compressed, now, Driver::Owner)?,
                received => Some(received),
            };
            if let Some(Received::Message(message)) = received {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Decodes up to the next message. `frames` limits how many frames it looks at, and counts down.
    #[inline(always)]
    fn decode(
        &mut self,
        shared: &Arc<Shared>,
        now: Instant,
        #[cfg_attr(not(feature = "deflate"), allow(unused_variables, reason = "it decides who decompresses"))]
        driver: Driver,
        frames: &mut usize,
    ) -> Result<Option<Received>, Box<PeerEnd>> {
        while let Some(left) = frames.checked_sub(1) {
            *frames = left;
            match self.read_half.decoder.next() {
                Ok(Some(Incoming::Message(message))) => {
                    if let Some(message) = self.on_message(shared, message, now) {
                        return Ok(Some(message));
                    }
                }
                #[cfg(feature = "deflate")]
                Ok(Some(Incoming::Compressed(compressed))) => {
                    if let Some(received) = self.on_compressed(shared, compressed, now, driver)? {
                        return Ok(Some(received));
                    }
                }
                // The decoder has refused it.
                #[cfg(not(feature = "deflate"))]
                Ok(Some(Incoming::Compressed(_))) => {}
                Ok(Some(Incoming::Ping(payload))) => self.on_ping(shared, payload, now),
                Ok(Some(Incoming::Pong(payload))) => self.on_pong(shared, &payload, now),
                Ok(Some(Incoming::Close(code, reason))) => return Err(Box::new(PeerEnd::Close(code, reason))),
                Ok(None) => return Ok(None),
                Err(violation) => return Err(Box::new(PeerEnd::Violation(violation))),
            }
        }
        Ok(None)
    }

    /// Counts a message, unless it is a text heartbeat, which is answered.
    #[inline(always)]
    fn on_message(&mut self, shared: &Arc<Shared>, message: Message, now: Instant) -> Option<Received> {
        match self.text_activity(&message) {
            Some(activity) => {
                self.on_text_ping(shared, activity, now);
                None
            }
            None => {
                shared.stats.count_message_in();
                Some(Received::Message(message))
            }
        }
    }

    /// Decompresses a message. The stand-in does so only with what may be a text heartbeat.
    #[cfg(feature = "deflate")]
    #[inline(never)]
    fn on_compressed(
        &mut self,
        shared: &Arc<Shared>,
        compressed: Compressed,
        now: Instant,
        driver: Driver,
    ) -> Result<Option<Received>, Box<PeerEnd>> {
        // There is compression, or the decoder would not have let it pass.
        let Some(deflating) = &shared.deflating else { return Ok(None) };
        if self.is_discarding {
            return Ok(None);
        }
        let message = match driver {
            Driver::Owner => {
                let limit = shared.settings.max_message_size;
                let inflated = deflating.inflate(&compressed, &mut self.inflater, limit);
                inflated.map_err(|violation| Box::new(PeerEnd::Violation(violation)))?
            }
            Driver::StandIn => match self.text_heartbeat.then(|| deflating.inflate_short(&compressed)).flatten() {
                Some(message) if self.text_activity(&message).is_some() => message,
                _ => return Ok(Some(Received::Compressed(compressed))),
            },
        };
        Ok(self.on_message(shared, message, now))
    }

    /// The text heartbeat in a message, if the connection accepts those.
    fn text_activity(&self, message: &Message) -> Option<Activity> {
        if self.text_heartbeat { message.as_text().and_then(text_ping) } else { None }
    }

    #[inline(never)]
    fn on_text_ping(&mut self, shared: &Arc<Shared>, activity: Activity, now: Instant) {
        self.on_activity(shared, activity, now);
        // If an answer cannot be written, here or below, the next read returns the cause.
        let _ = shared.text_pong();
    }

    #[inline(never)]
    fn on_ping(&mut self, shared: &Arc<Shared>, payload: Bytes, now: Instant) {
        self.on_activity(shared, Activity::Ping { next: announcement(&payload) }, now);
        let _ = shared.pong(payload);
    }

    #[inline(never)]
    fn on_pong(&mut self, shared: &Arc<Shared>, payload: &[u8], now: Instant) {
        shared.pong_received(payload, now);
        self.on_activity(shared, Activity::Pong, now);
    }

    /// Passes a decoded sign of life to the heartbeat, with its position in the stream.
    pub(super) fn on_activity(&mut self, shared: &Shared, activity: Activity, now: Instant) {
        let position = shared.stats.bytes_in() - self.read_half.decoder.undecoded() as u64;
        let before = self.heartbeat.missed();
        self.heartbeat.on_activity(activity, position, now);
        self.is_calm = false;
        self.publish_missed(shared, before);
    }

    /// Records the outcome of a read. Returns whether bytes came, or the peer's end.
    #[inline(always)]
    pub(crate) fn on_read(
        &mut self,
        shared: &Shared,
        read: std::io::Result<ReadOutcome>,
        now: Instant,
    ) -> Result<bool, Box<PeerEnd>> {
        // Count the bytes. The end of the stream and a failed read are the peer's end.
        let (has_come, is_drained) = match read {
            Ok(ReadOutcome::Bytes { count, is_drained }) => {
                let arrived = shared.stats.count_bytes_in(count);
                self.has_arrived(arrived, now);
                if now >= self.next_heard {
                    shared.stats.set_heard(now);
                    self.next_heard = now + Self::HEARD_PRECISION;
                }
                (true, is_drained)
            }
            Ok(ReadOutcome::Nothing) => (false, true),
            Ok(ReadOutcome::End) => return Err(PeerEnd::lost(self.read_half.end_reason())),
            Err(error) => return Err(PeerEnd::lost(CloseReason::io(&error))),
        };
        if is_drained && self.reading == Reading::Stopped {
            // Reading has caught up, so silence counts again from now on.
            self.reading = Reading::Since(now);
            if std::mem::take(&mut self.is_kept_alive) {
                socket::stop_keepalive(self.read_half.stream());
            }
        }
        Ok(has_come)
    }

    /// Records that `arrived` bytes have arrived in all. Reading bytes that were seen unread before is no new arrival.
    pub(super) fn has_arrived(&mut self, arrived: u64, now: Instant) {
        if arrived > self.arrived {
            (self.arrived, self.last_arrival) = (arrived, now);
        }
    }

    // Standing in.

    /// Reads ahead, answers and judges, for a handler that is away. Never waits.
    ///
    /// Returns when to look again if nothing arrives before, and whether the next look would read what arrives.
    pub(crate) fn stand_in(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<(Option<Instant>, bool), Over> {
        // After the peer's end nothing is read. Only deadlines are left.
        match shared.write_half.close_state(|close_state| close_state.phase()) {
            Phase::Over => return Err(Over),
            Phase::PeerEnded { by } if by <= now => {
                shared.answer_close(now);
                return Self::end_if_drained(shared, now);
            }
            Phase::PeerEnded { by } => return Ok((Some(by), false)),
            Phase::Closed { .. } => return Self::end_if_drained(shared, now),
            Phase::Open | Phase::Closing { .. } | Phase::Broken => {}
        }
        // Read ahead, as far as there is room.
        let is_at_once = self.read_ahead(shared, now);
        self.read_half.release_idle_buffer();
        // If the peer has ended its side, the handler learns of that after the messages that were read ahead.
        if let Some(last) = &self.peer_end {
            if let PeerEnd::Lost(reason @ CloseReason::Io { .. }) = &**last {
                // The handler's replies would not arrive any more, so the end is reported now.
                shared.abort(reason.clone());
                return Err(Over);
            }
            shared.peer_ended((**last).clone(), now);
            let phase = shared.write_half.close_state(|close_state| close_state.phase());
            return match phase {
                Phase::PeerEnded { by } => Ok((Some(by), false)),
                _ => Self::end_if_drained(shared, now),
            };
        }
        // Where no read can show that the socket failed, ask for its state.
        let reads = self.has_room(shared);
        let phase = shared.write_half.close_state(|close_state| close_state.phase());
        let failure = match phase {
            // The next read shows it.
            _ if reads => None,
            Phase::Broken => Some(CloseReason::Disconnected),
            _ => self.read_half.failure(),
        };
        if let Some(reason) = failure {
            // The handler still receives what has arrived so far.
            shared.abort(reason);
            return Err(Over);
        }
        // Judge the peer.
        let deadline = match phase {
            Phase::Open => self.beat_if_due(shared, now)?,
            // The supervisor enforces the deadline of the closing handshake.
            _ => None,
        };
        // When to look again without the peer's doing.
        let soon = if is_at_once {
            // More is to be read, but other connections come first.
            Some(now + Duration::from_millis(1))
        } else if !reads && self.ahead_share.held() < shared.settings.read_ahead {
            // All connections together have used up the memory budget. No notice comes when memory becomes free.
            Some(now + Self::RETRY)
        } else {
            None
        };
        Ok(([soon, deadline].into_iter().flatten().min(), reads))
    }

    /// Ends a connection on which both sides have ended. If data still waits to go out, it has until the close
    /// deadline.
    fn end_if_drained(shared: &Arc<Shared>, now: Instant) -> Result<(Option<Instant>, bool), Over> {
        let by = shared.close_deadline().filter(|by| *by > now);
        if shared.write_half.uptake().blocked_since.is_none() {
            // Everything is written: an orderly end.
            shared.end_in_order();
        } else if by.is_some() {
            // The drainer still writes, and has time left.
            return Ok((by, false));
        } else {
            shared.abort(CloseReason::Disconnected);
        }
        Err(Over)
    }

    /// Reads ahead as far as there is room. Returns whether there may be more to read at once.
    fn read_ahead(&mut self, shared: &Arc<Shared>, now: Instant) -> bool {
        let mut frames = Self::FRAMES;
        for _ in 0..Self::READS {
            loop {
                // First decode what was read, as far as there is room for messages.
                if !self.has_room(shared) {
                    self.stop_reading();
                    return false;
                }
                match self.decode(shared, now, Driver::StandIn, &mut frames) {
                    Ok(Some(received)) => {
                        self.ahead_share.add(received.cost());
                        self.ahead.push_back(received);
                    }
                    Ok(None) if frames == 0 => return true,
                    Ok(None) => break,
                    Err(last) => {
                        self.peer_end = Some(last);
                        return false;
                    }
                }
            }
            // Only then read more.
            let read = self.read_half.read_now();
            match self.on_read(shared, read, now) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(last) => {
                    self.peer_end = Some(last);
                    return false;
                }
            }
        }
        true
    }

    /// Whether more may be read ahead. A message that has begun is read to its end, beyond the limit.
    fn has_room(&self, shared: &Shared) -> bool {
        let share = &self.ahead_share;
        share.held() < shared.settings.read_ahead && share.has_room(1) || self.read_half.decoder.is_in_message()
    }

    /// Stops reading for lack of room. The peer feels backpressure once the system's buffers are full, and what it has
    /// sent may be all that it could send. From then on only the system, by TCP keepalive, can tell whether its host is
    /// there.
    fn stop_reading(&mut self) {
        if self.read_half.decoder.undecoded() == 0 && socket::unread_bytes(self.read_half.stream()) == 0 {
            // Nothing is left unread, so silence still counts.
            return;
        }
        self.reading = Reading::Stopped;
        if let Some(limit) = self.heartbeat.policy().longest_silence().filter(|_| !self.is_kept_alive) {
            // On a system without keepalive, reading resumes when the handler returns.
            self.is_kept_alive = socket::start_keepalive(self.read_half.stream(), limit).is_ok();
        }
    }

    /// The handler is done: what is compressed from here on is dropped as it came.
    pub(crate) fn begin_to_discard(&mut self) {
        self.is_discarding = true;
    }

    /// Discards the messages that were read ahead: the handler will not ask for them any more.
    pub(crate) fn discard_read_ahead(&mut self) {
        self.ahead = VecDeque::new();
        self.ahead_share.clear();
    }
}

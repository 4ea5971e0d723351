//! The receiving end of a connection: what arrives, what it says of the peer, and what is to be done about it.
//!
//! Two threads can drive it, one at a time: the connection's own while its handler waits in `recv`, and the
//! [stand-in](crate::supervisor::stand_in) while the handler is away. Both go by the same decoder, the same heartbeat
//! and the same evidence; so a peer is answered and judged in the same way, whatever the handler does.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::shared::Shared;
use crate::heartbeat::{Activity, Heartbeat, HeartbeatPolicy, Reading, announcement, text_ping};
use crate::message::Message;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::{PeerEnd, Phase};
use crate::protocol::decoder::{Decoder, Incoming};
use crate::protocol::frame::Role;
use crate::transport::budget::BudgetShare;
use crate::transport::read_half::{ReadHalf, ReadOutcome};
use crate::transport::socket;

pub(crate) struct ReceivingEnd {
    pub(crate) read_half: ReadHalf,
    pub(super) heartbeat: Heartbeat,
    /// Whether nothing is to be judged before `deadline`, whatever comes.
    pub(super) is_calm: bool,
    pub(super) deadline: Option<Instant>,
    /// Whether texts that are heartbeats are taken as such, and kept from the handler.
    pub(super) text_heartbeat: bool,
    /// How many bytes were ever seen to have arrived, read or not, and when the newest of them was first seen.
    pub(super) arrived: u64,
    pub(super) last_arrival: Instant,
    pub(super) reading: Reading,
    /// The Ping whose clock runs.
    pub(super) ping: JudgedPing,
    /// Messages that were read for a handler that is away, in order.
    pub(super) ahead: VecDeque<Message>,
    /// What they cost in memory.
    pub(super) ahead_share: BudgetShare,
    /// What comes behind the messages that were read ahead.
    pub(super) peer_end: Option<Box<PeerEnd>>,
    /// Whether the system was asked to probe the peer.
    pub(super) is_kept_alive: bool,
    /// Whether the peer was found dead. What it sent before is still the handler's.
    pub(super) is_dead: bool,
}

/// The Ping that the peer's silence is judged by: the first of those that are unanswered, or the first after a miss.
#[derive(Debug)]
pub(super) struct JudgedPing {
    pub(super) asked: Instant,
    /// When it left our queue, and how many bytes the socket had taken before it.
    pub(super) left: Option<(Instant, u64)>,
}

/// The connection has ended: what there is to say was said.
#[derive(Debug)]
pub(crate) struct Over;

impl ReceivingEnd {
    /// How many reads one look of the stand-in is worth: others wait for it too.
    const READS: usize = 16;
    /// And how many frames: a read may bring thousands that are Pings, and each answer is a system call.
    const FRAMES: usize = 256;
    /// When to look again whether there is room for reading ahead, where others have used it up.
    const RETRY: Duration = Duration::from_millis(250);

    /// The receiving end of a connection that has just opened. `tail` is what came after the opening handshake.
    ///
    /// Not inlined: it is put together on the stack, and its caller holds as much again.
    #[inline(never)]
    pub(crate) fn open(
        shared: &Shared,
        role: Role,
        stream: &Arc<TcpStream>,
        tail: &[u8],
        policy: HeartbeatPolicy,
        text_heartbeat: bool,
    ) -> io::Result<Box<Self>> {
        let (settings, now) = (&shared.settings, shared.stats.opened);
        shared.stats.count_bytes_in(tail.len(), now);
        shared.stats.begin_heartbeat(policy.misses_allowed());
        let decoder = Decoder::new(role, tail, settings.read_buffer_size, settings.max_message_size);
        let mut ahead_share = shared.share();
        ahead_share.set_counted(true);
        Ok(Box::new(Self {
            read_half: ReadHalf::new(Arc::clone(stream), decoder)?,
            heartbeat: Heartbeat::new(policy, now, shared.phase(&policy, now)),
            is_calm: false,
            deadline: None,
            text_heartbeat,
            arrived: 0,
            last_arrival: now,
            reading: Reading::Always,
            ping: JudgedPing { asked: now, left: None },
            ahead: VecDeque::new(),
            ahead_share,
            peer_end: None,
            is_kept_alive: false,
            is_dead: false,
        }))
    }

    // Receiving.

    /// The next message among what has arrived, or the peer's last word. Control frames on the way are dealt with.
    pub(crate) fn next(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Message>, Box<PeerEnd>> {
        if self.ahead_share.held() > 0
            && let Some(message) = self.ahead.pop_front()
        {
            self.ahead_share.sub(message.cost());
            return Ok(Some(message));
        }
        match self.peer_end.take() {
            Some(last) => Err(last),
            None => self.decode(shared, now, &mut { usize::MAX }),
        }
    }

    /// Looks through so many frames at most, and takes them off.
    fn decode(
        &mut self,
        shared: &Arc<Shared>,
        now: Instant,
        frames: &mut usize,
    ) -> Result<Option<Message>, Box<PeerEnd>> {
        while let Some(left) = frames.checked_sub(1) {
            *frames = left;
            match self.read_half.decoder.next() {
                Ok(Some(Incoming::Message(message))) => {
                    let Some(activity) = self.text_activity(&message) else {
                        shared.stats.count_message_in();
                        return Ok(Some(message));
                    };
                    self.on_activity(shared, activity, now);
                    // If an answer cannot be written, here or below, the next read will tell why.
                    let _ = shared.text_pong();
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    self.on_activity(shared, Activity::Ping { next: announcement(&payload) }, now);
                    let _ = shared.pong(payload);
                }
                Ok(Some(Incoming::Pong(payload))) => {
                    shared.pong_received(&payload, now);
                    self.on_activity(shared, Activity::Pong, now);
                }
                Ok(Some(Incoming::Close(code, reason))) => return Err(Box::new(PeerEnd::Close(code, reason))),
                Ok(None) => return Ok(None),
                Err(violation) => return Err(Box::new(PeerEnd::Violation(violation))),
            }
        }
        Ok(None)
    }

    /// The heartbeat that a message is, where texts can be.
    fn text_activity(&self, message: &Message) -> Option<Activity> {
        if self.text_heartbeat { message.as_text().and_then(text_ping) } else { None }
    }

    pub(super) fn on_activity(&mut self, shared: &Shared, activity: Activity, now: Instant) {
        let position = shared.stats.bytes_in() - self.read_half.decoder.undecoded() as u64;
        let before = self.heartbeat.missed();
        self.heartbeat.on_activity(activity, position, now);
        self.is_calm = false;
        self.publish_missed(shared, before);
    }

    /// Takes note of what a read gave. The peer's last word, if that was it.
    pub(crate) fn on_read(
        &mut self,
        shared: &Shared,
        read: std::io::Result<ReadOutcome>,
        now: Instant,
    ) -> Result<bool, Box<PeerEnd>> {
        let (has_come, is_drained) = match read {
            Ok(ReadOutcome::Bytes { count, is_drained }) => {
                shared.stats.count_bytes_in(count, now);
                self.has_arrived(shared.stats.bytes_in(), now);
                (true, is_drained)
            }
            Ok(ReadOutcome::Nothing) => (false, true),
            Ok(ReadOutcome::End) => return Err(Box::new(PeerEnd::Lost(self.read_half.end_reason()))),
            Err(error) => return Err(Box::new(PeerEnd::Lost(CloseReason::io(&error)))),
        };
        if is_drained && self.reading == Reading::Stopped {
            self.reading = Reading::Since(now);
            if std::mem::take(&mut self.is_kept_alive) {
                socket::stop_keepalive(self.read_half.stream());
            }
        }
        Ok(has_come)
    }

    /// So many bytes have arrived in all. Reading those that were seen before is no news.
    pub(super) fn has_arrived(&mut self, arrived: u64, now: Instant) {
        if arrived > self.arrived {
            (self.arrived, self.last_arrival) = (arrived, now);
        }
    }

    // Standing in.

    /// One look at a connection whose handler is away, which never waits: reads ahead, answers, judges. When to look
    /// again, unless something comes to read before, and whether that would be read.
    pub(crate) fn stand_in(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<(Option<Instant>, bool), Over> {
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
        let is_at_once = self.read_ahead(shared, now);
        self.read_half.release_idle_buffer();
        if let Some(last) = &self.peer_end {
            if let PeerEnd::Lost(reason @ CloseReason::Io { .. }) = &**last {
                // Nothing that the handler may still send would arrive.
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
        let reads = self.has_room(shared);
        let phase = shared.write_half.close_state(|close_state| close_state.phase());
        let failure = match phase {
            // A read tells.
            _ if reads => None,
            Phase::Broken => Some(CloseReason::Disconnected),
            _ => self.read_half.failure(),
        };
        if let Some(reason) = failure {
            // What has come so far is still the handler's.
            shared.abort(reason);
            return Err(Over);
        }
        let deadline = match phase {
            Phase::Open => self.beat_if_due(shared, now)?,
            // The supervisor watches that the closing handshake comes to an end.
            _ => None,
        };
        let soon = if is_at_once {
            // Others first.
            Some(now + Duration::from_millis(1))
        } else if !reads && self.ahead_share.held() < shared.settings.read_ahead {
            // All together have used up what may be buffered. Nobody tells when they have less.
            Some(now + Self::RETRY)
        } else {
            None
        };
        Ok(([soon, deadline].into_iter().flatten().min(), reads))
    }

    /// Both sides have had their last word: that is the end, unless something still waits to go out and has time left.
    fn end_if_drained(shared: &Arc<Shared>, now: Instant) -> Result<(Option<Instant>, bool), Over> {
        let by = shared.close_deadline().filter(|by| *by > now);
        if shared.write_half.uptake().blocked_since.is_none() {
            shared.end_in_order();
        } else if by.is_some() {
            return Ok((by, false));
        } else {
            shared.abort(CloseReason::Disconnected);
        }
        Err(Over)
    }

    /// Reads as far as there is room for it. Whether there may be more to read at once.
    fn read_ahead(&mut self, shared: &Arc<Shared>, now: Instant) -> bool {
        let mut frames = Self::FRAMES;
        for _ in 0..Self::READS {
            loop {
                if !self.has_room(shared) {
                    self.stop_reading();
                    return false;
                }
                match self.decode(shared, now, &mut frames) {
                    Ok(Some(message)) => {
                        self.ahead_share.add(message.cost());
                        self.ahead.push_back(message);
                    }
                    Ok(None) if frames == 0 => return true,
                    Ok(None) => break,
                    Err(last) => {
                        self.peer_end = Some(last);
                        return false;
                    }
                }
            }
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

    /// Whether more may be read ahead. A message that has begun is read to its end.
    fn has_room(&self, shared: &Shared) -> bool {
        let share = &self.ahead_share;
        share.held() < shared.settings.read_ahead && share.has_room(1) || self.read_half.decoder.is_in_message()
    }

    /// There is no room for more. The peer feels it as soon as the system's buffers are full; and what it has sent may
    /// be all that it could send. From then on the system alone can tell whether its host is there.
    fn stop_reading(&mut self) {
        if self.read_half.decoder.undecoded() == 0 && socket::unread_bytes(self.read_half.stream()) == 0 {
            return;
        }
        self.reading = Reading::Stopped;
        if let Some(limit) = self.heartbeat.policy().longest_silence().filter(|_| !self.is_kept_alive) {
            // A system without the option has the handler's return all the same.
            self.is_kept_alive = socket::start_keepalive(self.read_half.stream(), limit).is_ok();
        }
    }

    /// The connection is over for its handler: what was read ahead is nobody's any more.
    pub(crate) fn discard_read_ahead(&mut self) {
        self.ahead = VecDeque::new();
        self.ahead_share.clear();
    }
}

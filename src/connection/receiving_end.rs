//! The receiving end of a connection: what arrives, what it says of the peer, and what is to be done about it.
//!
//! Two threads can drive it, one at a time: the connection's own while its handler waits in `recv`, and the
//! [stand-in](crate::supervisor::stand_in) while the handler is away. Both go by the same decoder, the same heartbeat
//! and the same evidence; so a peer is answered and judged in the same way, whatever the handler does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::shared::Shared;
use crate::connection::suspension;
use crate::error::Error;
use crate::heartbeat::{Action, Activity, Evidence, Heartbeat, HeartbeatPolicy, Reading, announcement, text_ping};
use crate::message::Message;
use crate::protocol::close::CloseReason;
use crate::protocol::close_state::{PeerEnd, Phase};
use crate::protocol::decoder::Incoming;
use crate::transport::budget::BudgetShare;
use crate::transport::read_half::{ReadHalf, ReadOutcome};
use crate::transport::socket;
use crate::transport::write_half::{Sent, Uptake};

pub(crate) struct ReceivingEnd {
    pub(crate) read_half: ReadHalf,
    heartbeat: Heartbeat,
    /// Whether nothing is to be judged before `deadline`, whatever comes.
    is_calm: bool,
    deadline: Option<Instant>,
    /// Whether texts that are heartbeats are taken as such, and kept from the handler.
    text_heartbeat: bool,
    /// How many bytes were ever seen to have arrived, read or not, and when the newest of them was first seen.
    arrived: u64,
    last_arrival: Instant,
    reading: Reading,
    /// The Ping whose clock runs.
    ping: JudgedPing,
    /// Messages that were read for a handler that is away, in order.
    ahead: VecDeque<Message>,
    /// What they cost in memory.
    ahead_share: BudgetShare,
    /// What comes behind the messages that were read ahead.
    peer_end: Option<Box<PeerEnd>>,
    /// Whether the system was asked to probe the peer.
    is_kept_alive: bool,
    /// Whether the peer was found dead. What it sent before is still the handler's.
    is_dead: bool,
}

/// The Ping that the peer's silence is judged by: the first of those that are unanswered, or the first after a miss.
#[derive(Debug)]
struct JudgedPing {
    asked: Instant,
    /// When it left our queue, and how many bytes the socket had taken before it.
    left: Option<(Instant, u64)>,
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

    pub(crate) fn new(
        read_half: ReadHalf,
        heartbeat: Heartbeat,
        text_heartbeat: bool,
        mut ahead_share: BudgetShare,
        now: Instant,
    ) -> Self {
        ahead_share.set_counted(true);
        Self {
            read_half,
            heartbeat,
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
        }
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

    fn on_activity(&mut self, shared: &Shared, activity: Activity, now: Instant) {
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
    fn has_arrived(&mut self, arrived: u64, now: Instant) {
        if arrived > self.arrived {
            (self.arrived, self.last_arrival) = (arrived, now);
        }
    }

    // Judging.

    /// Does what the heartbeat asks for, if anything is due, and returns until when nothing else is. Once either side
    /// has begun to close, the heartbeat is over.
    pub(crate) fn beat_if_due(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Instant>, Over> {
        if !shared.write_half.is_open() {
            return Ok(None);
        }
        if self.is_calm && self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(self.deadline);
        }
        self.judge(shared, now)
    }

    fn judge(&mut self, shared: &Arc<Shared>, now: Instant) -> Result<Option<Instant>, Over> {
        if self.is_dead {
            return Err(Over);
        }
        let before = self.heartbeat.missed();
        // The heartbeat asks for one thing at a time, and each may change the evidence for the next.
        loop {
            // The full queue has a time limit of its own, whether the peer is alive or not.
            let (evidence, blocked_too_long) = self.evidence(shared, now);
            if let Some(limit) = blocked_too_long {
                return Err(self.found_dead(shared, CloseReason::WriteStalled { limit }));
            }
            let policy = self.heartbeat.policy();
            match self.heartbeat.judge(now, &evidence) {
                // If it cannot be sent at all, the next read will tell why.
                Action::Ping => _ = self.ping(shared),
                Action::Missed(missed) => shared.miss(missed, &policy),
                Action::Dead(missed) => {
                    shared.miss(missed, &policy);
                    return Err(self.found_dead(shared, CloseReason::HeartbeatLost { missed }));
                }
                Action::Stalled(limit) => {
                    return Err(self.found_dead(shared, CloseReason::WriteStalled { limit }));
                }
                // Nothing is due: publish the count, and remember until when `beat_if_due` can return at once.
                Action::Wait(deadline) => {
                    self.publish_missed(shared, before);
                    let full = shared
                        .settings
                        .full_queue_timeout
                        .zip(evidence.blocked_since)
                        .map(|(limit, since)| since + limit);
                    self.deadline = [deadline, full].into_iter().flatten().min();
                    self.is_calm = !self.heartbeat.awaits_activity() && shared.settings.full_queue_timeout.is_none();
                    return Ok(self.deadline);
                }
            }
        }
    }

    fn found_dead(&mut self, shared: &Shared, reason: CloseReason) -> Over {
        (self.is_dead, self.is_calm) = (true, false);
        shared.abort(reason);
        Over
    }

    /// Sends a Ping, and starts its clock.
    pub(crate) fn ping(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        // Counted before it is written: what comes back at once is its answer, and news.
        let before = Instant::now();
        self.has_arrived(shared.stats.bytes_in() + socket::unread_bytes(self.read_half.stream()), before);
        if !self.heartbeat.has_miss_timer() {
            self.ping = JudgedPing { asked: before, left: None };
        }
        let sent = shared.ping(self.heartbeat.policy().announcement(), None);
        self.is_calm = false;
        match sent {
            Ok(Sent::Written) => {
                self.note_ping_left(&shared.write_half.uptake());
                self.heartbeat.ping_written(Instant::now(), self.arrived);
            }
            // It may have left the queue by now, too.
            Ok(_) | Err(_) => self.heartbeat.ping_queued(before, self.arrived),
        }
        sent.map(drop)
    }

    /// Begins afresh by another policy, with a Ping at once if that beats: it tells the peer, if it announces, and a
    /// peer that is dead already is found.
    pub(crate) fn change_heartbeat(&mut self, shared: &Arc<Shared>, policy: HeartbeatPolicy) -> Result<(), Error> {
        self.set_heartbeat(shared, policy);
        if policy.ping_interval().is_some() {
            return self.ping(shared);
        }
        if shared.write_half.is_closing() { Err(shared.closed()) } else { Ok(()) }
    }

    pub(crate) fn set_heartbeat(&mut self, shared: &Shared, policy: HeartbeatPolicy) {
        let now = Instant::now();
        self.heartbeat.set_policy(policy, now, shared.phase(&policy, now));
        self.is_calm = false;
        shared.stats.begin_heartbeat(policy.misses_allowed());
    }

    /// All that is known of the peer. Also the limit of `full_queue_timeout`, if the queue has been blocked for longer.
    fn evidence(&mut self, shared: &Shared, now: Instant) -> (Evidence, Option<Duration>) {
        // What has arrived, read or not.
        let read = shared.stats.bytes_in();
        self.has_arrived(read + socket::unread_bytes(self.read_half.stream()), now);

        // What the peer has taken. The send buffer is asked only when that decides something: it costs system calls.
        let uptake = shared.write_half.uptake();
        self.note_ping_left(&uptake);
        let is_held_back = match self.ping.left {
            Some((_, offset)) if self.heartbeat.is_overdue(now) => {
                socket::has_unsent_before_last(self.read_half.stream(), uptake.bytes - offset)
            }
            _ => false,
        };

        let evidence = Evidence {
            arrived: self.arrived,
            examined: read - self.read_half.decoder.unexamined() as u64,
            last_arrival: self.last_arrival,
            reading: self.reading,
            ping_left: self.ping.left.map(|(at, _)| at),
            is_held_back,
            blocked_since: uptake.blocked_since,
            suspended: suspension::so_far(),
        };
        let limit = shared
            .settings
            .full_queue_timeout
            .filter(|limit| uptake.blocked_since.is_some_and(|since| now.saturating_duration_since(since) >= *limit));
        (evidence, limit)
    }

    fn note_ping_left(&mut self, uptake: &Uptake) {
        let last_left = uptake.ping_left.filter(|(at, _)| *at >= self.ping.asked);
        self.ping.left = self.ping.left.or(last_left);
    }

    pub(crate) fn policy(&self) -> HeartbeatPolicy {
        self.heartbeat.policy()
    }

    fn publish_missed(&self, shared: &Shared, before: u32) {
        if self.heartbeat.missed() != before {
            shared.stats.set_missed(self.heartbeat.missed());
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

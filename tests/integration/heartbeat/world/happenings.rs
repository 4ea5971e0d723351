//! What happens in the world at its instants, and how the driver reads what has arrived.

use heartwire::heartbeat::Liveness::PongOnly;
use heartwire::heartbeat::{Activity, Reading};

use super::What::{Data, Frame};
use super::{Event, Reader, What, World, is_led};

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(what) => self.arrive(what),
            Event::Spurious if self.is_paused() => {}
            Event::Spurious => self.settle(),
            Event::Blocks if self.blocked_since.is_none() => {
                (self.blocked_since, self.has_waited, self.began_to_wait) = (Some(self.now), true, self.now);
            }
            Event::Takes if self.blocked_since.is_some() => {
                self.blocked_since = Some(self.now);
                self.takes();
            }
            Event::Drains if self.blocked_since.take().is_some() => {
                self.takes();
                self.has_seen_wait = false;
                if std::mem::take(&mut self.has_queued_ping) {
                    self.ping_leaves_queue();
                }
            }
            Event::Holds => (self.is_holding, self.has_waited, self.began_to_wait) = (true, true, self.now),
            Event::LetsGo if self.is_holding => {
                (self.is_holding, self.judged_is_held) = (false, false);
                self.takes();
                // There is room for some of what waits in the queue.
                self.blocked_since = self.blocked_since.map(|_| self.now);
                (0..std::mem::take(&mut self.held_pings)).for_each(|_| self.ping_leaves());
            }
            Event::Blocks | Event::Takes | Event::Drains | Event::LetsGo => {}
            Event::StopsReading => self.reading = Reading::Stopped,
            Event::Reads => {
                self.read_all_by_force();
                self.reading = Reading::Since(self.origin + self.now);
                self.resumed = self.now;
            }
            Event::Suspended(length) => self.suspended += length,
            Event::Paused(length, is_lossy) => {
                self.paused = (self.now, self.now + length);
                self.happens(self.now + length, Event::ReadStep);
                self.retransmission = is_lossy.then_some(self.now + 2 * length);
            }
            Event::ReadStep => {
                self.is_step_due = false;
                self.read_on();
            }
        }
    }

    fn takes(&mut self) {
        self.last_taken = self.now;
        if self.has_seen_wait {
            self.last_seen_taken = self.now;
        }
    }

    fn is_paused(&self) -> bool {
        self.paused.0 <= self.now && self.now < self.paused.1
    }

    fn arrive(&mut self, what: What) {
        // A pause of the machine loses what arrives, and TCP keeps the order: it sends again when twice the time is
        // over.
        if self.is_paused()
            && let Some(again) = self.retransmission
        {
            return self.arrives(again, what);
        }
        self.arrived += what.len();
        self.unread.push_back((self.arrived, what));
        self.last_arrival = self.now;
        let is_strict = self.policy == self.policy.liveness(PongOnly);
        let is_life = match what {
            Data(_) => !is_strict,
            Frame(Activity::Ping { .. }) => !is_strict || is_led(self.policy),
            Frame(_) => true,
        };
        if is_life {
            self.last_life = self.now;
            self.answered = self.unanswered_since.take().or(self.answered);
        }
        if !self.is_paused() {
            self.read_on();
        }
    }

    /// What the reader does when something has arrived.
    fn read_on(&mut self) {
        match self.reader {
            _ if self.unread.is_empty() || self.reading == Reading::Stopped => {}
            Reader::Prompt => {
                self.read_all();
                self.judge_if_awaited();
            }
            Reader::AtLooks => {}
            Reader::Slow(count, pause) => {
                if !self.is_step_due {
                    self.is_step_due = true;
                    self.happens(self.now + pause, Event::ReadStep);
                    if self.read < self.arrived {
                        self.read_up_to(self.arrived.min(self.read + count));
                        self.judge_if_awaited();
                    }
                }
            }
        }
    }

    fn judge_if_awaited(&mut self) {
        if self.heart.awaits_activity() && self.dead.is_none() {
            self.settle();
        }
    }

    pub(super) fn read_all(&mut self) {
        if self.reading != Reading::Stopped {
            self.read_all_by_force();
        }
    }

    fn read_all_by_force(&mut self) {
        self.read_up_to(self.arrived);
    }

    fn read_up_to(&mut self, position: u64) {
        self.sees();
        if position > self.read {
            self.last_read = self.now;
        }
        self.read = position;
        while let Some((end, what)) = self.unread.front().copied().filter(|(end, _)| *end <= position) {
            self.unread.pop_front();
            if let Frame(sign) = what {
                self.heart.on_activity(sign, end, self.origin + self.now);
            }
        }
    }
}

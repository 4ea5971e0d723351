//! What waits to be published, what was sent and has no outcome yet, and what has one that is not told yet.
//!
//! Invariants:
//! - Whoever has the answer finds the message in this node's copy: it is given once the follower has come so far.
//! - Messages are sent in the order in which they came, also those that are sent again.
//! - Each is answered once, at its deadline at the latest. One whose deadline has passed is not sent again.
//! - Answers are given in the order of the messages, but for those that are refused at once or for their deadline.
//! - All that waits is bounded, in number and in bytes.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::node::LogId;
use crate::message::Message;
use crate::topics::name::TopicName;
use crate::topics::{Published, TopicError};

/// How many messages may wait, and how many bytes.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// So much is sent before the answers are read.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 256 * 1024;

/// Takes the outcome. It must not block.
pub(in crate::topics) type Answer = Box<dyn FnOnce(Result<Published, TopicError>) + Send>;

/// A message that is to be published.
#[derive(Clone)]
pub(in crate::topics) struct Publication {
    pub(in crate::topics) topic: TopicName,
    pub(in crate::topics) message: Message,
    pub(in crate::topics) key: Option<String>,
}

/// One under way. Redis knows it by its number when it is sent again.
#[derive(Clone)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) publication: Publication,
}

#[derive(Default)]
pub(super) struct Outbox {
    /// Protects what waits, what was sent and what has an outcome. No answer is given under it.
    state: Mutex<State>,
    /// Held while outcomes are told, so that they are in their order: two threads do it.
    telling: Mutex<()>,
    /// Signalled when something comes, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    sent: VecDeque<Job>,
    settled: VecDeque<Settled>,
    /// How far the follower has come.
    applied: LogId,
    bytes: usize,
    last_number: u64,
    /// Whether there is something else to do than to publish.
    is_woken: bool,
    is_closed: bool,
}

struct Job {
    numbered: Numbered,
    deadline: Instant,
    /// `None` once it was answered.
    answer: Option<Answer>,
}

/// A message with its outcome.
struct Settled {
    /// It is told once the follower has come so far in the log.
    after: LogId,
    outcome: Result<Published, TopicError>,
    job: Job,
}

impl Job {
    fn answer(self, outcome: Result<Published, TopicError>) {
        if let Some(answer) = self.answer {
            answer(outcome);
        }
    }

    fn cost(&self) -> usize {
        self.numbered.publication.message.cost()
    }
}

impl Outbox {
    /// Takes a message. If there is no room, or it is over, the answer is given at once.
    pub(super) fn put(&self, publication: Publication, deadline: Instant, answer: Answer) {
        let refused = {
            let mut state = self.lock();
            let cost = publication.message.cost();
            if state.is_closed {
                TopicError::Closed
            } else if state.waiting.len() + state.sent.len() + state.settled.len() >= MOST
                || state.bytes + cost > MOST_BYTES.max(cost)
            {
                TopicError::BackplaneUnavailable
            } else {
                state.bytes += cost;
                state.last_number += 1;
                let numbered = Numbered { number: state.last_number, publication };
                state.waiting.push_back(Job { numbered, deadline, answer: Some(answer) });
                self.changed.notify_all();
                return;
            }
        };
        answer(Err(refused));
    }

    /// Lets whoever waits for something to send look for something else.
    pub(super) fn wake(&self) {
        self.lock().is_woken = true;
        self.changed.notify_all();
    }

    /// Sends what comes next, once there is something: copies of it. After this time, or if it is woken, nothing.
    /// `None` at the end.
    pub(super) fn send_next(&self, wait: Duration) -> Option<Vec<Numbered>> {
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        while state.waiting.is_empty() && !mem::take(&mut state.is_woken) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if state.is_closed {
                return None;
            }
            if remaining.is_zero() {
                return Some(Vec::new());
            }
            state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(job) = state.waiting.pop_front() else { break };
            bytes += job.cost();
            batch.push(job.numbered.clone());
            state.sent.push_back(job);
        }
        Some(batch)
    }

    /// The oldest that was sent has this outcome. If it was published just now, as this entry of the log.
    pub(super) fn answered(&self, outcome: Result<(Published, Option<LogId>), TopicError>) {
        {
            let mut state = self.lock();
            let Some(job) = state.sent.pop_front() else { return };
            state.bytes -= job.cost();
            let (outcome, entry) = match outcome {
                Ok((published, entry)) => (Ok(published), entry),
                Err(error) => (Err(error), None),
            };
            // What has no entry of its own is told after what came before it.
            let after = entry.or(state.settled.back().map(|settled| settled.after)).unwrap_or_default();
            state.settled.push_back(Settled { after, outcome, job });
        }
        self.tell_while(|state, settled| settled.after <= state.applied);
    }

    /// The follower has come so far.
    pub(super) fn applied(&self, id: LogId) {
        self.lock().applied = id;
        self.tell_while(|state, settled| settled.after <= state.applied);
    }

    /// The log begins anew after this entry. What was published before does not come by it.
    pub(super) fn restart_log(&self, id: LogId) {
        {
            let mut state = self.lock();
            state.applied = id;
            state.settled.iter_mut().for_each(|settled| settled.after = id);
        }
        self.tell_while(|_, _| true);
    }

    /// Tells the outcomes of the oldest messages that have one.
    fn tell_while(&self, is_due: impl Fn(&State, &Settled) -> bool) {
        let _turn = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let due: Vec<_> = {
            let mut state = self.lock();
            let count = state.settled.iter().take_while(|settled| is_due(&state, settled)).count();
            state.settled.drain(..count).collect()
        };
        for Settled { outcome, job, .. } in due {
            job.answer(outcome);
        }
    }

    /// What was sent is to be sent again, ahead of all that came later. What nobody waits for any more is not.
    pub(super) fn take_back(&self) {
        let mut state = self.lock();
        while let Some(job) = state.sent.pop_back() {
            if job.answer.is_some() {
                state.waiting.push_front(job);
            } else {
                state.bytes -= job.cost();
            }
        }
    }

    /// How many messages wait for Redis.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.sent.len()
    }

    /// Answers those whose time is up.
    pub(super) fn expire(&self, now: Instant) {
        self.tell_while(|_, settled| settled.job.deadline <= now);
        let mut expired = Vec::new();
        {
            let mut state = self.lock();
            let State { waiting, sent, bytes, .. } = &mut *state;
            // An answer to what was sent is still to come, so it keeps its place.
            for job in sent.iter_mut().filter(|job| job.deadline <= now) {
                expired.extend(job.answer.take());
            }
            waiting.retain_mut(|job| {
                let is_in_time = job.deadline > now;
                if !is_in_time {
                    *bytes -= job.cost();
                    expired.extend(job.answer.take());
                }
                is_in_time
            });
        }
        for answer in expired {
            answer(Err(TopicError::BackplaneUnavailable));
        }
    }

    /// Refuses all that waits and all that comes.
    pub(super) fn close(&self) {
        let jobs: Vec<_> = {
            let mut state = self.lock();
            state.is_closed = true;
            state.bytes = 0;
            let sent = mem::take(&mut state.sent);
            sent.into_iter().chain(mem::take(&mut state.waiting)).collect()
        };
        self.changed.notify_all();
        self.tell_while(|_, _| true);
        for job in jobs {
            job.answer(Err(TopicError::Closed));
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::topics::position::{Epoch, Position};

    fn id(number: u64) -> LogId {
        format!("{number}-0").parse().expect("an id")
    }

    /// What is told of a publication that was the entry of the log with this number, or none.
    fn published(offset: u64) -> Published {
        Published { position: Position { epoch: Epoch::new(), offset }, here: 0, again: false, only_here: false }
    }

    fn put(outbox: &Outbox, answer: Answer) {
        let publication = Publication { topic: "chat".parse().expect("a name"), message: "hello".into(), key: None };
        outbox.put(publication, Instant::now() + Duration::from_secs(3600), answer);
    }

    #[test]
    fn answers_are_in_the_order_of_the_messages_though_two_threads_give_them() {
        let outbox = Outbox::default();
        let (told, heard) = unbounded();
        let (begun, is_begun) = unbounded();
        let tell = told.clone();
        // Nobody may give the second answer while the first is still being given.
        let slowly = move |_| {
            begun.send(()).expect("who waits for it");
            thread::sleep(Duration::from_millis(100));
            tell.send(1).expect("who hears it");
        };
        put(&outbox, Box::new(slowly));
        put(&outbox, Box::new(move |_| told.send(2).expect("who hears it")));
        let _ = outbox.send_next(Duration::ZERO);
        outbox.answered(Ok((published(1), Some(id(1)))));
        thread::scope(|scope| {
            scope.spawn(|| outbox.applied(id(2)));
            is_begun.recv().expect("the first answer");
            outbox.answered(Ok((published(2), Some(id(2)))));
        });
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn an_answer_waits_until_the_follower_has_come_so_far_and_those_after_it_wait_too() {
        let (outbox, (told, heard)) = (Outbox::default(), unbounded());
        for number in 1..=2 {
            let told = told.clone();
            put(&outbox, Box::new(move |outcome| told.send((number, outcome.is_ok())).expect("who hears it")));
        }
        assert_eq!(outbox.send_next(Duration::ZERO).map(|batch| batch.len()), Some(2));
        outbox.answered(Ok((published(7), Some(id(7)))));
        outbox.answered(Err(TopicError::TooManyTopics));
        outbox.applied(id(6));
        assert!(heard.is_empty());
        outbox.applied(id(7));
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(1, true), (2, false)]);
    }
}

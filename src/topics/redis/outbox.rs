//! What waits to be published, what was sent and is not answered yet, and what was published and has not come back by
//! the log yet.
//!
//! Invariants:
//! - Whoever has the answer finds the message in this node's copy: it is given once the follower has come so far.
//! - Messages are sent in the order in which they came, also those that are sent again.
//! - Each is answered once, at its deadline at the latest. One whose deadline has passed is not sent again.
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
    /// Protects what waits and what was sent. No answer is given under it.
    state: Mutex<State>,
    /// Signalled when something comes, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    sent: VecDeque<Job>,
    /// What was published as these entries of the log.
    published: VecDeque<(LogId, Published, Job)>,
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
            } else if state.waiting.len() + state.sent.len() + state.published.len() >= MOST
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
        let (job, outcome) = {
            let mut state = self.lock();
            let Some(job) = state.sent.pop_front() else { return };
            state.bytes -= job.cost();
            match outcome {
                Ok((published, Some(id))) if id > state.applied => {
                    state.published.push_back((id, published, job));
                    return;
                }
                outcome => (job, outcome.map(|(published, _)| published)),
            }
        };
        job.answer(outcome);
    }

    /// The follower has come so far. `here` counts the subscribers of a topic.
    pub(super) fn applied(&self, id: LogId, here: impl Fn(&str) -> usize) {
        let mut done = Vec::new();
        {
            let mut state = self.lock();
            state.applied = id;
            while state.published.front().is_some_and(|(of, ..)| *of <= id) {
                done.extend(state.published.pop_front());
            }
        }
        for (_, published, job) in done {
            let here = here(job.numbered.publication.topic.as_str());
            job.answer(Ok(Published { here, ..published }));
        }
    }

    /// The log begins anew after this entry. What was published before does not come by it.
    pub(super) fn restart_log(&self, id: LogId) {
        let done = {
            let mut state = self.lock();
            state.applied = id;
            mem::take(&mut state.published)
        };
        for (_, published, job) in done {
            job.answer(Ok(published));
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
        let (mut expired, mut late) = (Vec::new(), Vec::new());
        {
            let mut state = self.lock();
            let State { waiting, sent, published, bytes, .. } = &mut *state;
            while published.front().is_some_and(|(_, _, job)| job.deadline <= now) {
                late.extend(published.pop_front());
            }
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
        for (_, published, job) in late {
            job.answer(Ok(published));
        }
    }

    /// Refuses all that waits and all that comes.
    pub(super) fn close(&self) {
        let (published, jobs): (_, Vec<_>) = {
            let mut state = self.lock();
            state.is_closed = true;
            state.bytes = 0;
            let sent = mem::take(&mut state.sent);
            let jobs = sent.into_iter().chain(mem::take(&mut state.waiting)).collect();
            (mem::take(&mut state.published), jobs)
        };
        self.changed.notify_all();
        for (_, published, job) in published {
            job.answer(Ok(published));
        }
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

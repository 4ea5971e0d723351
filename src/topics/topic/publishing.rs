//! Publishing to a topic.
//!
//! One publisher at a time has the lead. Those that come meanwhile wait together; then the first of them leads, and
//! publishes for all: each subscriber gets their messages by one write. So the more publish at a time, the less each
//! message costs. A leader publishes once, hands the lead over, and tells the others, who need no lock to go on.
//!
//! Invariants:
//! - If anybody waits, somebody leads, and the message of whoever leads is the first that waits.
//! - Whoever waits is told, also if the leader panics.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{BATCH, Pace, Removed, State, Subscriber, Topic};
use crate::message::Message;
use crate::topics::Published;
use crate::topics::entry::{Entry, Unkept};
use crate::topics::position::Epoch;
use crate::transport::write_half::Refused;

/// The messages that are to be published next, in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    is_led: bool,
}

/// A message whose publisher waits, or leads.
struct Waiting {
    message: Message,
    key: Option<String>,
    answer: Answer,
}

/// What its publisher is told when it is dropped.
struct Answer {
    publisher: Arc<Publisher>,
    outcome: Result<Published, Removed>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.publisher.tell(Word::Done(self.outcome));
    }
}

/// What a publisher waits for.
#[derive(Clone, Copy)]
enum Word {
    /// It has the lead.
    Lead,
    Done(Result<Published, Removed>),
}

#[derive(Default)]
struct Publisher {
    /// Protects what it is told.
    mailbox: Mutex<Mailbox>,
    told: Condvar,
}

#[derive(Default)]
struct Mailbox {
    word: Option<Word>,
    /// Whether the publisher sleeps. To wake it takes a system call, which most publishers do without.
    is_awaited: bool,
}

impl Publisher {
    fn tell(&self, word: Word) {
        let mut mailbox = self.lock();
        mailbox.word = Some(word);
        if mailbox.is_awaited {
            self.told.notify_one();
        }
    }

    fn wait(&self) -> Word {
        let mut mailbox = self.lock();
        loop {
            if let Some(word) = mailbox.word.take() {
                mailbox.is_awaited = false;
                return word;
            }
            mailbox.is_awaited = true;
            mailbox = self.told.wait(mailbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lead, which goes to the next when it is dropped.
struct Lead<'a>(&'a Topic);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock_queue();
        match queue.waiting.front() {
            Some(first) => first.answer.publisher.tell(Word::Lead),
            // Without the memory for those that have waited: topics are many, and mostly nobody publishes.
            None => *queue = Queue::default(),
        }
    }
}

impl Topic {
    /// Publishes a message, whose payload is our own.
    pub(in crate::topics) fn publish(&self, message: Message, key: Option<&str>) -> Result<Published, Removed> {
        let publisher = Arc::<Publisher>::default();
        let answer = Answer { publisher: Arc::clone(&publisher), outcome: Err(Removed) };
        let is_led = {
            let mut queue = self.lock_queue();
            queue.waiting.push_back(Waiting { message, key: key.map(str::to_owned), answer });
            mem::replace(&mut queue.is_led, true)
        };
        if !is_led {
            self.publish_waiting(Lead(self));
        }
        loop {
            match publisher.wait() {
                Word::Lead => self.publish_waiting(Lead(self)),
                Word::Done(outcome) => return outcome,
            }
        }
    }

    /// Publishes the messages that have waited longest, the leader's own first.
    fn publish_waiting(&self, lead: Lead<'_>) {
        let mut state = self.lock();
        let batch: Vec<Waiting> = {
            let waiting = &mut self.lock_queue().waiting;
            let count = waiting.len().min(BATCH);
            waiting.drain(..count).collect()
        };
        let here = state.count_subscribers();
        let (mut entries, mut answers) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for Waiting { message, key, mut answer } in batch {
            answer.outcome = self.append(&mut state, message, key.as_deref(), here, &mut entries);
            answers.push(answer);
        }
        self.deliver(&mut state, &entries);
        drop(state);
        // The next one begins, and only then the others are woken.
        drop(lead);
        drop(answers);
    }

    /// Adds a message to the history, and to the entries that are to be delivered.
    fn append(
        &self,
        state: &mut State,
        message: Message,
        key: Option<&str>,
        here: usize,
        entries: &mut Vec<Arc<Entry>>,
    ) -> Result<Published, Removed> {
        if state.is_removed {
            return Err(Removed);
        }
        let (now, window) = (Instant::now(), &self.common.settings.window);
        let known = key.and_then(|key| self.change(state, |state| state.keys.find(key, now, window)));
        if let Some(offset) = known {
            return Ok(Published { position: state.position(offset), here, again: true, only_here: false });
        }
        let entry = Arc::new(Entry::new(state.history.last() + 1, message, now));
        self.change(state, |state| {
            if let Some(key) = key {
                state.keys.add(key, entry.offset, now, window);
            }
            state.history.push(Arc::clone(&entry), self.limits(), now);
        });
        let position = state.position(entry.offset);
        entries.push(entry);
        Ok(Published { position, here, again: false, only_here: false })
    }

    /// Gives new messages to all subscribers that keep up.
    pub(super) fn deliver(&self, state: &mut State, entries: &[Arc<Entry>]) {
        let epoch = state.epoch;
        let mut unkept: Vec<Unkept> = entries.iter().map(|_| Unkept::default()).collect();
        for subscriber in state.subscribers.values_mut() {
            if subscriber.pace != Pace::Live {
                continue;
            }
            match self.give(subscriber, epoch, entries, &mut unkept) {
                Ok(()) => {}
                // Its queue is full, so there is a drainer, which calls `catch_up` when it is done.
                Err(Refused::Full) => subscriber.pace = Pace::Behind,
                Err(Refused::Closed) => subscriber.pace = Pace::Ended,
            }
        }
    }

    /// Gives new messages to a subscriber: several by one write.
    fn give(
        &self,
        subscriber: &mut Subscriber,
        epoch: Epoch,
        entries: &[Arc<Entry>],
        unkept: &mut [Unkept],
    ) -> Result<(), Refused> {
        let Subscriber { shared, format, cursor, .. } = subscriber;
        for (entry, unkept) in entries.iter().zip(unkept) {
            let frame = self.frames(entry, epoch, *format, unkept).frame_for(shared);
            match entries.len() {
                1 => shared.try_send_frame(frame)?,
                _ => shared.try_feed_frame(frame)?,
            }
            *cursor = entry.offset;
        }
        match entries.len() {
            0 | 1 => Ok(()),
            _ => shared.flush().map_err(|_| Refused::Closed),
        }
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;
    use crate::supervisor::handle::SupervisorHandle;
    use crate::topics::Topics;
    use crate::topics::counters::Counters;
    use crate::topics::position::Position;
    use crate::topics::topic::{Common, Excerpt};

    /// One that nobody is subscribed to.
    pub(in crate::topics::topic) fn topic() -> Topic {
        let (supervisor, _receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
        let common = Common {
            settings: Topics::new().settings,
            supervisor,
            cost: 0.into(),
            counters: Counters::default(),
            to_list: crossbeam_channel::unbounded().0,
            #[cfg(feature = "redis")]
            node: None,
        };
        Topic::new("news".parse().unwrap(), Arc::new(common), Position { epoch: Epoch::new(), offset: 0 })
    }

    /// Lets so many publish while somebody else has the topic, who then does something with it. What became of each.
    fn publish_together(
        topic: &Topic,
        count: usize,
        key: impl Fn(usize) -> Option<&'static str> + Sync,
        then: impl FnOnce(&mut State),
    ) -> Vec<Result<Published, Removed>> {
        thread::scope(|scope| {
            let mut state = topic.lock();
            let publish = |number: usize| {
                let key = &key;
                scope.spawn(move || topic.publish(number.to_string().into(), key(number)))
            };
            let publishers: Vec<_> = (0..count).map(publish).collect();
            let deadline = Instant::now() + std::time::Duration::from_secs(60);
            while topic.lock_queue().waiting.len() < count {
                assert!(Instant::now() < deadline, "not all of them wait");
                thread::yield_now();
            }
            then(&mut state);
            drop(state);
            publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
        })
    }

    #[test]
    fn publish_gives_each_of_many_that_waited_its_own_position() {
        let (topic, count) = (topic(), 2 * BATCH + 1);
        let outcomes = publish_together(&topic, count, |_| None, |_| {});
        let offsets: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.unwrap().position.offset).collect();
        assert_eq!(offsets, (1..=count as u64).collect());
        // What stands at a position is the message of whoever was given it.
        let Excerpt { entries, .. } = topic.read(None, usize::MAX, usize::MAX).ok().unwrap();
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let entry = &entries[outcome.unwrap().position.offset as usize - 1];
            assert_eq!(entry.message.as_text(), Some(&*number.to_string()));
        }
        let queue = topic.lock_queue();
        assert!(queue.waiting.is_empty() && !queue.is_led);
    }

    #[test]
    fn publish_with_one_key_is_once_also_among_those_that_waited_together() {
        let topic = topic();
        let outcomes = publish_together(&topic, 5, |number| (number > 0).then_some("key"), |_| {});
        let again = outcomes.iter().filter(|outcome| outcome.unwrap().again).count();
        let offsets: BTreeSet<u64> = outcomes[1..].iter().map(|outcome| outcome.unwrap().position.offset).collect();
        assert_eq!((again, offsets.len(), topic.info().0.kept), (3, 1, 2));
    }

    #[test]
    fn publish_to_a_topic_that_is_removed_meanwhile_is_refused_to_all() {
        let topic = topic();
        let outcomes = publish_together(&topic, 5, |_| None, |state| state.is_removed = true);
        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(topic.info().0.kept, 0);
    }

    #[test]
    fn publish_goes_on_after_a_leader_has_panicked() {
        let topic = topic();
        topic.lock_queue().is_led = true;
        let (told, outcome) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| told.send(topic.publish("a".into(), None)).unwrap());
            while topic.lock_queue().waiting.is_empty() {
                thread::yield_now();
            }
            assert!(outcome.try_recv().is_err(), "another has the lead");
            let panicked = scope.spawn(|| {
                let _lead = Lead(&topic);
                panic!("as a leader might");
            });
            assert!(panicked.join().is_err());
            let outcome = outcome.recv_timeout(std::time::Duration::from_secs(60)).expect("the lead is lost");
            assert_eq!(outcome.unwrap().position.offset, 1);
        });
    }
}

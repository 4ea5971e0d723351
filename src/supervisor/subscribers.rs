//! Those who listen to events.
//!
//! Nobody waits for them, and what waits for each of them is bounded. A subscriber that does not take its events out loses
//! those for which there is no room; how many, it is told by [`Event::Lost`] in their place, when there is room again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::supervisor::event::Event;

/// All subscribers of a server or client.
#[derive(Debug)]
pub(crate) struct Subscribers {
    /// Protects the list; `None` after the end. Nobody waits for a subscriber, so it is held for moments only.
    list: Mutex<Option<Vec<Subscriber>>>,
    /// Whether some of them have lost something, and are to be told. Looked at without the lock.
    has_lost: AtomicBool,
}

#[derive(Debug)]
struct Subscriber {
    /// Unbounded by itself: how much is in it, we see to.
    sender: channel::Sender<Event>,
    /// What each event costs in memory that was sent and, when last looked at, not taken out.
    costs: VecDeque<usize>,
    /// The sum of them.
    cost: usize,
    /// Events that were lost since the last that was sent.
    lost: u64,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { list: Mutex::new(Some(Vec::new())), has_lost: AtomicBool::new(false) }
    }
}

impl Subscribers {
    /// One more. After the end its channel has ended as well.
    pub(crate) fn add(&self) -> channel::Receiver<Event> {
        let (sender, events) = channel::unbounded();
        if let Some(list) = &mut *self.list() {
            list.push(Subscriber { sender, costs: VecDeque::new(), cost: 0, lost: 0 });
        }
        events
    }

    /// Hands an event to all of them. It is only made if there are any.
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        let mut list = self.list();
        let Some(list) = list.as_mut().filter(|list| !list.is_empty()) else { return };
        let event = event();
        let cost = event.cost();
        list.retain_mut(|subscriber| subscriber.tell(&event, cost));
        self.tell_lost_of(list);
    }

    /// Something happened of which there will be no event.
    pub(crate) fn lose(&self) {
        if let Some(list) = &mut *self.list() {
            list.iter_mut().for_each(|subscriber| subscriber.lost += 1);
            self.has_lost.store(true, SeqCst);
        }
    }

    /// Tells those that have lost something, and have room again. When to try once more, if some had none.
    pub(crate) fn tell_lost(&self) -> Option<Instant> {
        const PAUSE: Duration = Duration::from_millis(100);
        if !self.has_lost.load(SeqCst) {
            return None;
        }
        if let Some(list) = &mut *self.list() {
            self.tell_lost_of(list);
        }
        self.has_lost.load(SeqCst).then(|| Instant::now() + PAUSE)
    }

    fn tell_lost_of(&self, list: &mut Vec<Subscriber>) {
        list.retain_mut(Subscriber::tell_lost);
        self.has_lost.store(list.iter().any(|subscriber| subscriber.lost > 0), SeqCst);
    }

    /// There will be no more events: tells what was lost, whatever room there is, and ends the channels.
    pub(crate) fn end(&self) {
        let list = self.list().take();
        for subscriber in list.iter().flatten().filter(|subscriber| subscriber.lost > 0) {
            // Fails only if nobody listens.
            let _ = subscriber.sender.send(Event::Lost { count: subscriber.lost });
        }
        self.has_lost.store(false, SeqCst);
    }

    fn list(&self) -> MutexGuard<'_, Option<Vec<Subscriber>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber {
    /// What may wait for one of them, as it costs in memory: some 40,000 events, all that a full server of 10,000
    /// connections has to say when it loses them.
    const MOST: usize = 16 * 1024 * 1024;

    /// Whether it still listens.
    fn tell(&mut self, event: &Event, cost: usize) -> bool {
        if !self.tell_lost() {
            return false;
        }
        if self.lost > 0 || self.cost + cost > Self::MOST {
            self.lost += 1;
            return true;
        }
        self.send(event.clone(), cost)
    }

    /// Once half of the room is free, so that one that is slow does not hear of every other event that it was lost.
    fn tell_lost(&mut self) -> bool {
        let waiting = self.sender.len();
        while self.costs.len() > waiting {
            self.cost -= self.costs.pop_front().unwrap_or(0);
        }
        if self.lost == 0 || self.cost > Self::MOST / 2 {
            return true;
        }
        let event = Event::Lost { count: std::mem::take(&mut self.lost) };
        let cost = event.cost();
        self.send(event, cost)
    }

    fn send(&mut self, event: Event, cost: usize) -> bool {
        self.costs.push_back(cost);
        self.cost += cost;
        self.sender.send(event).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connecting(attempt: u32) -> Event {
        Event::Connecting { attempt }
    }

    fn failed(attempt: usize) -> Event {
        Event::ConnectFailed { error: format!("{attempt:1000}"), is_fatal: false }
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_counted_and_told_when_there_is_room() {
        let subscribers = Subscribers::default();
        let (slow, quick) = (subscribers.add(), subscribers.add());
        let mut told = 0;
        while subscribers.tell_lost().is_none() {
            subscribers.publish(|| failed(told));
            told += 1;
            assert!(quick.try_recv().is_ok(), "nobody else is concerned");
            assert!(told < 100_000, "there is no bound");
        }
        // Texts count, so these are fewer than of those without.
        assert!((8_000..16_000).contains(&told), "{told}");
        (0..10).for_each(|number| subscribers.publish(|| connecting(number)));
        let waiting = told - 1;
        assert_eq!(slow.len(), waiting);

        // With a little room it is told nothing, with half of it what it lost, and then all that comes.
        (0..waiting / 4).for_each(|_| _ = slow.recv());
        subscribers.publish(|| connecting(10));
        assert!(subscribers.tell_lost().is_some());
        (0..waiting / 4 + 10).for_each(|_| _ = slow.recv());
        assert!(subscribers.tell_lost().is_none());
        subscribers.publish(|| connecting(11));
        let rest: Vec<Event> = slow.try_iter().collect();
        let [.., Event::Lost { count }, Event::Connecting { attempt: 11 }] = &rest[..] else {
            panic!("{:?}", rest.last())
        };
        assert_eq!(*count, 1 + 10 + 1);
    }

    #[test]
    fn the_end_tells_what_was_lost_and_whoever_goes_is_forgotten() {
        let subscribers = Subscribers::default();
        let (stays, goes) = (subscribers.add(), subscribers.add());
        drop(goes);
        subscribers.publish(|| connecting(1));
        assert_eq!(subscribers.list().as_ref().unwrap().len(), 1);
        subscribers.lose();
        subscribers.lose();
        subscribers.end();
        let events: Vec<Event> = stays.iter().collect();
        assert!(matches!(events[..], [Event::Connecting { .. }, Event::Lost { count: 2 }]), "{events:?}");
    }
}

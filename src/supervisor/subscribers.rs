//! The subscribers to events.
//!
//! Nobody waits for a subscriber, and what waits for it is bounded. A subscriber that does not take its events loses
//! those for which there is no room. In their place it gets an [`Event::Lost`] with their number, when there is room
//! again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::supervisor::event::Event;

/// The subscribers of one server or client.
#[derive(Debug)]
pub(crate) struct Subscribers {
    /// Protects the list, which is `None` after the end. Nobody waits for a subscriber, so it is held for moments only.
    list: Mutex<Option<Vec<Subscriber>>>,
    /// Whether some subscriber has lost events and was not told so. Read without the lock.
    has_lost: AtomicBool,
}

#[derive(Debug)]
struct Subscriber {
    /// The channel itself is unbounded. `costs` bounds what is in it.
    sender: channel::Sender<Event>,
    /// The memory cost of each event that was sent and, at the last check, not taken.
    costs: VecDeque<usize>,
    /// The sum of `costs`.
    cost: usize,
    /// How many events were lost since the last one that was sent.
    lost: u64,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { list: Mutex::new(Some(Vec::new())), has_lost: AtomicBool::new(false) }
    }
}

impl Subscribers {
    /// Adds a subscriber. After the end its channel has ended as well.
    pub(crate) fn add(&self) -> channel::Receiver<Event> {
        let (sender, events) = channel::unbounded();
        if let Some(list) = &mut *self.list() {
            list.push(Subscriber { sender, costs: VecDeque::new(), cost: 0, lost: 0 });
        }
        events
    }

    /// Hands an event to all subscribers. It is created only if there are any.
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        let mut list = self.list();
        let Some(list) = list.as_mut().filter(|list| !list.is_empty()) else { return };
        let event = event();
        let cost = event.cost();
        list.retain_mut(|subscriber| subscriber.deliver(&event, cost));
        self.report_lost_to(list);
    }

    /// Counts an event that is dropped before it is created.
    pub(crate) fn count_lost(&self) {
        if let Some(list) = &mut *self.list() {
            list.iter_mut().for_each(|subscriber| subscriber.lost += 1);
            self.has_lost.store(true, SeqCst);
        }
    }

    /// Reports lost events to the subscribers that have room again. When to try once more, if some have none.
    pub(crate) fn report_lost(&self) -> Option<Instant> {
        const PAUSE: Duration = Duration::from_millis(100);
        if !self.has_lost.load(SeqCst) {
            return None;
        }
        if let Some(list) = &mut *self.list() {
            self.report_lost_to(list);
        }
        self.has_lost.load(SeqCst).then(|| Instant::now() + PAUSE)
    }

    fn report_lost_to(&self, list: &mut Vec<Subscriber>) {
        list.retain_mut(Subscriber::report_lost);
        self.has_lost.store(list.iter().any(|subscriber| subscriber.lost > 0), SeqCst);
    }

    /// No more events will come: reports what was lost, whatever room there is, and ends the channels.
    pub(crate) fn end(&self) {
        let list = self.list().take();
        for subscriber in list.iter().flatten().filter(|subscriber| subscriber.lost > 0) {
            // Fails only if the subscriber has gone.
            let _ = subscriber.sender.send(Event::Lost { count: subscriber.lost });
        }
        self.has_lost.store(false, SeqCst);
    }

    fn list(&self) -> MutexGuard<'_, Option<Vec<Subscriber>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber {
    /// How much memory the events that wait for a subscriber may cost: about 40,000 events, all that a full server of
    /// 10,000 connections reports when it loses them.
    const MAX_WAITING: usize = 16 * 1024 * 1024;

    /// Sends an event or counts it as lost. Whether the subscriber is still there.
    fn deliver(&mut self, event: &Event, cost: usize) -> bool {
        if !self.report_lost() {
            return false;
        }
        if self.lost > 0 || self.cost + cost > Self::MAX_WAITING {
            self.lost += 1;
            return true;
        }
        self.send(event.clone(), cost)
    }

    /// Reports lost events once half of the room is free, so that a slow subscriber does not get one report after every
    /// other event. Whether the subscriber is still there.
    fn report_lost(&mut self) -> bool {
        let waiting = self.sender.len();
        while self.costs.len() > waiting {
            self.cost -= self.costs.pop_front().unwrap_or(0);
        }
        if self.lost == 0 || self.cost > Self::MAX_WAITING / 2 {
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
    fn what_waits_is_bounded_and_what_is_lost_is_counted_and_reported_when_there_is_room() {
        let subscribers = Subscribers::default();
        let (slow, quick) = (subscribers.add(), subscribers.add());
        let mut told = 0;
        while subscribers.report_lost().is_none() {
            subscribers.publish(|| failed(told));
            told += 1;
            assert!(quick.try_recv().is_ok(), "nobody else is concerned");
            assert!(told < 100_000, "there is no bound");
        }
        // Texts cost memory too, so fewer of these events fit.
        assert!((8_000..16_000).contains(&told), "{told}");
        (0..10).for_each(|number| subscribers.publish(|| connecting(number)));
        let waiting = told - 1;
        assert_eq!(slow.len(), waiting);

        // With a little room it gets nothing; with half of the room the report, and then all events.
        (0..waiting / 4).for_each(|_| _ = slow.recv());
        subscribers.publish(|| connecting(10));
        assert!(subscribers.report_lost().is_some());
        (0..waiting / 4 + 10).for_each(|_| _ = slow.recv());
        assert!(subscribers.report_lost().is_none());
        subscribers.publish(|| connecting(11));
        let rest: Vec<Event> = slow.try_iter().collect();
        let [.., Event::Lost { count }, Event::Connecting { attempt: 11 }] = &rest[..] else {
            panic!("{:?}", rest.last())
        };
        assert_eq!(*count, 1 + 10 + 1);
    }

    #[test]
    fn the_end_reports_what_was_lost_and_a_gone_subscriber_is_forgotten() {
        let subscribers = Subscribers::default();
        let (stays, goes) = (subscribers.add(), subscribers.add());
        drop(goes);
        subscribers.publish(|| connecting(1));
        assert_eq!(subscribers.list().as_ref().unwrap().len(), 1);
        subscribers.count_lost();
        subscribers.count_lost();
        subscribers.end();
        let events: Vec<Event> = stays.iter().collect();
        assert!(matches!(events[..], [Event::Connecting { .. }, Event::Lost { count: 2 }]), "{events:?}");
    }
}

//! The thread of a server's topics: it lets go of old messages and keys. It learns from the supervisor's events whose
//! Pongs are missed, and whose connection has ended although its handler has not returned. Where members come and go so
//! fast that not each change is told, it sends the list.
//!
//! Invariant: nothing is lost without it but the memory of old messages, and punctual presence.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{self as channel, never, select};

use super::hub::Hub;
use super::name::TopicName;
#[cfg(feature = "redis")]
use super::redis::node::NodeThreads;
use crate::connection::identity::ConnectionId;
use crate::durations::LONGEST;
use crate::foreign;
use crate::supervisor::event::Event;

/// How often it looks whether those whose Pongs are missed are alive again.
const LOOK: Duration = Duration::from_millis(100);

/// How often it lets go of old messages: so many times in their age, and not more often than this.
const SWEEPS: u32 = 8;
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);

/// The thread. Dropping this ends it, and waits for it.
pub(crate) struct Service {
    hub: Arc<Hub>,
    stop: Option<channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "redis")]
    backplane: Option<NodeThreads>,
}

struct State {
    hub: Arc<Hub>,
    /// Connections that miss Pongs.
    doubted: BTreeSet<ConnectionId>,
    next_look: Instant,
    sweep: Duration,
    next_sweep: Instant,
    /// Topics whose watchers are to get the list of members, the next first.
    to_list: BTreeSet<(Instant, TopicName)>,
}

impl Service {
    /// Reads what an earlier server has saved, and starts the thread.
    ///
    /// # Errors
    /// The system's error if it cannot be started.
    pub(crate) fn start(hub: Arc<Hub>) -> io::Result<Self> {
        hub.open();
        let events = if hub.has_presence() { hub.common.supervisor.subscribers.add() } else { never() };
        let (stop, stopped) = channel::bounded(0);
        let sweep = (hub.shortest_age().unwrap_or(LONGEST) / SWEEPS).max(SHORTEST_SWEEP);
        let kept = Arc::clone(&hub);
        let now = Instant::now();
        let (doubted, to_list) = (BTreeSet::new(), BTreeSet::new());
        let mut state = State { doubted, next_look: now, sweep, next_sweep: now + sweep, to_list, hub };
        let run = move || {
            if let Err(message) = foreign::call(|| state.run(&events, &stopped)) {
                let log = &state.hub.common.supervisor.log;
                log.error(format_args!("the thread of topics panicked: {message}; presence is no longer kept"));
            }
        };
        let thread = thread::Builder::new().name("heartwire-topics".into()).spawn(run)?;
        #[cfg_attr(not(feature = "redis"), allow(unused_mut, reason = "there is no backplane"))]
        let mut service = Self {
            hub: kept,
            stop: Some(stop),
            thread: Some(thread),
            #[cfg(feature = "redis")]
            backplane: None,
        };
        #[cfg(feature = "redis")]
        if let Some(node) = service.hub.node() {
            service.backplane = Some(NodeThreads::start(&service.hub, node)?);
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        #[cfg(feature = "redis")]
        drop(self.backplane.take());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has logged its own panic.
            let _ = thread.join();
        }
        // All handlers have ended by now, or were abandoned.
        self.hub.save();
    }
}

impl State {
    fn run(&mut self, events: &channel::Receiver<Event>, stopped: &channel::Receiver<()>) {
        let listing = self.hub.listing.clone();
        loop {
            let now = Instant::now();
            let next_list = self.to_list.first().map(|(due, _)| *due);
            let until =
                next_list.map_or(self.next_sweep, |due| due.min(self.next_sweep)).saturating_duration_since(now);
            let is_brisk = !self.doubted.is_empty() || self.hub.is_shared();
            let wait = if is_brisk { until.min(LOOK) } else { until };
            select! {
                recv(events) -> event => match event {
                    Ok(event) => self.on_event(event),
                    Err(_) => return,
                },
                recv(listing) -> topic => self.to_list.extend(topic),
                recv(stopped) -> _ => return,
                default(wait) => {}
            }
            self.list_members();
            // Not for each event: when many connections are missed at once, there are as many events.
            if Instant::now() >= self.next_look {
                self.look_at_doubted();
                #[cfg(feature = "redis")]
                if let Some(node) = self.hub.node() {
                    node.expire(Instant::now());
                }
                self.next_look = Instant::now() + LOOK;
            }
            if Instant::now() >= self.next_sweep {
                self.hub.forget_old();
                self.next_sweep = Instant::now() + self.sweep;
            }
        }
    }

    /// Sends the lists that are due.
    fn list_members(&mut self) {
        while let Some((due, topic)) = self.to_list.pop_first() {
            if due > Instant::now() {
                self.to_list.insert((due, topic));
                return;
            }
            if let Some(topic) = self.hub.find(topic.as_str()) {
                topic.list_members();
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Missed { id, .. } => self.doubt(id),
            Event::Closed(report) => {
                self.doubted.remove(&report.id);
                if let Some(subscriptions) = self.hub.connection(report.id) {
                    subscriptions.end();
                }
            }
            // Look for oneself.
            Event::Lost { .. } => {
                for subscriptions in self.hub.connections() {
                    if subscriptions.has_ended() {
                        subscriptions.end();
                    } else {
                        self.doubt(subscriptions.id());
                    }
                }
            }
            _ => {}
        }
    }

    fn doubt(&mut self, id: ConnectionId) {
        if let Some(subscriptions) = self.hub.connection(id) {
            self.doubted.insert(id);
            subscriptions.judge_member();
        }
    }

    fn look_at_doubted(&mut self) {
        let hub = &self.hub;
        self.doubted.retain(|id| {
            let Some(subscriptions) = hub.connection(*id) else { return false };
            let is_missing = subscriptions.is_missing_pongs();
            if !is_missing {
                subscriptions.judge_member();
            }
            is_missing
        });
    }
}

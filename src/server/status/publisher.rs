//! The thread behind the live stream: while there are viewers, it takes snapshots and sends the same text to all.
//!
//! Each text is a whole state, so a slow viewer may skip some: it gets no text while an earlier one still waits for it.
//! The rate of snapshots is bounded, whatever peers do, and so is the share of the time that they take.

use std::collections::VecDeque;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;
use serde_json::Value;

use crate::foreign;
use crate::heartbeat::HeartbeatPolicy;
use crate::logging::Log;
use crate::message::Message;
use crate::protocol::close::CloseCode;
use crate::server::handle::ServerHandle;
#[cfg(feature = "redis")]
use crate::server::status::nodes;
#[cfg(feature = "topics")]
use crate::server::status::topics::{Rates, Wish};
use crate::server::status::{Watcher, json};
use crate::supervisor::event::Event;
use crate::supervisor::stats::Snapshot;

/// The time between two snapshots: the default, and with many connections.
const PERIOD: Duration = Duration::from_millis(500);
const SLOW_PERIOD: Duration = Duration::from_secs(2);
const MANY: usize = 1_000;

/// After an event, the next snapshot comes this much later, so that it covers what follows at once. At most so many
/// snapshots fall into one period.
const SOON: Duration = Duration::from_millis(50);
const MOST_LOOKS_IN_A_PERIOD: u32 = 2;

/// The pause after a snapshot is at least so many times what it took, up to this long: then a viewer begins to wonder.
const REST: u32 = 19;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// The most ended connections that are remembered.
const REMEMBERED: usize = 30;

/// What the thread needs, kept until the server serves.
pub(in crate::server) struct Start {
    pub(super) handle: ServerHandle,
    pub(super) log: std::sync::Arc<Log>,
    pub(super) arrivals: channel::Receiver<Watcher>,
    pub(super) wishes: channel::Receiver<()>,
}

/// The thread, which ends with the server's events. Dropping this waits for it.
pub(in crate::server) struct Publisher(Option<JoinHandle<()>>);

/// Where the server listens, in words.
fn addresses(handle: &ServerHandle) -> String {
    let addresses = handle.local_addrs().into_iter().map(|address| address.to_string());
    let paths = handle.unix_paths().into_iter().map(|path| format!("unix:{}", path.display()));
    addresses.chain(paths).collect::<Vec<_>>().join(", ")
}

impl Start {
    /// Starts the thread. `policy` is the default heartbeat of connections.
    pub(in crate::server) fn start(self, policy: HeartbeatPolicy) -> io::Result<Publisher> {
        let Self { handle, log, arrivals, wishes } = self;
        let events = handle.events();
        let mut state = State {
            about: json::about(&addresses(&handle), policy),
            handle,
            watchers: Vec::new(),
            ended: VecDeque::new(),
            period: PERIOD,
            #[cfg(feature = "topics")]
            rates: Rates::default(),
        };
        let run = move || {
            // No guarantee depends on this thread, so the server goes on without it.
            if let Err(message) = foreign::call(|| state.run(&arrivals, &wishes, &events)) {
                log.error(format_args!("the status stream panicked: {message}; the status page gets no more updates"));
                for watcher in &state.watchers {
                    let _ = watcher.sender.close(CloseCode::INTERNAL_ERROR, "the status stream has failed");
                }
            }
        };
        Ok(Publisher(Some(thread::Builder::new().name("heartwire-status".into()).spawn(run)?)))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // It catches its panics itself.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

struct State {
    handle: ServerHandle,
    /// What never changes.
    about: Value,
    watchers: Vec<Watcher>,
    /// The connections that ended last, as JSON, the newest first.
    ended: VecDeque<(Instant, Value)>,
    period: Duration,
    #[cfg(feature = "topics")]
    rates: Rates,
}

impl State {
    /// Runs until the server has ended.
    fn run(
        &mut self,
        arrivals: &channel::Receiver<Watcher>,
        wishes: &channel::Receiver<()>,
        events: &channel::Receiver<Event>,
    ) {
        let mut next_look = None;
        // No snapshot before this.
        let mut earliest = Instant::now();
        loop {
            let look = next_look.map_or_else(channel::never, channel::at);
            channel::select! {
                recv(events) -> event => match event {
                    Ok(event) => {
                        self.note(event);
                        let soon = earliest.max(Instant::now() + SOON);
                        next_look = next_look.map(|next: Instant| next.min(soon));
                    }
                    Err(_) => return,
                },
                recv(arrivals) -> watcher => match watcher {
                    Ok(watcher) => {
                        self.watchers.push(watcher);
                        next_look = Some(earliest);
                    }
                    // Another stream has replaced this one.
                    Err(_) => return,
                },
                recv(wishes) -> wish => match wish {
                    Ok(()) => next_look = next_look.map(|next: Instant| next.min(earliest)),
                    Err(_) => return,
                },
                recv(look) -> _ => {
                    let began = Instant::now();
                    self.publish();
                    let now = Instant::now();
                    let rest = ((now - began) * REST).min(LONGEST_REST);
                    earliest = now + rest.max(self.period / MOST_LOOKS_IN_A_PERIOD);
                    next_look = (!self.watchers.is_empty()).then(|| now + rest.max(self.period));
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        if let Event::Closed(report) = event {
            self.ended.truncate(REMEMBERED - 1);
            self.ended.push_front((Instant::now(), json::ended(&report)));
        }
    }

    fn publish(&mut self) {
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        if self.watchers.is_empty() {
            // What was seen for these viewers is of no use to later ones.
            #[cfg(feature = "topics")]
            {
                self.rates = Rates::default();
            }
            return;
        }
        let snapshot = self.handle.snapshot();
        self.period = if snapshot.connections.len() > MANY { SLOW_PERIOD } else { PERIOD };
        let message = Message::from(self.state(snapshot).to_string());
        // Those that have taken the last text.
        let ready = || self.watchers.iter().filter(|watcher| watcher.sender.queued() == 0);
        #[cfg(feature = "topics")]
        let views = views(&mut self.rates, &self.handle, ready());
        for watcher in ready() {
            // One that has no room gets the next state. One that has closed is let go of then.
            let _ = watcher.sender.try_send(message.clone());
        }
        #[cfg(feature = "topics")]
        for (watcher, text) in views {
            let _ = watcher.sender.try_send(text);
        }
    }

    /// What all viewers get to see.
    fn state(&self, snapshot: Snapshot) -> Value {
        let mut state = json::state(&self.about, snapshot, self.ended.iter());
        if let Some(backplane) = look_at_nodes(&self.handle) {
            state["backplane"] = backplane;
        }
        state
    }
}

#[cfg(feature = "redis")]
fn look_at_nodes(handle: &ServerHandle) -> Option<Value> {
    handle.topics.get().and_then(|hub| nodes::look(hub))
}

#[cfg(not(feature = "redis"))]
fn look_at_nodes(_: &ServerHandle) -> Option<Value> {
    None
}

/// What each viewer gets to see of topics, if the server has any: the same text for those who want the same.
#[cfg(feature = "topics")]
fn views<'a>(
    rates: &mut Rates,
    handle: &ServerHandle,
    watchers: impl Iterator<Item = &'a Watcher>,
) -> Vec<(&'a Watcher, Message)> {
    let Some(hub) = handle.topics.get() else { return Vec::new() };
    let look = rates.look(hub, Instant::now());
    let mut texts: Vec<(Wish, Message)> = Vec::new();
    let view = |watcher: &'a Watcher| {
        let wish = watcher.wish.current();
        let known = texts.iter().find(|(of, _)| *of == wish).map(|(_, text)| text.clone());
        let text = known.unwrap_or_else(|| {
            let text = Message::from(look.text(&wish));
            texts.push((wish, text.clone()));
            text
        });
        (watcher, text)
    };
    watchers.map(view).collect()
}

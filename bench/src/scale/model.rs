//! What Redis carries: sums of what was measured.

use std::time::{Duration, Instant};

use super::NodeName;
use super::figures::{Figures, What};
use super::nodes::Nodes;

/// The nodes, and the connections of each.
pub(super) const NODES: usize = 100;
pub(super) const CONNECTIONS: usize = 10_000;

/// How often a node announces itself, asks at least what is new, and says which topics are in use, in seconds.
const ANNOUNCEMENT: f64 = 5.0;
const BLOCK: f64 = 1.0;
const TOUCH: f64 = 30.0;

/// The payload of an announcement, in bytes.
pub(super) const ABOUT: f64 = 130.0;

/// Entries of the log that are kept, and their bytes.
const LOG_ENTRIES: f64 = 10_000.0;
const LOG_BYTES: f64 = 16.0 * 1024.0 * 1024.0;

/// So many entries are read at a time at most.
const READ_AT_ONCE: f64 = 256.0;

/// The default of `Topics::total_history`, and what a message counts as beside four times its length.
const TOTAL_HISTORY: f64 = 64.0 * 1024.0 * 1024.0;
const MESSAGE_COST: f64 = 640.0;

/// A core is not to be used for more than this, lest those who wait for it wait for long.
const ENOUGH: f64 = 0.7;

/// What goes through one Redis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) nodes: usize,
    /// Messages a second, and the bytes of each.
    pub(super) messages: f64,
    pub(super) bytes: f64,
    /// Topics that each node says to be in use.
    pub(super) topics: f64,
}

/// What that takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Of a core.
    pub(super) processor: f64,
    /// Bytes a second.
    pub(super) sent: f64,
}

impl Traffic {
    pub(super) fn idle(nodes: usize) -> Self {
        Self { nodes, messages: 0.0, bytes: 0.0, topics: 0.0 }
    }

    /// As heartwire does it: nodes rest between readings, where they are many.
    pub(super) fn load(&self, figures: &Figures) -> Load {
        let pause = reading_pause(self.nodes);
        let most = if pause.is_zero() { f64::INFINITY } else { 1.0 / pause.as_secs_f64() };
        self.load_with(figures, |entries| (entries + 1.0 / BLOCK).min(most).max(entries / READ_AT_ONCE))
    }

    /// If each node asked anew after each entry that it is given.
    pub(super) fn restless(&self, figures: &Figures) -> Load {
        self.load_with(figures, |entries| entries + 1.0 / BLOCK)
    }

    fn load_with(&self, figures: &Figures, readings: impl Fn(f64) -> f64) -> Load {
        let (of, nodes) = (|what| figures.of(what), self.nodes as f64);
        let announcements = nodes / ANNOUNCEMENT;
        let entries = self.messages + announcements;
        let readings = readings(entries) * nodes;
        let bytes = self.messages * self.bytes + announcements * ABOUT;
        let micros = entries * of(What::Publish)
            + readings * of(What::Reading)
            + entries * nodes * of(What::Entry)
            + bytes * nodes / 1000.0 * of(What::Kilobyte)
            + nodes * self.topics / TOUCH * of(What::Touch);
        let sent = readings * of(What::ReadingBytes) + nodes * (entries * of(What::EntryBytes) + bytes);
        Load { processor: micros / 1e6, sent }
    }

    /// The most messages a second that leave Redis within its share of a core.
    pub(super) fn most(self, figures: &Figures, load: impl Fn(&Self, &Figures) -> Load) -> f64 {
        let is_too_much = |messages| load(&Self { messages, ..self }, figures).processor > ENOUGH;
        let (mut low, mut high) = (0.0, 1e7);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            *if is_too_much(middle) { &mut high } else { &mut low } = middle;
        }
        low
    }

    /// For how many seconds the log reaches back.
    pub(super) fn log_seconds(&self) -> f64 {
        let entries = self.messages + self.nodes as f64 / ANNOUNCEMENT;
        let bytes = self.messages * self.bytes + self.nodes as f64 / ANNOUNCEMENT * ABOUT;
        (LOG_ENTRIES / entries).min(LOG_BYTES / bytes)
    }
}

/// How long a node rests after a reading, by its own word.
fn reading_pause(nodes: usize) -> Duration {
    let second = Duration::from_secs(1);
    let mut known = Nodes::new(NodeName::from("own"), 5 * second, 2 * second, 11 * second);
    (1..nodes).for_each(|node| known.heard(node.to_string().into(), 1, String::new(), Instant::now()));
    known.reading_pause()
}

/// What nodes load that connect anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loading {
    /// Processor time of Redis in seconds.
    pub(super) redis: f64,
    pub(super) bytes: f64,
}

/// One node loads histories that are full of messages of so many bytes, and so many subscribers.
pub(super) fn loading(figures: &Figures, bytes: f64, seats: f64) -> Loading {
    let of = |what| figures.of(what) / 1e6;
    let messages = TOTAL_HISTORY / (4.0 * bytes + MESSAGE_COST);
    // What is sent beside the payload is about as much as for an entry of the log; of a subscriber some 60 bytes.
    let sent = messages * (bytes + figures.of(What::EntryBytes) / 2.0) + seats * 60.0;
    Loading { redis: messages * of(What::Message) + seats * of(What::LoadedSeat), bytes: sent }
}

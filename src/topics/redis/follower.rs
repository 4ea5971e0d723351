//! The thread that keeps this node's copy of the histories: it reads the log as it grows.
//!
//! Invariants:
//! - What is published reaches the copy once and in the order of the log, which is the same for all nodes.
//! - Whatever the follower has missed, it reads from the histories. If some of it is nowhere, subscribers are told.
//! - A Redis that is not the one it was, or has lost what it had, is never taken for the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::NodeName;
use super::census::Census;
use super::connection::{Connection, Failure};
use super::log::{Ahead, Clock, Cursor, Entries, LogEntry};
use super::members::Seat;
use super::node::{Node, Role};
use super::nodes::Dead;
use super::scripts::Scripts;
use crate::connection::suspension;
use crate::topics::hub::{Hub, Loaded};
use crate::topics::position::Epoch;
use crate::topics::topic::shared::Arrival;

/// So many entries of the log are read at a time.
const ENTRIES: usize = 256;

/// So many messages of a topic are applied at a time: then others have their turn at it.
const TOGETHER: usize = 64;

/// So many topics are loaded at a time: each may keep some MiB.
const TOPICS: usize = 8;

/// While the histories are loaded, the log is read so often: it may be full within a second.
const READ_AHEAD: Duration = Duration::from_millis(50);

/// How often Redis is told which topics are in use here, and of how many at a time: others wait meanwhile.
const TOUCH: Duration = Duration::from_secs(30);
const TOUCHED: usize = 1000;

/// The errors of a Redis that takes nothing for now: its memory is full, it cannot save, or too few replicas follow it.
/// Before Redis 7, what a script was refused stands in the middle of its error.
const TAKES_NOTHING: [&str; 3] = ["OOM", "MISCONF", "NOREPLICAS"];

/// Why the members of a node are gone that was silent for too long.
const NODE_LOST: &str = "node lost";

/// Redis counts in milliseconds, and 0 has no end.
const SHORTEST_BLOCK: Duration = Duration::from_millis(1);

/// What is to be done when the log is no longer what it was.
enum Next {
    /// The history may be another one, or this node has missed some of the log.
    Attach,
    /// All is over.
    End,
}

pub(super) fn run(hub: &Hub, node: &Node) {
    // Nodes that were started together do not touch their topics together.
    let next_touch = Instant::now() + TOUCH.mul_f64(rand::random());
    let census = Census::default();
    let mut follower = Follower { hub, node, cursor: None, census, lost: None, is_told: false, next_touch };
    let mut failures = 0;
    while !node.is_ending() {
        let failure = match follower.follow() {
            Ok(()) => return,
            Err(failure) => failure,
        };
        let was_connected = node.set_connected(Role::Follower, false);
        if node.is_ending() {
            return;
        }
        failures = if was_connected { 0 } else { failures + 1 };
        if was_connected || !follower.is_told {
            let address = &node.redis.address;
            hub.log().error(format_args!("cannot reach the backplane {address}: {failure}; retrying"));
            follower.is_told = true;
        }
        node.pause(failures);
    }
}

struct Follower<'a> {
    hub: &'a Hub,
    node: &'a Node,
    /// `None` before the copy is complete for the first time.
    cursor: Option<Cursor>,
    census: Census,
    /// The epoch of which Redis was found to have lost what this node has, or that it has and that is over.
    lost: Option<Epoch>,
    /// Whether the log tells already that Redis is away.
    is_told: bool,
    next_touch: Instant,
}

impl Follower<'_> {
    fn follow(&mut self) -> Result<(), Failure> {
        let mut redis = self.node.connect(Role::Follower)?;
        let scripts = Scripts::load(&mut redis)?;
        loop {
            self.attach(&mut redis, &scripts)?;
            if self.lost.is_some() || self.cursor.is_none() {
                continue;
            }
            if self.node.set_connected(Role::Follower, true) {
                let address = &self.node.redis.address;
                self.hub.log().info(format_args!("the backplane {address} is connected"));
                self.is_told = false;
            }
            if matches!(self.read_log(&mut redis, &scripts)?, Next::End) {
                return Ok(());
            }
        }
    }

    /// Makes the copy what Redis has, and finds out where the log is to be read from.
    fn attach(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        let known = self.node.epoch();
        let attach = self.node.attach_command(scripts, self.lost.take());
        let (epoch, verdict, last, number, now, floor): (String, String, String, u64, u64, u64) = redis.ask(&attach)?;
        let epoch: Epoch = epoch.parse().map_err(|_| Failure::Garbled(format!("{epoch:?} is no epoch")))?;
        if self.node.is_over(epoch) {
            // It was brought back from before that.
            self.lost = Some(epoch);
            return Ok(());
        }
        let clock = Clock { redis: now, here: Instant::now() };
        let is_new = verdict == "new";
        if let ("same", Some(_)) = (&*verdict, self.cursor) {
            return Ok(());
        }
        if is_new && known.is_some() {
            let address = &self.node.redis.address;
            self.hub.log().warn(format_args!("the backplane {address} has lost messages: its history begins anew"));
        }
        // Until the copy is complete.
        self.cursor = None;
        let mut ahead = Ahead::new(Cursor { id: last.parse()?, number });
        self.load(redis, scripts, (epoch, floor), &clock, &mut ahead)?;
        if self.lost.is_some() || ahead.is_broken {
            return Ok(());
        }
        // What is in the histories already is known by its offset.
        self.apply_all(&ahead.entries, &clock);
        self.cursor = Some(ahead.cursor);
        if is_new {
            self.node.begin_log_at(ahead.cursor.id);
        }
        self.node.outbox.restart_log(ahead.cursor.id);
        self.node.set_epoch(epoch);
        self.node.set_lag(0, clock.here);
        Ok(())
    }

    /// Reads all histories, and what comes meanwhile. Topics that Redis does not have are begun anew.
    fn load(
        &mut self,
        redis: &mut Connection,
        scripts: &Scripts,
        (epoch, floor): (Epoch, u64),
        clock: &Clock,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        let prefix = &self.node.redis.prefix;
        let names: Vec<String> = redis.ask(cmd("ZRANGE").arg(format!("{prefix}:topics")).arg(0).arg(-1))?;
        self.hub.begin_epoch(epoch, floor);
        for names in names.chunks(TOPICS) {
            self.read_ahead(redis, ahead)?;
            let found: Vec<(String, u64, Entries)> = redis.ask(scripts.load_histories().arg(prefix).arg(names))?;
            for (name, last, entries) in found {
                let Ok(name) = name.parse() else { continue };
                let entries = entries.into_iter().map(|(id, fields)| {
                    let entry = LogEntry::from(fields);
                    let offset = id.split('-').next().and_then(|offset| offset.parse().ok()).unwrap_or_default();
                    (offset, entry.message(), clock.instant(entry.at))
                });
                let loaded = Loaded { name, last, entries: entries.collect() };
                if self.hub.load(epoch, loaded).is_err() {
                    self.lost = Some(epoch);
                    return Ok(());
                }
            }
        }
        // A Redis that was emptied meanwhile has told nothing of the rest.
        let now: Option<String> = redis.ask(cmd("GET").arg(format!("{prefix}:epoch")))?;
        if now.and_then(|now| now.parse().ok()) != Some(epoch) {
            ahead.is_broken = true;
            return Ok(());
        }
        self.hub.complete_epoch(epoch);
        self.load_members(redis, ahead)
    }

    /// Reads who is subscribed on all nodes. What is told meanwhile comes by the log as well.
    fn load_members(&mut self, redis: &mut Connection, ahead: &mut Ahead) -> Result<(), Failure> {
        if !self.hub.has_presence() {
            return Ok(());
        }
        let prefix = &self.node.redis.prefix;
        let nodes: Vec<(String, u64)> = redis.ask(cmd("HGETALL").arg(format!("{prefix}:nodes")))?;
        // What they tell of themselves says how long each may be silent.
        let mut about: BTreeMap<String, String> = redis.ask(cmd("HGETALL").arg(format!("{prefix}:about")))?;
        for (name, generation) in nodes {
            self.read_ahead(redis, ahead)?;
            let about = about.remove(&name).unwrap_or_default();
            let name: NodeName = name.into();
            let seats: Vec<(String, String)> = redis.ask(cmd("HGETALL").arg(format!("{prefix}:members:{name}")))?;
            let is_complete = seats.iter().any(|(key, _)| key == "all");
            let seats = seats.iter().filter_map(|(key, state)| {
                let (id, topic) = key.split_once(' ')?;
                Some(((topic.parse().ok()?, id.parse().ok()?), Seat::from_state(state)?))
            });
            self.census.load(self.hub, &name, generation, is_complete, seats.collect());
            self.node.nodes().heard(name, generation, about, Instant::now());
        }
        Ok(())
    }

    /// Reads what has come in the log, if it is time for that.
    fn read_ahead(&self, redis: &mut Connection, ahead: &mut Ahead) -> Result<(), Failure> {
        if ahead.is_broken || ahead.was_read.elapsed() < READ_AHEAD {
            return Ok(());
        }
        ahead.was_read = Instant::now();
        loop {
            let mut read = cmd("XREAD");
            read.arg("COUNT").arg(ENTRIES).arg("STREAMS").arg(format!("{}:log", self.node.redis.prefix));
            let read: Option<Vec<(String, Entries)>> = redis.ask(read.arg(ahead.cursor.id.to_string()))?;
            let entries = read.into_iter().flatten().flat_map(|(_, entries)| entries);
            let count = entries.map(|(id, fields)| ahead.take(&id, fields)).collect::<Result<Vec<_>, _>>()?.len();
            if count < ENTRIES || ahead.is_broken {
                return Ok(());
            }
        }
    }

    /// Reads the log as it grows.
    fn read_log(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<Next, Failure> {
        let node = self.node;
        let prefix = &node.redis.prefix;
        let block = node.redis.longest_block();
        let clock = Clock { redis: redis_now(redis)?, here: Instant::now() };
        loop {
            if node.is_ending() {
                return Ok(Next::End);
            }
            if Instant::now() >= self.next_touch {
                self.next_touch = Instant::now() + TOUCH;
                self.unless_full(self.touch(redis, scripts))?;
            }
            let block = self.bury(redis, scripts)?.min(block);
            let Some(mut cursor) = self.cursor else { return Ok(Next::Attach) };
            let known = [format!("{prefix}:epoch"), format!("{prefix}:log-number")];
            let mut packed = cmd("MGET").arg(&known).get_packed_command();
            let mut read = cmd("XREAD");
            read.arg("COUNT").arg(ENTRIES).arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(1000));
            read.arg("STREAMS")
                .arg(format!("{prefix}:log"))
                .arg(cursor.id.to_string())
                .write_packed_command(&mut packed);
            let asked = Instant::now();
            redis.send(&packed)?;
            let (epoch, number): (Option<String>, Option<u64>) = redis.answer()?;
            let read: Option<Vec<(String, Entries)>> = redis.answer()?;
            let answered = Instant::now();
            if epoch.and_then(|epoch| epoch.parse().ok()) != node.epoch() {
                return Ok(Next::Attach);
            }
            let from = cursor.id;
            let (mut entries, mut is_complete) = (Vec::new(), true);
            for (id, fields) in read.into_iter().flatten().flat_map(|(_, entries)| entries) {
                let Some(entry) = cursor.step(&id, fields)? else {
                    is_complete = false;
                    break;
                };
                entries.push(entry);
            }
            self.apply_all(&entries, &clock);
            if !is_complete {
                // Some that came before the next one are gone.
                self.cursor = None;
                return Ok(Next::Attach);
            }
            self.cursor = Some(cursor);
            node.has_read(cursor.id);
            let lag = number.unwrap_or_default().saturating_sub(cursor.number);
            node.set_lag(lag, answered);
            let bound = node.redis.node_worst_case();
            if lag == 0 && node.take_ahead() && self.hub.give_up_those_ahead(asked, bound) {
                node.note_ahead();
            }
            node.outbox.applied(cursor.id);
            if cursor.id != from && lag == 0 {
                node.rest();
            }
        }
    }

    /// Buries nodes that are dead. Returns when to look again.
    fn bury(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<Duration, Failure> {
        let now = Instant::now();
        let (dead, next) = self.node.nodes().judge(now, suspension::so_far());
        for Dead { name, generation, bound } in dead {
            let millis = bound.as_millis();
            let mut bury = scripts.bury();
            bury.arg(&self.node.redis.prefix).arg(&*name).arg(generation).arg(format!("{NODE_LOST} {millis}"));
            // If it is not taken now, it is told again.
            let Some(is_told) = self.unless_full(redis.ask::<u8>(&bury))? else { continue };
            let is_told = is_told == 1;
            self.hub.log().warn(format_args!("node {name} is lost: nothing was heard of it for {millis} ms"));
            // If it has come back, it is heard of again.
            self.node.nodes().gone(&name, true, Instant::now());
            if !is_told {
                // By another node, or by nobody: Redis may have lost that there was such a node.
                self.census.gone(self.hub, &name, NODE_LOST, bound);
            }
        }
        Ok(next.map_or(Duration::MAX, |next| next.saturating_duration_since(now).max(SHORTEST_BLOCK)))
    }

    /// Messages of one topic that follow one another are applied together: each subscriber gets them by one write.
    fn apply_all(&mut self, entries: &[LogEntry], clock: &Clock) {
        for run in entries.chunk_by(LogEntry::goes_with).flat_map(|run| run.chunks(TOGETHER)) {
            match run {
                [first, ..] if first.is_message() => {
                    let Ok(topic) = first.topic.parse() else { continue };
                    let arrival = |entry: &LogEntry| Arrival {
                        offset: entry.offset,
                        message: entry.message(),
                        published: clock.instant(entry.at),
                    };
                    self.hub.apply(&topic, run.iter().map(arrival).collect());
                }
                others => others.iter().for_each(|entry| self.apply(entry)),
            }
        }
    }

    /// What is no message.
    fn apply(&mut self, entry: &LogEntry) {
        match &*entry.what {
            // About a node, whose name is where the name of a topic is, and its generation where the offset is.
            "node" => {
                let (name, about): (NodeName, _) = (entry.topic.as_str().into(), entry.text());
                self.census.entered(self.hub, &name, entry.offset);
                self.node.nodes().heard(name, entry.offset, about, Instant::now());
            }
            "node-told" => self.census.told_all(self.hub, &entry.topic.as_str().into(), entry.offset),
            // We know better: the others are told anew who is here.
            "node-gone" if *entry.topic == *self.node.name() => {}
            "node-gone" => {
                let (cause, within) = entry.kind.rsplit_once(' ').unwrap_or((&entry.kind, "0"));
                self.node.nodes().gone(&entry.topic, cause == NODE_LOST, Instant::now());
                let within = within.parse().map_or(Duration::ZERO, Duration::from_millis);
                self.census.gone(self.hub, &entry.topic.as_str().into(), cause, within);
            }
            "presence" => {
                // The kind is their node.
                let node: NodeName = entry.kind.as_str().into();
                for (topic, id, seat) in Seat::read_batch(&entry.payload) {
                    self.census.told(self.hub, &node, (topic, id), seat);
                }
            }
            "removed" => {
                if let Ok(topic) = entry.topic.parse() {
                    self.hub.remove(&topic, entry.offset);
                }
            }
            // What a later version writes. Another epoch is seen by its key.
            _ => {}
        }
    }

    /// The answer to a write. `None` if Redis takes nothing now but can still be read: the writer tells of that.
    fn unless_full<T>(&self, written: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match written {
            Err(Failure::Refused(code, rest))
                if TAKES_NOTHING.iter().any(|known| code == *known || rest.contains(&format!("-{known} "))) =>
            {
                self.hub.log().debug(format_args!("the backplane takes nothing: {code} {rest}"));
                Ok(None)
            }
            written => written.map(Some),
        }
    }

    /// Tells Redis which topics are in use here.
    fn touch(&self, redis: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        for topics in self.hub.topics_in_use().chunks(TOUCHED) {
            redis.ask::<Value>(scripts.touch().arg(&self.node.redis.prefix).arg(topics))?;
        }
        Ok(())
    }
}

fn redis_now(redis: &mut Connection) -> Result<u64, Failure> {
    let (seconds, micros): (u64, u64) = redis.ask(&cmd("TIME"))?;
    Ok(seconds * 1000 + micros / 1000)
}

//! The thread that publishes: it sends what waits in the outbox, many at a time, and reads the answers.
//!
//! Invariant: a message that was sent and not answered is sent again, with the same number, by which Redis knows
//! whether it has it.

use std::mem;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::connection::{Connection, Failure};
use super::members::Seat;
use super::node::{Node, Role};
use super::outbox::Numbered;
use super::scripts::Scripts;
use crate::message::Message;
use crate::topics::hub::Hub;
use crate::topics::position::{Epoch, Position};
use crate::topics::{Published, TopicError};

/// How long it waits for the follower to find out about another epoch, before it asks again.
const MOMENT: Duration = Duration::from_millis(200);

/// The others are told so often at most who comes and goes: what comes together is told together, and takes one entry
/// of the log that all nodes read.
const TELLING: Duration = Duration::from_millis(100);

/// A topic that keeps nothing may be removed if it has not been in use for so long.
const IDLE: Duration = Duration::from_secs(120);

pub(super) fn run(hub: &Hub, node: &Node) {
    let mut writer = Writer {
        hub,
        node,
        epoch: None,
        generation: 0,
        has_told_all: false,
        next_announcement: None,
        next_telling: Instant::now(),
        is_told: false,
        was_taken: false,
    };
    let mut failures = 0;
    while !node.is_ending() {
        let result = writer.write();
        node.outbox.take_back();
        node.members.take_back();
        node.set_connected(Role::Writer, false);
        match result {
            Ok(()) => return,
            Err(_) if node.is_ending() => return,
            Err(failure) => {
                // The follower tells of a Redis that cannot be reached. One that refuses may well be read.
                let is_news = matches!(failure, Failure::Refused(..)) && !mem::replace(&mut writer.is_told, true);
                let address = &node.redis.address;
                if is_news {
                    hub.log()
                        .error(format_args!("cannot publish through the backplane {address}: {failure}; retrying"));
                } else {
                    hub.log().debug(format_args!("cannot publish through the backplane {address}: {failure}"));
                }
            }
        }
        failures = if mem::take(&mut writer.was_taken) { 0 } else { failures + 1 };
        node.pause(failures);
    }
}

struct Writer<'a> {
    hub: &'a Hub,
    node: &'a Node,
    /// Of the histories, when this node announced itself last.
    epoch: Option<Epoch>,
    /// Under which this node is entered.
    generation: u64,
    /// Whether the others were told of all that are subscribed here, under that generation.
    has_told_all: bool,
    next_announcement: Option<Instant>,
    /// When the others may be told anew who is subscribed here.
    next_telling: Instant,
    /// Whether the log tells already that Redis refuses.
    is_told: bool,
    /// Whether Redis has taken something over this connection. One that answers and takes nothing is not hurried.
    was_taken: bool,
}

impl Writer<'_> {
    /// Writes until the end, or until the connection fails.
    fn write(&mut self) -> Result<(), Failure> {
        let node = self.node;
        let mut redis = node.connect(Role::Writer)?;
        let scripts = Scripts::load(&mut redis)?;
        node.set_round_trip(redis.ping()?);
        self.wait_for_what_was_there(&mut redis, &scripts)?;
        node.set_connected(Role::Writer, true);
        self.next_announcement = None;
        loop {
            let (wait, round_trip) = redis.keep()?;
            if let Some(round_trip) = round_trip {
                node.set_round_trip(round_trip);
            }
            let Some(epoch) = node.epoch() else {
                node.wait_for_other_epoch(None, wait.min(MOMENT));
                if node.is_ending() || node.outbox.is_closed() {
                    return Ok(());
                }
                continue;
            };
            if self.epoch.replace(epoch) != Some(epoch) {
                // Redis may know nothing of this node any more.
                self.next_announcement = None;
            }
            let until_announcement = self.announce(&mut redis, &scripts)?;
            let until_telling = self.tell_members(&mut redis, &scripts)?;
            (self.is_told, self.was_taken) = (false, true);
            match node.outbox.send_next(wait.min(until_announcement).min(until_telling)) {
                Some(batch) if batch.is_empty() => {}
                Some(batch) => self.publish(&mut redis, &scripts, epoch, &batch)?,
                None => return self.say_good_bye(&mut redis, &scripts),
            }
        }
    }

    /// If this Redis has lost what it had, waits until the follower has found that too: what is written before that
    /// would look like what was there.
    fn wait_for_what_was_there(&self, redis: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        let node = self.node;
        let Some(known) = node.epoch() else { return Ok(()) };
        let (epoch, ..): (String, String, String, u64, u64, u64) = redis.ask(&node.attach_command(scripts, None))?;
        while epoch != known.to_string() && node.epoch() == Some(known) && !node.outbox.is_closed() {
            let (wait, _) = redis.keep()?;
            node.wait_for_other_epoch(Some(known), wait.min(MOMENT));
        }
        Ok(())
    }

    /// Tells the others that this node lives, if it is time for that. Returns when it is next.
    fn announce(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<Duration, Failure> {
        let now = Instant::now();
        if let Some(next) = self.next_announcement.filter(|next| *next > now) {
            return Ok(next - now);
        }
        let (node, anew) = (self.node, rand::random::<u32>());
        let mut announce = scripts.announce();
        announce
            .arg(&node.redis.prefix)
            .arg(&*node.name())
            .arg(self.generation)
            .arg(anew)
            .arg(node.about(self.hub.load_of_node()));
        let (is_known, id): (u8, String) = redis.ask(&announce)?;
        node.has_written(id.parse()?);
        if is_known == 0 {
            self.generation = u64::from(anew);
            self.has_told_all = false;
            node.members.tell_all_again();
        }
        let interval = node.redis.announcement_interval();
        self.next_announcement = Some(now + interval);
        Ok(interval)
    }

    /// Tells the others who is subscribed here, if it is time for that. Returns when it is, if there is something to
    /// tell.
    fn tell_members(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<Duration, Failure> {
        if self.node.members.is_empty() && self.has_told_all || !self.hub.has_presence() {
            return Ok(Duration::MAX);
        }
        let now = Instant::now();
        if self.next_telling > now {
            return Ok(self.next_telling - now);
        }
        self.next_telling = now + TELLING;
        self.tell_all_members(redis, scripts).map(|()| Duration::MAX)
    }

    fn tell_all_members(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        let node = self.node;
        while self.hub.has_presence() {
            let (batch, has_more) = node.members.next();
            let is_all = !has_more && !self.has_told_all;
            if batch.is_empty() && !is_all {
                return Ok(());
            }
            let mut presence = scripts.presence();
            presence.arg(&node.redis.prefix).arg(&*node.name()).arg(self.generation).arg(u8::from(is_all));
            presence.arg(Seat::write_batch(&batch));
            for ((topic, id), seat) in batch {
                presence.arg(format!("{id} {topic}")).arg(seat.to_state());
            }
            let (is_known, id): (u8, String) = redis.ask(&presence)?;
            if is_known == 0 {
                // Taken for dead meanwhile.
                node.members.tell_all_again();
                self.next_announcement = None;
                self.announce(redis, scripts)?;
                continue;
            }
            if !id.is_empty() {
                node.has_written(id.parse()?);
            }
            node.members.was_told();
            self.has_told_all |= is_all;
        }
        Ok(())
    }

    /// All connections have ended by now: tells so, and that nothing more will come.
    fn say_good_bye(&mut self, redis: &mut Connection, scripts: &Scripts) -> Result<(), Failure> {
        self.tell_all_members(redis, scripts)?;
        let (node, mut bury) = (self.node, scripts.bury());
        bury.arg(&node.redis.prefix).arg(&*node.name()).arg(self.generation).arg("node ended 0");
        redis.ask::<Value>(&bury).map(drop)
    }

    fn publish(
        &self,
        redis: &mut Connection,
        scripts: &Scripts,
        epoch: Epoch,
        batch: &[Numbered],
    ) -> Result<(), Failure> {
        let (hub, node) = (self.hub, self.node);
        let mut packed = Vec::new();
        for numbered in batch {
            command(hub, node, scripts, epoch, numbered).write_packed_command(&mut packed);
        }
        redis.send(&packed)?;
        let mut is_outdated = false;
        for Numbered { publication, .. } in batch {
            match redis.answer::<(u64, u8, String)>() {
                // The rest of them were refused for the same reason, and are to stay in their order.
                _ if is_outdated => {}
                Ok((offset, again, id)) => {
                    let id = if again == 0 { Some(id.parse()?) } else { None };
                    if let Some(id) = id {
                        node.has_written(id);
                    }
                    let here = hub.subscribers_of(publication.topic.as_str());
                    let position = Position { epoch, offset };
                    let published = Published { position, here, again: again == 1, only_here: false };
                    node.outbox.answered(Ok((published, id)));
                }
                Err(Failure::Refused(code, _)) if code == "FULL" => {
                    node.outbox.answered(Err(TopicError::TooManyTopics));
                }
                Err(Failure::Refused(code, _)) if code == "EPOCH" => is_outdated = true,
                Err(failure) => return Err(failure),
            }
        }
        if is_outdated {
            node.outbox.take_back();
            node.wait_for_other_epoch(Some(epoch), MOMENT);
        }
        Ok(())
    }
}

fn command(hub: &Hub, node: &Node, scripts: &Scripts, epoch: Epoch, numbered: &Numbered) -> Cmd {
    let Numbered { number, publication } = numbered;
    let (kind, payload) = match &publication.message {
        Message::Text(text) => ("t", text.as_bytes()),
        Message::Binary(bytes) => ("b", &bytes[..]),
    };
    let mut command = scripts.publish();
    command.arg(&node.redis.prefix).arg(epoch.to_string()).arg(publication.topic.as_str()).arg(kind).arg(payload);
    command.arg(publication.key.as_deref().unwrap_or_default()).arg(&*node.name()).arg(*number);
    let settings = hub.settings();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    command.arg(settings.history.count).arg(settings.history.bytes).arg(millis(settings.history.age));
    command.arg(millis(settings.window.age)).arg(settings.window.count).arg(settings.max_topics);
    // A topic that is in use is touched several times meanwhile.
    command.arg(millis(settings.history.age.max(settings.window.age).max(IDLE)));
    command
}

//! Topics that several servers have: what is published goes to the backplane, and what comes from there is the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::super::counters::Way;
use super::super::history::Limits;
use super::super::keys::Keys;
use super::super::name::TopicName;
use super::super::position::{Epoch, Position};
use super::super::presence::Place;
use super::super::redis::members::{Key, Seat};
use super::super::redis::node::Node;
use super::super::redis::outbox::{Answer, Publication};
use super::super::redis::{Load, NodeName};
use super::super::topic::Topic;
use super::super::topic::shared::{Arrival, Vanished};
use super::super::{BackplaneInfo, FormerNode, NodeInfo, Published, TopicError};
use super::Hub;
use crate::connection::identity::ConnectionId;
use crate::message::Message;

/// Longer than the backplane takes to say that it is too late.
const GRACE: Duration = Duration::from_secs(1);

/// The history of a topic, as the backplane has it.
#[derive(Debug)]
pub(in crate::topics) struct Loaded {
    pub(in crate::topics) name: TopicName,
    /// The offset of its last message, kept or not.
    pub(in crate::topics) last: u64,
    /// All that are kept: their offsets, and when they were published.
    pub(in crate::topics) entries: Vec<(u64, Message, Instant)>,
}

/// Publishing.
impl Hub {
    /// What connects this server with others.
    pub(in crate::topics) fn node(&self) -> Option<&Arc<Node>> {
        self.common.node.as_ref()
    }

    /// How it is with the backplane, if there is one.
    pub(crate) fn backplane_info(&self) -> Option<BackplaneInfo> {
        self.node().map(|node| node.info())
    }

    /// Where the backplane is, without any password, if there is one.
    #[cfg(feature = "status")]
    pub(crate) fn backplane_address(&self) -> Option<String> {
        self.node().map(|node| node.backplane_address())
    }

    /// A thread has panicked without which nothing that is promised holds.
    pub(in crate::topics) fn fail(&self, thread: &str, message: &str) {
        self.common.supervisor.fail(thread, message);
    }

    /// This server listens there.
    pub(crate) fn set_address(&self, address: String) {
        if let Some(node) = self.node() {
            node.set_address(address);
        }
    }

    /// All servers that share the topics, this one first.
    pub(crate) fn node_infos(&self) -> Vec<NodeInfo> {
        self.node().map(|node| node.infos(self.load_of_node())).unwrap_or_default()
    }

    /// Servers that have shared the topics, those that went last first.
    pub(crate) fn former_nodes(&self) -> Vec<FormerNode> {
        self.node().map(|node| node.former()).unwrap_or_default()
    }

    /// What this server tells the others that it has.
    pub(in crate::topics) fn load_of_node(&self) -> Load {
        let subscriptions = self.all().iter().map(|topic| topic.subscribers() as u64).sum();
        Load { connections: self.common.supervisor.stats().open, subscriptions, has_presence: self.has_presence() }
    }

    /// Whether what is published reaches the subscribers of this server alone: nothing is kept, and the backplane is
    /// away.
    pub(in crate::topics) fn publishes_here(&self) -> bool {
        self.settings().history == Limits::NONE && self.node().is_some_and(|node| !node.is_connected())
    }

    /// Publishes a message. The answer may come on any thread, and must not block.
    ///
    /// # Errors
    /// What is wrong at once. Then there is no other answer, and the caller counts the refusal.
    pub(in crate::topics) fn publish_later(
        &self,
        topic: &str,
        message: Message,
        key: Option<String>,
        way: Way,
        answer: Answer,
    ) -> Result<(), TopicError> {
        Keys::check(key.as_deref())?;
        let node = self.node().ok_or(TopicError::BackplaneUnavailable)?;
        if self.publishes_here() {
            answer(Ok(self.publish(topic, message, key.as_deref(), way)?));
            return Ok(());
        }
        let common = Arc::clone(&self.common);
        let answer = Box::new(move |outcome: Result<Published, TopicError>| {
            match &outcome {
                Ok(published) if !published.again => common.counters.published(way),
                Ok(_) => {}
                Err(error) => common.counters.refused(error.name()),
            }
            answer(outcome);
        });
        node.publish(Publication { topic: topic.parse()?, message: message.into_own(), key }, answer);
        Ok(())
    }

    /// Publishes a message, and waits for what becomes of it.
    pub(super) fn publish_by(
        node: &Node,
        topic: TopicName,
        message: Message,
        key: Option<&str>,
    ) -> Result<Published, TopicError> {
        let (answer, answered) = channel::bounded(1);
        let publication = Publication { topic, message, key: key.map(str::to_owned) };
        node.publish(publication, Box::new(move |outcome| _ = answer.send(outcome)));
        answered.recv_timeout(node.publish_timeout() + GRACE).unwrap_or(Err(TopicError::BackplaneUnavailable))
    }
}

/// The copy of what the backplane has. The backplane's follower alone changes it.
impl Hub {
    /// Histories of this epoch are about to come. If it is another one, nobody is subscribed before they are complete.
    pub(in crate::topics) fn begin_epoch(&self, epoch: Epoch, floor: u64) {
        let mut registry = self.write_registry();
        if registry.epoch != Some(epoch) {
            (registry.epoch, registry.floor) = (None, floor);
        }
        registry.floor = floor.max(registry.floor);
    }

    /// Takes the history of a topic.
    pub(in crate::topics) fn load(&self, epoch: Epoch, loaded: Loaded) -> Result<(), Vanished> {
        let Loaded { name, last, entries } = loaded;
        let topic = self.find_or_make(&name, Position { epoch, offset: 0 });
        topic.replace(Position { epoch, offset: last }, entries)?;
        self.make_room(&topic);
        Ok(())
    }

    /// All histories of this epoch have come. Topics of an earlier one that were not among them are empty.
    pub(in crate::topics) fn complete_epoch(&self, epoch: Epoch) {
        let floor = {
            let mut registry = self.write_registry();
            registry.epoch = Some(epoch);
            registry.floor
        };
        for topic in self.all() {
            topic.begin_anew_unless_of(Position { epoch, offset: floor });
        }
    }

    /// Messages were published to a topic, one after the other.
    pub(in crate::topics) fn apply(&self, name: &TopicName, messages: Vec<Arrival>) {
        let (Some(epoch), Some(first)) = (self.read_registry().epoch, messages.first()) else { return };
        let topic = self.find_or_make(name, Position { epoch, offset: first.offset - 1 });
        topic.apply(messages);
        self.make_room(&topic);
    }

    /// A topic was removed. All that come anew begin after this offset.
    pub(in crate::topics) fn remove(&self, name: &TopicName, floor: u64) {
        let removed = {
            let mut registry = self.write_registry();
            registry.floor = registry.floor.max(floor);
            let topic = registry.topics.get(name).cloned();
            match topic {
                Some(topic) if topic.remove_if_unsubscribed() => {
                    registry.topics.remove(name);
                    return;
                }
                topic => topic.zip(registry.epoch),
            }
        };
        // Somebody is subscribed here, and goes on after that.
        if let Some((topic, epoch)) = removed {
            let _ = topic.replace(Position { epoch, offset: floor }, Vec::new());
        }
    }

    /// All that there was at a time was read by now: see the function of the same name of a topic.
    pub(in crate::topics) fn give_up_those_ahead(&self, when_all_was_read: Instant, long: Duration) -> bool {
        // Each of them, whatever the others say.
        let give_up = |topic: &Arc<Topic>| topic.give_up_those_ahead(when_all_was_read, long);
        self.all().iter().fold(false, |is_any_left, topic| give_up(topic) | is_any_left)
    }

    // Presence.

    /// Somebody on one of the servers is subscribed to a topic, or is no more.
    pub(in crate::topics) fn set_seat(&self, name: &TopicName, place: Place, seat: Seat) {
        if !self.has_presence() {
            return;
        }
        let first = self.read_registry().first_position();
        match (seat, first) {
            (Seat::Taken { user, is_missing }, Ok(first)) => {
                self.find_or_make(name, first).take_seat(place, user.as_deref(), is_missing);
            }
            (Seat::Left { cause, within }, _) => {
                if let Some(topic) = self.find(name.as_str())
                    && topic.leave_seat(&place, &cause, within)
                {
                    self.remove_if_untouched(&topic);
                }
            }
            _ => {}
        }
    }

    /// Who is subscribed on a node, as far as it is known here.
    pub(in crate::topics) fn seats_on(&self, node: &NodeName) -> BTreeSet<Key> {
        let of = |topic: Arc<Topic>| topic.seats_on(node).into_iter().map(move |id| (topic.name.clone(), id));
        self.all().into_iter().flat_map(of).collect()
    }

    /// These are subscribed no more on a node, nobody knows why.
    pub(in crate::topics) fn forget_seats(&self, node: &NodeName, seats: BTreeSet<Key>) {
        let mut by_topic: BTreeMap<TopicName, Vec<ConnectionId>> = BTreeMap::new();
        for (topic, id) in seats {
            by_topic.entry(topic).or_default().push(id);
        }
        for (topic, ids) in by_topic {
            if let Some(topic) = self.find(topic.as_str())
                && topic.forget_seats(node, &ids)
            {
                self.remove_if_untouched(&topic);
            }
        }
    }

    /// These are all that are subscribed on a node.
    pub(in crate::topics) fn replace_seats(&self, node: &NodeName, seats: Vec<(Key, Seat)>) {
        let mut by_topic: BTreeMap<TopicName, Vec<(ConnectionId, Seat)>> = BTreeMap::new();
        for ((topic, id), seat) in seats {
            by_topic.entry(topic).or_default().push((id, seat));
        }
        let first = self.read_registry().first_position();
        if let Ok(first) = first {
            by_topic.keys().for_each(|name| _ = self.find_or_make(name, first));
        }
        for topic in self.all() {
            topic.replace_seats(node, by_topic.remove(&topic.name).unwrap_or_default());
        }
    }

    /// A node is gone, and with it all that were subscribed there.
    pub(in crate::topics) fn remove_node(&self, node: &NodeName, cause: &str, within: Duration) {
        for topic in self.all() {
            if topic.remove_node(node, cause, within) {
                self.remove_if_untouched(&topic);
            }
        }
    }

    /// How many connections to this server are subscribed to a topic.
    pub(in crate::topics) fn subscribers_of(&self, topic: &str) -> usize {
        self.find(topic).map_or(0, |topic| topic.subscribers())
    }

    /// The topics that somebody on this server is subscribed to.
    pub(in crate::topics) fn topics_in_use(&self) -> Vec<String> {
        let topics = self.all();
        topics.iter().filter(|topic| topic.subscribers() > 0).map(|topic| topic.name.to_string()).collect()
    }

    fn find_or_make(&self, name: &TopicName, first: Position) -> Arc<Topic> {
        if let Some(topic) = self.find(name.as_str()) {
            return topic;
        }
        let mut registry = self.write_registry();
        let make = || Arc::new(Topic::new(name.clone(), Arc::clone(&self.common), first));
        Arc::clone(registry.topics.entry(name.clone()).or_insert_with(make))
    }
}

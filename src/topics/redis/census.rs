//! What this node hears of who is subscribed on which: kept up to date in the copy, also when Redis loses some of it.
//!
//! Invariants:
//! - A node that enters anew tells all that are subscribed there. Until it has, nobody of whom it told before is taken
//!   for gone: they are in doubt, and those that it does not tell of again are gone then.
//! - What Redis has of a node that has not told all yet is no reason to take anybody for gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::NodeName;
use super::members::{Key, Seat};
use crate::topics::hub::Hub;
use crate::topics::presence::Place;

#[derive(Debug, Default)]
pub(super) struct Census {
    /// Under which generation each node has told of those who are subscribed there.
    generations: BTreeMap<NodeName, u64>,
    /// Of nodes that have not told all yet under that: of whom they told before, and have not told again.
    doubtful: BTreeMap<NodeName, BTreeSet<Key>>,
}

impl Census {
    /// What Redis has of a node: who is subscribed there, and whether these are all.
    pub(super) fn load(
        &mut self,
        hub: &Hub,
        node: &NodeName,
        generation: u64,
        is_complete: bool,
        seats: Vec<(Key, Seat)>,
    ) {
        self.generations.insert(Arc::clone(node), generation);
        if is_complete {
            self.doubtful.remove(node);
            return hub.replace_seats(node, seats);
        }
        self.doubtful.insert(Arc::clone(node), hub.seats_on(node));
        for (key, seat) in seats {
            self.told(hub, node, key, seat);
        }
    }

    /// A node is entered under this generation.
    pub(super) fn entered(&mut self, hub: &Hub, node: &NodeName, generation: u64) {
        let before = self.generations.insert(Arc::clone(node), generation);
        if before.is_some_and(|before| before != generation) {
            self.doubtful.insert(Arc::clone(node), hub.seats_on(node));
        }
    }

    /// A node tells of somebody.
    pub(super) fn told(&mut self, hub: &Hub, node: &NodeName, key: Key, seat: Seat) {
        if let Some(doubtful) = self.doubtful.get_mut(node) {
            doubtful.remove(&key);
        }
        let (topic, id) = key;
        hub.set_seat(&topic, Place { node: Some(Arc::clone(node)), id }, seat);
    }

    /// A node has told all.
    pub(super) fn told_all(&mut self, hub: &Hub, node: &NodeName, generation: u64) {
        if self.generations.get(node) != Some(&generation) {
            return;
        }
        if let Some(doubtful) = self.doubtful.remove(node) {
            hub.forget_seats(node, doubtful);
        }
    }

    /// A node is gone, for this cause, which is known within this time after the fact.
    pub(super) fn gone(&mut self, hub: &Hub, node: &NodeName, cause: &str, within: Duration) {
        self.generations.remove(node);
        self.doubtful.remove(node);
        hub.remove_node(node, cause, within);
    }
}

//! All topics of a server: how they are found, made and removed, and how much memory they take together.
//!
//! Invariants:
//! - A topic that has more than its fair share of the memory never takes from one that has not: it makes room for its
//!   own messages by its own.
//! - A topic that comes anew after it was removed begins after all offsets that the one before it had, so a position
//!   never means two messages.
//! - What an earlier server has saved is there before anything else. Once it is saved again, nothing is added.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use super::access::{Access, Applicant, NoPermit, Operation};
#[cfg(feature = "auth-url")]
use super::auth_service::AuthError;
use super::counters::{Counters, Way};
use super::entry::Entry;
use super::keys::Keys;
use super::name::TopicName;
use super::permit::Permit;
use super::position::{Epoch, Position};
#[cfg(feature = "redis")]
use super::redis::node::Node;
use super::subscriptions::Subscriptions;
#[cfg(feature = "jwt")]
use super::token_places;
use super::topic::{Common, Excerpt, Topic};
use super::wire;
use super::{Published, Settings, TopicError, TopicInfo, Topics};
use crate::connection::identity::ConnectionId;
use crate::http::request::Request;
#[cfg(any(feature = "auth-url", feature = "jwt"))]
use crate::http::response::Refusal;
#[cfg(feature = "redis")]
use crate::logging::Log;
use crate::message::Message;
use crate::supervisor::handle::SupervisorHandle;

mod saving;
#[cfg(feature = "redis")]
mod shared;

#[cfg(feature = "redis")]
pub(super) use shared::Loaded;

pub(crate) struct Hub {
    pub(super) common: Arc<Common>,
    access: Access,
    /// Set once what an earlier server has saved was read.
    opened: OnceLock<()>,
    /// Protects which topics there are. It is taken before the lock of a topic.
    registry: RwLock<Registry>,
    /// Protects which connections there are, if there is presence.
    connections: Mutex<BTreeMap<ConnectionId, Arc<Subscriptions>>>,
    /// Topics whose watchers are to get the list of members, and when.
    pub(super) listing: channel::Receiver<(Instant, TopicName)>,
}

struct Registry {
    topics: HashMap<TopicName, Arc<Topic>>,
    /// That of topics that come anew. `None` until a backplane has said which.
    epoch: Option<Epoch>,
    /// All offsets of topics that were removed are at most this.
    floor: u64,
    /// Whether the server has ended and saves them. Then they take nothing more.
    is_closed: bool,
    /// Not before then it is looked again which topics nobody would miss. `None`: at any time.
    next_search: Option<Instant>,
}

/// What a topic is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Publishing,
    Subscribing,
}

/// After a search for topics that nobody would miss has found hardly any, the next one has to wait for so many times as
/// long as it took: whoever asks for new topics in vain, again and again, must not hold up the others.
const SEARCH_PAUSE: u32 = 20;

impl Hub {
    pub(crate) fn new(topics: Topics, supervisor: Arc<SupervisorHandle>) -> Self {
        #[cfg(feature = "redis")]
        let node = topics.backplane.map(|redis| Arc::new(Node::new(redis)));
        #[cfg(feature = "redis")]
        let is_shared = node.is_some();
        #[cfg(not(feature = "redis"))]
        let is_shared = false;
        let Topics { settings, access, .. } = topics;
        // At most one for each topic waits in it.
        let (to_list, listing) = channel::unbounded();
        let common = Arc::new(Common {
            settings,
            supervisor,
            cost: AtomicUsize::new(0),
            counters: Counters::default(),
            to_list,
            #[cfg(feature = "redis")]
            node,
        });
        // Whoever shares the topics with others learns their epoch.
        let epoch = if is_shared { None } else { Some(Epoch::new()) };
        let registry =
            RwLock::new(Registry { topics: HashMap::new(), epoch, floor: 0, is_closed: false, next_search: None });
        Self { common, access, opened: OnceLock::new(), registry, connections: Mutex::default(), listing }
    }

    /// Whether the topics are those of other servers too.
    pub(super) fn is_shared(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.node().is_some();
        #[cfg(not(feature = "redis"))]
        false
    }

    #[cfg(feature = "redis")]
    pub(super) fn log(&self) -> &Log {
        &self.common.supervisor.log
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.common.settings
    }

    /// Whether a client may do that with a topic. Blocks while an authorization service is asked.
    pub(crate) fn check(
        &self,
        applicant: Applicant<'_>,
        operation: Operation,
        topic: &TopicName,
    ) -> Result<(), TopicError> {
        self.access.check(applicant, operation, topic, &self.common.supervisor.log)
    }

    /// What a token that comes after the opening handshake permits.
    pub(super) fn permit_by(&self, request: &Request, token: &str) -> Result<Permit, NoPermit> {
        self.access.permit_by(request, token)
    }

    /// What a request permits by what it shows, if it shows anything. `until`: when an authorization service has to
    /// have answered.
    #[cfg(any(feature = "auth-url", feature = "jwt"))]
    pub(crate) fn permit_of(&self, request: &Request, until: Option<Instant>) -> Result<Option<Permit>, Box<Refusal>> {
        self.access.permit_of(request, until)
    }

    /// What takes the place of a permit that expires, if anybody can be asked.
    #[cfg(feature = "auth-url")]
    pub(super) fn renewed(&self, request: &Request, permit: &Permit) -> Option<Result<Permit, AuthError>> {
        self.access.renewed(request, permit)
    }

    // Publishing and reading.

    /// Publishes a message, once for each key.
    pub(crate) fn publish(
        &self,
        topic: &str,
        message: Message,
        key: Option<&str>,
        way: Way,
    ) -> Result<Published, TopicError> {
        Keys::check(key)?;
        // Whoever drops the last of the message must not run the application's code.
        let published = self.publish_own(topic, message.into_own(), key)?;
        if !published.again {
            self.counters().published(way);
        }
        Ok(published)
    }

    fn publish_own(&self, topic: &str, message: Message, key: Option<&str>) -> Result<Published, TopicError> {
        #[cfg(feature = "redis")]
        if let Some(node) = self.node() {
            return match self.publishes_here() {
                true => self.with_topic(topic, Purpose::Publishing, |found| found.publish_here(&message, key).ok()),
                false => Self::publish_by(node, topic.parse()?, message, key),
            };
        }
        self.with_topic(topic, Purpose::Publishing, |found| {
            let published = found.publish(message.clone(), key).ok()?;
            self.make_room(found);
            Some(published)
        })
    }

    /// The first messages after a position, or of all that are kept, as the JSON of an answer by HTTP: so many and
    /// about so many bytes at most, but one if there is one. If some are lost, the present position.
    pub(crate) fn history_as_json(
        &self,
        topic: &TopicName,
        since: Option<Position>,
        most: usize,
        most_bytes: usize,
    ) -> Result<Result<String, Position>, TopicError> {
        let read = match self.find(topic.as_str()) {
            Some(topic) => topic.read(since, most, most_bytes),
            None => {
                let position = self.first_position()?;
                let is_there = since.is_none_or(|since| since == position);
                is_there.then(|| Excerpt { entries: Vec::new(), has_more: false, position }).ok_or(position)
            }
        };
        let Excerpt { entries, has_more, position } = match read {
            Ok(excerpt) => excerpt,
            Err(position) => {
                self.counters().lost();
                return Ok(Err(position));
            }
        };
        let Position { epoch, .. } = position;
        let message =
            |entry: &Arc<Entry>| wire::plain_message(Position { epoch, offset: entry.offset }, &entry.message);
        let messages: Vec<_> = entries.iter().map(message).collect();
        let more = if has_more { r#","more":true"# } else { "" };
        Ok(Ok(format!(r#"{{"position":"{position}","messages":[{}]{more}}}"#, messages.join(","))))
    }

    /// Whether a request has one of the keys that allow everything.
    #[cfg(feature = "jwt")]
    pub(crate) fn has_publish_key(&self, request: &Request) -> bool {
        let keys = self.access.publish_keys.as_ref();
        keys.is_some_and(|keys| token_places::bearers(request).any(|key| keys.matches(key)))
    }

    /// Whether anybody but the server's own machine may show that it may do something.
    #[cfg(any(feature = "auth-url", feature = "jwt"))]
    pub(crate) fn takes_credentials(&self) -> bool {
        #[cfg(feature = "jwt")]
        if self.access.publish_keys.is_some() {
            return true;
        }
        self.access.has_authority()
    }

    /// Whether a service is asked what a client may do.
    #[cfg(feature = "auth-url")]
    pub(crate) fn asks_a_service(&self) -> bool {
        self.access.asks_a_service()
    }

    /// Whether everything that was published after a position can be had.
    pub(super) fn has_all_since(&self, topic: &str, since: Position) -> bool {
        match self.find(topic) {
            Some(topic) => topic.has_all_since(since),
            None => self.first_position() == Ok(since),
        }
    }

    /// Who is subscribed to a topic.
    pub(crate) fn members(&self, topic: &TopicName) -> Result<Vec<String>, TopicError> {
        if !self.has_presence() {
            return Err(TopicError::NoPresence);
        }
        Ok(self.find(topic.as_str()).and_then(|topic| topic.members()).unwrap_or_default())
    }

    /// Some of those who are subscribed to a topic, those in doubt first, and how many there are. `None` if there is no
    /// such topic, or no presence.
    #[cfg(feature = "status")]
    pub(crate) fn some_members(&self, topic: &str, most: usize) -> Option<(Vec<String>, usize)> {
        self.find(topic)?.some_members(most)
    }

    /// The position that a topic begins with which is not there yet.
    fn first_position(&self) -> Result<Position, TopicError> {
        self.open();
        self.read_registry().first_position()
    }

    /// What is known of all topics, in no order, each with the offset that it began with. No lock is held for longer
    /// than it takes to look at one topic.
    pub(crate) fn infos(&self) -> Vec<(TopicInfo, u64)> {
        self.open();
        self.all().iter().map(|topic| topic.info()).collect()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.common.counters
    }

    /// A client was refused something, with this error of the wire format.
    pub(crate) fn note_refusal(&self, error: &str) {
        self.counters().refused(error);
    }

    // Finding and making.

    pub(super) fn find(&self, topic: &str) -> Option<Arc<Topic>> {
        self.open();
        self.read_registry().topics.get(topic).cloned()
    }

    /// Calls a function with a topic, which is made if it is not there, until the topic has not been removed meanwhile:
    /// `Some`.
    pub(super) fn with_topic<T>(
        &self,
        topic: &str,
        purpose: Purpose,
        mut use_it: impl FnMut(&Arc<Topic>) -> Option<T>,
    ) -> Result<T, TopicError> {
        loop {
            let found = match self.find(topic) {
                Some(found) => found,
                None => self.make(topic.parse()?, purpose)?,
            };
            if let Some(result) = use_it(&found) {
                return Ok(result);
            }
            if self.read_registry().is_closed {
                return Err(TopicError::Closed);
            }
        }
    }

    fn make(&self, name: TopicName, purpose: Purpose) -> Result<Arc<Topic>, TopicError> {
        let mut registry = self.write_registry();
        if registry.is_closed {
            return Err(TopicError::Closed);
        }
        let most = self.settings().most_topics(purpose);
        if registry.topics.len() >= most && !registry.topics.contains_key(&name) {
            registry.remove_unused(self.is_shared());
            if registry.topics.len() >= most {
                return Err(TopicError::TooManyTopics);
            }
        }
        let first = registry.first_position()?;
        let make = || Arc::new(Topic::new(name.clone(), Arc::clone(&self.common), first));
        Ok(Arc::clone(registry.topics.entry(name.clone()).or_insert_with(make)))
    }

    /// Removes a topic whose last subscriber has left, if it never had a message.
    pub(super) fn remove_if_untouched(&self, topic: &Arc<Topic>) {
        let mut registry = self.write_registry();
        if topic.remove_if_unused(true).is_some() {
            registry.topics.remove(&topic.name);
        }
    }

    fn all(&self) -> Vec<Arc<Topic>> {
        self.read_registry().topics.values().cloned().collect()
    }

    // Connections.

    pub(crate) fn has_presence(&self) -> bool {
        self.settings().presence
    }

    pub(super) fn add_connection(&self, subscriptions: &Arc<Subscriptions>) {
        if self.has_presence() {
            self.lock_connections().insert(subscriptions.id(), Arc::clone(subscriptions));
        }
    }

    pub(super) fn remove_connection(&self, id: ConnectionId) {
        if self.has_presence() {
            self.lock_connections().remove(&id);
        }
    }

    pub(super) fn connection(&self, id: ConnectionId) -> Option<Arc<Subscriptions>> {
        self.lock_connections().get(&id).cloned()
    }

    pub(super) fn connections(&self) -> Vec<Arc<Subscriptions>> {
        self.lock_connections().values().cloned().collect()
    }

    fn lock_connections(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Arc<Subscriptions>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Memory.

    /// The shortest time after which messages or keys are too old. `None` if neither are kept.
    pub(super) fn shortest_age(&self) -> Option<Duration> {
        let Settings { history, window, .. } = self.settings();
        [history.age, window.age].into_iter().filter(|age| !age.is_zero()).min()
    }

    /// Makes room after a message of a topic, if all histories together take too much.
    fn make_room(&self, topic: &Topic) {
        let (total, most) = (&self.common.cost, self.settings().total_history);
        if total.load(Relaxed) <= most {
            return;
        }
        // By its own messages, if it has more than its share.
        let share = most / self.read_registry().topics.len().max(1);
        let excess = total.load(Relaxed).saturating_sub(most);
        topic.trim_to_cost(share.max(topic.cost().saturating_sub(excess)));
        if total.load(Relaxed) <= most {
            return;
        }
        // By those of topics that have more than their share. They give a little more, so that this is not done for
        // each message.
        for other in self.all() {
            if other.cost() > share {
                other.trim_to_cost(share - share / 8);
            }
        }
    }

    /// Lets go of messages and keys that are too old, also in topics that nobody asks for.
    pub(super) fn forget_old(&self) {
        for topic in self.all() {
            topic.trim_to_cost(usize::MAX);
        }
    }

    fn read_registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_registry(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", self.settings()).finish_non_exhaustive()
    }
}

impl Settings {
    /// The last quarter is for topics that are published to: clients that subscribe to names that they make up must not
    /// keep anybody from publishing.
    fn most_topics(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Publishing => self.max_topics,
            Purpose::Subscribing => self.max_topics - self.max_topics / 4,
        }
    }
}

impl Registry {
    /// The position that a topic begins with which is not there yet.
    fn first_position(&self) -> Result<Position, TopicError> {
        let epoch = self.epoch.ok_or(TopicError::BackplaneUnavailable)?;
        Ok(Position { epoch, offset: self.floor })
    }

    /// Removes all topics that nobody would miss, unless there were hardly any just now.
    fn remove_unused(&mut self, only_untouched: bool) {
        let (began, before) = (Instant::now(), self.topics.len());
        if self.next_search.is_some_and(|next| began < next) {
            return;
        }
        let floor = &mut self.floor;
        self.topics.retain(|_, topic| match topic.remove_if_unused(only_untouched) {
            Some(last) => {
                *floor = last.max(*floor);
                false
            }
            None => true,
        });
        let was_worth_it = self.topics.len() <= before - before / 8;
        self.next_search = (!was_worth_it).then(|| Instant::now() + SEARCH_PAUSE * began.elapsed());
    }
}

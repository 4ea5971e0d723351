//! The directory: finds the connections of a server by their numbers and by their users, for any thread.
//!
//! It is beside the supervisor's registry, so that whoever sends to one connection neither waits for the supervisor nor
//! makes it wait, and learns at once what has become of the message.
//!
//! Invariants: a connection is listed before its handler begins and before its opening is reported, and until its
//! thread ends. Its user is listed as long as one of the user's connections is. An entry costs one pointer; the keys
//! are in the connections.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::mem;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use crate::connection::identity::ConnectionId;
use crate::connection::shared::Shared;
use crate::connection::user::UserName;

#[derive(Default)]
pub(crate) struct Directory {
    /// Protects the lists. Connections are only found, listed and unlisted under it: none is used or dropped.
    lists: RwLock<Lists>,
}

#[derive(Default)]
struct Lists {
    all: HashSet<Listed>,
    of_users: HashMap<UserName, HashSet<Listed>>,
}

/// A connection that is found by its number.
struct Listed(Arc<Shared>);

impl Directory {
    pub(crate) fn add(&self, shared: &Arc<Shared>) {
        let mut lists = self.write();
        if let Some(user) = &shared.user {
            lists.of_users.entry(user.clone()).or_default().insert(Listed(Arc::clone(shared)));
        }
        lists.all.insert(Listed(Arc::clone(shared)));
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut lists = self.write();
        let removed = lists.all.take(&id);
        if let Some(Listed(shared)) = &removed
            && let Some(user) = &shared.user
            && let Some(theirs) = lists.of_users.get_mut(user)
        {
            theirs.remove(&id);
            if theirs.is_empty() {
                lists.of_users.remove(user);
            }
        }
        drop(lists);
        drop(removed);
    }

    /// Forgets all connections after the end, for the threads of some may be abandoned.
    pub(crate) fn clear(&self) {
        let lists = mem::take(&mut *self.write());
        drop(lists);
    }

    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Shared>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.all.get(&id).map(|Listed(shared)| Arc::clone(shared))
    }

    /// The connections of a user, in no particular order.
    pub(crate) fn find_user(&self, name: &str) -> Vec<Arc<Shared>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let theirs = lists.of_users.get(name).into_iter().flatten();
        theirs.map(|Listed(shared)| Arc::clone(shared)).collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrow<ConnectionId> for Listed {
    fn borrow(&self) -> &ConnectionId {
        &self.0.identity.id
    }
}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for Listed {}

#[cfg(test)]
mod tests;

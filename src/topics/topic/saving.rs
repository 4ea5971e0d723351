//! A topic is saved when its server ends, and restored by the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::file::{Saved, Snapshot};
use super::super::position::{Epoch, Position};
use super::{Common, Topic};

impl Topic {
    /// A topic that an earlier server had.
    pub(in crate::topics) fn restored(saved: Saved, epoch: Epoch, common: Arc<Common>) -> Self {
        let Saved { name, history, keys } = saved;
        common.cost.fetch_add(history.cost() + keys.cost(), Relaxed);
        // Only topics that have had messages are saved, so all began before their last.
        let topic = Self::new(name, common, Position { epoch, offset: 0 });
        {
            let mut state = topic.lock();
            (state.history, state.keys) = (history, keys);
        }
        topic
    }

    /// Takes no more messages and subscribers. Returns what is to be saved, if it ever had a message.
    pub(in crate::topics) fn close(&self) -> Option<Snapshot> {
        let mut state = self.lock_trimmed();
        state.is_removed = true;
        let is_untouched = state.history.last() == state.began_after;
        (!is_untouched).then(|| Snapshot {
            name: self.name.clone(),
            last: state.history.last(),
            entries: state.history.iter().cloned().collect(),
            keys: state.keys.iter().map(|(key, offset, noted)| (key.to_owned(), offset, noted)).collect(),
        })
    }
}

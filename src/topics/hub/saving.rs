//! What a server saves when it ends, and the next one begins with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use super::super::file::{self, Bounds, Contents, Head, Now, ReadError};
use super::super::topic::Topic;
use super::Hub;

impl Hub {
    /// Reads what an earlier server has saved, if that was not done yet. Others wait for whoever does it.
    pub(crate) fn open(&self) {
        let Some(path) = self.path() else { return };
        let mut failure = None;
        self.opened.get_or_init(|| failure = self.restore(path).err());
        // Not before, for the logger may ask for topics.
        if let Some(error) = failure {
            let path = path.display();
            self.common.supervisor.log.error(format_args!("cannot use the saved history of topics {path}: {error}"));
        }
    }

    /// Where topics are saved, unless they are kept elsewhere anyway.
    fn path(&self) -> Option<&Path> {
        self.settings().saved_at.as_deref().filter(|_| !self.is_shared())
    }

    fn restore(&self, path: &Path) -> Result<(), ReadError> {
        let bounds = Bounds { limits: self.settings().history, window: self.settings().window };
        let Some(Contents { head, topics }) = file::take(path, bounds, now())? else { return Ok(()) };
        let most = self.settings().max_topics;
        let mut registry = self.write_registry();
        // Nobody has asked for it before.
        registry.epoch = Some(head.epoch);
        registry.floor = head.floor;
        for saved in topics {
            if registry.topics.len() < most {
                let topic = Topic::restored(saved, head.epoch, Arc::clone(&self.common));
                registry.topics.insert(topic.name.clone(), Arc::new(topic));
            } else {
                // As if it were removed.
                registry.floor = registry.floor.max(saved.history.last());
            }
        }
        let most = self.settings().total_history;
        if self.common.cost.load(Relaxed) > most {
            let share = most / registry.topics.len().max(1);
            registry.topics.values().for_each(|topic| topic.trim_to_cost(share));
        }
        Ok(())
    }

    /// Saves everything, if it is to be saved. From now on nothing is published or subscribed to.
    pub(crate) fn save(&self) {
        let Some(path) = self.path() else { return };
        // What led to that may be wrong here too.
        if self.common.supervisor.failure().is_some() {
            return;
        }
        self.open();
        let head = {
            let mut registry = self.write_registry();
            registry.is_closed = true;
            // Topics that are saved are nobody else's, and have an epoch from the beginning.
            let Some(epoch) = registry.epoch else { return };
            Head { epoch, floor: registry.floor }
        };
        if let Err(error) = file::write(path, head, self.all().iter().filter_map(|topic| topic.close()), now()) {
            let path = path.display();
            self.common.supervisor.log.error(format_args!("cannot save the history of topics to {path}: {error}"));
        }
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}

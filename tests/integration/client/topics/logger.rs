//! A logger that publishes each line over the client that it is about.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use heartwire::TopicsHandle;
use log::{LevelFilter, Log, Metadata, Record};

use super::{open_topics, run, start_with, topics_at};
use crate::support::{Relay, alone, eventually};

struct Publisher {
    handle: Mutex<Option<TopicsHandle>>,
    published: AtomicUsize,
    failed: AtomicUsize,
}

static PUBLISHER: Publisher =
    Publisher { handle: Mutex::new(None), published: AtomicUsize::new(0), failed: AtomicUsize::new(0) };

thread_local! {
    /// As any logger that causes log lines has to, it passes over its own.
    static IS_PUBLISHING: Cell<bool> = const { Cell::new(false) };
}

impl Log for Publisher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("heartwire")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || IS_PUBLISHING.replace(true) {
            return;
        }
        let handle = self.handle.lock().unwrap().clone();
        if let Some(handle) = handle {
            let count = match handle.publish("log", record.args().to_string()) {
                Ok(_) => &self.published,
                Err(_) => &self.failed,
            };
            count.fetch_add(1, SeqCst);
        }
        IS_PUBLISHING.set(false);
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_may_publish_what_is_logged_and_wait_for_it() {
    if !alone!() {
        return;
    }
    let running = start_with(open_topics());
    let relay = Relay::to(running.address());
    let topics = topics_at(relay.address());
    topics.subscribe("news").unwrap();
    *PUBLISHER.handle.lock().unwrap() = Some(topics.handle());
    log::set_logger(&PUBLISHER).expect("the only logger");
    log::set_max_level(LevelFilter::Debug);
    let client = run(topics);
    client.subscribed();
    for round in 1..=5 {
        let before = PUBLISHER.published.load(SeqCst);
        relay.cut();
        running.handle.publish("news", round.to_string()).unwrap();
        client.expect("news", [round.to_string()]);
        eventually("the cut is logged", || PUBLISHER.published.load(SeqCst) > before + 1);
    }
    // Nobody waits for what the end itself logs.
    client.stop();
    let lines = running.handle.topics().iter().find(|topic| topic.name.as_str() == "log").map(|topic| topic.kept);
    assert_eq!(lines.map(|lines| lines >= PUBLISHER.published.load(SeqCst)), Some(true));
}

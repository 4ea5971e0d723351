//! A client of topics against real servers, over lines that are cut and through restarts.

mod attacks;
mod logger;
mod publishing;
mod subscribing;
#[cfg(feature = "jwt")]
mod tokens;

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use heartwire::topics::{Position, Topics};
use heartwire::{Delivery, Error, TopicsClient, TopicsHandle};

use crate::support::{CEILING, Events, Running, client, echo, receive, server, start};

/// Anybody may subscribe to all but `secret`, and publish to all but `news`.
fn open_topics() -> Topics {
    Topics::new()
        .history(100_000, 64 * 1024 * 1024, Duration::from_secs(600))
        .on_subscribe(|_, topic| topic.as_str() != "secret")
        .on_publish(|_, topic| topic.as_str() != "news")
}

fn start_with(topics: Topics) -> Running {
    start(server().topics(topics), echo)
}

/// A server with what an earlier one has saved.
fn start_saving(path: &Path) -> Running {
    start_with(open_topics().saved_at(path))
}

fn topics_at(address: SocketAddr) -> TopicsClient {
    client(address).topics()
}

/// A client of topics that runs, and what its handler was given.
struct RunningTopics {
    handle: TopicsHandle,
    events: Events,
    deliveries: Receiver<Delivery>,
    ended: Receiver<Result<(), Error>>,
}

/// Runs a client whose handler passes on what it is given.
fn run(topics: TopicsClient) -> RunningTopics {
    run_with(topics, |_| Ok(()))
}

/// Runs a client whose handler passes on what it is given, and then does this.
fn run_with(
    topics: TopicsClient,
    mut handler: impl FnMut(&Delivery) -> Result<(), Error> + Send + 'static,
) -> RunningTopics {
    let handle = topics.handle();
    let events = Events::new(handle.events());
    let (sender, deliveries) = unbounded();
    let (end, ended) = bounded(1);
    thread::spawn(move || {
        let _ = end.send(topics.run(|delivery| {
            let _ = sender.send(delivery.clone());
            handler(&delivery)
        }));
    });
    RunningTopics { handle, events, deliveries, ended }
}

impl RunningTopics {
    fn next(&self) -> Delivery {
        receive("a delivery", &self.deliveries)
    }

    /// The next delivery but for those of subscriptions, in short.
    fn next_in_short(&self) -> String {
        loop {
            let text = in_short(&self.next());
            if !text.starts_with("subscribed") {
                return text;
            }
        }
    }

    fn subscribed(&self) -> Position {
        match self.next() {
            Delivery::Subscribed { position, .. } => position,
            other => panic!("{other:?} in place of a subscription"),
        }
    }

    /// What comes of the next so many messages of a topic, which must be these texts.
    fn expect(&self, topic: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) {
        for text in texts {
            assert_eq!(self.next_in_short(), format!("{topic}: {}", text.as_ref()));
        }
    }

    fn result(&self) -> Result<(), Error> {
        receive("the end of the client", &self.ended)
    }

    fn stop(&self) {
        self.handle.stop();
        self.result().expect("stopped, and so ends without an error");
    }
}

impl Drop for RunningTopics {
    fn drop(&mut self) {
        self.handle.stop();
        // A test that waited for the end itself has taken the result already.
        let hangs = self.ended.recv_timeout(CEILING).is_err_and(|error| error.is_timeout());
        assert!(!hangs || thread::panicking(), "the client does not end");
    }
}

fn in_short(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Message { topic, message, .. } => match message.as_text() {
            Some(text) => format!("{topic}: {text}"),
            None => format!("{topic}: {:?}", message.as_bytes()),
        },
        Delivery::Lost { topic, .. } => format!("lost {topic}"),
        Delivery::Subscribed { topic, .. } => format!("subscribed {topic}"),
        Delivery::Refused { topic, refusal, .. } => format!("refused {topic}: {}", refusal.code()),
        Delivery::Presence { topic, presence, .. } => format!("presence {topic}: {presence:?}"),
        other => format!("{other:?}"),
    }
}

/// Texts that count.
fn numbers(from: usize, to: usize) -> impl Iterator<Item = String> {
    (from..to).map(|number| number.to_string())
}

/// A client that is subscribed.
fn other(running: &Running, topic: &str) -> RunningTopics {
    let topics = topics_at(running.address());
    topics.subscribe(topic).unwrap();
    let other = run(topics);
    other.subscribed();
    other
}

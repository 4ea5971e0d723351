//! Topics, as their clients see them.

#[cfg(feature = "auth-url")]
mod auth_service;
mod http;
mod presence;
mod protocol;
mod saving;
mod slow_subscribers;
#[cfg(feature = "status")]
mod status;
mod subscribing;
#[cfg(feature = "jwt")]
pub(crate) mod tokens;

#[cfg(feature = "redis")]
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

#[cfg(feature = "redis")]
use heartwire::topics::Redis;
use heartwire::topics::Topics;
use heartwire::{Connection, Error, Server};

#[cfg(feature = "redis")]
use crate::support::eventually;
use crate::support::topics::{client_of, subscribe};
use crate::support::{Client, Running, echo, server, start};

/// A text without the names of nodes, which members have over Redis.
fn without_nodes(text: &str) -> String {
    let mut parts = text.split(r#","node":""#);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('"').expect("the end of a name").1)
}

/// Leaves a test out over Redis, for this reason.
macro_rules! memory_only {
    ($why:literal) => {
        if std::env::var_os("HEARTWIRE_TEST_REDIS").is_some() {
            fn here() {}
            let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
            println!("not over Redis: {test}: {}", $why);
            return;
        }
    };
}
use memory_only;

/// Anybody may subscribe to all but `secret`, and publish to `chat`.
fn open_topics() -> Topics {
    Topics::new()
        .history(1000, 1024 * 1024, Duration::from_secs(600))
        .on_subscribe(|_, topic| topic.as_str() != "secret")
        .on_publish(|_, topic| topic.as_str() == "chat")
}

fn start_with(topics: Topics) -> Running {
    start_server(server(), topics)
}

fn start_server(server: Server, topics: Topics) -> Running {
    start_handling(server, topics, echo)
}

/// A server whose topics are in its memory, or in the Redis that HEARTWIRE_TEST_REDIS names.
fn start_handling<H>(server: Server, topics: Topics, handler: H) -> Running
where
    H: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
{
    #[cfg(feature = "redis")]
    if let Ok(url) = std::env::var("HEARTWIRE_TEST_REDIS") {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("{}:{}", std::process::id(), LAST.fetch_add(1, Relaxed));
        let redis = Redis::new(&url).expect("a URL").prefix(prefix);
        let running = start(server.topics(topics.backplane(redis)), handler);
        let is_ready = || running.handle.backplane().is_some_and(|backplane| backplane.is_connected);
        eventually("the backplane is connected", is_ready);
        return running;
    }
    start(server.topics(topics), handler)
}

/// A client that was subscribed to a topic.
fn subscriber(running: &Running, topic: &str, since: Option<&str>) -> Client {
    let mut client = client_of(running);
    subscribe(&mut client, topic, since);
    client
}

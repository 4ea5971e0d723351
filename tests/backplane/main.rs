//! Several servers that share their topics by a Redis, which each test has of its own. Without `redis-server` they are
//! skipped.

#![cfg(all(feature = "redis", unix))]

#[allow(dead_code, unused_imports, unused_macros, reason = "this crate uses only some of it")]
#[path = "../support/mod.rs"]
mod support;

mod many;
mod outages;
mod presence;
mod redis_server;
mod sharing;
#[cfg(all(feature = "metrics", feature = "status"))]
mod status;

use std::time::Duration;

use heartwire::topics::{Redis, Topics};
use heartwire::{HeartbeatPolicy, Server};

use redis_server::RedisServer;
use support::topics::{client_of, subscribe, value};
use support::{Client, Relay, Running, echo, eventually, ms, server, start};

/// Ends a test for which there is no Redis.
macro_rules! redis_or_skip {
    ($start:expr) => {
        match $crate::redis_server::RedisServer::is_installed() {
            true => $start,
            false => {
                println!("skipped: redis-server is not installed");
                return;
            }
        }
    };
}
pub(crate) use redis_or_skip;

/// Topics that are shared, where everybody may do everything.
fn topics() -> Topics {
    Topics::new().on_publish(|_, _| true)
}

/// A node, once it has a copy of everything.
fn node(redis: &RedisServer) -> Running {
    node_with(redis, topics())
}

fn node_with(redis: &RedisServer, topics: Topics) -> Running {
    let running = lone_node(redis, topics);
    wait_until_connected(&running);
    running
}

/// Two nodes, and a relay by which the other of them gets to Redis.
fn nodes_apart(redis: &RedisServer) -> (Running, Running, Relay) {
    let way = Relay::to(([127, 0, 0, 1], redis.port()).into());
    let (one, other) = (node(redis), node_at(&format!("redis://{}", way.address()), topics()));
    wait_until_connected(&other);
    (one, other, way)
}

fn wait_until_connected(node: &Running) {
    let is_connected = || node.handle.backplane().is_some_and(|backplane| backplane.is_connected);
    eventually("the backplane is connected", is_connected);
}

/// A node that may have no Redis yet.
fn lone_node(redis: &RedisServer, topics: Topics) -> Running {
    node_at(&redis.url(), topics)
}

fn node_at(url: &str, topics: Topics) -> Running {
    serve_with(server(), url, topics)
}

fn serve_with(server: Server, url: &str, topics: Topics) -> Running {
    let redis = Redis::new(url).expect("a URL").heartbeat(brisk()).publish_timeout(Duration::from_secs(5));
    start(server.topics(topics.backplane(redis)), echo)
}

/// Finds a Redis that is gone within 2.8 s, and is not upset by a machine that is starved for two.
fn brisk() -> HeartbeatPolicy {
    HeartbeatPolicy::new(ms(700), ms(700)).max_missed(3)
}

/// A client that was subscribed to a topic, and the position that it was told.
fn subscriber(node: &Running, topic: &str, since: Option<&str>) -> (Client, String) {
    let mut client = client_of(node);
    let position = subscribe(&mut client, topic, since);
    (client, position)
}

/// The texts of the next messages.
fn texts(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.text()).map(|message| value(&message, "text")).collect()
}

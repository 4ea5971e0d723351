//! What a node asks of Redis when it connects, and what it tells of its subscribers and topics: by heartwire's own
//! nodes, and by its own scripts.

use std::io;

use redis::{Cmd, cmd};

use super::measure::Node;
use super::redis_server::RedisServer;

/// So many are loaded, told or touched.
const MESSAGES: usize = 20_000;
const SEATS: usize = 50_000;
const TOPICS: usize = 10_000;

/// So many seats are told at a time when there are many, as `members.rs` has it.
const TOGETHER: usize = 256;

macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("../../../src/topics/redis/common.lua"),
            include_str!(concat!("../../../src/topics/redis/", $name))
        )
    };
}

/// In microseconds of Redis each.
pub(super) struct Loading {
    pub(super) seat: f64,
    pub(super) lone_seat: f64,
    pub(super) touch: f64,
    pub(super) message: f64,
    pub(super) loaded_seat: f64,
}

pub(super) fn measure() -> io::Result<Loading> {
    let mut redis = RedisServer::start()?;
    // The first pays for what all share.
    connect(&mut redis)?;
    let empty = connect(&mut redis)?;
    fill_histories(&mut redis)?;
    let messages = connect(&mut redis)?;
    let touch = touch(&mut redis)?;
    redis.flush()?;
    let [lone_seat, seat] = [1, TOGETHER].map(|together| tell(&mut redis, together));
    redis.flush()?;
    fill_members(&mut redis)?;
    let seats = connect(&mut redis)?;
    let each = |more: f64, less: f64, count: usize| (more - less).max(0.0) / count as f64;
    Ok(Loading {
        seat: seat?,
        lone_seat: lone_seat?,
        touch,
        message: each(messages, empty, MESSAGES),
        loaded_seat: each(seats, empty, SEATS),
    })
}

/// Connects a node, which reads everything, and returns what that took.
fn connect(redis: &mut RedisServer) -> io::Result<f64> {
    let before = redis.counters()?;
    let node = Node::start(redis, true)?;
    node.wait()?;
    Ok(redis.counters()?.since(before).processor)
}

/// Histories as nodes publish them: 100 messages of 100 bytes in each of the topics.
fn fill_histories(redis: &mut RedisServer) -> io::Result<()> {
    let epoch: String = redis.ask(cmd("GET").arg("heartwire:epoch"))?;
    let script: String = redis.ask(cmd("SCRIPT").arg("LOAD").arg(script!("publish.lua")))?;
    for number in 1..=MESSAGES {
        let mut publish = call(&script);
        publish.arg("heartwire").arg(&epoch).arg(format!("topic/{}", number % (MESSAGES / 100))).arg("t");
        publish.arg("x".repeat(100)).arg("").arg("node").arg(number);
        // Count, bytes and age of the history, age and count of the keys, the most topics, and when they are idle.
        [1000, 1 << 20, 600_000, 300_000, 1000, 10_000, 600_000]
            .into_iter()
            .for_each(|limit: u64| _ = publish.arg(limit));
        redis.ask::<redis::Value>(&publish)?;
    }
    Ok(())
}

/// All seats that nodes have told of.
fn fill_members(redis: &mut RedisServer) -> io::Result<()> {
    for node in 0..SEATS / 1000 {
        redis.ask::<redis::Value>(cmd("HSET").arg("heartwire:nodes").arg(format!("{node:016x}")).arg(7))?;
        let mut members = cmd("HSET");
        members.arg(format!("heartwire:members:{node:016x}"));
        (0..1000).for_each(|id| _ = members.arg(format!("{id} room/{}", id % 100)).arg(state(node * 1000 + id)));
        redis.ask::<redis::Value>(&members)?;
    }
    Ok(())
}

fn state(user: usize) -> String {
    format!(r#"{{"missing":false,"user":"user-{user}"}}"#)
}

/// Tells of seats, so many at a time, and returns what each takes.
fn tell(redis: &mut RedisServer, together: usize) -> io::Result<f64> {
    const COUNT: usize = 10_240;
    redis.ask::<redis::Value>(cmd("HSET").arg("heartwire:nodes").arg("node").arg(7))?;
    let script: String = redis.ask(cmd("SCRIPT").arg("LOAD").arg(script!("presence.lua")))?;
    let before = redis.counters()?;
    for first in (0..COUNT).step_by(together) {
        let mut presence = call(&script);
        let seats = || (first..first + together).map(|id| (id, format!("room/{}", id % 100)));
        let told: Vec<_> = seats().map(|(id, topic)| format!(r#"["{topic}",{id},{}]"#, state(id))).collect();
        presence.arg("heartwire").arg("node").arg(7).arg("0").arg(format!("[{}]", told.join(",")));
        seats().for_each(|(id, topic)| _ = presence.arg(format!("{id} {topic}")).arg(state(id)));
        redis.ask::<redis::Value>(&presence)?;
    }
    Ok(redis.counters()?.since(before).processor / COUNT as f64)
}

/// Says that topics are in use, and returns what each takes.
fn touch(redis: &mut RedisServer) -> io::Result<f64> {
    const TIMES: usize = 10;
    let mut add = cmd("ZADD");
    add.arg("heartwire:topics");
    (0..TOPICS).for_each(|topic| _ = add.arg(1).arg(format!("topic/{topic}")));
    redis.ask::<redis::Value>(&add)?;
    let script: String = redis.ask(cmd("SCRIPT").arg("LOAD").arg(script!("touch.lua")))?;
    let mut touch = call(&script);
    touch.arg("heartwire");
    (0..TOPICS).for_each(|topic| _ = touch.arg(format!("topic/{topic}")));
    let before = redis.counters()?;
    (0..TIMES).try_for_each(|_| redis.ask::<redis::Value>(&touch).map(drop))?;
    Ok(redis.counters()?.since(before).processor / (TIMES * TOPICS) as f64)
}

fn call(script: &str) -> Cmd {
    let mut call = cmd("EVALSHA");
    call.arg(script).arg(0);
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes' scripts are called here as nodes do it, and may change.
    #[test]
    fn redis_takes_all_that_is_measured() {
        if RedisServer::version().is_none() {
            return println!("redis-server is not installed");
        }
        let Loading { seat, lone_seat, touch, .. } = measure().unwrap();
        assert!([seat, lone_seat, touch].iter().all(|cost| *cost > 0.0));
    }
}

//! What one Redis takes for what nodes ask of it: heartwire's own nodes, as many as there may be in this process,
//! against a redis-server that says how much processor time it has used and how much it has sent.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heartwire::topics::{Redis, Topics};
use heartwire::{Server, ServerHandle};

use super::fit;
use super::model::ABOUT;
use super::redis_server::{Counters, RedisServer};
use crate::cli::Common;

/// So many nodes share a Redis, in turn.
const NODES: [usize; 3] = [1, 25, 100];

/// The payloads of messages, in bytes.
const SMALL: usize = 100;
const LARGE: usize = 2100;

/// The topics that are published to. Each keeps so many messages, so that they are soon full, as they mostly are.
const TOPICS: usize = 50;
const KEPT: usize = 100;

/// So many threads publish at a time, so that there are always some to be published together.
const PUBLISHERS: usize = 32;

/// The longest that anything is waited for.
const CEILING: Duration = Duration::from_secs(120);

/// A node in this process.
pub(super) struct Node {
    pub(super) handle: ServerHandle,
    thread: Option<JoinHandle<Result<(), heartwire::Error>>>,
}

impl Node {
    pub(super) fn start(redis: &RedisServer, has_presence: bool) -> io::Result<Self> {
        let backplane = Redis::new(&redis.url()).map_err(io::Error::other)?.publish_timeout(CEILING);
        let topics = Topics::new().history(KEPT, 1024 * 1024, Duration::from_secs(600)).presence(has_presence);
        let server = Server::bind("127.0.0.1:0").map_err(io::Error::other)?.topics(topics.backplane(backplane));
        let handle = server.handle();
        let serve = move || {
            server.serve(|connection| {
                loop {
                    connection.recv()?;
                }
            })
        };
        Ok(Self { handle, thread: Some(thread::Builder::new().spawn(serve)?) })
    }

    /// Waits until it has a copy of everything.
    pub(super) fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + CEILING;
        while !self.handle.backplane().is_some_and(|backplane| backplane.is_connected) {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a node does not connect to Redis"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shutdown();
        // What it has to say is of no use any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What was done in one measurement, and what it took.
pub(super) struct Sample {
    nodes: f64,
    /// Payload of all entries of the log, in bytes.
    payload: f64,
    took: Counters,
}

/// One round: what each part takes, by the least squares over all samples.
pub(super) struct Costs {
    pub(super) publish: f64,
    pub(super) reading: f64,
    pub(super) entry: f64,
    pub(super) kilobyte: f64,
    pub(super) reading_bytes: f64,
    pub(super) entry_bytes: f64,
    /// Cores of Redis that so many idle nodes take: measured, and by these costs.
    pub(super) idle: (f64, f64),
    /// By how much the sample that fits worst is off, as a ratio.
    pub(super) worst: f64,
}

pub(super) fn costs(common: &Common, round: usize) -> io::Result<Costs> {
    let mut redis = RedisServer::start()?;
    let (mut samples, mut nodes) = (Vec::new(), Vec::<Node>::new());
    for count in NODES {
        while nodes.len() < count {
            let node = Node::start(&redis, false)?;
            node.wait()?;
            nodes.push(node);
        }
        for (bytes, at_once) in [(SMALL, 1), (SMALL, PUBLISHERS), (LARGE, PUBLISHERS)] {
            // Fewer where each is read by more.
            let messages = if at_once == 1 { 200 } else { 40_000 / (count / 4 + 3) };
            let pace = (at_once == 1).then_some(Duration::from_millis(4));
            let sample = sample(&mut redis, &nodes, bytes, at_once, messages, pace)?;
            let each = sample.took.processor / sample.took.entries;
            common.progress("scale", &format!("{count} nodes"), round, &format!("{bytes} bytes, {each:.0} µs each"));
            samples.push(sample);
        }
    }
    let (before, began) = (redis.counters()?, Instant::now());
    thread::sleep(Duration::from_secs(5));
    solve(&samples, nodes.len() as f64, redis.counters()?.since(before), began.elapsed())
}

/// Publishes so many messages, so many at a time, or one after another with a pause.
fn sample(
    redis: &mut RedisServer,
    nodes: &[Node],
    bytes: usize,
    at_once: usize,
    messages: usize,
    pace: Option<Duration>,
) -> io::Result<Sample> {
    let payload = "x".repeat(bytes);
    let left = AtomicUsize::new(messages);
    let publish = || {
        while let Ok(number) = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            let topic = format!("topic/{}", number % TOPICS);
            nodes[0]
                .handle
                .publish(&topic, payload.as_str())
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
            pace.into_iter().for_each(thread::sleep);
        }
        Ok::<_, io::Error>(())
    };
    let before = redis.counters()?;
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..at_once).map(|_| scope.spawn(publish)).collect();
        publishers.into_iter().try_for_each(|publisher| publisher.join().unwrap_or(Err(io::ErrorKind::Other.into())))
    })?;
    // Until the others have it too.
    let newest = redis.counters()?.entries;
    wait_for_all(nodes)?;
    let took = redis.counters()?.since(before);
    if newest < messages as f64 {
        return Err(io::Error::other("not all messages are in the log"));
    }
    let payload = (messages * bytes) as f64 + (took.entries - messages as f64) * ABOUT;
    Ok(Sample { nodes: nodes.len() as f64, payload, took })
}

fn wait_for_all(nodes: &[Node]) -> io::Result<()> {
    let deadline = Instant::now() + CEILING;
    let last = |node: &Node| node.handle.topics().iter().map(|topic| topic.position.offset()).sum::<u64>();
    let wanted = last(&nodes[0]);
    while nodes.iter().any(|node| last(node) < wanted) {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "not all nodes have all messages"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn solve(samples: &[Sample], nodes: f64, idle: Counters, span: Duration) -> io::Result<Costs> {
    let parts = |sample: &Sample| {
        let Counters { entries, readings, .. } = sample.took;
        vec![entries, readings, entries * sample.nodes, sample.payload * sample.nodes / 1000.0]
    };
    let rows: Vec<_> = samples.iter().map(|sample| (parts(sample), sample.took.processor)).collect();
    let wrong = || io::Error::other("what was measured does not fit together; try again on a quiet machine");
    let processor = fit::solve(&rows).ok_or_else(wrong)?;
    let sent = |sample: &Sample| {
        let read = sample.took.entries * sample.nodes;
        (vec![sample.took.readings, read], sample.took.sent - sample.payload * sample.nodes)
    };
    let sent = fit::solve(&samples.iter().map(sent).collect::<Vec<_>>()).ok_or_else(wrong)?;
    let share = |took: f64| took / span.as_micros().max(1) as f64;
    let expected = idle.entries * processor[0] + idle.readings * processor[1] + idle.entries * nodes * processor[2];
    Ok(Costs {
        publish: processor[0],
        reading: processor[1],
        entry: processor[2],
        kilobyte: processor[3],
        reading_bytes: sent[0],
        entry_bytes: sent[1],
        idle: (share(idle.processor), share(expected)),
        worst: fit::worst(&rows, &processor),
    })
}

//! Two nodes of a server, and the Redis that they share.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::TIME;
use crate::process::Server;
use crate::server::redis::Redis;
use crate::server::{Kind, ServeOptions};
use crate::topics::board::Board;
use crate::topics::publisher::Publisher;

pub(super) struct Cluster {
    /// Where messages are published.
    pub(super) a: Server,
    pub(super) b: Server,
    pub(super) redis: Redis,
}

impl Cluster {
    pub(super) fn start(kind: Kind, fsync: &str) -> io::Result<Self> {
        let redis = Redis::start(fsync)?;
        let options = ServeOptions { redis: Some(redis.url()), ..ServeOptions::default() };
        let nodes = [Server::start(kind, &options)?, Server::start(kind, &options)?];
        for node in &nodes {
            await_redis(node.address)?;
        }
        let [a, b] = nodes;
        Ok(Self { a, b, redis })
    }

    /// A publisher at A, whose messages cost the time of both nodes and of Redis.
    pub(super) fn publisher(&self, connections: usize) -> io::Result<Publisher> {
        let nodes = [&self.a, &self.b].map(|node| node.process.pid());
        let groups = nodes.into_iter().chain(self.redis.pid()).collect();
        Publisher::open_at(self.a.address, true, groups, connections)
    }

    /// Lets all end by themselves, Redis last.
    pub(super) fn finish(self) -> io::Result<()> {
        self.a.process.finish()?;
        self.b.process.finish()
    }
}

/// A node may listen before it is connected to Redis. Then it takes no message.
fn await_redis(node: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + TIME;
    loop {
        let mut publisher = Publisher::open_at(node, true, Vec::new(), 1)?;
        let nobody = Board::new(0, publisher.waker());
        match publisher.publish_all(&nobody, std::iter::once(("ready".to_owned(), 0))) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

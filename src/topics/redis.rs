//! Redis (or Valkey) as what connects several servers, so that they have the same topics.
//!
//! Redis has the truth: the epoch, each topic's history and its keys, and a log of what was published lately. Scripts
//! change them, each as a whole. Every node keeps a copy of all histories, which its `follower` keeps up with the log;
//! from that copy its subscribers are served, so that none of them waits for Redis. What is published goes by the
//! `outbox` to the `writer`, and comes back by the log like what others publish: there is one order for all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

mod address;
mod census;
mod connection;
mod follower;
mod link;
mod log;
pub(super) mod members;
pub(super) mod node;
mod node_info;
mod nodes;
pub(super) mod outbox;
mod retrying;
mod scripts;
mod writer;

use address::Address;
pub(super) use node_info::Load;
pub use node_info::{BackplaneInfo, FormerNode, NodeInfo, NodeState};
use nodes::Nodes;

use crate::durations::clamp_duration;
use crate::heartbeat::HeartbeatPolicy;
#[cfg(feature = "tls")]
use crate::tls::ClientTls;

/// The name of a node.
pub(super) type NodeName = Arc<str>;

/// A Redis, 7.0 or later, or Valkey, that several servers share as their backplane. Give it to
/// [`Topics::backplane`](super::Topics::backplane).
///
/// ```no_run
/// use heartwire::topics::{Redis, Topics};
///
/// # fn f() -> Result<Topics, heartwire::topics::RedisError> {
/// let topics = Topics::new().backplane(Redis::new("redis://:password@10.0.0.5/")?);
/// # Ok(topics) }
/// ```
#[derive(Debug, Clone)]
pub struct Redis {
    address: Address,
    prefix: String,
    heartbeat: HeartbeatPolicy,
    publish_timeout: Duration,
}

impl Redis {
    /// The Redis at this URL: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS, for which the feature
    /// `tls` is needed, or `unix:///PATH`.
    ///
    /// Where Sentinels decide which Redis is the master:
    /// `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST.../MASTER[/DB]`. User and password are those
    /// of Redis; the Sentinels are asked without, in the order given.
    ///
    /// # Errors
    /// [`RedisError`] if the URL is none of these. It does not show the URL, which may have a password.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let second = Duration::from_secs(1);
        Ok(Self {
            address: Address::parse(url)?,
            prefix: "heartwire".to_owned(),
            heartbeat: HeartbeatPolicy::new(5 * second, 2 * second),
            publish_timeout: 5 * second,
        })
    }

    /// What the names of all keys in Redis begin with. Default `heartwire`. Servers with the same prefix have the same
    /// topics.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The heartbeat of the connections to Redis: one that does not answer is given up after the policy's
    /// [worst case](HeartbeatPolicy::worst_case), and connected to anew. Default: an interval of 5 s, a timeout of 2 s,
    /// 3 misses; so after 11 s.
    pub fn heartbeat(mut self, policy: HeartbeatPolicy) -> Self {
        self.heartbeat = policy;
        self
    }

    /// How long a message that is to be published waits for Redis. After that, publishing fails with
    /// [`TopicError::BackplaneUnavailable`](super::TopicError::BackplaneUnavailable), and the message may have been
    /// published or not.
    /// Default 5 s; clamped to 1 ms to 10 years.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = clamp_duration(timeout);
        self
    }

    /// Whom a `rediss://` URL trusts, and our own certificate. Default: [the system's roots](ClientTls::new), and no
    /// certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.address.set_tls(tls);
        self
    }

    /// How often this server tells the others that it lives.
    fn announcement_interval(&self) -> Duration {
        self.heartbeat.ping_interval().unwrap_or(Duration::from_secs(5))
    }

    /// How long after its end a server is found dead that said nothing.
    pub(super) fn node_worst_case(&self) -> Duration {
        self.heartbeat.worst_case().unwrap_or(Duration::from_secs(3600))
    }

    /// How long our own announcement may take to come back, and others may be silent before theirs is overdue.
    fn longest_return(&self) -> Duration {
        self.announcement_interval() + self.heartbeat.pong_timeout().unwrap_or_default()
    }

    /// How long Redis may be silent before its next answer is overdue.
    fn answer_patience(&self) -> Duration {
        self.longest_block() + self.heartbeat.pong_timeout().unwrap_or_default()
    }

    /// What one of the servers, of this name, knows of the others.
    fn nodes(&self, own: NodeName) -> Nodes {
        let timeout = self.heartbeat.pong_timeout().unwrap_or_default();
        Nodes::new(own, self.announcement_interval(), timeout, self.node_worst_case())
    }

    /// How long Redis may wait before it says that there is nothing new. A sign of life is due within the timeout.
    fn longest_block(&self) -> Duration {
        let second = Duration::from_secs(1);
        let policy = &self.heartbeat;
        let times = [policy.ping_interval(), policy.pong_timeout()].into_iter().flatten();
        times.min().map_or(second, |shortest| shortest / 2).clamp(Duration::from_millis(1), second)
    }
}

/// The URL of a Redis cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisError(String);

impl RedisError {
    fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RedisError {}

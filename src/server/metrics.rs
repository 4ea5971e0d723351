//! The server's counters in the text format of Prometheus (OpenMetrics 1.0).
//!
//! They need no state of their own: each scrape takes one snapshot, so its figures belong to one moment.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::http::response::Response;
use crate::server::Server;
use crate::server::access::StatusAccess;
use crate::server::handle::ServerHandle;
use crate::supervisor::stats::{RoundTrips, Snapshot};
#[cfg(feature = "redis")]
use crate::topics::NodeState;
#[cfg(feature = "topics")]
use crate::topics::TopicInfo;

/// Requires the feature `metrics`.
impl Server {
    /// Serves the server's [counters](crate::Stats) at this path, such as `"/metrics"`, in the text format of
    /// Prometheus (OpenMetrics 1.0). Default: no such path. Further calls add paths.
    ///
    /// They are the figures of [`ServerHandle::snapshot`]: connections, openings and closures by cause, Pings, Pongs
    /// and misses, a histogram of round trips, messages and bytes in both directions, memory in queues, failed
    /// handshakes, and what all topics together have. Where these have a backplane, also how it is with that, and how
    /// many servers share it. All names begin with `heartwire_`. They name no peer but show how
    /// busy the server is, so `access` says who may see them. All others get 403.
    ///
    /// A scrape looks at each open connection once, in the supervisor's thread. Between scrapes metrics cost nothing.
    ///
    /// ```no_run
    /// use heartwire::{Server, StatusAccess};
    ///
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = Server::bind("0.0.0.0:9001")?.metrics("/metrics", StatusAccess::Everyone);
    /// # Ok(()) }
    /// ```
    pub fn metrics(mut self, path: impl Into<String>, access: StatusAccess) -> Self {
        let mut registry = Registry::with_prefix("heartwire");
        registry.register_collector(Box::new(Figures(self.handle())));
        self.config.routes.add_page(path, move |request| match access.check_host(request) {
            Ok(()) => answer(&registry),
            Err((refusal, _)) => refusal,
        });
        self
    }
}

fn answer(registry: &Registry) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => Response::new(200)
            .header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            .header("Cache-Control", "no-store")
            .body(body),
        // Writing to a string does not fail.
        Err(_) => Response::new(500).text("internal error\n"),
    }
}

/// Takes the figures at each scrape.
#[derive(Debug)]
struct Figures(ServerHandle);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Snapshot { connections, stats, .. } = self.0.snapshot();
        let mut traffic = stats.traffic;
        let mut queued = 0;
        let mut missing = 0;
        for connection in &connections {
            traffic += connection.traffic;
            queued += connection.queued as u64;
            missing += u64::from(connection.missed > 0);
        }
        let mut out = Encoder(&mut encoder);

        out.gauge("connections", "Connections open now", None, connections.len() as u64)?;
        out.gauge("connections_missing", "Connections open now that have missed at least one Pong", None, missing)?;
        out.gauge("queue", "Bytes that wait for peers to take them", Some(&Unit::Bytes), queued)?;

        let help = "Memory taken by queues and by data read ahead";
        out.gauge("buffered", help, Some(&Unit::Bytes), stats.buffered)?;

        #[cfg(feature = "topics")]
        out.topics(&self.0)?;
        #[cfg(feature = "redis")]
        out.backplane(&self.0)?;

        out.counter("accepted", "TCP connections accepted", stats.accepted)?;
        out.counter("openings", "Connections that completed the opening handshake", stats.opened)?;
        out.counters("closures", "Connections that ended", "cause", stats.closed.into_iter())?;
        out.counter("handshake_failures", "Opening handshakes that failed", stats.handshakes_failed)?;
        out.counter("refusals", "Opening handshakes refused because of a limit on connections", stats.refused)?;
        out.counter("http_requests", "Plain HTTP requests answered", stats.http_requests)?;
        out.counter("http_unclaimed", "Plain HTTP requests that only got 426 or 405", stats.http_unclaimed)?;
        out.counter("without_request", "Clients that connected and sent no request", stats.without_request)?;
        out.counter("accept_errors", "Failures to accept a TCP connection", stats.accept_errors)?;
        out.counter("thread_errors", "Failures to start a connection's thread", stats.thread_errors)?;

        out.counter("pings", "Pings sent", stats.pings)?;
        out.counter("pongs", "Pongs that answered Pings", stats.pongs)?;
        out.counter("misses", "Pongs missed", stats.missed)?;
        out.counter("stalled_handlers", "Handlers that were away from recv for too long", stats.handlers_stalled)?;
        out.round_trips(&stats.round_trips)?;

        let both_ways = |received, sent| [("in", received), ("out", sent)].into_iter();
        let messages = both_ways(traffic.messages_in, traffic.messages_out);
        out.counters("messages", "Data messages received and accepted for sending", "direction", messages)?;
        let bytes = both_ways(traffic.bytes_in, traffic.bytes_out);
        out.counters(
            "traffic_bytes",
            "Bytes received and sent, headers and control frames included",
            "direction",
            bytes,
        )?;
        out.counter("broadcasts_dropped", "Broadcasts dropped for peers whose queue was full", traffic.dropped)?;
        out.counter("log_lines_lost", "Log lines that were lost", stats.log_lines_lost)
    }
}

struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value as f64);
        gauge.encode(self.0.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }

    #[cfg(feature = "redis")]
    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let gauge = ConstGauge::new(value.as_secs_f64());
        gauge.encode(self.0.encode_descriptor(name, help, Some(&Unit::Seconds), gauge.metric_type())?)
    }

    #[cfg(feature = "redis")]
    fn total_seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let counter = ConstCounter::new(value.as_secs_f64());
        counter.encode(self.0.encode_descriptor(name, help, Some(&Unit::Seconds), counter.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    /// A counter for each value of a label.
    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &'a str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&[(label, of)])?)?;
        }
        Ok(())
    }

    /// Sums over all topics, if the server has any: one for each topic would be as many series as clients like.
    #[cfg(feature = "topics")]
    fn topics(&mut self, handle: &ServerHandle) -> fmt::Result {
        let Some(hub) = handle.topics.get() else { return Ok(()) };
        let topics = hub.infos();
        let sum = |of: fn(&TopicInfo) -> usize| topics.iter().map(|(topic, _)| of(topic) as u64).sum();
        self.gauge("topics", "Topics", None, topics.len() as u64)?;
        self.gauge("subscriptions", "Subscriptions to topics", None, sum(|topic| topic.subscribers))?;
        let help = "Subscriptions to topics that get their messages from the history, because they are behind";
        self.gauge("subscriptions_behind", help, None, sum(|topic| topic.behind))?;
        self.gauge("history_messages", "Messages that topics keep", None, sum(|topic| topic.kept))?;
        self.gauge("history", "Payload that topics keep", Some(&Unit::Bytes), sum(|topic| topic.bytes))?;
        let counters = hub.counters();
        self.counters("publications", "Messages published to topics", "by", counters.publications())?;
        let help = "Times that somebody was told that messages of a topic are lost";
        self.counter("losses", help, counters.losses())?;
        let help = "What clients of topics were refused, by the error that they were given";
        self.counters("topic_refusals", help, "error", counters.refusals())
    }

    /// How it is with the backplane of the topics, if they have one, and with the servers that share it. Each of these
    /// has its own figures to tell: here they are only counted.
    #[cfg(feature = "redis")]
    fn backplane(&mut self, handle: &ServerHandle) -> fmt::Result {
        let Some(backplane) = handle.backplane() else { return Ok(()) };
        let nodes = handle.nodes();
        let in_state = |state| nodes.iter().filter(|node| node.state == state).count() as u64;

        let help = "Whether the backplane of the topics is connected (1) or away (0)";
        self.gauge("backplane_connected", help, None, u64::from(backplane.is_connected))?;
        if let Some(round_trip) = backplane.round_trip {
            let help = "Time that the backplane took to answer the last Ping";
            self.seconds("backplane_round_trip", help, round_trip)?;
        }
        let help = "Messages, and other entries of the backplane's log, that this server was last seen to lack";
        self.gauge("backplane_lag_entries", help, None, backplane.lag)?;
        let help = "Time for which the copy of all histories has not been known to be complete, 0 if it is";
        self.seconds("backplane_lag", help, backplane.behind)?;
        let help = "Messages of this server that wait to be published through the backplane";
        self.gauge("backplane_waiting_messages", help, None, backplane.waiting as u64)?;
        self.counter("backplane_outages", "Times that the backplane was lost", backplane.outages)?;
        let help = "Time for which the backplane was away, also before it was first connected";
        self.total_seconds("backplane_away", help, backplane.away)?;
        let help = "Times that the histories began anew because the backplane had lost messages";
        self.counter("backplane_epochs", help, backplane.epochs)?;

        let help = "Servers that share the topics, this one included, as far as they are not known to be gone";
        self.gauge("nodes", help, None, nodes.len() as u64)?;
        let help = "Servers that share the topics whose announcements are overdue";
        self.gauge("nodes_doubted", help, None, in_state(NodeState::Doubted))?;
        self.counter("nodes_lost", "Servers that shared the topics and were found dead", backplane.nodes_lost)?;
        match nodes.iter().find(|node| node.is_own).and_then(|node| node.members) {
            Some(members) => {
                self.gauge("members", "Users that are subscribed here, and connections without one", None, members)
            }
            None => Ok(()),
        }
    }

    fn round_trips(&mut self, round_trips: &RoundTrips) -> fmt::Result {
        let bound = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
        let buckets: Vec<(f64, u64)> = round_trips.counts().map(|(upper, count)| (bound(upper), count)).collect();
        let (sum, samples) = (round_trips.sum().as_secs_f64(), round_trips.samples());
        let help = "Time from a Ping to its Pong";
        let mut encoder = self.0.encode_descriptor("round_trip", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, samples, &buckets, None)
    }
}

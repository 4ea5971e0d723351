//! The state of the server as JSON for the status page. Durations are in milliseconds.
//!
//! The size of a state is bounded, whatever peers do: it shows a limited number of connections, and cuts each text that
//! comes from a peer.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::connection::report::{CloseReport, ConnectionInfo};
use crate::heartbeat::HeartbeatPolicy;
use crate::http::forwarded::Remote;
use crate::server::status::STREAM_PATH;
use crate::supervisor::stats::{Snapshot, Stats};

/// The most connections that are shown one by one.
const SHOWN: usize = 100;

/// The most characters of a path or of a close reason that are shown.
const MOST_CHARACTERS: usize = 120;

/// The part that never changes: the server, and the default heartbeat of its connections.
pub(super) fn about(address: &str, policy: HeartbeatPolicy) -> Value {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let leader = match (policy.ping_interval(), policy.period()) {
        (Some(_), _) => "server",
        (None, Some(_)) => "peer",
        (None, None) => "off",
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "address": address,
        "leader": leader,
        "interval": policy.period().map(ms),
        "timeout": policy.pong_timeout().map(ms),
        "max_missed": policy.misses_allowed(),
        "worst_case": policy.worst_case().map(ms),
        "started": ms(started),
    })
}

/// The whole state at this moment. `ended`: the connections that ended last, the newest first, and when.
pub(super) fn state<'a>(about: &Value, snapshot: Snapshot, ended: impl Iterator<Item = &'a (Instant, Value)>) -> Value {
    let Snapshot { mut connections, stats, .. } = snapshot;
    let open = connections.len();
    let totals = totals(&stats, &connections);
    // Those in trouble first, then the newest.
    connections.sort_by_key(|connection| (connection.missed == 0, is_watcher(connection), u64::MAX - connection.id));
    connections.truncate(SHOWN);
    connections.sort_by_key(|connection| connection.id);
    let now = Instant::now();
    json!({
        "server": about,
        "totals": totals,
        "open": open,
        "connections": connections.iter().map(connection).collect::<Vec<_>>(),
        "ended": ended.map(|(at, ended)| with_age(ended, now - *at)).collect::<Vec<_>>(),
    })
}

fn totals(stats: &Stats, connections: &[ConnectionInfo]) -> Value {
    let mut traffic = stats.traffic;
    for connection in connections {
        traffic += connection.traffic;
    }
    json!({
        "opened": stats.opened,
        "closed": stats.closed,
        "missed": stats.missed,
        "pings": stats.pings,
        "pongs": stats.pongs,
        "refused": stats.handshakes_failed,
        "messages_in": traffic.messages_in,
        "messages_out": traffic.messages_out,
        "bytes_in": traffic.bytes_in,
        "bytes_out": traffic.bytes_out,
        "queued": connections.iter().map(|connection| connection.queued).sum::<usize>(),
    })
}

pub(super) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn is_watcher(connection: &ConnectionInfo) -> bool {
    connection.path == STREAM_PATH
}

/// The peer's name: its address, with the client's before it if a trusted proxy named one.
fn name(peer: SocketAddr, client: IpAddr) -> String {
    Remote { peer_addr: peer, remote_ip: client }.to_string()
}

fn connection(info: &ConnectionInfo) -> Value {
    json!({
        "id": info.id,
        "peer": name(info.peer_addr, info.remote_ip),
        "user": info.user.as_deref().map(shown),
        "path": shown(&info.path),
        "extensions": shown(&info.extensions),
        "is_watcher": is_watcher(info),
        "age": ms(info.age),
        "silent": ms(info.silent),
        "missed": info.missed,
        "max_missed": info.max_missed,
        "round_trip": info.round_trip.map(|round_trip| ms(round_trip.last)),
        "beats": info.round_trip.map_or(0, |round_trip| round_trip.samples),
        "messages_in": info.traffic.messages_in,
        "messages_out": info.traffic.messages_out,
        "bytes_in": info.traffic.bytes_in,
        "bytes_out": info.traffic.bytes_out,
        "queued": info.queued,
        "away": info.away.map(ms),
    })
}

/// A connection that has ended.
pub(super) fn ended(report: &CloseReport) -> Value {
    json!({
        "id": report.id,
        "peer": name(report.peer_addr, report.remote_ip),
        "user": report.user.as_deref().map(shown),
        "path": shown(&report.path),
        "cause": report.reason.name(),
        "reason": shown(&report.reason.to_string()),
        "is_clean": report.reason.is_clean(),
        "age": ms(report.age),
        "missed": report.missed,
        "messages_in": report.traffic.messages_in,
        "messages_out": report.traffic.messages_out,
    })
}

/// With how long ago that was.
fn with_age(ended: &Value, ago: Duration) -> Value {
    let mut ended = ended.clone();
    ended["ago"] = ms(ago).into();
    ended
}

/// As much of a text as is shown.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

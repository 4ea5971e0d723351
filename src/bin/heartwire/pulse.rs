//! The live stream behind the status page: what is open, how it beats, and what has ended, as JSON over a WebSocket.
//!
//! One thread takes a snapshot now and then, as long as anybody watches, and sends the same text to all. Each text is
//! the whole state, so a watcher that is slow misses some and has lost nothing: while one still waits for it, it gets no
//! other.
//!
//! What a look costs is bounded, whatever peers do: so many connections are shown, so much of each text that is theirs,
//! and so many times a second.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel as channel;
use heartwire::{
    CloseReport, Connection, ConnectionInfo, Error, Event, Message, Sender, ServerHandle, Snapshot, Stats, TrySendError,
};
use serde_json::{Value, json};

use crate::cli::{Mode, ServeOptions};

/// Where the stream is.
pub(crate) const PATH: &str = "/heartwire/pulse";

/// Time between two looks, while little happens or many are connected.
const PERIOD: Duration = Duration::from_millis(500);
const SLOW_PERIOD: Duration = Duration::from_secs(2);
const MANY: usize = 1_000;

/// After something happened, so much else may happen before the next look; and this part of a period lies between two
/// looks at least.
const SOON: Duration = Duration::from_millis(50);
const MOST_LOOKS_IN_A_PERIOD: u32 = 2;

/// Most connections that are told of one by one, and most of those that have ended.
const SHOWN: usize = 100;
const REMEMBERED: usize = 30;

/// Most characters that are shown of a path, or of the reason of an end.
const MOST_CHARACTERS: usize = 120;

/// Takes watchers in.
pub(crate) struct Pulse {
    watchers: channel::Sender<Sender>,
}

impl Pulse {
    pub(crate) fn start(handle: &ServerHandle, options: &ServeOptions) -> io::Result<Self> {
        let (watchers, arrivals) = channel::unbounded();
        let teller = Teller {
            handle: handle.clone(),
            about: about(handle, options),
            watchers: Vec::new(),
            ended: VecDeque::new(),
            period: PERIOD,
        };
        let events = handle.events();
        thread::Builder::new().name("heartwire-pulse".into()).spawn(move || teller.run(&arrivals, &events))?;
        Ok(Self { watchers })
    }

    /// Shows the pulse to a page, until that goes.
    pub(crate) fn show(&self, conn: &mut Connection) -> Result<(), Error> {
        // Fails only when the server has ended.
        let _ = self.watchers.send(conn.sender());
        loop {
            conn.recv()?;
        }
    }
}

struct Teller {
    handle: ServerHandle,
    /// What never changes.
    about: Value,
    watchers: Vec<Sender>,
    /// The last that ended, as they are shown, the newest first.
    ended: VecDeque<(Instant, Value)>,
    period: Duration,
}

impl Teller {
    /// Runs until the server has ended.
    fn run(mut self, arrivals: &channel::Receiver<Sender>, events: &channel::Receiver<Event>) {
        let mut next_look = None;
        // No look before this.
        let mut earliest = Instant::now();
        loop {
            let look = next_look.map_or_else(channel::never, channel::at);
            channel::select! {
                recv(events) -> event => match event {
                    Ok(event) => {
                        self.note(event);
                        let soon = earliest.max(Instant::now() + SOON);
                        next_look = next_look.map(|next: Instant| next.min(soon));
                    }
                    Err(_) => return,
                },
                recv(arrivals) -> watcher => if let Ok(watcher) = watcher {
                    self.watchers.push(watcher);
                    next_look = Some(earliest);
                },
                recv(look) -> _ => {
                    self.tell();
                    let now = Instant::now();
                    earliest = now + self.period / MOST_LOOKS_IN_A_PERIOD;
                    next_look = (!self.watchers.is_empty()).then(|| now + self.period);
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        if let Event::Closed(report) = event {
            self.ended.truncate(REMEMBERED - 1);
            self.ended.push_front((Instant::now(), ended(&report)));
        }
    }

    fn tell(&mut self) {
        let snapshot = self.handle.snapshot();
        self.period = if snapshot.connections.len() > MANY { SLOW_PERIOD } else { PERIOD };
        let message = Message::from(self.state(snapshot).to_string());
        self.watchers.retain(|watcher| match watcher.queued() {
            0 => !matches!(watcher.try_send(message.clone()), Err(TrySendError::Closed(_))),
            _ => !watcher.is_closed(),
        });
    }

    fn state(&self, snapshot: Snapshot) -> Value {
        let Snapshot { mut connections, stats, .. } = snapshot;
        let open = connections.len();
        let totals = totals(&stats, &connections);
        // Those in trouble first, then the newest.
        connections
            .sort_by_key(|connection| (connection.missed == 0, is_watcher(connection), u64::MAX - connection.id));
        connections.truncate(SHOWN);
        connections.sort_by_key(|connection| connection.id);
        let now = Instant::now();
        json!({
            "server": self.about,
            "totals": totals,
            "open": open,
            "connections": connections.iter().map(connection).collect::<Vec<_>>(),
            "ended": self.ended.iter().map(|(at, ended)| with_age(ended, now - *at)).collect::<Vec<_>>(),
        })
    }
}

fn about(handle: &ServerHandle, options: &ServeOptions) -> Value {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mode = match options.mode {
        Mode::Echo => "echo",
        Mode::Broadcast => "broadcast",
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "address": handle.local_addr().to_string(),
        "mode": mode,
        "heartbeat": options.heartbeat_in_words(),
        "interval": options.beat_interval().map(ms),
        "worst_case": options.heartbeat().worst_case().map(ms),
        "started": ms(started),
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

/// Durations are told in milliseconds.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn is_watcher(connection: &ConnectionInfo) -> bool {
    connection.path == PATH
}

/// Who it is: behind a proxy that is trusted, the client.
fn name(peer: SocketAddr, client: IpAddr) -> String {
    if client == peer.ip().to_canonical() { peer.to_string() } else { format!("{client} via {peer}") }
}

fn connection(info: &ConnectionInfo) -> Value {
    json!({
        "id": info.id,
        "peer": name(info.peer_addr, info.remote_ip),
        "path": shown(&info.path),
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

fn ended(report: &CloseReport) -> Value {
    json!({
        "id": report.id,
        "peer": name(report.peer_addr, report.remote_ip),
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
fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

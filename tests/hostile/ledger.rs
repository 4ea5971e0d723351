//! Everything that a server said of its connections, to be asked about one of them, and counted at the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use heartwire::{CloseReason, CloseReport, ConnectionId, Event};

pub(crate) struct Ledger {
    events: Receiver<Event>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    opened: BTreeMap<ConnectionId, Opened>,
    failed: BTreeMap<SocketAddr, (Option<u16>, String)>,
    /// Reports of connections that had not opened, or of which one was here already.
    surplus: Vec<String>,
}

struct Opened {
    peer: SocketAddr,
    path: String,
    report: Option<CloseReport>,
}

impl Ledger {
    pub(crate) fn new(events: Receiver<Event>) -> Self {
        Self { events, entries: Mutex::default() }
    }

    /// Asks until there is an answer, or patience is over.
    fn wait_for<T>(&self, patience: Duration, what: &str, ask: impl Fn(&Entries) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + patience;
        let mut entries = self.entries.lock().unwrap();
        loop {
            self.events.try_iter().for_each(|event| entries.enter(event));
            if let Some(answer) = ask(&entries) {
                return Ok(answer);
            }
            match self.events.recv_deadline(deadline) {
                Ok(event) => entries.enter(event),
                Err(_) => return Err(format!("no {what} within {patience:?}")),
            }
        }
    }

    /// The report on the connection from this address.
    pub(crate) fn closed(&self, peer: SocketAddr, patience: Duration) -> Result<CloseReport, String> {
        self.wait_for(patience, "report", |entries| {
            // Ports come again: the newest is meant.
            entries.opened.values().rev().find(|opened| opened.peer == peer)?.report.clone()
        })
    }

    /// The report on the connection with this path.
    pub(crate) fn closed_path(&self, path: &str, patience: Duration) -> Result<CloseReport, String> {
        self.wait_for(patience, "report", |entries| {
            entries.opened.values().rev().find(|opened| opened.path == path)?.report.clone()
        })
    }

    pub(crate) fn handshake_failed(
        &self,
        peer: SocketAddr,
        patience: Duration,
    ) -> Result<(Option<u16>, String), String> {
        self.wait_for(patience, "failed handshake", |entries| entries.failed.get(&peer).cloned())
    }

    /// How many connections opened, and how many of those that should have lived were found dead; or what is wrong with
    /// the reports. For a server that has ended.
    pub(crate) fn settle(&self, should_live: impl Fn(&str) -> bool) -> Result<(usize, usize), String> {
        let mut entries = self.entries.lock().unwrap();
        self.events.try_iter().for_each(|event| entries.enter(event));
        if let Some(what) = entries.surplus.first() {
            return Err(format!("{} reports too many: {what}", entries.surplus.len()));
        }
        let missing = entries.opened.iter().filter(|(_, opened)| opened.report.is_none()).count();
        if missing > 0 {
            return Err(format!("{missing} connections were never reported closed"));
        }
        let is_dead = |reason: &CloseReason| {
            matches!(reason, CloseReason::HeartbeatLost { .. } | CloseReason::WriteStalled { .. })
        };
        let reports = entries.opened.values().filter_map(|opened| opened.report.as_ref());
        let false_deaths = reports.filter(|report| should_live(&report.path) && is_dead(&report.reason)).count();
        Ok((entries.opened.len(), false_deaths))
    }
}

impl Entries {
    fn enter(&mut self, event: Event) {
        match event {
            Event::Opened { id, peer_addr: peer, path, .. } => {
                let earlier = self.opened.insert(id, Opened { peer, path, report: None });
                self.surplus.extend(earlier.map(|_| format!("#{id} opened twice")));
            }
            Event::Closed(report) => match self.opened.get_mut(&report.id) {
                Some(opened) if opened.report.is_none() => opened.report = Some(report),
                _ => self.surplus.push(format!("#{} {}", report.id, report.reason)),
            },
            Event::HandshakeFailed { peer_addr: peer, status, reason, .. } => {
                self.failed.insert(peer, (status, reason));
            }
            _ => {}
        }
    }
}

//! The events of a server or a client, and what its reports say.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Instant;

use crossbeam_channel::Receiver;
use heartwire::{CloseCode, CloseReason, CloseReport, ConnectionId, Event};

use super::CEILING;

/// Events, to be waited for in any order.
pub(crate) struct Events {
    receiver: Receiver<Event>,
    /// Events that came while another one was waited for.
    passed_over: RefCell<VecDeque<Event>>,
}

impl Events {
    pub(crate) fn new(receiver: Receiver<Event>) -> Self {
        Self { receiver, passed_over: RefCell::default() }
    }

    /// Waits for the first event that `pick` takes; those before it are kept for later.
    pub(crate) fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed_over = self.passed_over.borrow_mut();
        for index in 0..passed_over.len() {
            if let Some(found) = pick(&passed_over[index]) {
                passed_over.remove(index);
                return found;
            }
        }
        let deadline = Instant::now() + CEILING;
        loop {
            match self.receiver.recv_deadline(deadline) {
                Ok(event) => match pick(&event) {
                    Some(found) => return found,
                    None => passed_over.push_back(event),
                },
                Err(why) => panic!("waiting for {what}: {why}; came: {passed_over:#?}"),
            }
        }
    }

    pub(crate) fn opened(&self) -> ConnectionId {
        self.wait_for("Opened", |event| match event {
            Event::Opened { id, .. } => Some(*id),
            _ => None,
        })
    }

    pub(crate) fn closed(&self) -> CloseReport {
        self.wait_for("Closed", |event| match event {
            Event::Closed(report) => Some(report.clone()),
            _ => None,
        })
    }

    pub(crate) fn closed_of(&self, wanted: ConnectionId) -> CloseReport {
        self.wait_for(&format!("Closed of #{wanted}"), |event| match event {
            Event::Closed(report) if report.id == wanted => Some(report.clone()),
            _ => None,
        })
    }

    /// Waits for the next miss: misses in a row so far, and how many make the peer dead.
    pub(crate) fn missed(&self) -> (u32, u32) {
        self.wait_for("Missed", |event| match event {
            Event::Missed { missed, max_missed, .. } => Some((*missed, *max_missed)),
            _ => None,
        })
    }

    pub(crate) fn handshake_failed(&self) -> (Option<u16>, String) {
        self.wait_for("HandshakeFailed", |event| match event {
            Event::HandshakeFailed { status, reason, .. } => Some((*status, reason.clone())),
            _ => None,
        })
    }

    /// What has come so far and nobody has taken, without waiting.
    pub(crate) fn so_far(&self) -> Vec<Event> {
        let mut passed_over = self.passed_over.borrow_mut();
        passed_over.extend(self.receiver.try_iter());
        passed_over.iter().cloned().collect()
    }

    /// Takes out what has come so far, and forgets it.
    pub(crate) fn forget(&self) {
        self.passed_over.borrow_mut().clear();
        self.receiver.try_iter().for_each(drop);
    }

    /// What nobody has taken, up to the end of the server.
    pub(crate) fn rest(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.passed_over.borrow_mut().drain(..).collect();
        let deadline = Instant::now() + CEILING;
        loop {
            match self.receiver.recv_deadline(deadline) {
                Ok(event) => events.push(event),
                Err(error) if error.is_disconnected() => return events,
                Err(error) => panic!("waiting for the end of events: {error}; came: {events:#?}"),
            }
        }
    }
}

/// Codes sent and received, as a report has them.
pub(crate) fn codes(report: &CloseReport) -> (Option<u16>, Option<u16>) {
    (report.sent.map(u16::from), report.received.map(u16::from))
}

/// The Pongs that a peer missed that was found dead; whatever else ended its connection fails the test.
pub(crate) fn lost(report: &CloseReport) -> u32 {
    match report.reason {
        CloseReason::HeartbeatLost { missed, .. } => missed,
        _ => panic!("{report:?}"),
    }
}

pub(crate) fn by_us(code: u16, reason: &str) -> CloseReason {
    CloseReason::Local { code: code.into(), reason: reason.into() }
}

pub(crate) fn by_peer(code: Option<u16>, reason: &str) -> CloseReason {
    CloseReason::Peer { code: code.map(CloseCode::from), reason: reason.into() }
}

pub(crate) fn is_closed(event: &Event) -> bool {
    matches!(event, Event::Closed(_))
}

/// How many connections were reported closed.
pub(crate) fn closures(events: &[Event]) -> usize {
    events.iter().filter(|event| is_closed(event)).count()
}

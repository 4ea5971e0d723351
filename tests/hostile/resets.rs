//! A reset (RST) at every stage of a connection's life.

use std::time::{Duration, Instant};

use heartwire::{CloseCode, CloseReason};

use crate::rig::Rig;
use crate::support::{BINARY, Client, TEXT, fragment, masked, request};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "reset at every stage",
        server: plain,
        check: |rig| at_every_stage(rig, Client::reset),
        control: Control { what: "nobody resets", server: plain, check: |rig| at_every_stage(rig, drop) },
        memory: 24,
    }]
}

/// What may be told of a client that was reset there.
enum Expected {
    /// It has asked for nothing, and is counted.
    Counted,
    HandshakeFailed,
    Closed(fn(&CloseReason) -> bool),
}

fn is_reset(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Io { .. })
}

fn is_closed_by_us(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Local { code: CloseCode::NORMAL, .. })
}

fn is_closed_by_peer(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Peer { code: Some(CloseCode::NORMAL), .. })
}

/// Brings a client to the stage, and says what is expected.
type Stage = (&'static str, fn(&Rig) -> Client, Expected);

fn stages() -> Vec<Stage> {
    use Expected::*;
    vec![
        ("connected", |rig| Client::tcp(rig.address()), Counted),
        ("half a request", |rig| written(Client::tcp(rig.address()), &request().as_bytes()[..40]), HandshakeFailed),
        ("open", |rig| rig.connect("/reset"), Closed(is_reset)),
        ("half a header", |rig| written(rig.connect("/reset"), &masked(TEXT, &[b'x'; 300])[..3]), Closed(is_reset)),
        ("half a payload", |rig| written(rig.connect("/reset"), &masked(TEXT, &[b'x'; 300])[..99]), Closed(is_reset)),
        ("between fragments", |rig| written(rig.connect("/reset"), &fragment(TEXT, b"first")), Closed(is_reset)),
        ("echo under way", |rig| written(rig.connect("/reset"), &masked(BINARY, &[7; 900_000])), Closed(is_reset)),
        ("send buffer full", unread, Closed(is_reset)),
        ("our Close unanswered", closed_by_us, Closed(is_closed_by_us)),
        ("Close answered", closed_by_peer, Closed(is_closed_by_peer)),
    ]
}

fn written(mut client: Client, bytes: &[u8]) -> Client {
    client.write(bytes);
    client
}

/// The server is behind, so a drainer is at work.
fn unread(rig: &Rig) -> Client {
    let client = rig.connect("/firehose");
    let address = client.local_addr();
    let is_behind = || rig.handle.connections().iter().any(|info| info.peer_addr == address && info.queued > 0);
    rig.wait_until("the server is behind", is_behind).expect("it sends without end");
    client
}

fn closed_by_us(rig: &Rig) -> Client {
    let mut client = rig.connect("/closes");
    client.expect_close();
    client
}

fn closed_by_peer(rig: &Rig) -> Client {
    let mut client = rig.connect("/reset");
    client.send_close(1000, "");
    client.expect_close();
    client
}

fn at_every_stage(rig: &Rig, end: fn(Client)) -> Checked {
    let rounds = scaled(40, 8);
    let mut slowest = Duration::ZERO;
    let stages = stages();
    use Expected::*;
    for (name, reach, expected) in &stages {
        for _ in 0..rounds {
            let client = reach(rig);
            let peer = client.local_addr();
            let silent = rig.handle.stats().without_request;
            let ended = Instant::now();
            end(client);
            match expected {
                Counted => rig.wait_until("it is counted", || rig.handle.stats().without_request > silent)?,
                HandshakeFailed => drop(rig.ledger.handshake_failed(peer, rig.patience)?),
                Closed(expected) => {
                    let report = rig.ledger.closed(peer, rig.patience)?;
                    ensure!(expected(&report.reason), "{name}: reported as {}", report.reason);
                }
            }
            slowest = slowest.max(ended.elapsed());
        }
    }
    Ok(format!("{} stages x {rounds}, each with its cause, at most {slowest:.1?} later", stages.len()))
}

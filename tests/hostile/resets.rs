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

/// How a connection that was reset there may be reported; `None` where it has not opened.
type Expected = Option<fn(&CloseReason) -> bool>;

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
    vec![
        ("connected", |rig| Client::tcp(rig.address()), None),
        ("half a request", |rig| written(Client::tcp(rig.address()), &request().as_bytes()[..40]), None),
        ("open", |rig| rig.connect("/reset"), Some(is_reset)),
        ("half a header", |rig| written(rig.connect("/reset"), &masked(TEXT, &[b'x'; 300])[..3]), Some(is_reset)),
        ("half a payload", |rig| written(rig.connect("/reset"), &masked(TEXT, &[b'x'; 300])[..99]), Some(is_reset)),
        ("between fragments", |rig| written(rig.connect("/reset"), &fragment(TEXT, b"first")), Some(is_reset)),
        ("echo under way", |rig| written(rig.connect("/reset"), &masked(BINARY, &[7; 900_000])), Some(is_reset)),
        ("send buffer full", unread, Some(is_reset)),
        ("our Close unanswered", closed_by_us, Some(is_closed_by_us)),
        ("Close answered", closed_by_peer, Some(is_closed_by_peer)),
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
    let is_behind = || rig.handle.connections().iter().any(|info| info.peer == address && info.queued > 0);
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
    for (name, reach, expected) in &stages {
        for _ in 0..rounds {
            let client = reach(rig);
            let peer = client.local_addr();
            let ended = Instant::now();
            end(client);
            match expected {
                None => drop(rig.ledger.handshake_failed(peer, rig.patience)?),
                Some(expected) => {
                    let report = rig.ledger.closed(peer, rig.patience)?;
                    ensure!(expected(&report.reason), "{name}: reported as {}", report.reason);
                }
            }
            slowest = slowest.max(ended.elapsed());
        }
    }
    Ok(format!("{} stages x {rounds}, each with its cause, at most {slowest:.1?} later", stages.len()))
}

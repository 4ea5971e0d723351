//! The closing handshake: data behind the peer's Close frame, and a peer that never answers ours.

use std::time::{Duration, Instant};

use heartwire::{CloseReason, Server};

use crate::rig::Rig;
use crate::support::{CLOSE, Incoming, PING, TEXT, close_payload, masked, ms};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "data after Close",
            server: plain,
            check: |rig| data_after_close(rig, 0),
            control: Control { what: "the data is before it", server: plain, check: |rig| data_after_close(rig, 1) },
            memory: 16,
        },
        Scenario {
            name: "never answering our Close",
            server: |server: Server| server.close_timeout(CLOSE_TIMEOUT),
            check: unanswered_close,
            control: Control {
                what: "the closing handshake may take an hour",
                server: |server: Server| server.close_timeout(Duration::from_secs(3600)),
                check: unanswered_close,
            },
            memory: 16,
        },
    ]
}

/// A Close frame with data behind it, and `before` messages ahead of it.
fn data_after_close(rig: &Rig, before: usize) -> Checked {
    let after = scaled(10_000, 1_000);
    let text = masked(TEXT, b"too late");
    let mut client = rig.connect("/late");
    let mut bytes = text.repeat(before);
    bytes.extend(masked(CLOSE, &close_payload(3001, "enough")));
    bytes.extend(text.repeat(after));
    bytes.extend(masked(PING, b"too late as well"));
    client.try_write(&bytes);
    match client.next_within(rig.patience) {
        Incoming::Frame(frame) if frame.opcode == CLOSE => {
            let (code, reason) = frame.close();
            ensure!(code == Some(3001), "answered with {code:?} {reason}");
        }
        other => return Err(format!("{other:?} instead of the answer to Close")),
    }
    let end = client.expect_end();
    let report = rig.ledger.closed(client.local_addr(), rig.patience)?;
    let CloseReason::Peer { code, reason } = &report.reason else {
        return Err(format!("reported as {}", report.reason));
    };
    ensure!((code.map(u16::from), &reason[..]) == (Some(3001), "enough"), "reported as {}", report.reason);
    ensure!(report.traffic.messages_in == 0, "{} messages were taken", report.traffic.messages_in);
    Ok(format!("{after} messages behind Close, none taken, none answered, end {end:?}"))
}

/// The server's handler is done at once. One kind of peer says nothing to that, the other goes on talking.
fn unanswered_close(rig: &Rig) -> Checked {
    let mut worst = Duration::ZERO;
    for is_talkative in [false, true] {
        let mut client = rig.connect("/closes");
        let (code, _) = rig.close_frame(&mut client)?;
        ensure!(code == Some(1000), "closed with {code:?}");
        let started = Instant::now();
        let end = loop {
            ensure!(started.elapsed() < rig.patience, "not ended within {:?}", rig.patience);
            if is_talkative && !client.try_write(&masked(TEXT, b"did you say something?")) {
                break None;
            }
            match client.next_within(ms(2)) {
                Incoming::Nothing => {}
                Incoming::End(end) => {
                    if !is_talkative {
                        rig.ledger.closed(client.local_addr(), rig.patience)?;
                    }
                    break Some(end);
                }
                Incoming::Frame(frame) => return Err(format!("{frame:?} after Close")),
            }
        };
        // It must let go of the socket and the thread, not only say no more.
        rig.is_idle()?;
        worst = worst.max(started.elapsed());
        rig.has_one_thread()?;
        let report = rig.ledger.closed(client.local_addr(), rig.patience)?;
        let is_ours = matches!(report.reason, CloseReason::Local { .. }) && report.received.is_none();
        ensure!(is_ours, "{end:?}, reported as {} with {:?}", report.reason, report.received);
    }
    Ok(format!("let go of after {worst:.2?} at most, close timeout {CLOSE_TIMEOUT:?}"))
}

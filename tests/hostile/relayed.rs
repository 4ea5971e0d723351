//! Well-behaved clients behind a relay that injects faults: what arrives is whole and in order, or the connection ends
//! with a cause that is the truth.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Accept, CloseReason, HeartbeatPolicy, Server};
use tungstenite::{Message, WebSocket};

use crate::relay::{Ending, Plan, Relay};
use crate::rig::Rig;
use crate::support::wire::Wire;
use crate::support::{Dice, ms, over_tls};
use crate::{Checked, Control, Scenario, ensure, scaled, seed};

/// How many clients at a time.
const CLIENTS: usize = 12;
const MESSAGES: usize = 60;
/// How many messages are under way.
const WINDOW: usize = 6;

/// What a relay does, and what may come of it.
struct Expectation {
    plan: fn(&mut Dice) -> Plan,
    /// Whether connections end before all is said; then at least some must.
    ends: bool,
    /// Whether clients may get what they have not sent.
    may_be_wrong: bool,
    /// The truth about a connection that did not end as its client wanted.
    is_truth: fn(&CloseReason) -> bool,
}

const SLOW: Expectation = Expectation { plan: slow, ends: false, may_be_wrong: false, is_truth: |_| false };
const DROPPED: Expectation = Expectation { plan: dropped, ends: true, may_be_wrong: false, is_truth: is_cut };
const RESET: Expectation = Expectation { plan: reset, ends: true, may_be_wrong: false, is_truth: is_reset };
const SILENT: Expectation = Expectation { plan: silent, ends: true, may_be_wrong: false, is_truth: is_silence };
const CORRUPTED: Expectation = Expectation { plan: corrupted, ends: true, may_be_wrong: true, is_truth: is_anything };

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "relay: late, in pieces, stalled",
            |rig| faults(rig, &SLOW),
            "it corrupts as well",
            |rig| faults(rig, &Expectation { plan: corrupted, ..SLOW }),
        ),
        scenario(
            "relay: drops the connection",
            |rig| faults(rig, &DROPPED),
            "it does not",
            |rig| faults(rig, &Expectation { plan: slow, ..DROPPED }),
        ),
        scenario(
            "relay: resets",
            |rig| faults(rig, &RESET),
            "it falls silent instead",
            |rig| faults(rig, &Expectation { plan: silent, ..RESET }),
        ),
        scenario(
            "relay: falls silent for ever",
            |rig| faults(rig, &SILENT),
            "it drops instead",
            |rig| faults(rig, &Expectation { plan: dropped, ..SILENT }),
        ),
        scenario(
            "relay: corrupts",
            |rig| faults(rig, &CORRUPTED),
            "it does not",
            |rig| faults(rig, &Expectation { plan: slow, ..CORRUPTED }),
        ),
    ]
}

fn scenario(
    name: &'static str,
    check: fn(&Rig) -> Checked,
    what: &'static str,
    control: fn(&Rig) -> Checked,
) -> Scenario {
    Scenario { name, server: beating, check, control: Control { what, server: beating, check: control }, memory: 32 }
}

/// Silence is found within 200 ms + 3 x 500 ms.
fn beating(server: Server) -> Server {
    server.on_handshake(|request| {
        let policy = HeartbeatPolicy::new(ms(200), ms(500)).max_missed(3);
        Ok(if request.path().starts_with("/quick") { Accept::new().heartbeat(policy) } else { Accept::new() })
    })
}

fn is_cut(reason: &CloseReason) -> bool {
    // A socket that is closed with something unread in it resets.
    matches!(reason, CloseReason::Disconnected | CloseReason::Io { .. })
}

fn is_reset(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Io { .. })
}

fn is_silence(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::HeartbeatLost { missed: 3, .. })
}

fn is_anything(reason: &CloseReason) -> bool {
    !matches!(reason, CloseReason::HandlerPanicked(_) | CloseReason::HandlerFailed(_) | CloseReason::Shutdown { .. })
}

fn slow(dice: &mut Dice) -> Plan {
    Plan {
        seed: dice.roll(1 << 40),
        delay: ms(dice.roll(3)),
        pieces: [0, 500, 5_000, 16_000][dice.roll(4) as usize],
        // Less than one timeout.
        stall: (dice.roll(2) == 0).then(|| (dice.roll(20_000) as usize, ms(100 + dice.roll(200)))),
        ..Plan::default()
    }
}

/// Behind the handshake, and well before all is said.
fn somewhere(dice: &mut Dice) -> usize {
    // The server's certificate makes the handshake of TLS longer.
    let handshake = if over_tls::is_on() { 2500 } else { 400 };
    handshake + dice.roll(40_000) as usize
}

fn dropped(dice: &mut Dice) -> Plan {
    Plan { end: Some((somewhere(dice), Ending::Drop)), ..slow(dice) }
}

fn reset(dice: &mut Dice) -> Plan {
    Plan { end: Some((somewhere(dice), Ending::Reset)), ..slow(dice) }
}

fn silent(dice: &mut Dice) -> Plan {
    Plan { end: Some((somewhere(dice), Ending::Silence)), ..slow(dice) }
}

fn corrupted(dice: &mut Dice) -> Plan {
    Plan { corrupt: Some(somewhere(dice)), ..slow(dice) }
}

/// What a client came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// All came back, and the closing handshake was done.
    Whole,
    /// The connection ended; what had come until then was right.
    Ended,
    /// What came was not what had been sent.
    Wrong,
}

fn faults(rig: &Rig, expected: &Expectation) -> Checked {
    let (mut whole, mut ended, mut wrong) = (0, 0, 0);
    let mut causes = BTreeMap::<&str, usize>::new();
    for round in 0..scaled(3, 1) as u64 {
        let (begin, plan) = (seed() + 1000 * round, expected.plan);
        let relay = Relay::start(rig.address(), move |number| plan(&mut Dice::new(begin + number)));
        let address = relay.address();
        let paths: Vec<String> = (0..CLIENTS).map(|client| format!("/quick/relay/{round}/{client}")).collect();
        let clients: Vec<_> = paths.iter().cloned().map(|path| thread::spawn(move || live(address, &path))).collect();
        let patience = rig.patience.max(Duration::from_secs(10));
        let reports: Vec<_> = paths.iter().map(|path| rig.ledger.closed_path(path, patience)).collect();
        // The server's last words are still on their way; but who is cut off in silence would wait on.
        let deadline = Instant::now() + ms(500);
        while clients.iter().any(|client| !client.is_finished()) && Instant::now() < deadline {
            thread::sleep(ms(5));
        }
        drop(relay);
        for ((client, report), path) in clients.into_iter().zip(reports).zip(&paths) {
            let came = client.join().map_err(|_| format!("the client of {path} panicked"))?;
            let reason = report?.reason;
            *causes.entry(reason.name()).or_default() += 1;
            let is_right = match came {
                Came::Whole => matches!(reason, CloseReason::Peer { .. }),
                Came::Ended => expected.ends && (expected.is_truth)(&reason),
                // TLS lets nothing pass that was changed on its way.
                Came::Wrong => expected.may_be_wrong && !over_tls::is_on() && (expected.is_truth)(&reason),
            };
            ensure!(is_right, "{path}: {came:?}, reported as {reason}");
            match came {
                Came::Whole => whole += 1,
                Came::Ended => ended += 1,
                Came::Wrong => wrong += 1,
            }
        }
    }
    ensure!(!expected.ends || ended + wrong > 0, "the relay did nothing");
    let causes: Vec<String> = causes.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    Ok(format!("{whole} whole, {ended} cut short, {wrong} wrong; {}", causes.join(", ")))
}

/// Sends messages, some at a time, and compares what comes back. Whatever it waits for, it does not wait for ever.
fn live(address: SocketAddr, path: &str) -> Came {
    let stream = Wire::to_server(TcpStream::connect(address).expect("the relay listens"));
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a read timeout");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a write timeout");
    let Ok((mut socket, _)) = tungstenite::client(format!("ws://{address}{path}"), stream) else {
        return Came::Ended;
    };
    exchange(&mut socket, path).unwrap_or(Came::Ended)
}

fn exchange(socket: &mut WebSocket<Wire>, path: &str) -> Result<Came, tungstenite::Error> {
    let text = |number: usize| format!("{path} {number} {}", "x".repeat(number * 37 % 4000));
    let (mut sent, mut received) = (0, 0);
    while received < MESSAGES {
        while sent < MESSAGES.min(received + WINDOW) {
            socket.send(Message::text(text(sent)))?;
            sent += 1;
        }
        match socket.read()? {
            Message::Text(came) if came.as_str() == text(received) => received += 1,
            Message::Ping(_) | Message::Pong(_) => socket.flush()?,
            Message::Close(_) => return Ok(Came::Ended),
            _ => return Ok(Came::Wrong),
        }
    }
    socket.close(None)?;
    loop {
        match socket.read() {
            Ok(Message::Text(_) | Message::Binary(_)) => return Ok(Came::Wrong),
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return Ok(Came::Whole),
            Err(error) => return Err(error),
        }
    }
}

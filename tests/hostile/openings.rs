//! The opening handshake: too slow, without end, or not at all; and nothing behind it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use heartwire::{CloseReason, HeartbeatPolicy, Server};

use crate::rig::Rig;
use crate::support::{TEXT, fragment, masked, ms, request};
use crate::{Checked, Control, Scenario, ensure, plain, site};

const HANDSHAKE: Duration = Duration::from_millis(400);
const PEERS: usize = 16;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "slow handshake, byte by byte",
            server: hasty,
            check: |rig| slow_handshake(rig, request().as_bytes()),
            control: Control {
                what: "the handshake may take an hour",
                server: leisurely,
                check: |rig| slow_handshake(rig, request().as_bytes()),
            },
            memory: 16,
        },
        Scenario {
            name: "connected, and not a byte",
            server: hasty,
            check: |rig| slow_handshake(rig, b""),
            control: Control {
                what: "the handshake may take an hour",
                server: leisurely,
                check: |rig| slow_handshake(rig, b""),
            },
            memory: 16,
        },
        Scenario {
            name: "headers without end",
            server: plain,
            check: |rig| endless_headers(rig, usize::MAX),
            control: Control { what: "the headers end", server: plain, check: |rig| endless_headers(rig, 2) },
            memory: 16,
        },
        Scenario {
            name: "handshake and nothing more",
            server: plain,
            check: silence,
            control: Control { what: "the heartbeat is off", server: heartless, check: silence },
            memory: 16,
        },
        Scenario {
            name: "half-open: the peer's end is over",
            server: plain,
            check: |rig| half_open(rig, Shutdown::Write),
            control: Control {
                what: "the peer's end is not over",
                server: plain,
                check: |rig| half_open(rig, Shutdown::Read),
            },
            memory: 16,
        },
    ]
}

fn hasty(server: Server) -> Server {
    server.handshake_timeout(HANDSHAKE)
}

fn leisurely(server: Server) -> Server {
    server.handshake_timeout(Duration::from_secs(3600))
}

fn heartless(server: Server) -> Server {
    server.heartbeat(HeartbeatPolicy::off()).on_handshake(|_| Ok(heartwire::Accept::new()))
}

/// Each peer sends a byte every 20 ms (instead of every second, under a limit that is as much shorter).
fn slow_handshake(rig: &Rig, bytes: &[u8]) -> Checked {
    let started = Instant::now();
    let before = rig.handle.stats().without_request;
    let is_silent = bytes.is_empty();
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|_| connect(rig)).collect();
    let mut bytes = bytes.iter();
    let mut answers: Vec<Vec<u8>> = vec![Vec::new(); PEERS];
    let mut slowest = Duration::ZERO;
    while answers.iter().any(|answer| answer.is_empty()) {
        ensure!(started.elapsed() < rig.patience, "not refused within {:?}", rig.patience);
        // All but the last byte, which would make it complete.
        let byte = bytes.next().filter(|_| bytes.len() > 0);
        for (peer, answer) in peers.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_empty()) {
            if let Some(byte) = byte {
                // It may be over already.
                let _ = peer.write_all(std::slice::from_ref(byte));
            }
            *answer = read_now(peer);
            if !answer.is_empty() {
                slowest = slowest.max(started.elapsed());
            }
        }
    }
    for (peer, answer) in peers.iter().zip(&answers) {
        let answer = String::from_utf8_lossy(answer);
        ensure!(answer.starts_with("HTTP/1.1 408 "), "answered with {answer:?}");
        if is_silent {
            continue;
        }
        let (status, reason) = rig.ledger.handshake_failed(peer.local_addr().unwrap(), rig.patience)?;
        ensure!(status == Some(408), "reported as {status:?} {reason}");
    }
    if is_silent {
        let is_counted = || rig.handle.stats().without_request - before == PEERS as u64;
        rig.wait_until("all are counted as without a request", is_counted)?;
    }
    ensure!(slowest >= HANDSHAKE, "refused after {slowest:?}, before the limit of {HANDSHAKE:?}");
    Ok(format!("{PEERS} peers refused with 408 after {:.2?} at most, limit {HANDSHAKE:?}", slowest))
}

fn connect(rig: &Rig) -> TcpStream {
    let stream = TcpStream::connect(rig.address()).expect("the server listens");
    stream.set_read_timeout(Some(ms(1))).unwrap();
    stream.set_write_timeout(Some(rig.patience)).unwrap();
    stream
}

/// What has come within a moment.
fn read_now(stream: &mut TcpStream) -> Vec<u8> {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(count) => chunk[..count].to_vec(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Vec::new(),
        Err(error) => error.to_string().into_bytes(),
    }
}

fn endless_headers(rig: &Rig, times: usize) -> Checked {
    let mut peer = connect(rig);
    let head = request();
    peer.write_all(head.trim_end().as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut sent = head.len();
    for number in 0.. {
        let some = (0..20).map(|line| format!("\r\nX-{number}-{line}: and so on")).collect::<String>();
        let bytes = if number < times { &some[..] } else { "\r\n\r\n" };
        sent += peer.write(bytes.as_bytes()).map_err(|error| format!("not answered but {error}"))?;
        answer = read_now(&mut peer);
        if !answer.is_empty() || number > times {
            break;
        }
        ensure!(sent < 1 << 20, "a head of {sent} bytes is not refused");
    }
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 431 "), "answered with {answer:?}");
    let (status, reason) = rig.ledger.handshake_failed(peer.local_addr().unwrap(), rig.patience)?;
    ensure!(status == Some(431), "reported as {status:?} {reason}");
    Ok(format!("refused with 431 after {sent} bytes"))
}

fn silence(rig: &Rig) -> Checked {
    let policy = site::quick();
    let (least, most) = (policy.worst_case().unwrap() - ms(100), policy.worst_case().unwrap());
    let peers: Vec<_> = (0..PEERS).map(|_| rig.connect("/quick/silent")).collect();
    let mut ages = Vec::new();
    for peer in &peers {
        let report = rig.ledger.closed(peer.local_addr(), rig.patience)?;
        ensure!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 3, .. }), "found {}", report.reason);
        // The first Ping comes in the second half of the first interval.
        ensure!(report.age >= least, "found dead after {:?}, before {least:?}", report.age);
        ages.push(report.age);
    }
    let worst = ages.iter().max().expect("there are peers");
    Ok(format!("{PEERS} found dead after {worst:.2?} at most, bound {most:?}; not before {least:?}"))
}

/// A FIN at every stage of a connection that is open.
fn half_open(rig: &Rig, how: Shutdown) -> Checked {
    let whole = masked(TEXT, b"a message");
    let first = fragment(TEXT, b"a fragment");
    let stages: [&[u8]; 5] = [b"", &whole[..1], &whole[..4], &whole[..10], &first];
    for stage in stages {
        let stream = connect(rig);
        let mut writer = &stream;
        writer.write_all(crate::support::request_with("/half", "").as_bytes()).unwrap();
        rig.wait_until("it has opened", || stream.peek(&mut [0]).is_ok_and(|count| count > 0))?;
        writer.write_all(stage).unwrap();
        stream.shutdown(how).unwrap();
        let report = rig.ledger.closed(stream.local_addr().unwrap(), rig.patience)?;
        ensure!(report.reason == CloseReason::Disconnected, "after {stage:x?}: {}", report.reason);
        ensure!(report.received.is_none(), "a code out of nowhere: {:?}", report.received);
    }
    Ok(format!("{} stages, each reported as a disconnection", stages.len()))
}

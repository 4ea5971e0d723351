//! Shutdown in the middle of all of it at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use heartwire::Server;

use crate::rig::Rig;
use crate::support::wire::Wire;
use crate::support::{BINARY, CONTINUATION, Dice, PING, TEXT, fragment, masked, ms, request_with, threads_named};
use crate::{Checked, Control, Scenario, ensure, scaled, seed};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long threads may have to wait for a processor.
const SLACK: Duration = Duration::from_secs(2);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "shutdown in the middle of it all",
        server: |server: Server| server.close_timeout(CLOSE_TIMEOUT),
        check: |rig| in_the_middle(rig, false),
        control: Control {
            what: "a handler never comes back",
            server: |server: Server| server.close_timeout(CLOSE_TIMEOUT),
            check: |rig| in_the_middle(rig, true),
        },
        memory: 64,
    }]
}

fn in_the_middle(rig: &Rig, one_is_stuck: bool) -> Checked {
    let peers = scaled(100, 30);
    let (is_over, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    let stuck = one_is_stuck.then(|| rig.connect("/stuck"));
    let took = thread::scope(|scope| {
        for number in 0..peers {
            let (is_over, opened) = (&is_over, &opened);
            scope.spawn(move || {
                let mut dice = Dice::new(seed() + number as u64);
                while !is_over.load(SeqCst) {
                    // It fails when the server has gone. Trying again at once would take its processors, and no more.
                    if misbehave(rig, number % 10, &mut dice, is_over, opened).is_err() {
                        thread::sleep(ms(5));
                    }
                }
            });
        }
        let busy = rig.wait_until("they are at it", || opened.load(SeqCst) >= 2 * peers);
        let took = rig.shut_down();
        is_over.store(true, SeqCst);
        busy.map(|()| took)
    })?;
    // The promise is the close timeout. On a busy machine the server's threads have to wait for their turn, among all
    // these attackers.
    ensure!(took < CLOSE_TIMEOUT + SLACK, "the shutdown took {took:?}");
    rig.wait_until("all threads have ended", || threads_named("heartwire-") == 0)?;
    drop(stuck);
    let stats = rig.handle.stats();
    ensure!(stats.opened == stats.closed_total() && stats.open == 0, "{stats:?}");
    let causes: Vec<String> = stats.closed.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    Ok(format!("ended {took:.2?} later, limit {CLOSE_TIMEOUT:?}; {}", causes.join(", ")))
}

/// One attack, until it is over or the server does not play along any more.
fn misbehave(
    rig: &Rig,
    kind: usize,
    dice: &mut Dice,
    is_over: &AtomicBool,
    opened: &AtomicUsize,
) -> std::io::Result<()> {
    let mut stream = Wire::to_server(TcpStream::connect(rig.address())?);
    stream.set_read_timeout(Some(ms(20)))?;
    stream.set_write_timeout(Some(ms(20)))?;
    let path = ["/", "/", "/quick/firehose", "/closes", "/panics", "/quick/silent", "/", "/", "/", "/"][kind];
    let request = request_with(path, "");
    if kind == 0 {
        // A slow handshake.
        for byte in request.as_bytes() {
            stream.write_all(std::slice::from_ref(byte))?;
            opened.fetch_add(1, SeqCst);
            thread::sleep(ms(5));
        }
        return Ok(());
    }
    stream.write_all(request.as_bytes())?;
    opened.fetch_add(1, SeqCst);
    let frames = match kind {
        1 => masked(PING, &[b'p'; 125]).repeat(100),
        2 | 3 | 5 => Vec::new(),
        4 => masked(TEXT, if dice.roll(3) == 0 { b"panic" } else { b"calm!" }),
        6 => [fragment(BINARY, b"x"), fragment(CONTINUATION, b"x").repeat(1000)].concat(),
        7 => masked(BINARY, &vec![7; 100_000]),
        8 => masked(TEXT, b"\xff"),
        _ => masked(TEXT, b"one more"),
    };
    for round in 0.. {
        if is_over.load(SeqCst) || (kind == 9 && round == 5) {
            return Ok(());
        }
        stream.write_all(&frames)?;
        match kind {
            // Never reads.
            1 | 7 => {}
            // A fragment flood goes on without beginning anew, and does not get far.
            _ => match stream.read(&mut [0; 100]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

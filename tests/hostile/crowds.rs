//! Many at once, or many one after the other: connects and drops, and handlers that panic.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use heartwire::{CloseCode, CloseReason};

use crate::rig::Rig;
use crate::support::{CLOSE, Client, Dice, TEXT, masked, request};
use crate::{Checked, Control, ON_PURPOSE, Scenario, ensure, plain, scaled, seed};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "connects and drops",
            server: plain,
            check: |rig| churn(rig, false),
            control: Control { what: "one of them stays", server: plain, check: |rig| churn(rig, true) },
            memory: 48,
        },
        Scenario {
            name: "handlers panic at random",
            server: plain,
            check: |rig| panics(rig, "panic"),
            control: Control { what: "none panics", server: plain, check: |rig| panics(rig, "calm") },
            memory: 24,
        },
    ]
}

fn churn(rig: &Rig, one_stays: bool) -> Checked {
    let count = if one_stays { 100 } else { scaled(20_000, 2_000) };
    let before = rig.handle.stats();
    let (started, next) = (Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..4 {
            let next = &next;
            scope.spawn(move || {
                let mut dice = Dice::new(seed() + worker);
                while next.fetch_add(1, SeqCst) < count {
                    come_and_go(rig, &mut dice);
                }
            });
        }
    });
    let took = started.elapsed();
    let stays = one_stays.then(|| rig.connect("/stays"));
    let accepted = || rig.handle.stats().accepted - before.accepted;
    rig.wait_until("all are accepted", || accepted() >= count as u64)?;
    rig.is_idle()?;
    rig.has_one_thread()?;
    drop(stays);
    let after = rig.handle.stats();
    let (opened, failed) = (after.opened - before.opened, after.handshakes_failed - before.handshakes_failed);
    let silent = after.without_request - before.without_request;
    let told = format!("{opened} opened, {failed} failed and {silent} never asked, of {}", accepted());
    ensure!(opened + failed + silent == accepted(), "{told}");
    ensure!(after.closed_total() - before.closed_total() == opened, "{:?} of {opened}", after.closed);
    Ok(format!("{count} in {took:.1?}, {opened} of them opened"))
}

fn come_and_go(rig: &Rig, dice: &mut Dice) {
    let mut client = Client::tcp(rig.address());
    match dice.roll(8) {
        0 => {}
        1 => client.reset(),
        2 => client.write(&request().as_bytes()[..dice.roll(request().len() as u64) as usize]),
        3 => {
            // The answer is not waited for.
            client.write(request().as_bytes());
            client.reset();
        }
        4 => drop(client.upgraded(&request())),
        5 => client.upgraded(&request()).reset(),
        6 => {
            let mut client = client.upgraded(&request());
            client.write(&masked(TEXT, b"not waiting for the echo"));
            client.reset();
        }
        _ => {
            let mut client = client.upgraded(&request());
            client.expect_echo("hello");
            client.close();
        }
    }
}

fn panics(rig: &Rig, word: &str) -> Checked {
    let count = scaled(300, 60);
    let mut dice = Dice::new(seed());
    let mut clients: Vec<Client> = (0..count).map(|_| rig.connect("/panics")).collect();
    let mut panicked = 0;
    for _ in 0..count / 2 {
        let index = dice.roll(clients.len() as u64) as usize;
        let mut client = clients.swap_remove(index);
        client.send_text(word);
        let close = rig.close_frame(&mut client)?;
        ensure!(close.0 == Some(1011), "closed with {close:?}");
        client.send(CLOSE, 1011_u16.to_be_bytes());
        let report = rig.ledger.closed(client.local_addr(), rig.patience)?;
        let CloseReason::HandlerPanicked(message) = &report.reason else {
            return Err(format!("reported as {}", report.reason));
        };
        ensure!(message.contains(ON_PURPOSE), "the message is {message}");
        ensure!(report.sent == Some(CloseCode::INTERNAL_ERROR), "sent {:?}", report.sent);
        panicked += 1;
        // Nobody else has noticed.
        let other = dice.roll(clients.len() as u64) as usize;
        clients[other].expect_echo("still there?");
    }
    let left = clients.len();
    for client in clients {
        client.close();
    }
    Ok(format!("{panicked} panicked and were told 1011, {left} others went on"))
}

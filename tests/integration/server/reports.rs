//! One report for each connection, whatever ends it; and snapshots in between.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use heartwire::{CloseReason, Error, Event, HeartbeatPolicy};

use crate::support::{
    BINARY, CEILING, CLOSE, Client, Dice, Events, TEXT, close_payload, echo, eventually, masked, ms, request_with,
    server, start,
};

// Reports.

/// Counts the openings and closures of each connection, which must come in this order and once each.
fn assert_one_report_each(events: &[Event]) -> BTreeMap<u64, CloseReason> {
    let mut open = BTreeSet::new();
    let mut closed = BTreeMap::new();
    for event in events {
        match event {
            Event::Opened { id, .. } => {
                assert!(!closed.contains_key(id) && open.insert(*id), "#{id} opened twice or after its end");
            }
            Event::Closed(report) => {
                assert!(open.remove(&report.id), "#{} closed twice, or never opened: {report}", report.id);
                closed.insert(report.id, report.reason.clone());
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "never reported closed: {open:?}");
    closed
}

/// What a handler does when it is told to.
fn obedient(conn: &mut heartwire::Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        match message.as_text() {
            Some("panic") => panic!("as told"),
            Some("fail") => return Err(Error::handler("as told")),
            Some("return") => return Ok(()),
            Some("close") => conn.close(4000, "as told")?,
            Some("close from outside") => conn.sender().close(4001, "as told")?,
            Some("abandon") => {
                let sender = conn.sender();
                thread::spawn(move || while sender.send(vec![0; 1000]).is_ok() {});
                return Ok(());
            }
            _ => conn.send(message)?,
        }
    }
}

#[test]
fn every_connection_that_opened_is_reported_closed_exactly_once_however_it_ends() {
    const CLIENTS: u64 = 6;
    const ROUNDS: u64 = 25;
    let running = start(server().close_timeout(ms(500)).max_message_size(10_000), obedient);
    let address = running.address();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            thread::spawn(move || {
                let mut dice = Dice::new(seed + 1);
                for _ in 0..ROUNDS {
                    let mut client = Client::connect(address);
                    for _ in 0..dice.roll(3) {
                        client.expect_echo("hello");
                    }
                    end_somehow(client, &mut dice);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let handle = running.handle.clone();
    let closed = assert_one_report_each(&running.stop());
    assert_eq!(closed.len() as u64, CLIENTS * ROUNDS);

    let stats = handle.stats();
    assert_eq!((stats.open, stats.opened, stats.closed_total()), (0, CLIENTS * ROUNDS, CLIENTS * ROUNDS), "{stats:?}");
    let mut by_name = BTreeMap::new();
    for reason in closed.values() {
        *by_name.entry(reason.name()).or_insert(0) += 1;
    }
    println!("{by_name:?}");
    assert_eq!(stats.closed, by_name);
    assert!(by_name.len() >= 6, "too few kinds of ends to prove anything: {by_name:?}");
}

/// One of the many ways in which connections end.
fn end_somehow(mut client: Client, dice: &mut Dice) {
    const TOLD: [&str; 6] = ["panic", "fail", "return", "close", "close from outside", "abandon"];
    match dice.roll(12) {
        0 => client.close(),
        1 => drop(client),
        2 => client.reset(),
        3 => client.write(&masked(TEXT, b"cut in the middle")[..9]),
        4 => client.write(&masked(7, b"no such opcode")),
        5 => client.write(&masked(TEXT, b"\xff")),
        6 => client.write(&masked(BINARY, &[0; 10_001])),
        7 => client.half_close(),
        // Says Close, and is gone before the answer.
        8 => client.write(&masked(CLOSE, &close_payload(1001, ""))),
        told => {
            client.send_text(TOLD[dice.roll(6) as usize]);
            match told {
                9 => drop(client),
                10 => client.reset(),
                _ => {
                    client.drain_within(ms(20));
                }
            }
        }
    }
}

#[test]
fn a_panic_concerns_nobody_else_and_the_server_goes_on() {
    let running = start(server(), obedient);
    let mut bystander = running.connect();
    for _ in 0..5 {
        let mut client = running.connect();
        client.send_text("panic");
        assert_eq!(client.expect_close().0, Some(1011));
        bystander.expect_echo("still here");
    }
    for _ in 0..5 {
        assert_eq!(running.closed().reason, CloseReason::HandlerPanicked("as told".into()));
    }
    assert_eq!(running.handle.stats().closed.get("handler_panicked"), Some(&5));
}

// Snapshots.

#[test]
fn connections_and_stats_show_the_moment() {
    let running = start(server().heartbeat(HeartbeatPolicy::keepalive(ms(20))), |conn| {
        loop {
            let message = conn.recv()?;
            if message.as_text() == Some("go away") {
                thread::sleep(ms(400));
            }
            conn.send(message)?;
        }
    });
    assert!(running.handle.connections().is_empty());
    let mut clients: Vec<Client> =
        ["/a", "/b?c=d"].map(|path| Client::tcp(running.address()).upgraded(&request_with(path, ""))).into();
    clients[0].expect_echo("hello");
    eventually("both wait in recv", || {
        let connections = running.handle.connections();
        connections.len() == 2 && connections.iter().all(|info| info.away.is_none())
    });
    let info = running.handle.connections();
    for (info, client) in info.iter().zip(&clients) {
        assert_eq!((info.peer_addr, info.missed, info.queued), (client.local_addr(), 0, 0), "{info:?}");
        assert!(info.age < CEILING);
    }
    assert_eq!(info.iter().map(|info| (info.id, &info.path[..])).collect::<Vec<_>>(), [(1, "/a"), (2, "/b")]);
    assert_eq!((info[0].traffic.messages_in, info[0].traffic.messages_out), (1, 1));
    assert_eq!(info[1].traffic.messages_in, 0);

    clients[0].send_text("go away");
    eventually("its absence shows", || {
        running.handle.connections()[0].away.is_some_and(|away| away > ms(50) && away < CEILING)
    });
    let stats = running.handle.stats();
    assert_eq!((stats.accepted, stats.open, stats.opened, stats.closed_total()), (2, 2, 2, 0), "{stats:?}");
    clients.pop().expect("two").close();
    running.closed();
    let stats = running.handle.stats();
    assert_eq!((stats.open, stats.opened, stats.closed.get("peer")), (1, 2, Some(&1)), "{stats:?}");
}

#[test]
fn events_tell_all_from_before_the_start_and_cost_nothing_when_nobody_listens() {
    let server = server();
    let early = Events::new(server.handle().events());
    drop(server.handle().events());
    let running = start(server, echo);
    running.connect().expect_echo("hello");
    running.closed();
    let late = Events::new(running.handle.events());
    running.connect().expect_echo("hello");
    running.closed();
    running.stop();
    let kinds = |events: &Events| -> Vec<(&str, u64)> {
        let name = |event: &Event| match event {
            Event::Opened { id, .. } => ("opened", *id),
            Event::Closed(report) => ("closed", report.id),
            Event::ShuttingDown => ("shutting down", 0),
            other => panic!("{other:?}"),
        };
        events.rest().iter().map(name).collect()
    };
    let last = [("opened", 2), ("closed", 2), ("shutting down", 0)];
    assert_eq!(kinds(&early), [&[("opened", 1), ("closed", 1)][..], &last].concat());
    assert_eq!(kinds(&late), last);
}

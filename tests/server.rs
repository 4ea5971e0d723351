//! The server as a whole: one report for each connection whatever ends it, broadcasts, snapshots, and its end.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{CloseReason, Error, Event, HeartbeatPolicy, Message};
use support::{
    BINARY, CEILING, CLOSE, Client, Dice, PING, TEXT, close_payload, echo, eventually, fragment, masked, ms, request,
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

// Broadcasts.

#[test]
fn all_receivers_see_one_order_of_broadcasts_and_one_that_never_reads_holds_nobody_up() {
    const BROADCASTERS: u32 = 4;
    const EACH: u32 = 250;
    let running = start(server().queue_size(16 * 1024 * 1024), echo);
    let mut clients: Vec<Client> = (0..4).map(|_| running.connect()).collect();
    clients.iter().for_each(|_| _ = running.events.opened());
    let threads: Vec<_> = (0..BROADCASTERS)
        .map(|thread| {
            let handle = running.handle.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    handle.broadcast(format!("{thread} {number}"));
                }
            })
        })
        .collect();
    let mut seen: Vec<Vec<String>> = Vec::new();
    for client in &mut clients {
        seen.push((0..BROADCASTERS * EACH).map(|_| client.text()).collect());
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    for others in &seen[1..] {
        assert!(seen[0] == *others, "two receivers, two orders");
    }
    for thread in 0..BROADCASTERS {
        let prefix = format!("{thread} ");
        let numbers: Vec<u32> = seen[0].iter().filter_map(|text| text.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "the order of the calls");
    }
}

#[test]
fn a_peer_that_never_reads_loses_broadcasts_that_are_counted_and_costs_nobody_time() {
    const MESSAGES: u32 = 400;
    const SIZE: usize = 50_000;
    let running = start(server().queue_size(200_000), echo);
    let glutton = running.connect();
    let glutton_id = running.events.opened();
    let mut reader = running.connect();
    running.events.opened();
    let mut slowest = Duration::ZERO;
    for number in 0..MESSAGES {
        let sent = Instant::now();
        let payload = [&number.to_be_bytes()[..], &[0; SIZE]].concat();
        running.handle.broadcast(payload);
        let frame = reader.frame();
        assert_eq!(frame.payload[..4], number.to_be_bytes());
        slowest = slowest.max(sent.elapsed());
    }
    println!("slowest of {MESSAGES} broadcasts of {SIZE} bytes: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let info = running.handle.connections();
    let dropped = info[0].traffic.dropped;
    assert_eq!((info[0].id, info[1].traffic.dropped), (glutton_id, 0));
    assert!(dropped > 0, "{info:?}");
    assert_eq!(info[0].traffic.messages_out + dropped, u64::from(MESSAGES), "each was taken or dropped");
    drop(glutton);
    assert_eq!(running.closed().traffic.dropped, dropped);
    assert_eq!(running.handle.stats().traffic.dropped, dropped);
}

#[test]
fn a_broadcast_can_leave_one_out() {
    let (sender, _kept) = bounded(10);
    let server = server();
    let handle = server.handle();
    let running = start(server, move |conn| {
        let _ = sender.send(conn.id());
        loop {
            let message = conn.recv()?;
            handle.broadcast_except(conn.id(), message);
            handle.broadcast("to all");
        }
    });
    let (mut first, mut second) = (running.connect(), running.connect());
    running.events.opened();
    running.events.opened();
    first.send_text("from the first");
    assert_eq!((first.text(), second.text()), ("to all".into(), "from the first".into()));
    assert_eq!(second.text(), "to all");
    running.handle.broadcast(Message::binary(vec![1, 2, 3]));
    for client in [&mut first, &mut second] {
        let frame = client.message();
        assert_eq!((frame.opcode, &frame.payload[..]), (BINARY, &[1, 2, 3][..]));
    }
}

// Snapshots.

#[test]
fn snapshots_show_the_connections_and_counters_of_the_moment() {
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
        ["/a", "/b?c=d"].map(|path| Client::tcp(running.address()).upgraded(&support::request_with(path, ""))).into();
    clients[0].expect_echo("hello");
    support::eventually("both wait in recv", || {
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
    support::eventually("its absence shows", || {
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
fn those_who_listen_from_before_the_start_hear_everything_and_those_who_stop_listening_cost_nothing() {
    let server = server();
    let early = support::Events::new(server.handle().events());
    drop(server.handle().events());
    let running = start(server, echo);
    running.connect().expect_echo("hello");
    running.closed();
    let late = support::Events::new(running.handle.events());
    running.connect().expect_echo("hello");
    running.closed();
    running.stop();
    let kinds = |events: &support::Events| -> Vec<(&str, u64)> {
        let name = |event: &Event| match event {
            Event::Opened { id, .. } => ("opened", *id),
            Event::Closed(report) => ("closed", report.id),
            other => panic!("{other:?}"),
        };
        events.rest().iter().map(name).collect()
    };
    assert_eq!(kinds(&early), [("opened", 1), ("closed", 1), ("opened", 2), ("closed", 2)]);
    assert_eq!(kinds(&late), [("opened", 2), ("closed", 2)]);
}

// Shortages.

#[cfg(unix)]
#[test]
fn a_shortage_of_file_descriptors_is_survived_and_counted() {
    if !support::alone_with_files("a_shortage_of_file_descriptors_is_survived_and_counted", 100) {
        return;
    }
    // A client's end and the server's: each connection takes two of the hundred.
    let running = start(server(), echo);
    let mut clients = Vec::new();
    while let Ok(stream) = TcpStream::connect(running.address()) {
        clients.push(Client::of(stream));
        assert!(clients.len() < 100, "there is no limit here");
    }
    support::eventually("accept fails", || running.handle.stats().accept_errors > 0);
    // Room again: those who were not accepted yet are, and all are served.
    assert!(clients.len() > 40, "{} clients", clients.len());
    let mut served = clients.split_off(clients.len() - 20);
    drop(clients);
    for client in &mut served {
        client.write(request().as_bytes());
    }
    for client in &mut served {
        assert_eq!(client.answer().status, 101);
        client.expect_echo("here after all");
    }
    let stats = running.handle.stats();
    println!("{} failures to accept while there was no room", stats.accept_errors);
    assert!(stats.accept_errors < 1000, "the loop was spinning: {stats:?}");
    drop(served);
    running.stop();
}

#[test]
fn clients_that_reset_before_they_are_accepted_do_no_harm() {
    let running = start(server(), echo);
    for _ in 0..200 {
        Client::tcp(running.address()).reset();
    }
    let mut client = running.connect();
    client.expect_echo("hello");
    client.write(&fragment(0x80 | PING, b""));
    // Answered behind everything that was reported before.
    assert_eq!(running.handle.connections().len(), 1);
    let stats = running.handle.stats();
    assert_eq!((stats.accept_errors, stats.open), (0, 1), "{stats:?}");
}

#[test]
fn a_thread_that_cannot_be_started_costs_its_client_and_nobody_else() {
    // More than there is address space: no system gives a thread such a stack.
    let running = start(server().stack_size(usize::MAX / 4), echo);
    for refused in 1..=3 {
        let mut client = TcpStream::connect(running.address()).unwrap();
        client.set_read_timeout(Some(CEILING)).unwrap();
        assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0, "its connection was closed");
        eventually("it is counted", || running.handle.stats().thread_errors == refused);
    }
    assert_eq!(running.handle.connections().len(), 0);
    // The listener still listens, and the server ends as ever.
    TcpStream::connect(running.address()).unwrap();
    running.stop();
}

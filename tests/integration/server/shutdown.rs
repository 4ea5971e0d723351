//! The end of a server: in time, whatever its peers and handlers do, and with a report for everybody.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use heartwire::{CloseCode, CloseReason, Error, Event, Server};

use crate::support::{
    CEILING, CLOSE, Client, End, Running, close_payload, echo, masked, ms, receive, request, request_with, server,
    start,
};

/// What a server may take to end, beyond its close timeout.
const MORE: Duration = Duration::from_secs(1);

/// Shuts down, and expects the end within the close timeout and a second, when machines are not busy.
fn shut_down_within(running: &Running, close_timeout: Duration) {
    let start = Instant::now();
    running.handle.shutdown();
    let returned = start.elapsed();
    assert!(running.handle.is_shutting_down());
    running.wait_for_end();
    let ended = start.elapsed();
    println!("shutdown returned after {returned:?}, serve after {ended:?}, of {close_timeout:?}");
    assert!(ended < close_timeout + MORE + SLACK, "{ended:?}");
}

fn is_shutdown(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Shutdown { code: CloseCode::GOING_AWAY, .. })
}

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn shutdown_without_clients_ends_at_once_and_frees_the_address() {
    let running = start(server(), echo);
    running.connect().close();
    running.closed();
    shut_down_within(&running, Duration::ZERO);
    assert!(TcpStream::connect(running.address()).is_err(), "clients are refused by the system");
    drop(Server::bind(running.address()).expect("the address is free"));
}

#[test]
fn shutdown_says_1001_to_all_and_ends_as_soon_as_all_have_answered() {
    let running = start(server().close_timeout(2 * CEILING), echo);
    let clients: Vec<Client> = (0..20).map(|_| running.connect()).collect();
    clients.iter().for_each(|_| _ = running.events.opened());
    let start = Instant::now();
    let answering: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                assert_eq!(client.expect_close().0, Some(1001));
                client.send_close(1001, "");
                assert_eq!(client.expect_end(), End::Clean);
            })
        })
        .collect();
    running.handle.shutdown();
    running.handle.shutdown();
    running.wait_for_end();
    answering.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert!(start.elapsed() < CEILING, "{:?}", start.elapsed());
    let closed = assert_one_report_each_of(20, &running.events.rest());
    assert!(closed.values().all(is_shutdown), "{closed:?}");
}

#[test]
fn shutdown_with_sends_its_code_and_reason_and_the_first_call_counts() {
    let running = start(server(), echo);
    let mut client = running.connect();
    running.events.opened();
    let refused = running.handle.shutdown_with(1005, "");
    assert!(matches!(refused, Err(Error::InvalidCloseCode(code)) if u16::from(code) == 1005));
    assert!(!running.handle.is_shutting_down());
    running.handle.shutdown_with(1012, "an update").unwrap();
    running.handle.shutdown_with(4000, "too late").unwrap();
    running.handle.shutdown();
    running.events.wait_for("ShuttingDown", |event| (*event == Event::ShuttingDown).then_some(()));
    assert_eq!(client.expect_close(), (Some(1012), "an update".to_owned()));
    client.send_close(1012, "");
    running.wait_for_end();
    let report = running.closed();
    assert_eq!(report.reason, CloseReason::Shutdown { code: CloseCode::RESTART, reason: "an update".to_owned() });
    assert!(report.reason.is_clean());
    assert_eq!(report.reason.to_string(), "server shutdown with 1012 \"an update\"");
}

#[test]
#[cfg(all(unix, feature = "signals"))]
fn shutdown_on_signals_ends_all_servers_of_a_process() {
    use crate::support::alone;
    if !alone!() {
        return;
    }
    let running = [(); 2].map(|()| start(server().shutdown_on_signals().unwrap(), echo));
    let mut clients = running.each_ref().map(Running::connect);
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    for (running, client) in running.iter().zip(&mut clients) {
        assert_eq!(client.expect_close().0, Some(1001));
        client.send_close(1001, "");
        running.wait_for_end();
    }
}

#[test]
#[cfg(all(unix, feature = "signals"))]
fn on_hangup_is_called_in_place_of_a_shutdown_also_after_it_has_panicked() {
    use crate::support::alone;
    if !alone!() {
        return;
    }
    let (told, hangups) = bounded(2);
    let on_hangup = move || {
        told.send(()).unwrap();
        panic!("as a test wants it");
    };
    let running = start(server().on_hangup(on_hangup).shutdown_on_signals().unwrap(), echo);
    let pid = std::process::id().to_string();
    let signal =
        |name| assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    for _ in 0..2 {
        signal("HUP");
        hangups.recv_timeout(CEILING).expect("a call");
    }
    assert!(!running.handle.is_shutting_down());
    signal("TERM");
    running.wait_for_end();
}

#[test]
#[cfg(all(unix, feature = "signals"))]
fn hangups_while_on_hangup_blocks_end_nothing_and_hold_up_no_other_signal() {
    use crate::support::alone;
    if !alone!() {
        return;
    }
    let (told, hangups) = bounded(4);
    let (go_on, held) = bounded::<()>(0);
    let on_hangup = move || {
        told.send(()).unwrap();
        let _ = held.recv_timeout(CEILING);
    };
    let running = start(server().on_hangup(on_hangup).shutdown_on_signals().unwrap(), echo);
    let pid = std::process::id().to_string();
    let signal =
        |name| assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    signal("HUP");
    hangups.recv_timeout(CEILING).expect("a call");
    signal("HUP");
    signal("HUP");
    // The system may make one of the two. Another one comes after both.
    go_on.send(()).unwrap();
    hangups.recv_timeout(CEILING).expect("a call");
    signal("HUP");
    go_on.send(()).unwrap();
    hangups.recv_timeout(CEILING).expect("a call");
    assert!(!running.handle.is_shutting_down());
    signal("TERM");
    running.wait_for_end();
    // A hangup that still waits would end this process, now that no server is left: the function goes on blocking.
    std::mem::forget(go_on);
}

/// As [`assert_one_report_each`], where the openings were taken out of the events before.
fn assert_one_report_each_of(connections: u64, events: &[Event]) -> BTreeMap<u64, CloseReason> {
    let mut closed = BTreeMap::new();
    for event in events {
        if let Event::Closed(report) = event {
            assert!(closed.insert(report.id, report.reason.clone()).is_none(), "closed twice: {report}");
        }
    }
    assert_eq!(closed.len() as u64, connections);
    closed
}

#[test]
fn shutdown_ends_in_time_with_stuck_handlers_silent_peers_full_queues_and_handshakes_under_way() {
    let close_timeout = ms(600);
    let (release, wait) = bounded::<()>(0);
    let server = server().close_timeout(close_timeout).queue_size(100_000).on_handshake(|request| {
        if request.path() == "/slow" {
            thread::sleep(ms(300));
        }
        Ok(heartwire::Accept::new())
    });
    let running = start(server, move |conn| match conn.path() {
        // Until the test is over.
        "/stuck" => Err(Error::handler(format!("{:?}", wait.recv_timeout(CEILING)))),
        "/flood" => loop {
            conn.send(vec![0; 10_000])?;
        },
        _ => echo(conn),
    });
    let connect = |path: &str| Client::tcp(running.address()).upgraded(&request_with(path, ""));
    let _stuck = [connect("/stuck"), connect("/stuck")];
    let _never_read = connect("/flood");
    let mut silent = connect("/");
    (0..4).for_each(|_| _ = running.events.opened());
    let _says_nothing = Client::tcp(running.address());
    let mut half = Client::tcp(running.address());
    half.write(&request().as_bytes()[..30]);
    let mut slow = Client::tcp(running.address());
    slow.write(request_with("/slow", "").as_bytes());
    let mut lingering = Client::tcp(running.address());
    lingering.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(lingering.answer().status, 426);

    shut_down_within(&running, close_timeout);
    assert_eq!(silent.expect_close().0, Some(1001));
    let events = running.events.rest();
    let late = events.iter().filter(|event| matches!(event, Event::Opened { .. })).count() as u64;
    let closed = assert_one_report_each_of(4 + late, &events);
    assert!(closed.values().all(is_shutdown), "{closed:?}");
    assert_eq!(running.handle.stats().open, 0);
    drop(release);
}

#[test]
fn shutdown_while_clients_stream_in_leaves_nobody_behind() {
    for _ in 0..15 {
        let running = start(server().close_timeout(ms(2000)), echo);
        let address = running.address();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    // Until the server is gone; whoever got in is said goodbye to, or at least hung up on.
                    while let Ok(stream) = TcpStream::connect(address) {
                        let mut client = Client::of(stream);
                        if client.try_write(request().as_bytes()) {
                            client.try_write(&masked(CLOSE, &close_payload(1000, "")));
                            client.drain();
                        }
                    }
                })
            })
            .collect();
        for _ in 0..5 {
            running.events.closed();
        }
        running.handle.shutdown();
        running.wait_for_end();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let stats = running.handle.stats();
        assert_eq!((stats.open, stats.opened), (0, stats.closed_total()), "{stats:?}");
        assert_eq!(stats.accepted, stats.opened + stats.handshakes_failed + stats.without_request, "{stats:?}");
    }
}

#[test]
fn a_client_that_has_its_101_gets_1001_however_early_the_shutdown_comes() {
    for round in 0..30 {
        let running = start(server(), echo);
        let mut client = running.connect();
        running.handle.shutdown();
        assert_eq!(client.expect_close().0, Some(1001), "round {round}");
        client.send_close(1001, "");
        client.drain();
        assert!(is_shutdown(&running.closed().reason), "round {round}");
    }
}

#[test]
fn shutdown_may_be_called_by_a_handler() {
    let server = server();
    let handle = server.handle();
    let running = start(server, move |conn| {
        conn.recv()?;
        handle.shutdown();
        conn.recv().map(drop)
    });
    let mut client = running.connect();
    client.send_text("stop");
    assert_eq!(client.expect_close().0, Some(1001));
    client.send_close(1001, "");
    running.wait_for_end();
}

#[test]
fn a_handle_blocks_neither_before_the_start_nor_after_the_end() {
    let use_all = |handle: &heartwire::ServerHandle| {
        for _ in 0..200 {
            handle.broadcast("to nobody");
        }
        handle.broadcast_except(1, "to nobody");
        assert!(handle.connections().is_empty());
        let _ = handle.stats();
        let _ = handle.events();
        let _ = handle.local_addr();
    };
    let server = server();
    let handle = server.handle();
    use_all(&handle);
    assert!(!handle.is_shutting_down());
    let running = start(server, echo);
    running.connect().close();
    running.closed();
    running.handle.shutdown();
    running.wait_for_end();
    use_all(&handle);
    handle.shutdown();
    assert!(handle.is_shutting_down());
    assert_eq!(handle.stats().opened, 1);
}

#[test]
fn events_asked_for_after_the_end_end_at_once() {
    let running = start(server(), echo);
    running.handle.shutdown();
    running.wait_for_end();
    let events = running.handle.events();
    assert!(events.recv_timeout(ms(2000)).unwrap_err().is_disconnected());
}

#[test]
fn shutdown_before_serve_ends_it_as_it_starts() {
    let server = server();
    let handle = server.handle();
    handle.shutdown();
    let running = start(server, echo);
    running.wait_for_end();
}

#[test]
fn broadcast_during_the_end_does_not_block() {
    for _ in 0..10 {
        let running = start(server(), echo);
        let mut clients: Vec<Client> = (0..3).map(|_| running.connect()).collect();
        let (done, ended) = bounded(1);
        let handle = running.handle.clone();
        thread::spawn(move || {
            let start = Instant::now();
            while start.elapsed() < CEILING {
                handle.broadcast("more");
                if handle.connections().is_empty() && handle.is_shutting_down() {
                    break;
                }
            }
            let _ = done.send(());
        });
        for client in &mut clients {
            client.text();
        }
        running.handle.shutdown();
        drop(clients);
        running.wait_for_end();
        receive("the broadcaster's end", &ended);
    }
}

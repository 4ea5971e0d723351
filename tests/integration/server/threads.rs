//! The threads of connections: when one serves another client, and when it ends. Linux alone tells, and other systems
//! start a thread for each.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::hint::black_box;
use std::thread::{self, ThreadId};

use crossbeam_channel::{Receiver, unbounded};
use heartwire::{CloseReason, HeartbeatPolicy, Server};

use crate::support::{Client, Running, alone, echo, eventually, ms, server, start, threads_named};

/// One more than may be idle.
const MANY: usize = 65;

fn threads() -> usize {
    threads_named("heartwire-conn")
}

/// A server whose handlers say what thread they are on, and have used so many bytes of its stack.
fn start_telling(server: Server, depth: usize) -> (Running, Receiver<ThreadId>) {
    let (sender, receiver) = unbounded();
    let running = start(server, move |conn| {
        go_deep(None, depth);
        let _ = sender.send(thread::current().id());
        echo(conn)
    });
    (running, receiver)
}

/// Uses so many bytes of the stack below this address, or below the first call's.
#[inline(never)]
fn go_deep(from: Option<usize>, bytes: usize) {
    let room = black_box([0_u8; 1024]);
    let here = room.as_ptr().addr();
    let from = from.unwrap_or(here);
    if from - here < bytes {
        go_deep(Some(from), bytes);
    }
    // After the call, so that it cannot become a loop.
    black_box(room);
}

/// How many threads serve a hundred clients one after another. Each waits for the end of the one before.
fn threads_for_a_hundred(running: &Running, ids: &Receiver<ThreadId>) -> usize {
    for _ in 0..100 {
        let mut client = running.connect();
        client.expect_echo("hello");
        client.close();
        running.closed();
    }
    ids.try_iter().collect::<HashSet<_>>().len()
}

#[test]
fn a_thread_serves_one_client_after_another() {
    let (running, ids) = start_telling(server(), 0);
    let used = threads_for_a_hundred(&running, &ids);
    println!("{used} threads");
    assert!(used <= 50, "{used} threads");
}

#[test]
fn a_thread_with_a_deep_stack_serves_nobody_else() {
    let (running, ids) = start_telling(server(), 128 * 1024);
    assert_eq!(threads_for_a_hundred(&running, &ids), 100);
}

#[test]
fn a_listener_that_others_may_share_has_a_thread_for_each_client() {
    // Its timeout would be that of the others too.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = listener.try_clone().unwrap();
    let (running, ids) = start_telling(Server::from_listener(listener).unwrap(), 0);
    assert_eq!(threads_for_a_hundred(&running, &ids), 100);
    let timeout = socket2::SockRef::from(&shared).read_timeout().unwrap();
    assert_eq!(timeout, None);
}

#[test]
fn threads_wait_for_clients_in_bounded_number_and_not_for_long() {
    if !alone!() {
        return;
    }
    let running = start(server(), echo);
    for _ in 0..2 {
        let clients: Vec<Client> = (0..2 * MANY).map(|_| running.connect()).collect();
        assert_eq!(threads(), 2 * MANY);
        clients.into_iter().for_each(Client::close);
        eventually("those that are too many have ended", || threads() < MANY);
        // The accept loop is called back.
        eventually("all have ended", || threads() == 0);
    }
    running.connect().expect_echo("still here");
}

#[test]
fn threads_whose_peers_were_found_dead_wait_for_those_that_come_back() {
    // All are to be there before the first is dead.
    let policy = HeartbeatPolicy::new(ms(1000), ms(1000)).max_missed(1);
    let (running, ids) = start_telling(server().heartbeat(policy), 0);
    let used_again = || {
        let dead: Vec<Client> = (0..2 * MANY).map(|_| running.connect()).collect();
        dead.iter().for_each(|_| assert!(matches!(running.closed().reason, CloseReason::HeartbeatLost { .. })));
        let first: HashSet<ThreadId> = ids.try_iter().collect();
        let back: Vec<Client> = (0..2 * MANY).map(|_| running.connect()).collect();
        back.iter().for_each(|_| _ = running.closed());
        let second: HashSet<ThreadId> = ids.try_iter().collect();
        second.intersection(&first).count()
    };
    // On a busy machine the dead may be found too far apart, or who comes back may come too late.
    let is_enough = (0..5).map(|_| used_again()).any(|used| {
        println!("{used} of {} threads were used again", 2 * MANY);
        used > MANY
    });
    assert!(is_enough, "never more than {MANY} threads");
}

#[test]
fn clients_that_say_nothing_occupy_threads_that_waited_and_keep_nobody_out() {
    if !alone!() {
        return;
    }
    let running = start(server(), echo);
    let clients: Vec<Client> = (0..MANY).map(|_| running.connect()).collect();
    clients.into_iter().for_each(Client::close);
    let _silent: Vec<Client> = (0..2 * MANY).map(|_| Client::tcp(running.address())).collect();
    running.connect().expect_echo("served all the same");
    eventually("each has a thread", || threads() == 2 * MANY + 1);
}

#[test]
fn shutdown_ends_threads_that_wait_for_clients() {
    if !alone!() {
        return;
    }
    // Many times, for it may come at any moment of a wait.
    for round in 0..50 {
        let running = start(server(), echo);
        let clients: Vec<Client> = (0..10).map(|_| running.connect()).collect();
        clients.into_iter().for_each(Client::close);
        if round % 2 == 0 {
            eventually("they wait", || running.handle.stats().open == 0);
        }
        running.stop();
        // Not after their patience, but a thread has its name until the system has forgotten it.
        eventually("all threads have ended", || threads() == 0);
    }
}

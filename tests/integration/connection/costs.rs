//! Threads and file descriptors that a connection takes. They are those of a process, so each test has one of its own.

use std::thread;

use heartwire::{HeartbeatPolicy, Sender};

use crate::support::{
    CLOSE, Client, TEXT, alone, eventually, fill, ms, open_sockets, receive, server, start_listening, threads_named,
};

#[test]
fn an_idle_connection_is_one_thread_and_one_that_is_behind_is_two() {
    if !alone!() {
        return;
    }
    const IDLE: usize = 50;
    let (running, senders) = start_listening(server().heartbeat(HeartbeatPolicy::new(ms(100), ms(10_000))));
    let mut clients: Vec<Client> = (0..IDLE).map(|_| running.connect()).collect();
    let mut senders: Vec<Sender> = (0..IDLE).map(|_| receive("a Sender", &senders)).collect();
    // They came as their threads started; connections are numbered as they were let in.
    senders.sort_by_key(Sender::id);
    // Beating and talking changes nothing.
    for (client, sender) in clients.iter_mut().zip(&senders) {
        sender.send("hello").unwrap();
        assert_eq!(client.text(), "hello");
    }
    let count = || (threads_named("heartwire-conn"), threads_named("heartwire-drain-"));
    assert_eq!(count(), (IDLE, 0));
    // Those that compute the handshakes of TLS end after a while.
    let others = threads_named("heartwire-") - threads_named("heartwire-tls");
    assert_eq!(others, IDLE + 3, "and the supervisor, the stand-in and the log");

    let behind: Vec<usize> = (0..IDLE).filter(|index| fills(&senders[*index], *index < 5)).collect();
    assert_eq!(behind, [0, 1, 2, 3, 4]);
    // A thread has its name a moment after it has started.
    eventually("there is a drainer for each that is behind, and no other", || count() == (IDLE, 5));
    for client in &mut clients[..5] {
        while client.message().opcode != TEXT {}
    }
    eventually("the drainers have ended", || count() == (IDLE, 0));

    clients.truncate(20);
    eventually("the threads of closed connections have ended", || count() == (20, 0));
    drop(clients);
    running.stop();
    eventually("all threads have ended", || threads_named("heartwire-") == 0);
}

fn fills(sender: &Sender, really: bool) -> bool {
    if really {
        fill(sender);
        // Not before there is room; the reader ends with it.
        let sender = sender.clone();
        thread::spawn(move || sender.send("the last"));
    }
    really
}

#[test]
fn a_sender_that_is_kept_does_not_keep_the_file_descriptor() {
    if !alone!() {
        return;
    }
    let (running, senders) = start_listening(server());
    let at_rest = open_sockets();
    let mut kept: Vec<Sender> = Vec::new();
    for round in 0..10 {
        let mut client = running.connect();
        let sender = receive("a Sender", &senders);
        if round % 2 == 0 {
            // Behind, and so with a drainer at the end.
            fill(&sender);
        }
        assert!(open_sockets() >= at_rest + 2);
        match round % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.send_close(1000, "");
                while client.frame().opcode != CLOSE {}
                client.expect_end();
            }
        }
        running.closed();
        kept.push(sender);
    }
    eventually("all sockets but the listener are closed", || open_sockets() == at_rest);
    assert!(kept.iter().all(Sender::is_closed));
}

//! Memory that is lent to a message may ask the server something when it is given back: no thread of ours that the
//! answer needs gives it back.

use crossbeam_channel::{Receiver, Sender, unbounded};
use heartwire::{Bytes, HeartbeatPolicy, Message, ServerHandle};

use crate::support::{CEILING, ms, server, start, start_listening};

/// Memory that asks which connections there are when it is given back, and says how many.
struct Curious {
    bytes: Vec<u8>,
    server: ServerHandle,
    answered: Sender<usize>,
}

impl AsRef<[u8]> for Curious {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        let _ = self.answered.send(self.server.connections().len());
    }
}

/// A lender of memory, and what is said when it is given back.
fn lender(server: ServerHandle) -> (impl Fn(usize) -> Message + Send + Sync, Receiver<usize>) {
    let (answered, answers) = unbounded();
    let lend = move |len| {
        let lent = Curious { bytes: vec![b'x'; len], server: server.clone(), answered: answered.clone() };
        Message::from(Bytes::from_owner(lent))
    };
    (lend, answers)
}

#[test]
fn what_is_broadcast_is_not_given_back_by_the_supervisor() {
    let (running, _senders) = start_listening(server());
    let mut client = running.connect();
    running.events.opened();
    let (lend, answers) = lender(running.handle.clone());
    running.handle.broadcast(lend(100));
    assert_eq!(client.frame().payload, [b'x'; 100]);
    assert_eq!(answers.recv_timeout(CEILING), Ok(1));
}

#[test]
fn what_is_fed_is_not_given_back_by_the_stand_in() {
    let server = server().heartbeat(HeartbeatPolicy::keepalive(ms(100)));
    let (lend, answers) = lender(server.handle());
    let (leave, left) = unbounded::<()>();
    let running = start(server, move |conn| {
        conn.feed(lend(2000))?;
        // Its Ping takes along what was fed.
        let _ = left.recv();
        Ok(())
    });
    let mut client = running.connect();
    assert_eq!(client.message().payload.len(), 2000);
    assert_eq!(answers.recv_timeout(CEILING), Ok(1));
    drop(leave);
}

#[test]
fn what_waits_for_a_dead_peer_is_not_given_back_by_the_stand_in() {
    const MESSAGES: usize = 3;
    let server = server().heartbeat(HeartbeatPolicy::new(ms(200), ms(100)).max_missed(1)).queue_size(64 << 20);
    let (lend, answers) = lender(server.handle());
    let (leave, left) = unbounded::<()>();
    let running = start(server, move |conn| {
        // All of them first: whatever a slow machine has not sent before its peer is dead is given back here.
        let messages: Vec<_> = (0..MESSAGES).map(|_| lend(8 << 20)).collect();
        messages.into_iter().try_for_each(|message| conn.send(message))?;
        let _ = left.recv();
        Ok(())
    });
    let _never_reads = running.connect();
    running.closed();
    for _ in 0..MESSAGES {
        assert!(answers.recv_timeout(CEILING).is_ok(), "the server can be asked");
    }
    drop(leave);
}

//! Each part is stalled in turn, and the others are not taken for stalled.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use super::*;
use crate::{Error, Server, ServerHandle};

/// Longer than anything here takes on a busy machine.
const CEILING: Duration = Duration::from_secs(30);
/// How long what does not answer is waited for.
const SHORT: Duration = Duration::from_millis(200);

/// Stalls a part of a server until what `stall` gives is dropped. It has to be found, and nothing else, and not before
/// or afterwards.
#[track_caller]
fn is_found(part: ServerPart, stall: impl FnOnce(&ServerHandle, &SupervisorHandle, channel::Receiver<()>)) {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let (handle, supervisor) = (server.handle(), server.supervisor());
    let serving = thread::spawn(move || server.serve(|conn| conn.recv().map(drop)));
    while !supervisor.is_running() {
        thread::yield_now();
    }
    assert_eq!(handle.stalled_parts(CEILING), []);
    let (release, until_released) = channel::bounded(0);
    stall(&handle, &supervisor, until_released);
    let mut timeout = Duration::from_millis(100);
    loop {
        let found = handle.stalled_parts(timeout);
        assert!(found.contains(&part), "{found:?}");
        if found == [part] {
            break;
        }
        // On a busy machine the others may be late too.
        timeout *= 2;
        assert!(timeout < CEILING, "{found:?}");
    }
    drop(release);
    assert_eq!(handle.stalled_parts(CEILING), []);
    handle.shutdown();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_supervisor_that_is_stalled_is_found_and_nothing_else() {
    is_found(ServerPart::Supervisor, |_, supervisor, until_released| {
        supervisor.notify(Notice::Stall(until_released));
    });
}

#[test]
fn a_stand_in_that_is_stalled_is_found_and_nothing_else() {
    is_found(ServerPart::StandIn, |_, supervisor, until_released| supervisor.stand_in.stall(until_released));
}

#[test]
fn an_accept_loop_that_is_stalled_is_found_and_nothing_else() {
    is_found(ServerPart::AcceptLoop, |handle, _, until_released| {
        let probes = Arc::clone(&handle.probes);
        let (hold, is_held) = channel::bounded(0);
        thread::spawn(move || {
            let _gate = probes.gate.lock().unwrap();
            hold.send(()).unwrap();
            let _ = until_released.recv();
        });
        is_held.recv_timeout(CEILING).unwrap();
    });
}

#[test]
fn a_listener_that_nobody_accepts_from_does_not_answer_and_one_that_is_closed_neither() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, probes) = (listener.local_addr().unwrap(), Probes::default());
    assert!(!probes.is_accepted(address, Instant::now() + SHORT).unwrap());
    drop(listener);
    assert!(!probes.is_accepted(address, Instant::now() + CEILING).unwrap());
    assert!(probes.addresses().is_empty() && probes.under_way.load(SeqCst) == 0);
}

#[test]
fn an_accept_loop_that_meets_a_shortage_is_not_stalled() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (supervisor, _receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let (address, probes) = (listener.local_addr().unwrap(), Probes::default());
    assert!(!accepts(&supervisor, &probes, &[address], &[], Instant::now() + SHORT));
    thread::scope(|scope| {
        let probe = scope.spawn(|| accepts(&supervisor, &probes, &[address], &[], Instant::now() + SHORT));
        while !probe.is_finished() {
            supervisor.count(|stats| stats.accept_errors += 1);
            thread::yield_now();
        }
        assert!(probe.join().unwrap());
    });
}

#[test]
fn before_and_after_it_serves_all_parts_of_a_server_are_missing() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    assert_eq!(handle.stalled_parts(CEILING).len(), 3);
    handle.shutdown();
    server.serve(|_| Err(Error::handler("nobody comes"))).unwrap();
    assert_eq!(handle.stalled_parts(CEILING).len(), 3);
}

//! The supervisor, with connections that have no threads.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::frame::Role;
use crate::handle::Receivers;
use crate::link::Opening;
use crate::settings::Settings;

/// Longer than anything here takes on a busy machine.
const CEILING: Duration = Duration::from_secs(30);

/// A connection, and its peer.
fn connection(hub: &Arc<Hub>, id: ConnectionId) -> (Arc<Link>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(CEILING)).unwrap();
    let (stream, address) = listener.accept().unwrap();
    let link = Link::new(Opening {
        role: Role::Server,
        id,
        remote: address.into(),
        target: "/".into(),
        stream: Arc::new(stream),
        settings: &Settings::default(),
        takes_broadcasts: true,
        hub: Arc::clone(hub),
    });
    (Arc::new(link), peer)
}

fn expect_close(peer: &mut TcpStream) {
    let mut header = [0; 4];
    peer.read_exact(&mut header).expect("a Close frame");
    assert_eq!((header[0], u16::from_be_bytes([header[2], header[3]])), (0x88, 1001));
}

/// Where processors are short, a thread may wait for one while it holds a connection's lock.
#[test]
fn a_shutdown_does_not_wait_for_a_thread_that_holds_a_connections_lock() {
    let (hub, Receivers { notices, commands, .. }) = Hub::new(None).unwrap();
    let ((first, mut first_peer), (second, mut second_peer)) = (connection(&hub, 1), connection(&hub, 2));
    let supervisor = Supervisor::new(notices, commands, Arc::clone(&hub), Duration::from_secs(2));
    let (release, wait) = channel::bounded::<()>(0);
    let (locked, is_locked) = channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            first.outbound.ending(|_| {
                locked.send(()).unwrap();
                let _ = wait.recv();
            });
        });
        is_locked.recv_timeout(CEILING).unwrap();
        for link in [&first, &second] {
            hub.notify(Notice::Opened(Arc::clone(link)));
        }
        hub.notify(Notice::AcceptEnds);
        hub.notify(Notice::Shutdown);
        let supervising = scope.spawn(|| supervisor.run());
        expect_close(&mut second_peer);
        drop(release);
        expect_close(&mut first_peer);
        for id in [1, 2] {
            hub.notify(Notice::ThreadEnds { id });
        }
        supervising.join().unwrap();
    });
}

#[test]
fn a_connection_whose_lock_is_held_up_to_the_end_is_reported_all_the_same() {
    let (hub, Receivers { notices, commands, .. }) = Hub::new(None).unwrap();
    let events = hub.subscribe();
    let (link, _peer) = connection(&hub, 1);
    let close_timeout = Duration::from_millis(100);
    let supervisor = Supervisor::new(notices, commands, Arc::clone(&hub), close_timeout);
    let (locked, is_locked) = channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            link.outbound.ending(|_| {
                locked.send(()).unwrap();
                thread::sleep(3 * close_timeout);
            });
        });
        is_locked.recv_timeout(CEILING).unwrap();
        hub.notify(Notice::Opened(Arc::clone(&link)));
        hub.notify(Notice::AcceptEnds);
        hub.notify(Notice::Shutdown);
        supervisor.run();
    });
    let is_end = |event: &Event| matches!(event, Event::Closed(report) if report.reason == CloseReason::Shutdown);
    assert_eq!(events.try_iter().filter(is_end).count(), 1);
}

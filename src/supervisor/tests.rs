//! The supervisor, with connections that have no threads.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::connection::shared::NewConnection;
use crate::http::request::PeerCertificate;
use crate::protocol::frame::Role;
use crate::settings::Settings;
use crate::supervisor::broadcast::Broadcast;
use crate::supervisor::handle::Receivers;

/// Longer than anything here takes on a busy machine.
const CEILING: Duration = Duration::from_secs(30);

/// A connection, and its peer.
pub(crate) fn connection(supervisor: &Arc<SupervisorHandle>, id: ConnectionId) -> (Arc<Shared>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(CEILING)).unwrap();
    let (stream, address) = listener.accept().unwrap();
    let shared = Shared::new(NewConnection {
        role: Role::Server,
        identity: Identity { id, remote: address.into() },
        user: None,
        target: "/".into(),
        certificate: PeerCertificate::default(),
        #[cfg(feature = "deflate")]
        agreed: None,
        stream: Arc::new(stream.into()),
        settings: Arc::default(),
        takes_broadcasts: true,
        shares_frames: true,
        supervisor: Arc::clone(supervisor),
    });
    (Arc::new(shared), peer)
}

fn expect_close(peer: &mut TcpStream) {
    let mut header = [0; 4];
    peer.read_exact(&mut header).expect("a Close frame");
    assert_eq!((header[0], u16::from_be_bytes([header[2], header[3]])), (0x88, 1001));
}

/// Where processors are short, a thread may wait for one while it holds a connection's lock: so does one here, until
/// `act` drops what it is given.
fn while_locked(shared: &Shared, act: impl FnOnce(channel::Sender<()>)) {
    let (release, wait) = channel::bounded::<()>(0);
    let (locked, is_locked) = channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            shared.write_half.close_state(|_| {
                locked.send(()).unwrap();
                let _ = wait.recv();
            });
        });
        is_locked.recv_timeout(CEILING).unwrap();
        act(release);
    });
}

#[test]
fn a_shutdown_does_not_wait_for_a_thread_that_holds_a_connections_lock() {
    let (supervisor, Receivers { notices, commands, .. }) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let ((first, mut first_peer), (second, mut second_peer)) = (connection(&supervisor, 1), connection(&supervisor, 2));
    let thread = Supervisor::new(notices, commands, Arc::clone(&supervisor), Duration::from_secs(2));
    while_locked(&first, |release| {
        for shared in [&first, &second] {
            supervisor.notify(Notice::Opened(Arc::clone(shared)));
        }
        supervisor.notify(Notice::NoMoreConnections);
        supervisor.notify(Notice::Shutdown { reason: Box::new(CloseReason::shutdown()) });
        let supervising = thread::spawn(|| thread.run());
        expect_close(&mut second_peer);
        drop(release);
        expect_close(&mut first_peer);
        for id in [1, 2] {
            supervisor.notify(Notice::ThreadEnds { id, heard: None });
        }
        supervising.join().unwrap();
    });
}

#[test]
fn a_drain_whose_period_is_over_does_not_wait_for_a_thread_that_holds_a_connections_lock() {
    let (supervisor, Receivers { notices, commands, .. }) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let ((first, _first_peer), (second, _second_peer)) = (connection(&supervisor, 1), connection(&supervisor, 2));
    let mut thread = Supervisor::new(notices, commands, Arc::clone(&supervisor), CEILING);
    for shared in [&first, &second] {
        supervisor.notify(Notice::Opened(Arc::clone(shared)));
    }
    thread.take(None);
    let (done, is_done) = channel::bounded(1);
    while_locked(&first, |release| {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread.begin_drain(Instant::now());
                thread.drain(Instant::now());
                let _ = done.send(());
            });
            let outcome = is_done.recv_timeout(CEILING);
            drop(release);
            outcome.expect("the supervisor goes on");
        });
    });
    // The other one had its turn.
    assert!(second.write_half.is_closing());
}

#[test]
fn a_broadcast_reaches_a_connection_that_opened_before_it_although_its_notice_still_waits() {
    let (supervisor, Receivers { notices, commands, .. }) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let (shared, mut peer) = connection(&supervisor, 1);
    let mut thread = Supervisor::new(notices, commands, Arc::clone(&supervisor), CEILING);
    // The handler's thread does the same in this order. The supervisor may find the command first, if it looked for
    // notices a moment before.
    supervisor.notify(Notice::Opened(shared));
    let broadcast = Broadcast::new("joined".into());
    thread.take(Some(Command::Broadcast { broadcast, except: None }));
    let mut received = [0; 8];
    peer.read_exact(&mut received).expect("the broadcast arrives");
    assert_eq!(&received[2..], b"joined");
}

#[test]
fn a_broadcast_that_goes_out_together_with_another_reaches_a_connection_that_opened_before_it() {
    let (supervisor, Receivers { notices, commands, .. }) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    supervisor.mark_running(&Settings { max_buffered: 0, ..Settings::default() });
    let (shared, mut peer) = connection(&supervisor, 1);
    let mut thread = Supervisor::new(notices, commands, Arc::clone(&supervisor), CEILING);
    let (heard, until_heard) = channel::bounded(0);
    supervisor.notify(Notice::ThreadEnds { id: 0, heard: Some(heard) });
    // Enough for the connection to open while the supervisor deals with these.
    let remote = Remote::from(peer.local_addr().unwrap());
    for _ in 0..100_000 {
        let connection = Identity { id: 0, remote };
        supervisor.notify(Notice::Missed { connection, what: "Pong", missed: 1, max_missed: 3 });
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = until_heard.recv();
            supervisor.notify(Notice::Opened(shared));
            supervisor.broadcast("joined".into(), None);
        });
        thread.take(Some(Command::Broadcast { broadcast: Broadcast::new("others".into()), except: None }));
    });
    let command = thread.commands.try_recv().ok();
    thread.take(command);
    let mut received = [0; 8];
    peer.read_exact(&mut received).expect("a broadcast arrives");
    if &received[2..] == b"others" {
        peer.read_exact(&mut received).expect("its own broadcast arrives too");
    }
    assert_eq!(&received[2..], b"joined");
}

#[test]
fn a_connection_whose_lock_is_held_up_to_the_end_is_reported_all_the_same() {
    let (supervisor, Receivers { notices, commands, .. }) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let events = supervisor.subscribers.add();
    let (shared, _peer) = connection(&supervisor, 1);
    let close_timeout = Duration::from_millis(100);
    let thread = Supervisor::new(notices, commands, Arc::clone(&supervisor), close_timeout);
    let (locked, is_locked) = channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            shared.write_half.close_state(|_| {
                locked.send(()).unwrap();
                thread::sleep(3 * close_timeout);
            });
        });
        is_locked.recv_timeout(CEILING).unwrap();
        supervisor.notify(Notice::Opened(Arc::clone(&shared)));
        supervisor.notify(Notice::NoMoreConnections);
        supervisor.notify(Notice::Shutdown { reason: Box::new(CloseReason::shutdown()) });
        thread.run();
    });
    let is_end = |event: &Event| matches!(event, Event::Closed(report) if report.reason == CloseReason::shutdown());
    assert_eq!(events.try_iter().filter(is_end).count(), 1);
}

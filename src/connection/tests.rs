//! What a connection reports, and in which order.

use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::connection::identity::Identity;
use crate::connection::shared::NewConnection;
use crate::heartbeat::HeartbeatPolicy;
use crate::http::request::PeerCertificate;
use crate::protocol::frame::Role;
use crate::settings::Settings;
use crate::supervisor::Supervisor;
use crate::supervisor::event::Event;
use crate::supervisor::handle::{Receivers, SupervisorHandle};
use crate::supervisor::notice::Notice;
use crate::transport::stream::Stream;

/// An open connection, and the channels on which the supervisor would receive.
fn connection() -> (Arc<Shared>, Box<Connection>, Receivers) {
    connection_with(&[])
}

/// The same, after these bytes have arrived from the peer.
fn connection_with(head: &[u8]) -> (Arc<Shared>, Box<Connection>, Receivers) {
    let (shared, stream, receivers) = shared_and_stream();
    let receiving = ReceivingEnd::open(&shared, Role::Server, &stream, head, HeartbeatPolicy::off(), false);
    let request =
        Request::from_bytes(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", shared.identity.remote.peer_addr).unwrap();
    let connection = Connection::new(Arc::clone(&shared), receiving, request, None, Attached::default());
    (shared, Box::new(connection), receivers)
}

/// The reason in each report of the end.
fn reasons(receivers: &Receivers) -> Vec<CloseReason> {
    let notices = receivers.notices.try_iter();
    let reports = notices.filter_map(|notice| if let Notice::Closed(report) = notice { Some(report) } else { None });
    reports.map(|report| report.reason).collect()
}

#[test]
fn a_connection_that_is_dropped_is_reported_even_if_nobody_concluded_it() {
    let (_link, connection, receivers) = connection();
    drop(connection);
    assert!(matches!(&reasons(&receivers)[..], [CloseReason::HandlerPanicked(_)]));
}

#[test]
fn a_connection_whose_receiving_end_was_lost_is_reported_with_the_cause() {
    let (shared, mut connection, receivers) = connection();
    // A panic during `recv` leaves the connection in this state.
    drop(shared.take_receiving_end());
    connection.conclude(CloseReason::HandlerPanicked("in recv".to_owned()));
    drop(connection);
    assert_eq!(reasons(&receivers), [CloseReason::HandlerPanicked("in recv".to_owned())]);
}

#[test]
fn a_report_that_was_lost_is_made_up_for_when_the_supervisor_ends() {
    let (shared, _stream, receivers) = shared_and_stream();
    let events = shared.supervisor.subscribers.add();
    shared.announce_open();
    shared.abort(CloseReason::Protocol("as a test wants it"));
    // A panic during the report leaves the connection in this state.
    let opened = receivers.notices.try_iter().find(|notice| matches!(notice, Notice::Opened(_))).unwrap();
    assert_eq!(receivers.notices.len(), 1, "the report");
    receivers.notices.recv().unwrap();
    for notice in [opened, Notice::Shutdown { reason: Box::new(CloseReason::shutdown()) }, Notice::NoMoreConnections] {
        shared.supervisor.notify(notice);
    }
    let Receivers { notices, commands, .. } = receivers;
    Supervisor::new(notices, commands, Arc::clone(&shared.supervisor), Duration::from_millis(50)).run();
    let told: Vec<Event> = events.try_iter().collect();
    let [Event::Opened { .. }, Event::Closed(report)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(report.reason, CloseReason::Protocol("as a test wants it"));
    assert_eq!((shared.supervisor.stats().open, shared.supervisor.stats().closed_total()), (0, 1));
}

/// Shared state without a connection around it, and the channels on which the supervisor would receive.
fn shared() -> (Arc<Shared>, Receivers) {
    let (shared, _, receivers) = shared_and_stream();
    (shared, receivers)
}

fn shared_and_stream() -> (Arc<Shared>, Arc<Stream>, Receivers) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = stream.peer_addr().unwrap();
    let stream = Arc::new(Stream::from(stream));
    let (supervisor, receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
    let shared = Shared::new(NewConnection {
        role: Role::Server,
        identity: Identity { id: 1, remote: peer.into() },
        user: None,
        target: "/".into(),
        certificate: PeerCertificate::default(),
        #[cfg(feature = "deflate")]
        agreed: None,
        stream: Arc::clone(&stream),
        settings: Arc::new(Settings { read_buffer_size: 256, max_message_size: 256, ..Settings::default() }),
        takes_broadcasts: true,
        shares_frames: true,
        supervisor,
    });
    (Arc::new(shared), stream, receivers)
}

#[test]
fn a_miss_never_follows_the_end_whoever_is_first() {
    let policy = HeartbeatPolicy::default();
    let mut misses = 0;
    for _ in 0..300 {
        let (shared, receivers) = shared();
        let judge = Arc::clone(&shared);
        let judging = thread::spawn(move || (1..100).for_each(|missed| judge.miss(missed, &policy)));
        if misses % 2 == 0 {
            thread::yield_now();
        }
        shared.abort(CloseReason::shutdown());
        judging.join().unwrap();
        let told: Vec<bool> = receivers.notices.try_iter().map(|notice| matches!(notice, Notice::Closed(_))).collect();
        misses += told.len() - 1;
        assert_eq!(told.iter().position(|is_closed| *is_closed), Some(told.len() - 1), "{told:?}");
    }
    assert!(misses > 0, "no miss was ever first");
}

#[test]
fn a_heartbeat_that_is_asked_for_in_the_last_moment_before_a_thread_leaves_or_waits_is_not_left_lying() {
    let policy = HeartbeatPolicy::default();
    let (shared, _connection, _receivers) = connection();
    let receiving = shared.take_receiving_end().unwrap();
    assert_eq!(shared.take_requested_heartbeat(), None);
    shared.request_heartbeat(policy).unwrap();
    let receiving = shared.offer(receiving).expect("there is something to do before it waits");
    shared.leave_recv(receiving, Instant::now());
    assert_eq!(shared.with_receiving_end(|receiving| receiving.policy()), Some(policy));
}

#[test]
fn one_look_of_the_stand_in_is_a_bounded_amount_of_work_whatever_the_peer_sends() {
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(10_000);
    let (shared, _connection, _receivers) = connection_with(&pings);
    shared.supervisor.mark_running(&Settings { max_buffered: 1 << 20, ..Settings::default() });
    let left = shared.with_receiving_end(|receiving| {
        let (again, reads) = receiving.stand_in(&shared, Instant::now()).unwrap();
        assert!(again.is_some() && reads, "there is more to be done");
        receiving.read_half.decoder.undecoded()
    });
    assert!((pings.len() / 2..pings.len()).contains(&left.unwrap()), "{left:?} of {}", pings.len());
}

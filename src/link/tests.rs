//! What is told of a connection, and in which order.

use std::net::TcpListener;
use std::thread;

use super::*;
use crate::handle::Receivers;

/// A link without a connection around it, and what the supervisor would hear of it.
fn link() -> (Arc<Link>, Receivers) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (hub, receivers) = Hub::new(None).unwrap();
    let settings = Settings::default();
    let link = Link::new(Opening {
        role: Role::Server,
        id: 1,
        remote: stream.peer_addr().unwrap().into(),
        path: "/".to_owned(),
        stream: Arc::new(stream),
        settings: &settings,
        takes_broadcasts: true,
        hub,
    });
    (Arc::new(link), receivers)
}

#[test]
fn a_miss_never_follows_the_end_whoever_is_first() {
    let policy = HeartbeatPolicy::default();
    let mut misses = 0;
    for _ in 0..300 {
        let (link, receivers) = link();
        let judge = Arc::clone(&link);
        let judging = thread::spawn(move || (1..100).for_each(|missed| judge.miss(missed, &policy)));
        if misses % 2 == 0 {
            thread::yield_now();
        }
        link.abort(CloseReason::Shutdown);
        judging.join().unwrap();
        let told: Vec<bool> = receivers.notices.try_iter().map(|notice| matches!(notice, Notice::Closed(_))).collect();
        misses += told.len() - 1;
        assert_eq!(told.iter().position(|is_closed| *is_closed), Some(told.len() - 1), "{told:?}");
    }
    assert!(misses > 0, "no miss was ever first");
}

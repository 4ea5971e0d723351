//! Connections come and go, and whoever sends to one of them waits for nobody.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;
use tungstenite::WebSocket;

use crate::supervisor::event::Event;
use crate::supervisor::notice::Notice;
use crate::{Accept, Error, SentToUser, Server};

/// Longer than anything here takes on a busy machine.
const CEILING: Duration = Duration::from_secs(30);

/// A server whose clients name their users by the path.
fn server() -> Server {
    let server = Server::bind("127.0.0.1:0").unwrap();
    server.on_handshake(|request| Ok(Accept::new().user(&request.path()[1..])))
}

fn serve(server: Server) -> Result<(), Error> {
    server.serve(|conn| {
        loop {
            conn.recv()?;
        }
    })
}

fn connect(address: SocketAddr, user: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    tungstenite::client(format!("ws://{address}/{user}"), stream).unwrap().0
}

#[test]
fn whoever_sends_to_a_connection_or_closes_it_does_not_wait_for_the_supervisor() {
    let server = server();
    let (handle, supervisor) = (server.handle(), server.supervisor());
    let events = handle.events();
    let serving = thread::spawn(|| serve(server));
    let [mut first, mut second] = ["anna", "bob"].map(|user| connect(handle.local_addr(), user));
    for _ in 0..2 {
        assert!(matches!(events.recv_timeout(CEILING), Ok(Event::Opened { .. })));
    }

    let (release, until_released) = channel::bounded(0);
    supervisor.notify(Notice::Stall(until_released));
    let (done, outcome) = channel::bounded(1);
    let theirs = handle.clone();
    thread::spawn(move || {
        let sent = (theirs.send_to(1, "to #1"), theirs.send_to_user("bob", "to bob"));
        let _ = done.send((sent, theirs.close(1, 4000, "").is_ok(), theirs.close_user("bob", 4001, "").ok()));
    });
    let outcome = outcome.recv_timeout(CEILING);
    drop(release);
    let expected = ((Ok(()), SentToUser { sent: 1, ..SentToUser::default() }), true, Some(1));
    assert_eq!(outcome, Ok(expected), "the supervisor was waited for");
    assert_eq!(first.read().unwrap().into_text().unwrap(), "to #1");
    assert_eq!(second.read().unwrap().into_text().unwrap(), "to bob");
    // They do not answer the Close frames.
    drop((first, second));
    handle.shutdown();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_connection_is_listed_as_long_as_its_thread_lives_and_its_user_as_long_as_one_of_them() {
    const USERS: [&str; 3] = ["anna", "bob", "carol"];
    const ROUNDS: usize = 20;
    let server = server();
    let (handle, supervisor) = (server.handle(), server.supervisor());
    let serving = thread::spawn(|| serve(server));
    let address = handle.local_addr();
    thread::scope(|scope| {
        for user in USERS {
            for _ in 0..2 {
                scope.spawn(move || (0..ROUNDS).for_each(|_| drop(connect(address, user))));
            }
            let handle = &handle;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    handle.send_to_user(user, "hello");
                    handle.close_user(user, 4000, "").unwrap();
                    thread::yield_now();
                }
            });
        }
    });
    let stays = connect(address, "dave");
    let listed = || {
        let lists = supervisor.directory.lists.read().unwrap();
        let users: Vec<String> = lists.of_users.keys().map(|user| user.as_str().to_owned()).collect();
        (lists.all.len(), users)
    };
    let start = Instant::now();
    while listed() != (1, vec!["dave".to_owned()]) {
        assert!(start.elapsed() < CEILING, "{:?}", listed());
        thread::sleep(Duration::from_millis(2));
    }
    drop(stays);
    handle.shutdown();
    serving.join().unwrap().unwrap();
    assert_eq!(listed(), (0, vec![]));
    assert_eq!(handle.stats().opened, (USERS.len() * 2 * ROUNDS) as u64 + 1, "there was something to forget");
}

#[test]
fn a_connection_whose_thread_was_abandoned_is_not_listed_after_the_end() {
    let (release, until_released) = channel::bounded::<()>(0);
    let server = server().close_timeout(Duration::from_millis(100));
    let (handle, supervisor) = (server.handle(), server.supervisor());
    let serving = thread::spawn(move || {
        server.serve(move |_| {
            let _ = until_released.recv();
            Ok(())
        })
    });
    let _client = connect(handle.local_addr(), "anna");
    let start = Instant::now();
    while supervisor.directory.find(1).is_none() {
        assert!(start.elapsed() < CEILING, "never listed");
        thread::yield_now();
    }
    handle.shutdown();
    serving.join().unwrap().unwrap();
    assert!(supervisor.directory.find(1).is_none());
    assert_eq!(handle.send_to_user("anna", "hello"), SentToUser::default());
    drop(release);
}

//! User code that panics, wherever it is called, and whatever it leaves behind: each connection that opened is reported
//! once, with the true cause, and nobody else notices.

use std::fmt;
use std::panic::panic_any;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use crossbeam_channel::Receiver;
use heartwire::{Accept, CloseReason, Connection, Error, Message, Response};
use tungstenite::Bytes;

use crate::support::{
    BareServer, Client, Events, client, closures, echo, eventually, exchange, listen, receive, request_with, run,
    server, start,
};

/// What makes everything worse: the panic of its `Drop` has another of its kind as its payload.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Self(self.0 - 1));
        }
    }
}

/// An error of a handler, and what is wrong with it.
#[derive(Debug)]
enum Bad {
    FailsToShow,
    PanicsToShow,
    ExplodesToShow,
    PanicsInDrop,
    ExplodesInDrop,
    IsEndless,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailsToShow => Err(fmt::Error),
            Self::PanicsToShow => panic!("no text"),
            Self::ExplodesToShow => panic_any(Bomb(2)),
            Self::PanicsInDrop | Self::ExplodesInDrop => f.write_str("a bad end"),
            Self::IsEndless => loop {
                f.write_str("and on ")?;
            },
        }
    }
}

impl std::error::Error for Bad {}

impl Drop for Bad {
    fn drop(&mut self) {
        match self {
            Self::PanicsInDrop => panic!("no end"),
            Self::ExplodesInDrop => panic_any(Bomb(2)),
            _ => {}
        }
    }
}

const UNSPEAKABLE: &str = "(an error that cannot be shown)";

/// What handlers do, and what is reported of it: whether they panicked, and the text.
const WAYS: [(&str, bool, &str); 9] = [
    ("/panic", true, "as the test wants it"),
    ("/bomb", true, "no message"),
    ("/fails-to-show", false, UNSPEAKABLE),
    ("/panics-to-show", false, UNSPEAKABLE),
    ("/explodes-to-show", false, UNSPEAKABLE),
    ("/panics-in-drop", false, "a bad end"),
    ("/explodes-in-drop", false, "a bad end"),
    ("/is-endless", false, "and on and on "),
    ("/panic-with-a-novel", true, "xxxx"),
];

fn go(way: &str) -> Result<(), Error> {
    Err(Error::handler(match way {
        "/panic" => panic!("as the test {} it", "wants"),
        "/bomb" => panic_any(Bomb(2)),
        "/panic-with-a-novel" => panic_any("x".repeat(1 << 20)),
        "/fails-to-show" => Bad::FailsToShow,
        "/panics-to-show" => Bad::PanicsToShow,
        "/explodes-to-show" => Bad::ExplodesToShow,
        "/panics-in-drop" => Bad::PanicsInDrop,
        "/explodes-in-drop" => Bad::ExplodesInDrop,
        _ => Bad::IsEndless,
    }))
}

/// The reason is what the handler did, in a text that is not too long.
#[track_caller]
fn assert_reason(reason: &CloseReason, is_panic: bool, expected: &str) {
    let text = match reason {
        CloseReason::HandlerPanicked(text) if is_panic => text,
        CloseReason::HandlerFailed(text) if !is_panic => text,
        other => panic!("{other:?}"),
    };
    assert!(text.starts_with(expected) && text.len() < 5000, "{text:.200}");
}

#[test]
fn a_handler_is_reported_once_whatever_it_leaves_behind() {
    let running = start(server(), |conn| match conn.path() {
        "/" => echo(conn),
        way => go(way),
    });
    let mut bystander = running.connect();
    for (way, is_panic, text) in WAYS {
        let mut client = Client::tcp(running.address()).upgraded(&request_with(way, ""));
        assert_eq!(client.expect_close().0, Some(1011), "{way}");
        drop(client);
        assert_reason(&running.closed().reason, is_panic, text);
    }
    bystander.expect_echo("still here");
    let stats = running.handle.stats();
    assert_eq!((stats.open, stats.closed_total()), (1, WAYS.len() as u64));
    assert_eq!(closures(&running.stop()), 1, "of the bystander alone");
}

#[test]
fn a_client_reports_its_handler_once_whatever_it_leaves_behind() {
    for (way, is_panic, text) in WAYS {
        let server = BareServer::bind();
        let client = client(server.address());
        let events = Events::new(client.handle().events());
        let ran = run_and_catch(client, move |_| go(way));
        server.open().expect_close(1011);
        assert_reason(&events.closed().reason, is_panic, text);
        assert_eq!(closures(&events.rest()), 0, "{way}");
        assert_eq!(receive("its end", &ran), is_panic, "a panic of the handler passes through: {way}");
    }
}

/// Runs a client, and says whether that panicked. What it leaves is lost, for dropping it is dangerous.
fn run_and_catch<H>(client: heartwire::Client, handler: H) -> Receiver<bool>
where
    H: FnMut(&mut Connection) -> Result<(), Error> + Send + 'static,
{
    let (sender, ended) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.run(handler)));
        let _ = sender.send(result.is_err());
        std::mem::forget(result);
    });
    ended
}

#[test]
fn callbacks_that_explode_are_answered_with_500_and_reported() {
    let server = server()
        .on_handshake(|request| match request.path() {
            "/explode" => panic_any(Bomb(2)),
            _ => Ok(Accept::new()),
        })
        .on_request(|request| match request.path() {
            "/explode" => panic_any(Bomb(2)),
            _ => Some(Response::new(200).text("fine\n")),
        });
    let running = start(server, echo);
    let get = |path: &str| exchange(running.address(), format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).status;
    assert_eq!((get("/explode"), get("/")), (500, 200));
    assert_eq!(exchange(running.address(), request_with("/explode", "")).status, 500);
    assert_eq!(running.events.handshake_failed().0, Some(500));
    let mut client = running.connect();
    client.expect_echo("hello");
}

#[test]
fn attempts_that_explode_are_followed_by_others() {
    let server = BareServer::bind();
    let client = client(server.address()).prepare(|attempt| match attempt.number() {
        1 => panic_any(Bomb(2)),
        2 => Err(Bad::ExplodesInDrop.into()),
        3 => Err(Bad::ExplodesToShow.into()),
        _ => Ok(()),
    });
    let client = run(client, listen);
    for text in ["it panicked: no message", "a bad end", UNSPEAKABLE] {
        let (said, is_fatal) = client.connect_failed();
        assert_eq!((said.as_str(), is_fatal), (&*format!("cannot prepare the attempt: {text}"), false));
    }
    let connection = server.open();
    client.events.opened();
    client.handle.stop();
    connection.expect_close(1000);
    client.result().unwrap();
}

#[test]
fn a_panic_of_give_up_if_passes_through_and_what_was_open_is_reported() {
    let server = BareServer::bind();
    let client = client(server.address()).give_up_if(|_| panic_any(Bomb(2)));
    let events = Events::new(client.handle().events());
    let ran = run_and_catch(client, listen);
    server.open().reset();
    assert!(receive("its end", &ran));
    assert_eq!(closures(&events.rest()), 1);
}

/// Memory that is lent to a message.
struct Lent(Vec<u8>);

static RETURNED: AtomicUsize = AtomicUsize::new(0);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        RETURNED.fetch_add(1, SeqCst);
        panic_any(Bomb(2));
    }
}

#[test]
fn lent_memory_that_explodes_when_it_is_given_back_costs_nobody_anything() {
    let lend = |len| Message::from(Bytes::from_owner(Lent(vec![b'x'; len])));
    let running = start(server(), echo);
    let (mut client, slow) = (running.connect(), running.connect());
    let messages = 10;
    for _ in 0..messages {
        // Too much for the system's buffers, so that the drainer has it too.
        running.handle.broadcast(lend(8 << 20));
        assert_eq!(client.message().payload.len(), 8 << 20);
        // What its drainer still counts would leave the next no room.
        let queued = || running.handle.connections().iter().find(|info| info.id == 1).map(|info| info.queued);
        eventually("its drainer is done", || queued() == Some(0));
    }
    slow.reset();
    eventually("all is given back", || RETURNED.load(SeqCst) == messages);
    client.expect_echo("hello");
    drop(client);
    assert_eq!(closures(&running.stop()), 2);
}

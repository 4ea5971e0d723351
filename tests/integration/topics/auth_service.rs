//! Clients of whom an authorization service says what they may do.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::unbounded;
use heartwire::topics::{AuthService, InvalidAuthService, Topics};
use heartwire::{Accept, Event, HeartbeatPolicy};

use super::start_server;
use crate::support::fake_service::{FakeService, reply};
use crate::support::topics::{SUBPROTOCOL, ask, subscription};
use crate::support::{
    Answer, CEILING, Client, PING, PONG, Running, SLACK, eventually, exchange, masked, ms, request_with, server, start,
};
#[cfg(target_os = "linux")]
use crate::support::{alone, threads_named};

/// A refused client may try again at once.
const UNCACHED: &str = "Cache-Control: no-store\r\n";

fn start_with(service: AuthService) -> Running {
    start_server(server(), Topics::new().presence(true).auth_service(service))
}

fn client_with(running: &Running, headers: &str) -> Client {
    let mut client = Client::tcp(running.address()).upgraded(&request_with("/", &format!("{SUBPROTOCOL}{headers}")));
    assert!(client.text().starts_with("heartwire {"));
    client
}

fn refused(running: &Running, headers: &str) -> Answer {
    exchange(running.address(), request_with("/", &format!("{SUBPROTOCOL}{headers}")))
}

fn publish(topic: &str) -> String {
    format!(r#"{{"type":"publish","id":2,"topic":"{topic}","text":"x"}}"#)
}

/// What soon expires, in 8 to 9 seconds: it lasts five seconds longer than it says, for clocks differ. In the last
/// fifth of that the service is asked again, and even a busy machine comes to that in time.
fn soon() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 4
}

#[test]
fn what_the_service_grants_is_allowed_and_nothing_else() {
    let service = FakeService::start(|asked, stream| match asked.header("Cookie") {
        "session=1" => {
            let body = r#"{"sub":"alice","subscribe":["news/*"],"publish":["chat"]}"#;
            reply(stream, 200, "", body);
        }
        _ => reply(stream, 200, "", r#"{"subscribe":["public"]}"#),
    });
    let running = start_with(service.asker());
    let mut alice = client_with(&running, "Cookie: session=1\r\n");
    assert_eq!(service.asked().target(), "/auth?action=connect");
    ask(&mut alice, &subscription("news/today"), r#""position""#);
    ask(&mut alice, &subscription("user/alice/mail"), r#""position""#);
    ask(&mut alice, &subscription("user/bob"), "forbidden");
    ask(&mut alice, &subscription("public"), "forbidden");
    ask(&mut alice, &publish("chat"), r#""position""#);
    ask(&mut alice, &publish("news/today"), "forbidden");
    ask(&mut alice, r#"{"type":"presence","id":3,"topic":"user/alice/mail"}"#, r#""user":"alice""#);

    let mut nobody = client_with(&running, "");
    ask(&mut nobody, &subscription("public"), r#""position""#);
    ask(&mut nobody, &subscription("news/today"), "forbidden");
    ask(&mut nobody, &publish("public"), "forbidden");
    // By a path.
    let mut bare = Client::tcp(running.address()).upgraded(&request_with("/topics/news/x", "Cookie: session=1\r\n"));
    // It has opened a moment before it is subscribed.
    let is_subscribed = |running: &Running| {
        let topics = running.handle.topics();
        topics.iter().any(|topic| topic.name.as_str() == "news/x" && topic.subscribers == 1)
    };
    eventually("it is subscribed", || is_subscribed(&running));
    running.handle.publish("news/x", "bare").unwrap();
    assert_eq!(bare.text(), "bare");
    assert_eq!(exchange(running.address(), request_with("/topics/news/x", "")).status, 403);
}

#[test]
fn the_service_learns_who_the_client_is() {
    let service = FakeService::saying(204, "", "");
    let running = start_with(service.asker().pass_header("X-Api-Key").unwrap());
    let headers = "Cookie: a=1\r\nAuthorization: Basic eA==\r\nOrigin: http://o\r\nX-Api-Key: k\r\n\
                   X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-User: root\r\n";
    let target = "/some/path?token=s3cret";
    let _client = Client::tcp(running.address()).upgraded(&request_with(target, &format!("{SUBPROTOCOL}{headers}")));
    let asked = service.asked();
    for (name, value) in [
        ("Cookie", "a=1"),
        ("Authorization", "Basic eA=="),
        ("Origin", "http://o"),
        ("X-Api-Key", "k"),
        ("Sec-WebSocket-Protocol", "heartwire.topics.v1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "test"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", target),
        ("X-Forwarded-User", ""),
        ("Host", &service.address().to_string()),
        ("Connection", "close"),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
}

#[test]
fn each_topic_is_asked_for_if_the_first_answer_has_no_lists_and_answers_are_kept() {
    let service = FakeService::start(|asked, stream| {
        let body = match asked.target().split_once("action=").expect("an action").1 {
            "subscribe&topic=room%2F5%20b" => r#"{"subscribe":["room/5 b"]}"#,
            "publish&topic=room%2F5%20b" => r#"{"publish":["room/5 b"]}"#,
            // It is not what was asked for.
            "publish&topic=other" => r#"{"subscribe":["*"],"publish":["else"]}"#,
            "subscribe&topic=secret" => return reply(stream, 403, "", ""),
            _ => r#"{"sub":"alice"}"#,
        };
        reply(stream, 200, "Cache-Control: max-age=600\r\n", body);
    });
    let running = start_with(service.asker());
    for is_again in [false, true] {
        let mut client = client_with(&running, "Authorization: Bearer alice\r\n");
        ask(&mut client, &subscription("room/5 b"), r#""position""#);
        ask(&mut client, &publish("room/5 b"), r#""position""#);
        assert!(client.text().contains("published"));
        ask(&mut client, &subscription("user/alice"), r#""position""#);
        ask(&mut client, &publish("other"), "forbidden");
        assert_eq!(service.unseen(), if is_again { 0 } else { 4 });
        while service.unseen() > 0 {
            assert_eq!(service.asked().header("Authorization"), "Bearer alice");
        }
    }
    let mut client = client_with(&running, "");
    ask(&mut client, &subscription("secret"), "forbidden");
    assert!(service.unseen() > 0, "another client is another question");
}

#[test]
fn a_refusal_is_told_as_such_and_anything_else_as_something_to_try_again() {
    let million = format!(r#"{{"subscribe":[{}"x"]}}"#, r#""x","#.repeat(1_000_000));
    let huge = "x".repeat(10_000_000);
    for (status, headers, body, expected) in [
        (401, "WWW-Authenticate: Basic realm=\"x\"\r\n", "who?", (401, Some("Basic realm=\"x\""))),
        (401, "", "", (401, Some("Bearer"))),
        (403, "", "no", (403, None)),
        (302, "Location: http://127.0.0.1:1/\r\n", "", (503, None)),
        (404, "", "", (503, None)),
        (429, "", "", (503, None)),
        (500, "", "", (503, None)),
        (101, "", "", (503, None)),
        (200, "", "ok", (503, None)),
        (200, "", r#"{"sub":"al\u0000ice"}"#, (503, None)),
        (200, "", r#"{"sub":"alice\r\nX: y"}"#, (503, None)),
        (200, "", r#"{"sub":["alice"]}"#, (503, None)),
        (200, "", r#"{"exp":1}"#, (503, None)),
        (200, "", &million, (503, None)),
        (200, "", &huge, (503, None)),
        (200, &*format!("X: {}\r\n", "x".repeat(20_000)), "{}", (503, None)),
        (200, "Content-Encoding: gzip\r\n", "{}", (101, None)),
    ] {
        let (headers, body) = (format!("{headers}{UNCACHED}"), body.to_owned());
        let service = FakeService::start(move |_, stream| reply(stream, status, &headers, &body));
        let running = start_with(service.asker());
        let mut client = Client::tcp(running.address());
        client.write(request_with("/", SUBPROTOCOL).as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("WWW-Authenticate")), expected, "{status}");
        assert_eq!(answer.header("Retry-After"), (expected.0 == 503).then_some("5"), "{status}");
    }
}

#[test]
fn what_is_no_answer_within_the_time_is_none() {
    let silent = FakeService::start(|_, _| thread::sleep(CEILING));
    let dripping = FakeService::start(|_, stream| {
        let bytes = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(5000));
        // The timeouts of single reads never come about.
        for byte in bytes.as_bytes() {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(ms(10));
        }
    });
    let torn = FakeService::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"subscribe\":[\"*\"]}");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let reset = FakeService::start(|_, _| {});
    for (service, is_slow) in [(&silent, true), (&dripping, true), (&torn, false), (&reset, false)] {
        let running = start_with(service.asker().timeout(if is_slow { ms(300) } else { CEILING }));
        let start = Instant::now();
        assert_eq!(refused(&running, "").status, 503);
        assert!(start.elapsed() >= ms(if is_slow { 300 } else { 0 }) && start.elapsed() < SLACK);
    }
}

#[test]
fn the_deadline_of_the_handshake_holds_for_the_service_too() {
    let silent = FakeService::start(|_, _| thread::sleep(CEILING));
    let topics = Topics::new().auth_service(silent.asker());
    let running = start_server(server().handshake_timeout(ms(300)), topics);
    let start = Instant::now();
    assert_eq!(refused(&running, "").status, 503);
    assert!(start.elapsed() < SLACK);
}

#[test]
fn a_service_that_was_down_is_asked_again_when_it_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let running = start_with(AuthService::new(&format!("http://{address}/")).unwrap());
    assert_eq!(refused(&running, "").status, 503);
    // Somebody else may have got the port meanwhile.
    let Ok(listener) = TcpListener::bind(address) else { return };
    let _service = FakeService::start_on(listener, |_, stream| reply(stream, 200, "", r#"{"subscribe":["a"]}"#));
    ask(&mut client_with(&running, ""), &subscription("a"), r#""position""#);
}

#[test]
fn a_slow_service_holds_up_nobody_else() {
    let (release, held) = unbounded::<()>();
    let service = FakeService::start(move |asked, stream| {
        if asked.header("Cookie") == "slow" {
            let _ = held.recv_timeout(CEILING);
        }
        reply(stream, 200, "", r#"{"subscribe":["a"]}"#);
    });
    let running = start_with(service.asker());
    let mut slow = Client::tcp(running.address());
    slow.write(request_with("/", &format!("{SUBPROTOCOL}Cookie: slow\r\n")).as_bytes());
    service.asked();
    for _ in 0..3 {
        ask(&mut client_with(&running, ""), &subscription("a"), r#""position""#);
        // Those that topics are not for are not asked for.
        running.connect().send_text("x");
    }
    release.send(()).unwrap();
    assert_eq!(slow.answer().status, 101);
}

/// Connects so many clients at once, all of which are let in.
fn storm(asker: AuthService, clients: usize) {
    let running = start_with(asker);
    let connect = |number| {
        let mut client = Client::tcp(running.address());
        client.write(request_with("/", &format!("{SUBPROTOCOL}Cookie: {number}\r\n")).as_bytes());
        client
    };
    let clients: Vec<_> = (0..clients).map(connect).collect();
    for mut client in clients {
        assert_eq!(client.answer().status, 101);
    }
}

#[test]
fn a_storm_of_clients_is_no_storm_of_requests() {
    const CLIENTS: usize = 300;
    let slow = || {
        let (now, most) = (AtomicUsize::new(0), Arc::<AtomicUsize>::default());
        let seen = Arc::clone(&most);
        let service = FakeService::start(move |_, stream| {
            seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            // Long enough that without a bound many would be there at once.
            thread::sleep(ms(50));
            // The reply lets the next question come.
            now.fetch_sub(1, SeqCst);
            reply(stream, 200, "", "{}");
        });
        (service, most)
    };
    let (service, most) = slow();
    storm(service.asker(), CLIENTS);
    let most = most.load(SeqCst);
    assert!((1..=8).contains(&most), "{most}");
    assert_eq!(service.unseen(), CLIENTS);
    // The control, without the bound.
    let (service, most) = slow();
    storm(service.asker().max_requests(CLIENTS), CLIENTS);
    let most = most.load(SeqCst);
    assert!(most > 8, "{most}: the check proves nothing");
}

#[test]
fn the_heartbeat_goes_on_while_a_topic_is_asked_for() {
    let (release, held) = unbounded::<()>();
    let service = FakeService::start(move |asked, stream| {
        if asked.target().contains("topic=slow") {
            let _ = held.recv_timeout(CEILING);
            return reply(stream, 200, "", r#"{"subscribe":["slow"]}"#);
        }
        reply(stream, 200, "", "{}");
    });
    let heartbeat = HeartbeatPolicy::new(ms(50), CEILING);
    let running = start_server(server().heartbeat(heartbeat), Topics::new().auth_service(service.asker()));
    let mut client = client_with(&running, "");
    client.send_text(&subscription("slow"));
    service.asked();
    assert!(service.asked().target().contains("topic=slow"));
    // Its own Ping is answered, and it is pinged itself.
    client.write(&masked(PING, b"mine"));
    let (mut pings, mut is_answered) = (0, false);
    while pings < 3 || !is_answered {
        let frame = client.frame();
        match frame.opcode {
            PING => {
                pings += 1;
                client.write(&masked(PONG, &frame.payload));
            }
            PONG => is_answered = frame.payload == b"mine",
            other => panic!("opcode {other} before the service has answered"),
        }
    }
    release.send(()).unwrap();
    let text = loop {
        let frame = client.frame();
        match frame.opcode {
            PING => client.write(&masked(PONG, &frame.payload)),
            _ => break frame,
        }
    };
    assert!(String::from_utf8_lossy(&text.payload).contains(r#""position""#));
}

#[test]
fn a_topic_that_nobody_can_say_anything_about_is_unavailable() {
    let is_down = Arc::new(AtomicBool::new(false));
    let was_told = Arc::clone(&is_down);
    let service = FakeService::start(move |_, stream| match was_told.load(SeqCst) {
        true => reply(stream, 500, "", ""),
        false => reply(stream, 200, "", "{}"),
    });
    let running = start_with(service.asker());
    let mut client = client_with(&running, "");
    is_down.store(true, SeqCst);
    ask(&mut client, &subscription("a"), r#""error":"unavailable""#);
    ask(&mut client, &publish("a"), r#""error":"unavailable""#);
    ask(&mut client, r#"{"type":"authenticate","id":9,"token":"t"}"#, r#""error":"unavailable""#);
    is_down.store(false, SeqCst);
    ask(&mut client, &subscription("a"), "forbidden");
}

#[test]
fn grants_are_renewed_before_they_expire_and_subscriptions_that_they_lack_end() {
    let count = AtomicUsize::new(0);
    let service = FakeService::start(move |_, stream| {
        let body = match count.fetch_add(1, SeqCst) {
            0 => format!(r#"{{"sub":"alice","subscribe":["a","b"],"exp":{}}}"#, soon()),
            _ => format!(r#"{{"sub":"alice","subscribe":["b"],"exp":{}}}"#, soon() + 3600),
        };
        reply(stream, 200, "", &body);
    });
    let running = start_with(service.asker());
    let mut client = client_with(&running, "");
    ask(&mut client, &subscription("a"), r#""position""#);
    ask(&mut client, &subscription("b"), r#""position""#);
    let ended = client.text();
    assert!(ended.contains(r#""error":"forbidden","topic":"a""#), "{ended}");
    running.handle.publish("a", "not for it any more").unwrap();
    running.handle.publish("b", "for it").unwrap();
    assert!(client.text().contains("for it"));
    assert_eq!(service.unseen(), 2);
}

#[test]
fn a_client_without_the_subprotocol_is_closed_when_its_topic_is_not_granted_any_more() {
    for (status, later, code) in [(200, r#"{"subscribe":["other"]}"#, 1008), (500, "", 1013)] {
        let (connects, subscribes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let service = FakeService::start(move |asked, stream| {
            // The permit itself says nothing of topics: for each of them the service is asked.
            let asks_for_the_topic = asked.target().contains("topic=");
            let earlier = if asks_for_the_topic { &subscribes } else { &connects }.fetch_add(1, SeqCst);
            match (asks_for_the_topic, earlier) {
                (false, 0) => reply(stream, 200, "", &format!(r#"{{"exp":{}}}"#, soon())),
                (false, _) => reply(stream, 200, "", &format!(r#"{{"exp":{}}}"#, soon() + 3600)),
                (true, 0) => reply(stream, 200, UNCACHED, r#"{"subscribe":["a"]}"#),
                (true, _) => reply(stream, status, UNCACHED, later),
            }
        });
        let running = start_with(service.asker());
        let mut bare = Client::tcp(running.address()).upgraded(&request_with("/topics/a", ""));
        assert_eq!(bare.expect_close().0, Some(code), "{status} {later}");
    }
}

/// Connects to a server whose service gives some time, and to the next question this answer.
fn is_closed_if_the_service_later_says(status: u16, body: &str) {
    let (count, later) = (AtomicUsize::new(0), body.to_owned());
    let service = FakeService::start(move |_, stream| match count.fetch_add(1, SeqCst) {
        0 => {
            let body = format!(r#"{{"sub":"alice","subscribe":["a"],"exp":{}}}"#, soon());
            reply(stream, 200, "", &body);
        }
        _ => reply(stream, status, "", &later),
    });
    let running = start_with(service.asker());
    let mut client = client_with(&running, "");
    let warning = client.text();
    assert!(warning.starts_with(r#"{"type":"expiring","in":"#), "{status} {body}: {warning}");
    assert_eq!(client.expect_close().0, Some(4401), "{status} {body}");
    // Without an answer it is asked more than once.
    assert!(service.unseen() >= 2, "{status} {body}");
}

#[test]
fn a_connection_is_closed_when_no_more_time_is_granted() {
    let the_same = format!(r#"{{"sub":"alice","subscribe":["a"],"exp":{}}}"#, soon());
    let another_user = r#"{"sub":"bob","subscribe":["a"]}"#;
    thread::scope(|scope| {
        for (status, body) in [(200, &*the_same), (200, another_user), (403, ""), (500, "")] {
            scope.spawn(move || is_closed_if_the_service_later_says(status, body));
        }
    });
}

#[test]
fn a_token_that_comes_later_is_shown_to_the_service() {
    let service = FakeService::start(|asked, stream| match asked.header("Authorization") {
        "Bearer good" if asked.target().contains("topic=") => reply(stream, 200, "", r#"{"publish":["chat"]}"#),
        "Bearer good" => reply(stream, 200, "", r#"{"sub":"alice"}"#),
        "" => reply(stream, 204, "", ""),
        _ => reply(stream, 401, "", ""),
    });
    let running = start_with(service.asker());
    let mut client = client_with(&running, "");
    ask(&mut client, &publish("chat"), "forbidden");
    let authenticate = |token: &str| format!(r#"{{"type":"authenticate","id":9,"token":"{token}"}}"#);
    ask(&mut client, &authenticate("bad"), "bad-token");
    let before = service.unseen();
    for no_token in ["", "a b", r"a\r\nX: y", &"x".repeat(10_000)] {
        ask(&mut client, &authenticate(no_token), "bad-token");
    }
    assert_eq!(service.unseen(), before, "what is no token is shown to nobody");
    ask(&mut client, &authenticate("good"), r#"{"type":"authenticated","id":9,"user":"alice","expires":null}"#);
    ask(&mut client, &publish("chat"), r#""position""#);
    // As a page offers it.
    let offered = "Sec-WebSocket-Protocol: heartwire.token.good\r\n";
    ask(&mut client_with(&running, offered), &subscription("user/alice"), r#""position""#);
}

#[test]
fn a_client_that_leaves_and_a_server_that_ends_meanwhile_do_no_harm() {
    let (release, held) = unbounded::<()>();
    let service = FakeService::start(move |_, stream| {
        let _ = held.recv_timeout(CEILING);
        reply(stream, 200, UNCACHED, "{}");
    });
    let running = start_with(service.asker());
    let hello = request_with("/", SUBPROTOCOL);
    let mut leaving = Client::tcp(running.address());
    leaving.write(hello.as_bytes());
    service.asked();
    drop(leaving);
    release.send(()).unwrap();
    running.events.wait_for("the end of whoever left", |event| {
        matches!(event, Event::HandshakeFailed { .. } | Event::Closed(_)).then_some(())
    });
    let mut waiting = Client::tcp(running.address());
    waiting.write(hello.as_bytes());
    service.asked();
    let start = Instant::now();
    running.stop();
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
}

#[test]
fn plain_requests_are_asked_for_unless_a_page_of_another_origin_sends_them() {
    let service = FakeService::start(|asked, stream| match asked.header("Cookie") {
        "session=1" => reply(stream, 200, "", r#"{"subscribe":["a"],"publish":["a"]}"#),
        _ => reply(stream, 401, "", ""),
    });
    let running = start_with(service.asker());
    let post = |topic: &str, headers: &str| {
        let head = "Host: localhost\r\nConnection: close\r\nContent-Length: 1\r\n";
        exchange(running.address(), format!("POST /topics/{topic} HTTP/1.1\r\n{head}{headers}\r\nx"))
    };
    assert_eq!(post("a", "Cookie: session=1\r\n").status, 200);
    let asked = service.asked();
    assert_eq!((asked.header("X-Forwarded-Method"), asked.header("X-Forwarded-Uri")), ("POST", "/topics/a"));
    assert_eq!(post("b", "Cookie: session=1\r\n").status, 403);
    let unknown = post("a", "");
    assert_eq!((unknown.status, unknown.header("WWW-Authenticate")), (401, Some("Bearer")));
    assert!(unknown.body.starts_with(r#"{"error":""#), "{}", unknown.body);
    let before = service.unseen();
    assert_eq!(post("a", "Cookie: session=1\r\nOrigin: http://evil.example\r\n").status, 403);
    assert_eq!(service.unseen(), before);
    assert_eq!(post("a", "Cookie: session=1\r\nOrigin: http://localhost\r\n").status, 200);
}

/// A server whose handler has a lease.
fn start_leased(service: &FakeService) -> Running {
    let (asked, leased) = (service.asker(), service.asker());
    let server = server().on_handshake(move |request| Ok(Accept::new().extension(asked.ask(request)?)));
    start(server, move |conn| {
        let mut lease = leased.lease(conn);
        loop {
            let message = lease.recv(conn)?;
            conn.send(message)?;
        }
    })
}

#[test]
fn a_handlers_lease_is_renewed() {
    let count = AtomicUsize::new(0);
    let service = FakeService::start(move |_, stream| match count.fetch_add(1, SeqCst) {
        0 => reply(stream, 200, "", &format!(r#"{{"exp":{}}}"#, soon())),
        _ => reply(stream, 200, "", "{}"),
    });
    let running = start_leased(&service);
    let mut client = running.connect();
    service.asked();
    service.asked();
    client.send_text("still here");
    assert_eq!(client.text(), "still here");
}

#[test]
fn a_handlers_lease_that_is_not_renewed_ends_the_connection() {
    let count = AtomicUsize::new(0);
    let service = FakeService::start(move |_, stream| match count.fetch_add(1, SeqCst) {
        0 => reply(stream, 200, "", &format!(r#"{{"exp":{}}}"#, soon())),
        _ => reply(stream, 403, "", ""),
    });
    let running = start_leased(&service);
    let mut client = running.connect();
    client.send_text("x");
    assert_eq!(client.text(), "x");
    assert_eq!(client.expect_close().0, Some(4401));
    assert_eq!(service.unseen(), 2);
    // Who is refused at once.
    assert_eq!(exchange(running.address(), request_with("/", "")).status, 403);
}

#[cfg(target_os = "linux")]
#[test]
fn the_threads_that_ask_end_when_there_is_nothing_to_ask() {
    if !alone!() {
        return;
    }
    let service = FakeService::saying(204, "", "");
    let running = start_with(service.asker());
    let clients: Vec<_> = (0..20).map(|number| client_with(&running, &format!("Cookie: {number}\r\n"))).collect();
    eventually("they have ended", || threads_named("heartwire-auth") == 0);
    drop(client_with(&running, "Cookie: another\r\n"));
    assert!(threads_named("heartwire-auth") <= 8);
    // They end with the server as well, whatever they do.
    drop((clients, running));
    eventually("they have ended", || threads_named("heartwire-auth") == 0);
}

#[test]
fn urls_and_headers_that_make_no_sense_are_refused() {
    for url in [
        "",
        "127.0.0.1:8000/auth",
        "ftp://h/",
        "http://",
        "http://user:s3cret@h/",
        "http://h/#s3cret",
        "http://h/ s3cret",
        "ws://h/",
    ] {
        let error = AuthService::new(url).unwrap_err();
        assert!(
            matches!(error, InvalidAuthService::Url { .. }) && !error.to_string().contains("s3cret"),
            "{url}: {error}"
        );
    }
    let service = AuthService::new("http://h/auth?key=s3cret").unwrap();
    assert!(!format!("{service:?}").contains("s3cret"));
    for name in ["", "Host", "a b", "X-Forwarded-For", "x: y\r\nz"] {
        assert_eq!(service.clone().pass_header(name).unwrap_err(), InvalidAuthService::Header, "{name}");
    }
}

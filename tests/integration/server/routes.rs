//! What the server answers by itself, before the application is asked: health, the module for pages, metrics and the
//! status page; and whose pages may connect.

use crate::support::{Answer, Client, echo, exchange, request_with, server, start};
use heartwire::{Accept, HEARTWIRE_D_TS, HEARTWIRE_JS, Origin, Response};

fn get(running: &crate::support::Running, path: &str, headers: &str) -> Answer {
    exchange(running.address(), format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

const HERE: &str = "Host: localhost\r\n";
const ELSEWHERE: &str = "Host: rebound.example\r\n";

#[test]
fn health_and_the_module_come_before_on_request_and_leave_it_all_other_paths() {
    let server = server().health("/healthz").browser_module().on_request(|_| Some(Response::new(418)));
    let running = start(server, echo);
    let health = get(&running, "/healthz?a=b", ELSEWHERE);
    assert_eq!((health.status, &*health.body, health.header("Cache-Control")), (200, "ok\n", Some("no-store")));
    for (path, media_type, content) in [
        ("/heartwire.js", "text/javascript; charset=utf-8", HEARTWIRE_JS),
        ("/heartwire.d.ts", "text/plain; charset=utf-8", HEARTWIRE_D_TS),
    ] {
        let file = get(&running, path, ELSEWHERE);
        assert_eq!((file.status, file.header("Content-Type"), &*file.body), (200, Some(media_type), content));
        assert_eq!(file.header("Access-Control-Allow-Origin"), Some("*"));
        let tag = file.header("ETag").expect("a tag");
        let again = get(&running, path, &format!("{ELSEWHERE}If-None-Match: {tag}\r\n"));
        assert_eq!((again.status, &*again.body), (304, ""));
    }
    let head = exchange(running.address(), format!("HEAD /heartwire.js HTTP/1.1\r\n{HERE}\r\n"));
    assert_eq!((head.status, &*head.body), (200, ""));
    let size = HEARTWIRE_JS.len().to_string();
    assert_eq!(head.header("Content-Length"), Some(&*size));
    assert_eq!(get(&running, "/other", HERE).status, 418);
    let post = exchange(running.address(), format!("POST /healthz HTTP/1.1\r\n{HERE}\r\n"));
    assert_eq!(post.status, 418, "other methods are the application's");
    // A WebSocket of the same path has nothing to do with it.
    Client::tcp(running.address()).upgraded(&request_with("/healthz", "")).expect_echo("hello");
}

#[test]
fn nothing_is_answered_that_was_not_asked_for() {
    let running = start(server(), echo);
    for path in ["/", "/healthz", "/metrics", "/heartwire.js", "/heartwire/status.js"] {
        assert_eq!(get(&running, path, HERE).status, 426, "{path}");
    }
    Client::tcp(running.address()).upgraded(&request_with("/heartwire/status", "")).expect_echo("hello");
}

#[test]
fn pages_of_other_origins_are_refused_before_on_handshake_is_asked() {
    let origins: [Origin; 2] = ["https://example.org", "http://localhost:8080"].map(|text| text.parse().unwrap());
    let server = server().allow_origins(origins.clone()).on_handshake(|request| match request.header("Origin") {
        Some(origin) if origin.contains("evil") => panic!("asked about {origin}"),
        _ => Ok(Accept::new()),
    });
    let running = start(server, echo);
    let asks = |headers: &str| Client::tcp(running.address()).upgraded(&request_with("/", headers));
    for origin in origins {
        asks(&format!("Origin: {origin}\r\n")).expect_echo("hello");
    }
    asks("Origin: HTTPS://Example.ORG\r\n").expect_echo("the case is no matter");
    asks("").expect_echo("no browser, no origin");
    let refused = |headers: &str| {
        let answer = exchange(running.address(), request_with("/", headers));
        assert_eq!((answer.status, &*answer.body), (403, "pages of this origin are not allowed\n"), "{headers}");
        let reason = "origin not allowed (allow_origins)".to_owned();
        assert_eq!(running.events.handshake_failed(), (Some(403), reason));
    };
    for origin in ["https://evil.example", "https://example.org.evil.example", "https://example.org:8443", "null", ""] {
        refused(&format!("Origin: {origin}\r\n"));
    }
    refused("Origin: https://example.org\r\nOrigin: https://evil.example\r\n");
    let plain = get(&running, "/", &format!("{HERE}Origin: https://evil.example\r\n"));
    assert_eq!(plain.status, 426, "plain HTTP is not concerned");
}

#[test]
fn without_a_name_pages_of_all_origins_are_let_in() {
    let running = start(server().allow_origins([]), echo);
    let request = request_with("/", "Origin: https://anywhere.example\r\n");
    Client::tcp(running.address()).upgraded(&request).expect_echo("hello");
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_count_what_happened_and_access_says_for_whom() {
    use heartwire::StatusAccess;

    let server = server()
        .metrics("/metrics", StatusAccess::Loopback)
        .metrics("/everyone", StatusAccess::Everyone)
        .on_request(|_| Some(Response::new(418)));
    let running = start(server, echo);
    let mut client = running.connect();
    client.expect_echo("hello");
    let refused = get(&running, "/metrics", ELSEWHERE);
    assert_eq!((refused.status, refused.body.contains("heartwire_")), (403, false));
    for (path, host) in [("/metrics", HERE), ("/everyone", ELSEWHERE)] {
        let answer = get(&running, path, host);
        let media_type = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert_eq!((answer.status, answer.header("Content-Type")), (200, media_type));
        for line in ["heartwire_connections 1.0\n", "heartwire_messages_total{direction=\"in\"} 1\n", "# EOF\n"] {
            assert!(answer.body.contains(line), "{line} in {}", answer.body);
        }
    }
    assert_eq!(get(&running, "/", HERE).status, 418, "the rest is the application's");
}

#[cfg(feature = "status")]
mod status {
    use heartwire::{Error, Event, HeartbeatPolicy, StatusAccess};
    use serde_json::Value;

    use super::*;
    use crate::support::{Running, alone, eventually, ms, request, threads_named};

    const STREAM: &str = "/heartwire/status";

    /// An opening handshake with no headers but these, beyond what it needs.
    fn upgrade(path: &str, headers: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
    }

    fn watch(running: &Running) -> Client {
        Client::tcp(running.address()).upgraded(&upgrade(STREAM, HERE))
    }

    /// The first state in which this holds.
    fn state(watcher: &mut Client, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let state = serde_json::from_str(&watcher.text()).expect("JSON");
            if holds(&state) {
                return state;
            }
        }
    }

    #[test]
    fn the_page_stands_where_it_is_put_and_its_parts_come_with_it() {
        let server = server().status_page("/status", StatusAccess::Loopback).on_request(|_| Some(Response::new(418)));
        let running = start(server, echo);
        let page = get(&running, "/status", HERE);
        assert!(page.status == 200 && page.body.contains("/heartwire/status.js"), "{page:?}");
        let script = get(&running, "/heartwire/status.js", HERE);
        assert!(script.body.contains("from '/heartwire/heartwire.js'"), "{script:?}");
        assert_eq!(get(&running, "/heartwire/heartwire.js", HERE).body, HEARTWIRE_JS);
        for path in ["/status", "/heartwire/status.css", "/heartwire/status.js", "/heartwire/heartwire.js"] {
            let part = get(&running, path, HERE);
            let policy = part.header("Content-Security-Policy").unwrap_or_default();
            assert!(part.status == 200 && policy.starts_with("default-src 'none'; script-src 'self'"), "{path}");
            assert_eq!(get(&running, path, ELSEWHERE).status, 403, "{path}");
        }
        for path in ["/", "/heartwire.js", "/metrics"] {
            assert_eq!(get(&running, path, HERE).status, 418, "{path} is the application's");
        }
    }

    #[test]
    fn the_state_names_the_users_of_connections_and_cuts_long_names() {
        let server = server().status_page("/", StatusAccess::Loopback);
        let long = "ä".repeat(128);
        let users = [None, Some("anna".to_owned()), Some(long.clone())];
        let running = start(
            server.on_handshake(move |request| {
                let user = request.path()[1..].parse::<usize>().ok().and_then(|number| users[number].clone());
                Ok(user.map_or_else(Accept::new, |user| Accept::new().user(user)))
            }),
            echo,
        );
        let mut watcher = watch(&running);
        let clients = [0, 1, 2].map(|user| {
            let client = Client::tcp(running.address()).upgraded(&request_with(&format!("/{user}"), ""));
            running.events.wait_for("its opening", |event| match event {
                Event::Opened { path, .. } => (path[1..] == user.to_string()).then_some(()),
                _ => None,
            });
            client
        });
        let cut = long.chars().take(120).collect::<String>() + "…";
        let of = |shown: &Value| shown.as_array().unwrap().iter().map(|each| each["user"].clone()).collect::<Vec<_>>();
        let shown = state(&mut watcher, |state| state["open"] == 4);
        assert_eq!(of(&shown["connections"]), [Value::Null, Value::Null, "anna".into(), cut.clone().into()]);
        for client in clients {
            client.close();
        }
        let shown = state(&mut watcher, |state| state["open"] == 1);
        let mut ended = of(&shown["ended"]);
        ended.sort_by_key(|user| user.as_str().map(str::to_owned));
        assert_eq!(ended, [Value::Null, "anna".into(), cut.into()]);
    }

    #[test]
    fn who_watches_meets_neither_on_handshake_nor_the_handler_and_gets_no_broadcasts() {
        let server = server()
            .heartbeat(HeartbeatPolicy::new(ms(20_000), ms(10_000)))
            .status_page("/", StatusAccess::Loopback)
            .on_handshake(|request| match request.path() {
                "/room" => Ok(Accept::new()),
                _ => Err(Response::new(404)),
            });
        let running = start(server, |conn| match conn.path() {
            "/room" => echo(conn),
            path => Err(Error::handler(format!("{path} came to the handler"))),
        });
        let mut watcher = watch(&running);
        state(&mut watcher, |state| state["open"] == 1);
        let mut client = Client::tcp(running.address()).upgraded(&request_with("/room?token=s3cret", ""));
        client.expect_echo("hello");
        running.handle.broadcast("to all");
        assert_eq!(client.text(), "to all");

        let shown = state(&mut watcher, |state| state["open"] == 2);
        let about = &shown["server"];
        assert_eq!((&about["leader"], &about["interval"]), (&"server".into(), &20_000.0.into()));
        assert_eq!((&about["timeout"], &about["worst_case"]), (&10_000.0.into(), &50_000.0.into()));
        let [first, second] = [&shown["connections"][0], &shown["connections"][1]];
        assert_eq!((&first["is_watcher"], &second["is_watcher"]), (&true.into(), &false.into()));
        assert_eq!((&second["id"], &second["path"]), (&2.into(), &"/room".into()));
        client.close();
        let shown = state(&mut watcher, |state| state["ended"][0]["id"] == 2);
        assert_eq!((&shown["ended"][0]["cause"], &shown["totals"]["closed"]["peer"]), (&"peer".into(), &1.into()));

        // It counts like any other, and comes to its end like any other.
        assert_eq!(running.handle.stats().opened, 2);
        watcher.close();
        assert_eq!(running.events.closed_of(1).path, STREAM);
    }

    #[test]
    fn who_may_not_see_the_status_may_not_watch_it_whatever_else_is_allowed() {
        let friend = "https://friend.example".parse().unwrap();
        let server = server().status_page("/", StatusAccess::Loopback).allow_origins([friend]);
        let running = start(server, echo);
        let foreign = "the status is not shown to pages of another origin";
        for (headers, reason) in [
            (ELSEWHERE.to_owned(), "the status is not shown under this Host"),
            (format!("{ELSEWHERE}Origin: http://rebound.example\r\n"), "the status is not shown under this Host"),
            (format!("{HERE}Origin: https://friend.example\r\n"), foreign),
            (format!("{HERE}Origin: null\r\n"), foreign),
            (format!("{HERE}Origin: http://localhost\r\nOrigin: null\r\n"), foreign),
        ] {
            assert_eq!(exchange(running.address(), upgrade(STREAM, &headers)).status, 403, "{headers}");
            assert_eq!(running.events.handshake_failed(), (Some(403), reason.to_owned()));
        }
        let own = upgrade(STREAM, &format!("{HERE}Origin: http://localhost\r\n"));
        assert!(Client::tcp(running.address()).upgraded(&own).text().starts_with('{'));

        let open = start(server_for_everyone(), echo);
        let own = upgrade(STREAM, &format!("{ELSEWHERE}Origin: https://rebound.example\r\n"));
        assert!(Client::tcp(open.address()).upgraded(&own).text().starts_with('{'));
        let foreign = upgrade(STREAM, &format!("{ELSEWHERE}Origin: https://friend.example\r\n"));
        assert_eq!(exchange(open.address(), foreign).status, 403, "everyone who is there, and no page from elsewhere");
    }

    fn server_for_everyone() -> heartwire::Server {
        server().status_page("/", StatusAccess::Everyone)
    }

    #[test]
    fn its_thread_ends_with_the_server_and_so_do_those_who_watch() {
        if !alone!() {
            return;
        }
        let running = start(server_for_everyone(), echo);
        eventually("its thread runs", || threads_named("heartwire-status") == 1);
        let mut watcher = watch(&running);
        assert!(watcher.text().starts_with('{'));
        running.handle.shutdown();
        loop {
            let frame = watcher.message();
            if frame.opcode == crate::support::CLOSE {
                assert_eq!(frame.close().0, Some(1001));
                break;
            }
        }
        drop(watcher);
        let events = running.stop();
        assert!(events.iter().any(|event| matches!(event, Event::Closed(report) if report.path == STREAM)));
        assert_eq!(threads_named("heartwire-status"), 0);
    }

    #[test]
    fn a_second_status_page_takes_the_place_of_the_first() {
        let server = server_for_everyone().status_page("/status", StatusAccess::Loopback);
        let running = start(server, echo);
        assert!(watch(&running).text().starts_with('{'));
        assert_eq!(exchange(running.address(), upgrade(STREAM, ELSEWHERE)).status, 403);
        Client::tcp(running.address()).upgraded(&request()).expect_echo("hello");
    }
}

//! The program's status page, its live stream, and its metrics: what they tell, and to whom.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::process::{Client, Process, answer_head, connect, hang_up, http, next_text, serve, tcp};

const STREAM: &str = "/heartwire/status";

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Asks as a person at this machine does.
fn get_locally(server: &Process, path: &str) -> String {
    let address = server.address();
    get(address, path, &format!("Host: localhost:{}\r\n", address.port()))
}

/// The status that an opening handshake with these headers gets.
fn upgrade(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = tcp(address);
    let fixed = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    write!(stream, "GET {path} HTTP/1.1\r\n{fixed}{headers}\r\n").unwrap();
    status_of(&answer_head(&mut stream)).to_owned()
}

/// Connects as heartwire.js does.
fn connect_with_heartbeat(address: SocketAddr, path: &str) -> Client {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("heartwire.v1"));
    let (client, answer) = tungstenite::client(request, tcp(address)).expect("the handshake succeeds");
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "heartwire.v1");
    client
}

#[test]
fn the_first_line_names_the_page_where_it_is_shown() {
    for (options, host) in [
        (&["127.0.0.1:0"][..], Some("127.0.0.1")),
        (&["0.0.0.0:0", "--status"], Some("127.0.0.1")),
        (&["127.0.0.1:0", "--no-status"], None),
        (&["0.0.0.0:0"], None),
    ] {
        let server = serve(options);
        let line = server.stdout.line_with(&["listening on ws://"]);
        let port = server.address().port();
        let url = line.split_once("; status page at ").map(|(_, url)| url);
        assert_eq!(url, host.map(|host| format!("http://{host}:{port}/")).as_deref(), "{options:?}: {line}");
        if let Some(host) = host {
            let answer = get(SocketAddr::new(host.parse().unwrap(), port), "/", &format!("Host: {host}:{port}\r\n"));
            assert_eq!(status_of(&answer), "200", "{options:?}");
        }
    }
}

#[test]
fn the_page_and_its_parts_come_with_a_strict_policy_and_are_not_sent_twice() {
    let server = serve(&["127.0.0.1:0"]);
    for (path, media_type) in [
        ("/", "text/html"),
        ("/heartwire/status.css", "text/css"),
        ("/heartwire/status.js", "text/javascript"),
        ("/heartwire/nodes.js", "text/javascript"),
        ("/heartwire/topics.js", "text/javascript"),
        ("/heartwire/trace.js", "text/javascript"),
        ("/heartwire/icon.svg", "image/svg+xml"),
    ] {
        let answer = get_locally(&server, path);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        assert!(head.contains(&format!("\r\nContent-Type: {media_type}")), "{path}: {head}");
        assert!(
            head.contains("\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "),
            "{path}: {head}"
        );
        assert!(head.contains("frame-ancestors 'none'") && !head.contains("unsafe"), "{path}: {head}");
        assert!(!body.is_empty(), "{path}");

        let tag = head.split("ETag: ").nth(1).and_then(|rest| rest.lines().next()).expect("a tag");
        let again = get(server.address(), path, &format!("Host: 127.0.0.1\r\nIf-None-Match: {tag}\r\n"));
        assert!(again.starts_with("HTTP/1.1 304 ") && again.ends_with("\r\n\r\n"), "{path}: {again}");
    }
}

#[test]
fn the_page_uses_nothing_from_elsewhere() {
    let server = serve(&["127.0.0.1:0"]);
    let parts = ["status.css", "status.js", "nodes.js", "topics.js", "trace.js", "words.js", "heartwire.js"];
    for path in parts.map(|part| format!("/heartwire/{part}")).iter().map(String::as_str).chain(["/"]) {
        let answer = get_locally(&server, path);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        for foreign in ["http://", "https://", "src=\"//", ": url(", "@import", "style=\"", "onclick="] {
            assert!(!body.contains(foreign), "{path} contains {foreign}");
        }
    }
}

#[test]
fn heartwire_js_is_for_everybody_even_without_the_status() {
    let server = serve(&["127.0.0.1:0", "--no-status"]);
    for path in ["/heartwire.js", "/heartwire.d.ts"] {
        let answer = get(server.address(), path, "Host: example.org\r\n");
        assert_eq!(status_of(&answer), "200", "{path}");
        assert!(answer.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{path}");
        assert!(answer.contains("class HeartSocket"), "{path}");
    }
}

#[test]
fn without_the_status_there_is_no_page_no_metrics_and_no_stream() {
    let silent = serve(&["127.0.0.1:0", "--no-status"]);
    // It shows peers, so on an address that others reach it is to be asked for.
    let reachable = serve(&["0.0.0.0:0"]);
    for server in [&silent, &reachable] {
        let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
        for path in ["/", "/metrics", "/heartwire/status.js"] {
            assert_eq!(status_of(&get(address, path, "Host: localhost\r\n")), "426", "{path}");
        }
        // A path like any other: what is sent comes back.
        let mut client = connect(address, STREAM);
        client.send("hello".into()).unwrap();
        assert_eq!(next_text(&mut client), "hello");
    }
    let asked = serve(&["0.0.0.0:0", "--status"]);
    let address = SocketAddr::from(([127, 0, 0, 1], asked.address().port()));
    for path in ["/", "/metrics"] {
        assert_eq!(status_of(&get(address, path, "Host: example.org\r\n")), "200", "{path}");
    }
}

#[test]
fn on_loopback_a_foreign_host_sees_nothing() {
    let server = serve(&["127.0.0.1:0"]);
    let address = server.address();
    for headers in ["Host: rebound.example\r\n", "Host: localhost.rebound.example:9001\r\n", "Host: 192.0.2.1\r\n"] {
        for path in ["/", "/metrics", "/heartwire/status.js"] {
            assert_eq!(status_of(&get(address, path, headers)), "403", "{path} {headers}");
        }
    }
    assert_eq!(status_of(&http(address, "GET / HTTP/1.0\r\n\r\n")), "403", "old clients need not say a Host");
    assert_eq!(status_of(&get(address, "/", "")), "400");
    let rebound = "Host: rebound.example:9001\r\nOrigin: http://rebound.example:9001\r\n";
    assert_eq!(upgrade(address, STREAM, rebound), "403");
    assert_eq!(upgrade(address, "/", rebound), "101", "the mode's own connections are no concern of this");
    assert_eq!(status_of(&get(address, "/healthz", "Host: balancer.example\r\n")), "200");
}

#[test]
fn the_stream_is_for_pages_of_its_own_origin_whatever_is_allowed_besides() {
    let server = serve(&["127.0.0.1:0", "--allow-origin", "https://friend.example"]);
    let address = server.address();
    let host = format!("Host: localhost:{}\r\n", address.port());
    let asked = |origin: &str| upgrade(address, STREAM, &format!("{host}Origin: {origin}\r\n"));
    for foreign in ["https://friend.example", "http://localhost", "http://127.0.0.1:1", "null", ""] {
        assert_eq!(asked(foreign), "403", "{foreign}");
    }
    assert_eq!(asked(&format!("http://localhost:{}", address.port())), "101");
    assert_eq!(upgrade(address, STREAM, &host), "101", "what is no browser sends no Origin");
}

#[test]
fn the_stream_tells_what_is_open_and_what_has_ended() {
    let server = serve(&["127.0.0.1:0", "--ping-interval", "100ms"]);
    let mut watcher = connect(server.address(), STREAM);
    // Whoever is told something is open, and the first.
    next_text(&mut watcher);
    let mut client = connect(server.address(), "/room?a=1");
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    // Until a Pong of the client's has come in.
    let state = loop {
        let _ = client.get_ref().set_read_timeout(Some(std::time::Duration::from_millis(20)));
        let _ = client.read();
        let _ = client.flush();
        let state: Value = serde_json::from_str(&next_text(&mut watcher)).unwrap();
        if state["connections"][1]["beats"].as_u64() > Some(0) {
            break state;
        }
    };
    assert_eq!(state["open"], 2);
    assert_eq!(state["connections"][0]["is_watcher"], true);
    let shown = &state["connections"][1];
    assert_eq!((&shown["id"], &shown["path"]), (&2.into(), &"/room".into()));
    assert_eq!((&shown["messages_in"], &shown["messages_out"]), (&1.into(), &1.into()));
    assert_eq!((&shown["missed"], &shown["max_missed"]), (&0.into(), &3.into()));
    assert!(shown["round_trip"].as_f64() > Some(0.0));

    hang_up(client, CloseCode::Normal, "done");
    let state = loop {
        let state: Value = serde_json::from_str(&next_text(&mut watcher)).unwrap();
        if state["ended"][0]["id"] == 2 {
            break state;
        }
    };
    assert_eq!(state["ended"][0]["reason"], "closed by peer with 1000 \"done\"");
    assert_eq!(state["ended"][0]["is_clean"], true);
    assert_eq!(state["open"], 1, "never in both lists");
    assert_eq!(state["totals"]["closed"]["peer"], 1);
}

#[test]
fn broadcasts_are_not_for_those_who_watch() {
    let server = serve(&["127.0.0.1:0", "--mode", "broadcast"]);
    let mut watcher = connect(server.address(), STREAM);
    let [mut ann, mut bob] = ["/ann", "/bob"].map(|path| connect(server.address(), path));
    // Both are in the room when the watcher has seen them.
    while serde_json::from_str::<Value>(&next_text(&mut watcher)).unwrap()["open"] != 3 {}
    ann.send("secret".into()).unwrap();
    assert_eq!(next_text(&mut bob), "secret");
    for _ in 0..3 {
        assert!(next_text(&mut watcher).starts_with('{'));
    }
}

#[test]
fn who_agrees_on_heartwire_v1_is_told_the_heartbeat_first() {
    let beat = ["--ping-interval", "5s", "--pong-timeout", "2s", "--max-missed", "4"];
    let server = serve(&[&["127.0.0.1:0"][..], &beat].concat());
    let mut plain = connect(server.address(), "/");
    plain.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut plain), "hello", "others are told nothing");

    let mut client = connect_with_heartbeat(server.address(), "/");
    client.send("ping next=5000".into()).unwrap();
    let settings = r#"heartwire {"connection":2,"leader":"server","interval":5000,"timeout":2000,"max_missed":4}"#;
    assert_eq!(next_text(&mut client), settings);
    assert_eq!(next_text(&mut client), "pong");
    hang_up(client, CloseCode::Normal, "");
    server.stderr.line_with(&["#2 ", "ended", "0 messages in, ", "0 messages out, "]);
}

/// The value of a metric, by its name and labels as they are written.
fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_count_what_happened() {
    let server = serve(&["127.0.0.1:0", "--ping-interval", "100ms"]);
    let mut client = connect(server.address(), "/");
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    assert!(client.read().unwrap().is_ping());
    client.flush().unwrap();
    assert_eq!(status_of(&get_locally(&server, "/nothing")), "426");

    // What was answered is counted a moment later.
    let text = loop {
        let text = get_locally(&server, "/metrics");
        let has_come = |name| metric(&text, name) > Some(0.0);
        if has_come("heartwire_pongs_total") && has_come("heartwire_http_unclaimed_total") {
            break text;
        }
    };
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    for (name, value) in [
        ("heartwire_connections", 1.0),
        ("heartwire_queue_bytes", 0.0),
        ("heartwire_openings_total", 1.0),
        ("heartwire_misses_total", 0.0),
        ("heartwire_handshake_failures_total", 0.0),
        ("heartwire_http_unclaimed_total", 1.0),
        ("heartwire_without_request_total", 0.0),
        ("heartwire_messages_total{direction=\"in\"}", 1.0),
        ("heartwire_messages_total{direction=\"out\"}", 1.0),
        ("heartwire_round_trip_seconds_count", metric(body, "heartwire_pongs_total").unwrap()),
        ("heartwire_round_trip_seconds_bucket{le=\"+Inf\"}", metric(body, "heartwire_pongs_total").unwrap()),
    ] {
        assert_eq!(metric(body, name), Some(value), "{name} in {body}");
    }
    assert!(metric(body, "heartwire_traffic_bytes_total{direction=\"in\"}") >= Some(11.0), "{body}");
    assert_eq!(metric(body, "heartwire_closures_total{cause=\"peer\"}"), None, "{body}");

    hang_up(client, CloseCode::Normal, "");
    server.stderr.line_with(&["#1 ", "ended"]);
    let text = get_locally(&server, "/metrics");
    assert_eq!(metric(&text, "heartwire_connections"), Some(0.0), "{text}");
    assert_eq!(metric(&text, "heartwire_closures_total{cause=\"peer\"}"), Some(1.0), "{text}");
    assert_eq!(
        metric(&text, "heartwire_messages_total{direction=\"in\"}"),
        Some(1.0),
        "what ended still counts: {text}"
    );
}

#[test]
fn a_look_costs_little_however_long_the_paths_are_and_however_much_happens() {
    use std::time::{Duration, Instant};

    let server = serve(&["127.0.0.1:0"]);
    let path = format!("/{}", "%C3%A9".repeat(2_500));
    let address = server.address();
    let stay: Vec<Client> = (0..30).map(|_| connect(address, &path)).collect();
    (0..30).for_each(|_| hang_up(connect(address, &path), CloseCode::Normal, &"x".repeat(120)));

    let mut watcher = connect(address, STREAM);
    let (look, state) = loop {
        let look = next_text(&mut watcher);
        let state: Value = serde_json::from_str(&look).unwrap();
        if state["ended"].as_array().map(Vec::len) == Some(30) {
            break (look, state);
        }
    };
    assert_eq!(state["open"], 31);
    assert!(state["ended"][0]["ago"].as_f64() >= Some(0.0));
    let shown = state["connections"][0]["path"].as_str().unwrap();
    assert!(path.starts_with(shown.strip_suffix('…').expect("it is cut")), "{shown}");
    assert!(look.len() < 60_000, "{} bytes for 61 connections", look.len());

    // Two looks in a period of half a second, and one more at each end.
    let (began, mut looks) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        for _ in 0..5 {
            drop(connect(address, "/comes-and-goes"));
        }
        watcher.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        looks += usize::from(watcher.read().is_ok_and(|message| message.is_text()));
    }
    let most = began.elapsed().as_millis() as usize / 250 + 2;
    println!("{looks} looks in {:?}", began.elapsed());
    assert!(looks <= most, "{looks} looks, {most} would be enough");
    drop(stay);
}

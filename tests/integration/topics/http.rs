//! Topics over plain HTTP.

use std::time::Duration;

use heartwire::Server;
use heartwire::topics::Topics;

use super::{open_topics, start_server, start_with, subscriber, without_nodes};
use crate::support::{Answer, Client, Running, eventually, exchange, request_with, server};

fn post(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

fn ask(running: &Running, request: impl AsRef<[u8]>) -> (u16, String) {
    let answer: Answer = exchange(running.address(), request);
    (answer.status, answer.body)
}

/// An answer in which the epoch of the server is EPOCH.
fn normal(running: &Running, answer: (u16, String)) -> (u16, String) {
    let position = running.handle.publish("for its epoch", "").unwrap().position.to_string();
    (answer.0, answer.1.replace(position.split(':').next().unwrap(), "EPOCH"))
}

#[test]
fn a_post_publishes_and_a_get_gives_the_history() {
    let running = start_with(open_topics());
    let close = "Connection: close\r\n";
    let mut client = subscriber(&running, "a b/c", None);
    let published = ask(&running, post("/topics/a%20b/c", close, "grüß"));
    assert_eq!(normal(&running, published), (200, r#"{"position":"EPOCH:1","here":1}"#.to_owned()));
    assert!(client.text().ends_with(r#""text":"grüß"}"#));
    let binary = format!("{close}Content-Type: application/octet-stream\r\n");
    assert_eq!(ask(&running, post("/topics/a%20b/c", &binary, [0, 255])).0, 200);
    assert!(client.text().ends_with(r#""base64":"AP8="}"#));

    let (first, second) = (r#"{"position":"EPOCH:1","text":"grüß"}"#, r#"{"position":"EPOCH:2","base64":"AP8="}"#);
    let all = format!(r#"{{"position":"EPOCH:2","messages":[{first},{second}]}}"#);
    assert_eq!(normal(&running, ask(&running, get("/topics/a%20b/c", ""))), (200, all));
    let epoch = running.handle.topics()[0].position.to_string().split(':').next().unwrap().to_owned();
    let since = ask(&running, get(&format!("/topics/a%20b/c?since={epoch}%3A1"), ""));
    assert_eq!(normal(&running, since), (200, format!(r#"{{"position":"EPOCH:2","messages":[{second}]}}"#)));
    let lost = ask(&running, get("/topics/a%20b/c?since=0123456789abcdef:1", ""));
    assert_eq!(normal(&running, lost), (410, r#"{"error":"lost","position":"EPOCH:2"}"#.to_owned()));
    let none = ask(&running, get("/topics/unheard", ""));
    assert_eq!(normal(&running, none), (200, r#"{"position":"EPOCH:0","messages":[]}"#.to_owned()));
}

#[test]
fn thousands_are_published_over_one_connection_and_once_for_each_key() {
    let running = start_with(open_topics());
    let mut publisher = Client::tcp(running.address());
    for number in 1..=2000 {
        publisher.write(&post("/topics/count", &format!("Idempotency-Key: {}\r\n", number / 2), number.to_string()));
        let answer = publisher.response();
        assert_eq!((answer.status, answer.body.contains("again")), (200, number > 1 && number % 2 == 1), "{number}");
    }
    // By WebSocket the same keys are known.
    assert!(running.handle.publish_once("count", "x", "1000").unwrap().again);
    assert_eq!(running.handle.topics()[0].position.offset(), 1001);
}

#[test]
fn what_is_wrong_is_told_in_json() {
    let running = start_with(open_topics());
    let close = "Connection: close\r\n";
    let long = format!("{close}Idempotency-Key: {}\r\n", "k".repeat(129));
    for (request, status, error) in [
        (post("/topics/a//b", close, "x"), 404, "bad-topic"),
        (post("/topics/%ff", close, "x"), 404, "bad-topic"),
        (post("/topics/a", close, [0xff]), 400, "malformed"),
        (post("/topics/a", &long, "x"), 400, "malformed"),
        (get("/topics/a?since=x", "").into(), 400, "bad-position"),
        (get("/topics/a/presence", "").into(), 404, "unavailable"),
    ] {
        let (found, body) = ask(&running, &request);
        assert_eq!(found, status, "{}", String::from_utf8_lossy(&request));
        assert!(body.starts_with(&format!(r#"{{"error":"{error}","reason":""#)), "{body}");
    }
    // What is refused before it is a matter of topics.
    let head = "Host: localhost\r\nConnection: close\r\n";
    for (request, status, error, header) in [
        (format!("PUT /topics/a HTTP/1.1\r\n{head}\r\n"), 405, "bad-method", Some(("Allow", "GET, HEAD, POST"))),
        (format!("POST /topics/a HTTP/1.1\r\n{head}Content-Length: 70000\r\n\r\n"), 413, "too-large", None),
        (format!("POST /topics/a HTTP/1.1\r\n{head}Content-Length: x\r\n\r\n"), 400, "malformed", None),
        (format!("POST /topics/a HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nx"), 400, "malformed", None),
        (format!("POST /topics/a HTTP/1.1\r\n{head}Content-Length: 1\r\nExpect: tea\r\n\r\nx"), 417, "malformed", None),
        ("POST /topics/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".to_owned(), 400, "malformed", None),
    ] {
        let answer = exchange(running.address(), &request);
        assert_eq!((answer.status, answer.header("Content-Type")), (status, Some("application/json")), "{request}");
        assert!(answer.body.starts_with(&format!(r#"{{"error":"{error}","reason":""#)), "{request}: {}", answer.body);
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value));
        }
    }
    // Elsewhere it is plain text, and so it is for whoever asks for a WebSocket.
    let elsewhere = exchange(running.address(), "POST /other HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!((elsewhere.status, elsewhere.body.contains('{')), (400, false));
    let upgrade = exchange(running.address(), crate::support::request_with("/topics/secret", ""));
    assert_eq!((upgrade.status, upgrade.body.contains('{')), (403, false));
}

#[test]
fn a_body_that_does_not_come_in_time_is_told_in_json() {
    let running = start_server(server().handshake_timeout(Duration::from_millis(200)), open_topics());
    let mut client = Client::tcp(running.address());
    client.write(b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx");
    let answer = client.response();
    assert_eq!(answer.status, 408);
    assert!(answer.body.starts_with(r#"{"error":"too-slow","reason":""#), "{}", answer.body);
}

#[test]
fn a_long_history_comes_in_several_answers() {
    let running = start_with(Topics::new().history(10_000, 100 << 20, Duration::from_secs(600)));
    for number in 1..=2500 {
        running.handle.publish("count", number.to_string()).unwrap();
    }
    let epoch = running.handle.topics()[0].position.to_string().split(':').next().unwrap().to_owned();
    let read = |topic: &str, query: &str| {
        let (status, body) = ask(&running, get(&format!("/topics/{topic}{query}"), ""));
        assert_eq!(status, 200, "{body}");
        let before = format!(r#"{{"position":"{epoch}:"#);
        let offsets = body.split(&before).skip(2);
        let offsets: Vec<u64> = offsets.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        (offsets, body.ends_with(r#"],"more":true}"#))
    };
    let (mut all, mut query) = (Vec::<u64>::new(), String::new());
    loop {
        let (offsets, has_more) = read("count", &query);
        all.extend(&offsets);
        // One that has more is not empty, or this would never come to an end.
        assert!(offsets.len() <= 1000 && !(has_more && offsets.is_empty()));
        if !has_more {
            break;
        }
        query = format!("?since={epoch}:{}", all.last().unwrap());
    }
    assert_eq!(all, (1..=2500).collect::<Vec<_>>());
    assert_eq!(read("count", "?limit=2"), (vec![1, 2], true));
    assert_eq!(read("count", &format!("?since={epoch}:2498&limit=2")), (vec![2499, 2500], false));
    assert_eq!(read("count", "?limit=0"), (vec![], true));
    assert_eq!(read("count", "?limit=99999999999999999999999").0.len(), 1000);
    for wrong in ["?limit=", "?limit=-1", "?limit=x"] {
        assert_eq!(ask(&running, get(&format!("/topics/count{wrong}"), "")).0, 400, "{wrong}");
    }

    // Bytes are bounded too, but one message always comes.
    let large = "x".repeat(700_000);
    for _ in 0..3 {
        running.handle.publish("large", large.as_str()).unwrap();
    }
    running.handle.publish("huge", "x".repeat(2_000_000)).unwrap();
    assert_eq!(read("large", ""), (vec![1], true));
    assert_eq!(read("large", &format!("?since={epoch}:1")), (vec![2], true));
    assert_eq!(read("huge", ""), (vec![1], false));
}

#[test]
fn without_keys_it_is_for_this_machine_under_its_own_name_and_its_own_pages() {
    let running = start_with(open_topics());
    let close = "Connection: close\r\n";
    let from = |origin: &str| ask(&running, post("/topics/a", &format!("{close}Origin: {origin}\r\n"), "x")).0;
    assert_eq!((from("http://localhost"), from("http://example.org"), from("null")), (200, 403, 403));
    let rebound = b"POST /topics/a HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(ask(&running, rebound).0, 403);

    // Behind a proxy that names its client.
    let proxied: Server = server().trust_proxies(["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let running = start_server(proxied, open_topics());
    let forwarded = format!("{close}X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(ask(&running, post("/topics/a", &forwarded, "x")).0, 403);
}

#[test]
fn presence_is_there_where_it_is_on() {
    let running = start_with(Topics::new().presence(true));
    let _client = subscriber(&running, "room", None);
    // Over Redis it comes back by that.
    eventually("it is a member", || {
        let (status, body) = ask(&running, get("/topics/room/presence", ""));
        status == 200 && without_nodes(&body).starts_with(r#"{"members":[{"connection":1,"state":"alive""#)
    });
    assert_eq!(ask(&running, get("/topics/empty/presence", "")), (200, r#"{"members":[]}"#.to_owned()));
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_show_what_topics_have_together() {
    use heartwire::StatusAccess;
    let running = start_server(server().metrics("/metrics", StatusAccess::Loopback), open_topics());
    let _clients = [subscriber(&running, "a", None), subscriber(&running, "a", None), subscriber(&running, "b", None)];
    running.handle.publish("a", "12345").unwrap();
    running.handle.publish("c", "123").unwrap();
    let (_, text) = metrics(&running);
    for line in
        ["topics 3.0", "subscriptions 3.0", "subscriptions_behind 0.0", "history_messages 2.0", "history_bytes 8.0"]
    {
        assert!(text.contains(&format!("\nheartwire_{line}\n")), "{line} in {text}");
    }
}

#[cfg(feature = "metrics")]
fn metrics(running: &Running) -> (u16, String) {
    ask(running, get("/metrics", ""))
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_count_by_which_way_messages_came_what_was_lost_and_what_was_refused() {
    use heartwire::StatusAccess;
    let running = start_server(server().metrics("/metrics", StatusAccess::Loopback), open_topics());
    let close = "Connection: close\r\n";
    running.handle.publish("chat", "application").unwrap();
    // One that comes again is published once.
    for _ in 0..2 {
        assert_eq!(ask(&running, post("/topics/chat", &format!("{close}Idempotency-Key: 1\r\n"), "http")).0, 200);
    }
    let mut client = subscriber(&running, "chat", Some("0123456789abcdef:7"));
    assert!(client.text().contains("lost"));
    client.send_text(r#"{"type":"publish","id":2,"topic":"chat","text":"by the subprotocol"}"#);
    client.text();
    client.text();
    let mut bare = Client::tcp(running.address()).upgraded(&request_with("/topics/chat", ""));
    bare.send_text("by the path");
    client.text();
    // Refused: by the handshake, by the path, by a request, by each of several topics, and by HTTP.
    let secret = request_with("/topics/secret", "");
    assert_eq!(exchange(running.address(), secret).status, 403);
    Client::tcp(running.address()).upgraded(&request_with("/topics/news", "")).send_text("x");
    client.send_text(r#"{"type":"dance"}"#);
    client.send_text(r#"{"type":"subscribe","id":3,"topics":[{"topic":"secret"},{"topic":"a//b"}]}"#);
    client.text();
    client.text();
    assert_eq!(ask(&running, get("/topics/chat?since=x", "")).0, 400);
    assert_eq!(ask(&running, get("/topics/chat?since=0123456789abcdef:1", "")).0, 410);

    let wanted = [
        r#"publications_total{by="application"} 1"#,
        r#"publications_total{by="subprotocol"} 1"#,
        r#"publications_total{by="path"} 1"#,
        r#"publications_total{by="http"} 1"#,
        "losses_total 2",
        // The last of these when the client of the path has been read.
        r#"topic_refusals_total{error="forbidden"} 3"#,
        r#"topic_refusals_total{error="bad-topic"} 1"#,
        r#"topic_refusals_total{error="bad-position"} 1"#,
        r#"topic_refusals_total{error="unknown-type"} 1"#,
    ];
    for line in wanted {
        eventually(line, || metrics(&running).1.contains(&format!("\nheartwire_{line}\n")));
    }
    assert!(!metrics(&running).1.contains("malformed"));
}

#[cfg(feature = "jwt")]
#[test]
fn with_keys_one_is_needed_wherever_the_client_is() {
    use heartwire::topics::PublishKeys;
    let keys = PublishKeys::from_text("a-key-for-publishing\nanother-one-to-change-to\n").unwrap();
    let running = start_with(Topics::new().history(10, 1000, Duration::from_secs(60)).publish_keys(keys));
    let with = |authorization: &str| {
        let headers = format!("Connection: close\r\nHost: localhost\r\n{authorization}");
        let request = format!("POST /topics/a HTTP/1.1\r\n{headers}Content-Length: 1\r\n\r\nx");
        exchange(running.address(), request)
    };
    let refused = with("");
    assert_eq!((refused.status, refused.header("WWW-Authenticate")), (401, Some("Bearer")));
    for wrong in ["Bearer a-key-for-publishin", "Bearer ", "Basic a-key-for-publishing"] {
        assert_eq!(with(&format!("Authorization: {wrong}\r\n")).status, 401, "{wrong}");
    }
    for right in ["Bearer a-key-for-publishing", "bearer another-one-to-change-to"] {
        assert_eq!(with(&format!("Authorization: {right}\r\n")).status, 200, "{right}");
    }
    // A page that has a key may come from anywhere.
    assert_eq!(with("Authorization: Bearer a-key-for-publishing\r\nOrigin: http://example.org\r\n").status, 200);
}

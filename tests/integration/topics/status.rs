//! Topics on the status page: what its stream tells of them, and to a viewer that asks for some.

use std::thread;

use heartwire::topics::Topics;
use heartwire::{HeartbeatPolicy, StatusAccess};
use serde_json::{Value, json};

use super::{open_topics, start_server, subscriber};
use crate::support::topics::client_of;
use crate::support::{
    CEILING, CLOSE, Client, Incoming, PING, PONG, Running, exchange, masked, ms, request_with, server,
};

fn start_shown(topics: Topics) -> Running {
    start_server(server().status_page("/", StatusAccess::Everyone), topics)
}

fn viewer(running: &Running) -> Client {
    Client::tcp(running.address()).upgraded(&request_with("/heartwire/status", ""))
}

/// The next text about topics, and its length.
fn next_look(viewer: &mut Client) -> (Value, usize) {
    loop {
        let text = viewer.text();
        let state: Value = serde_json::from_str(&text).unwrap();
        if let Some(topics) = state.get("topics") {
            return (topics.clone(), text.len());
        }
    }
}

#[track_caller]
fn look_until(viewer: &mut Client, mut is_it: impl FnMut(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let (topics, _) = next_look(viewer);
        if is_it(&topics) {
            return topics;
        }
    }
    panic!("it is never told");
}

fn names(topics: &Value) -> Vec<&str> {
    topics["shown"].as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap()).collect()
}

#[test]
fn topics_are_told_with_their_figures() {
    let running = start_shown(open_topics());
    let mut clients = [subscriber(&running, "a", None), subscriber(&running, "a", None)];
    running.handle.publish("a", "12345").unwrap();
    running.handle.publish("b", "123").unwrap();
    clients[0].text();
    clients[0].send_text(r#"{"type":"publish","topic":"secret","text":"x"}"#);
    clients[0].text();
    let _returned = subscriber(&running, "c", Some("0123456789abcdef:1"));

    let mut viewer = viewer(&running);
    let told = look_until(&mut viewer, |topics| topics["lost"] == 1 && !topics["shown"][0]["rate"].is_null());
    let totals = ["count", "subscribers", "behind", "kept", "bytes", "published", "lost", "refused", "matching"];
    assert_eq!(totals.map(|name| told[name].as_u64().unwrap()), [3, 3, 0, 2, 8, 2, 1, 1, 3], "{told}");
    assert_eq!(names(&told), ["a", "b", "c"]);
    let figures = ["offset", "subscribers", "behind", "kept", "bytes"];
    assert_eq!(figures.map(|name| told["shown"][0][name].as_u64().unwrap()), [1, 2, 0, 1, 5], "{told}");
    assert_eq!((&told["has_presence"], &told["shown"][0]["rate"]), (&json!(false), &json!(0.0)));

    // What happens while somebody looks has a rate.
    let busy = look_until(&mut viewer, |topics| {
        running.handle.publish("b", "123").unwrap();
        topics["shown"][1]["rate"].as_f64() > Some(0.0)
    });
    assert_eq!(busy["shown"][0]["rate"], 0.0, "{busy}");
}

#[cfg(feature = "metrics")]
#[test]
fn the_page_and_the_metrics_agree() {
    let shown = server().status_page("/", StatusAccess::Everyone).metrics("/metrics", StatusAccess::Everyone);
    let running = start_server(shown, open_topics());
    let _clients = [subscriber(&running, "a", None), subscriber(&running, "a", Some("0123456789abcdef:9"))];
    for number in 0..7 {
        running.handle.publish(["a", "b", "c"][number % 3], "12345").unwrap();
    }
    let request = request_with("/topics/secret", "");
    assert_eq!(exchange(running.address(), request).status, 403);
    let told = look_until(&mut viewer(&running), |topics| topics["subscribers"] == 2 && topics["lost"] == 1);
    let metrics = exchange(running.address(), "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").body;
    for (name, metric) in [
        ("count", "topics"),
        ("subscribers", "subscriptions"),
        ("behind", "subscriptions_behind"),
        ("kept", "history_messages"),
        ("bytes", "history_bytes"),
        ("published", "publications_total"),
        ("lost", "losses_total"),
        ("refused", "topic_refusals_total"),
    ] {
        // One line, or one for each label.
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("heartwire_")?.strip_prefix(metric));
        let lines = lines.filter(|rest| rest.starts_with([' ', '{']));
        let sum: f64 = lines.map(|rest| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
        assert_eq!(told[name].as_f64(), Some(sum), "{metric}: {metrics}");
    }
    assert_eq!((&told["published"], &told["refused"]), (&json!(7), &json!(1)));
}

#[test]
fn of_many_topics_the_busiest_are_told_and_how_many_more() {
    let running = start_shown(open_topics());
    for number in 0..10_000 {
        running.handle.publish(&format!("Device {number:05} with a rather long name"), "x").unwrap();
    }
    let mut viewer = viewer(&running);
    let busiest: Vec<_> = (0..30).map(|number| format!("Device {:05} with a rather long name", 333 * number)).collect();
    let told = look_until(&mut viewer, |topics| {
        for name in &busiest {
            running.handle.publish(name, "x").unwrap();
        }
        names(topics) == busiest
    });
    assert_eq!((&told["count"], &told["matching"]), (&json!(10_000), &json!(10_000)));
    let (_, len) = next_look(&mut viewer);
    assert!(len < 6_000, "{len} bytes a look");

    viewer.send_text(r#"{"filter":"eVICE 0512"}"#);
    let told = look_until(&mut viewer, |topics| topics["filter"] == "eVICE 0512");
    assert_eq!((&told["count"], &told["matching"]), (&json!(10_000), &json!(10)));
    assert_eq!(names(&told).len(), 10);
    // One that is open is among those that are shown, however quiet it is.
    viewer.send_text(r#"{"filter":"","open":"Device 00001 with a rather long name"}"#);
    let told = look_until(&mut viewer, |topics| topics["open"]["name"].is_string());
    assert!(names(&told).contains(&"Device 00001 with a rather long name"), "{told}");
    assert_eq!(told["open"]["members"], Value::Null, "there is no presence");
}

#[test]
fn each_viewer_is_told_what_it_asked_for() {
    let running = start_shown(open_topics());
    running.handle.publish("one", "x").unwrap();
    running.handle.publish("two", "x").unwrap();
    let mut viewers = [viewer(&running), viewer(&running), viewer(&running)];
    viewers[0].send_text(r#"{"filter":"one"}"#);
    viewers[1].send_text(r#"{"filter":"two"}"#);
    for (viewer, shown) in viewers.iter_mut().zip([vec!["one"], vec!["two"], vec!["one", "two"]]) {
        look_until(viewer, |topics| names(topics) == shown);
    }
}

#[test]
fn members_are_told_of_the_topic_that_is_open_those_in_doubt_first() {
    let heartbeat = HeartbeatPolicy::new(ms(300), ms(1_000)).max_missed(10_000);
    let shown = server().heartbeat(heartbeat).status_page("/", StatusAccess::Everyone);
    let running = start_server(shown, Topics::new().presence(true));
    let subscribe = || {
        let mut client = client_of(&running);
        client.send_text(r#"{"type":"subscribe","topics":[{"topic":"room"}]}"#);
        client
    };
    let lively: Vec<_> = (0..34).map(|_| subscribe()).collect();
    let readers: Vec<_> = lively.into_iter().map(|client| thread::spawn(|| answer_pings(client))).collect();
    // The last by its number.
    let _silent = subscribe();
    let mut viewer = viewer(&running);
    viewer.send_text(r#"{"open":"room"}"#);
    let told = look_until(&mut viewer, |topics| {
        let Some(members) = topics["open"]["members"].as_array() else { return false };
        let is_alive = |member: &Value| member["state"] == "alive" && member["round_trip"].is_u64();
        members.len() == 30 && members[0]["state"] == "doubted" && members[1..].iter().all(is_alive)
    });
    assert_eq!(told["open"]["more"], 5, "{told}");
    let doubted = &told["open"]["members"][0];
    assert_eq!((&doubted["connection"], &doubted["max_missed"]), (&json!(35), &json!(10_000)), "{doubted}");
    assert!(doubted["missed"].as_u64() > Some(0) && doubted["silent"].as_u64() > Some(1_000), "{doubted}");
    assert_eq!(doubted["round_trip"], Value::Null);
    drop((viewer, running));
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// Plays a peer that lives, until the server ends.
fn answer_pings(mut client: Client) {
    while let Incoming::Frame(frame) = client.next_within(CEILING) {
        if frame.opcode == PING && !client.try_write(&masked(PONG, &frame.payload)) {
            return;
        }
    }
}

#[test]
fn names_arrive_as_they_are_and_can_be_asked_for() {
    let running = start_shown(open_topics().presence(true));
    let name = format!("<img src=x onerror=alert(1)>\"\\\u{202e}{}", "語".repeat(70));
    running.handle.publish(&name, "x").unwrap();
    let mut viewer = viewer(&running);
    viewer.send_text(&json!({ "filter": "ONERROR", "open": name }).to_string());
    let told = look_until(&mut viewer, |topics| topics["open"]["name"].is_string());
    assert_eq!((names(&told), &told["open"]), (vec![&*name], &json!({ "name": name, "members": [], "more": 0 })));
}

#[test]
fn what_is_no_wish_is_refused_and_nobody_else_notices() {
    let running = start_shown(open_topics());
    let mut other = viewer(&running);
    let long = json!({ "filter": "x".repeat(257) }).to_string();
    let absurd = "[".repeat(3000);
    for wish in ["", "{", "null", r#"{"filter":1}"#, r#"{"open":["a"]}"#, &long, &absurd, &"x".repeat(100_000)] {
        let mut viewer = viewer(&running);
        viewer.send_text(wish);
        let (code, reason) = loop {
            let frame = viewer.frame();
            if frame.opcode == CLOSE {
                break frame.close();
            }
        };
        assert_eq!((code, reason.contains("a viewer may send")), (Some(1008), true), "{wish:.20}: {reason}");
    }
    // As many as like to come cause no more looks than one.
    for number in 0..2_000 {
        other.send_text(&json!({ "filter": number.to_string() }).to_string());
    }
    let mut looks = 0;
    look_until(&mut other, |topics| {
        looks += 1;
        topics["filter"] == "1999"
    });
    assert!(looks < 100, "{looks} looks");
}

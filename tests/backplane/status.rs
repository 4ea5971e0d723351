//! What the status page and the metrics of any node tell of the backplane and of all nodes.

use std::net::SocketAddr;
use std::thread;

use heartwire::StatusAccess;
use heartwire::topics::Topics;
use serde_json::{Value, json};

use super::presence::process;
use super::redis_server::RedisServer;
use super::{redis_or_skip, serve_with, subscriber, topics, wait_until_connected};
use crate::support::topics::{ask, client_of, subscription};
use crate::support::{Client, Running, eventually, exchange, request_with, server};

fn with_presence() -> Topics {
    topics().presence(true)
}

/// A node with a status page and metrics.
fn shown_node(redis: &RedisServer, topics: Topics) -> Running {
    let shown = server().status_page("/", StatusAccess::Everyone).metrics("/metrics", StatusAccess::Everyone);
    let node = serve_with(shown, &redis.url(), topics);
    wait_until_connected(&node);
    node
}

fn viewer(address: SocketAddr) -> Client {
    Client::tcp(address).upgraded(&request_with("/heartwire/status", ""))
}

/// What a viewer is told of the backplane, once it is as wanted.
#[track_caller]
fn look_until(viewer: &mut Client, mut is_it: impl FnMut(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..200 {
        let mut state: Value = serde_json::from_str(&viewer.text()).unwrap();
        match state.get_mut("backplane").map(Value::take) {
            Some(backplane) if is_it(&backplane) => return backplane,
            Some(backplane) => last = backplane,
            // Of topics it is told in texts of their own.
            None => {}
        }
    }
    panic!("it is never told, but {last}");
}

/// A metric: one line, or one for each label. `None` if there is none.
fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let metrics = exchange(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").body;
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("heartwire_")?.strip_prefix(name));
    let lines: Vec<_> = lines.filter(|rest| rest.starts_with([' ', '{'])).collect();
    let value = |rest: &&str| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    (!lines.is_empty()).then(|| lines.iter().map(value).sum())
}

#[track_caller]
fn expect_metrics(address: SocketAddr, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(metric(address, name), Some(*value), "{name}");
    }
}

/// The figures of a node that other nodes learn by its announcements.
fn figures(node: &Value) -> [&Value; 5] {
    ["address", "connections", "subscriptions", "members", "waiting"].map(|name| &node[name])
}

#[test]
fn the_page_of_any_node_shows_all_nodes_and_the_metrics_agree() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (shown_node(&redis, with_presence()), shown_node(&redis, with_presence()));
    let mut clients = [client_of(&one), client_of(&other), client_of(&other)];
    for (client, topic) in [(0, "news"), (0, "chat"), (1, "news"), (2, "chat")] {
        ask(&mut clients[client], &subscription(topic), "subscribed");
    }
    let mut viewers = [viewer(one.address()), viewer(other.address())];
    let address = |node: &Running| node.address().to_string();
    // Each viewer is a connection too.
    let (first, second) = (
        [json!(address(&one)), json!(2), json!(2), json!(1), json!(0)],
        [json!(address(&other)), json!(3), json!(2), json!(2), json!(0)],
    );
    for (viewer, [own, others]) in viewers.iter_mut().zip([[&first, &second], [&second, &first]]) {
        let told = look_until(viewer, |told| {
            let nodes = [&told["nodes"][0], &told["nodes"][1]];
            let is_well = |node: &&Value| node["state"] == "alive" && node["behind"] == 0.0;
            nodes.map(figures) == [own.each_ref(), others.each_ref()] && nodes.iter().all(is_well)
        });
        let is_own = |place: usize| &told["nodes"][place]["is_own"];
        assert_eq!((&told["count"], is_own(0), is_own(1)), (&json!(2), &json!(true), &json!(false)));
        for node in told["nodes"].as_array().unwrap() {
            let figure = |name: &str| node[name].as_f64().unwrap_or_else(|| panic!("no {name} in {node}"));
            assert!(figure("round_trip") > 0.0 && figure("age") > figure("silent") && figure("lag") == 0.0, "{node}");
            assert_eq!((&node["connected"], &node["bound"]), (&json!(true), &json!(2_800.0)), "{node}");
        }
        let of_redis =
            ["connected", "behind", "waiting", "outages", "epochs", "lost", "former"].map(|name| &told[name]);
        assert_eq!(
            of_redis,
            [&json!(true), &json!(0.0), &json!(0), &json!(0), &json!(0), &json!(0), &json!([])],
            "{told}"
        );
        assert_eq!(told["address"], redis.url(), "{told}");
    }
    for (node, members) in [(&one, 1.0), (&other, 2.0)] {
        expect_metrics(
            node.address(),
            &[
                ("backplane_connected", 1.0),
                ("backplane_lag_entries", 0.0),
                ("backplane_waiting_messages", 0.0),
                ("backplane_outages_total", 0.0),
                ("backplane_epochs_total", 0.0),
                ("nodes", 2.0),
                ("nodes_lost_total", 0.0),
                ("members", members),
            ],
        );
        assert!(metric(node.address(), "backplane_round_trip_seconds") > Some(0.0));
        // It was away until it was connected.
        assert!(metric(node.address(), "backplane_away_seconds_total") > Some(0.0));
    }
}

#[test]
fn without_presence_no_members_are_counted_and_without_a_backplane_there_is_nothing_to_tell() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = shown_node(&redis, topics());
    let told = look_until(&mut viewer(node.address()), |_| true);
    assert_eq!((&told["nodes"][0]["members"], metric(node.address(), "members")), (&Value::Null, None));
    let shown = server().status_page("/", StatusAccess::Everyone).metrics("/metrics", StatusAccess::Everyone);
    let alone = crate::support::start(shown.topics(with_presence()), crate::support::echo);
    let state: Value = serde_json::from_str(&viewer(alone.address()).text()).unwrap();
    assert!(state["server"].is_object() && state.get("backplane").is_none(), "{state}");
    for name in ["backplane_connected", "backplane_outages_total", "nodes", "nodes_lost_total", "members"] {
        assert_eq!(metric(alone.address(), name), None, "{name}");
    }
    assert_eq!(metric(alone.address(), "topics"), Some(0.0));
}

#[test]
fn a_node_that_was_killed_is_in_doubt_and_then_lost_and_one_that_has_ended_is_neither() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, ended) = (shown_node(&redis, with_presence()), shown_node(&redis, with_presence()));
    let (mut viewer, killed) = (viewer(one.address()), process(&redis));
    let address = json!(killed.address().to_string());
    look_until(&mut viewer, |told| told["nodes"].as_array().unwrap().iter().any(|node| node["address"] == address));
    let ended_at = json!(ended.address().to_string());
    drop(ended);
    let told = look_until(&mut viewer, |told| told["former"] != json!([]));
    let former = |told: &Value, place: usize| {
        let node = &told["former"][place];
        (node["address"].clone(), node["was_dead"] == true)
    };
    assert_eq!((former(&told, 0), &told["lost"], &told["count"]), ((ended_at.clone(), false), &json!(0), &json!(2)));

    killed.signal("KILL");
    let told = look_until(&mut viewer, |told| told["nodes"][1]["state"] == "doubted");
    let of_it = |name: &str| told["nodes"][1][name].as_f64().unwrap();
    // It announces itself every 5 s, and may be 2 s late.
    assert!(
        told["nodes"][1]["address"] == address && of_it("silent") > 7_000.0 && of_it("bound") == 11_000.0,
        "{told}"
    );
    eventually("the metrics tell as much", || {
        metric(one.address(), "nodes_doubted") == Some(1.0) || metric(one.address(), "nodes_lost_total") == Some(1.0)
    });
    let told = look_until(&mut viewer, |told| told["former"][0]["was_dead"] == true);
    assert_eq!((former(&told, 0), former(&told, 1)), ((address, true), (ended_at, false)));
    assert_eq!((&told["count"], &told["lost"]), (&json!(1), &json!(1)));
    expect_metrics(one.address(), &[("nodes", 1.0), ("nodes_doubted", 0.0), ("nodes_lost_total", 1.0)]);
}

#[test]
fn while_redis_stands_still_each_node_tells_how_long_it_is_behind_and_that_nobody_can_judge() {
    let redis = redis_or_skip!(RedisServer::start());
    let nodes = [shown_node(&redis, topics()), shown_node(&redis, topics())];
    let mut viewers = nodes.each_ref().map(|node| viewer(node.address()));
    for viewer in &mut viewers {
        look_until(viewer, |told| told["nodes"][1]["state"] == "alive" && told["behind"] == 0.0);
    }
    redis.signal("STOP");
    let handle = nodes[0].handle.clone();
    let publishing = thread::spawn(move || handle.publish("news", "1"));
    look_until(&mut viewers[0], |told| told["waiting"] == 1);
    for (node, viewer) in nodes.iter().zip(&mut viewers) {
        let told = look_until(viewer, |told| told["connected"] == false && told["nodes"][1]["state"] == "unknown");
        assert!(told["behind"].as_f64() > Some(0.0) && told["outages"] == 1 && told["count"] == 2, "{told}");
        expect_metrics(node.address(), &[("backplane_connected", 0.0), ("nodes", 2.0), ("nodes_doubted", 0.0)]);
        assert!(metric(node.address(), "backplane_lag_seconds") > Some(0.0));
    }
    redis.signal("CONT");
    for (node, viewer) in nodes.iter().zip(&mut viewers) {
        let told = look_until(viewer, |told| told["connected"] == true && told["behind"] == 0.0);
        assert!(told["outages"] == 1 && told["away"].as_f64() > Some(0.0) && told["epochs"] == 0, "{told}");
        look_until(viewer, |told| told["nodes"][1]["state"] == "alive");
        expect_metrics(node.address(), &[("backplane_connected", 1.0), ("backplane_outages_total", 1.0)]);
    }
    // It may have been given up meanwhile.
    let _ = publishing.join().unwrap();
    eventually("nothing waits", || metric(nodes[0].address(), "backplane_waiting_messages") == Some(0.0));
}

#[test]
fn a_history_that_begins_anew_is_counted_on_each_node() {
    let redis = redis_or_skip!(RedisServer::start());
    let nodes = [shown_node(&redis, topics()), shown_node(&redis, topics())];
    nodes[0].handle.publish("news", "1").unwrap();
    redis.ask::<()>("FLUSHALL").unwrap();
    for node in &nodes {
        eventually("it is counted", || metric(node.address(), "backplane_epochs_total") == Some(1.0));
        assert_eq!(look_until(&mut viewer(node.address()), |_| true)["epochs"], 1);
        // The line was there all the time.
        expect_metrics(node.address(), &[("backplane_outages_total", 0.0)]);
    }
}

#[test]
fn what_cannot_be_published_here_alone_is_counted_as_refused() {
    let mut redis = redis_or_skip!(RedisServer::start());
    let node = shown_node(&redis, topics().ephemeral().max_topics(1));
    let (_client, _) = subscriber(&node, "news", None);
    redis.kill();
    eventually("it is noticed", || node.handle.backplane().is_some_and(|backplane| !backplane.is_connected));
    let mut publisher = client_of(&node);
    ask(&mut publisher, r#"{"type":"publish","id":1,"topic":"news","text":"1"}"#, "only_here");
    assert_eq!(metric(node.address(), "topic_refusals_total"), None);
    ask(&mut publisher, r#"{"type":"publish","id":2,"topic":"chat","text":"2"}"#, r#""error":"too-many""#);
    expect_metrics(node.address(), &[("topic_refusals_total", 1.0), ("publications_total", 1.0)]);
}

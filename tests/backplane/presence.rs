//! Who is subscribed, over all nodes, and that it is true.

use std::time::{Duration, Instant};

use heartwire::topics::{Redis, Topics};
use heartwire::{Accept, Server};

use super::redis_server::RedisServer;
use super::{brisk, node_with, redis_or_skip, serve_with, topics, wait_until_connected};
use crate::support::process::{Process, heartwire};
use crate::support::topics::{SUBPROTOCOL, client_of, value, watcher};
use crate::support::{Client, Running, SLACK, echo, eventually, request_with, server, start};

fn with_presence() -> Topics {
    topics().presence(true)
}

/// A node whose clients have the user that their path names.
fn node_of_users(redis: &RedisServer) -> Running {
    let named =
        |server: Server| server.on_handshake(|request| Ok(Accept::new().user(request.path().trim_start_matches('/'))));
    let node = serve_with(named(server()), &redis.url(), with_presence());
    wait_until_connected(&node);
    node
}

/// A client of the subprotocol with this user.
fn client_named(node: &Running, user: &str) -> Client {
    let request = request_with(&format!("/{user}"), SUBPROTOCOL);
    let mut client = Client::tcp(node.address()).upgraded(&request);
    assert!(client.text().starts_with("heartwire {"));
    client
}

fn join(client: &mut Client, topic: &str) {
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{topic}"}}]}}"#));
    assert!(client.text().starts_with(r#"{"type":"subscribed""#));
}

/// What the client is told next: of what kind, and all of it.
fn told(client: &mut Client) -> (String, String) {
    let text = client.text();
    (value(&text, "type"), text)
}

#[track_caller]
fn expect(client: &mut Client, kind: &str, part: &str) -> String {
    let text = client.text();
    assert!(text.starts_with(&format!(r#"{{"type":"{kind}","#)) && text.contains(part), "{kind} {part}: {text}");
    text
}

#[test]
fn the_members_of_all_nodes_are_told_on_all_nodes() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node_with(&redis, with_presence()), node_with(&redis, with_presence()));
    let (mut here, list) = watcher(&one);
    assert_eq!(list.matches("\"connection\"").count(), 1, "itself: {list}");
    let (mut there, list) = watcher(&other);
    // The first is known there by now, or about to be.
    if list.matches("\"connection\"").count() == 1 {
        expect(&mut there, "joined", "");
    }
    expect(&mut here, "joined", "\"state\":\"alive\"");
    let mut third = client_of(&other);
    join(&mut third, "room");
    for client in [&mut here, &mut there] {
        expect(client, "joined", "\"connection\":");
    }
    third.send_close(1000, "");
    for client in [&mut here, &mut there] {
        expect(client, "gone", "\"cause\":\"peer\"");
    }
    // A node that comes later knows all of them, and all know who is there.
    let late = node_with(&redis, with_presence());
    let (_client, list) = watcher(&late);
    assert_eq!(list.matches("\"connection\"").count(), 3, "{list}");
    assert_eq!(late.handle.nodes().len(), 3);
}

#[test]
fn a_user_who_is_connected_to_several_nodes_joins_once_and_is_gone_once() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node_of_users(&redis), node_of_users(&redis));
    let mut watcher = client_named(&one, "watcher");
    watcher.send_text(r#"{"type":"subscribe","topics":[{"topic":"room","presence":true}]}"#);
    expect(&mut watcher, "presence", "watcher");
    let (mut first, mut second) = (client_named(&one, "alice"), client_named(&other, "alice"));
    join(&mut first, "room");
    expect(&mut watcher, "joined", r#""user":"alice""#);
    join(&mut second, "room");
    // A node tells what happens on it in order: who hears of Bob has heard of the other Alice.
    let mut bob = client_named(&other, "bob");
    join(&mut bob, "room");
    expect(&mut watcher, "joined", r#""user":"bob""#);
    drop(first);
    eventually("one has ended", || one.handle.connections().len() == 1);
    // She is still there. What is told next is of somebody else.
    let mut carol = client_named(&other, "carol");
    join(&mut carol, "room");
    expect(&mut watcher, "joined", r#""user":"carol""#);
    drop(second);
    expect(&mut watcher, "gone", r#""user":"alice""#);
    drop(bob);
    expect(&mut watcher, "gone", r#""user":"bob""#);
}

/// A node that is a process of its own, so that it can be killed.
pub(super) fn process(redis: &RedisServer) -> Process {
    let arguments = ["serve", "0", "--mode", "topics", "--presence", "--backplane", &redis.url()];
    let process = Process::start(&mut heartwire(&arguments));
    process.stderr.line_with(&["backplane", "connected"]);
    process
}

#[test]
fn the_members_of_a_node_that_was_killed_are_gone_once_with_that_cause_and_within_the_bound() {
    let redis = redis_or_skip!(RedisServer::start());
    let one = node_with(&redis, with_presence());
    let (mut here, _) = watcher(&one);
    let killed = process(&redis);
    let mut client = Client::tcp(killed.address()).upgraded(&request_with("/", SUBPROTOCOL));
    let _ = client.text();
    join(&mut client, "room");
    expect(&mut here, "joined", "");
    eventually("it is heard of", || one.handle.nodes().len() == 2);
    // It announces itself more seldom than the others here, and is judged by what it says of itself.
    std::thread::sleep(brisk().worst_case().expect("one"));
    assert_eq!(one.handle.nodes().len(), 2);
    killed.signal("KILL");
    let killed = Instant::now();
    let gone = expect(&mut here, "gone", r#""cause":"node lost""#);
    let bound = Duration::from_secs(5 + 3 * 2);
    assert!(gone.contains(&format!(r#""within":{}"#, bound.as_millis())), "{gone}");
    assert!(killed.elapsed() > bound / 4 && killed.elapsed() < bound + SLACK, "{:?}", killed.elapsed());
    eventually("it is forgotten", || one.handle.nodes().len() == 1);
    // Nothing more is told of it.
    let mut other = client_of(&one);
    join(&mut other, "room");
    expect(&mut here, "joined", "");
}

#[test]
fn a_node_that_begins_after_the_death_of_another_finds_it_within_the_same_bound() {
    let redis = redis_or_skip!(RedisServer::start());
    let killed = process(&redis);
    let first = node_with(&redis, with_presence());
    let (mut there, _) = watcher(&first);
    let mut client = Client::tcp(killed.address()).upgraded(&request_with("/", SUBPROTOCOL));
    let _ = client.text();
    join(&mut client, "room");
    expect(&mut there, "joined", "");
    drop(first);
    killed.signal("KILL");
    // Nobody is there to find out. Who does may be late by seconds, and is not cut off for that.
    let late = with_presence().backplane(Redis::new(&redis.url()).expect("a URL"));
    let late = start(server().topics(late), echo);
    wait_until_connected(&late);
    let (began, (mut here, list)) = (Instant::now(), watcher(&late));
    assert!(list.matches("\"connection\"").count() >= 2, "{list}");
    // The first may have had no time to say that it ends, and then its member is gone before.
    while !expect(&mut here, "gone", r#""connection""#).contains(r#""cause":"node lost","within":11000"#) {}
    assert!(began.elapsed() < Duration::from_secs(11) + SLACK, "{:?}", began.elapsed());
}

#[test]
fn whoever_comes_and_goes_while_redis_is_away_is_told_once_and_is_no_ghost() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = node_with(&redis, with_presence());
    redis.signal("STOP");
    let (mut leaves, mut stays) = (client_of(&node), client_of(&node));
    [&mut leaves, &mut stays].into_iter().for_each(|client| join(client, "room"));
    let (mut here, list) = watcher(&node);
    assert_eq!(list.matches("\"connection\"").count(), 3, "{list}");
    drop(leaves);
    redis.signal("CONT");
    expect(&mut here, "gone", "\"connection\":");
    // Whoever was in the list does not join once more.
    let mut newcomer = client_of(&node);
    join(&mut newcomer, "room");
    let joined = expect(&mut here, "joined", "\"connection\":");
    let member = joined.split("\"connection\":").nth(1).and_then(|rest| rest.split(',').next()).expect("a number");
    assert!(!list.contains(&format!("\"connection\":{member},")), "{joined} {list}");
}

/// How many members a list has that is asked for.
fn count_members(client: &mut Client) -> usize {
    client.send_text(r#"{"type":"presence","id":7,"topic":"room"}"#);
    loop {
        let text = client.text();
        if text.starts_with(r#"{"type":"presence","id":7,"#) {
            return text.matches("\"connection\"").count();
        }
    }
}

#[test]
fn a_redis_that_came_back_with_an_older_state_brings_no_ghosts_and_nobody_is_missing() {
    let mut redis = redis_or_skip!(RedisServer::with(&["--dbfilename", "dump.rdb"]));
    let (one, other) = (node_with(&redis, with_presence()), node_with(&redis, with_presence()));
    let ((mut here, _), (mut there, list)) = (watcher(&one), watcher(&other));
    expect(&mut here, "joined", "");
    // The first is known there by now, or about to be.
    if list.matches("\"connection\"").count() == 1 {
        expect(&mut there, "joined", "");
    }
    let mut leaves = client_of(&one);
    join(&mut leaves, "room");
    expect(&mut there, "joined", "");
    redis.ask::<()>("SAVE").unwrap();
    drop(leaves);
    expect(&mut there, "gone", "");
    let mut come = [client_of(&one), client_of(&one)];
    for client in &mut come {
        join(client, "room");
        expect(&mut there, "joined", "");
    }
    redis.kill();
    redis.start_again();
    one.handle.publish("room", "Redis is back").unwrap();
    let late = node_with(&redis, with_presence());
    let mut newcomer = client_of(&late);
    // Both who watch, and those that have come.
    eventually("a node that has just begun knows all of them", || count_members(&mut newcomer) == 4);
    eventually("nobody is a ghost elsewhere", || count_members(&mut there) == 4);
    assert_eq!(count_members(&mut here), 4);
}

#[test]
fn a_node_that_ends_in_order_takes_its_members_with_it_at_once() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node_with(&redis, with_presence()), node_with(&redis, with_presence()));
    let (mut here, _) = watcher(&one);
    let mut there = client_of(&other);
    join(&mut there, "room");
    expect(&mut here, "joined", "");
    drop(other);
    assert_eq!(told(&mut here).0, "gone");
    eventually("it is forgotten", || one.handle.nodes().len() == 1);
}

#[test]
fn a_node_that_was_cut_off_judges_nobody_and_comes_back_without_ghosts() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node_with(&redis, with_presence()), node_with(&redis, with_presence()));
    let (mut here, _) = watcher(&one);
    let (mut stays, mut leaves) = (client_of(&other), client_of(&other));
    for client in [&mut stays, &mut leaves] {
        join(client, "room");
        expect(&mut here, "joined", "");
    }
    // Both are cut off, for longer than a node may be silent.
    redis.signal("STOP");
    std::thread::sleep(brisk().worst_case().expect("one") * 2);
    drop(leaves);
    redis.signal("CONT");
    // One is gone for a cause of its own, and nobody else.
    let (kind, text) = told(&mut here);
    assert!(kind == "gone" && !text.contains("node lost"), "{text}");
    let mut newcomer = client_of(&one);
    join(&mut newcomer, "room");
    expect(&mut here, "joined", "");
    let (mut asking, _) = watcher(&other);
    eventually("three are left, and whoever asks", || count_members(&mut asking) == 4);
}

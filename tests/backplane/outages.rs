//! What becomes of it all while Redis is away, and when it comes back without what it had.

use std::thread;
use std::time::{Duration, Instant};

use heartwire::topics::{Redis, TopicError};

use super::redis_server::RedisServer;
use super::{
    client_of, lone_node, node, node_at, node_with, nodes_apart, redis_or_skip, subscriber, texts, topics, value,
    wait_until_connected,
};
use crate::support::relay::Held;
use crate::support::{Relay, echo, eventually, ms, server, start};

/// How long a Redis may be away before it is found out, and more.
const LONG: Duration = Duration::from_secs(3);

const ON_DISK: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[test]
fn a_redis_that_was_killed_and_kept_everything_costs_nobody_a_message() {
    let mut redis = redis_or_skip!(RedisServer::with(ON_DISK));
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&other, "news", None);
    one.handle.publish("news", "1").unwrap();
    redis.kill();
    // It waits until Redis is there again.
    let handle = one.handle.clone();
    let publishing = thread::spawn(move || handle.publish("news", "2"));
    thread::sleep(Duration::from_millis(300));
    redis.start_again();
    assert_eq!(publishing.join().unwrap().map(|published| published.position.offset()), Ok(2));
    other.handle.publish("news", "3").unwrap();
    assert_eq!(texts(&mut client, 3), ["1", "2", "3"]);
}

#[test]
fn a_redis_that_takes_nothing_is_not_hurried_and_nobody_is_dead_for_that() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&other, "news", None);
    eventually("they know each other", || one.handle.nodes().len() == 2 && other.handle.nodes().len() == 2);
    let connections = || {
        let stats: String = redis.ask("INFO stats").expect("figures");
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.and_then(|count| count.trim().parse::<u32>().ok()).expect("a count")
    };
    redis.ask::<String>("CONFIG SET maxmemory 1").expect("a limit");
    let (before, began) = (connections(), Instant::now());
    while began.elapsed() < 2 * LONG {
        assert!(one.handle.nodes().len() == 2 && other.handle.nodes().len() == 2, "after {:?}", began.elapsed());
        thread::sleep(ms(20));
    }
    let more = connections() - before;
    assert!(more < 60, "{more} connections in {:?}", began.elapsed());
    redis.ask::<String>("CONFIG SET maxmemory 0").expect("no limit");
    eventually("it publishes", || one.handle.publish("news", "1").is_ok());
    assert_eq!(texts(&mut client, 1), ["1"]);
}

#[test]
fn a_redis_that_stands_still_is_found_out_and_nothing_is_published_twice() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&other, "news", None);
    one.handle.publish("news", "1").unwrap();
    redis.signal("STOP");
    let began = Instant::now();
    assert_eq!(one.handle.publish("news", "2"), Err(TopicError::BackplaneUnavailable));
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    // A subscriber that comes meanwhile gets what is here.
    let (mut newcomer, _) = subscriber(&one, "news", Some(&value(&client.text(), "position")));
    redis.signal("CONT");
    eventually("it publishes", || one.handle.publish("news", "3").is_ok());
    // "2" was sent before, and may have been published when Redis went on. Once.
    let rest = |first: &str| if first == "2" { vec!["3"] } else { vec![] };
    for client in [&mut client, &mut newcomer] {
        let first = texts(client, 1);
        assert!(["2", "3"].contains(&&*first[0]), "{first:?}");
        let rest = rest(&first[0]);
        assert_eq!(texts(client, rest.len()), rest);
    }
    one.handle.publish("news", "4").unwrap();
    assert_eq!((texts(&mut client, 1), texts(&mut newcomer, 1)), (vec!["4".to_owned()], vec!["4".to_owned()]));
}

#[test]
fn a_redis_that_has_lost_everything_is_a_new_epoch_and_each_subscriber_is_told_once() {
    let mut redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    let before = one.handle.publish("news", "1").unwrap().position;
    assert_eq!((texts(&mut client, 1), texts(&mut there, 1)), (vec!["1".to_owned()], vec!["1".to_owned()]));
    redis.kill();
    redis.start_again();
    for client in [&mut client, &mut there] {
        let lost = client.text();
        assert_eq!(value(&lost, "type"), "lost");
        assert_ne!(value(&lost, "position").split(':').next(), before.to_string().split(':').next());
    }
    one.handle.publish("news", "2").unwrap();
    other.handle.publish("news", "3").unwrap();
    for client in [&mut client, &mut there] {
        assert_eq!(texts(client, 2), ["2", "3"]);
    }
}

#[test]
fn a_redis_that_was_flushed_under_way_is_a_new_epoch() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    one.handle.publish("news", "1").unwrap();
    assert_eq!((texts(&mut client, 1), texts(&mut there, 1)), (vec!["1".to_owned()], vec!["1".to_owned()]));
    redis.ask::<()>("FLUSHALL").unwrap();
    other.handle.publish("news", "2").unwrap();
    for client in [&mut client, &mut there] {
        assert_eq!(value(&client.text(), "type"), "lost");
    }
    one.handle.publish("news", "3").unwrap();
    // What was published meanwhile is before or after what was told, but never missing without a word.
    for client in [&mut client, &mut there] {
        let first = texts(client, 1);
        assert!(first == ["3"] || first == ["2"] && texts(client, 1) == ["3"], "{first:?}");
    }
}

#[test]
fn a_redis_that_was_flushed_while_a_node_loads_is_no_reason_to_tell_it_twice() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other, way) = nodes_apart(&redis);
    let (mut client, _) = subscriber(&other, "news", None);
    let before = one.handle.publish("news", "1").unwrap().position;
    assert_eq!(texts(&mut client, 1), ["1"]);
    // While the other is cut off, the log gets so far that it has to load what there is.
    way.set_target(([127, 0, 0, 1], 1).into());
    way.cut();
    (2..=10).for_each(|number| _ = one.handle.publish("news", number.to_string()).unwrap());
    redis.ask::<u64>("XTRIM heartwire:log MAXLEN 1").unwrap();
    let (names, histories) = (Held::at(&way, "\r\nZRANGE\r\n"), Held::at(&way, "\r\nnews\r\n"));
    way.set_target(([127, 0, 0, 1], redis.port()).into());
    // Meanwhile more is published, which it reads ahead, and then there is nothing to load any more.
    names.wait();
    one.handle.publish("news", "11").unwrap();
    thread::sleep(ms(100));
    drop(names);
    histories.wait();
    redis.ask::<()>("FLUSHALL").unwrap();
    drop(histories);
    let lost = client.text();
    assert_eq!(value(&lost, "type"), "lost");
    assert_ne!(value(&lost, "position").split(':').next(), before.to_string().split(':').next(), "{lost}");
    wait_until_connected(&other);
    one.handle.publish("news", "12").unwrap();
    assert_eq!(texts(&mut client, 1), ["12"]);
}

#[test]
fn a_redis_that_was_brought_back_from_an_epoch_that_is_over_does_not_go_on_with_it() {
    let mut redis = redis_or_skip!(RedisServer::with(&["--dbfilename", "dump.rdb"]));
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&other, "news", None);
    let first = one.handle.publish("news", "1").unwrap().position;
    assert_eq!(texts(&mut client, 1), ["1"]);
    redis.ask::<()>("SAVE").unwrap();
    redis.ask::<()>("FLUSHALL").unwrap();
    assert_eq!(value(&client.text(), "type"), "lost");
    let second = one.handle.publish("news", "2").unwrap().position;
    assert_eq!(texts(&mut client, 1), ["2"]);
    redis.kill();
    redis.start_again();
    let third = one.handle.publish("news", "3").unwrap().position;
    assert!(!third.is_comparable_to(&first) && !third.is_comparable_to(&second), "{first} {second} {third}");
    // Told once, before or after what was published meanwhile.
    assert_eq!(value(&client.text(), "type"), "lost");
    one.handle.publish("news", "4").unwrap();
    let next = texts(&mut client, 1);
    assert!(next == ["4"] || next == ["3"] && texts(&mut client, 1) == ["4"], "{next:?}");
}

#[test]
fn a_redis_that_has_lost_the_latest_is_told_of_once_though_the_node_that_knows_comes_late() {
    let mut redis = redis_or_skip!(RedisServer::with(&["--dbfilename", "dump.rdb"]));
    // Nodes that look for each other for 11 s.
    let patient = |url: &str| start(server().topics(topics().backplane(Redis::new(url).unwrap())), echo);
    let way = Relay::to(([127, 0, 0, 1], redis.port()).into());
    let one = patient(&format!("redis://{}", way.address()));
    let kept = one.handle.publish("news", "1").unwrap().position;
    redis.ask::<()>("SAVE").unwrap();
    let gone = one.handle.publish("news", "2").unwrap().position;
    assert!(gone.is_comparable_to(&kept));
    way.set_target(([127, 0, 0, 1], 1).into());
    redis.kill();
    redis.start_again();
    let other = patient(&redis.url());
    wait_until_connected(&other);
    let (mut client, _) = subscriber(&other, "news", Some(&gone.to_string()));
    thread::sleep(LONG);
    way.set_target(([127, 0, 0, 1], redis.port()).into());
    let lost = client.text();
    assert_eq!(value(&lost, "type"), "lost");
    let epoch = value(&lost, "position").split(':').next().unwrap().to_owned();
    assert!(!gone.to_string().starts_with(&epoch), "{lost}");
    wait_until_connected(&one);
    one.handle.publish("news", "3").unwrap();
    assert_eq!(texts(&mut client, 1), ["3"]);
}

#[test]
fn whoever_has_lost_some_on_one_node_is_not_told_so_again_by_another_that_knows_less() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other, way) = nodes_apart(&redis);
    one.handle.publish("news", "1").unwrap();
    // The other hears nothing of what becomes of Redis.
    way.set_target(([127, 0, 0, 1], 1).into());
    way.cut();
    redis.ask::<()>("FLUSHALL").unwrap();
    eventually("it publishes anew", || one.handle.publish("news", "2").is_ok_and(|at| at.position.offset() == 1));
    let position = one.handle.publish("news", "3").unwrap().position.to_string();
    let (mut client, _) = subscriber(&other, "news", Some(&position));
    way.set_target(([127, 0, 0, 1], redis.port()).into());
    wait_until_connected(&other);
    one.handle.publish("news", "4").unwrap();
    assert_eq!(texts(&mut client, 1), ["4"]);
    // One that comes from an epoch that was never heard of is told, and has lost nothing that came since.
    let (mut client, _) = subscriber(&other, "news", Some("0123456789abcdef:3"));
    let published = one.handle.publish("news", "5").unwrap().position;
    let lost = client.text();
    assert_eq!(value(&lost, "type"), "lost");
    assert!(value(&lost, "position").ends_with(&format!(":{}", published.offset() - 1)), "{lost}");
    assert_eq!(texts(&mut client, 1), ["5"]);
}

#[test]
fn a_redis_that_came_back_with_an_older_state_is_a_new_epoch_for_all() {
    let mut redis = redis_or_skip!(RedisServer::with(&["--dbfilename", "dump.rdb"]));
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    one.handle.publish("news", "1").unwrap();
    redis.ask::<()>("SAVE").unwrap();
    one.handle.publish("news", "2").unwrap();
    for client in [&mut client, &mut there] {
        assert_eq!(texts(client, 2), ["1", "2"]);
    }
    redis.kill();
    redis.start_again();
    other.handle.publish("news", "3").unwrap();
    for client in [&mut client, &mut there] {
        assert_eq!(value(&client.text(), "type"), "lost");
    }
    one.handle.publish("news", "4").unwrap();
    for client in [&mut client, &mut there] {
        let first = texts(client, 1);
        assert!(first == ["4"] || first == ["3"] && texts(client, 1) == ["4"], "{first:?}");
    }
}

#[test]
fn a_server_that_begins_without_its_redis_says_unavailable_and_goes_on_once_it_is_there() {
    let mut redis = redis_or_skip!(RedisServer::start());
    redis.kill();
    let node = lone_node(&redis, topics());
    let mut client = client_of(&node);
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    assert_eq!(value(&client.text(), "error"), "unavailable");
    redis.start_again();
    eventually("it publishes", || node.handle.publish("news", "1").is_ok());
    client.send_text(r#"{"type":"subscribe","id":2,"topics":[{"topic":"news"}]}"#);
    assert_eq!(value(&client.text(), "position").split(':').nth(1), Some("1"));
}

#[test]
fn after_a_failover_nodes_go_on_with_the_new_master() {
    let mut master = redis_or_skip!(RedisServer::start());
    let replica = RedisServer::replica_of(&master);
    let sentinel = RedisServer::sentinel_of(&master);
    // The first is nobody.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port());
    let (one, other) = (node_at(&url, topics()), node_at(&url, topics()));
    [&one, &other].into_iter().for_each(wait_until_connected);
    let (mut client, position) = subscriber(&other, "news", None);
    let before = one.handle.publish("news", "1").unwrap();
    eventually("the replica has it", || replica.ask("EXISTS heartwire:history:news") == Ok(1));
    eventually("the sentinel knows the replica", || {
        sentinel.ask::<Vec<redis::Value>>("SENTINEL replicas main").is_ok_and(|known| known.len() == 1)
    });
    master.kill();
    eventually("the new master takes it", || one.handle.publish("news", "2").is_ok());
    let after = one.handle.publish("news", "3").unwrap();
    assert!(after.position.is_comparable_to(&before.position), "{position} {} {}", before.position, after.position);
    assert_eq!(texts(&mut client, 3), ["1", "2", "3"]);
}

#[test]
fn topics_that_keep_nothing_go_on_for_the_subscribers_of_each_node_and_say_so() {
    let mut redis = redis_or_skip!(RedisServer::with(ON_DISK));
    let (one, other) = (node_with(&redis, topics().ephemeral()), node_with(&redis, topics().ephemeral()));
    let (mut client, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    let first = one.handle.publish("news", "1").unwrap();
    redis.kill();
    eventually("it is noticed", || one.handle.backplane().is_some_and(|backplane| !backplane.is_connected));
    let second = one.handle.publish("news", "2").unwrap();
    assert_eq!((first.only_here, second.only_here, second.position, second.here), (false, true, first.position, 1));
    let mut publisher = client_of(&one);
    publisher.send_text(r#"{"type":"publish","id":1,"topic":"news","text":"3"}"#);
    assert!(publisher.text().ends_with(r#""here":1,"only_here":true}"#));
    assert_eq!(texts(&mut client, 1), ["1"]);
    for text in ["2", "3"] {
        let message = client.text();
        assert!(message.contains(r#""only_here":true"#), "{message}");
        assert_eq!(
            (value(&message, "text"), value(&message, "position")),
            (text.to_owned(), first.position.to_string())
        );
    }
    redis.start_again();
    eventually("it is back", || one.handle.publish("news", "4").is_ok_and(|published| !published.only_here));
    // Before it was known to be back, some may have been published here.
    while client.text().contains("only_here") {}
    assert_eq!(texts(&mut there, 2), ["1", "4"]);
}

#[test]
fn a_shutdown_does_not_wait_for_a_redis_that_stands_still() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = node(&redis);
    redis.signal("STOP");
    thread::sleep(LONG);
    let began = Instant::now();
    node.handle.shutdown();
    drop(node);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    redis.signal("CONT");
}

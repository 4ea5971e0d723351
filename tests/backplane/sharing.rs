//! What is published on one node reaches the subscribers of all, and positions mean the same everywhere.

use std::thread;

use heartwire::topics::{Redis, TopicError};

use super::redis_server::RedisServer;
use super::{
    client_of, node, node_with, nodes_apart, redis_or_skip, subscriber, texts, topics, value, wait_until_connected,
};
use crate::support::relay::Held;
#[cfg(feature = "tls")]
use crate::support::tls;
use crate::support::{Folder, echo, ms, server, start};

#[test]
fn what_is_published_on_one_node_reaches_the_subscribers_of_all() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut here, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    let published = one.handle.publish("news", "hello").unwrap();
    assert_eq!((published.here, published.position.offset(), published.again), (1, 1, false));
    assert_eq!(other.handle.publish("news", vec![0_u8, 255]).unwrap().position.offset(), 2);
    for client in [&mut here, &mut there] {
        let (first, second) = (client.text(), client.text());
        assert_eq!((value(&first, "text"), value(&second, "base64")), ("hello".to_owned(), "AP8=".to_owned()));
        assert_eq!(value(&first, "position"), published.position.to_string());
    }
}

#[test]
fn whoever_comes_back_to_another_node_gets_what_it_missed() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&one, "news", None);
    one.handle.publish("news", "1").unwrap();
    let position = value(&client.text(), "position");
    drop(client);
    one.handle.publish("news", "2").unwrap();
    other.handle.publish("news", "3").unwrap();
    let (mut client, _) = subscriber(&other, "news", Some(&position));
    one.handle.publish("news", "4").unwrap();
    assert_eq!(texts(&mut client, 3), ["2", "3", "4"]);
    // And to one that has begun since.
    let third = node(&redis);
    let (mut client, present) = subscriber(&third, "news", Some(&position));
    assert_eq!(texts(&mut client, 3), ["2", "3", "4"]);
    assert_eq!(present.split(':').nth(1), Some("4"));
    // What is of another epoch is lost, everywhere.
    let (mut client, _) = subscriber(&third, "news", Some("0123456789abcdef:3"));
    assert_eq!(value(&client.text(), "type"), "lost");
}

#[test]
fn publishing_twice_with_a_key_is_publishing_once_over_all_nodes() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut client, _) = subscriber(&other, "news", None);
    let first = one.handle.publish_once("news", "a", "key").unwrap();
    let again = other.handle.publish_once("news", "a", "key").unwrap();
    assert_eq!((first.position, first.again), (again.position, !again.again));
    other.handle.publish("news", "b").unwrap();
    assert_eq!(texts(&mut client, 2), ["a", "b"]);
}

#[test]
fn a_key_that_is_used_again_after_its_time_is_known_for_as_long_as_any_other() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = node_with(&redis, topics().key_window(ms(2000), 4));
    let is_again = |text: &str, key: &str| node.handle.publish_once("news", text, key).unwrap().again;
    assert!(!is_again("1", "key"));
    thread::sleep(ms(1200));
    assert!(!is_again("2", "other"));
    thread::sleep(ms(1000));
    assert!(!is_again("3", "key"), "its time is over");
    // There are as many as there may be, and none is forgotten for them.
    assert!(!is_again("4", "a") && !is_again("5", "b"));
    assert!(is_again("6", "key"));
}

#[test]
fn messages_of_one_publisher_keep_their_order_everywhere() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut here, _) = subscriber(&one, "news", None);
    let (mut there, _) = subscriber(&other, "news", None);
    let publishing: Vec<_> = [&one, &other]
        .into_iter()
        .enumerate()
        .map(|(publisher, node)| {
            let handle = node.handle.clone();
            thread::spawn(move || {
                for number in 0..100 {
                    handle.publish("news", format!("{publisher} {number}")).unwrap();
                }
            })
        })
        .collect();
    publishing.into_iter().for_each(|thread| thread.join().unwrap());
    let (here, there) = (texts(&mut here, 200), texts(&mut there, 200));
    assert_eq!(here, there);
    for publisher in ["0 ", "1 "] {
        let numbers: Vec<usize> = here.iter().filter_map(|text| text.strip_prefix(publisher)?.parse().ok()).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_publishes_many_at_a_time_and_has_a_reply_to_each() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let (mut there, _) = subscriber(&other, "chat", None);
    let mut client = client_of(&one);
    for number in 0..500 {
        client.send_text(&format!(r#"{{"type":"publish","id":{number},"topic":"chat","text":"{number}"}}"#));
    }
    for number in 0..500 {
        let reply = client.text();
        assert!(reply.contains(&format!(r#""type":"published","id":{number},"#)), "{reply}");
    }
    assert_eq!(texts(&mut there, 500), (0..500).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_history_keeps_its_bounds_on_all_nodes_and_a_busy_topic_takes_nothing_from_a_quiet_one() {
    let redis = redis_or_skip!(RedisServer::start());
    let bounded = || topics().history(3, 100, std::time::Duration::from_secs(60));
    let (one, other) = (super::node_with(&redis, bounded()), super::node_with(&redis, bounded()));
    one.handle.publish("quiet", "kept").unwrap();
    for number in 0..50 {
        other.handle.publish("busy", number.to_string()).unwrap();
    }
    one.handle.publish("large", "x".repeat(60)).unwrap();
    one.handle.publish("large", "y".repeat(60)).unwrap();
    let third = super::node_with(&redis, bounded());
    for node in [&one, &other, &third] {
        let kept = |topic: &str| {
            let topics = node.handle.topics();
            topics.iter().find(|info| info.name.as_str() == topic).map(|info| info.kept)
        };
        crate::support::eventually("the copies have the same bounds", || {
            (kept("quiet"), kept("busy"), kept("large")) == (Some(1), Some(3), Some(1))
        });
    }
}

#[test]
fn the_most_topics_hold_for_all_nodes_together() {
    let redis = redis_or_skip!(RedisServer::start());
    let few = || topics().max_topics(2);
    let (one, other) = (super::node_with(&redis, few()), super::node_with(&redis, few()));
    one.handle.publish("a", "x").unwrap();
    other.handle.publish("b", "x").unwrap();
    assert_eq!(one.handle.publish("c", "x"), Err(TopicError::TooManyTopics));
    other.handle.publish("a", "x").unwrap();
}

#[test]
fn servers_with_another_prefix_have_other_topics() {
    let redis = redis_or_skip!(RedisServer::start());
    let one = node(&redis);
    let other = topics().backplane(Redis::new(&redis.url()).unwrap().prefix("other"));
    let other = start(server().topics(other), echo);
    crate::support::eventually("it publishes", || other.handle.publish("news", "x").is_ok());
    assert_eq!(one.handle.publish("news", "y").unwrap().position.offset(), 1);
}

/// Publishes by one node at this URL, and gets it by another.
fn shares_by(url: &str, with: impl Fn(Redis) -> Redis) {
    let node = || start(server().topics(topics().backplane(with(Redis::new(url).unwrap()))), echo);
    let (one, other) = (node(), node());
    [&one, &other].into_iter().for_each(wait_until_connected);
    let (mut client, _) = subscriber(&other, "news", None);
    one.handle.publish("news", "hello").unwrap();
    assert_eq!(texts(&mut client, 1), ["hello"]);
}

#[test]
fn redis_may_ask_for_a_password_be_at_a_unix_socket_and_have_several_databases() {
    let folder = Folder::new();
    let socket = folder.at("redis.sock").to_string_lossy().into_owned();
    let redis = redis_or_skip!(RedisServer::with(&["--unixsocket", &socket, "--requirepass", "secret"]));
    shares_by(&redis.url().replace("redis://", "redis://:secret@"), |redis| redis);
    shares_by(&format!("{}/3", redis.url().replace("redis://", "redis://default:secret@")), |redis| redis);
    shares_by(&format!("unix://{socket}?pass=secret"), |redis| redis);
    // Without it nobody gets anywhere.
    let node = start(server().topics(topics().backplane(Redis::new(&redis.url()).unwrap())), echo);
    let mut client = client_of(&node);
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news"}]}"#);
    assert_eq!(value(&client.text(), "error"), "unavailable");
}

#[cfg(feature = "tls")]
#[test]
fn redis_may_be_had_by_tls() {
    let (folder, ca) = (Folder::new(), tls::ca("redis"));
    let made = tls::Made::for_names(&ca, &["localhost"]);
    let (pem, key) = (folder.write("redis.pem", &made.chain), folder.write("redis.key", &made.key));
    let (_redis, port) = redis_or_skip!(RedisServer::with_tls(&pem, &key));
    let trusting = heartwire::ClientTls::new().ca_pem(ca.pem()).unwrap();
    shares_by(&format!("rediss://localhost:{port}"), |redis| redis.tls(trusting.clone()));
}

#[test]
fn whoever_comes_from_a_node_that_was_ahead_waits() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other, way) = nodes_apart(&redis);
    let reads = Held::at(&way, "\r\nXREAD\r\n");
    // The last that the other reads before it is held.
    one.handle.publish("news", "1").unwrap();
    reads.wait();
    let position = ["2", "3"].map(|text| one.handle.publish("news", text).unwrap().position)[1].to_string();
    let (mut client, _) = subscriber(&other, "news", Some(&position));
    drop(reads);
    one.handle.publish("news", "4").unwrap();
    assert_eq!(texts(&mut client, 1), ["4"]);
}

/// A Redis that has lost the latest, and the only node that knew, gives their positions to other messages.
#[test]
fn a_position_that_never_was_is_lost_also_when_it_is_reached_meanwhile() {
    let redis = redis_or_skip!(RedisServer::start());
    let (one, other) = (node(&redis), node(&redis));
    let position = one.handle.publish("news", "1").unwrap().position.to_string();
    let epoch = position.split(':').next().unwrap();
    let (mut client, _) = subscriber(&other, "news", Some(&format!("{epoch}:3")));
    let (mut witness, _) = subscriber(&other, "others", None);
    // The other node reads all that there is, and again.
    for text in ["a", "b", "c"] {
        one.handle.publish("others", text).unwrap();
        assert_eq!(texts(&mut witness, 1), [text]);
    }
    for text in ["2", "3", "4"] {
        one.handle.publish("news", text).unwrap();
    }
    let lost = client.text();
    assert_eq!((value(&lost, "type"), value(&lost, "position")), ("lost".to_owned(), format!("{epoch}:4")));
    one.handle.publish("news", "5").unwrap();
    assert_eq!(texts(&mut client, 1), ["5"]);
}

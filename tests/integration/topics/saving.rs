//! A history that one server saves when it ends, and the next one goes on with.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use heartwire::topics::{Position, TopicError, Topics};
use heartwire::{HeartbeatPolicy, Server};

use super::{memory_only, open_topics, start_server, start_with, subscriber};
use crate::support::topics::subscribe;
use crate::support::{Client, Folder, Running, eventually, server};

fn saved_at(path: &Path) -> Topics {
    open_topics().saved_at(path)
}

/// A server on the port of one that has ended.
fn start_again(address: SocketAddr, topics: Topics) -> Running {
    start_server(Server::bind(address).unwrap().heartbeat(HeartbeatPolicy::off()), topics)
}

fn stop(running: Running) -> SocketAddr {
    let address = running.address();
    running.stop();
    address
}

fn publish(running: &Running, text: &str) -> Position {
    running.handle.publish("news", text).unwrap().position
}

fn expect_message(client: &mut Client, text: &str) {
    let received = client.text();
    assert!(
        received.contains(r#""type":"message""#) && received.contains(&format!(r#""text":"{text}""#)),
        "{received}"
    );
}

#[test]
fn after_a_restart_a_subscriber_gets_what_it_missed_and_nothing_is_published_twice() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")));
    let mut client = subscriber(&running, "news", None);
    let one = publish(&running, "one");
    expect_message(&mut client, "one");
    client.close();
    publish(&running, "two");
    let once = running.handle.publish_once("news", "three", "key").unwrap();
    let handle = running.handle.clone();
    let address = stop(running);
    assert_eq!(folder.names(), ["topics"]);
    assert_eq!(handle.publish("news", "too late"), Err(TopicError::Closed));
    assert_eq!(handle.publish("another", "too late"), Err(TopicError::Closed));

    let running = start_again(address, saved_at(&folder.at("topics")));
    let mut client = subscriber(&running, "news", Some(&one.to_string()));
    assert_eq!(folder.names(), [""; 0], "nothing is left that could be used twice");
    expect_message(&mut client, "two");
    expect_message(&mut client, "three");
    let again = running.handle.publish_once("news", "three", "key").unwrap();
    assert!(again.again && again.position == once.position);
    let four = publish(&running, "four");
    assert!(four.is_comparable_to(&one) && four.offset() == 4);
    expect_message(&mut client, "four");
    // And once more.
    let running = start_again(stop(running), saved_at(&folder.at("topics")));
    let mut client = subscriber(&running, "news", Some(&four.to_string()));
    publish(&running, "five");
    expect_message(&mut client, "five");
}

#[test]
fn without_the_file_a_subscriber_learns_once_that_messages_may_be_lost() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")));
    let one = publish(&running, "one").to_string();
    let address = stop(running);
    // As if it had been killed.
    fs::remove_file(folder.at("topics")).unwrap();
    let running = start_again(address, saved_at(&folder.at("topics")));
    let mut client = subscriber(&running, "news", Some(&one));
    let lost = client.text();
    assert!(lost.contains(r#""type":"lost""#), "{lost}");
    publish(&running, "two");
    expect_message(&mut client, "two");
}

#[test]
fn a_damaged_file_is_kept_aside_and_stops_nobody() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")));
    let one = publish(&running, "one");
    let address = stop(running);
    let mut saved = fs::read(folder.at("topics")).unwrap();
    let at = saved.len() / 2;
    saved[at] ^= 1;
    fs::write(folder.at("topics"), &saved).unwrap();
    let running = start_again(address, saved_at(&folder.at("topics")));
    eventually("the file was read", || folder.names() == ["topics.damaged"]);
    assert_eq!(fs::read(folder.at("topics.damaged")).unwrap(), saved);
    let mut client = subscriber(&running, "news", Some(&one.to_string()));
    assert!(client.text().contains(r#""type":"lost""#));
    assert!(!publish(&running, "one").is_comparable_to(&one));
}

#[test]
fn a_message_that_is_published_before_the_server_serves_follows_what_was_saved() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")));
    let one = publish(&running, "one");
    stop(running);
    let next = server().topics(saved_at(&folder.at("topics")));
    let two = next.handle().publish("news", "two").unwrap().position;
    assert!(two.is_comparable_to(&one) && two.offset() == 2);
}

#[test]
fn topics_beyond_a_new_limit_are_forgotten_and_their_positions_are_not_used_again() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")));
    for topic in ["a", "b", "c"] {
        (0..5).for_each(|_| _ = running.handle.publish(topic, "x").unwrap());
    }
    let address = stop(running);
    let running = start_again(address, saved_at(&folder.at("topics")).max_topics(1).ephemeral());
    eventually("the file was read", || folder.names().is_empty());
    assert_eq!(running.handle.topics().len(), 1);
    for topic in ["a", "b", "c"] {
        let offset = running.handle.publish(topic, "x").unwrap().position.offset();
        assert!(offset > 5, "{topic}: {offset}");
        // It makes way for the next.
        assert_eq!(running.handle.topics().len(), 1);
    }
}

#[test]
fn a_position_at_the_end_is_still_one_after_a_restart() {
    memory_only!("Redis keeps what is saved here");
    let folder = Folder::new();
    let running = start_with(saved_at(&folder.at("topics")).ephemeral());
    let last = publish(&running, "one").to_string();
    let running = start_again(stop(running), saved_at(&folder.at("topics")));
    let mut client = subscriber(&running, "news", Some(&last));
    assert_eq!(subscribe(&mut client, "news", Some(&last)), last);
    publish(&running, "two");
    expect_message(&mut client, "two");
}

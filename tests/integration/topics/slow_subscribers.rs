//! Subscribers that take messages more slowly than they are published.

use std::thread;
use std::time::Duration;

use heartwire::topics::Topics;

use super::{start_server, subscriber};
use crate::support::topics::{client_of, subscribe};
use crate::support::{Client, Running, eventually, request_with, server};

const LEN: usize = 10_000;

/// A server whose queues are short, and histories this long.
fn start_short(messages: usize) -> Running {
    let topics = Topics::new().history(messages, 1 << 30, Duration::from_secs(600)).total_history(1 << 30);
    start_server(server().queue_size(64 * 1024), topics)
}

/// Publishes until a subscriber is behind, and then so many more. Returns the number of all.
fn publish_until_behind(running: &Running, more: usize) -> usize {
    let (mut count, mut left) = (0, more);
    while left > 0 {
        count += 1;
        assert!(count < 100_000, "nobody falls behind");
        running.handle.publish("count", format!("{count} {}", "x".repeat(LEN))).unwrap();
        let is_behind = running.handle.topics().iter().any(|topic| topic.behind > 0);
        left -= usize::from(is_behind);
    }
    count
}

fn number(text: &str) -> usize {
    text.split(r#""text":""#)
        .nth(1)
        .unwrap_or(text)
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("{text:.200}"))
}

#[test]
fn a_slow_subscriber_catches_up_from_the_history_and_misses_nothing() {
    let running = start_short(100_000);
    let (mut slow, mut bare) = (
        subscriber(&running, "count", None),
        Client::tcp(running.address()).upgraded(&request_with("/topics/count", "")),
    );
    eventually("both are subscribed", || running.handle.topics()[0].subscribers == 2);
    let count = publish_until_behind(&running, 200);
    for expected in 1..=count {
        assert_eq!(number(&slow.text()), expected);
        assert_eq!(number(&bare.text()), expected);
    }
    eventually("nobody is behind", || running.handle.topics()[0].behind == 0);
    running.handle.publish("count", format!("{} live", count + 1)).unwrap();
    assert_eq!((number(&slow.text()), number(&bare.text())), (count + 1, count + 1));
}

#[test]
fn many_publishers_at_a_time_leave_no_gap_at_a_slow_subscriber() {
    const PUBLISHERS: usize = 8;
    let running = start_short(100_000);
    let mut slow = subscriber(&running, "count", None);
    let is_behind = || running.handle.topics().iter().any(|topic| topic.behind > 0);
    let publish = |publisher: usize| {
        // Some more when it is behind, and not for ever if it never is.
        let (mut count, mut left) = (0, 50);
        while left > 0 && count < 100_000 {
            count += 1;
            let text = format!("{} {}", PUBLISHERS * count + publisher, "x".repeat(LEN));
            running.handle.publish("count", text).unwrap();
            left -= usize::from(is_behind());
        }
        assert_eq!(left, 0, "nobody falls behind");
        count
    };
    let counts: Vec<usize> = thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS).map(|publisher| scope.spawn(move || publish(publisher))).collect();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    // The messages of each come in its order, and none is missing.
    let mut last = [0; PUBLISHERS];
    for _ in 0..counts.iter().sum() {
        let number = number(&slow.text());
        let (count, publisher) = (number / PUBLISHERS, number % PUBLISHERS);
        assert_eq!(count, last[publisher] + 1, "of publisher {publisher}");
        last[publisher] = count;
    }
    assert_eq!(last.as_slice(), counts);
    eventually("it is behind no more", || !is_behind());
}

#[test]
fn a_subscriber_that_the_history_no_longer_reaches_is_told_once_and_goes_on() {
    let running = start_short(5);
    let mut slow = subscriber(&running, "count", None);
    let count = publish_until_behind(&running, 200);
    let (mut last, mut lost) = (0, 0);
    while last < count {
        let text = slow.text();
        if text.starts_with(r#"{"type":"lost""#) {
            lost += 1;
            let offset = text.split(':').next_back().unwrap().trim_end_matches("\"}");
            last = offset.parse().unwrap();
        } else {
            let next = number(&text);
            assert_eq!(next, last + 1, "a gap without a word");
            last = next;
        }
    }
    assert!(lost >= 1, "nothing was lost");
    eventually("it is behind no more", || running.handle.topics()[0].behind == 0);
    running.handle.publish("count", format!("{} live", count + 1)).unwrap();
    assert_eq!(number(&slow.text()), count + 1);
}

#[test]
fn a_bare_subscriber_that_has_lost_messages_is_closed_with_1013() {
    let running = start_short(5);
    let mut slow = Client::tcp(running.address()).upgraded(&request_with("/topics/count", ""));
    eventually("it is subscribed", || running.handle.topics().first().is_some_and(|topic| topic.subscribers == 1));
    let count = publish_until_behind(&running, 200);
    let mut last = 0;
    let (code, reason) = loop {
        let frame = slow.frame();
        if frame.opcode == crate::support::CLOSE {
            break frame.close();
        }
        last += 1;
        assert_eq!(number(frame.text()), last);
    };
    assert!(last < count);
    assert_eq!((code, reason), (Some(1013), "messages of topic count are lost".to_owned()));
    eventually("it is subscribed no more", || running.handle.topics()[0].subscribers == 0);
}

#[test]
fn an_ephemeral_topic_loses_what_a_slow_subscriber_cannot_take_and_says_so() {
    let running = start_server(server().queue_size(64 * 1024), Topics::new().ephemeral());
    let mut slow = client_of(&running);
    subscribe(&mut slow, "count", None);
    let count = publish_until_behind(&running, 50);
    let mut last = 0;
    loop {
        let text = slow.text();
        if text.starts_with(r#"{"type":"lost""#) {
            break;
        }
        last += 1;
        assert_eq!(number(&text), last);
    }
    assert!(last < count);
    running.handle.publish("count", format!("{} live", count + 1)).unwrap();
    assert_eq!(number(&slow.text()), count + 1);
}

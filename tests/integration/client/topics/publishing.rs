//! What becomes of messages that are published: each is published once, or its publisher knows why not.

use std::thread;
use std::time::Instant;

use heartwire::topics::Topics;
use heartwire::{PublishError, TopicsHandle};

use super::{in_short, numbers, open_topics, other, run, run_with, start_saving, start_with, topics_at};
use crate::support::{BareConnection, BareServer, CEILING, ClosedPort, Folder, Relay, eventually, ms};

/// All that a topic has, oldest first.
fn history(address: std::net::SocketAddr, topic: &str, count: usize) -> Vec<String> {
    let topics = topics_at(address);
    topics.subscribe(heartwire::Subscription::new(topic).since_earliest()).unwrap();
    let reader = run(topics);
    reader.subscribed();
    (0..count).map(|_| reader.next_in_short()).collect()
}

fn expected(topic: &str, count: usize) -> Vec<String> {
    numbers(0, count).map(|number| format!("{topic}: {number}")).collect()
}

#[test]
fn publish_waits_for_the_place_of_the_message() {
    let running = start_with(open_topics());
    let client = other(&running, "chat");
    let reader = other(&running, "chat");
    let published = client.handle.publish("chat", "one").unwrap();
    assert_eq!((published.position.offset(), published.here, published.again), (1, 2, false));
    client.expect("chat", ["one"]);
    reader.expect("chat", ["one"]);
    let published = client.handle.publish("chat", vec![1, 2]).unwrap();
    assert_eq!(published.position.offset(), 2);
    let once = client.handle.publish_once("chat", "three", "a key").unwrap();
    let again = reader.handle.publish_once("chat", "three", "a key").unwrap();
    assert_eq!((again.position, again.again), (once.position, true));
}

#[test]
fn what_is_refused_is_told_to_its_publisher_and_to_nobody_else() {
    let running = start_with(open_topics());
    let client = other(&running, "chat");
    let Err(PublishError::Refused(refusal)) = client.handle.publish("news", "x") else { panic!("it is published") };
    assert_eq!((refusal.code(), refusal.reason()), ("forbidden", "it is not allowed"));
    assert!(matches!(client.handle.publish("a//b", "x"), Err(PublishError::InvalidTopic(_))));
    assert_eq!(client.handle.publish_once("chat", "x", ""), Err(PublishError::InvalidKey));
    // The server would close the connection because of it.
    assert_eq!(client.handle.publish("chat", "x".repeat(1024 * 1024)), Err(PublishError::TooLarge));
    client.handle.publish("chat", "one").unwrap();
    client.expect("chat", ["one"]);
    assert_eq!(client.events.so_far().iter().filter(|event| format!("{event:?}").contains("Opened")).count(), 1);
}

/// A server made by hand that speaks the subprotocol, as far as the opening.
fn open(server: &BareServer) -> BareConnection {
    let mut connection = server.accept();
    connection.upgrade("Sec-WebSocket-Protocol: heartwire.topics.v1\r\n");
    connection
}

fn id(request: &str) -> u64 {
    let id = request.split(r#""id":"#).nth(1).and_then(|rest| rest.split(',').next());
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id in {request}"))
}

fn confirm(connection: &mut BareConnection, request: &str) {
    let id = id(request);
    connection.send_text(&format!(
        r#"{{"type":"published","id":{id},"topic":"t","position":"00000000000000aa:{id}","here":0}}"#
    ));
}

#[test]
fn many_messages_are_under_way_at_a_time_and_each_has_its_reply() {
    let server = BareServer::bind();
    let client = run(topics_at(server.address()));
    let pending: Vec<_> = numbers(0, 100).map(|text| client.handle.try_publish("t", text).unwrap()).collect();
    let mut connection = open(&server);
    // Not one has a reply before all are here.
    let requests: Vec<_> = (0..100).map(|_| connection.text()).collect();
    for (number, request) in requests.iter().enumerate() {
        assert!(request.contains(&format!(r#""text":"{number}""#)), "{request}");
    }
    for request in requests.iter().rev() {
        confirm(&mut connection, request);
    }
    for (pending, request) in pending.into_iter().zip(&requests) {
        assert_eq!(pending.wait().unwrap().position.offset(), id(request));
    }
    connection.expect_close_at_stop_of(&client.handle);
    client.result().unwrap();
}

impl BareConnection {
    /// Stops a client of topics, and completes its closing handshake.
    fn expect_close_at_stop_of(self, handle: &TopicsHandle) {
        handle.stop();
        self.expect_close(1000);
    }
}

#[test]
fn a_message_whose_reply_was_lost_is_sent_again_with_its_key_and_in_its_place() {
    let server = BareServer::bind();
    let client = run(topics_at(server.address()));
    let pending: Vec<_> = numbers(0, 3).map(|text| client.handle.try_publish("t", text).unwrap()).collect();
    let mut connection = open(&server);
    let first: Vec<_> = (0..3).map(|_| connection.text()).collect();
    confirm(&mut connection, &first[0]);
    eventually("the first is confirmed", || pending[0].wait_timeout(ms(0)).is_some());
    connection.reset();
    let mut connection = open(&server);
    assert_eq!([connection.text(), connection.text()], first[1..]);
    confirm(&mut connection, &first[1]);
    confirm(&mut connection, &first[2]);
    for pending in pending.into_iter().skip(1) {
        pending.wait().unwrap();
    }
    connection.expect_close_at_stop_of(&client.handle);
}

#[test]
fn over_lines_that_are_cut_each_message_is_published_once_and_in_order() {
    const COUNT: usize = 3000;
    let running = start_with(open_topics());
    let relay = Relay::to(running.address());
    let client = run(topics_at(relay.address()));
    let mut pending = Vec::new();
    for number in 0..COUNT {
        pending.push(client.handle.try_publish("chat", number.to_string()).unwrap());
        if number % 200 == 100 {
            // In the middle of it: some have their reply, some have none.
            let some = pending.len() - 60;
            eventually("some are confirmed", || running.handle.topics().iter().any(|topic| topic.kept >= some));
            relay.cut();
        }
    }
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().position.offset(), number as u64 + 1);
    }
    assert!(relay.made() > 10, "{}", relay.made());
    assert_eq!(history(running.address(), "chat", COUNT), expected("chat", COUNT));
    assert_eq!(running.handle.topics()[0].position.offset(), COUNT as u64);
}

#[test]
fn through_restarts_of_a_server_that_saves_each_message_is_published_once_and_in_order() {
    const COUNT: usize = 1000;
    let folder = Folder::new();
    let mut running = start_saving(&folder.at("topics"));
    let relay = Relay::to(running.address());
    let client = run(topics_at(relay.address()));
    let publisher = client.handle.clone();
    let publishing = thread::spawn(move || {
        for number in numbers(0, COUNT) {
            publisher.publish("chat", number).unwrap();
        }
    });
    let mut restarts = 0;
    while !publishing.is_finished() {
        let so_far = |running: &crate::support::Running| running.handle.topics().first().map_or(0, |topic| topic.kept);
        let before = so_far(&running);
        eventually("some more", || publishing.is_finished() || so_far(&running) >= before + 50);
        running.stop();
        running = start_saving(&folder.at("topics"));
        relay.set_target(running.address());
        restarts += 1;
    }
    publishing.join().unwrap();
    assert!(restarts > 3, "{restarts}");
    assert_eq!(history(running.address(), "chat", COUNT), expected("chat", COUNT));
    assert_eq!(running.handle.topics()[0].position.offset(), COUNT as u64);
}

#[test]
fn without_a_connection_messages_wait_up_to_the_size_of_the_outbox() {
    let port = ClosedPort::new();
    let topics = topics_at(port.address()).outbox_size(10_000);
    let early = topics.handle().try_publish("t", "before it runs").unwrap();
    let client = run(topics);
    let mut pending = vec![early];
    let refused = loop {
        match client.handle.try_publish("t", "x".repeat(100)) {
            Ok(more) => pending.push(more),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, PublishError::Full);
    assert!((20..70).contains(&pending.len()), "{}", pending.len());
    assert_eq!(client.handle.try_publish("t", "x".repeat(10_000)).unwrap_err(), PublishError::TooLarge);
    client.events.wait_for("a failed attempt", |event| format!("{event:?}").contains("ConnectFailed").then_some(()));
    let server = port.listen();
    let mut connection = open(&server);
    for pending in pending {
        let request = connection.text();
        confirm(&mut connection, &request);
        pending.wait().unwrap();
    }
    drop(client.handle.try_publish("t", "there is room again").unwrap());
    connection.expect_close_at_stop_of(&client.handle);
}

#[test]
fn a_handler_cannot_wait_for_a_reply_but_it_can_publish() {
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    topics.subscribe("chat").unwrap();
    let handle = topics.handle();
    let (sender, outcomes) = crossbeam_channel::unbounded();
    let client = run_with(topics, move |delivery| {
        if in_short(delivery) == "chat: ping" {
            let refused = handle.publish("chat", "deadlock").unwrap_err();
            let waiting = handle.try_publish("chat", "pong").unwrap();
            assert!(waiting.wait_timeout(crate::support::HOUR).is_none());
            let begun = Instant::now();
            let also_refused = handle.try_publish("chat", "pong again").unwrap().wait().unwrap_err();
            sender.send((refused, also_refused, begun.elapsed(), waiting)).unwrap();
        }
        Ok(())
    });
    client.subscribed();
    client.handle.publish("chat", "ping").unwrap();
    let (refused, also_refused, took, waiting) = crate::support::receive("the handler", &outcomes);
    assert_eq!((refused, also_refused), (PublishError::InHandler, PublishError::InHandler));
    assert!(took < CEILING);
    // Elsewhere it can be waited for. And what was not waited for is published all the same.
    assert_eq!(waiting.wait().unwrap().position.offset(), 2);
    client.expect("chat", ["ping", "pong", "pong again"]);
}

#[test]
fn publish_times_out_and_is_not_sent_again() {
    let server = BareServer::bind();
    let client = run(topics_at(server.address()).publish_timeout(ms(500)));
    let mut connection = open(&server);
    let publisher = client.handle.clone();
    let publishing = thread::spawn(move || publisher.publish("t", "one"));
    let request = connection.text();
    assert_eq!(publishing.join().unwrap(), Err(PublishError::Timeout));
    connection.reset();
    let mut connection = open(&server);
    let later = client.handle.try_publish("t", "two").unwrap();
    let next = connection.text();
    assert!(next.contains("two") && id(&next) > id(&request), "{next}");
    // A reply that comes too late is nobody's.
    confirm(&mut connection, &request);
    confirm(&mut connection, &next);
    later.wait().unwrap();
    connection.expect_close_at_stop_of(&client.handle);
}

#[test]
fn the_end_of_the_client_is_the_outcome_of_what_has_no_reply() {
    // A client that never runs.
    let topics = topics_at(ClosedPort::new().address());
    let (handle, pending) = (topics.handle(), topics.handle().try_publish("t", "x").unwrap());
    drop(topics);
    assert_eq!(pending.wait(), Err(PublishError::Closed));
    assert_eq!(handle.publish("t", "x"), Err(PublishError::Closed));
    // One that is stopped.
    let server = BareServer::bind();
    let client = run(topics_at(server.address()));
    let publishers: Vec<_> = (0..3)
        .map(|_| {
            let publisher = client.handle.clone();
            thread::spawn(move || publisher.publish("t", "x"))
        })
        .collect();
    let mut connection = open(&server);
    (0..3).for_each(|_| _ = connection.text());
    connection.expect_close_at_stop_of(&client.handle);
    for publisher in publishers {
        assert_eq!(publisher.join().unwrap(), Err(PublishError::Closed));
    }
    client.result().unwrap();
    // One that gives up.
    let server = BareServer::bind();
    let client = run(crate::support::client(server.address()).no_reconnect().topics());
    let pending = client.handle.try_publish("t", "x").unwrap();
    server.answer(&crate::support::refusal(404, ""));
    assert_eq!(pending.wait(), Err(PublishError::Closed));
    client.result().unwrap_err();
}

#[test]
fn a_reply_that_comes_while_the_client_closes_still_counts() {
    let server = BareServer::bind();
    let client = run(topics_at(server.address()));
    let pending = client.handle.try_publish("t", "x").unwrap();
    let mut connection = open(&server);
    let request = connection.text();
    client.handle.stop();
    confirm(&mut connection, &request);
    connection.expect_close(1000);
    pending.wait().unwrap();
}

#[test]
fn many_a_second_pass_over_one_connection() {
    const COUNT: usize = 20_000;
    let running = start_with(Topics::new().on_publish(|_, _| true));
    let client = run(topics_at(running.address()).outbox_size(64 * 1024 * 1024));
    client.handle.publish("chat", "first").unwrap();
    let begun = Instant::now();
    let pending: Vec<_> = numbers(0, COUNT).map(|number| client.handle.try_publish("chat", number).unwrap()).collect();
    for pending in pending {
        pending.wait().unwrap();
    }
    let pipelined = COUNT as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for number in numbers(0, COUNT / 10) {
        client.handle.publish("chat", number).unwrap();
    }
    let one_by_one = (COUNT / 10) as f64 / begun.elapsed().as_secs_f64();
    println!("published a second: {pipelined:.0} pipelined, {one_by_one:.0} one by one");
    // How many it can be, the benchmark measures. Where each waited for a delayed acknowledgement, it would be 25.
    assert!(pipelined > 100.0, "{pipelined}");
}

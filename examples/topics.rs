//! A client of topics: it prints what is published, and is brought up to date after a cut.
//!
//! Run `cargo run -- --mode topics --allow-publish chat` as its server, and `cargo run --example topics [URL] [TOPIC]`
//! in another terminal. Type lines: each is published to the topic, `chat` by default, and comes back with its
//! position. Stop the server with SIGSTOP, or restart it, and go on typing: the lines are published once the server is
//! back.
//!
//! A server that restarts with `--history-file FILE` has kept its history. One without tells the client that messages
//! are lost.

use std::io;
use std::thread;
use std::time::Duration;

use heartwire::{Backoff, Client, Delivery, Error, Event, HeartbeatPolicy, TopicsHandle};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:9001/".into());
    let topic = arguments.next().unwrap_or_else(|| "chat".into());
    let topics = Client::new(&url)?
        .heartbeat(HeartbeatPolicy::new(Duration::from_secs(1), Duration::from_millis(500)).max_missed(3))
        .reconnect(Backoff::default().first(Duration::from_millis(200)).longest(Duration::from_secs(5)))
        .topics();
    topics.subscribe(topic.as_str()).map_err(Error::handler)?;

    let events = topics.handle().events();
    thread::spawn(move || events.into_iter().for_each(|event| tell(&event)));
    let handle = topics.handle();
    thread::spawn(move || publish_lines(&handle, &topic));
    topics.run(|delivery| {
        match delivery {
            Delivery::Message { topic, message, position, .. } => match message.as_text() {
                Some(text) => println!("{topic} {}: {text}", position.offset()),
                None => println!("{topic} {}: {} bytes", position.offset(), message.len()),
            },
            Delivery::Subscribed { topic, position, .. } => println!("subscribed to {topic}, now at {position}"),
            Delivery::Lost { topic, .. } => println!("messages of {topic} are lost"),
            Delivery::Refused { topic, refusal, .. } => println!("not subscribed to {topic}: {refusal}"),
            other => println!("{other:?}"),
        }
        Ok(())
    })
}

/// Publishes each line, and ends the client after the last.
fn publish_lines(handle: &TopicsHandle, topic: &str) {
    for line in io::stdin().lines().map_while(Result::ok) {
        // It waits until the server has confirmed the line, over any number of connections.
        if let Err(error) = handle.publish(topic, line) {
            println!("not published: {error}");
        }
    }
    handle.stop();
}

fn tell(event: &Event) {
    match event {
        Event::ConnectFailed { error, .. } => println!("not connected: {error}"),
        Event::Opened { id, .. } => println!("#{id} connected"),
        Event::Closed(report) => println!("#{} ended: {}", report.id, report.reason),
        _ => {}
    }
}

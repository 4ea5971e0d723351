//! Who is subscribed, who is in doubt, and who is gone.

use std::thread;

use crossbeam_channel::bounded;
use heartwire::topics::Topics;
use heartwire::{Error, HeartbeatPolicy};

use super::{start_handling, start_server};
use crate::support::topics::{client_of, subscribe, watcher};
use crate::support::{Client, PONG, Running, eventually, ms, server, start};

fn start_present(heartbeat: HeartbeatPolicy) -> Running {
    start_server(server().heartbeat(heartbeat), Topics::new().presence(true))
}

#[track_caller]
fn expect(client: &mut Client, kind: &str, parts: &[&str]) {
    let text = client.text();
    assert!(text.starts_with(&format!(r#"{{"type":"{kind}","topic":"room","member":{{"#)), "{kind}: {text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn joined_and_gone_are_told_to_whoever_asked() {
    let running = start_present(HeartbeatPolicy::off());
    let (mut watcher, list) = watcher(&running);
    assert_eq!(list.matches(r#""connection""#).count(), 1, "itself: {list}");
    let mut other = client_of(&running);
    subscribe(&mut other, "room", None);
    expect(&mut watcher, "joined", &[r#""connection":2"#, r#""state":"alive""#]);
    // Subscribing anew is no news, and neither is what happens elsewhere.
    subscribe(&mut other, "room", None);
    subscribe(&mut other, "elsewhere", None);
    other.send_text(r#"{"type":"unsubscribe","id":3,"topics":["room"]}"#);
    // It did not ask, and has heard of nobody.
    assert_eq!(other.text(), r#"{"type":"unsubscribed","id":3,"topics":["room"]}"#);
    expect(&mut watcher, "gone", &[r#""connection":2"#, r#""cause":"unsubscribed","within":0"#]);
    subscribe(&mut other, "room", None);
    expect(&mut watcher, "joined", &[r#""connection":2"#]);
    other.send_close(1000, "");
    expect(&mut watcher, "gone", &[r#""cause":"peer""#]);
}

#[test]
fn a_member_whose_pongs_are_missed_is_doubted_and_then_alive_or_gone() {
    let running = start_present(HeartbeatPolicy::new(ms(200), ms(200)).max_missed(20));
    let (mut watcher, _) = watcher(&running);
    // It answers no Ping by itself.
    let mut silent = client_of(&running);
    subscribe(&mut silent, "room", None);
    let joined = |watcher: &mut Client| loop {
        let text = watcher.text();
        if text.contains(r#""type":"joined""#) {
            break;
        }
    };
    joined(&mut watcher);
    let mut next = |kind: &str| loop {
        let text = watcher.text();
        if text.contains(r#""connection":2"#) {
            assert!(text.starts_with(&format!(r#"{{"type":"{kind}""#)), "{kind}: {text}");
            break text;
        }
    };
    let doubted = next("doubted");
    assert!(doubted.contains(r#""state":"doubted""#) && doubted.contains(r#""max_missed":20"#), "{doubted}");
    // Again and again, for one alone may be over before anybody has looked.
    let (stop, stopped) = bounded::<()>(0);
    let mut lively = silent.try_clone();
    let lives = thread::spawn(move || {
        while stopped.recv_timeout(ms(20)).is_err_and(|error| error.is_timeout()) {
            lively.send(PONG, "");
        }
    });
    next("alive");
    drop(stop);
    lives.join().unwrap();
    next("doubted");
    let gone = next("gone");
    assert!(gone.contains(r#""cause":"heartbeat_lost","within":4200"#), "{gone}");
}

#[test]
fn a_member_is_gone_although_its_handler_does_not_return() {
    let (stuck, until_released) = bounded::<()>(0);
    let server = server().heartbeat(HeartbeatPolicy::off()).topics(Topics::new().presence(true));
    let running = start(server, move |conn| {
        conn.subscribe("room").map_err(Error::handler)?;
        let _ = until_released.recv();
        Ok(())
    });
    let client = running.connect();
    eventually("it is subscribed", || running.handle.topics().first().is_some_and(|topic| topic.subscribers == 1));
    let (mut watcher, list) = watcher(&running);
    assert_eq!(list.matches(r#""connection""#).count(), 2, "{list}");
    client.reset();
    expect(&mut watcher, "gone", &[r#""connection":1"#]);
    drop(stuck);
}

#[test]
fn without_presence_nobody_is_told() {
    let running = start_server(server(), Topics::new());
    let mut client = client_of(&running);
    client.send_text(r#"{"type":"presence","id":2,"topic":"room"}"#);
    assert!(client.text().contains(r#""error":"unavailable""#));
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"room","presence":true}]}"#);
    assert!(client.text().contains(r#""position""#));
    client.send_text(r#"{"type":"unsubscribe","id":3,"topics":["room"]}"#);
    assert!(client.text().starts_with(r#"{"type":"unsubscribed""#));
}

#[test]
fn one_that_joins_while_its_pongs_are_missed_is_told_as_alive_later() {
    let topics = Topics::new().presence(true);
    let heartbeat = HeartbeatPolicy::new(ms(200), ms(200)).max_missed(100);
    let (sender, may_subscribe) = std::sync::mpsc::channel();
    let may_subscribe = std::sync::Mutex::new(may_subscribe);
    let running = start_handling(server().heartbeat(heartbeat), topics, move |conn| {
        may_subscribe.lock().expect("no panic").recv().map_err(Error::handler)?;
        conn.subscribe("room").map_err(Error::handler)?;
        loop {
            conn.recv()?;
        }
    });
    let (mut watcher, _) = watcher(&running);
    // It answers no Ping by itself.
    let mut silent = running.connect();
    eventually("a Pong is missed", || running.handle.connections().iter().any(|info| info.id == 2 && info.missed > 0));
    sender.send(()).expect("the handler waits");
    let mut next = |kind: &str, state: &str| loop {
        let text = watcher.text();
        if text.contains(r#""connection":2"#) {
            assert!(text.starts_with(&format!(r#"{{"type":"{kind}""#)), "{kind}: {text}");
            break assert!(text.contains(&format!(r#""state":"{state}""#)), "{text}");
        }
    };
    next("joined", "doubted");
    silent.send_text("here");
    next("alive", "alive");
}

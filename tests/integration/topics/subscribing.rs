//! Subscribing, publishing, and coming back.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use heartwire::topics::{TopicError, Topics};
use heartwire::{Accept, Error};

use super::{memory_only, open_topics, start_handling, start_with, subscriber};
use crate::support::topics::{client_of, subscribe};
use crate::support::{Client, eventually, exchange, receive, request_with, server, start};

/// The position in a message of a topic, and its text.
fn message(text: &str) -> (String, String) {
    let value = |name: &str| {
        let rest = text.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {text}")).1;
        rest.split('"').next().expect("a value").to_owned()
    };
    (value("position"), value("text"))
}

#[test]
fn a_handler_subscribes_its_connection_and_gets_bare_messages() {
    let running = start_handling(server(), Topics::new(), |conn| {
        let subscribed = conn.subscribe("news").map_err(Error::handler)?;
        conn.send(format!("subscribed at {}", subscribed.position.offset()))?;
        loop {
            match conn.recv()?.as_text() {
                Some("unsubscribe") => conn.unsubscribe("news"),
                _ => conn.send("else")?,
            }
            conn.send("done")?;
        }
    });
    let mut client = running.connect();
    assert_eq!(client.text(), "subscribed at 0");
    let published = running.handle.publish("news", "hello").unwrap();
    assert_eq!((published.here, published.position.offset(), published.again), (1, 1, false));
    running.handle.publish("other", "not for it").unwrap();
    assert_eq!(client.text(), "hello");
    client.send_text("unsubscribe");
    assert_eq!(client.text(), "done");
    assert_eq!(running.handle.publish("news", "not for it").unwrap().here, 0);
    client.send_text("x");
    assert_eq!((client.text(), client.text()), ("else".to_owned(), "done".to_owned()));
}

#[test]
fn a_server_without_topics_says_so() {
    let running = start(server(), |conn| {
        let outcome = conn.subscribe("news").map(drop);
        conn.send(format!("{outcome:?}"))?;
        conn.recv().map(drop)
    });
    assert_eq!(running.connect().text(), "Err(NoTopics)");
    assert_eq!(running.handle.publish("news", "x"), Err(TopicError::NoTopics));
    assert!(running.handle.topics().is_empty());
}

#[test]
fn what_is_published_while_one_is_away_is_had_once_in_order_and_before_anything_new() {
    const MESSAGES: u32 = 5000;
    let running = start_with(Topics::new().history(MESSAGES as usize, 1 << 20, Duration::from_secs(600)));
    let handle = running.handle.clone();
    let publisher = thread::spawn(move || {
        for number in 1..=MESSAGES {
            handle.publish("count", number.to_string()).unwrap();
        }
    });
    // Comes back again and again, while messages are published.
    let (mut position, mut expected) = (None::<String>, 1);
    while expected <= MESSAGES {
        let mut client = client_of(&running);
        let begin = position.clone().unwrap_or_else(|| {
            let any = running.handle.publish("any", "").unwrap().position.to_string();
            format!("{}:0", any.split(':').next().unwrap())
        });
        subscribe(&mut client, "count", Some(&begin));
        for _ in 0..700.min(MESSAGES + 1 - expected) {
            let (at, text) = message(&client.text());
            assert_eq!(text, expected.to_string());
            (position, expected) = (Some(at), expected + 1);
        }
    }
    publisher.join().unwrap();
}

#[test]
fn all_subscribers_see_the_messages_of_many_publishers_in_one_order() {
    let running = start_with(open_topics());
    let mut clients: Vec<Client> = (0..5).map(|_| subscriber(&running, "count", None)).collect();
    thread::scope(|scope| {
        for publisher in 0..4 {
            let handle = running.handle.clone();
            scope.spawn(move || {
                for number in 0..200 {
                    handle.publish("count", format!("{publisher} {number}")).unwrap();
                }
            });
        }
    });
    let mut orders = clients.iter_mut().map(|client| (0..800).map(|_| client.text()).collect::<Vec<_>>());
    let first = orders.next().unwrap();
    // Each publisher's are in the order of its calls.
    let mut next = BTreeMap::new();
    for text in &first {
        let (_, text) = message(text);
        let (publisher, number) = text.split_once(' ').unwrap();
        let expected = next.entry(publisher.to_owned()).or_insert(0);
        assert_eq!(number, expected.to_string());
        *expected += 1;
    }
    for order in orders {
        assert!(order == first, "another order");
    }
}

#[test]
fn a_position_of_another_server_of_the_future_or_too_long_ago_is_lost_once() {
    let running = start_with(Topics::new().history(2, 1 << 20, Duration::from_secs(600)));
    for number in 1..=4 {
        running.handle.publish("count", number.to_string()).unwrap();
    }
    let present = subscribe(&mut client_of(&running), "count", None);
    let epoch = present.split(':').next().unwrap();
    for since in
        ["0123456789abcdef:4", &format!("{epoch}:5"), &format!("{epoch}:18446744073709551615"), &format!("{epoch}:1")]
    {
        let mut client = client_of(&running);
        assert_eq!(subscribe(&mut client, "count", Some(since)), present);
        assert_eq!(client.text(), format!(r#"{{"type":"lost","topic":"count","position":"{present}"}}"#), "{since}");
        assert!(subscribe(&mut client, "count", Some(&present)) == present, "nothing else came");
    }
    let mut client = subscriber(&running, "count", Some(&format!("{epoch}:2")));
    assert_eq!((message(&client.text()).1, message(&client.text()).1), ("3".to_owned(), "4".to_owned()));
}

#[test]
fn publishing_twice_with_a_key_is_publishing_once() {
    let running = start_with(Topics::new().key_window(Duration::from_secs(300), 2));
    let publish = |key: &str| running.handle.publish_once("count", "x", key).unwrap();
    let first = publish("a");
    assert!(!first.again);
    let second = publish("a");
    assert_eq!((second.position, second.again), (first.position, true));
    // Two more, and the first key is forgotten.
    publish("b");
    publish("c");
    assert_eq!((publish("a").position.offset(), publish("a").again), (4, true));
    for key in ["", &"k".repeat(129)] {
        assert_eq!(running.handle.publish_once("count", "x", key), Err(TopicError::InvalidKey));
    }
}

#[test]
fn topics_are_bounded_for_each_connection_and_in_all() {
    memory_only!("Redis removes topics only once they were not in use for a while");
    let running = start_with(Topics::new().ephemeral().max_topics(5).max_topics_per_connection(3));
    let mut client = client_of(&running);
    let wanted = ["a", "b", "c", "d", "a"].map(|topic| format!(r#"{{"topic":"{topic}"}}"#)).join(",");
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{wanted}]}}"#));
    let reply = client.text();
    assert_eq!(reply.matches(r#""position""#).count(), 4, "{reply}");
    assert!(reply.contains(r#"{"topic":"d","error":"too-many""#), "{reply}");
    // Nobody needs a topic that was published to and is not kept, so it makes way for others.
    for topic in ["e", "f", "g"] {
        running.handle.publish(topic, "x").unwrap();
    }
    let _other = subscriber(&running, "h", None);
    // A topic that knows a key is in use.
    running.handle.publish_once("i", "x", "key").unwrap();
    assert_eq!(running.handle.publish("j", "x"), Err(TopicError::TooManyTopics));
    assert_eq!(running.handle.topics().len(), 5);
    // A topic whose subscribers have gone is forgotten at once if there never was a message.
    client.close();
    eventually("the topics are forgotten", || running.handle.topics().len() == 2);
    running.handle.publish("j", "x").unwrap();
}

#[test]
fn subscribers_to_names_that_they_make_up_keep_nobody_from_publishing() {
    memory_only!("Redis counts those topics that were published to");
    let running = start_with(Topics::new().max_topics(8));
    let mut client = client_of(&running);
    let wanted: Vec<_> = (0..8).map(|number| format!(r#"{{"topic":"made-up/{number}"}}"#)).collect();
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, wanted.join(",")));
    let reply = client.text();
    assert_eq!((reply.matches(r#""position""#).count(), reply.matches(r#""too-many""#).count()), (6, 2), "{reply}");
    for topic in ["news", "chat"] {
        running.handle.publish(topic, "x").unwrap();
    }
    assert_eq!(running.handle.publish("more", "x"), Err(TopicError::TooManyTopics));
    // And whoever subscribes to a topic that is there is let in.
    drop(subscriber(&running, "news", None));
}

#[test]
fn keys_count_as_memory_and_a_busy_topic_does_not_cost_a_quiet_one_its_keys() {
    memory_only!("the keys are in the memory of Redis");
    let topics = Topics::new().ephemeral().key_window(Duration::from_secs(600), 1_000_000).total_history(100_000);
    let running = start_with(topics);
    let publish = |topic: &str, key: &str| running.handle.publish_once(topic, "x", key).unwrap().again;
    assert!(!publish("quiet", "k"));
    for number in 0..2000 {
        assert!(!publish("busy", &number.to_string()));
    }
    assert!(publish("quiet", "k") && publish("busy", "1999") && publish("busy", "1700"));
    assert!(!publish("busy", "1000"), "more keys are known than there is memory for");
}

#[test]
fn the_oldest_messages_and_keys_make_room_together() {
    memory_only!("the keys are in the memory of Redis");
    let running = start_with(Topics::new().total_history(100_000));
    for number in 0..300 {
        running.handle.publish_once("orders", "x", &number.to_string()).unwrap();
    }
    let kept = running.handle.topics()[0].kept;
    assert!((100..130).contains(&kept), "{kept}");
    // A message that is kept, and one that is not.
    assert!(running.handle.publish_once("orders", "x", &(301 - kept).to_string()).unwrap().again);
    assert!(!running.handle.publish_once("orders", "x", &(295 - kept).to_string()).unwrap().again);
}

#[test]
fn a_topic_that_comes_anew_never_reuses_a_position() {
    memory_only!("Redis removes topics only once they were not in use for a while");
    let running = start_with(Topics::new().ephemeral().max_topics(2));
    let first = running.handle.publish("a", "1").unwrap().position;
    running.handle.publish("b", "1").unwrap();
    running.handle.publish("c", "1").unwrap();
    let again = running.handle.publish("a", "2").unwrap().position;
    assert!(again.is_comparable_to(&first) && again.offset() > first.offset(), "{first} and then {again}");
}

#[test]
fn a_busy_topic_does_not_cost_a_quiet_one_its_history() {
    let running = start_with(Topics::new().history(10_000, 1 << 30, Duration::from_secs(600)).total_history(1 << 20));
    for number in 0..10 {
        running.handle.publish("quiet", format!("{number} {}", "x".repeat(1000))).unwrap();
    }
    for _ in 0..5000 {
        running.handle.publish("busy", "x".repeat(2000)).unwrap();
    }
    let kept = |name: &str| running.handle.topics().into_iter().find(|topic| topic.name.as_str() == name).unwrap();
    assert_eq!(kept("quiet").kept, 10);
    let busy = kept("busy");
    assert!(busy.kept > 20 && busy.bytes < 1 << 18, "{busy:?}");
    // One that comes later gets its share of what the busy one has.
    for number in 0..30 {
        running.handle.publish("late", format!("{number} {}", "x".repeat(1000))).unwrap();
    }
    assert_eq!((kept("late").kept, kept("quiet").kept), (30, 10));
}

#[test]
fn a_path_gives_the_bare_messages_of_its_topic_and_takes_them_where_publishing_is_allowed() {
    let running = start_with(open_topics());
    let connect = |path: &str| Client::tcp(running.address()).upgraded(&request_with(path, ""));
    let (mut news, mut chat) = (connect("/topics/news"), connect("/topics/chat"));
    eventually("both are subscribed", || running.handle.topics().len() == 2);
    running.handle.publish("news", "hello").unwrap();
    assert_eq!(news.text(), "hello");
    chat.send_text("good morning");
    assert_eq!(chat.text(), "good morning");
    news.send_text("not here");
    assert_eq!(news.expect_close(), (Some(1008), "publishing is not allowed".to_owned()));
    for (path, status) in [("/topics/secret", 403), ("/topics/", 404), ("/topics/a%00b", 404), ("/topics/%ff", 404)] {
        assert_eq!(exchange(running.address(), request_with(path, "")).status, status, "{path}");
    }
    let mut encoded = connect("/topics/a%20b/%C3%A4");
    eventually("it is subscribed", || running.handle.topics().iter().any(|topic| topic.name.as_str() == "a b/ä"));
    running.handle.publish("a b/ä", "x").unwrap();
    assert_eq!(encoded.text(), "x");
}

#[test]
fn topics_of_users_are_not_for_everybody() {
    let running = start_with(Topics::new());
    let mut client = client_of(&running);
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"user/alice"}]}"#);
    assert!(client.text().contains(r#""error":"forbidden""#));
    let refused = exchange(running.address(), request_with("/topics/user/alice", ""));
    assert_eq!(refused.status, 403);
}

#[test]
fn functions_that_panic_allow_nothing_and_on_handshake_may_choose_otherwise() {
    let topics = Topics::new().on_subscribe(|_, _| panic!("on purpose")).on_publish(|_, _| panic!("on purpose"));
    let running = start_with(topics);
    let mut client = client_of(&running);
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"a"}]}"#);
    assert!(client.text().contains(r#""error":"forbidden""#));
    client.send_text(r#"{"type":"publish","id":2,"topic":"a","text":"x"}"#);
    assert!(client.text().contains(r#""error":"forbidden""#));

    let server = server().topics(Topics::new()).on_handshake(|_| Ok(Accept::new().subprotocol("mine")));
    let running = start(server, crate::support::echo);
    let request = request_with("/", "Sec-WebSocket-Protocol: heartwire.topics.v1, mine\r\n");
    let mut client = Client::tcp(running.address()).upgraded(&request);
    client.expect_echo("it is the application's");
}

#[test]
fn whoever_is_refused_again_and_again_is_sent_away() {
    let running = start_with(open_topics());
    let mut client = client_of(&running);
    for number in 0..101 {
        client.send_text("no JSON");
        let answer = client.text();
        assert!(answer.contains("malformed"), "{number}: {answer}");
    }
    assert_eq!(client.expect_close().0, Some(1008));
}

#[test]
fn broadcasts_are_not_for_clients_of_the_subprotocol() {
    let running = start_with(Topics::new());
    let (mut client, mut other) = (subscriber(&running, "news", None), running.connect());
    other.expect_echo("it is there");
    running.handle.broadcast("for the application's clients");
    assert_eq!(other.text(), "for the application's clients");
    running.handle.publish("news", "for subscribers").unwrap();
    assert_eq!(message(&client.text()).1, "for subscribers");
}

#[test]
fn a_key_outlives_its_topic_s_messages() {
    memory_only!("Redis removes topics only once they were not in use for a while");
    let running = start_with(Topics::new().ephemeral().max_topics(2));
    assert!(!running.handle.publish_once("orders", "x", "order 4711").unwrap().again);
    running.handle.publish("a", "1").unwrap();
    running.handle.publish("b", "1").unwrap();
    assert!(running.handle.publish_once("orders", "x", "order 4711").unwrap().again);
}

#[test]
fn a_connection_that_has_ended_subscribes_to_nothing() {
    let (sender, outcome) = unbounded();
    let running = start_handling(server(), Topics::new(), move |conn| {
        while conn.recv().is_ok() {}
        let _ = sender.send(conn.subscribe("news").map(drop));
        Ok(())
    });
    running.connect().send_close(1000, "");
    assert_eq!(receive("the outcome", &outcome), Err(TopicError::Closed));
}

#[test]
fn since_earliest_begins_with_the_oldest_message_that_is_kept() {
    let running = start_with(open_topics().history(2, 1024, Duration::from_secs(600)));
    for text in ["one", "two", "three"] {
        running.handle.publish("news", text).unwrap();
    }
    let mut client = client_of(&running);
    client.send_text(r#"{"type":"subscribe","id":1,"topics":[{"topic":"news","since":"earliest"}]}"#);
    let reply = client.text();
    assert!(reply.contains(":3\",\"since\":\"") && reply.ends_with(":1\"}]}"), "{reply}");
    for text in ["two", "three"] {
        assert!(client.text().contains(&format!(r#""text":"{text}""#)));
    }
    // Of a topic that keeps nothing it is what follows.
    client.send_text(r#"{"type":"subscribe","id":2,"topics":[{"topic":"empty","since":"earliest"}]}"#);
    assert!(client.text().contains(":0\",\"since\":\""));
    running.handle.publish("empty", "first").unwrap();
    assert!(client.text().contains(r#""text":"first""#));
}

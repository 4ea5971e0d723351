//! What a subscriber is given, and that it is all.

use heartwire::{ConnectError, Delivery, Error, Presence, Subscription};

use super::{in_short, numbers, open_topics, other, run, run_with, start_saving, start_with, topics_at};
use crate::support::{Folder, Relay, echo, eventually, ms, server, start};

#[test]
fn messages_come_in_order_with_their_positions_and_until_the_subscription_ends() {
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    topics.subscribe("news").unwrap();
    topics.subscribe("sensors/kitchen").unwrap();
    let client = run(topics);
    let before = client.subscribed();
    client.subscribed();
    let first = running.handle.publish("news", "one").unwrap().position;
    running.handle.publish("sensors/kitchen", vec![0, 255]).unwrap();
    let Delivery::Message { topic, message, position, .. } = client.next() else { panic!() };
    assert_eq!((topic.as_str(), message.as_text(), position), ("news", Some("one"), first));
    assert!(position.is_comparable_to(&before) && position.offset() == before.offset() + 1);
    assert_eq!(in_short(&client.next()), "sensors/kitchen: [0, 255]");
    eventually("it is taken", || client.handle.position("news") == Some(first));
    client.handle.unsubscribe("news");
    eventually("the server knows", || running.handle.topics()[0].subscribers == 0);
    running.handle.publish("news", "not for it").unwrap();
    running.handle.publish("sensors/kitchen", "two").unwrap();
    client.expect("sensors/kitchen", ["two"]);
    assert_eq!(client.handle.position("news"), None);
    client.stop();
}

#[test]
fn over_lines_that_are_cut_each_message_comes_once_and_in_order() {
    let running = start_with(open_topics());
    let relay = Relay::to(running.address());
    let topics = topics_at(relay.address());
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.subscribed();
    for round in 0..10 {
        for number in numbers(round * 50, round * 50 + 50) {
            running.handle.publish("news", number).unwrap();
            if round % 2 == 0 && relay.made() <= round {
                relay.cut();
            }
        }
        relay.cut();
        client.expect("news", numbers(round * 50, round * 50 + 50));
    }
    assert!(relay.made() > 5, "{}", relay.made());
}

#[test]
fn since_a_position_it_gets_what_follows_and_since_the_earliest_all_that_is_kept() {
    for (topic, since, expected) in [
        ("news", Some(6), &["news: 6", "news: 7"][..]),
        ("news", Some(2), &["lost news"]),
        ("news", None, &["news: 3", "news: 4", "news: 5", "news: 6", "news: 7"]),
        ("empty", None, &[]),
    ] {
        let running = start_with(open_topics().history(5, 1024, ms(600_000)));
        let publish = |text: String| running.handle.publish("news", text).unwrap().position;
        let positions: Vec<_> = numbers(0, 8).map(publish).collect();
        let subscription = Subscription::new(topic);
        let topics = topics_at(running.address());
        let subscribed = topics.subscribe(match since {
            Some(offset) => subscription.since(positions[offset - 1]),
            None => subscription.since_earliest(),
        });
        subscribed.unwrap();
        let client = run(topics);
        client.subscribed();
        for delivery in expected {
            assert_eq!(in_short(&client.next()), *delivery, "{topic} since {since:?}");
        }
        running.handle.publish(topic, "next").unwrap();
        client.expect(topic, ["next"]);
    }
}

#[test]
fn through_a_restart_with_a_saved_history_nothing_is_missed_and_without_one_loss_is_told() {
    let folder = Folder::new();
    let running = start_saving(&folder.at("topics"));
    let relay = Relay::to(running.address());
    let topics = topics_at(relay.address());
    topics.subscribe("news").unwrap();
    topics.subscribe("chat").unwrap();
    let client = run(topics);
    client.subscribed();
    client.subscribed();
    running.handle.publish("news", "one").unwrap();
    client.expect("news", ["one"]);
    relay.cut();
    running.handle.publish("news", "two").unwrap();
    running.stop();
    let running = start_saving(&folder.at("topics"));
    running.handle.publish("news", "three").unwrap();
    relay.set_target(running.address());
    client.expect("news", ["two", "three"]);

    // And one that has saved nothing.
    drop(running);
    let running = start_with(open_topics());
    relay.set_target(running.address());
    let mut lost = [client.next_in_short(), client.next_in_short()];
    lost.sort();
    assert_eq!(lost, ["lost chat", "lost news"]);
    running.handle.publish("news", "four").unwrap();
    client.expect("news", ["four"]);
}

#[test]
fn a_handler_that_is_slow_gets_all_of_it() {
    const COUNT: usize = 400;
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    topics.subscribe("news").unwrap();
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    // Held up until the server has more for it than all queues have room for.
    let client = run_with(topics, move |_| {
        let _ = wait.recv();
        Ok(())
    });
    client.subscribed();
    let filler = "x".repeat(20_000);
    for number in 0..COUNT {
        running.handle.publish("news", format!("{number} {filler}")).unwrap();
    }
    assert_eq!(running.handle.topics()[0].behind, 1, "the server has its place in the history");
    drop(go);
    client.expect("news", (0..COUNT).map(|number| format!("{number} {filler}")));
}

#[test]
fn a_topic_that_is_refused_is_over_and_the_others_go_on() {
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    assert!(topics.subscribe("a//b").is_err());
    topics.subscribe("secret").unwrap();
    topics.subscribe("news").unwrap();
    let client = run(topics);
    let mut told = [in_short(&client.next()), in_short(&client.next())];
    told.sort();
    assert_eq!(told, ["refused secret: forbidden", "subscribed news"]);
    running.handle.publish("news", "one").unwrap();
    client.expect("news", ["one"]);
}

#[test]
fn a_message_whose_handler_failed_is_not_taken_and_its_error_ends_the_client() {
    let running = start_with(open_topics());
    let topics = topics_at(running.address());
    topics.subscribe("news").unwrap();
    let client = run_with(topics, |delivery| match in_short(delivery).as_str() {
        "news: two" => Err(Error::handler("no more of that")),
        _ => Ok(()),
    });
    client.subscribed();
    let first = running.handle.publish("news", "one").unwrap().position;
    running.handle.publish("news", "two").unwrap();
    assert_eq!(client.result().unwrap_err().to_string(), "no more of that");
    assert_eq!(client.handle.position("news"), Some(first), "it stays after the end");
    assert!(running.closed().to_string().contains("1011"));
}

#[test]
fn after_a_stop_in_the_handler_it_is_called_no_more() {
    let running = start_with(open_topics());
    numbers(0, 100).for_each(|number| _ = running.handle.publish("news", number).unwrap());
    let topics = topics_at(running.address());
    topics.subscribe(Subscription::new("news").since_earliest()).unwrap();
    let handle = topics.handle();
    let client = run_with(topics, move |delivery| {
        if in_short(delivery) == "news: 41" {
            handle.stop();
        }
        Ok(())
    });
    client.result().unwrap();
    assert_eq!(client.deliveries.try_iter().map(|delivery| in_short(&delivery)).last().unwrap(), "news: 41");
    assert_eq!(client.handle.position("news").unwrap().offset(), 42);
}

#[test]
fn a_server_without_topics_is_one_error_and_no_end_of_attempts() {
    let running = start(server(), echo);
    let topics = topics_at(running.address());
    topics.subscribe("news").unwrap();
    let client = run(topics);
    match client.result() {
        Err(Error::Connect(error @ ConnectError::NoTopics)) => {
            assert!(error.is_fatal() && error.to_string().contains("heartwire.topics.v1"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // Unless the application says otherwise: the server may be replaced.
    let relay = Relay::to(running.address());
    let topics = crate::support::client(relay.address()).give_up_if(|_| false).topics();
    topics.subscribe("news").unwrap();
    let client = run(topics);
    client.events.wait_for("a failed attempt", |event| format!("{event:?}").contains("ConnectFailed").then_some(()));
    let running = start_with(open_topics());
    relay.set_target(running.address());
    client.subscribed();
}

#[test]
fn presence_is_followed() {
    let running = start_with(open_topics().presence(true));
    let topics = topics_at(running.address());
    topics.subscribe(Subscription::new("room").presence(true)).unwrap();
    let client = run(topics);
    client.subscribed();
    let presence = |what: Delivery| match what {
        Delivery::Presence { presence, .. } => presence,
        other => panic!("{other:?}"),
    };
    let Presence::Members(members) = presence(client.next()) else { panic!("no list") };
    assert_eq!(members.len(), 1);
    let another = other(&running, "room");
    let Presence::Joined(member) = presence(client.next()) else { panic!("nobody joined") };
    assert!(member.vitals.is_some() && member.name != members[0].name);
    another.stop();
    let Presence::Gone { member: gone, cause, .. } = presence(client.next()) else { panic!("nobody is gone") };
    assert_eq!((gone, cause.as_str()), (member.name, "peer"));
}

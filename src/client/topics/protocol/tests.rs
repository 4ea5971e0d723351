//! The protocol against a small server, over lines that are lost at any moment: whatever happens, the application gets
//! all in order and once, or is told of a loss, and each message is published once.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};

use super::super::delivery::{MemberName, Presence};
use super::outbox::MOST_IN_FLIGHT;
use super::*;

const LIMITS: Limits = Limits { outbox: 1024 * 1024, frame: 4096, timeout: Duration::from_secs(240) };

fn protocol() -> Protocol {
    Protocol::new(LIMITS)
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

fn send(protocol: &mut Protocol) -> Option<Value> {
    let frame = protocol.next_frame(Instant::now())?;
    Some(serde_json::from_str(frame.message.as_text().unwrap()).unwrap())
}

fn receive(protocol: &mut Protocol, value: &Value) -> Vec<Output> {
    protocol.received(&Message::from(value.to_string()));
    std::iter::from_fn(|| protocol.next_output()).collect()
}

fn publish(protocol: &mut Protocol, text: &str) -> channel::Receiver<Settled> {
    protocol.publish("own", &text.into(), &format!("key of {text}"), Instant::now()).unwrap().1
}

// The small server. ##################################################################################################

/// A topic of it.
struct Topic {
    epoch: u64,
    last: u64,
    history: VecDeque<(u64, Value)>,
    keys: BTreeMap<String, u64>,
}

impl Topic {
    fn new(epoch: u64) -> Self {
        Self { epoch, last: 0, history: VecDeque::new(), keys: BTreeMap::new() }
    }

    fn position(&self, offset: u64) -> String {
        format!("{:016x}:{offset}", self.epoch)
    }
}

/// A server, and the line to it. What is under way is lost with the line.
struct World {
    topics: BTreeMap<&'static str, Topic>,
    epoch: u64,
    /// How many messages a topic keeps.
    keeps: usize,
    is_available: bool,
    subscribed: BTreeMap<&'static str, u64>,
    to_server: VecDeque<Value>,
    to_client: VecDeque<Value>,
    losses_are_due: bool,
}

const TOPICS: [&str; 2] = ["news", "chat"];
const OWN: &str = "own";

impl World {
    fn new(keeps: usize) -> Self {
        let topics = TOPICS.into_iter().chain([OWN]).map(|topic| (topic, Topic::new(1))).collect();
        let (to_server, to_client) = (VecDeque::new(), VecDeque::new());
        Self {
            topics,
            epoch: 1,
            keeps,
            is_available: true,
            subscribed: BTreeMap::new(),
            to_server,
            to_client,
            losses_are_due: keeps < usize::MAX,
        }
    }

    fn topic(&mut self, name: &str) -> (&'static str, &mut Topic) {
        self.topics.iter_mut().find(|(topic, _)| **topic == name).map(|(name, topic)| (*name, topic)).unwrap()
    }

    /// Somebody publishes.
    fn write(&mut self, name: &str, text: Option<&str>, key: Option<&str>) -> (String, bool) {
        let keeps = self.keeps;
        let (name, topic) = self.topic(name);
        if let Some(offset) = key.and_then(|key| topic.keys.get(key)) {
            return (topic.position(*offset), true);
        }
        topic.last += 1;
        let (offset, position) = (topic.last, topic.position(topic.last));
        topic.keys.extend(key.map(|key| (key.to_owned(), offset)));
        let text = text.map_or_else(|| format!("{name} {position}"), str::to_owned);
        let message = json!({"type": "message", "topic": name, "position": position, "text": text});
        topic.history.push_back((offset, message.clone()));
        while topic.history.len() > keeps {
            topic.history.pop_front();
        }
        if self.subscribed.contains_key(name) {
            self.to_client.push_back(message);
            self.subscribed.insert(name, offset);
        }
        (position, false)
    }

    /// It is killed, and begins anew.
    fn forget(&mut self) {
        self.epoch += 1;
        self.losses_are_due = true;
        for topic in self.topics.values_mut() {
            *topic = Topic::new(self.epoch);
        }
    }

    fn cut(&mut self) {
        self.to_server.clear();
        self.to_client.clear();
        self.subscribed.clear();
    }

    /// Serves one request.
    fn serve(&mut self) -> bool {
        let Some(request) = self.to_server.pop_front() else { return false };
        let (id, kind) = (request["id"].clone(), request["type"].as_str().unwrap().to_owned());
        match &*kind {
            "subscribe" => {
                let wanted = request["topics"].as_array().unwrap().clone();
                let mut after = Vec::new();
                let answers: Vec<Value> = wanted.iter().map(|wanted| self.subscribe(wanted, &mut after)).collect();
                self.to_client.push_back(json!({"type": "subscribed", "id": id, "topics": answers}));
                self.to_client.extend(after);
            }
            "unsubscribe" => {
                for topic in request["topics"].as_array().unwrap() {
                    self.subscribed.remove(topic.as_str().unwrap());
                }
                let topics = &request["topics"];
                self.to_client.push_back(json!({"type": "unsubscribed", "id": id, "topics": topics}));
            }
            "publish" if !self.is_available => {
                let reason = "the server has ended";
                self.to_client.push_back(json!({"type": "error", "id": id, "error": "unavailable", "reason": reason}));
            }
            "publish" => {
                let (topic, text) = (request["topic"].as_str().unwrap(), request["text"].as_str());
                let (position, again) = self.write(topic, text, request["key"].as_str());
                let reply = json!({"type": "published", "id": id, "topic": topic, "position": position, "here": 0,
                    "again": again});
                self.to_client.push_back(reply);
            }
            other => panic!("{other}"),
        }
        true
    }

    fn subscribe(&mut self, wanted: &Value, after: &mut Vec<Value>) -> Value {
        let name = wanted["topic"].as_str().unwrap();
        if !self.is_available {
            return json!({"topic": name, "error": "unavailable", "reason": "the server has ended"});
        }
        let (name, topic) = self.topic(name);
        let (last, before_oldest) = (topic.last, topic.last - topic.history.len() as u64);
        let since = wanted["since"].as_str();
        let cursor = match since {
            None => Some(last),
            Some("earliest") => Some(before_oldest),
            Some(since) => since.parse::<Position>().ok().and_then(|since| {
                let is_known = since.to_string() == topic.position(since.offset());
                (is_known && (before_oldest..=last).contains(&since.offset())).then(|| since.offset())
            }),
        };
        let position = topic.position(last);
        match cursor {
            Some(cursor) => {
                let missed = topic.history.iter().filter(|(offset, _)| *offset > cursor);
                after.extend(missed.map(|(_, message)| message.clone()));
            }
            None => after.push(json!({"type": "lost", "topic": name, "position": position})),
        }
        let mut answer = json!({"topic": name, "position": position});
        if since == Some("earliest") {
            answer["since"] = json!(topic.position(before_oldest));
        }
        self.subscribed.insert(name, last);
        answer
    }
}

// What the application sees. #########################################################################################

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The client sends what is due, or finds the queue full.
    Send,
    SendInVain,
    Serve,
    Receive,
    Write(usize),
    Publish,
    Subscribe(usize, bool),
    Unsubscribe(usize),
    Cut,
    Dial,
    Retry,
    /// It ends: it takes nothing any more.
    Close,
    /// It begins again with what it has saved.
    Restart,
    Forget,
}

fn step(losses: bool) -> impl Strategy<Value = Step> {
    let topic = 0..TOPICS.len();
    let restart = prop_oneof![Just(Step::Restart), Just(if losses { Step::Forget } else { Step::Restart })];
    prop_oneof![
        40 => Just(Step::Send),
        6 => Just(Step::SendInVain),
        48 => Just(Step::Serve),
        48 => Just(Step::Receive),
        24 => topic.clone().prop_map(Step::Write),
        12 => Just(Step::Publish),
        6 => (topic.clone(), any::<bool>()).prop_map(|(topic, earliest)| Step::Subscribe(topic, earliest)),
        2 => topic.prop_map(Step::Unsubscribe),
        2 => Just(Step::Cut),
        12 => Just(Step::Dial),
        6 => Just(Step::Retry),
        1 => Just(Step::Close),
        2 => restart,
    ]
}

struct Play {
    protocol: Protocol,
    world: World,
    is_open: bool,
    /// What was published, with its outcome to come.
    published: Vec<(String, channel::Receiver<Settled>)>,
    messages: u32,
    losses: u32,
    cuts: u32,
}

impl Play {
    fn new(keeps: usize) -> Self {
        let (protocol, world) = (protocol(), World::new(keeps));
        Self { protocol, world, is_open: false, published: Vec::new(), messages: 0, losses: 0, cuts: 0 }
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step);
        }
        // In the end the server is there, and everybody gets all.
        self.step(Step::Restart);
        self.step(Step::Dial);
        self.calm();
        for topic in TOPICS {
            self.world.write(topic, None, None);
        }
        self.calm();
    }

    fn calm(&mut self) {
        loop {
            let due = std::iter::from_fn(|| send(&mut self.protocol)).collect::<Vec<_>>();
            let is_calm = due.is_empty() && !self.protocol.wants_retry();
            self.world.to_server.extend(due);
            while self.world.serve() {}
            if is_calm && self.world.to_client.is_empty() {
                return;
            }
            while !self.world.to_client.is_empty() {
                self.step(Step::Receive);
            }
            self.step(Step::Retry);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => self.world.to_server.extend(send(&mut self.protocol)),
            Step::SendInVain => {
                if let Some(frame) = self.protocol.next_frame(Instant::now()) {
                    self.protocol.give_back(&frame);
                }
            }
            Step::Serve => _ = self.world.serve(),
            Step::Receive => {
                if let Some(value) = self.world.to_client.pop_front() {
                    let outputs = receive(&mut self.protocol, &value);
                    outputs.into_iter().for_each(|output| self.took(output));
                }
            }
            Step::Write(topic) => _ = self.world.write(TOPICS[topic], None, None),
            Step::Publish => {
                let text = format!("own {}", self.published.len());
                let settled = publish(&mut self.protocol, &text);
                self.published.push((text, settled));
            }
            Step::Subscribe(topic, earliest) => {
                let subscription = Subscription::new(TOPICS[topic]);
                let known = self.protocol.position(TOPICS[topic]);
                self.protocol
                    .subscribe(match known {
                        Some(position) => subscription.since(position),
                        None if earliest => subscription.since_earliest(),
                        None => subscription,
                    })
                    .unwrap();
            }
            Step::Unsubscribe(topic) => self.protocol.unsubscribe(TOPICS[topic]),
            Step::Cut if self.is_open => {
                self.world.cut();
                self.protocol.closed();
                self.is_open = false;
                self.cuts += 1;
            }
            Step::Dial if !self.is_open => {
                self.protocol.opened();
                self.is_open = true;
            }
            Step::Retry => self.protocol.retry(),
            Step::Close => self.world.is_available = false,
            Step::Restart => {
                self.step(Step::Cut);
                self.world.is_available = true;
            }
            Step::Forget => {
                self.step(Step::Restart);
                self.world.forget();
            }
            Step::Cut | Step::Dial => {}
        }
    }

    fn assert_all_is_taken(&mut self) {
        for name in TOPICS {
            let (_, topic) = self.world.topic(name);
            let last = topic.position(topic.last);
            let is_subscribed = self.protocol.feeds.contains_key(name);
            assert_eq!(self.protocol.position(name), is_subscribed.then(|| position(&last)), "{name}");
        }
    }

    fn took(&mut self, output: Output) {
        match output {
            Output::Deliver(Delivery::Message { topic, message, position }) => {
                let last = self.protocol.position(topic.as_str()).expect("a message follows a position");
                assert!(last.is_comparable_to(&position), "{position} follows {last}");
                assert_eq!(position.offset(), last.offset() + 1, "{topic}");
                if topic.as_str() != OWN {
                    assert_eq!(message.as_text(), Some(&*format!("{topic} {position}")));
                }
                self.messages += 1;
                self.protocol.taken(&topic, position);
            }
            Output::Deliver(Delivery::Lost { topic, position }) => {
                assert!(self.world.losses_are_due, "the server has all");
                self.losses += 1;
                self.protocol.taken(&topic, position);
            }
            Output::Deliver(Delivery::Subscribed { .. }) => {}
            Output::Deliver(other) => panic!("{other:?}"),
            // Only what the server could not do now.
            Output::Warn(line) => assert!(line.contains("unavailable"), "{line}"),
            Output::TokenExpiring => panic!("there are no tokens"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn over_lines_that_are_lost_nothing_is_missed_and_nothing_comes_or_is_published_twice(
        steps in prop::collection::vec(step(false), 0..600)
    ) {
        let mut play = Play::new(usize::MAX);
        play.run(&steps);
        play.assert_all_is_taken();
        let texts: Vec<_> = play.world.topics[OWN].history.iter().map(|(_, message)| message["text"].clone()).collect();
        let expected: Vec<_> = play.published.iter().map(|(text, _)| json!(text)).collect();
        prop_assert_eq!(texts, expected, "once, in order");
        for (number, (_, settled)) in play.published.iter().enumerate() {
            let published = settled.try_recv().expect("settled").expect("published");
            prop_assert_eq!(published.position.offset(), number as u64 + 1);
        }
        prop_assert!(play.protocol.outbox.is_empty());
    }

    #[test]
    fn with_a_server_that_forgets_whatever_is_missed_is_told(
        steps in prop::collection::vec(step(true), 0..600), keeps in 0_usize..5
    ) {
        let mut play = Play::new(keeps);
        play.run(&steps);
        play.assert_all_is_taken();
    }
}

/// The dice of the properties hit what they are for.
#[test]
fn the_steps_of_the_properties_lead_to_messages_losses_and_cuts() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut messages, mut losses, mut cuts, mut published) = (0, 0, 0, 0);
    for _ in 0..20 {
        let steps = prop::collection::vec(step(true), 600).new_tree(&mut runner).unwrap().current();
        let mut play = Play::new(3);
        play.run(&steps);
        messages += play.messages;
        losses += play.losses;
        cuts += play.cuts;
        published += play.published.len();
    }
    assert!(messages > 200 && losses > 20 && cuts > 20 && published > 200, "{messages} {losses} {cuts} {published}");
}

// One thing at a time. ###############################################################################################

const EPOCH: &str = "00000000000000aa";

fn at(offset: u64) -> String {
    format!("{EPOCH}:{offset}")
}

/// A client that is subscribed to `news`, with nothing left to do.
fn subscribed() -> Protocol {
    let mut protocol = protocol();
    protocol.subscribe("news".into()).unwrap();
    protocol.opened();
    let request = send(&mut protocol).unwrap();
    let answer = json!({"type": "subscribed", "id": request["id"], "topics": [{"topic": "news", "position": at(7)}]});
    let told = receive(&mut protocol, &answer);
    assert!(matches!(told[..], [Output::Deliver(Delivery::Subscribed { .. })]), "{told:?}");
    protocol
}

fn news(offset: u64) -> Value {
    json!({"type": "message", "topic": "news", "position": at(offset), "text": "x"})
}

#[test]
fn several_subscriptions_go_in_one_request_and_say_where_they_begin() {
    let mut protocol = protocol();
    protocol.subscribe("a".into()).unwrap();
    protocol.subscribe(Subscription::new("b").since(position(&at(3))).presence(true)).unwrap();
    protocol.subscribe(Subscription::new("c").since_earliest()).unwrap();
    assert!(protocol.subscribe("a//b".into()).is_err());
    assert!(send(&mut protocol).is_none(), "there is no connection");
    protocol.opened();
    let request = send(&mut protocol).unwrap();
    let topics = json!([{"topic": "a"}, {"topic": "b", "since": at(3), "presence": true},
        {"topic": "c", "since": "earliest"}]);
    assert_eq!((&request["type"], &request["topics"]), (&json!("subscribe"), &topics));
    assert!(send(&mut protocol).is_none());
    let answers = json!([{"topic": "a", "error": "forbidden", "reason": "no"}, {"topic": "b", "position": at(4)},
        {"topic": "c", "position": at(9), "since": at(5)}]);
    let told = receive(&mut protocol, &json!({"type": "subscribed", "id": request["id"], "topics": answers}));
    let refusal = TopicRefusal::new("forbidden".to_owned(), "no".to_owned());
    assert_eq!(told[0], Output::Deliver(Delivery::Refused { topic: "a".parse().unwrap(), refusal }));
    let positions = ["a", "b", "c"].map(|topic| protocol.position(topic));
    assert_eq!(positions, [None, Some(position(&at(3))), Some(position(&at(5)))]);
    protocol.closed();
    protocol.opened();
    let topics = json!([{"topic": "b", "since": at(3), "presence": true}, {"topic": "c", "since": at(5)}]);
    assert_eq!(send(&mut protocol).unwrap()["topics"], topics, "what was refused is over");
}

#[test]
fn many_subscriptions_go_in_several_requests() {
    let mut protocol = protocol();
    for number in 0..250 {
        protocol.subscribe(format!("topic {number}").into()).unwrap();
    }
    protocol.opened();
    let counts: Vec<_> =
        std::iter::from_fn(|| send(&mut protocol)).map(|request| request["topics"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [100, 100, 50]);
}

#[test]
fn a_message_that_comes_again_is_skipped_and_a_gap_is_asked_for_again() {
    let mut protocol = subscribed();
    assert_eq!(receive(&mut protocol, &news(8)).len(), 1);
    assert_eq!(receive(&mut protocol, &news(8)), []);
    assert_eq!(receive(&mut protocol, &news(3)), []);
    for wrong in [
        news(10),
        json!({"type": "message", "topic": "news", "position": "00000000000000bb:9", "text": "x"}),
        json!({"type": "message", "topic": "news", "position": at(9)}),
    ] {
        let told = receive(&mut protocol, &wrong);
        assert!(matches!(&told[..], [Output::Warn(line)] if line.contains("subscribing to news again")), "{told:?}");
        assert_eq!(receive(&mut protocol, &news(9)), [], "not before it was asked for");
        assert!(protocol.wants_retry() && send(&mut protocol).is_none());
        protocol.retry();
        let request = send(&mut protocol).unwrap();
        assert_eq!(request["topics"], json!([{"topic": "news", "since": at(8)}]));
        let topics = json!([{"topic": "news", "position": at(9)}]);
        receive(&mut protocol, &json!({"type": "subscribed", "id": request["id"], "topics": topics}));
    }
    assert_eq!(receive(&mut protocol, &news(9)).len(), 1);
}

#[test]
fn a_message_whose_handler_did_not_return_is_not_taken() {
    let mut protocol = subscribed();
    receive(&mut protocol, &news(8));
    assert_eq!(protocol.position("news"), Some(position(&at(7))));
    protocol.taken(&"news".parse().unwrap(), position(&at(8)));
    assert_eq!(protocol.position("news"), Some(position(&at(8))));
    protocol.end();
    assert_eq!(protocol.position("news"), Some(position(&at(8))), "it is there to be stored");
}

#[test]
fn after_unsubscribing_nothing_comes_and_subscribing_again_begins_anew() {
    let mut protocol = subscribed();
    protocol.unsubscribe("news");
    assert_eq!(receive(&mut protocol, &news(8)), []);
    assert_eq!(protocol.position("news"), None);
    let request = send(&mut protocol).unwrap();
    assert_eq!((&request["type"], &request["topics"]), (&json!("unsubscribe"), &json!(["news"])));
    // Both before the server is told: one request says it all.
    protocol.subscribe("news".into()).unwrap();
    send(&mut protocol).unwrap();
    protocol.unsubscribe("news");
    protocol.subscribe("news".into()).unwrap();
    let request = send(&mut protocol).unwrap();
    assert_eq!((&request["type"], &request["topics"]), (&json!("subscribe"), &json!([{"topic": "news"}])));
    assert!(send(&mut protocol).is_none());
}

#[test]
fn a_subscription_ends_when_a_new_token_does_not_allow_it() {
    let mut protocol = subscribed();
    let error = json!({"type": "error", "error": "forbidden", "topic": "news", "reason": "it is not allowed"});
    let told = receive(&mut protocol, &error);
    assert!(matches!(&told[..], [Output::Deliver(Delivery::Refused { .. })]), "{told:?}");
    protocol.closed();
    protocol.opened();
    assert!(send(&mut protocol).is_none());
}

#[test]
fn a_token_is_renewed_and_asked_for_again_if_it_is_refused() {
    let mut protocol = subscribed();
    assert_eq!(receive(&mut protocol, &json!({"type": "expiring", "in": 30000})), [Output::TokenExpiring]);
    protocol.authenticate("a.b.c".to_owned());
    let frame = protocol.next_frame(Instant::now()).unwrap();
    assert!(frame.is_secret && frame.message.as_text().unwrap().contains("a.b.c"));
    let error = json!({"type": "error", "id": frame.id, "error": "bad-token", "reason": "the token is refused"});
    let told = receive(&mut protocol, &error);
    assert!(matches!(&told[..], [Output::Warn(line)] if line.contains("bad-token")), "{told:?}");
    assert!(protocol.wants_retry());
    protocol.retry();
    assert_eq!(protocol.next_output(), Some(Output::TokenExpiring));
    protocol.authenticate("d.e.f".to_owned());
    let request = send(&mut protocol).unwrap();
    let reply = json!({"type": "authenticated", "id": request["id"], "user": null, "expires": 1000});
    assert_eq!(receive(&mut protocol, &reply), []);
    assert!(!protocol.wants_retry());
}

#[test]
fn messages_without_a_reply_are_bounded_in_number_and_bytes() {
    let mut protocol = protocol();
    protocol.limits.outbox = 400 * 300;
    protocol.opened();
    let pending: Vec<_> = (0..1000)
        .map_while(|number| protocol.publish("own", &"x".into(), &format!("{number}"), Instant::now()).ok())
        .collect();
    assert!((500..700).contains(&pending.len()), "{}", pending.len());
    let refused = protocol.publish("own", &"x".into(), "k", Instant::now()).unwrap_err();
    assert_eq!(refused, PublishError::Full);
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut protocol)).collect();
    assert_eq!(sent.len(), MOST_IN_FLIGHT);
    for request in &sent[..10] {
        let reply = json!({"type": "published", "id": request["id"], "topic": "own", "position": at(1), "here": 0});
        receive(&mut protocol, &reply);
    }
    assert_eq!(std::iter::from_fn(|| send(&mut protocol)).count(), 10);
    assert!(protocol.publish("own", &"x".into(), "k", Instant::now()).is_ok());
}

#[test]
fn what_cannot_be_published_is_refused_at_once() {
    let mut protocol = protocol();
    let now = Instant::now();
    let mut publish = |topic: &str, text: &str, key: &str| protocol.publish(topic, &text.into(), key, now).unwrap_err();
    assert!(matches!(publish("a//b", "x", "k"), PublishError::InvalidTopic(_)));
    assert_eq!(publish("a", "x", ""), PublishError::InvalidKey);
    assert_eq!(publish("a", "x", &"k".repeat(129)), PublishError::InvalidKey);
    assert_eq!(publish("a", &"x".repeat(LIMITS.frame + 1), "k"), PublishError::TooLarge);
    // It becomes longer in JSON.
    assert_eq!(publish("a", &"\n".repeat(LIMITS.frame / 2), "k"), PublishError::TooLarge);
    protocol.end();
    assert_eq!(protocol.publish("a", &"x".into(), "k", now).unwrap_err(), PublishError::Closed);
}

#[test]
fn a_message_that_is_too_old_is_not_sent() {
    let mut protocol = protocol();
    let (now, late) = (Instant::now(), Instant::now() + LIMITS.timeout);
    let (_, settled) = protocol.publish("own", &"x".into(), "k", now).unwrap();
    let (_, unheard) = protocol.publish("own", &"y".into(), "l", now).unwrap();
    drop(unheard);
    protocol.opened();
    assert!(protocol.next_frame(late + Duration::from_secs(1)).is_none());
    assert_eq!(settled.try_recv().unwrap(), Err(PublishError::Timeout));
    let line = protocol.next_output();
    assert!(matches!(&line, Some(Output::Warn(line)) if line.contains("own was not confirmed")), "{line:?}");
    assert_eq!(protocol.next_output(), None);
}

#[test]
fn a_refused_message_is_settled_with_what_the_server_says_and_the_others_go_on() {
    let mut protocol = protocol();
    protocol.opened();
    let (one, two) = (publish(&mut protocol, "one"), publish(&mut protocol, "two"));
    let id = send(&mut protocol).unwrap()["id"].clone();
    receive(&mut protocol, &json!({"type": "error", "id": id, "error": "forbidden", "topic": "own", "reason": "no"}));
    assert!(matches!(one.try_recv().unwrap(), Err(PublishError::Refused(refusal)) if refusal.code() == "forbidden"));
    let id = send(&mut protocol).unwrap()["id"].clone();
    receive(&mut protocol, &json!({"type": "published", "id": id, "topic": "own", "position": at(1), "here": 2}));
    assert_eq!(two.try_recv().unwrap().unwrap().here, 2);
    // The same reply again, and one to nothing.
    receive(&mut protocol, &json!({"type": "published", "id": id, "topic": "own", "position": at(1), "here": 2}));
    receive(&mut protocol, &json!({"type": "error", "id": 4711, "error": "forbidden", "reason": "no"}));
    assert!(protocol.outbox.is_empty());
}

#[test]
fn presence_is_told_to_those_who_asked() {
    let list = json!({"type": "presence", "topic": "news", "members": [
        {"user": "alice", "state": "alive", "missed": 0, "max_missed": 3, "silent": 5, "round_trip": null},
        {"connection": 7},
        {"connection": 7, "node": "two"}
    ]});
    assert_eq!(receive(&mut subscribed(), &list), []);
    let mut protocol = subscribed();
    protocol.subscribe(Subscription::new("news").presence(true)).unwrap();
    let request = send(&mut protocol).unwrap();
    let topics = json!([{"topic": "news", "position": at(7)}]);
    receive(&mut protocol, &json!({"type": "subscribed", "id": request["id"], "topics": topics}));
    let [Output::Deliver(Delivery::Presence { presence: Presence::Members(members), .. })] =
        &receive(&mut protocol, &list)[..]
    else {
        panic!("no list")
    };
    assert_eq!(members[0].name, MemberName::User("alice".to_owned()));
    assert_eq!(members[0].vitals.unwrap().max_missed, 3);
    assert_eq!((&members[1].name, members[1].vitals), (&MemberName::Connection { id: 7, node: None }, None));
    assert_eq!(members[2].name, MemberName::Connection { id: 7, node: Some("two".to_owned()) });
    let gone = json!({"type": "gone", "topic": "news", "member": {"user": "alice"}, "cause": "dead", "within": 50});
    let told = receive(&mut protocol, &gone);
    let Output::Deliver(Delivery::Presence { presence, .. }) = &told[0] else { panic!("{told:?}") };
    let member = MemberName::User("alice".to_owned());
    assert_eq!(*presence, Presence::Gone { member, cause: "dead".to_owned(), within: Duration::from_millis(50) });
}

#[test]
fn what_the_server_cannot_take_now_keeps_its_place_until_the_retry() {
    let mut protocol = protocol();
    protocol.opened();
    let settled = ["one", "two", "three"].map(|text| publish(&mut protocol, text));
    let one = send(&mut protocol).unwrap()["id"].clone();
    let error = json!({"type": "error", "id": one, "error": "unavailable", "topic": "own", "reason": "it ends"});
    let told = receive(&mut protocol, &error);
    assert!(matches!(&told[..], [Output::Warn(line)] if line.contains("publishing later")), "{told:?}");
    assert!(protocol.wants_retry() && send(&mut protocol).is_none(), "those after it wait as well");
    protocol.retry();
    let texts: Vec<_> = std::iter::from_fn(|| send(&mut protocol)).map(|request| request["text"].clone()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    assert!(settled.iter().all(|settled| settled.is_empty()));
}

#[test]
fn the_reply_to_an_earlier_subscription_does_not_begin_a_later_one() {
    let mut protocol = protocol();
    protocol.subscribe("news".into()).unwrap();
    protocol.opened();
    let earlier = send(&mut protocol).unwrap();
    protocol.subscribe(Subscription::new("news").since(position(&at(3)))).unwrap();
    let later = send(&mut protocol).unwrap();
    let reply = |request: &Value, offset: u64| {
        let topics = json!([{"topic": "news", "position": at(offset)}]);
        json!({"type": "subscribed", "id": request["id"], "topics": topics})
    };
    assert_eq!(receive(&mut protocol, &reply(&earlier, 5)), []);
    assert_eq!(receive(&mut protocol, &news(6)), [], "it comes again");
    assert_eq!(receive(&mut protocol, &reply(&later, 6)).len(), 1);
    for offset in 4..=6 {
        assert_eq!(receive(&mut protocol, &news(offset)).len(), 1, "{offset}");
    }
}

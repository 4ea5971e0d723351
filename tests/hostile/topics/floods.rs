//! Too much of what is allowed: subscriptions, names, messages, keys, and members that come and go.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;

use super::server::{Attack, Follower, Site, publish, subscribe, unsubscribe};
use crate::rig::Rig;
use crate::support::{Client, ms};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

/// How long each flood lasts.
const TIME: Duration = Duration::from_millis(scaled(4000, 500) as u64);

/// For controls: less than the least attack takes.
const HARDLY_ANY: u64 = 2;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "topics: subscribe flood",
            server: plain,
            check: |rig| Attack { topic: "flood/0", ..Attack::PLAIN }.run(rig.patience, subscribe_flood),
            control: Control {
                what: "the server stands still",
                server: plain,
                check: |rig| Attack::PLAIN.run(rig.patience, |site| stand_still(rig, site)),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: names without end, subscribed",
            server: plain,
            check: |rig| Attack { most: 48, ..Attack::PLAIN }.run(rig.patience, subscribed_names),
            control: Control {
                what: "2 MiB were enough",
                server: plain,
                check: |rig| Attack { most: HARDLY_ANY, ..Attack::PLAIN }.run(rig.patience, subscribed_names),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: names without end, published",
            server: plain,
            check: |rig| Attack { most: 48, ..Attack::PLAIN }.run(rig.patience, published_names),
            control: Control {
                what: "2 MiB were enough",
                server: plain,
                check: |rig| Attack { most: HARDLY_ANY, ..Attack::PLAIN }.run(rig.patience, published_names),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: the same, nothing is kept",
            server: plain,
            check: |rig| EPHEMERAL.run(rig.patience, published_names),
            control: Control {
                what: "the server stands still",
                server: plain,
                check: |rig| EPHEMERAL.run(rig.patience, |site| stand_still(rig, site)),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: keys without end",
            server: plain,
            check: |rig| KEYS.run(rig.patience, key_flood),
            control: Control {
                what: "2 MiB were enough",
                server: plain,
                check: |rig| Attack { most: HARDLY_ANY, ..KEYS }.run(rig.patience, key_flood),
            },
            memory: 64,
        },
        Scenario {
            name: "topics: presence flood",
            server: plain,
            check: |rig| PRESENCE.run(rig.patience, |site| presence_flood(site, rig.patience, false)),
            control: Control {
                what: "a watcher takes no list but the first",
                server: plain,
                check: |rig| PRESENCE.run(rig.patience, |site| presence_flood(site, rig.patience, true)),
            },
            memory: 96,
        },
        Scenario {
            name: "topics: publishers faster than all",
            server: plain,
            check: |rig| FAST.run(rig.patience, |site| fast_publishers(site, false)),
            control: Control {
                what: "a subscriber overlooks a lost",
                server: plain,
                check: |rig| FAST.run(rig.patience, |site| fast_publishers(site, true)),
            },
            memory: 96,
        },
        Scenario {
            name: "topics: 500 that never read",
            server: plain,
            check: |rig| DEAF.run(rig.patience, nobody_reads),
            control: Control {
                what: "2 MiB were enough",
                server: plain,
                check: |rig| Attack { most: HARDLY_ANY, ..DEAF }.run(rig.patience, nobody_reads),
            },
            memory: 96,
        },
    ]
}

/// Of each topic one message is kept, so that the memory is that of the keys: 64 MiB of them at most, as they count.
const KEYS: Attack<'static> =
    Attack { options: &["--allow-publish=*", "--history=1,1KiB,10m"], most: 96, ..Attack::PLAIN };

/// All queues together stay below what may be buffered in all (256 MiB): once that is used up, bodies of requests are
/// refused too, and so is the witness.
const DEAF: Attack<'static> =
    Attack { options: &["--allow-publish=*", "--queue-size=256KiB"], most: 96, ..Attack::PLAIN };

const EPHEMERAL: Attack<'static> = Attack { options: &["--allow-publish=*", "--history=off"], ..Attack::PLAIN };

/// The witness is in the room.
const PRESENCE: Attack<'static> =
    Attack { options: &["--allow-publish=*", "--presence"], topic: "room", most: 64, ..Attack::PLAIN };

const FAST: Attack<'static> =
    Attack { options: &["--allow-publish=*", "--history=100,1MiB,1m", "--queue-size=16KiB"], ..Attack::PLAIN };

fn stand_still(rig: &Rig, site: &Site) -> Checked {
    site.program.process.signal("STOP");
    thread::sleep(2 * rig.patience);
    site.program.process.signal("CONT");
    Ok("it stood still".to_owned())
}

/// A hundred clients subscribe and unsubscribe, most of them to ten topics.
fn subscribe_flood(site: &Site) -> Checked {
    let answered = site.flood(100, TIME, |number| {
        let topic = || [format!("flood/{}", number % 10)];
        (0..25).flat_map(|_| [subscribe(topic()), unsubscribe(topic())]).collect()
    });
    Ok(format!("{answered} requests of 100 clients"))
}

/// Clients subscribe to one new name after the other. Then they hold as many as there may be, and ask for more: the
/// server can still publish under a new name.
fn subscribed_names(site: &Site) -> Checked {
    let names = |number: u64| (0..50).map(move |topic| format!("name/{number}/{topic}"));
    let passed = site.flood(20, TIME, |number| vec![subscribe(names(number)), unsubscribe(names(number))]);
    let mut holding: Vec<_> = (0..100).map(|_| site.flooder()).collect();
    for (number, holder) in holding.iter_mut().enumerate() {
        holder.send([subscribe((0..100).map(|topic| format!("held/{number}/{topic}")))]);
        // Those that come last are sent away.
        let _ = holder.wait_for_all();
    }
    let refused = site.flood(20, TIME / 2, |number| vec![subscribe(names(number)), unsubscribe(names(number))]);
    let (status, body) = site.post("new", "x");
    ensure!(status == 200, "a new name is refused to a publisher: {status} {body}");
    Ok(format!("{} names came and went; with all taken, {} were asked for", 25 * passed, 25 * refused))
}

/// Clients publish under a new name each time.
fn published_names(site: &Site) -> Checked {
    let answered = site
        .flood(20, TIME, |number| (0..50).map(|topic| publish(&format!("name/{number}/{topic}"), "x", None)).collect());
    Ok(format!("{answered} names"))
}

fn key_flood(site: &Site) -> Checked {
    let topics = 2000;
    let answered = site.flood(8, TIME, |number| {
        let topic = format!("keys/{}", number % topics);
        (0..100).map(|key| publish(&topic, "x", Some(&format!("{:0>128}", 100 * number + key)))).collect()
    });
    Ok(format!("{answered} keys of 128 bytes for {topics} topics"))
}

/// Clients join and leave a room that 500 watch. One of them, who looks, knows the right members in the end.
fn presence_flood(site: &Site, patience: Duration, overlooks: bool) -> Checked {
    let watchers = scaled(500, 50);
    let watch = r#"{"type":"subscribe","id":1,"topics":[{"topic":"room","presence":true}]}"#;
    let mut watching: Vec<_> = (0..watchers).map(|_| site.flooder()).collect();
    for watcher in &mut watching {
        watcher.send([watch.to_owned()]);
        ensure!(watcher.wait_for_all(), "no answer");
    }
    let mut looking = site.client();
    looking.send_text(watch);
    let (answered, there, (members, changes)) = thread::scope(|scope| {
        let (over, is_over) = bounded(1);
        let looking = scope.spawn(move || look(looking, overlooks, patience, &is_over));
        let answered = site.flood(100, TIME, |_| {
            (0..25).flat_map(|_| [subscribe(["room".to_owned()]), unsubscribe(["room".to_owned()])]).collect()
        });
        let there = || members_of(&site.get("/topics/room/presence"));
        // The watchers, the one who looks, and the witness.
        let calm = site.wait_until("all have left", || there().len() == watchers + 2);
        let there = there();
        over.send(there.clone()).expect("somebody looks");
        let seen = looking.join().expect("it does not panic");
        calm.map(|()| (answered, there, seen))
    })?;
    ensure!(members == there, "{} members are known to a watcher, and {} are there", members.len(), there.len());
    Ok(format!("{answered} requests to join or leave, {watchers} watch, {changes} changes told"))
}

/// Watches until the flood is over, and then until it knows of the right members, or is out of patience. Gives whom it
/// knows of, and how many changes it was told.
fn look(
    mut client: Client,
    overlooks: bool,
    patience: Duration,
    is_over: &Receiver<BTreeSet<u64>>,
) -> (BTreeSet<u64>, usize) {
    let (mut members, mut changes, mut end) = (BTreeSet::new(), 0, None);
    loop {
        end = end.or_else(|| is_over.try_recv().ok().map(|there| (there, Instant::now() + patience)));
        if end.as_ref().is_some_and(|(there, deadline)| members == *there || Instant::now() > *deadline) {
            return (members, changes);
        }
        // The witness publishes all the time.
        let frame = client.frame();
        let object: Value = serde_json::from_str(frame.text()).expect("JSON");
        let member = object["member"]["connection"].as_u64();
        match object["type"].as_str() {
            Some("presence") if !overlooks || members.is_empty() => members = members_of(frame.text()),
            Some("joined") => members.extend(member),
            Some("gone") => drop(member.map(|member| members.remove(&member))),
            _ => {}
        }
        changes += usize::from(member.is_some());
    }
}

fn members_of(json: &str) -> BTreeSet<u64> {
    let object: Value = serde_json::from_str(json).expect("JSON");
    let members = object["members"].as_array().into_iter().flatten();
    members.filter_map(|member| member["connection"].as_u64()).collect()
}

/// Publishers that do not wait, and a hundred subscribers, a tenth of which are slow.
fn fast_publishers(site: &Site, overlooks: bool) -> Checked {
    let count = scaled(100, 20);
    let mut followers = Vec::new();
    for number in 0..count {
        let is_slow = number % 10 == 0;
        let mut client = if is_slow { site.narrow_client() } else { site.client() };
        client.send_text(&subscribe(["busy".to_owned()]));
        let follower = Follower::new("busy", &client.text())?;
        followers.push((client, follower, is_slow));
    }
    let text = "x".repeat(500);
    let (answered, outcomes) = thread::scope(|scope| {
        let mut following = Vec::new();
        for (client, follower, is_slow) in followers {
            following.push(scope.spawn(move || follow(client, follower, is_slow, overlooks)));
        }
        let answered = site.flood(8, TIME, |_| vec![publish("busy", &text, None); 50]);
        let (status, body) = site.post("busy", "the end");
        assert_eq!(status, 200, "{body}");
        let outcomes = following.into_iter().map(|following| following.join().expect("it does not panic"));
        (answered, outcomes.collect::<Vec<_>>())
    });
    let (mut messages, mut losts) = (0, 0);
    for outcome in outcomes {
        let follower = outcome?;
        (messages, losts) = (messages + follower.messages, losts + follower.losts);
    }
    ensure!(losts > 0, "nobody was too slow, so this shows nothing");
    Ok(format!("{answered} messages of 8 publishers to {count}: {messages} delivered, {losts} times lost and told"))
}

fn follow(mut client: Client, mut follower: Follower, is_slow: bool, overlooks: bool) -> Result<Follower, String> {
    let mut slow_until = Some(Instant::now() + TIME).filter(|_| is_slow);
    loop {
        let text = client.text();
        if slow_until.is_some_and(|until| Instant::now() > until) {
            slow_until = None;
        }
        if slow_until.is_some() {
            thread::sleep(ms(10));
        }
        if !(overlooks && text.starts_with(r#"{"type":"lost""#)) {
            follower.take(&text)?;
        }
        if text.ends_with(r#""text":"the end"}"#) {
            return Ok(follower);
        }
    }
}

/// A busy topic with a full history, to which subscribers come back from its beginning and read nothing.
fn nobody_reads(site: &Site) -> Checked {
    let text = "x".repeat(1000);
    let before = site.flood(2, TIME / 4, |_| vec![publish("busy", &text, None); 50]);
    let kept = site.get("/topics/busy");
    let kept: Value = serde_json::from_str(&kept).map_err(|error| error.to_string())?;
    let oldest = kept["messages"][0]["position"].as_str().ok_or("the history is empty")?.to_owned();
    let count = scaled(500, 50);
    let mut deaf: Vec<Client> = (0..count).map(|_| site.client()).collect();
    for client in &mut deaf {
        client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"busy","since":"{oldest}"}}]}}"#));
    }
    let after = site.flood(2, TIME, |_| vec![publish("busy", &text, None); 20]);
    Ok(format!("{} messages of 1 KB, {count} subscribers", before + after))
}

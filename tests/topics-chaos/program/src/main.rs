//! Chaos: numbered messages are published on 20 topics to 200 subscribers, while clients, lines and the server go down
//! at random. In the end each subscriber has every number of its topics once and in order, but for what a server that
//! was killed took with it, and that it was told of. `record` says exactly what is right.
//!
//!     heartwire-test-topics-chaos PROGRAM FOLDER PAGES [nodes | failover | namespaces PREFIX]
//!
//! PROGRAM is that of heartwire, FOLDER is for what is saved, and PAGES is the script of the pages. With `nodes` two
//! servers share their topics by Redis, which goes down too, as do the ways to it, and clients move from one server to
//! the other. Then nothing is lost but what Redis has lost, and whoever watches sees who is there: `members` says
//! exactly what is right. With `failover` a copy of Redis takes its place each time, as a Sentinel says, and with
//! `namespaces` the servers and Redis run on hosts of their own, whose lines drop packets.

mod dice;
mod faults;
mod host;
mod line;
mod members;
mod pages;
mod process;
mod publisher;
mod record;
mod redis;
mod report;
mod scene;
mod server;
mod socket;
mod stay;
mod subscriber;
mod times;
mod token;
mod watcher;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{env, thread};

use dice::Dice;
use faults::Faults;
use publisher::{Published, Publisher, Way};
use record::Position;
use report::report;
use scene::Scene;

/// For how long there are faults: with one server, and with several.
const CHAOS: Duration = Duration::from_secs(60);
const CHAOS_OF_NODES: Duration = Duration::from_secs(120);
pub(crate) const TOPICS: usize = 20;

/// How long a client waits for anything. The server sends a Ping in a quarter of that.
pub(crate) const SILENCE: Duration = Duration::from_millis(1200);

/// Longer than anything takes on the slowest machine.
pub(crate) const CEILING: Duration = Duration::from_secs(120);

pub(crate) fn topic_name(topic: usize) -> String {
    format!("chaos/{topic}")
}

pub(crate) fn topic_number(name: &str) -> Option<usize> {
    name.strip_prefix("chaos/")?.parse().ok()
}

/// What is published under a number: most messages are short, and some fill a third of a queue.
pub(crate) fn text_of(topic: usize, number: u64) -> String {
    let filling = if number.is_multiple_of(16) { 2500 } else { number % 97 };
    format!("{topic} {number} {}", "x".repeat(filling as usize))
}

/// The number of a text, or 0 if it is not exactly what was published.
pub(crate) fn number_of(topic: usize, text: &str) -> u64 {
    let number = text.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    if text_of(topic, number) == text { number } else { 0 }
}

fn main() -> ExitCode {
    let seed = match env::var("HEARTWIRE_SEED") {
        Ok(seed) => seed.parse().expect("HEARTWIRE_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 % 1_000_000),
    };
    println!("HEARTWIRE_SEED={seed}");
    match run(seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(seed: u64) -> Result<(), String> {
    let began = Instant::now();
    let scene = Scene::new(seed)?;
    let is_over = AtomicBool::new(false);
    let (faults, published, seen) = thread::scope(|scope| {
        scope.spawn(|| scene.keep_time(&is_over));
        let mut others: Vec<_> = scene
            .all_subscribers()
            .enumerate()
            .map(|(number, subscriber)| {
                let dice = Dice::new(seed, &format!("subscriber {number}"));
                scope.spawn(|| subscriber.run(dice, &scene.counters, &is_over))
            })
            .collect();
        others.extend(scene.watchers.iter().map(|watcher| scope.spawn(|| watcher.run(&is_over))));
        let outcome = play(&scene, seed, &is_over);
        is_over.store(true, SeqCst);
        let ended: Result<Vec<()>, String> =
            others.into_iter().map(|other| other.join().expect("it does not panic")).collect();
        ended.and(outcome)
    })?;
    for server in &scene.servers {
        server.lock().unwrap().end()?;
    }
    report(&scene, &faults, &published, began.elapsed())?;
    seen?;
    faults.were_enough(&scene)
}

/// What there was, what was published, and whether in the end everybody was seen.
type Played = (Faults, Vec<Published>, Result<(), String>);

/// Publishes while things go down, and waits until everybody has everything.
fn play(scene: &Scene, seed: u64, is_over: &AtomicBool) -> Result<Played, String> {
    scene.wait_until(|_, position| position.is_some(), "everybody is subscribed")?;
    let is_to_stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let publish = |topic: usize| {
            let way = if topic.is_multiple_of(2) { Way::Http } else { Way::WebSocket };
            let dice = Dice::new(seed, &format!("publisher {topic}"));
            let line = scene.lines[topic % scene.lines.len()].address;
            let publisher = Publisher { line, user: scene.publisher(), topic, way };
            let is_to_stop = &is_to_stop;
            scope.spawn(move || publisher::run(&publisher, dice, is_to_stop, is_over))
        };
        let publishers: Vec<_> = (0..TOPICS).map(publish).collect();
        let time = if scene.redis.is_some() { CHAOS_OF_NODES } else { CHAOS };
        let faults = Faults::inject(scene, seed, time);
        // Some more of every topic without faults.
        thread::sleep(Duration::from_secs(1));
        is_to_stop.store(true, SeqCst);
        if faults.is_err() {
            is_over.store(true, SeqCst);
        }
        let ended = publishers.into_iter().map(|publisher| publisher.join().expect("it does not panic"));
        let published = ended.collect::<Result<Vec<Published>, String>>()?;
        let faults = faults?;
        let last = |topic: usize| published[topic].positions.last().copied();
        let is_there = |topic, position: Option<Position>| position.is_some() && position == last(topic);
        scene.wait_until(is_there, "everybody has the last message")?;
        Ok((faults, published, scene.wait_until_all_are_seen()))
    })
}

//! Chaos: numbered messages are published on 20 topics to 200 subscribers, while clients, lines and the server go down
//! at random. In the end each subscriber has every number of its topics once and in order, but for what a server that
//! was killed took with it, and that it was told of. `record` says exactly what is right.
//!
//!     heartwire-test-topics-chaos PROGRAM FOLDER PAGES [nodes]
//!
//! PROGRAM is that of heartwire, FOLDER is for what is saved, and PAGES is the script of the pages. With `nodes` two
//! servers share their topics by Redis, which goes down too, as do the ways to it, and clients move from one server to
//! the other. Then nothing is ever lost.

mod dice;
mod faults;
mod line;
mod pages;
mod publisher;
mod record;
mod redis;
mod server;
mod socket;
mod subscriber;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{env, thread};

use dice::Dice;
use faults::Faults;
use line::Line;
use pages::Pages;
use publisher::{Published, Way};
use record::{Position, Sums, Truth};
use redis::Redis;
use server::{Keep, Server, Tally};
use subscriber::{Counters, Flaw, Subscriber, Taken};

/// For how long there are faults: with one server, and with several.
const CHAOS: Duration = Duration::from_secs(60);
const CHAOS_OF_NODES: Duration = Duration::from_secs(120);
const TOPICS: usize = 20;
/// So many beside the pages, which are one for each line.
const SUBSCRIBERS: usize = 180;
const LINES: usize = 20;

/// How long a client waits for anything. The server sends a Ping in a quarter of that.
pub(crate) const SILENCE: Duration = Duration::from_millis(1200);

/// Longer than anything takes on the slowest machine.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

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

/// All that takes part.
pub(crate) struct Scene {
    pub(crate) servers: Vec<Mutex<Server>>,
    /// What the servers share their topics by, and the way of each to it.
    pub(crate) redis: Option<Mutex<Redis>>,
    pub(crate) ways: Vec<Arc<Line>>,
    pub(crate) lines: Vec<Arc<Line>>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Those whose records the check has to refuse.
    flawed: Vec<(Flaw, Subscriber)>,
    pub(crate) pages: Option<Pages>,
    counters: Arc<Counters>,
}

fn run(seed: u64) -> Result<(), String> {
    let began = Instant::now();
    let scene = Scene::new(seed)?;
    let (is_published, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (faults, published) = thread::scope(|scope| {
        let subscribers = scene.subscribers.iter().chain(scene.flawed.iter().map(|(_, flawed)| flawed)).enumerate();
        let subscribers: Vec<_> = subscribers
            .map(|(number, subscriber)| {
                let dice = Dice::new(seed, &format!("subscriber {number}"));
                scope.spawn(|| subscriber.run(dice, &scene.counters, &is_over))
            })
            .collect();
        let outcome = scene.wait_until(|_, position| position.is_some(), "everybody is subscribed").and_then(|()| {
            let publishers: Vec<_> = (0..TOPICS)
                .map(|topic| {
                    let way = if topic % 2 == 0 { Way::Http } else { Way::WebSocket };
                    let dice = Dice::new(seed, &format!("publisher {topic}"));
                    let line = scene.lines[topic % LINES].address;
                    let (is_published, is_over) = (&is_published, &is_over);
                    scope.spawn(move || publisher::run(line, topic, way, dice, is_published, is_over))
                })
                .collect();
            let faults = Faults::inject(&scene, seed, if scene.redis.is_some() { CHAOS_OF_NODES } else { CHAOS })?;
            // Some more of every topic without faults.
            thread::sleep(Duration::from_secs(1));
            is_published.store(true, SeqCst);
            let ended = publishers.into_iter().map(|publisher| publisher.join().expect("it does not panic"));
            let published = ended.collect::<Result<Vec<Published>, String>>()?;
            let last = |topic: usize| published[topic].positions.last().copied();
            let is_there = |topic, position: Option<Position>| position.is_some() && position == last(topic);
            scene.wait_until(is_there, "everybody has the last message")?;
            Ok((faults, published))
        });
        is_over.store(true, SeqCst);
        let ended: Result<Vec<()>, String> =
            subscribers.into_iter().map(|subscriber| subscriber.join().expect("it does not panic")).collect();
        ended.and(outcome)
    })?;
    for server in &scene.servers {
        server.lock().unwrap().end()?;
    }
    let positions: Vec<_> = published.iter().map(|published| published.positions.clone()).collect();
    let truth = Truth::new(scene.epochs()?, &positions)?;
    report(&scene, &truth, &faults, &published, began.elapsed())?;
    faults.were_enough(&scene)
}

impl Scene {
    fn new(seed: u64) -> Result<Self, String> {
        let mut arguments = env::args_os().skip(1).map(PathBuf::from);
        let mut argument = || arguments.next().ok_or("PROGRAM, FOLDER and PAGES are needed");
        let (program, folder, script) = (argument()?, argument()?, argument()?);
        let redis = argument().is_ok_and(|argument| argument.as_os_str() == "nodes").then(|| Redis::new(&folder));
        let redis = redis.map(|mut redis| redis.start().map(|()| redis)).transpose()?;
        let mut ways = Vec::new();
        let mut servers = match &redis {
            None => vec![Server::new(program, Keep::File(folder.join("topics")))],
            Some(redis) => {
                let mut server = || {
                    let way = Line::start(Arc::new(RwLock::new(redis.address)));
                    let server = Server::new(program.clone(), Keep::Redis(way.address));
                    ways.push(way);
                    server
                };
                vec![server(), server()]
            }
        };
        servers.iter_mut().try_for_each(Server::start)?;
        let line = |number: usize| Line::start(Arc::clone(&servers[number % servers.len()].address));
        let lines: Vec<_> = (0..LINES).map(line).collect();
        let mut dice = Dice::new(seed, "topics");
        let mut topics = || {
            let mut topics: Vec<_> = (0..TOPICS).collect();
            dice.shuffle(&mut topics);
            topics.truncate(3 + dice.roll(4) as usize);
            topics
        };
        let line = |number: usize| lines[number % LINES].address;
        let subscribers = (0..SUBSCRIBERS).map(|number| Subscriber::new(line(number), &topics(), None)).collect();
        // Where nothing is lost there is no such word to swallow.
        let flawed = Flaw::ALL.iter().filter(|flaw| redis.is_none() || **flaw != Flaw::SwallowsLost).enumerate();
        let flawed = flawed.map(|(number, flaw)| (*flaw, Subscriber::new(line(number), &topics(), Some(*flaw))));
        let flawed = flawed.collect();
        let counters = Arc::default();
        let pages: Vec<_> = lines.iter().map(|line| (line.address.port(), topics())).collect();
        let pages = Pages::start(&script, &pages, &counters);
        let servers = servers.into_iter().map(Mutex::new).collect();
        Ok(Self { servers, redis: redis.map(Mutex::new), ways, lines, subscribers, flawed, pages, counters })
    }

    /// All epochs that there were, which are the same for all servers.
    fn epochs(&self) -> Result<Vec<u64>, String> {
        let epochs: Vec<_> = self.servers.iter().map(|server| server.lock().unwrap().epochs.clone()).collect();
        if epochs.iter().any(|other| *other != epochs[0]) {
            return Err(format!("the servers do not have the same epochs: {epochs:x?}"));
        }
        Ok(epochs[0].clone())
    }

    /// What all have got who have no flaw.
    fn taken(&self) -> Result<Vec<BTreeMap<usize, Taken>>, String> {
        let mut taken: Vec<_> = self.subscribers.iter().map(Subscriber::taken).collect();
        if let Some(pages) = &self.pages {
            taken.extend(pages.taken()?);
        }
        Ok(taken)
    }

    /// Waits until the position of everybody in every topic is right.
    fn wait_until(&self, is_right: impl Fn(usize, Option<Position>) -> bool, what: &str) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        loop {
            let mut positions: Vec<_> = self.subscribers.iter().flat_map(Subscriber::positions).collect();
            positions.extend(self.flawed.iter().flat_map(|(_, flawed)| flawed.positions()));
            if let Some(pages) = &self.pages {
                positions.extend(pages.positions()?);
            }
            let late = positions.iter().filter(|(topic, position)| !is_right(*topic, *position)).count();
            if late == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain until {what}: {late} subscriptions of {}", positions.len()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Prints what there was, and judges it.
fn report(
    scene: &Scene,
    truth: &Truth,
    faults: &Faults,
    published: &[Published],
    took: Duration,
) -> Result<(), String> {
    let (mut sums, mut subscriptions, mut right, mut wrong) = (Sums::default(), 0, 0, Vec::new());
    let all = scene.taken()?;
    for (number, taken) in all.iter().enumerate() {
        let before = wrong.len();
        for (topic, taken) in taken {
            subscriptions += 1;
            match truth.check(*topic, &taken.record) {
                Ok(found) => {
                    sums.messages += found.messages;
                    sums.losts += found.losts;
                    sums.missed += found.missed;
                }
                Err(why) => wrong.push(format!("subscriber {number}, topic {topic}: {why}")),
            }
        }
        right += usize::from(wrong.len() == before);
    }
    let epochs = scene.epochs()?.len() as u64;
    let tally =
        |of: fn(&Tally) -> u64| scene.servers.iter().map(|server| of(&server.lock().unwrap().tally)).sum::<u64>();
    let (counters, count) = (&scene.counters, |count: fn(&Published) -> u64| published.iter().map(count).sum::<u64>());
    println!("{faults}");
    for (what, value) in [
        ("servers", scene.servers.len() as u64),
        ("epochs", epochs),
        ("messages published, on 20 topics", count(|published| published.positions.len() as u64)),
        ("attempts to publish without a reply", count(|published| published.unanswered)),
        ("of them published already (key known)", count(|published| published.again)),
        ("subscriptions", subscriptions),
        ("connections of subscribers", counters.connections.load(SeqCst)),
        ("given up by a server's heartbeat", tally(|tally| tally.found_dead)),
        ("threads of servers that ended late", tally(|tally| tally.abandoned)),
        ("given up by subscribers, as silent", counters.silences.load(SeqCst)),
        ("messages delivered", sums.messages),
        ("of them replayed (beside pages)", counters.replayed.load(SeqCst)),
        ("lost told", sums.losts),
        ("numbers lost by that", sums.missed),
    ] {
        println!("{what:<40} {value:>8}");
    }
    println!("{:<40} {:>8}", "subscribers right", format!("{right}/{}", all.len()));
    for (flaw, subscriber) in &scene.flawed {
        let taken = subscriber.taken();
        let found = taken.iter().find_map(|(topic, taken)| truth.check(*topic, &taken.record).err());
        println!("control: {:<31} {}", format!("{flaw:?}"), found.as_deref().unwrap_or("NOT FOUND"));
        if found.is_none() {
            wrong.push(format!("the check does not find that a subscriber {flaw:?}"));
        }
    }
    if scene.pages.is_none() {
        println!("skipped: pages: node has no WebSocket");
    }
    println!("{} s", took.as_secs());
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} are wrong:\n{}", wrong.len(), wrong.join("\n"))) }
}

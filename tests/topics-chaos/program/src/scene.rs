//! All that takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::dice::Dice;
use crate::host::{Host, Wire};
use crate::line::Line;
use crate::members::Facts;
use crate::pages::Pages;
use crate::record::{End, Epoch, Position};
use crate::redis::Redis;
use crate::server::{Keep, Server, Shared};
use crate::subscriber::{Counters, Flaw, Subscriber, Taken, User};
use crate::times::Span;
use crate::token::Secret;
use crate::watcher::{Blindness, Watcher};
use crate::{CEILING, TOPICS};

/// So many beside the pages, which are one for each line.
const SUBSCRIBERS: usize = 180;
/// So many of them belong to as many users, and the others are second devices of the first of those.
const USERS: usize = 120;
const LINES: usize = 20;

/// Our own clock ticks that often. What is later than this was late.
const TICK: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(500);

/// The hosts of the servers, of Redis, and of all clients, as the namespaces are made.
const HOSTS: [(&str, [u8; 4]); 4] =
    [("one", [10, 121, 0, 1]), ("other", [10, 121, 0, 2]), ("redis", [10, 121, 0, 3]), ("clients", [10, 121, 0, 4])];

/// What takes part.
enum Cast {
    /// One server.
    Alone,
    /// Two that share their topics.
    Nodes,
    /// And a copy of Redis takes its place.
    Failover,
    /// And all have hosts of their own, whose names begin with this.
    Namespaces(String),
}

pub(crate) struct Scene {
    pub(crate) servers: Vec<Mutex<Server>>,
    /// Where each of them is now.
    pub(crate) addresses: Vec<Arc<RwLock<SocketAddr>>>,
    /// What the servers share their topics by, and the way of each to it.
    pub(crate) redis: Option<Mutex<Redis>>,
    secret: Option<Secret>,
    pub(crate) ways: Vec<Arc<Line>>,
    /// Where they have hosts of their own: the lines of each to Redis, and to the clients.
    pub(crate) wires: Vec<[Wire; 2]>,
    pub(crate) lines: Vec<Arc<Line>>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Those whose records the check has to refuse.
    pub(crate) flawed: Vec<(Flaw, Subscriber)>,
    /// One on each server, and those whose records the check has to refuse.
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) pages: Option<Pages>,
    /// The topics of each page.
    page_topics: Vec<Vec<usize>>,
    pub(crate) counters: Arc<Counters>,
    /// Protects when we were late ourselves.
    late: Mutex<Vec<Span>>,
    began: Instant,
}

impl Scene {
    pub(crate) fn new(seed: u64) -> Result<Self, String> {
        let mut arguments = env::args_os().skip(1).map(PathBuf::from);
        let mut argument = || arguments.next().ok_or("PROGRAM, FOLDER and PAGES are needed");
        let (program, folder, script) = (argument()?, argument()?, argument()?);
        let began = Instant::now();
        let cast = match argument().ok().as_deref().and_then(Path::to_str) {
            None => Cast::Alone,
            Some("nodes") => Cast::Nodes,
            Some("failover") => Cast::Failover,
            Some("namespaces") => Cast::Namespaces(argument()?.to_string_lossy().into_owned()),
            Some(other) => return Err(format!("there is no {other}")),
        };
        let [one, other, at_redis, clients] = cast.hosts();
        let mut redis = match cast {
            Cast::Alone => None,
            Cast::Failover => Some(Redis::start_with_standby(&folder)?),
            Cast::Nodes | Cast::Namespaces(_) => Some(Redis::start(&at_redis, &folder)?),
        };
        let secret = redis.is_some().then(|| Secret::new(seed));
        let (mut servers, ways) = match (&redis, &secret) {
            (Some(redis), Some(secret)) => {
                // Whoever finds Redis by a Sentinel has no other way to it, and a wire is one by itself.
                let has_ways = matches!(cast, Cast::Nodes);
                sharing_servers(&program, &folder, [&one, &other], redis, secret, has_ways)?
            }
            _ => (vec![Server::new(program, Host::here(), Keep::File(folder.join("topics")))], Vec::new()),
        };
        let to = |host: &Host| [Wire::new(host, at_redis.address), Wire::new(host, clients.address)];
        let wires = if matches!(cast, Cast::Namespaces(_)) { vec![to(&one), to(&other)] } else { Vec::new() };
        servers.iter_mut().try_for_each(Server::start)?;
        if let Some(redis) = &mut redis {
            redis.note_epoch(End::Complete)?;
        }
        let addresses: Vec<_> = servers.iter().map(|server| Arc::clone(&server.address)).collect();
        let lines = (0..LINES).map(|number| Line::start(Arc::clone(&addresses[number % addresses.len()])));
        let lines: Vec<_> = lines.collect();
        let mut dice = Dice::new(seed, "topics");
        let mut topics = || {
            let mut topics: Vec<_> = (0..TOPICS).collect();
            dice.shuffle(&mut topics);
            topics.truncate(3 + dice.roll(4) as usize);
            topics
        };
        let line = |number: usize| Arc::clone(&lines[number % LINES]);
        let user = |name: String| secret.as_ref().map(|secret| User { token: secret.token_of(&name), name });
        // The second device of a user is subscribed to the same, on another line.
        let of_users: Vec<_> = (0..USERS).map(|_| topics()).collect();
        let subscriber = |number: usize| {
            let (of, line) = (number % USERS, line(number + number / USERS));
            Subscriber::new(line, user(format!("user {of}")), &of_users[of], None)
        };
        let subscribers = (0..SUBSCRIBERS).map(subscriber).collect();
        let flawed = Flaw::ALL.into_iter().enumerate();
        let flawed = flawed.map(|(number, flaw)| {
            (flaw, Subscriber::new(line(number), user(format!("user with flaw {number}")), &topics(), Some(flaw)))
        });
        let flawed = flawed.collect();
        let watcher = |(number, (server, blindness)): (usize, (usize, Option<Blindness>))| {
            let user = user(format!("watcher {number}"))?;
            Some(Watcher::new(server, Arc::clone(&addresses[server]), user, blindness))
        };
        let blind = Blindness::ALL.iter().enumerate().map(|(number, blind)| (number % addresses.len(), Some(*blind)));
        let watchers = (0..addresses.len()).map(|server| (server, None)).chain(blind).enumerate();
        let watchers = watchers.filter_map(watcher).collect();
        let counters = Arc::default();
        let page_topics: Vec<_> = lines.iter().map(|_| topics()).collect();
        let pages: Vec<_> = lines.iter().map(|line| line.address.port()).zip(page_topics.clone()).collect();
        let token = user("page".to_owned()).map(|user| user.token);
        let pages = Pages::start(&script, &pages, token.as_deref(), &counters);
        let (servers, redis) = (servers.into_iter().map(Mutex::new).collect(), redis.map(Mutex::new));
        Ok(Self {
            servers,
            addresses,
            redis,
            secret,
            ways,
            wires,
            lines,
            subscribers,
            flawed,
            watchers,
            pages,
            page_topics,
            counters,
            late: Mutex::default(),
            began,
        })
    }

    /// A user who publishes.
    pub(crate) fn publisher(&self) -> Option<User> {
        let name = "publisher".to_owned();
        self.secret.as_ref().map(|secret| User { token: secret.token_of(&name), name })
    }

    /// Those who subscribe, with a flaw or without.
    pub(crate) fn all_subscribers(&self) -> impl Iterator<Item = &Subscriber> {
        self.subscribers.iter().chain(self.flawed.iter().map(|(_, flawed)| flawed))
    }

    /// All epochs that there were, which are the same for all servers.
    pub(crate) fn epochs(&self) -> Result<Vec<Epoch>, String> {
        let Some(redis) = &self.redis else { return Ok(self.servers[0].lock().unwrap().epochs.clone()) };
        Ok(redis.lock().unwrap().epochs.clone())
    }

    /// What all have got who have no flaw.
    pub(crate) fn taken(&self) -> Result<Vec<BTreeMap<usize, Taken>>, String> {
        let mut taken: Vec<_> = self.subscribers.iter().map(Subscriber::taken).collect();
        if let Some(pages) = &self.pages {
            taken.extend(pages.taken()?);
        }
        Ok(taken)
    }

    /// Notes when we are late, until all is over.
    pub(crate) fn keep_time(&self, is_over: &AtomicBool) {
        let mut last = Instant::now();
        while !is_over.load(SeqCst) {
            thread::sleep(TICK);
            let now = Instant::now();
            if now - last > LATE {
                self.late.lock().unwrap().push((last, now));
            }
            last = now;
        }
    }

    /// Waits until the position of everybody in every topic is right.
    pub(crate) fn wait_until(
        &self,
        is_right: impl Fn(usize, Option<Position>) -> bool,
        what: &str,
    ) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        loop {
            let mut positions: Vec<_> = self.all_subscribers().flat_map(Subscriber::positions).collect();
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

    /// Waits until each watcher sees exactly those who are there: no ghosts, and nobody is missing.
    pub(crate) fn wait_until_all_are_seen(&self) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        loop {
            let wrong: Vec<_> = self.watchers.iter().filter(|watcher| watcher.blindness.is_none()).collect();
            let wrong: Vec<_> = wrong.into_iter().flat_map(|watcher| self.not_seen_rightly(watcher)).collect();
            if wrong.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("in the end the members are not those who are there:\n{}", wrong.join("\n")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The topics whose members a watcher does not see as they are now.
    fn not_seen_rightly(&self, watcher: &Watcher) -> Vec<String> {
        let seen = watcher.seen_now();
        let mut wrong = Vec::new();
        for topic in 0..TOPICS {
            let is_there = |subscriber: &&Subscriber| subscriber.is_subscribed_to(topic);
            let there = self.all_subscribers().filter(is_there).filter_map(Subscriber::name).map(str::to_owned);
            let watchers = self.watchers.iter().map(|watcher| watcher.name().to_owned());
            let there: BTreeSet<_> = there.chain(watchers).collect();
            let pages =
                self.page_topics.iter().filter(|topics| self.pages.is_some() && topics.contains(&topic)).count();
            // Pages have no names.
            let (seen, unnamed): (BTreeSet<_>, BTreeSet<_>) =
                seen.get(&topic).into_iter().flatten().cloned().partition(|who| !who.contains(" of "));
            if seen != there || unnamed.len() != pages {
                let (more, less): (Vec<_>, Vec<_>) =
                    (seen.difference(&there).collect(), there.difference(&seen).collect());
                let server = watcher.server;
                wrong.push(format!(
                    "server {server}, topic {topic}: {more:?} too many, {less:?} missing, {} pages of {pages}",
                    unnamed.len()
                ));
            }
        }
        wrong
    }

    /// What has befallen the way of a server to Redis.
    fn way_faults(&self, server: usize) -> Vec<Span> {
        let way = self.ways.get(server).map(|way| way.faults());
        let wire = self.wires.get(server).map(|[to_redis, _]| to_redis.faults());
        way.into_iter().chain(wire).flatten().collect()
    }

    /// What the chaos has done to those who are members.
    pub(crate) fn facts(&self) -> Facts {
        let stays = self.all_subscribers().filter_map(|subscriber| {
            let topics: BTreeSet<_> = subscriber.positions().into_iter().map(|(topic, _)| topic).collect();
            // A wire is part of all lines to its server, and to which one a line leads may change.
            let wires = self.wires.iter().flat_map(|[_, to_clients]| to_clients.faults());
            let faults: Vec<_> = subscriber.line.faults().into_iter().chain(wires).collect();
            let stays = subscriber.stays().into_iter().map(move |stay| (topics.clone(), faults.clone(), stay));
            Some((subscriber.name()?.to_owned(), stays))
        });
        let mut by_user: BTreeMap<String, Vec<_>> = BTreeMap::new();
        stays.for_each(|(name, stays)| by_user.entry(name).or_default().extend(stays));
        Facts {
            whole: (self.began, Instant::now()),
            lives: self.servers.iter().map(|server| server.lock().unwrap().lives.clone()).collect(),
            redis: self.redis.iter().flat_map(|redis| redis.lock().unwrap().troubles.clone()).collect(),
            ways: (0..self.servers.len()).map(|server| self.way_faults(server)).collect(),
            late: self.late.lock().unwrap().clone(),
            stays: by_user,
        }
    }
}

impl Cast {
    /// The hosts of both servers, of Redis, and of the clients.
    fn hosts(&self) -> [Host; 4] {
        HOSTS.map(|(name, address)| match self {
            Self::Namespaces(prefix) => Host::inside(&format!("{prefix}-{name}"), address.into()),
            _ => Host::here(),
        })
    }
}

/// Two servers that share their topics, and the way of each to Redis.
fn sharing_servers(
    program: &Path,
    folder: &Path,
    hosts: [&Host; 2],
    redis: &Redis,
    secret: &Secret,
    has_ways: bool,
) -> Result<(Vec<Server>, Vec<Arc<Line>>), String> {
    let key_file = folder.join("key");
    fs::write(&key_file, &secret.0).map_err(|error| format!("{}: {error}", key_file.display()))?;
    let (mut servers, mut ways) = (Vec::new(), Vec::new());
    for host in hosts {
        let mut url = redis.url();
        if has_ways {
            let way = Line::start(Arc::new(RwLock::new(redis.process().address)));
            url = format!("redis://{}", way.address);
            ways.push(way);
        }
        let shared = Shared { url, secret: secret.clone(), key_file: key_file.clone() };
        servers.push(Server::new(program.to_owned(), host.clone(), Keep::Redis(shared)));
    }
    Ok((servers, ways))
}

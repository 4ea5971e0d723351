//! What goes down, and when: by chance, and the same for the same seed.
//!
//! Where several servers share their topics, what they share rests from time to time: long enough for a server to be
//! found dead, and for all to be as it should. Clients and their lines never rest.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::CEILING;
use crate::dice::Dice;
use crate::host::Wire;
use crate::record::End;
use crate::redis::Redis;
use crate::scene::Scene;
use crate::subscriber::Subscriber;

/// Of each kind at least.
const LEAST: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ServerEnds,
    ServerIsKilled,
    ServerIsKilledWhileItEnds,
    ClientVanishes,
    ClientResets,
    ClientDozes,
    PagesSleep,
    LineFallsSilent,
    LineIsCut,
    LineIsReset,
    LineBreaksAFrame,
    LineMoves,
    ClientStaysAway,
    RedisPauses,
    RedisIsKilled,
    RedisIsFlushed,
    RedisLosesTheLatest,
    RedisFailsOver,
    WayToRedisFallsSilent,
    WayToRedisIsCut,
    WayToRedisIsReset,
    WireToRedisIsCut,
    WireToClientsIsCut,
}

impl Kind {
    const SERVER: [Self; 3] = [Self::ServerEnds, Self::ServerIsKilled, Self::ServerIsKilledWhileItEnds];
    const CLIENT: [Self; 4] = [Self::ClientVanishes, Self::ClientResets, Self::ClientDozes, Self::PagesSleep];
    const LINE: [Self; 4] = [Self::LineFallsSilent, Self::LineIsCut, Self::LineIsReset, Self::LineBreaksAFrame];
    /// Where several servers share their topics.
    const SHARED: [Self; 2] = [Self::LineMoves, Self::ClientStaysAway];
    const WAYS: [Self; 3] = [Self::WayToRedisFallsSilent, Self::WayToRedisIsCut, Self::WayToRedisIsReset];
    /// Where the servers have hosts of their own.
    const WIRES: [Self; 2] = [Self::WireToRedisIsCut, Self::WireToClientsIsCut];
    const REDIS: [Self; 4] = [Self::RedisPauses, Self::RedisIsKilled, Self::RedisIsFlushed, Self::RedisLosesTheLatest];
    /// Of a Redis that has a copy.
    const STANDBY: [Self; 1] = [Self::RedisFailsOver];

    fn count(self) -> usize {
        match self {
            Self::ServerIsKilledWhileItEnds => 4,
            _ => LEAST,
        }
    }
}

/// When there are faults: for so long, and then not for so long, again and again.
#[derive(Debug, Clone, Copy)]
struct Tide {
    start: Instant,
    flood: Duration,
    ebb: Duration,
}

/// Long enough for a server to be found dead, and for news of it to have spread.
const EBB: Duration = Duration::from_secs(18);
const FLOOD: Duration = Duration::from_secs(24);

impl Tide {
    /// Waits until there have been faults for so long, and there may be more.
    fn wait(&self, floods: Duration) {
        let ebbs = (floods.as_nanos() / self.flood.as_nanos()) as u32;
        let due = self.start + floods + self.ebb * ebbs;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Whoever is late may have come into an ebb.
        let turn = self.flood + self.ebb;
        let since = self.start.elapsed();
        let turns = (since.as_nanos() / turn.as_nanos()) as u32;
        if since - turn * turns > self.flood {
            thread::sleep((self.start + turn * (turns + 1)).saturating_duration_since(Instant::now()));
        }
    }

    /// The time that it takes until there have been faults for so long.
    fn whole(&self, floods: Duration) -> Duration {
        floods + self.ebb * (floods.as_nanos().saturating_sub(1) / self.flood.as_nanos()) as u32
    }
}

/// How many there were of each kind, and how many connections they hit.
#[derive(Debug, Default)]
pub(crate) struct Faults(BTreeMap<Kind, (usize, usize)>);

impl Faults {
    /// Lets things go down for so long. In the end all are up.
    pub(crate) fn inject(scene: &Scene, seed: u64, time: Duration) -> Result<Self, String> {
        let (start, is_over) = (Instant::now(), AtomicBool::new(false));
        let tide = match scene.redis {
            Some(_) => Tide { start, flood: FLOOD, ebb: EBB },
            None => Tide { start, flood: time, ebb: Duration::ZERO },
        };
        let always = Tide { start, flood: tide.whole(time), ebb: Duration::ZERO };
        thread::scope(|scope| {
            let kinds = [
                ("clients", &Kind::CLIENT[..], always),
                ("lines", &Kind::LINE, always),
                ("moves", scene.if_shared(&Kind::SHARED), always),
                ("ways", scene.kinds_of_ways(), tide),
            ];
            let others = kinds.map(|(name, kinds, tide)| {
                let (dice, is_over) = (Dice::new(seed, name), &is_over);
                let time = if name == "ways" { time } else { tide.flood };
                scope.spawn(move || others(scene, dice, kinds, tide, time, is_over))
            });
            let redis = scope.spawn(|| redis(scene, Dice::new(seed, "redis"), tide, time));
            let faults = server(scene, Dice::new(seed, "server"), tide, time);
            // A server that does not come back ends all.
            is_over.store(faults.is_err(), SeqCst);
            let others = others.map(|other| other.join().expect("it does not panic"));
            let redis = redis.join().expect("it does not panic")?;
            scene.lines.iter().chain(&scene.ways).for_each(|line| line.heal());
            scene.subscribers.iter().for_each(Subscriber::come_back);
            faults.map(|mut faults| {
                others.into_iter().chain([redis]).for_each(|other| faults.0.extend(other.0));
                faults
            })
        })
    }

    fn note(&mut self, kind: Kind, hit: usize) {
        let (faults, connections) = self.0.entry(kind).or_default();
        *faults += 1;
        *connections += hit;
    }

    /// # Errors
    /// The kind of which there were too few.
    pub(crate) fn were_enough(&self, scene: &Scene) -> Result<(), String> {
        let has_pages = scene.pages.is_some();
        let shared = [&Kind::SHARED[..], scene.kinds_of_ways(), scene.kinds_of_redis()].concat();
        let kinds = [&Kind::SERVER[..], &Kind::CLIENT, &Kind::LINE, scene.if_shared(&shared)].concat();
        for kind in kinds.into_iter().filter(|kind| has_pages || *kind != Kind::PagesSleep) {
            let count = self.0.get(&kind).map_or(0, |(count, _)| *count);
            if count < kind.count() {
                return Err(format!("{kind:?}: {count} times only"));
            }
        }
        Ok(())
    }
}

/// Ends and kills the server, one time after the other.
fn server(scene: &Scene, mut dice: Dice, tide: Tide, time: Duration) -> Result<Faults, String> {
    let mut faults = Faults::default();
    let mut kinds: Vec<_> = Kind::SERVER.iter().flat_map(|kind| vec![*kind; kind.count()]).collect();
    dice.shuffle(&mut kinds);
    let slot = time / kinds.len() as u32;
    for (number, kind) in kinds.into_iter().enumerate() {
        tide.wait(slot * number as u32 + slot.mul_f64(dice.roll(70) as f64 / 100.0));
        let mut server = dice.pick(&scene.servers).lock().unwrap();
        match kind {
            Kind::ServerEnds => server.end()?,
            Kind::ServerIsKilled => {
                scene.send_some_away(&mut dice, server.process());
                server.kill()?;
            }
            _ => server.kill_while_it_ends(dice.millis(0, 900))?,
        }
        faults.note(kind, 1);
        // Sometimes it is away for a while.
        if dice.roll(4) == 0 {
            thread::sleep(dice.millis(50, 400));
        }
        server.start()?;
    }
    Ok(faults)
}

/// Lets Redis stand still, kills it, and takes from it what it has.
fn redis(scene: &Scene, mut dice: Dice, tide: Tide, time: Duration) -> Result<Faults, String> {
    let mut faults = Faults::default();
    let Some(redis) = &scene.redis else { return Ok(faults) };
    let mut kinds: Vec<_> = scene.kinds_of_redis().iter().flat_map(|kind| vec![*kind; kind.count()]).collect();
    dice.shuffle(&mut kinds);
    let slot = time / kinds.len() as u32;
    for (number, kind) in kinds.into_iter().enumerate() {
        tide.wait(slot * number as u32 + slot.mul_f64(dice.roll(50) as f64 / 100.0));
        let mut redis = redis.lock().unwrap();
        match kind {
            Kind::RedisPauses => redis.pause(dice.millis(100, 1200))?,
            Kind::RedisIsKilled => redis.restart(dice.millis(0, 500))?,
            Kind::RedisIsFlushed => redis.flush()?,
            Kind::RedisFailsOver => tear(scene, &mut redis, Redis::fail_over)?,
            _ => tear(scene, &mut redis, |redis| redis.lose_what_comes_within(dice.millis(50, 500)))?,
        }
        faults.note(kind, 1);
    }
    Ok(faults)
}

/// Redis may lose what it was told in the last moments. No server goes down meanwhile, for only one that has seen what
/// was lost can know that it was.
fn tear(scene: &Scene, redis: &mut Redis, lose: impl FnOnce(&mut Redis) -> Result<(), String>) -> Result<(), String> {
    let servers: Vec<_> = scene.servers.iter().map(|server| server.lock().unwrap()).collect();
    lose(redis)?;
    let began = Instant::now();
    // Another one of each, for who finds that some is lost may take away those before.
    for (number, server) in servers.iter().enumerate() {
        let probe = format!("probe {number} of {}", redis.troubles.len());
        server.publish_probe(&probe)?;
        servers.iter().try_for_each(|server| server.wait_for_probe(&probe))?;
    }
    redis.note_epoch(End::Torn)?;
    let epoch = redis.epochs.last().map(|last| last.id);
    let are_one = || servers.iter().all(|server| server.epoch().ok() == epoch);
    while !are_one() {
        if began.elapsed() > CEILING {
            return Err("the servers do not agree on what Redis has".to_owned());
        }
        thread::sleep(Duration::from_millis(10));
    }
    redis.troubles.push((began, Instant::now()));
    Ok(())
}

impl Scene {
    /// Faults that there are only where several servers share their topics.
    fn if_shared<'a>(&self, kinds: &'a [Kind]) -> &'a [Kind] {
        if self.redis.is_some() { kinds } else { &[] }
    }

    fn kinds_of_ways(&self) -> &'static [Kind] {
        match (self.ways.is_empty(), self.wires.is_empty()) {
            (false, _) => &Kind::WAYS,
            (true, false) => &Kind::WIRES,
            (true, true) => &[],
        }
    }

    fn kinds_of_redis(&self) -> &'static [Kind] {
        let has_standby = self.redis.as_ref().map(|redis| redis.lock().unwrap().has_standby());
        match has_standby {
            None => &[],
            Some(false) => &Kind::REDIS,
            Some(true) => &Kind::STANDBY,
        }
    }

    /// Some users who are connected to a server that is about to be killed do not come back to another one, so that the
    /// others have to find out that they are gone.
    fn send_some_away(&self, dice: &mut Dice, process: SocketAddr) {
        if self.redis.is_none() {
            return;
        }
        let connected = self.subscribers.iter().filter(|subscriber| subscriber.process() == Some(process));
        let mut connected: Vec<_> = connected.collect();
        dice.shuffle(&mut connected);
        for subscriber in connected.into_iter().take(8) {
            let time = dice.millis(15_000, 40_000);
            subscriber.stay_away_once_over(time);
            let is_same = |other: &&Subscriber| other.name() == subscriber.name() && !std::ptr::eq(*other, subscriber);
            self.subscribers.iter().filter(is_same).for_each(|other| _ = other.stay_away(time));
        }
    }
}

/// Hits clients or lines. One that hits nobody, because the server is down, is made up for.
fn others(scene: &Scene, mut dice: Dice, kinds: &[Kind], tide: Tide, time: Duration, is_over: &AtomicBool) -> Faults {
    let mut faults = Faults::default();
    let mut due: Vec<_> = kinds
        .iter()
        .flat_map(|kind| vec![*kind; kind.count()])
        .map(|kind| (time.mul_f64(dice.roll(1000) as f64 / 1000.0), kind))
        .collect();
    due.sort();
    for (due, kind) in due {
        if kind == Kind::PagesSleep && scene.pages.is_none() {
            continue;
        }
        tide.wait(due);
        while !is_over.load(SeqCst) {
            let hit = inject(scene, &mut dice, kind);
            if hit > 0 {
                faults.note(kind, hit);
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    faults
}

/// Gives how many connections were hit.
fn inject(scene: &Scene, dice: &mut Dice, kind: Kind) -> usize {
    let doze = dice.millis(300, 2500);
    let client = dice.pick(&scene.subscribers);
    let line = dice.pick(&scene.lines);
    match kind {
        Kind::ClientVanishes => usize::from(client.vanish()),
        Kind::ClientResets => usize::from(client.reset()),
        Kind::ClientDozes => usize::from(client.doze(doze)),
        Kind::LineFallsSilent => line.fall_silent(doze),
        Kind::LineIsCut => line.cut(),
        Kind::LineIsReset => line.reset(),
        Kind::LineBreaksAFrame => line.tear(),
        Kind::LineMoves => line.move_to(Arc::clone(dice.pick(&scene.addresses))),
        Kind::ClientStaysAway => usize::from(client.stay_away(doze * 6)),
        Kind::WayToRedisFallsSilent => dice.pick(&scene.ways).fall_silent(doze),
        Kind::WayToRedisIsCut => dice.pick(&scene.ways).cut(),
        Kind::WayToRedisIsReset => dice.pick(&scene.ways).reset(),
        Kind::WireToRedisIsCut => cut(&dice.pick(&scene.wires)[0], doze),
        Kind::WireToClientsIsCut => cut(&dice.pick(&scene.wires)[1], doze),
        Kind::PagesSleep => scene.pages.as_ref().map_or(0, |pages| {
            pages.suspend(doze / 2);
            scene.lines.len()
        }),
        _ => 0,
    }
}

fn cut(wire: &Wire, time: Duration) -> usize {
    wire.drop_packets(time).expect("it was possible before");
    1
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>8} {:>12}", "fault", "times", "connections")?;
        for (kind, (count, connections)) in &self.0 {
            let all = [&Kind::SERVER[..], &Kind::REDIS, &Kind::STANDBY, &Kind::WIRES].concat();
            let is_of_all = all.contains(kind);
            let connections = if is_of_all { "all".to_owned() } else { connections.to_string() };
            writeln!(f, "{:<40} {count:>8} {connections:>12}", format!("{kind:?}"))?;
        }
        Ok(())
    }
}

//! What goes down, and when: by chance, and the same for the same seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::Scene;
use crate::dice::Dice;

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
    RedisPauses,
    RedisIsKilled,
    WayToRedisFallsSilent,
    WayToRedisIsCut,
    WayToRedisIsReset,
}

impl Kind {
    const SERVER: [Self; 3] = [Self::ServerEnds, Self::ServerIsKilled, Self::ServerIsKilledWhileItEnds];
    const CLIENT: [Self; 4] = [Self::ClientVanishes, Self::ClientResets, Self::ClientDozes, Self::PagesSleep];
    const LINE: [Self; 4] = [Self::LineFallsSilent, Self::LineIsCut, Self::LineIsReset, Self::LineBreaksAFrame];
    /// Where several servers share their topics.
    const SHARED: [Self; 4] =
        [Self::LineMoves, Self::WayToRedisFallsSilent, Self::WayToRedisIsCut, Self::WayToRedisIsReset];
    const REDIS: [Self; 2] = [Self::RedisPauses, Self::RedisIsKilled];

    fn count(self) -> usize {
        match self {
            Self::ServerIsKilledWhileItEnds => 4,
            _ => LEAST,
        }
    }
}

/// How many there were of each kind, and how many connections they hit.
#[derive(Debug, Default)]
pub(crate) struct Faults(BTreeMap<Kind, (usize, usize)>);

impl Faults {
    /// Lets things go down for so long. In the end all are up.
    pub(crate) fn inject(scene: &Scene, seed: u64, time: Duration) -> Result<Self, String> {
        let (start, is_over) = (Instant::now(), AtomicBool::new(false));
        thread::scope(|scope| {
            let kinds = [("clients", &Kind::CLIENT[..]), ("lines", &Kind::LINE), ("ways", scene.kinds_of_sharing())];
            let others = kinds.map(|(name, kinds)| {
                let (dice, is_over) = (Dice::new(seed, name), &is_over);
                scope.spawn(move || others(scene, dice, kinds, start, time, is_over))
            });
            let redis = scope.spawn(|| redis(scene, Dice::new(seed, "redis"), start, time));
            let faults = server(scene, Dice::new(seed, "server"), start, time);
            // A server that does not come back ends all.
            is_over.store(faults.is_err(), SeqCst);
            let others = others.map(|other| other.join().expect("it does not panic"));
            let redis = redis.join().expect("it does not panic")?;
            scene.lines.iter().chain(&scene.ways).for_each(|line| line.heal());
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
        let redis = if scene.redis.is_some() { &Kind::REDIS[..] } else { &[] };
        let kinds = [&Kind::SERVER[..], &Kind::CLIENT, &Kind::LINE, scene.kinds_of_sharing(), redis].concat();
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
fn server(scene: &Scene, mut dice: Dice, start: Instant, time: Duration) -> Result<Faults, String> {
    let mut faults = Faults::default();
    let mut kinds: Vec<_> = Kind::SERVER.iter().flat_map(|kind| vec![*kind; kind.count()]).collect();
    dice.shuffle(&mut kinds);
    let slot = time / kinds.len() as u32;
    for (number, kind) in kinds.into_iter().enumerate() {
        let due = slot * number as u32 + slot.mul_f64(dice.roll(70) as f64 / 100.0);
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        let mut server = dice.pick(&scene.servers).lock().unwrap();
        match kind {
            Kind::ServerEnds => server.end()?,
            Kind::ServerIsKilled => server.kill()?,
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

/// Lets Redis stand still, and kills it.
fn redis(scene: &Scene, mut dice: Dice, start: Instant, time: Duration) -> Result<Faults, String> {
    let mut faults = Faults::default();
    let Some(redis) = &scene.redis else { return Ok(faults) };
    let mut kinds: Vec<_> = Kind::REDIS.iter().flat_map(|kind| vec![*kind; kind.count()]).collect();
    dice.shuffle(&mut kinds);
    let slot = time / kinds.len() as u32;
    for (number, kind) in kinds.into_iter().enumerate() {
        let due = slot * number as u32 + slot.mul_f64(dice.roll(50) as f64 / 100.0);
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        let mut redis = redis.lock().unwrap();
        match kind {
            Kind::RedisPauses => redis.pause(dice.millis(100, 1200)),
            _ => {
                redis.kill();
                thread::sleep(dice.millis(0, 500));
                redis.start()?;
            }
        }
        faults.note(kind, 1);
    }
    Ok(faults)
}

impl Scene {
    /// Faults that there are only where several servers share their topics.
    fn kinds_of_sharing(&self) -> &'static [Kind] {
        if self.redis.is_some() { &Kind::SHARED } else { &[] }
    }
}

/// Hits clients or lines. One that hits nobody, because the server is down, is made up for.
fn others(
    scene: &Scene,
    mut dice: Dice,
    kinds: &[Kind],
    start: Instant,
    time: Duration,
    is_over: &AtomicBool,
) -> Faults {
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
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
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
        Kind::LineMoves => line.move_to(Arc::clone(&dice.pick(&scene.servers).lock().unwrap().address)),
        Kind::WayToRedisFallsSilent => dice.pick(&scene.ways).fall_silent(doze),
        Kind::WayToRedisIsCut => dice.pick(&scene.ways).cut(),
        Kind::WayToRedisIsReset => dice.pick(&scene.ways).reset(),
        Kind::PagesSleep => scene.pages.as_ref().map_or(0, |pages| {
            pages.suspend(doze / 2);
            scene.lines.len()
        }),
        _ => 0,
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>8} {:>12}", "fault", "times", "connections")?;
        for (kind, (count, connections)) in &self.0 {
            let is_of_all = Kind::SERVER.contains(kind) || Kind::REDIS.contains(kind);
            let connections = if is_of_all { "all".to_owned() } else { connections.to_string() };
            writeln!(f, "{:<40} {count:>8} {connections:>12}", format!("{kind:?}"))?;
        }
        Ok(())
    }
}

//! What there was, and whether it was right.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::faults::Faults;
use crate::members::Judged;
use crate::publisher::Published;
use crate::record::{Sums, Truth};
use crate::scene::Scene;
use crate::server::Tally;
use crate::subscriber::{Flaw, Taken};

/// So many of what is wrong with members are shown of each kind.
const SHOWN: usize = 8;

/// Prints what there was, and judges it.
///
/// # Errors
/// What is wrong.
pub(crate) fn report(scene: &Scene, faults: &Faults, published: &[Published], took: Duration) -> Result<(), String> {
    let positions: Vec<_> = published.iter().map(|published| published.positions.clone()).collect();
    let truth = Truth::new(scene.epochs()?, &positions)?;
    let check = |topic: usize, taken: &Taken| {
        let end = published[topic].positions.last().ok_or("nothing was published")?;
        truth.check(topic, *end, &taken.record)
    };
    let (mut sums, mut subscriptions, mut right, mut wrong) = (Sums::default(), 0, 0, Vec::new());
    let all = scene.taken()?;
    for (number, taken) in all.iter().enumerate() {
        let before = wrong.len();
        for (topic, taken) in taken {
            subscriptions += 1;
            match check(*topic, taken) {
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
    report_members(scene, &mut wrong);
    // Where nothing was lost there was no such word to swallow or to double.
    let was_told = |flaw: &Flaw| epochs > 1 || !matches!(flaw, Flaw::SwallowsLost | Flaw::DoublesLost);
    for (flaw, subscriber) in scene.flawed.iter().filter(|(flaw, _)| was_told(flaw)) {
        let taken = subscriber.taken();
        let found = taken.iter().find_map(|(topic, taken)| check(*topic, taken).err());
        control(&format!("{flaw:?}"), found.as_deref(), &mut wrong);
    }
    if scene.pages.is_none() {
        println!("skipped: pages: node has no WebSocket");
    }
    println!("{} s", took.as_secs());
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} are wrong:\n{}", wrong.len(), wrong.join("\n"))) }
}

/// Prints what the watchers have seen, and judges that.
fn report_members(scene: &Scene, wrong: &mut Vec<String>) {
    if scene.watchers.is_empty() {
        return;
    }
    let (facts, mut all) = (scene.facts(), Judged::default());
    for watcher in &scene.watchers {
        let Judged { wrong: found, gone, lost, there } = facts.judge(watcher, &watcher.seen());
        if let Some(blindness) = watcher.blindness {
            control(&format!("{blindness:?}"), found.first().map(String::as_str), wrong);
            continue;
        }
        all.gone += gone;
        all.lost += lost;
        all.there += there;
        let server = watcher.server;
        println!("{:<40} {:>8}", format!("members seen wrongly on server {server}"), found.len());
        // Of each kind some: what was told of those who were there or not, seen, missed, and blamed.
        let mut kinds = BTreeMap::<String, usize>::new();
        for found in found {
            let kind: String = found.chars().filter(|letter| letter.is_ascii_alphabetic() || *letter == ' ').collect();
            let count = kinds.entry(kind).or_default();
            *count += 1;
            if *count <= SHOWN {
                wrong.push(format!("members on server {server}: {found}"));
            }
        }
    }
    println!("{:<40} {:>8}", "times that a user had to be gone", all.gone);
    println!("{:<40} {:>8}", "seen as gone with their server", all.lost);
    println!("{:<40} {:>8}", "minutes that a user had to be there", all.there.as_secs() / 60);
    let late = facts.late.iter().map(|(from, to)| *to - *from).sum::<Duration>();
    println!("{:<40} {:>8}", "ms that we were late ourselves", late.as_millis());
    if all.gone < 20 || all.lost < 20 || all.there < Duration::from_secs(600) {
        wrong.push("there was too little to judge of the members: we were late for too long".to_owned());
    }
}

/// Something has a flaw, and the check has to find it.
fn control(flaw: &str, found: Option<&str>, wrong: &mut Vec<String>) {
    println!("control: {flaw:<31} {}", found.unwrap_or("NOT FOUND"));
    if found.is_none() {
        wrong.push(format!("the check does not find {flaw}"));
    }
}

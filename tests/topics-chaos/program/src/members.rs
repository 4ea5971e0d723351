//! Whether what watchers see of the members is true. The truth is what the chaos itself did to each connection, to the
//! servers, to Redis and to the ways between them.
//!
//! A user is there from when one of its connections was told that it is subscribed, and for as long as nothing was done
//! to that. It may be there from when that asked, until its end was found: within the bound that the servers print for
//! a dead connection, or for a dead server. News takes a moment where all is well, and after some trouble as long as
//! the servers take to find their way to Redis again. Before that nothing is asked of them, and neither where we were
//! late ourselves.
//!
//! - Nobody is seen who is gone, and nobody is missed who is there.
//! - Nobody joins who is there already, and nobody goes who is not. The watcher itself knows that.
//! - No server is blamed that lives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::server::{FOUND_DEAD, Life};
use crate::stay::Stay;
use crate::times::{Span, Times};
use crate::watcher::{NODE_LOST, Seen, Sight, Watcher};

/// How long after its end a server is found dead, as all of them say by default.
const SERVER_FOUND_DEAD: Duration = Duration::from_secs(11);

/// How long news is under way from one server to a watcher of the other, where all is well. Whoever has much to tell
/// gives a list in place of changes, once a second.
const NEWS: Duration = Duration::from_secs(2);

/// How long after some trouble all servers have found their way to Redis again: they try it every two seconds at least.
const RECOVERY: Duration = Duration::from_secs(4);

/// What the chaos has done.
pub(crate) struct Facts {
    pub(crate) whole: Span,
    /// The processes of each server.
    pub(crate) lives: Vec<Vec<Life>>,
    pub(crate) redis: Vec<Span>,
    /// Of the way of each server to Redis.
    pub(crate) ways: Vec<Vec<Span>>,
    /// When we were late ourselves.
    pub(crate) late: Vec<Span>,
    /// The connections of each user, with their topics and what befell their lines.
    pub(crate) stays: BTreeMap<String, Vec<(BTreeSet<usize>, Vec<Span>, Stay)>>,
}

/// How much there was to judge, and how it was.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) wrong: Vec<String>,
    /// Of those who were gone in sight of a watcher.
    pub(crate) gone: u64,
    /// Of whose server was found dead.
    pub(crate) lost: u64,
    /// For how long somebody was surely there, in sight of a watcher.
    pub(crate) there: Duration,
}

/// What a watcher knew of somebody.
struct Glimpse {
    topic: usize,
    who: String,
    span: Span,
    is_listed: bool,
}

impl Facts {
    pub(crate) fn judge(&self, watcher: &Watcher, seen: &Seen) -> Judged {
        let view = View::new(self, watcher.server);
        let mut judged = Judged { wrong: seen.wrong.clone(), ..Judged::default() };
        view.check_blame(seen, &mut judged);
        for glimpse in self.glimpses(seen) {
            let Glimpse { topic, who, span, is_listed } = &glimpse;
            let Some(stays) = view.known.get(who) else {
                judged.wrong.push(format!("{who}, who never was, was seen on topic {topic}"));
                continue;
            };
            let stays = stays.iter().filter(|known| known.topics.contains(topic));
            if *is_listed {
                let may_be = Times::union(stays.map(|known| (known.asked, known.gone_by.unwrap_or(self.whole.1))));
                if let Some(ghost) = may_be.gaps(*span).iter().next() {
                    let by = |known: &Known| format!("{:?}", known.gone_by.map(|by| by - self.whole.0));
                    let stays = view.known[who].iter().filter(|known| known.topics.contains(topic));
                    let last = stays.filter(|known| known.asked < ghost.0).max_by_key(|known| known.asked).map(by);
                    judged.wrong.push(self.word("was seen, and is gone", &glimpse, ghost) + &format!(" {last:?}"));
                }
            } else {
                let is_near = |((from, to), _): &(Span, usize)| *from < span.1 && *to > span.0;
                let near = stays.filter(|known| known.well.as_ref().is_some_and(is_near));
                let is_there = Times::union(near.filter_map(|known| known.is_there(&view, span.0)));
                if let Some(missed) = is_there.within(*span).iter().next() {
                    judged.wrong.push(self.word("was missed, and is there", &glimpse, missed));
                }
            }
        }
        self.measure(&view, seen, &mut judged);
        judged
    }

    fn word(&self, what: &str, glimpse: &Glimpse, (from, to): Span) -> String {
        let Glimpse { topic, who, .. } = glimpse;
        let at = |moment: Instant| (moment - self.whole.0).as_secs_f64();
        format!("{who} {what}, on topic {topic}, from {:.3} to {:.3} s", at(from), at(to))
    }

    /// What a watcher has known of each user that it has ever seen or might have.
    fn glimpses(&self, seen: &Seen) -> Vec<Glimpse> {
        let (mut glimpses, mut topics) = (Vec::new(), BTreeMap::<usize, BTreeMap<String, (bool, Instant)>>::new());
        let users = || self.stays.keys().cloned();
        let mut end = |topic: usize, who: String, (is_listed, from): (bool, Instant), to: Instant| {
            glimpses.push(Glimpse { topic, who, span: (from, to), is_listed });
        };
        for (when, sight) in &seen.sights {
            match sight {
                Sight::All(topic, members) => {
                    let known = topics.entry(*topic).or_default();
                    let everybody: BTreeSet<_> =
                        users().chain(members.iter().filter(|who| is_user(who)).cloned()).collect();
                    for who in everybody {
                        let is_listed = members.contains(&who);
                        match known.get(&who) {
                            Some((was_listed, _)) if *was_listed == is_listed => {}
                            _ => {
                                if let Some(before) = known.insert(who.clone(), (is_listed, *when)) {
                                    end(*topic, who, before, *when);
                                }
                            }
                        }
                    }
                }
                Sight::Joined(topic, who) | Sight::Gone(topic, who, _) if is_user(who) => {
                    let is_listed = matches!(sight, Sight::Joined(..));
                    let before = topics.entry(*topic).or_default().insert(who.clone(), (is_listed, *when));
                    before.into_iter().for_each(|before| end(*topic, who.clone(), before, *when));
                }
                Sight::Joined(..) | Sight::Gone(..) => {}
                // What was known then is known again now, whatever was between.
                Sight::Late(since) => {
                    for (topic, known) in &mut topics {
                        for (who, state) in known {
                            if state.1 < *since {
                                end(*topic, who.clone(), *state, *since);
                            }
                            state.1 = *when;
                        }
                    }
                }
                Sight::Nothing => {
                    for (topic, known) in std::mem::take(&mut topics) {
                        known.into_iter().for_each(|(who, state)| end(topic, who, state, *when));
                    }
                }
            }
        }
        glimpses
    }

    /// Counts what there was to judge.
    fn measure(&self, view: &View<'_>, seen: &Seen, judged: &mut Judged) {
        let mut sighted = Vec::new();
        let mut since = None;
        for (when, sight) in &seen.sights {
            match sight {
                Sight::All(..) => _ = since.get_or_insert(*when),
                Sight::Nothing => sighted.extend(since.take().map(|since| (since, *when))),
                _ => {}
            }
        }
        let sighted = Times::union(sighted);
        for stays in view.known.values() {
            let may_be = Times::union(stays.iter().map(|known| (known.asked, known.gone_by.unwrap_or(self.whole.1))));
            judged.gone += may_be.iter().filter(|(_, end)| *end < self.whole.1 && sighted.has(*end)).count() as u64;
            let is_there = Times::union(stays.iter().filter_map(|known| known.is_there(view, self.whole.0)));
            judged.there += sighted.iter().map(|sight| is_there.within(sight).length()).sum::<Duration>();
        }
    }

    /// The process at an address, and its server.
    fn life(&self, process: SocketAddr) -> Option<(usize, Life)> {
        let with_server = self.lives.iter().enumerate();
        let mut lives = with_server.flat_map(|(server, lives)| lives.iter().map(move |life| (server, *life)));
        lives.find(|(_, life)| life.address == process)
    }
}

/// Whether it is one of the users that subscribe, and not a watcher, or a page that has no name.
fn is_user(who: &str) -> bool {
    who.starts_with("user ")
}

/// The facts, as those have to know them who ask one of the servers.
struct View<'a> {
    facts: &'a Facts,
    server: usize,
    /// When news gets from each server to this one.
    clear: Vec<Times>,
    known: BTreeMap<String, Vec<Known<'a>>>,
}

/// What there is to be known of a connection.
struct Known<'a> {
    topics: &'a BTreeSet<usize>,
    asked: Instant,
    /// By when its end is known.
    gone_by: Option<Instant>,
    /// If its server may have ended before it could tell of that: when, and by when that is known.
    lost_with: Option<(Instant, Option<Instant>)>,
    /// When it was subscribed, and until when it was surely well, on this server.
    well: Option<(Span, usize)>,
}

impl<'a> View<'a> {
    fn new(facts: &'a Facts, server: usize) -> Self {
        let clear = |other: &Vec<Span>| {
            let ways = other.iter().chain(&facts.ways[server]);
            let troubles = Times::union(ways.chain(&facts.redis).chain(&facts.late).copied());
            let after = |(from, to): Span| (if from == facts.whole.0 { from } else { from + RECOVERY }, to);
            Times::union(troubles.gaps(facts.whole).iter().map(after))
        };
        let clear = facts.ways.iter().map(clear).collect();
        let mut view = Self { facts, server, clear, known: BTreeMap::new() };
        let lost_by: BTreeMap<SocketAddr, Option<Instant>> =
            facts.lives.iter().flatten().map(|life| (life.address, view.lost_by(life))).collect();
        let known = |(topics, faults, stay): &'a (BTreeSet<usize>, Vec<Span>, Stay)| {
            let place = stay.process.and_then(|process| facts.life(process));
            let told_by = place.and_then(|(server, _)| view.told_by(faults, stay, server));
            let lost_with = place.and_then(|(_, life)| life.end).map(|(end, _)| end);
            let lost_with = lost_with.filter(|end| told_by.is_none_or(|told_by| told_by > *end));
            let lost_with = lost_with.map(|end| (end, stay.process.and_then(|process| *lost_by.get(&process)?)));
            Known {
                topics,
                asked: stay.asked,
                gone_by: stay.ended.and_then(|_| lost_with.map_or(told_by, |(_, lost_by)| lost_by)),
                lost_with,
                well: place.and_then(|(server, life)| Some((well(faults, stay, &life)?, server))),
            }
        };
        let known = facts.stays.iter().map(|(who, stays)| (who.clone(), stays.iter().map(known).collect()));
        view.known = known.collect();
        view
    }

    /// When news of a server is known that it has had at a moment for so long.
    fn known(&self, from: usize, moment: Instant, after: Duration) -> Option<Instant> {
        let known = self.clear[from].iter().map(|(begin, end)| (begin.max(moment) + after + NEWS, end));
        known.filter(|(known, end)| known <= end).map(|(known, _)| known).min()
    }

    /// By when the end of a connection is known, if its server goes on.
    fn told_by(&self, faults: &[Span], stay: &Stay, server: usize) -> Option<Instant> {
        let ended = stay.ended?;
        // A line that was silent may have had some bytes in it.
        let silent = faults.iter().filter(|(from, _)| *from <= ended).map(|(_, to)| *to).max();
        let found = silent.map_or(ended, |silent| silent.max(ended)) + FOUND_DEAD;
        self.known(server, found, Duration::ZERO)
    }

    /// Whoever is gone because its server was found dead was connected to one that had ended shortly before.
    fn check_blame(&self, seen: &Seen, judged: &mut Judged) {
        for (when, sight) in &seen.sights {
            let Sight::Gone(topic, who, cause) = sight else { continue };
            let Some(stays) = self.known.get(who).filter(|_| cause == NODE_LOST) else { continue };
            judged.lost += 1;
            let is_lost = |(end, by): (Instant, Option<Instant>)| end < *when && by.is_none_or(|by| *when <= by);
            if !stays.iter().any(|stay| stay.topics.contains(topic) && stay.lost_with.is_some_and(is_lost)) {
                judged.wrong.push(format!("{who} is gone from topic {topic}, as {cause}, whose server lives"));
            }
        }
    }

    /// By when it is known that a server has ended, if it could not say so: one of the others has found it dead that
    /// had its way to Redis for as long.
    fn lost_by(&self, life: &Life) -> Option<Instant> {
        let (_, dead) = life.end?;
        let judges = self.facts.lives.iter().enumerate();
        let judges = judges.flat_map(|(server, lives)| lives.iter().map(move |judge| (server, judge)));
        let found = judges.filter(|(_, judge)| judge.address != life.address).filter_map(|(server, judge)| {
            let found = self.known(server, judge.serves.max(dead), SERVER_FOUND_DEAD)?;
            judge.end.is_none_or(|(end, _)| found <= end).then_some(found)
        });
        found.min()
    }
}

impl Known<'_> {
    /// When it is surely there, for whoever has watched since a moment.
    fn is_there(&self, view: &View<'_>, watched: Instant) -> Option<Span> {
        let ((subscribed, until), server) = self.well?;
        // Who has begun since was told anew.
        let lives = view.facts.lives[view.server].iter().filter(|life| life.began <= watched);
        let serves = lives.map(|life| life.serves).max().unwrap_or(view.facts.whole.0);
        let from = view.known(server, subscribed.max(serves), Duration::ZERO)?;
        (from < until).then_some((from, until))
    }
}

/// When a connection was subscribed, and until when nothing was done to it, to its line or to its server.
fn well(faults: &[Span], stay: &Stay, life: &Life) -> Option<Span> {
    let fault = faults.iter().map(|(from, _)| *from).filter(|from| *from >= stay.asked).min();
    let ends = [fault, life.end.map(|(end, _)| end)];
    let until = ends.into_iter().flatten().fold(stay.well_until, Instant::min);
    let subscribed = stay.subscribed?;
    (subscribed < until).then_some((subscribed, until))
}

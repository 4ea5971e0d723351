//! The tables of docs/scale.md.

use super::clients::{Loss, Storm};
use super::cluster::{BOUND, Cluster};
use super::failover::{Failover, PROMOTION};
use super::figures::Figures;
use super::loading;
use super::measure::Costs;
use super::model::{CONNECTIONS, NODES, Traffic, loading};
use super::page::{Table, short, time, whole};
use super::random::Random;
use super::restart::{self, Balance};
use crate::spread::Spread;

/// Full TLS handshakes a second of a node with two processors, which it shares with the load: see bench/README.md.
const HANDSHAKES: f64 = 6578.0;

/// Topics that each node says to be in use.
const TOPICS: f64 = 1000.0;

/// Bytes a second of a network of 10 Gbit/s.
const NETWORK: f64 = 1.25e9;

pub(super) fn all(figures: &Figures, seed: u64) -> Vec<(&'static str, Table)> {
    vec![
        ("what Redis carries", carried(figures)),
        ("where it ends", ends(figures)),
        ("idle", idle(figures)),
        ("nodes load everything", loads(figures)),
        ("clients come back", storms(seed)),
        ("a node dies", death(seed)),
        ("Redis fails over", failovers(seed)),
        ("a rolling restart", restarts(seed)),
    ]
}

/// How well the costs explain what was measured.
pub(super) fn fit(rounds: &[(Costs, loading::Loading)]) -> Table {
    let mut table = Table::new(&["", "median", "range"]);
    let mut add = |name: &str, value: fn(&Costs) -> f64| {
        let values: Vec<f64> = rounds.iter().map(|(costs, _)| value(costs)).collect();
        let Some(Spread { median, low, high, .. }) = Spread::of(&values) else { return };
        table.add([name.to_owned(), percent(median), format!("{}..{}", percent(low), percent(high))]);
    };
    add("the sum that is furthest from what was measured is off by", |costs| costs.worst);
    add("100 idle nodes: of a core of Redis, measured", |costs| costs.idle.0);
    add("100 idle nodes: by these costs", |costs| costs.idle.1);
    table
}

fn traffic(nodes: usize, messages: f64, bytes: f64) -> Traffic {
    Traffic { nodes, messages, bytes, topics: TOPICS }
}

fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

fn carried(figures: &Figures) -> Table {
    let mut table = Table::new(&["messages", "of a core of Redis", "Redis sends", "the log reaches back"]);
    for (messages, bytes) in [(10.0, 100.0), (100.0, 500.0), (500.0, 200.0), (1000.0, 200.0), (2000.0, 200.0)] {
        let traffic = traffic(NODES, messages, bytes);
        let load = traffic.load(figures);
        table.add([
            format!("{} /s of {} bytes", whole(messages), whole(bytes)),
            percent(load.processor),
            format!("{} MB/s", short(load.sent / 1e6)),
            time(traffic.log_seconds()),
        ]);
    }
    table
}

fn ends(figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "nodes",
        "of 200 bytes",
        "of 2,000 bytes",
        "Redis sends, then",
        "of 200 bytes, if nodes did not rest",
    ]);
    for nodes in [2, 10, 30, 100, 300] {
        let (small, large) = (traffic(nodes, 0.0, 200.0), traffic(nodes, 0.0, 2000.0));
        let most = small.most(figures, Traffic::load);
        let of_large = large.most(figures, Traffic::load);
        let sent = Traffic { messages: of_large, ..large }.load(figures).sent;
        let restless = small.most(figures, Traffic::restless);
        let rate = |messages: f64| format!("{} /s", short(messages));
        table.add([
            whole(nodes as f64),
            rate(most),
            rate(of_large),
            format!("{} MB/s", short(sent / 1e6)),
            rate(restless),
        ]);
    }
    table
}

fn idle(figures: &Figures) -> Table {
    let mut table = Table::new(&["nodes that do nothing", "of a core of Redis", "Redis sends"]);
    for nodes in [10, 100, 300, 1000] {
        let load = Traffic::idle(nodes).load(figures);
        table.add([whole(nodes as f64), percent(load.processor), format!("{} MB/s", short(load.sent / 1e6))]);
    }
    table
}

fn loads(figures: &Figures) -> Table {
    let heading = ["what a node loads", "a core of Redis, for one", "for 100 nodes", "10 Gbit/s, for 100 nodes"];
    let mut table = Table::new(&heading);
    let seats = (NODES * CONNECTIONS) as f64;
    for (what, bytes, seats) in [
        ("64 MiB of histories, messages of 100 bytes", 100.0, 0.0),
        ("and 1,000,000 subscribers, with presence", 100.0, seats),
        ("64 MiB of histories, messages of 2,000 bytes", 2000.0, 0.0),
    ] {
        let each = loading(figures, bytes, seats);
        let all = NODES as f64;
        table.add([what.to_owned(), time(each.redis), time(each.redis * all), time(each.bytes * all / NETWORK)]);
    }
    table
}

fn storms(seed: u64) -> Table {
    let heading = [
        "who comes back",
        "it is noticed",
        "busiest 0.1 s, each node",
        "longest wait",
        "given up",
        "half back",
        "all back",
    ];
    let mut table = Table::new(&heading);
    let all = NODES * CONNECTIONS;
    for (what, loss, clients, nodes) in [
        ("10,000 to 99, process killed", Loss::Process, CONNECTIONS, NODES - 1),
        ("10,000 to 99, host gone", Loss::Host, CONNECTIONS, NODES - 1),
        ("10,000 to 1, process killed", Loss::Process, CONNECTIONS, 1),
        ("10,000 to 1, host gone", Loss::Host, CONNECTIONS, 1),
        ("1,000,000 to 100, balancer restarted", Loss::Process, all, NODES),
    ] {
        let outcome = Storm { loss, clients, nodes, handshakes: HANDSHAKES }.run(&mut Random::new(seed));
        table.add([
            what.to_owned(),
            noticed(outcome.noticed),
            format!("{} /s", short(outcome.busiest)),
            time(outcome.longest_wait),
            whole(outcome.given_up as f64),
            time(outcome.back.0),
            time(outcome.back.1),
        ]);
    }
    table
}

fn noticed((first, last): (f64, f64)) -> String {
    if last == 0.0 { "at once".into() } else { format!("after {} to {} s", short(first), short(last)) }
}

fn death(seed: u64) -> Table {
    let mut table = Table::new(&["nodes", "found by the first", "by the last", "ask to have it told", "it is told"]);
    for nodes in [3, 10, NODES] {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(nodes, &mut random);
        const AT: f64 = 30.0;
        cluster.kill(0, AT);
        let deaths = cluster.run(AT + 2.0 * BOUND);
        let times = deaths.found.iter().map(|(at, _)| at - AT);
        table.add([
            whole(nodes as f64),
            time(times.clone().fold(f64::INFINITY, f64::min)),
            time(times.fold(0.0, f64::max)),
            whole(deaths.found.len() as f64),
            if deaths.told == 1 { "once".to_owned() } else { format!("{} times", deaths.told) },
        ]);
    }
    table
}

fn failovers(seed: u64) -> Table {
    let heading = [
        "what happens",
        "new master after",
        "nodes notice",
        "attempts in the busiest second",
        "nodes are back after",
        "`unavailable` for",
        "nodes taken for dead",
    ];
    let mut table = Table::new(&heading);
    for (loss, down_after) in
        [(Loss::Process, 5.0), (Loss::Process, 2.0), (Loss::Host, 5.0), (Loss::Host, 2.0), (Loss::Host, 30.0)]
    {
        let outcome = Failover { loss, nodes: NODES, down_after }.run(&mut Random::new(seed));
        let what = if loss == Loss::Process { "Redis is killed" } else { "its host is gone" };
        table.add([
            format!("{what}, `down-after` {} s", whole(down_after)),
            time(down_after + PROMOTION),
            noticed(outcome.noticed),
            whole(outcome.busiest as f64),
            format!("{} to {} s", short(outcome.back.0), short(outcome.back.1)),
            if outcome.refused > 0.0 { time(outcome.refused) } else { "never".into() },
            whole(outcome.dead as f64),
        ]);
    }
    table
}

fn restarts(seed: u64) -> Table {
    let heading = ["the balancer chooses", "a client moves", "most connections of a node", "at the end"];
    let mut table = Table::new(&heading);
    for (what, balance) in [("by chance or in turns", Balance::Chance), ("who has fewest", Balance::Fewest)] {
        let outcome = restart::run(NODES, CONNECTIONS, balance, &mut Random::new(seed));
        table.add([
            what.to_owned(),
            format!("{} times", short(outcome.moves)),
            whole(outcome.most as f64),
            format!("{} to {}", whole(outcome.at_the_end.0 as f64), whole(outcome.at_the_end.1 as f64)),
        ]);
    }
    table
}

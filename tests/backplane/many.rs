//! What many nodes do to one Redis, and what it is when the Redis is one of a cluster.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use heartwire::topics::Redis;
use redis::FromRedisValue;

use super::redis_server::RedisServer;
use super::{lone_node, node_with, redis_or_skip, topics, wait_until_connected};
use crate::support::topics::{client_of, value, watcher};
use crate::support::{Running, echo, eventually, server, start};

/// A script of ours, with what all scripts share.
macro_rules! script {
    ($name:literal) => {
        include_str!(concat!("../../src/topics/redis/", $name))
    };
}

fn evaluate<T: FromRedisValue>(redis: &RedisServer, script: &str, arguments: &[&str]) -> T {
    let mut command = redis::cmd("EVAL");
    command.arg(format!("{}{script}", script!("common.lua"))).arg(0).arg(arguments);
    redis.query(&command).expect("a script of ours")
}

fn count_in_log(redis: &RedisServer, what: &str) -> usize {
    let entries: Vec<(String, Vec<String>)> = redis.ask("XRANGE heartwire:log - +").expect("a log");
    entries.iter().filter(|(_, fields)| fields.chunks(2).any(|field| field == ["w", what])).count()
}

/// How often a command was called.
fn calls(redis: &RedisServer, command: &str) -> u64 {
    let info: String = redis.ask("INFO commandstats").expect("its counters");
    let found =
        info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
    found.map_or(0, |calls| calls.parse().expect("a number"))
}

#[test]
fn a_death_that_several_nodes_find_is_told_once() {
    let redis = redis_or_skip!(RedisServer::start());
    let (is_known, _) =
        evaluate::<(u8, String)>(&redis, script!("announce.lua"), &["heartwire", "ghost", "0", "7", "{}"]);
    assert_eq!(is_known, 0);
    let bury = |generation| {
        evaluate::<u8>(&redis, script!("bury.lua"), &["heartwire", "ghost", generation, "node lost 11000"])
    };
    assert_eq!([bury("6"), bury("7"), bury("7")], [0, 1, 0]);
    assert_eq!(count_in_log(&redis, "node-gone"), 1);
}

#[test]
fn what_a_node_has_just_written_does_not_hide_that_what_it_had_read_is_lost() {
    type Attached = (String, String, String, u64, u64, u64);
    let redis = redis_or_skip!(RedisServer::start());
    const NEXT: &str = "00000000000000ab";
    let attach = |known: &str, read: &str, written: &str| {
        let arguments = ["heartwire", NEXT, known, read, written, ""];
        evaluate::<Attached>(&redis, script!("attach.lua"), &arguments)
    };
    let (epoch, ..) = attach("", "0-0", "0-0");
    let (_, written) =
        evaluate::<(u8, String)>(&redis, script!("announce.lua"), &["heartwire", "ghost", "0", "7", "{}"]);
    assert_eq!(attach(&epoch, &written, &written).1, "same");
    assert_eq!(attach(&epoch, "9999999999999-0", &written).1, "new");
    assert_eq!(attach(NEXT, &written, &written).1, "same");
    assert_eq!(attach(NEXT, &written, "9999999999999-0").1, "new");
}

#[test]
fn the_members_of_a_dead_node_are_gone_though_redis_has_forgotten_it() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = node_with(&redis, topics().presence(true));
    let (mut client, _) = watcher(&node);
    let about = r#"{"bound":500}"#;
    evaluate::<(u8, String)>(&redis, script!("announce.lua"), &["heartwire", "ghost", "0", "7", about]);
    let seat = r#"[["room",1,{"user":"alice","missing":false}]]"#;
    let told = ["heartwire", "ghost", "7", "0", seat, "1 room", "{}"];
    assert_eq!(evaluate::<(u8, String)>(&redis, script!("presence.lua"), &told).0, 1);
    assert_eq!(value(&client.text(), "type"), "joined");
    let _: u8 = redis.ask("HDEL heartwire:nodes ghost").unwrap();
    let gone = client.text();
    assert!(gone.contains(r#""type":"gone""#) && gone.contains("node lost"), "{gone}");
}

#[test]
fn subscribers_that_come_together_take_one_entry_of_the_log() {
    let redis = redis_or_skip!(RedisServer::start());
    let node = node_with(&redis, topics().presence(true));
    let mut client = client_of(&node);
    let names: Vec<_> = (0..100).map(|number| format!(r#"{{"topic":"room/{number}"}}"#)).collect();
    client.send_text(&format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, names.join(",")));
    // And a note that these are all.
    let told = || {
        redis.ask::<Vec<(String, u64)>>("HGETALL heartwire:nodes").map_or(0, |nodes| {
            let members = nodes.iter().map(|(name, _)| redis.ask::<usize>(&format!("HLEN heartwire:members:{name}")));
            members.map(Result::unwrap_or_default).sum()
        })
    };
    eventually("all are told", || told() == 101);
    let entries = count_in_log(&redis, "presence");
    assert!((1..20).contains(&entries), "{entries} entries");
}

#[test]
fn a_node_that_loads_for_longer_than_the_log_reaches_back_misses_nothing() {
    const FILL: &str = r#"
        for node = 1, 80 do
            redis.call('HSET', ARGV[1] .. ':nodes', 'node' .. node, 7)
            for id = 1, 2500 do
                local member, state = id .. ' room/' .. id % 100, '{"user":"' .. id .. '","missing":false}'
                redis.call('HSET', ARGV[1] .. ':members:node' .. node, member, state)
            end
        end"#;
    const WRITE: &str = "for _ = 1, 1500 do log(ARGV[1], 'later', '', '0', '', '', '0') end";
    let redis = redis_or_skip!(RedisServer::start());
    let one = node_with(&redis, topics());
    one.handle.publish("news", "1").unwrap();
    evaluate::<()>(&redis, FILL, &["heartwire"]);
    let is_over = AtomicBool::new(false);
    let has_all = |node: &Running, offset| node.handle.topics().iter().any(|topic| topic.position.offset() == offset);
    thread::scope(|scope| {
        scope.spawn(|| {
            // While the members of all nodes are read, more is written than the log keeps, however fast that is.
            let mut seen = 0;
            while !is_over.load(Relaxed) {
                let read = calls(&redis, "hgetall");
                if read >= seen + 10 {
                    evaluate::<()>(&redis, WRITE, &["heartwire"]);
                    seen += 10;
                }
            }
        });
        let two = lone_node(&redis, topics().presence(true));
        let connected = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until_connected(&two);
            assert!(has_all(&two, 1));
            one.handle.publish("news", "2").unwrap();
            eventually("it goes on with the log", || has_all(&two, 2));
        }));
        is_over.store(true, Relaxed);
        connected.unwrap();
    });
}

/// Two masters that have half of the slots each.
fn cluster() -> [RedisServer; 2] {
    let start = || {
        let port = super::redis_server::free_port().to_string();
        RedisServer::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &port,
            "--cluster-require-full-coverage",
            "no",
        ])
    };
    let (one, other) = (start(), start());
    for (master, slots) in [(&one, "0 8191"), (&other, "8192 16383")] {
        let _: String = master.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}")).unwrap();
    }
    let bus = other.option("--cluster-port").expect("its port");
    let _: String = one.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port())).unwrap();
    let is_up = |master: &RedisServer| {
        master
            .ask::<String>("CLUSTER INFO")
            .is_ok_and(|info| info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384"))
    };
    eventually("the cluster is up", || is_up(&one) && is_up(&other));
    [one, other]
}

#[test]
fn in_a_cluster_all_keys_are_those_of_one_master_if_the_prefix_says_so() {
    let [one, other] = redis_or_skip!(cluster());
    let slot: u16 = one.ask("CLUSTER KEYSLOT {heartwire}:log").unwrap();
    let (owner, stranger) = if slot < 8192 { (one, other) } else { (other, one) };
    let at = |redis: &RedisServer, prefix: &str| {
        let backplane = Redis::new(&redis.url()).unwrap().prefix(prefix).publish_timeout(Duration::from_millis(500));
        start(server().topics(topics().presence(true).backplane(backplane)), echo)
    };
    let (first, second) = (at(&owner, "{heartwire}"), at(&owner, "{heartwire}"));
    [&first, &second].into_iter().for_each(wait_until_connected);
    first.handle.publish_once("news", "1", "key").unwrap();
    assert!(second.handle.publish_once("news", "1", "key").unwrap().again);
    // Whoever asks another master is sent to the right one, and does not go there. Nor is a topic's slot that of the
    // log.
    for (redis, prefix) in [(&stranger, "{heartwire}"), (&owner, "heartwire")] {
        let lost = at(redis, prefix);
        assert!(lost.handle.publish("news", "2").is_err(), "{prefix}");
        assert!(!lost.handle.backplane().is_some_and(|backplane| backplane.is_connected), "{prefix}");
    }
    assert_eq!(owner.ask::<()>("MGET heartwire:epoch heartwire:log-number").unwrap_err().code(), Some("CROSSSLOT"));
}

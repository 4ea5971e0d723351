//! Hostile and clumsy peers: each scenario against a real server, and a table of what was measured.
//!
//! After every scenario the server must still serve, a well-behaved bystander must have noticed nothing, threads, file
//! descriptors and registry must be back to what they were, every connection that opened must be reported closed
//! exactly once, and memory must have stayed within its bound. And each check has its negative control: it must fail
//! where the fault is not injected, or the server is misconfigured.
//!
//!     HEARTWIRE_HOSTILE=flood HEARTWIRE_SEED=7 cargo test --release --test hostile -- --nocapture
//!
//! runs the scenarios with that in their names, and repeats what was random. With `HEARTWIRE_TEST_TLS=1` they run over
//! TLS. Heavy ones are scaled down in debug builds; the table says how many there were of everything.

#![cfg(target_os = "linux")]

#[allow(dead_code, unused_imports, unused_macros, reason = "this crate uses only some of it")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "deflate")]
mod bombs;
mod closings;
mod crowds;
mod floods;
mod ledger;
mod openings;
#[cfg(feature = "cli")]
mod processes;
mod relay;
mod relayed;
mod resets;
mod rig;
#[cfg(feature = "tls")]
mod secured;
mod shutdown;
mod site;
#[cfg(all(feature = "cli", feature = "jwt"))]
mod topics;
mod violations;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, panic, thread};

use heartwire::Server;

use rig::Rig;

/// What a check came to: what it measured, or what was wrong.
pub(crate) type Checked = Result<String, String>;

/// Ends a check that finds something wrong.
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}
pub(crate) use ensure;

/// A scenario and its negative control.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) server: fn(Server) -> Server,
    pub(crate) check: fn(&Rig) -> Checked,
    pub(crate) control: Control,
    /// How many MiB the whole process, peers included, may grow by.
    pub(crate) memory: u64,
}

/// The same check where it must fail.
pub(crate) struct Control {
    pub(crate) what: &'static str,
    pub(crate) server: fn(Server) -> Server,
    pub(crate) check: fn(&Rig) -> Checked,
}

/// A server with nothing special.
pub(crate) fn plain(server: Server) -> Server {
    server
}

/// So many in a release build, and so many where everything takes ten times as long.
pub(crate) const fn scaled(release: usize, debug: usize) -> usize {
    if cfg!(debug_assertions) { debug } else { release }
}

/// What random scenarios begin with.
pub(crate) fn seed() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| match env::var("HEARTWIRE_SEED") {
        Ok(seed) => seed.parse().expect("HEARTWIRE_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 % 1_000_000),
    })
}

/// What a handler says that panics on purpose.
pub(crate) const ON_PURPOSE: &str = "on purpose";

/// How often a thread of the server has panicked although nobody meant it to.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn silence_panics_on_purpose() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().copied();
        let text = text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
        let is_on_purpose = text.is_some_and(|text| text.contains(ON_PURPOSE));
        let is_in = |begin| thread::current().name().is_some_and(|name| name.starts_with(begin));
        if is_on_purpose && is_in("heartwire-conn") {
            return;
        }
        if is_in("heartwire-") {
            PANICS.fetch_add(1, Relaxed);
        }
        usual(info);
    }));
}

/// Scenarios that mean nothing over TLS, or mean something else there: see `secured` for that.
const PLAIN_ONLY: [(&str, &str); 7] = [
    ("slow handshake, byte by byte", "its peers read what comes within a millisecond; see tests/integration/tls"),
    ("connected, and not a byte", "there is no answer without TLS; see tests/integration/tls"),
    ("headers without end", "its peers read what comes within a millisecond"),
    ("half-open: the peer's end is over", "it cuts frames on the wire; see tests/integration/tls"),
    ("many announce the largest message", "the program does not speak TLS here"),
    ("idle stacks", "the program does not speak TLS here"),
    ("out of file descriptors, and back", "the program does not speak TLS here"),
];

/// Those that apply, and are asked for.
fn chosen() -> Vec<Scenario> {
    let only = env::var("HEARTWIRE_HOSTILE").unwrap_or_default();
    let mut all = scenarios();
    if support::over_tls::is_on() {
        for (name, why) in PLAIN_ONLY {
            println!("not over TLS: {name}: {why}");
        }
        println!("not over TLS: topics: the program does not speak TLS here");
        all.retain(|scenario| !scenario.name.starts_with("topics: "));
        all.retain(|scenario| PLAIN_ONLY.iter().all(|(name, _)| *name != scenario.name));
        #[cfg(feature = "tls")]
        all.extend(secured::scenarios());
    }
    all.retain(|scenario| scenario.name.contains(&only));
    all
}

fn scenarios() -> Vec<Scenario> {
    let mut all = openings::scenarios();
    all.extend(resets::scenarios());
    all.extend(violations::scenarios());
    all.extend(closings::scenarios());
    all.extend(floods::scenarios());
    all.extend(crowds::scenarios());
    all.extend(relayed::scenarios());
    all.extend(shutdown::scenarios());
    #[cfg(feature = "deflate")]
    all.extend(bombs::scenarios());
    #[cfg(feature = "cli")]
    all.extend(processes::scenarios());
    #[cfg(all(feature = "cli", feature = "jwt"))]
    all.extend(topics::scenarios());
    all
}

#[test]
fn hostile_and_clumsy_peers_hurt_nobody() {
    #[cfg(feature = "tls")]
    if secured::be_a_crowd() {
        return;
    }
    silence_panics_on_purpose();
    #[cfg(feature = "cli")]
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let began = Instant::now();
    let mut table = Vec::new();
    let mut failures = Vec::new();
    for scenario in &chosen() {
        let start = Instant::now();
        let row = match rig::run(scenario) {
            Ok(outcome) => outcome.row(scenario.name, start.elapsed()),
            Err(what) => {
                failures.push(format!("{}: {what}", scenario.name));
                format!("{:<34} FAILED: {what}", scenario.name)
            }
        };
        let panics = PANICS.swap(0, Relaxed);
        if panics > 0 {
            failures.push(format!("{}: {panics} panics that nobody meant", scenario.name));
        }
        println!("{row}");
        table.push(row);
        match rig::run_control(scenario) {
            Err(_) => {}
            Ok(measured) => {
                let what = format!("the check holds although {}: {measured}", scenario.control.what);
                failures.push(format!("{}: {what}", scenario.name));
                table.push(format!("{:<34} FAILED: {what}", scenario.name));
            }
        }
        // In a control anything may happen.
        PANICS.store(0, Relaxed);
    }
    print_table(&table, began.elapsed());
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn print_table(table: &[String], took: Duration) {
    println!("\n{}", rig::Outcome::header());
    for row in table {
        println!("{row}");
    }
    let build = if cfg!(debug_assertions) { "debug, scaled down" } else { "release" };
    println!("{} rows in {took:.1?} ({build}); seed {}; each negative control failed, as it must", table.len(), seed());
}

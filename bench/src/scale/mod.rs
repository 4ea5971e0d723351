//! 100 nodes of 10,000 connections, on paper: what Redis carries, where it ends, and what happens when something dies.
//!
//! ```text
//! measure, loading: heartwire's nodes and scripts, against a redis-server ──> figures ──> model: sums ──┐
//! clients, cluster, failover, restart: heartwire's state machines, with numbers by a seed ──────────────┴─> tables
//! ```
//!
//! What decides is heartwire's own: its heartbeat by the library, the rest by its files, which are pure.

mod clients;
mod cluster;
mod failover;
mod figures;
mod fit;
mod loading;
mod measure;
mod model;
mod page;
mod random;
mod redis_server;
mod restart;
mod tables;

#[allow(dead_code, reason = "a client uses more of it")]
#[path = "../../../src/client/backoff.rs"]
mod backoff;
#[allow(dead_code, unreachable_pub, reason = "a node uses more of it")]
#[path = "../../../src/topics/redis/node_info.rs"]
mod node_info;
#[allow(dead_code, reason = "a node uses more of it")]
#[path = "../../../src/topics/redis/nodes.rs"]
mod nodes;
#[path = "../../../src/topics/redis/retrying.rs"]
mod retrying;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::Common;
use crate::machine::Machine;
use figures::Figures;
use node_info::{FormerNode, NodeInfo, NodeState};
use redis_server::RedisServer;

/// The name of a node, as the library has it.
type NodeName = Arc<str>;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Measure nothing: take what was measured from this page, and fail unless it has all tables as they are printed.
    #[arg(long)]
    page: Option<PathBuf>,
    /// The seed of all random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(common: &Common, options: &Options) -> io::Result<()> {
    let page = options.page.as_ref().map(fs::read_to_string).transpose()?;
    let figures = match &page {
        Some(page) => Figures::read(page)?,
        None => measured(common)?,
    };
    let mut missing = Vec::new();
    for (name, table) in tables::all(&figures, options.seed) {
        println!("\n{name}\n\n{table}");
        if page.as_ref().is_some_and(|page| !page.contains(&table.to_string())) {
            missing.push(name);
        }
    }
    match &*missing {
        [] => Ok(()),
        missing => Err(io::Error::other(format!("the page does not show: {}", missing.join("; ")))),
    }
}

fn measured(common: &Common) -> io::Result<Figures> {
    let version = RedisServer::version().ok_or_else(|| {
        io::Error::other("redis-server is not installed; --page docs/scale.md takes what was measured elsewhere")
    })?;
    let machine = Machine::look();
    print!("{machine}");
    println!("Redis {version}, {} rounds", common.rounds);
    let mut rounds = Vec::new();
    for round in 1..=common.rounds {
        rounds.push((measure::costs(common, round)?, loading::measure()?));
        common.progress("scale", "loading", round, "done");
    }
    let table = figures::table(&rounds);
    println!("\nwhat was measured\n\n{table}");
    println!("how well it fits\n\n{}", tables::fit(&rounds));
    // As it is printed, so that the page that shows it leads to the same tables.
    Figures::read(&table.to_string())
}

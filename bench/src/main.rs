//! Measures heartwire next to others: every server in a process of its own, loaded from another, in one run.
//!
//! ```text
//! cli ─> cases ─┬─> process: starts servers (this program again, `serve`) ──> server::*
//!               ├─> topics: subscribers and publishers ──> wire: frames
//!               ├─> load: connections that send and verify ──> channel: plain or TLS ──> wire: frames
//!               └─> report: ratios, tables ──> spread: medians and intervals
//! ```

mod answers;
mod audience;
mod callgrind;
mod cases;
mod channel;
mod cli;
mod crowd;
mod fleet;
mod interrupt;
mod json;
mod load;
mod machine;
mod paced;
mod pages;
mod plot;
mod process;
mod procfs;
mod report;
mod requester;
mod rude;
#[cfg(feature = "scale")]
mod scale;
mod server;
mod spread;
mod strace;
mod tls;
mod topics;
mod visitors;
mod wire;

use std::process::ExitCode;

#[cfg(feature = "scale")]
// Where the library's own files look for it.
use heartwire::heartbeat;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heartwire-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

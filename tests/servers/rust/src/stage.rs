//! What both servers say and hear.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

/// The heartbeat of the server: as in actix's examples, where the two stand at 5 s and 10 s.
pub(crate) const PING_INTERVAL: Duration = Duration::from_millis(400);
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_millis(1600);

/// What closes all connections when told to.
pub(crate) type Closing = watch::Receiver<u32>;

/// Says that the server is ready, and counts the times that it is told to close its connections.
pub(crate) fn begin(package: &str, address: SocketAddr) -> Closing {
    say(&format!("version {}", version_of(package)));
    say(&format!("listening on {address}"));
    let (sender, closing) = watch::channel(0);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == "close") {
                sender.send_modify(|count| *count += 1);
            }
        }
        // Nobody gives orders any more, but what is open stays open.
        std::mem::forget(sender);
    });
    closing
}

/// A line for the driver.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The version of a package that this program was built with.
fn version_of(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{package}\"\n")));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

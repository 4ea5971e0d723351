//! A sensor that announces how often it sends: often in the foreground, rarely in the background.
//!
//! Start a server that listens and sends no Pings:
//! `cargo run -- --heartbeat peer --expect 2s --announcements 100ms..5m`. Then run
//! `cargo run --example device [URL] [FOREGROUND_MS] [BACKGROUND_MS]` (defaults 500 and 5000). Each line you type, even
//! an empty one, sends the device to the background or back. The end of standard input ends it. Each Ping announces the
//! next one, so the server knows how long to wait: stop the device with SIGSTOP, and see how soon the server misses it
//! in either state.

use std::env;
use std::io::{self, BufRead};
use std::thread;
use std::time::Duration;

use heartwire::{Client, ClientHandle, Error, HeartbeatPolicy};

fn main() -> Result<(), Error> {
    let url = env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:9001/".into());
    let foreground = announcing(argument(2, 500)?);
    let background = announcing(argument(3, 5000)?);
    // Nobody can restart a device, so it reconnects whatever a portal or a proxy on the way answers.
    let client = Client::new(&url)?.heartbeat(foreground).give_up_if(|_| false);
    let handle = client.handle();
    thread::spawn(move || {
        switch_with_each_line(&handle, [background, foreground]);
        handle.stop();
    });
    client.run(|conn| {
        println!("#{} connected, in the foreground", conn.id());
        loop {
            conn.recv()?;
        }
    })
}

/// A Ping every `interval`, which announces the next. It takes the device half a minute and more to find its server
/// dead, because it does not wait for it.
fn announcing(interval: Duration) -> HeartbeatPolicy {
    HeartbeatPolicy::new(interval, Duration::from_secs(10)).announcing(true)
}

fn switch_with_each_line(handle: &ClientHandle, policies: [HeartbeatPolicy; 2]) {
    let states = policies.into_iter().zip(["background", "foreground"]).cycle();
    for (_, (policy, name)) in io::stdin().lock().lines().zip(states) {
        // Without a connection this does not matter: the next one begins in the foreground.
        match handle.set_heartbeat(policy) {
            Ok(()) => println!("now in the {name}"),
            Err(error) => println!("not in the {name}: {error}"),
        }
    }
}

fn argument(number: usize, default: u64) -> Result<Duration, Error> {
    let milliseconds = env::args().nth(number).map_or(Ok(default), |text| text.parse());
    milliseconds.map(Duration::from_millis).map_err(Error::handler)
}

//! A client that reconnects: it prints each attempt, pause, opening and loss, and keeps its readings meanwhile.
//!
//! Run `cargo run --example reconnect [URL]`, with `cargo run` in another terminal as its server. Restart the server,
//! or send it SIGSTOP: the client finds out within 2.5 s, and is back when the server is. It takes a reading every 250
//! ms. Readings taken without a connection wait in the outbox.

use std::thread;
use std::time::Duration;

use heartwire::{Backoff, Client, ClientHandle, Error, Event, HeartbeatPolicy};

const PERIOD: Duration = Duration::from_millis(250);

fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:9001/".into());
    let client = Client::new(&url)?
        .heartbeat(HeartbeatPolicy::new(Duration::from_secs(1), Duration::from_millis(500)).max_missed(3))
        .reconnect(Backoff::default().first(Duration::from_millis(200)).longest(Duration::from_secs(5)))
        .outbox_size(64 * 1024)
        .outbox_drops_oldest(true);

    // Subscribed before the first attempt, so that no event is missed.
    let events = client.handle().events();
    let narrator = thread::spawn(move || events.into_iter().for_each(|event| tell(&event)));
    let handle = client.handle();
    let readings = handle.clone();
    thread::spawn(move || take_readings(&readings));
    let result = client.run(|conn| {
        loop {
            if let Some(reply) = conn.recv()?.as_text() {
                println!("#{} came back: {reply}", conn.id());
            }
        }
    });
    // The channel ends with the client, and the narrator with the channel.
    let _ = narrator.join();
    println!("{} readings were never sent", handle.take_outbox().len());
    result
}

fn take_readings(handle: &ClientHandle) {
    // A full outbox drops its oldest readings for new ones, so this fails only when the client has ended.
    for count in 1_u64.. {
        if handle.send(format!("reading {count}")).is_err() {
            return;
        }
        thread::sleep(PERIOD);
    }
}

fn tell(event: &Event) {
    match event {
        Event::Connecting { attempt, .. } => println!("attempt {attempt}"),
        Event::ConnectFailed { error, .. } => println!("not connected: {error}"),
        Event::Retrying { delay, .. } => println!("retrying in {delay:.1?}"),
        Event::Opened { id, peer_addr, .. } => println!("#{id} connected to {peer_addr}"),
        Event::Missed { id, missed, max_missed, .. } => println!("#{id} missed Pong {missed} of {max_missed}"),
        Event::Closed(report) => println!("#{} ended: {report}", report.id),
        other => println!("{other:?}"),
    }
}

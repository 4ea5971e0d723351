//! A slow handler, and what happens to its peer meanwhile.
//!
//! Run `cargo run --example slow_handler [ADDRESS]`, connect and send a number: the handler sleeps for so many
//! milliseconds before it answers. After one second, the interval, it is reported as stalled. Meanwhile a thread of
//! heartwire stands in for it: it answers your Pings, sends its own and judges you. A live client survives any sleep;
//! one that vanishes is found dead within four seconds.

use std::thread;
use std::time::Duration;

use heartwire::{Connection, Error, Event, HeartbeatPolicy, Server};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let second = Duration::from_secs(1);
    let server = Server::bind(address)?.heartbeat(HeartbeatPolicy::new(second, second).max_missed(3));
    println!("listening on ws://{}", server.local_addr());

    let events = server.handle().events();
    let narrator = thread::spawn(move || events.into_iter().for_each(|event| tell(&event)));
    server.serve(answer_slowly)?;
    let _ = narrator.join();
    Ok(())
}

fn answer_slowly(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        if let Some(milliseconds) = message.as_text().and_then(|text| text.parse().ok()) {
            thread::sleep(Duration::from_millis(milliseconds));
        }
        conn.send(message)?;
    }
}

fn tell(event: &Event) {
    match event {
        Event::Opened { id, peer_addr, path, .. } => println!("#{id} {peer_addr} opened {path}"),
        Event::Missed { id, peer_addr, missed, max_missed, .. } => {
            println!("#{id} {peer_addr} missed Pong {missed} of {max_missed}");
        }
        Event::HandlerStalled { id, peer_addr, away, .. } => {
            println!("#{id} {peer_addr} handler has been away for {away:.1?}");
        }
        Event::Closed(report) => println!("#{} {} closed: {report}", report.id, report.peer_addr),
        other => println!("{other:?}"),
    }
}

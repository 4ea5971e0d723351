//! An echo server that prints every event of its supervisor.
//!
//! Run `cargo run --example supervised [ADDRESS]`, and connect. Send `panic`, and the handler panics. Send `sleep`, and
//! the handler is reported as stalled, while its peer is pinged and judged as usual. Stop the client with SIGSTOP: the
//! server misses three Pongs and finds it dead, 2.5 s after its last byte at the latest. Whatever ends a connection,
//! exactly one line says `ended`.

use std::thread;
use std::time::Duration;

use heartwire::{Connection, Error, Event, HeartbeatPolicy, Server};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let brisk = HeartbeatPolicy::new(Duration::from_secs(1), Duration::from_millis(500)).max_missed(3);
    let server = Server::bind(address)?.heartbeat(brisk);
    println!("listening on ws://{}", server.local_addr());

    // Subscribed before the first connection, so that no event is missed.
    let events = server.handle().events();
    let narrator = thread::spawn(move || events.into_iter().for_each(|event| tell(&event)));
    server.serve(echo)?;
    // The channel ends with the server, and the narrator with the channel.
    let _ = narrator.join();
    Ok(())
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        match message.as_text() {
            Some("panic") => panic!("as you wish"),
            Some("sleep") => thread::sleep(Duration::from_secs(3)),
            _ => {}
        }
        conn.send(message)?;
    }
}

fn tell(event: &Event) {
    match event {
        Event::Opened { id, peer_addr, path, .. } => println!("#{id} {peer_addr} opened {path}"),
        Event::Missed { id, missed, max_missed, .. } => println!("#{id} missed Pong {missed} of {max_missed}"),
        Event::HandlerStalled { id, away, .. } => println!("#{id} handler has been away for {away:.1?}"),
        Event::Closed(report) => println!("#{} ended: {report}", report.id),
        Event::HandshakeFailed { peer_addr, reason, .. } => println!("{peer_addr} handshake failed: {reason}"),
        other => println!("{other:?}"),
    }
}

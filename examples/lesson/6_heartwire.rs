//! Step 6 of the lesson (docs/lesson): the four trials of step 5 again, on a server by heartwire.
//!
//! Run `cargo run --example lesson-6`, or one trial: `cargo run --example lesson-6 trickle`, `blocked-write`,
//! `busy-handler` or `suspend`. Compare what it prints with step 5.

use std::error::Error;
use std::thread;
use std::time::Duration;

use heartwire::{Connection, Event, HeartbeatPolicy, Server};

mod peers;
use peers::trials::{self, Beat};

const INTERVAL: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let policy = HeartbeatPolicy::new(INTERVAL, Duration::from_millis(500)).max_missed(3);
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(policy),
        name => trials::run(name, Beat { interval: INTERVAL, bound: policy.worst_case().expect("it has a timeout") }),
    }
}

/// A server in a process of its own.
fn serve(policy: HeartbeatPolicy) -> Result<(), Box<dyn Error>> {
    let server = Server::bind("127.0.0.1:0")?.heartbeat(policy);
    println!("{}", server.local_addr());
    let supervisor = server.handle().events();
    thread::spawn(move || supervisor.into_iter().for_each(|event| tell(&event)));
    server.serve(handle)?;
    Ok(())
}

fn tell(event: &Event) {
    match event {
        Event::Opened { id, .. } => println!("#{id} opened"),
        Event::Missed { id, missed, max_missed, .. } => println!("#{id} missed Pong {missed} of {max_missed}"),
        Event::HandlerStalled { id, .. } => println!("#{id} handler is busy"),
        Event::Closed(report) => println!("#{} closed: {}", report.id, report.reason),
        _ => {}
    }
}

/// Does what the peer asks for, and sends its message back.
fn handle(conn: &mut Connection) -> Result<(), heartwire::Error> {
    loop {
        let message = conn.recv()?;
        match message.as_text() {
            Some(trials::WORK) => thread::sleep(trials::WORK_TIME),
            Some(trials::SEND_A_LOT) => {
                for _ in 0..1024 {
                    conn.send(vec![0; 64 << 10])?;
                }
            }
            _ => {}
        }
        conn.send(message)?;
    }
}

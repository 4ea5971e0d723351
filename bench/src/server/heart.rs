//! heartwire, with its defaults unless the heartbeat is what is measured.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heartwire::{CloseCode, Deflate, Event, HeartbeatPolicy, Sender, Server, ServerHandle, ServerTls};

use super::handler::Work;
use super::{Deflation, ServeOptions};
use crate::process::{announce, obey_stdin};

/// How an echo answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    Send,
    Feed,
    /// By `send`, after busy polling for the message.
    SendAndPoll,
}

pub(super) fn serve(options: &ServeOptions, reply: Reply) -> io::Result<()> {
    let mut server = Server::bind("127.0.0.1:0").map_err(io::Error::other)?.max_connections(20_000);
    if let Some(interval) = options.interval {
        let policy = HeartbeatPolicy::new(Duration::from_millis(interval), Duration::from_millis(options.timeout));
        server = server.heartbeat(policy.max_missed(options.max_missed));
    }
    if let Reply::SendAndPoll = reply {
        server = server.busy_poll(Duration::from_micros(200));
    }
    if let Some(file) = &options.tls {
        server = server.tls(ServerTls::from_pem_files(file, file).map_err(io::Error::other)?);
    }
    server = match options.deflate {
        None => server,
        Some(Deflation::Defaults) => server.deflate(Deflate::new()),
        Some(Deflation::Level(level)) => server.deflate(Deflate::new().level(level)),
    };
    announce(server.local_addr());
    let handle = server.handle();
    if options.events {
        let handle = handle.clone();
        thread::spawn(move || print_closures(&handle));
    }
    let served = match reply {
        _ if options.broadcast => server.serve(move |conn| {
            loop {
                handle.broadcast(conn.recv()?);
            }
        }),
        _ if options.obeys => {
            let everybody = Everybody::default();
            let ordered = Arc::clone(&everybody);
            obey_stdin(move |line| {
                if line == "close" {
                    close_all(&ordered);
                }
            });
            server.serve(move |conn| {
                everybody.lock().unwrap_or_else(PoisonError::into_inner).push(conn.sender());
                loop {
                    let message = conn.recv()?;
                    conn.send(message)?;
                }
            })
        }
        _ if options.handler.is_some() => server.serve(|conn| {
            loop {
                let message = conn.recv()?;
                Work::of(message.as_bytes()).run();
                conn.send(message)?;
            }
        }),
        Reply::Send | Reply::SendAndPoll => server.serve(|conn| {
            loop {
                let message = conn.recv()?;
                conn.send(message)?;
            }
        }),
        Reply::Feed => server.serve(|conn| {
            loop {
                let message = conn.recv()?;
                conn.feed(message)?;
            }
        }),
    };
    served.map_err(io::Error::other)
}

/// Protects the list of connections.
type Everybody = Arc<Mutex<Vec<Sender>>>;

/// As a server does that is about to start again.
fn close_all(everybody: &Everybody) {
    let senders = std::mem::take(&mut *everybody.lock().unwrap_or_else(PoisonError::into_inner));
    // One that is closed already is no loss.
    let closed = senders.iter().filter(|sender| sender.close(CloseCode::RESTART, "the storm").is_ok());
    println!("closed {}", closed.count());
}

fn print_closures(handle: &ServerHandle) {
    let mut out = io::BufWriter::new(io::stdout());
    let events = handle.events();
    while let Ok(event) = events.recv() {
        if let Event::Closed(report) = event {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
            // Whoever reads this may have gone.
            let _ = writeln!(out, "closed {} {} {now}", report.id, report.reason.name());
        }
        if events.is_empty() {
            let _ = out.flush();
        }
    }
}

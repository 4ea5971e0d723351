//! Many of heartwire's clients in one process: each reconnects by itself when its server closes it.
//!
//! It says `back` whenever all of them are connected, the first time too. It lives until its standard input ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use clap::Args;
use heartwire::{Backoff, Client, ClientTls};

use crate::process::{self, Process, Server};
use crate::tls;

/// How a fleet connects.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Over TLS, trusting the certificate in this file.
    #[arg(long)]
    pub(crate) tls: Option<PathBuf>,
    /// Resume sessions of TLS.
    #[arg(long)]
    pub(crate) resumes: bool,
}

pub(crate) fn run(server: SocketAddr, count: usize, options: &Options) -> io::Result<()> {
    process::end_with_stdin();
    let connected = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let client = client(server, options)?;
            let connected = Arc::clone(&connected);
            let sail = move || {
                client.run(move |conn| {
                    // Each of them once, and once more after each closure.
                    if (connected.fetch_add(1, SeqCst) + 1).is_multiple_of(count) {
                        println!("back");
                    }
                    loop {
                        conn.recv()?;
                    }
                })
            };
            thread::Builder::new().stack_size(256 * 1024).spawn(sail)
        })
        .collect::<io::Result<_>>()?;
    for client in clients {
        client.join().map_err(|_| io::Error::other("a client panicked"))?.map_err(io::Error::other)?;
    }
    Ok(())
}

/// A client that comes back at once: by default it waits for 5 s to 30 s, to spare its server what is measured here.
fn client(server: SocketAddr, options: &Options) -> io::Result<Client> {
    let at_once = Backoff::default().after_restart(Duration::ZERO, Duration::ZERO);
    let scheme = if options.tls.is_some() { "wss" } else { "ws" };
    let client = Client::new(&format!("{scheme}://{server}/")).map_err(io::Error::other)?.reconnect(at_once);
    Ok(match &options.tls {
        None => client,
        Some(file) => client.tls(tls_of(file, options.resumes)?),
    })
}

/// Each client has its own, as each device has.
fn tls_of(file: &Path, resumes: bool) -> io::Result<ClientTls> {
    Ok(ClientTls::from_config(tls::careful_client(file, resumes)?))
}

/// Starts a fleet in a process of its own, and waits until all are connected.
pub(crate) fn start(server: &Server, count: usize, options: &Options) -> io::Result<Process> {
    let mut arguments = vec!["fleet".to_owned(), server.address.to_string(), count.to_string()];
    if let Some(file) = &options.tls {
        arguments.extend(["--tls".into(), file.display().to_string()]);
    }
    if options.resumes {
        arguments.push("--resumes".into());
    }
    let fleet = Process::start(&arguments)?;
    await_all(&fleet)?;
    Ok(fleet)
}

/// Waits until all are connected again.
pub(crate) fn await_all(fleet: &Process) -> io::Result<()> {
    let line = fleet.line(Duration::from_secs(120))?;
    if line == "back" { Ok(()) } else { Err(io::Error::other(format!("the fleet said: {line}"))) }
}

//! `heartwire serve`: the server and its two modes.

use heartwire::{Accept, Connection, Error, Handle, Request, Response, Server};

use crate::cli::{Mode, ServeOptions};
use crate::output;

/// Serves until a signal.
pub(crate) fn run(options: &ServeOptions) -> Result<(), String> {
    output::start_log(&options.log)?;
    let server = Server::bind(&options.address)
        .map_err(|error| format!("cannot listen on {}: {error}", options.address))?
        .heartbeat(options.heartbeat())
        .max_connections(options.max_connections)
        .max_message_size(options.max_message_size)
        .queue_size(options.queue_size)
        .read_buffer_size(options.read_buffer_size)
        .text_heartbeat(options.text_heartbeat)
        .handshake_timeout(options.handshake_timeout)
        .close_timeout(options.close_timeout)
        .trust_proxies(options.trust_proxy.iter().copied())
        .on_request(answer_health_checks);
    let server = allow_origins(server, options.allow_origin.clone());
    let handle = server.handle();
    let stop = handle.clone();
    output::on_signals(move || stop.shutdown())?;
    announce(&handle, options);
    raise_file_limit(options.max_connections);

    let served = match options.mode {
        Mode::Echo => server.serve(echo),
        Mode::Broadcast => {
            let handle = handle.clone();
            server.serve(move |conn| broadcast(&handle, conn))
        }
    };
    served.map_err(|error| error.to_string())?;
    print_summary(&handle, options);
    Ok(())
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.feed(message)?;
    }
}

fn broadcast(handle: &Handle, conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        handle.broadcast_except(conn.id(), message);
    }
}

fn answer_health_checks(request: &Request) -> Option<Response> {
    let is_check = request.path() == "/healthz" && matches!(request.method(), "GET" | "HEAD");
    is_check.then(|| Response::new(200).header("Cache-Control", "no-store").text("ok\n"))
}

/// Only browsers send an Origin, and only they carry their users' rights to where a page sends them: other clients
/// are not concerned.
fn allow_origins(server: Server, allowed: Vec<String>) -> Server {
    if allowed.is_empty() {
        return server;
    }
    server.on_handshake(move |request| match request.header("Origin") {
        Some(origin) if !allowed.contains(&origin.to_ascii_lowercase()) => {
            Err(Response::new(403).text("this origin is not allowed\n"))
        }
        _ => Ok(Accept::new()),
    })
}

fn announce(handle: &Handle, options: &ServeOptions) {
    output::say(&options.log, &format!("listening on ws://{} ({})", handle.local_addr(), options.heartbeat_in_words()));
}

/// Every connection takes a file descriptor; a few more are in use anyway.
fn raise_file_limit(max_connections: usize) {
    const OTHERS: u64 = 32;
    let needed = max_connections as u64 + OTHERS;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < needed => log::warn!(
            "the limit of open files is {limit}, and --max-connections {max_connections} needs {needed}: \
             clients beyond it will have to wait (see ulimit -n)"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("cannot raise the limit of open files: {error}"),
    }
}

fn print_summary(handle: &Handle, options: &ServeOptions) {
    let stats = handle.stats();
    let causes: Vec<String> = stats.closed.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    let summary = format!(
        "summary: opened {}, closed {}{causes}, Pongs missed {}; {}",
        stats.opened,
        stats.closed_total(),
        stats.missed,
        stats.traffic
    );
    output::say(&options.log, &summary);
}

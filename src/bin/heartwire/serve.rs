//! `heartwire serve`: the server and its two modes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use heartwire::{Accept, Connection, Error, Request, Response, Server, ServerHandle};

use crate::cli::{Mode, ServeOptions};
use crate::output;
use crate::page::{Audience, Page};
use crate::pulse::{self, Pulse};

/// Serves until a signal.
pub(crate) fn run(options: &ServeOptions) -> Result<(), String> {
    output::start_log(&options.log)?;
    let server = Server::bind(&options.address)
        .map_err(|error| format!("cannot listen on {}: {error}", options.address))?
        .heartbeat(options.heartbeat())
        .text_heartbeat(options.text_heartbeat())
        .max_connections(options.capacity.max_connections)
        .max_connections_per_address(options.capacity.max_connections_per_address)
        .trust_proxies(options.access.trust_proxy.iter().copied());
    let server = options.settings.apply_to_server(server);
    let handle = server.handle();
    let audience = audience(&handle, options);
    let page = Page::new(handle.clone(), audience);
    let allowed = options.access.allow_origin.clone();
    let server = server
        .on_request(move |request| page.answer(request))
        .on_handshake(move |request| let_in(request, audience, &allowed));
    let stop = handle.clone();
    output::on_signals(move || stop.shutdown())?;
    announce(&handle, audience, options);
    raise_file_limit(options.capacity.max_connections);

    let pulse = Arc::new(Pulse::start(&handle, options).map_err(|error| error.to_string())?);
    let (mode, room) = (options.mode, handle.clone());
    let served = server.serve(move |conn| match mode {
        _ if audience != Audience::Nobody && conn.path() == pulse::PATH => pulse.show(conn),
        Mode::Echo => echo(conn),
        Mode::Broadcast => broadcast(&room, conn),
    });
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

fn broadcast(handle: &ServerHandle, conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        handle.broadcast_except(conn.id(), message);
    }
}

/// Who may see the status.
fn audience(handle: &ServerHandle, options: &ServeOptions) -> Audience {
    let is_loopback = handle.local_addr().ip().is_loopback();
    match options.access.shows_status(is_loopback) {
        false => Audience::Nobody,
        true if is_loopback => Audience::ThisMachine,
        true => Audience::Everybody,
    }
}

/// Only browsers send an Origin, and only they carry their users' rights to where a page sends them: other clients
/// are not concerned. What the status page shows has rules of its own, and is no part of the mode.
fn let_in(request: &Request, audience: Audience, allowed: &[String]) -> Result<Accept, Response> {
    if audience != Audience::Nobody && request.path() == pulse::PATH {
        return audience.check_origin(request).map(|()| Accept::new().without_broadcasts());
    }
    match request.header("Origin") {
        Some(origin) if !allowed.is_empty() && !allowed.contains(&origin.to_ascii_lowercase()) => {
            let because = "--allow-origin does not name its origin";
            Err(Response::new(403).text("this origin is not allowed\n").because(because))
        }
        _ => Ok(Accept::new()),
    }
}

fn announce(handle: &ServerHandle, audience: Audience, options: &ServeOptions) {
    let address = handle.local_addr();
    let status = match audience {
        Audience::Nobody => String::new(),
        _ => format!("; status page at http://{}/", reachable(address)),
    };
    output::say(&options.log, &format!("listening on ws://{address} ({}){status}", options.heartbeat_in_words()));
}

/// An address that a browser on this machine can ask for.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Every connection takes a file descriptor. So does each client without a place, of which there may be 64 and as many
/// on their way out; and a few more are in use anyway.
fn raise_file_limit(max_connections: usize) {
    const OTHERS: u64 = 160;
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

fn print_summary(handle: &ServerHandle, options: &ServeOptions) {
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

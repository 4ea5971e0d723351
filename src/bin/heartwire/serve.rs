//! `heartwire serve`: the server and its two modes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(feature = "topics")]
use heartwire::{Accept, Request, Response};
use heartwire::{Connection, Error, Server, ServerHandle, StatusAccess};

use crate::certificates::Certificates;
use crate::cli::{Mode, ServeOptions, UNIX};
use crate::doorkeeper::{Doorkeeper, Receiver};
use crate::output;
use crate::systemd::{self, Service};

/// Serves until a signal.
pub(crate) fn run(options: &ServeOptions) -> Result<(), String> {
    output::start_log(&options.log)?;
    let certificates = Certificates::load(options)?;
    let doorkeeper = Doorkeeper::new(options)?;
    let server = server(options, certificates.as_ref(), &doorkeeper)?;
    let access = status_access(&server, options);
    let server = match access {
        Some(access) => server.status_page("/", access).metrics("/metrics", access),
        None => server,
    };
    let handle = server.handle();
    let mut service = Service::new();
    let server = with_hangup(server, certificates.as_ref());
    let server = match options.capacity.drain() {
        Some(period) => server.drain_on_signals(period),
        None => server.shutdown_on_signals(),
    };
    let server = server.map_err(|error| error.to_string())?;
    announce(&handle, certificates.as_ref(), access.is_some(), options);
    service.start(&handle, options.settings.close_timeout())?;
    certificates.map_or(Ok(()), Certificates::watch)?;

    let (mode, room) = (options.mode, handle.clone());
    let served = server.serve(move |conn| match mode {
        Mode::Echo => echo(conn, doorkeeper.receiver(conn)),
        Mode::Broadcast => broadcast(&room, conn, doorkeeper.receiver(conn)),
        // Those that topics are for are served by them, and others were refused.
        #[cfg(feature = "topics")]
        Mode::Topics => Ok(()),
    });
    service.finish();
    served.map_err(|error| error.to_string())?;
    print_summary(&handle, options);
    Ok(())
}

/// A server as the options want it, but for the status.
fn server(
    options: &ServeOptions,
    certificates: Option<&Certificates>,
    doorkeeper: &Doorkeeper,
) -> Result<Server, String> {
    let room = room(options);
    let server = bind(options)?
        .heartbeat(options.heartbeat())
        .text_heartbeat(options.text_heartbeat())
        .max_connections(room.connections)
        .max_connections_per_address(options.capacity.max_connections_per_address)
        .trust_proxies(options.access.trust_proxy.iter().copied())
        .allow_origins(options.access.allow_origin.iter().cloned())
        .health("/healthz")
        .browser_module();
    let server = options.settings.apply_to_server(server).max_buffered(room.buffered);
    #[cfg(feature = "deflate")]
    let server = options.deflate.apply_to_server(server);
    #[cfg(feature = "topics")]
    let server = match options.mode {
        Mode::Topics => server
            .topics(doorkeeper.guard_topics(options.topics.topics()?))
            .max_request_body(options.settings.max_message_size())
            .on_handshake(for_topics),
        Mode::Echo | Mode::Broadcast => doorkeeper.guard(server),
    };
    #[cfg(not(feature = "topics"))]
    let server = doorkeeper.guard(server);
    Ok(match certificates {
        Some(certificates) => certificates.apply_to(server),
        None => server,
    })
}

/// SIGHUP reloads certificates. A service has no terminal that could be closed, so there it never ends the server: a
/// reload of what has no certificates is no reason to stop.
fn with_hangup(server: Server, certificates: Option<&Certificates>) -> Server {
    match certificates.and_then(Certificates::reloader) {
        Some(reload) => server.on_hangup(reload),
        None if systemd::is_service() => server.on_hangup(|| log::info!("SIGHUP: there are no certificates to reload")),
        None => server,
    }
}

/// How much the server takes.
struct Room {
    connections: usize,
    /// Bytes that may wait for all connections together.
    buffered: usize,
}

/// What was asked for, as far as the control group allows it.
fn room(options: &ServeOptions) -> Room {
    let asked = Room { connections: options.capacity.max_connections, buffered: options.settings.max_buffered };
    #[cfg(target_os = "linux")]
    {
        let group = crate::control_group::ControlGroup::of_this_process();
        let connections = group.connections(options.settings.max_message_size()).unwrap_or(usize::MAX);
        if connections < asked.connections {
            log::warn!(
                "the control group allows {}: at most {connections} connections at a time fit, and not the {} of \
                 --max-connections; further clients get 503",
                group.in_words(),
                asked.connections
            );
        }
        let buffered = group.buffered().unwrap_or(usize::MAX);
        Room { connections: connections.min(asked.connections), buffered: buffered.min(asked.buffered) }
    }
    #[cfg(not(target_os = "linux"))]
    asked
}

/// A server on the sockets that systemd has opened, or else on the addresses.
fn bind(options: &ServeOptions) -> Result<Server, String> {
    let mut server = systemd::server()?;
    if let Some(server) = server {
        return Ok(server);
    }
    for address in &options.address {
        let with_address = match address.strip_prefix(UNIX) {
            Some(path) => bind_unix(server.take(), path, options.access.unix_mode),
            None => match server.take() {
                None => Server::bind(address),
                Some(server) => server.also_bind(address),
            },
        };
        server = Some(with_address.map_err(|error| format!("cannot listen on {address}: {error}"))?);
    }
    server.ok_or_else(|| "there is no address to listen on".to_owned())
}

#[cfg(unix)]
fn bind_unix(server: Option<Server>, path: &str, mode: Option<u32>) -> Result<Server, Error> {
    match server {
        None => Server::bind_unix(path, mode),
        Some(server) => server.also_bind_unix(path, mode),
    }
}

#[cfg(not(unix))]
fn bind_unix(_: Option<Server>, _: &str, _: Option<u32>) -> Result<Server, Error> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into())
}

/// Lets in clients that topics are for.
#[cfg(feature = "topics")]
fn for_topics(request: &Request) -> Result<Accept, Response> {
    let is_offered = request.subprotocols().any(|offered| offered == "heartwire.topics.v1");
    if is_offered || request.path().starts_with("/topics/") {
        return Ok(Accept::new());
    }
    let text = "Offer the subprotocol heartwire.topics.v1, or connect to /topics/NAME for the messages of one topic.\n";
    Err(Response::new(404).text(text).because("no topic, and not the subprotocol of topics"))
}

fn echo(conn: &mut Connection, mut receiver: Receiver) -> Result<(), Error> {
    loop {
        let message = receiver.recv(conn)?;
        conn.feed(message)?;
    }
}

fn broadcast(handle: &ServerHandle, conn: &mut Connection, mut receiver: Receiver) -> Result<(), Error> {
    loop {
        let message = receiver.recv(conn)?;
        handle.broadcast_except(conn.id(), message);
    }
}

/// Who may see the status, if it is shown.
fn status_access(server: &Server, options: &ServeOptions) -> Option<StatusAccess> {
    let addresses = server.local_addrs();
    let is_loopback = !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback());
    let access = if is_loopback { StatusAccess::Loopback } else { StatusAccess::Everyone };
    options.access.shows_status(is_loopback).then_some(access)
}

fn announce(handle: &ServerHandle, certificates: Option<&Certificates>, shows_status: bool, options: &ServeOptions) {
    let (scheme, names) = match certificates {
        Some(certificates) => ("s", format!(" for {}", certificates.names())),
        None => ("", String::new()),
    };
    let status = match handle.local_addrs().first() {
        Some(address) if shows_status => format!("; status page at http{scheme}://{}/", reachable(*address)),
        None if shows_status => "; status page at /".to_owned(),
        _ => String::new(),
    };
    let heartbeat = options.heartbeat_in_words();
    let addresses = handle.local_addrs().into_iter().map(|address| format!("ws{scheme}://{address}"));
    let mut addresses =
        addresses.chain(handle.unix_paths().into_iter().map(|path| format!("{UNIX}{}", path.display())));
    if let Some(first) = addresses.next() {
        output::say(&options.log, &format!("listening on {first}{names} ({heartbeat}){status}"));
    }
    for address in addresses {
        output::say(&options.log, &format!("listening on {address}"));
    }
    if let Some(note) = certificates.and_then(Certificates::note) {
        output::say(&options.log, note);
    }
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

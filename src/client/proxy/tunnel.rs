//! Asks a proxy for a tunnel to the host. All bytes pass through [`socket::read_before`] and [`socket::write_before`],
//! under one deadline however slowly they come.

use std::io;
use std::time::{Duration, Instant};

use super::socks::{AddressLen, Destination, Method};
use super::{Credentials, Protocol, ProxyServer, connect_method, socks};
use crate::client::ConnectError;
use crate::client::dial::{NoHead, Way, read_head};
use crate::client::race;
use crate::client::target::Target;
use crate::error::{ProxyError, ProxyErrorKind};
use crate::transport::socket;
use crate::transport::stream::Stream;

impl ProxyServer {
    /// Connects to the proxy, and through it to the host.
    pub(in crate::client) fn connect(&self, target: &Target, handshake_timeout: Duration) -> Result<Way, ConnectError> {
        let destinations = self.destinations(target)?;
        let failed = |kind| ConnectError::Proxy(ProxyError::new(&self.label, kind));
        let addresses =
            (target.resolve)(&self.host, self.port).map_err(|error| failed(ProxyErrorKind::Resolve(error)))?;
        // Begins with the first connection to the proxy.
        let mut deadline = None;
        let mut last = ProxyErrorKind::Reply(4);
        for destination in destinations {
            let remaining = deadline.map(|deadline: Instant| deadline.saturating_duration_since(Instant::now()));
            if remaining.is_some_and(|remaining| remaining.is_zero()) {
                return Err(failed(ProxyErrorKind::TimedOut));
            }
            let timeout = target.connect_timeout.min(remaining.unwrap_or(Duration::MAX));
            let (stream, peer) = race::connect(addresses.clone(), timeout)
                .map_err(|error| failed(ProxyErrorKind::Unreachable(error)))?;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + handshake_timeout);
            socket::set_options(&stream).map_err(|error| failed(ProxyErrorKind::Lost(error)))?;
            match self.open(&stream, &destination, deadline) {
                Ok(early) => return Ok(Way { stream, peer, early, deadline }),
                // A name may have more addresses, and the proxy may not know all kinds of them.
                Err(kind @ ProxyErrorKind::Reply(1 | 3..=5 | 8)) => last = kind,
                Err(kind) => return Err(failed(kind)),
            }
        }
        Err(failed(last))
    }

    /// The host, under each name or address that the proxy is to try.
    fn destinations(&self, target: &Target) -> Result<Vec<Destination>, ConnectError> {
        let (host, port) = (&*target.location.host, target.location.port);
        if self.protocol == Protocol::Socks5 {
            let addresses = (target.resolve)(host, port).map_err(ConnectError::Resolve)?;
            if addresses.is_empty() {
                let error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                return Err(ConnectError::Resolve(error));
            }
            return Ok(addresses.into_iter().map(Destination::Address).collect());
        }
        let too_long = || ConnectError::Invalid("the host's name has more than 255 bytes".into());
        Ok(vec![Destination::of(host, port).ok_or_else(too_long)?])
    }

    /// Asks for the tunnel. The result is what came through it already.
    fn open(&self, stream: &Stream, to: &Destination, deadline: Instant) -> Result<Vec<u8>, ProxyErrorKind> {
        let credentials = self.credentials.as_ref();
        match self.protocol {
            Protocol::Http => by_http(stream, to, credentials, deadline),
            Protocol::Socks5 | Protocol::Socks5h => {
                by_socks(stream, to, credentials, deadline)?;
                Ok(Vec::new())
            }
        }
    }
}

fn by_http(
    stream: &Stream,
    to: &Destination,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<Vec<u8>, ProxyErrorKind> {
    let head = match to {
        Destination::Name(name, port) => connect_method::encode(name, *port, credentials),
        Destination::Address(address) => connect_method::encode(&address.ip().to_string(), address.port(), credentials),
    };
    send(stream, head.as_bytes(), deadline)?;
    let (response, early) = read_head(stream, Vec::new(), deadline).map_err(|error| match error {
        NoHead::TimedOut => ProxyErrorKind::TimedOut,
        NoHead::Lost(error) => ProxyErrorKind::Lost(error),
        NoHead::Bad(what) => ProxyErrorKind::BadResponse(what),
    })?;
    connect_method::check(&response, credentials.is_some())?;
    Ok(early)
}

fn by_socks(
    stream: &Stream,
    to: &Destination,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<(), ProxyErrorKind> {
    send(stream, &socks::greeting(credentials.is_some()), deadline)?;
    match (socks::chosen_method(receive(stream, deadline)?, credentials.is_some())?, credentials) {
        (Method::Login, Some(credentials)) => {
            send(stream, &socks::login(credentials), deadline)?;
            socks::check_login(receive(stream, deadline)?)?;
        }
        (Method::Login | Method::Nobody, _) => {}
    }
    send(stream, &socks::connect(to), deadline)?;
    socks::check_reply(receive(stream, deadline)?)?;
    // The address from which the proxy connects interests nobody, but what follows it is the host's.
    let len = match socks::address_len(receive(stream, deadline)?)? {
        AddressLen::Fixed(len) => len,
        AddressLen::Prefixed => {
            let [len] = receive(stream, deadline)?;
            usize::from(len)
        }
    };
    let mut address_and_port = [0; 255 + 2];
    fill(stream, &mut address_and_port[..len + 2], deadline)
}

fn send(stream: &Stream, bytes: &[u8], deadline: Instant) -> Result<(), ProxyErrorKind> {
    socket::write_before(stream, bytes, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ProxyErrorKind::TimedOut,
        _ => ProxyErrorKind::Lost(error),
    })
}

fn receive<const LEN: usize>(stream: &Stream, deadline: Instant) -> Result<[u8; LEN], ProxyErrorKind> {
    let mut bytes = [0; LEN];
    fill(stream, &mut bytes, deadline)?;
    Ok(bytes)
}

/// Reads exactly so many bytes.
fn fill(stream: &Stream, mut space: &mut [u8], deadline: Instant) -> Result<(), ProxyErrorKind> {
    while !space.is_empty() {
        match socket::read_before(stream, space, deadline).map_err(ProxyErrorKind::Lost)? {
            None => return Err(ProxyErrorKind::TimedOut),
            Some(0) => return Err(ProxyErrorKind::Lost(io::ErrorKind::UnexpectedEof.into())),
            Some(count) => space = &mut space[count..],
        }
    }
    Ok(())
}

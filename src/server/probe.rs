//! Probes: whether the threads that everything else of a server hangs on still make progress.
//!
//! An idle server does nothing, so that it does nothing proves nothing: a probe gives each of these threads something
//! to do. Nothing is counted or measured meanwhile, so a server that is not probed pays for none of it.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel as channel;
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockAddr;
use socket2::{Domain, Socket, Type};

use crate::durations::clamp_duration;
use crate::http::forwarded::UNIX_PEER;
use crate::server::listener::reachable;
use crate::server::listeners::Listeners;
use crate::supervisor::handle::SupervisorHandle;
use crate::supervisor::notice::Notice;
use crate::transport::stream::Stream;

/// A part of a server that nothing works without:
/// see [`ServerHandle::stalled_parts`](crate::ServerHandle::stalled_parts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerPart {
    /// Accepts clients.
    AcceptLoop,
    /// Receives a notice of every opening, miss and closure, fans broadcasts out, and keeps closing deadlines.
    Supervisor,
    /// Reads, answers and judges in place of handlers that are away from `recv`.
    StandIn,
}

impl fmt::Display for ServerPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcceptLoop => "the accept loop",
            Self::Supervisor => "the supervisor",
            Self::StandIn => "the stand-in",
        })
    }
}

/// Where a probe connects from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Address(SocketAddr),
    /// A name that the system has given to a Unix socket.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "android")),
        expect(dead_code, reason = "Linux has such names")
    )]
    Name(Vec<u8>),
}

/// The addresses that a server's own probes connect from, so that these are no clients.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// How many there are: without one, no client costs a lock.
    under_way: AtomicUsize,
    /// Protects the addresses. Held for moments only.
    addresses: Mutex<Vec<Source>>,
    /// Stalls whoever accepts a probe while a test holds it.
    #[cfg(test)]
    gate: Mutex<()>,
}

impl Probes {
    /// Whether this client is a probe. Dropping its connection is the answer.
    pub(crate) fn is_one(&self, peer: SocketAddr, stream: &Stream) -> bool {
        if self.under_way.load(SeqCst) == 0 {
            return false;
        }
        #[cfg(test)]
        let _passed = self.gate.lock();
        let source = if peer == UNIX_PEER { name_of_peer(stream) } else { Some(Source::Address(peer)) };
        source.is_some_and(|source| self.addresses().contains(&source))
    }

    /// Whether the server at this path accepts a connection before the deadline.
    ///
    /// # Errors
    /// The system's error if it has no socket for a probe, or none with a name of its own, as only Linux has.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_accepted_at(&self, path: &Path, deadline: Instant) -> io::Result<bool> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // To bind to no name is to have the system choose one (unix(7), autobind).
        socket.bind(&SockAddr::unix("")?)?;
        let name = socket.local_addr()?.as_abstract_namespace().map(<[u8]>::to_vec).ok_or(ErrorKind::Unsupported)?;
        let _entry = Entry::new(self, Source::Name(name));
        // The system's limit for connect(2) at a Unix socket.
        socket.set_write_timeout(Some(remaining(deadline)))?;
        if socket.connect(&SockAddr::unix(path)?).is_err() {
            return Ok(false);
        }
        let _ = socket.shutdown(Shutdown::Write);
        Ok(has_ended_before(&socket, deadline))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn is_accepted_at(&self, _: &Path, _: Instant) -> io::Result<bool> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Whether the server at this address accepts a connection before the deadline.
    ///
    /// # Errors
    /// The system's error if it has no socket for a probe.
    fn is_accepted(&self, server: SocketAddr, deadline: Instant) -> io::Result<bool> {
        let server = reachable(server);
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        let mut any_port = server;
        any_port.set_port(0);
        socket.bind(&any_port.into())?;
        let address = socket.local_addr()?.as_socket().ok_or(ErrorKind::Unsupported)?;
        // Before it connects, for it may be accepted at once.
        let _entry = Entry::new(self, Source::Address(address));
        match socket.connect_timeout(&server.into(), remaining(deadline)) {
            Ok(()) => {}
            // It was accepted and closed before socket2 looked, which takes a hang-up without an error of the system
            // for a failure. Seen by wine; on Linux a connection to this machine is not waited for.
            Err(error) if error.kind() == ErrorKind::Other && error.raw_os_error().is_none() => return Ok(true),
            Err(_) => return Ok(false),
        }
        // Should it be taken for a client, because something has changed its address on the way, it has nothing to say.
        let _ = socket.shutdown(Shutdown::Write);
        Ok(has_ended_before(&socket, deadline))
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<Source>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn name_of_peer(stream: &Stream) -> Option<Source> {
    let peer = stream.socket().peer_addr().ok()?;
    peer.as_abstract_namespace().map(|name| Source::Name(name.to_vec()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn name_of_peer(_: &Stream) -> Option<Source> {
    None
}

/// A probe under way.
struct Entry<'a>(&'a Probes, Source);

impl<'a> Entry<'a> {
    fn new(probes: &'a Probes, source: Source) -> Self {
        probes.addresses().push(source.clone());
        probes.under_way.fetch_add(1, SeqCst);
        Self(probes, source)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
        self.0.addresses().retain(|address| *address != self.1);
    }
}

/// Whether the other end closes or resets the connection, whatever it says before.
fn has_ended_before(mut socket: &Socket, deadline: Instant) -> bool {
    loop {
        let read = socket.set_read_timeout(Some(remaining(deadline))).and_then(|()| socket.read(&mut [0; 256]));
        match read.map_err(|error| error.kind()) {
            Ok(0) => return true,
            Ok(_) | Err(ErrorKind::Interrupted) => {}
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) if Instant::now() < deadline => {}
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
}

/// The time left, and a moment at least, for no timeout of a socket is zero.
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// The parts that do not answer within `timeout`.
pub(crate) fn stalled_parts(
    supervisor: &SupervisorHandle,
    probes: &Probes,
    listeners: &Listeners,
    timeout: Duration,
) -> Vec<ServerPart> {
    if !supervisor.is_running() {
        return vec![ServerPart::AcceptLoop, ServerPart::Supervisor, ServerPart::StandIn];
    }
    let deadline = Instant::now() + clamp_duration(timeout);
    let (to_supervisor, from_supervisor) = channel::bounded(1);
    let (to_stand_in, from_stand_in) = channel::bounded(1);
    supervisor.notify(Notice::Probe { reply: to_supervisor });
    supervisor.stand_in.probe(to_stand_in);

    let answers = [
        (ServerPart::AcceptLoop, accepts(supervisor, probes, &listeners.addresses(), &listeners.paths(), deadline)),
        (ServerPart::Supervisor, from_supervisor.recv_deadline(deadline).is_ok()),
        (ServerPart::StandIn, from_stand_in.recv_deadline(deadline).is_ok()),
    ];
    answers.into_iter().filter(|(_, answers)| !answers).map(|(part, _)| part).collect()
}

/// Whether clients are accepted at all addresses, or cannot be for lack of something, or need not be any more.
fn accepts(
    supervisor: &SupervisorHandle,
    probes: &Probes,
    addresses: &[SocketAddr],
    paths: &[PathBuf],
    deadline: Instant,
) -> bool {
    // The accept loop counts each of its tries that has failed.
    let failures = || supervisor.with_stats(|stats| stats.accept_errors + stats.thread_errors);
    let before = failures();
    // Without a socket we learn nothing of it, and that is no reason to take it for stalled.
    supervisor.is_ending()
        || supervisor.is_draining()
        || (addresses.iter().all(|address| probes.is_accepted(*address, deadline).unwrap_or(true))
            && paths.iter().all(|path| probes.is_accepted_at(path, deadline).unwrap_or(true)))
        || failures() != before
        || supervisor.is_ending()
}

#[cfg(test)]
mod tests;

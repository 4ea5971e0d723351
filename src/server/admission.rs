//! Admission: which clients may become a connection, and what each client counts towards.
//!
//! `max_connections` bounds connections together with the handshakes that may still become one, and with the clients
//! that are idle between two plain HTTP requests ([`KeptClients`]), which give way to others.
//! `max_connections_per_address` bounds connections and handshakes of one client address. A client over a limit goes to
//! the [`Overflow`], where it is only refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::http::forwarded::UNIX_PEER;
use crate::server::addresses::{AddressCounts, AddressSlot};
use crate::server::handshake::LimitReached;
use crate::server::kept_clients::{KeptClients, Place};
use crate::server::overflow::{Overflow, OverflowSlot};
use crate::supervisor::pending_handshake::PendingHandshake;

/// The limits of a server, and how much of them is taken.
pub(super) struct Limits {
    max_connections: usize,
    /// Connections, handshakes that may still become one, and idle clients.
    connections: AtomicUsize,
    kept: KeptClients,
    overflow: Arc<Overflow>,
    addresses: Option<Arc<AddressCounts>>,
}

/// What one client counts towards. Dropping it frees what the client holds.
pub(super) struct Admission {
    limits: Arc<Limits>,
    counts_as: CountsAs,
    /// Its slot in the count of its address.
    address: Option<AddressSlot>,
    /// Whether it was refused because of a limit.
    was_refused: bool,
}

enum CountsAs {
    /// A connection, or a handshake that may still become one.
    Connection,
    /// A client between two plain HTTP requests, whose slot others may take.
    Idle(Place),
    /// A client that came when this limit was reached.
    Overflow { limit: LimitReached, _slot: OverflowSlot },
    /// A client that will not become a connection any more.
    Leaving { _slot: Option<OverflowSlot> },
}

impl Limits {
    pub(super) fn new(max_connections: usize, max_per_address: Option<usize>) -> Self {
        Self {
            max_connections,
            connections: AtomicUsize::new(0),
            kept: KeptClients::default(),
            overflow: Arc::new(Overflow::new(Overflow::SLOTS)),
            addresses: max_per_address.map(|limit| Arc::new(AddressCounts::new(limit))),
        }
    }

    /// Admits a client to a connection slot or to the overflow, where it goes if it comes too late, because the server
    /// drains. A proxy's client is counted for its address only once its request is known.
    ///
    /// # Errors
    /// The limit that was reached, if the overflow has no room either.
    pub(super) fn admit(
        self: &Arc<Self>,
        pending: &Arc<PendingHandshake>,
        is_proxy: bool,
        is_late: bool,
    ) -> Result<Admission, LimitReached> {
        let slot = if is_late { Err(LimitReached::Draining) } else { self.take_slot(pending.peer.ip(), is_proxy) };
        let (counts_as, address) = match slot {
            Ok(address) => (CountsAs::Connection, address),
            Err(limit) => match self.overflow.admit(pending) {
                Some(slot) => (CountsAs::Overflow { limit, _slot: slot }, None),
                None => return Err(limit),
            },
        };
        Ok(Admission { limits: Arc::clone(self), counts_as, address, was_refused: false })
    }

    fn take_slot(&self, peer: IpAddr, is_proxy: bool) -> Result<Option<AddressSlot>, LimitReached> {
        let is_full = |connections| connections >= self.max_connections;
        if is_full(self.connections.load(Relaxed)) && self.kept.is_empty() {
            return Err(LimitReached::Connections);
        }
        // Before the connection is counted: a client whose address may have no more takes no slot from others, not even
        // for a moment.
        let address = match self.addresses.as_ref().filter(|_| !is_proxy && has_address(peer)) {
            Some(addresses) => Some(addresses.take_slot(peer).ok_or(LimitReached::PerAddress)?),
            None => None,
        };
        let one_more = |connections| (!is_full(connections)).then_some(connections + 1);
        let is_free = self.connections.fetch_update(Relaxed, Relaxed, one_more).is_ok();
        if is_free || self.kept.drop_one() { Ok(address) } else { Err(LimitReached::Connections) }
    }
}

impl Admission {
    /// Whether this client may become a connection, now that its address is known. `is_late`: it asks for that when the
    /// server drains already.
    ///
    /// # Errors
    /// The limit that keeps it out.
    pub(super) fn check(&mut self, client: IpAddr, is_late: bool) -> Result<(), LimitReached> {
        let checked = if is_late { Err(LimitReached::Draining) } else { self.check_limits(client) };
        self.was_refused = checked.is_err();
        checked
    }

    fn check_limits(&mut self, client: IpAddr) -> Result<(), LimitReached> {
        if let CountsAs::Overflow { limit, .. } = self.counts_as {
            return Err(limit);
        }
        if self.address.is_none()
            && has_address(client)
            && let Some(addresses) = &self.limits.addresses
        {
            self.address = Some(addresses.take_slot(client).ok_or(LimitReached::PerAddress)?);
        }
        Ok(())
    }

    /// Whether [`check`](Self::check) has refused the client.
    pub(super) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Whether the client may keep its connection for another request. One in the overflow may not.
    pub(super) fn may_be_kept(&self) -> bool {
        matches!(self.counts_as, CountsAs::Connection)
    }

    /// The client has no request under way. Until it [resumes](Self::resume) it may be dropped for another.
    pub(super) fn rest(&mut self, pending: &Arc<PendingHandshake>) {
        if let CountsAs::Connection = self.counts_as {
            pending.mark_heard();
            self.address = None;
            self.counts_as = CountsAs::Idle(self.limits.kept.enter(pending));
        }
    }

    /// The client has sent more. Whether it still has its slot: `false` if it was dropped for another.
    pub(super) fn resume(&mut self) -> bool {
        if let CountsAs::Idle(place) = self.counts_as {
            let is_kept = self.limits.kept.leave(place);
            self.counts_as = if is_kept { CountsAs::Connection } else { CountsAs::Leaving { _slot: None } };
        }
        matches!(self.counts_as, CountsAs::Connection)
    }

    /// Moves a client that will not become a connection to the overflow, so that its slot is free for another. Whether
    /// it may stay there until it has taken its answer.
    pub(super) fn move_to_overflow(&mut self, pending: &Arc<PendingHandshake>) -> bool {
        if !matches!(self.counts_as, CountsAs::Connection) {
            return true;
        }
        pending.mark_heard();
        let slot = self.limits.overflow.admit(pending);
        let may_stay = slot.is_some();
        self.free_connection();
        self.counts_as = CountsAs::Leaving { _slot: slot };
        self.address = None;
        may_stay
    }

    /// Frees the connection slot, if the client holds one.
    pub(super) fn free_connection(&mut self) {
        if self.resume() {
            self.counts_as = CountsAs::Leaving { _slot: None };
            self.limits.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// Whether a client can be told from others by its address. One at a Unix socket cannot.
fn has_address(client: IpAddr) -> bool {
    client != UNIX_PEER.ip()
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.free_connection();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn client(number: u64, listener: &TcpListener) -> (Arc<PendingHandshake>, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        (Arc::new(PendingHandshake::new(number, peer, stream.into())), client)
    }

    #[test]
    fn a_newcomer_takes_the_slot_of_a_client_that_is_idle_and_of_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let limits = Arc::new(Limits::new(1, None));
        let (first, _first) = client(1, &listener);
        let (second, _second) = client(2, &listener);
        let mut held = limits.admit(&first, false, false).unwrap();
        assert!(!limits.admit(&second, false, false).unwrap().may_be_kept(), "in the overflow");
        held.rest(&first);
        let mut newcomer = limits.admit(&second, false, false).unwrap();
        assert!(newcomer.may_be_kept() && first.was_evicted() && !held.resume());
        drop(held);
        assert_eq!(limits.connections.load(Relaxed), 1, "the slot is the newcomer's");
        newcomer.rest(&second);
        assert!(newcomer.resume() && newcomer.may_be_kept(), "nobody wanted it");
        newcomer.rest(&second);
        drop(newcomer);
        assert_eq!(limits.connections.load(Relaxed), 0);
        assert!(limits.kept.is_empty());
    }

    #[test]
    fn an_idle_client_does_not_count_for_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let limits = Arc::new(Limits::new(9, Some(1)));
        let (first, _first) = client(1, &listener);
        let (second, _second) = client(2, &listener);
        let mut idle = limits.admit(&first, false, false).unwrap();
        idle.rest(&first);
        let mut other = limits.admit(&second, false, false).unwrap();
        assert!(other.check(second.peer.ip(), false).is_ok());
        assert!(idle.resume());
        assert_eq!(idle.check(first.peer.ip(), false), Err(LimitReached::PerAddress));
        drop(other);
        assert_eq!(idle.check(first.peer.ip(), true), Err(LimitReached::Draining));
        assert!(idle.check(first.peer.ip(), false).is_ok());
    }

    #[test]
    fn clients_beyond_the_limit_of_their_address_keep_no_other_out() {
        let limits = Limits::new(2, Some(1));
        let (many, other) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
        let _held = limits.take_slot(many, false).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    assert!(limits.take_slot(many, false).is_err());
                }
            });
            let kept_out = (0..100_000).filter(|_| match limits.take_slot(other, false) {
                Ok(_address) => limits.connections.fetch_sub(1, Relaxed) == 0,
                Err(_) => true,
            });
            let kept_out = kept_out.count();
            is_over.store(true, Relaxed);
            assert_eq!(kept_out, 0);
        });
    }
}

//! Admission: which clients may become a connection, and what each client counts towards.
//!
//! `max_connections` bounds connections together with the handshakes that may still become one;
//! `max_connections_per_address` bounds those of one client address. A client over a limit goes to the [`Overflow`],
//! where it is only refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::http::forwarded::UNIX_PEER;
use crate::server::addresses::{AddressCounts, AddressSlot};
use crate::server::handshake::LimitReached;
use crate::server::overflow::{Overflow, OverflowSlot};
use crate::supervisor::pending_handshake::PendingHandshake;

/// The limits of a server, and how much of them is taken.
pub(super) struct Limits {
    max_connections: usize,
    /// Connections, and handshakes that may still become one.
    connections: AtomicUsize,
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
        if is_full(self.connections.load(Relaxed)) {
            return Err(LimitReached::Connections);
        }
        // Before the connection is counted: a client whose address may have no more takes no slot from others, not even
        // for a moment.
        let address = match self.addresses.as_ref().filter(|_| !is_proxy && has_address(peer)) {
            Some(addresses) => Some(addresses.take_slot(peer).ok_or(LimitReached::PerAddress)?),
            None => None,
        };
        let one_more = |connections| (!is_full(connections)).then_some(connections + 1);
        self.connections.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| LimitReached::Connections)?;
        Ok(address)
    }
}

impl Admission {
    /// Whether this client may become a connection, now that its address is known.
    ///
    /// # Errors
    /// The limit that keeps it out.
    pub(super) fn check(&mut self, client: IpAddr) -> Result<(), LimitReached> {
        let checked = self.check_limits(client);
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
        if let CountsAs::Connection = self.counts_as {
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
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

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

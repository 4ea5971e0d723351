//! How many connections each client address has, if that is limited.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of each address. An IPv6 client can choose its addresses from a /64 network (RFC 6177), so each /64
/// counts as one address.
#[derive(Debug)]
pub(crate) struct AddressCounts {
    limit: usize,
    /// Protects the counts, none of which is 0. Taken for moments only.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection in the count of its address. Dropping it takes the connection out.
#[derive(Debug)]
pub(crate) struct AddressSlot {
    counts: Arc<AddressCounts>,
    key: IpAddr,
}

impl AddressCounts {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts one more connection of this address. `None` if the address has reached its limit.
    pub(crate) fn take_slot(self: &Arc<Self>, address: IpAddr) -> Option<AddressSlot> {
        let key = key(address);
        let mut counts = self.lock();
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        counts.insert(key, count + 1);
        Some(AddressSlot { counts: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = counts.remove(&self.key),
        }
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_an_ipv6_network_one_together() {
        let counts = Arc::new(AddressCounts::new(2));
        let take = |address: &str| counts.take_slot(address.parse().unwrap());
        let first = take("192.0.2.1");
        let _second = take("::ffff:192.0.2.1");
        assert!(first.is_some() && take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
        drop(first);
        let _third = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        let networks = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(networks.0.is_some() && networks.1.is_some());
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::3").is_some());
        drop(networks);
        assert_eq!(counts.lock().len(), 1, "an address without connections is forgotten");
    }
}

//! How many connections each client's address has, where that is limited.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts. An IPv6 client has a network of 64 bits to choose its addresses from (RFC 6177), so that counts as one.
#[derive(Debug)]
pub(crate) struct Addresses {
    limit: usize,
    /// Protects the counts, none of which is 0; taken for moments only.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    addresses: Arc<Addresses>,
    key: IpAddr,
}

impl Addresses {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts one more connection of this address; `None` if it has as many as it may have.
    pub(crate) fn count(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let key = key(address);
        let mut counts = self.lock();
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        counts.insert(key, count + 1);
        Some(Counted { addresses: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.lock();
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
        let addresses = Arc::new(Addresses::new(2));
        let count = |address: &str| addresses.count(address.parse().unwrap());
        let first = count("192.0.2.1");
        let _second = count("::ffff:192.0.2.1");
        assert!(first.is_some() && count("192.0.2.1").is_none() && count("192.0.2.2").is_some());
        drop(first);
        let _third = count("192.0.2.1").unwrap();
        assert!(count("192.0.2.1").is_none());
        let networks = (count("2001:db8::1"), count("2001:db8::2"));
        assert!(networks.0.is_some() && networks.1.is_some());
        assert!(count("2001:db8::3").is_none() && count("2001:db8:0:1::3").is_some());
        drop(networks);
        assert_eq!(addresses.lock().len(), 1, "an address without connections is forgotten");
    }
}

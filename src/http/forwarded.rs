//! The client behind a peer: its address, as named by trusted reverse proxies.
//!
//! Anybody can write any address into a header. A header therefore counts only if the TCP peer, whose address cannot be
//! forged, is a trusted proxy. Each proxy appends the address of its own client to `X-Forwarded-For`, so the list is
//! read from the right: an entry is true if the proxy that appended it is trusted. Entries further left came from
//! outside and are ignored.
//!
//! Invariant: the headers of a peer that is not trusted change nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

/// The address of a peer that has none, because it came over a Unix socket. No TCP peer can have it.
pub(crate) const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The other end: the peer of the socket, and the client behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) peer_addr: SocketAddr,
    pub(crate) remote_ip: IpAddr,
}

impl From<SocketAddr> for Remote {
    /// A peer that speaks for itself.
    fn from(peer: SocketAddr) -> Self {
        Self { peer_addr: peer, remote_ip: peer.ip().to_canonical() }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self != Self::from(self.peer_addr) {
            write!(f, "{} via ", self.remote_ip)?;
        }
        if self.peer_addr == UNIX_PEER { f.write_str("unix socket") } else { self.peer_addr.fmt(f) }
    }
}

/// The networks of the proxies that are trusted to name their clients. By default there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trusted(Vec<IpNet>);

impl Trusted {
    pub(crate) fn add(&mut self, networks: impl IntoIterator<Item = impl Into<IpNet>>) {
        self.0.extend(networks.into_iter().map(|network| canonical(network.into())));
    }

    /// The client behind the peer, according to the lines of `X-Forwarded-For` and `X-Real-IP` in its request.
    pub(crate) fn remote<'a>(
        &self,
        peer: SocketAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
        real_ip: impl Iterator<Item = &'a [u8]>,
    ) -> Remote {
        let itself = Remote::from(peer);
        if !self.includes(itself.remote_ip) {
            return itself;
        }
        let mut lines = forwarded_for.rev().peekable();
        let client = if lines.peek().is_some() {
            self.first_untrusted(itself.remote_ip, lines)
        } else {
            // A single address without a list, for proxies that send only that.
            real_ip.last().and_then(address).unwrap_or(itself.remote_ip)
        };
        Remote { remote_ip: client, ..itself }
    }

    /// Goes back from hop to hop while they are trusted, from the last line to the first: lines of the same header are
    /// one list (RFC 9110 section 5.3). An entry that is not an address ends the search: no proxy that we understand
    /// wrote it.
    fn first_untrusted<'a>(&self, peer: IpAddr, lines_from_last: impl Iterator<Item = &'a [u8]>) -> IpAddr {
        let mut client = peer;
        for entry in lines_from_last.flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            let Some(hop) = address(entry) else { break };
            client = hop;
            if !self.includes(hop) {
                break;
            }
        }
        client
    }

    /// Whether this peer may name other clients, so that its own address says nothing about its client.
    pub(crate) fn speaks_for_others(&self, peer: SocketAddr) -> bool {
        self.includes(peer.ip().to_canonical())
    }

    fn includes(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
/// An IPv4 address mapped to IPv6 counts as IPv4, so that no rule depends on how a socket was bound.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let bare = || text.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(|ip: Ipv6Addr| ip.into());
    bare().or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

/// The same network, in the form that its addresses take in [`address`].
fn canonical(network: IpNet) -> IpNet {
    /// Bits before the IPv4 address in one that is mapped to IPv6 (RFC 4291 section 2.5.5.2).
    const MAPPED: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(address), Some(bits)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, bits).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;
    use crate::fuzz::Raw;
    use crate::http::request::Request;

    const TRUSTED: &str = "127.0.0.1/32 10.0.0.0/8 2001:db8:aa::/48 ::ffff:192.168.0.0/112";

    fn trusted() -> Trusted {
        let mut trusted = Trusted::default();
        trusted.add(TRUSTED.split(' ').map(|network| network.parse::<IpNet>().unwrap()));
        trusted
    }

    /// The client's address, for a peer and `Name: value` lines.
    fn client(peer: &str, lines: &[&str]) -> String {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let mut request = Request::from_bytes(head.as_bytes(), peer.parse().unwrap()).unwrap();
        request.find_client(&trusted());
        request.remote_ip().to_string()
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        let xff = |list: &str| client("127.0.0.1:1", &[&format!("X-Forwarded-For: {list}")]);
        for (list, expected) in [
            ("203.0.113.9", "203.0.113.9"),
            // Whatever a client claims stands to the left of what the first proxy saw.
            ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
            ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
            ("nonsense, 203.0.113.9", "203.0.113.9"),
            // Two proxies in a row, and three.
            ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
            ("203.0.113.9,10.1.2.3,192.168.0.7 ", "203.0.113.9"),
            // All are trusted: the client is within, the one furthest from us.
            ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
            // An entry that is not an address ends the search.
            ("203.0.113.9, unknown", "127.0.0.1"),
            ("203.0.113.9, , 10.1.2.3", "10.1.2.3"),
            ("203.0.113.9, _hidden, 10.1.2.3", "10.1.2.3"),
            ("203.0.113.9;10.1.2.3", "127.0.0.1"),
            ("203.0.113", "127.0.0.1"),
            ("203.0.113.09", "127.0.0.1"),
            ("203.0.113.9:", "127.0.0.1"),
            ("203.0.113.9:65536", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("", "127.0.0.1"),
            // Forms of addresses.
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8::9", "2001:db8::9"),
            ("[2001:db8::9]", "2001:db8::9"),
            ("[2001:db8::9]:4711", "2001:db8::9"),
            ("2001:DB8:0::9", "2001:db8::9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("203.0.113.9, ::ffff:10.1.2.3, 2001:db8:aa::1", "203.0.113.9"),
            ("[2001:db8::9", "127.0.0.1"),
            ("2001:db8::9]", "127.0.0.1"),
            ("[203.0.113.9]", "127.0.0.1"),
        ] {
            assert_eq!(xff(list), expected, "{list:?}");
        }
    }

    #[test]
    fn lines_of_one_header_are_one_list() {
        let lines = ["x-forwarded-for: 198.51.100.1", "Host: h", "X-FORWARDED-FOR: 203.0.113.9, 10.1.2.3"];
        assert_eq!(client("127.0.0.1:1", &lines), "203.0.113.9");
        let lines = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.1.2.3"];
        assert_eq!(client("127.0.0.1:1", &lines), "203.0.113.9");
    }

    #[test]
    fn a_single_address_is_taken_only_where_there_is_no_list() {
        assert_eq!(client("127.0.0.1:1", &["X-Real-IP: 203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("127.0.0.1:1", &["X-Real-IP: 198.51.100.1", "X-Real-IP: [2001:db8::9]"]), "2001:db8::9");
        assert_eq!(client("127.0.0.1:1", &["X-Real-IP: me"]), "127.0.0.1");
        assert_eq!(client("127.0.0.1:1", &["X-Real-IP: 198.51.100.1, 203.0.113.9"]), "127.0.0.1");
        for list in ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 203.0.113.9, 10.1.2.3"] {
            assert_eq!(client("127.0.0.1:1", &["X-Real-IP: 198.51.100.1", list]), "203.0.113.9");
        }
        assert_eq!(client("127.0.0.1:1", &["X-Real-IP: 203.0.113.9", "X-Forwarded-For: "]), "127.0.0.1");
    }

    #[test]
    fn peers_are_trusted_by_network_however_their_address_is_written() {
        let says = |peer: &str| client(peer, &["X-Forwarded-For: 203.0.113.9"]);
        for peer in ["127.0.0.1:1", "10.255.0.1:1", "[::ffff:10.0.0.1]:1", "[2001:db8:aa:1::2]:1", "192.168.255.1:1"] {
            assert_eq!(says(peer), "203.0.113.9", "{peer}");
        }
        for peer in ["127.0.0.2:1", "11.0.0.1:1", "[2001:db8:ab::2]:1", "192.169.0.1:1", "[::1]:1", "[::a00:1]:1"] {
            assert_eq!(says(peer), peer.parse::<SocketAddr>().unwrap().ip().to_string(), "{peer}");
        }
        assert_eq!(says("[::ffff:11.0.0.1]:1"), "11.0.0.1");
    }

    #[test]
    fn a_peer_that_speaks_for_itself_is_shown_as_ever() {
        let shown = |peer: &str, client: &str| {
            Remote { peer_addr: peer.parse().unwrap(), remote_ip: client.parse().unwrap() }.to_string()
        };
        assert_eq!(shown("127.0.0.1:51234", "127.0.0.1"), "127.0.0.1:51234");
        assert_eq!(shown("[::ffff:127.0.0.1]:51234", "127.0.0.1"), "[::ffff:127.0.0.1]:51234");
        assert_eq!(shown("127.0.0.1:51234", "203.0.113.9"), "203.0.113.9 via 127.0.0.1:51234");
        assert_eq!(shown("[::1]:51234", "2001:db8::9"), "2001:db8::9 via [::1]:51234");
    }

    /// Values as an attacker may send them: addresses, trusted ones among them, and rubbish.
    fn forged() -> impl Strategy<Value = Vec<Raw>> {
        let part = prop_oneof![
            Just(b"127.0.0.1".to_vec()),
            Just(b"10.0.0.1, 10.0.0.2".to_vec()),
            any::<IpAddr>().prop_map(|address| address.to_string().into_bytes()),
            any::<SocketAddr>().prop_map(|address| address.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        let value = prop::collection::vec(part, 0..5).prop_map(|parts| Raw(parts.join(&b", "[..])));
        prop::collection::vec(value, 0..4)
    }

    fn untrusted() -> impl Strategy<Value = IpAddr> {
        let address = any::<IpAddr>().prop_map(|address| address.to_canonical());
        address.prop_filter("untrusted", |address| !trusted().includes(*address))
    }

    #[test]
    fn fuzz_nothing_that_a_client_writes_moves_it() {
        let hops = prop::collection::vec(prop_oneof![Just("10.0.0.7"), Just("2001:db8:aa::7")], 0..4);
        let input = (forged(), untrusted(), hops, any::<bool>(), any::<u16>());
        fuzz::check(&input, |(forged, client, hops, in_one_line, port)| {
            let mut forged: Vec<Vec<u8>> = forged.into_iter().map(|Raw(bytes)| bytes).collect();
            let seen = |values: &[Vec<u8>], peer: IpAddr| {
                let lines = || values.iter().map(Vec::as_slice);
                trusted().remote(SocketAddr::new(peer, port), lines(), lines()).remote_ip
            };
            // On its own, without a proxy.
            prop_assert_eq!(seen(&forged, client), client);

            // Through proxies, each of which appends whom it was called by, as entries or as lines.
            let mut way = vec![client.to_string()];
            way.extend(hops.iter().map(|hop| (*hop).to_owned()));
            match forged.last_mut().filter(|_| in_one_line) {
                Some(line) => line.extend_from_slice(format!(", {}", way.join(", ")).as_bytes()),
                None => forged.extend(way.into_iter().map(String::into_bytes)),
            }
            prop_assert_eq!(seen(&forged, "127.0.0.1".parse().unwrap()), client);
            Ok(())
        });
    }
}

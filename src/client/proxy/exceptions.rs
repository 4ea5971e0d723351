//! Hosts that are connected to without a proxy, by the rules of curl (`CURLOPT_NOPROXY`). Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// A name and all names below it, in lower case, without dots around it.
    Name(String),
    Network(IpNet),
}

impl Exceptions {
    /// Items are separated by commas or blanks.
    pub(super) fn parse(list: &str) -> Self {
        let items = list.split(|char: char| char == ',' || char.is_whitespace());
        Self(items.filter(|item| !item.is_empty()).map(Exception::parse).collect())
    }

    /// Whether this host is in the list: a name, or an address without brackets.
    pub(super) fn contain(&self, host: &str) -> bool {
        let address = host.parse::<IpAddr>().ok();
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.0.iter().any(|exception| match (exception, address) {
            (Exception::All, _) => true,
            (Exception::Network(network), Some(address)) => network.contains(&address),
            (Exception::Name(name), None) => {
                host.strip_suffix(name.as_str()).is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            (Exception::Network(_), None) | (Exception::Name(_), Some(_)) => false,
        })
    }
}

impl Exception {
    fn parse(item: &str) -> Self {
        if item == "*" {
            return Self::All;
        }
        let bare = item.trim_matches(['[', ']']);
        match bare.parse::<IpAddr>().map(IpNet::from).or_else(|_| bare.parse()) {
            Ok(network) => Self::Network(network),
            Err(_) => Self::Name(item.trim_matches('.').to_ascii_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_themselves_and_all_below_and_addresses_for_themselves_or_a_network() {
        for (list, host, is_direct) in [
            ("", "example.org", false),
            (" , ", "example.org", false),
            ("*", "example.org", true),
            ("*", "10.0.0.1", true),
            ("a.example, *", "::1", true),
            ("example.org", "example.org", true),
            ("Example.ORG", "example.org", true),
            ("example.org", "EXAMPLE.org.", true),
            ("example.org", "www.example.org", true),
            ("example.org", "wwwexample.org", false),
            ("example.org", "example.org.uk", false),
            ("example.org", "org", false),
            (".example.org", "www.example.org", true),
            (".example.org", "example.org", true),
            (".example.org", "notexample.org", false),
            ("example.org.", "www.example.org", true),
            ("a.example b.example", "b.example", true),
            ("localhost,127.0.0.1,::1", "127.0.0.1", true),
            ("localhost,127.0.0.1,::1", "127.0.0.2", false),
            ("localhost,127.0.0.1,::1", "::1", true),
            ("[::1]", "0:0:0:0:0:0:0:1", true),
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.200.3.4", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("0.0.0.0/0", "::1", false),
            ("0.0.0.0/0", "example.org", false),
            // What would be the end of an address is no name.
            ("0.0.1", "10.0.0.1", false),
            ("10.0.0.0/33", "10.0.0.1", false),
            // As in curl, there are no ports.
            ("example.org:80", "example.org", false),
        ] {
            assert_eq!(Exceptions::parse(list).contain(host), is_direct, "{host} and {list:?}");
        }
    }
}

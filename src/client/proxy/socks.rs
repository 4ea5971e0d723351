//! What is said to a SOCKS5 proxy (RFC 1928), and what its answers mean. Pure.
//!
//! All its answers begin with two bytes that say how the rest goes, so whoever reads never reads too far.

use std::net::{IpAddr, SocketAddr};

use super::Credentials;
use crate::error::ProxyErrorKind;

const VERSION: u8 = 5;
/// The version of the exchange of user name and password (RFC 1929).
const LOGIN_VERSION: u8 = 1;

/// The host to be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    Address(SocketAddr),
    /// A name of at most 255 bytes, and a port.
    Name(String, u16),
}

/// How the proxy wants to know who we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Method {
    Nobody = 0,
    Login = 2,
}

impl Destination {
    /// `None` if the name is too long.
    pub(super) fn of(host: &str, port: u16) -> Option<Self> {
        match host.parse::<IpAddr>() {
            Ok(address) => Some(Self::Address(SocketAddr::new(address, port))),
            Err(_) => (host.len() <= 255).then(|| Self::Name(host.to_owned(), port)),
        }
    }
}

/// The first message: by which methods we can say who we are.
pub(super) fn greeting(has_credentials: bool) -> Vec<u8> {
    match has_credentials {
        false => vec![VERSION, 1, Method::Nobody as u8],
        true => vec![VERSION, 2, Method::Nobody as u8, Method::Login as u8],
    }
}

/// The answer to it: the method that the proxy has chosen.
pub(super) fn chosen_method(answer: [u8; 2], has_credentials: bool) -> Result<Method, ProxyErrorKind> {
    match answer {
        [VERSION, 0] => Ok(Method::Nobody),
        [VERSION, 2] if has_credentials => Ok(Method::Login),
        [VERSION, 0xff] => Err(ProxyErrorKind::Credentials(match has_credentials {
            true => "accepts neither a user name and password nor none",
            false => "asks for a user name and a password: set them in its URL, as socks5h://USER:PASSWORD@HOST:PORT",
        })),
        [VERSION, _] => Err(ProxyErrorKind::BadResponse("it chose a method that was not offered")),
        _ => Err(NOT_SOCKS5),
    }
}

const NOT_SOCKS5: ProxyErrorKind = ProxyErrorKind::BadResponse("its answer is not SOCKS5");

/// User name and password, of at most 255 bytes each.
pub(super) fn login(Credentials { user, password }: &Credentials) -> Vec<u8> {
    [&[LOGIN_VERSION, user.len() as u8], &user[..], &[password.len() as u8], password].concat()
}

/// The answer to it.
pub(super) fn check_login(answer: [u8; 2]) -> Result<(), ProxyErrorKind> {
    match answer {
        // Some proxies give the version of SOCKS itself.
        [LOGIN_VERSION | VERSION, 0] => Ok(()),
        [LOGIN_VERSION | VERSION, _] => {
            Err(ProxyErrorKind::Credentials("does not accept the user name and password of its URL"))
        }
        _ => Err(NOT_SOCKS5),
    }
}

/// The request to connect.
pub(super) fn connect(destination: &Destination) -> Vec<u8> {
    const CONNECT: u8 = 1;
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match destination {
        Destination::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => request.extend([&[1][..], &ip.octets()].concat()),
                IpAddr::V6(ip) => request.extend([&[4][..], &ip.octets()].concat()),
            }
            address.port()
        }
        Destination::Name(name, port) => {
            request.extend([&[3, name.len() as u8], name.as_bytes()].concat());
            *port
        }
    };
    request.extend(port.to_be_bytes());
    request
}

/// The first two bytes of the answer to it.
pub(super) fn check_reply(answer: [u8; 2]) -> Result<(), ProxyErrorKind> {
    match answer {
        [VERSION, 0] => Ok(()),
        [VERSION, code] => Err(ProxyErrorKind::Reply(code)),
        _ => Err(NOT_SOCKS5),
    }
}

/// The length of the address from which the proxy connects, after the next two bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AddressLen {
    Fixed(usize),
    /// One byte gives it.
    Prefixed,
}

/// The next two bytes: what follows is an address of this length, and a port.
pub(super) fn address_len([_reserved, kind]: [u8; 2]) -> Result<AddressLen, ProxyErrorKind> {
    match kind {
        1 => Ok(AddressLen::Fixed(4)),
        3 => Ok(AddressLen::Prefixed),
        4 => Ok(AddressLen::Fixed(16)),
        _ => Err(NOT_SOCKS5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &[u8], password: &[u8]) -> Credentials {
        Credentials { user: user.to_vec(), password: password.to_vec() }
    }

    #[test]
    fn messages_are_those_of_the_standard() {
        assert_eq!((greeting(false), greeting(true)), (vec![5, 1, 0], vec![5, 2, 0, 2]));
        assert_eq!(login(&credentials(b"me", b"pass")), b"\x01\x02me\x04pass");
        assert_eq!(login(&credentials(&[b'u'; 255], b"")).len(), 2 + 255 + 1);
        let request = |host, port| connect(&Destination::of(host, port).unwrap());
        assert_eq!(request("192.0.2.1", 80), [5, 1, 0, 1, 192, 0, 2, 1, 0, 80]);
        assert_eq!(request("::1", 443), [&[5, 1, 0, 4][..], &[0; 15], &[1, 1, 187]].concat());
        assert_eq!(request("a.example", 9001), b"\x05\x01\x00\x03\x09a.example\x23\x29");
        assert_eq!(request(&"n".repeat(255), 1)[3..5], [3, 255]);
        assert_eq!(Destination::of(&"n".repeat(256), 1), None);
    }

    #[test]
    fn methods_that_were_not_offered_are_not_accepted() {
        assert!(matches!(chosen_method([5, 0], false), Ok(Method::Nobody)));
        assert!(matches!(chosen_method([5, 0], true), Ok(Method::Nobody)));
        assert!(matches!(chosen_method([5, 2], true), Ok(Method::Login)));
        assert!(matches!(chosen_method([5, 2], false), Err(ProxyErrorKind::BadResponse(_))));
        assert!(matches!(chosen_method([5, 1], true), Err(ProxyErrorKind::BadResponse(_))));
        assert!(matches!(chosen_method([4, 0], true), Err(ProxyErrorKind::BadResponse(_))));
        assert!(matches!(chosen_method(*b"HT", false), Err(ProxyErrorKind::BadResponse(_))));
        assert!(matches!(chosen_method([5, 0xff], false), Err(ProxyErrorKind::Credentials(_))));
        assert!(matches!(chosen_method([5, 0xff], true), Err(ProxyErrorKind::Credentials(_))));
    }

    #[test]
    fn answers_to_a_login_and_a_request_are_told_apart() {
        assert!(check_login([1, 0]).is_ok() && check_login([5, 0]).is_ok());
        assert!(matches!(check_login([1, 1]), Err(ProxyErrorKind::Credentials(_))));
        assert!(matches!(check_login([0, 0]), Err(ProxyErrorKind::BadResponse(_))));
        assert!(check_reply([5, 0]).is_ok());
        assert!((1..=255).all(|code| matches!(check_reply([5, code]), Err(ProxyErrorKind::Reply(it)) if it == code)));
        assert!(matches!(check_reply([0, 90]), Err(ProxyErrorKind::BadResponse(_))));
        let lens = [1, 3, 4].map(|kind| address_len([0, kind]).unwrap());
        assert_eq!(lens, [AddressLen::Fixed(4), AddressLen::Prefixed, AddressLen::Fixed(16)]);
        assert!([0, 2, 5, 255].into_iter().all(|kind| address_len([0, kind]).is_err()));
    }
}

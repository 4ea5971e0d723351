//! Who may see the status page and the metrics, and use topics over HTTP: clients on this machine, or everyone.

use std::net::{IpAddr, Ipv4Addr};

use crate::http::request::Request;
#[cfg(any(feature = "metrics", feature = "status"))]
use crate::http::response::Response;

#[cfg(any(feature = "metrics", feature = "status"))]
/// Who may see the [status page](crate::Server::status_page) or the [metrics](crate::Server::metrics) of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatusAccess {
    /// Clients on this machine that also address it as this machine: with `localhost`, a name that ends with
    /// `.localhost`, `127.x.y.z` or `[::1]` in the `Host` header. All others get 403.
    ///
    /// The check of the name keeps out web pages whose host name was made to point to this machine (DNS rebinding). A
    /// reverse proxy on this machine that passes the outer `Host` on is refused as well. One that does not pass it on
    /// has to be a [trusted proxy](crate::Server::trust_proxies), which names its clients, or it shows the status to
    /// everyone it lets through.
    Loopback,
    /// Every client that reaches the server. There is no password: a firewall, or a proxy in front, has to keep out
    /// those who should not see it.
    Everyone,
}

#[cfg(any(feature = "metrics", feature = "status"))]
/// The response to a refused client, and the reason for the log.
pub(super) type Refused = (Response, &'static str);

#[cfg(any(feature = "metrics", feature = "status"))]
impl StatusAccess {
    /// Refuses a request that may come from another machine.
    pub(super) fn check_host(self, request: &Request) -> Result<(), Refused> {
        if self == Self::Everyone {
            return Ok(());
        }
        if !is_from_loopback(request) {
            let response = Response::new(403).text("The status is shown only on the server's own machine.\n");
            return Err((response, "the status is not shown to other machines"));
        }
        if !is_loopback_host(request.header("Host").unwrap_or_default()) {
            let text = "The status is shown only under the name localhost or a loopback address.\n";
            return Err((Response::new(403).text(text), "the status is not shown under this Host"));
        }
        Ok(())
    }

    /// Also refuses pages of another origin: browsers let them open WebSockets to any server.
    #[cfg(feature = "status")]
    pub(super) fn check_origin(self, request: &Request) -> Result<(), Refused> {
        self.check_host(request)?;
        if is_from_own_origin(request) {
            return Ok(());
        }
        let response = Response::new(403).text("The status is not shown to pages of another origin.\n");
        Err((response, "the status is not shown to pages of another origin"))
    }
}

/// Whether a request comes from this machine, and names it as only this machine is named.
#[cfg(feature = "topics")]
pub(super) fn is_from_this_machine(request: &Request) -> bool {
    is_from_loopback(request) && is_loopback_host(request.header("Host").unwrap_or_default())
}

fn is_from_loopback(request: &Request) -> bool {
    let is_here = |ip: IpAddr| ip.to_canonical().is_loopback();
    is_here(request.peer_addr().ip()) && is_here(request.remote_ip())
}

/// Whether a request comes from no page, or from one of the host that it is for.
#[cfg(any(feature = "status", feature = "topics"))]
pub(super) fn is_from_own_origin(request: &Request) -> bool {
    let is_own = |origin: &[u8]| {
        let host = request.header("Host").unwrap_or_default();
        // With https, a proxy is in front.
        ["http://", "https://"].iter().any(|scheme| origin.eq_ignore_ascii_case(format!("{scheme}{host}").as_bytes()))
    };
    request.head().values("Origin").all(is_own)
}

/// Whether a Host header names this machine itself, with any port.
fn is_loopback_host(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name == "[::1]"
        || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

#[cfg(all(test, any(feature = "metrics", feature = "status")))]
mod tests {
    use super::*;
    use crate::http::forwarded::Trusted;

    #[test]
    fn loopback_has_many_names_and_no_others() {
        for host in
            ["localhost", "LOCALHOST:9001", "127.0.0.1:9001", "127.9.9.9", "[::1]", "[::1]:9001", "a.localhost:80"]
        {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]:9001",
            "alocalhost",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn a_client_behind_a_trusted_proxy_on_this_machine_is_not_on_it() {
        let mut trusted = Trusted::default();
        trusted.add([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let check = |client: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n");
            let mut request = Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap();
            request.find_client(&trusted);
            StatusAccess::Loopback.check_host(&request).is_ok()
        };
        assert!(check("127.0.0.1") && check("::1"));
        assert!(!check("192.0.2.1"));
    }

    #[test]
    fn whoever_connects_from_elsewhere_cannot_pass_for_this_machine_by_a_header() {
        let check = |access: StatusAccess, peer: &str| {
            let head = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let request = Request::from_bytes(head, peer.parse().unwrap()).unwrap();
            access.check_host(&request).is_ok()
        };
        for peer in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(check(StatusAccess::Loopback, peer), "{peer}");
        }
        for peer in ["192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            assert!(!check(StatusAccess::Loopback, peer), "{peer}");
            assert!(check(StatusAccess::Everyone, peer), "{peer}");
        }
    }
}

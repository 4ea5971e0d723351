//! Through which proxy a client connects: URLs of proxies, the variables of the environment, and hosts that are reached
//! directly.
//!
//! [`Proxy`] is what the application sets, [`ProxyServer`] one proxy of it. What is said to a proxy is in
//! `connect_method` and `socks`, which have no I/O; `tunnel` says it. No name and no password is ever shown.

use std::fmt;
use std::sync::Arc;

use tungstenite::http::uri::Authority;

use super::ConnectError;
use super::target::{Location, port_of, without_secrets};
use crate::error::Error;

mod connect_method;
mod exceptions;
mod socks;
mod tunnel;

use exceptions::Exceptions;

/// Through which proxy a [`Client`](crate::Client) connects, and to which hosts it connects directly, for
/// [`Client::proxy`](crate::Client::proxy).
///
/// Both `ws://` and `wss://` pass through the proxy as a tunnel: the proxy sees the host's name and port, and of
/// `wss://` nothing else. The certificate is still checked against the URL's host.
///
/// | URL of the proxy | protocol | who resolves the host's name |
/// | --- | --- | --- |
/// | `http://` | `CONNECT` (RFC 9110 section 9.3.6) | the proxy |
/// | `socks5h://` | SOCKS5 (RFC 1928) | the proxy |
/// | `socks5://` | SOCKS5 | this machine |
///
/// A user name and a password stand before the host, percent-encoded where they have special characters:
/// `http://user:p%40ss@proxy.example:3128`. An HTTP proxy gets them at once (`Basic`, RFC 7617), a SOCKS5 proxy if it
/// asks for them (RFC 1929); both are sent without encryption. No log line, no error and no `Debug` output shows them.
///
/// ```no_run
/// use heartwire::{Client, Proxy};
///
/// # fn main() -> Result<(), heartwire::Error> {
/// let proxy = Proxy::parse("http://proxy.example:3128")?.no_proxy("localhost, .internal, 10.0.0.0/8");
/// Client::new("ws://server.example/")?.proxy(proxy).run(|conn| loop {
///     println!("{:?}", conn.recv()?);
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Proxy {
    /// For `ws://`.
    plain: Choice,
    /// For `wss://`.
    secure: Choice,
    exceptions: Exceptions,
}

#[derive(Clone)]
enum Choice {
    Direct,
    Through(Arc<ProxyServer>),
    /// The environment names a proxy that cannot be used. That matters only to those who need it.
    Invalid(Arc<str>),
}

impl Proxy {
    /// One proxy for all URLs: `[http://|socks5://|socks5h://][USER:PASSWORD@]HOST[:PORT]`. As in curl, the scheme is
    /// `http` if there is none, and the port 1080.
    ///
    /// # Errors
    /// [`Error::Connect`] with [`ConnectError::Invalid`] if the URL is not valid. TLS to the proxy itself (`https://`)
    /// and SOCKS4 are not supported.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let server = ProxyServer::parse(url).map_err(|what| Error::Connect(ConnectError::Invalid(what)))?;
        let choice = Choice::Through(Arc::new(server));
        Ok(Self { plain: choice.clone(), secure: choice, exceptions: Exceptions::default() })
    }

    /// What the environment says now, by [curl's rules](https://curl.se/libcurl/c/libcurl-env.html):
    ///
    /// - For `wss://` the first that is set of `wss_proxy`, `WSS_PROXY`, `https_proxy`, `HTTPS_PROXY`, `all_proxy` and
    ///   `ALL_PROXY`.
    /// - For `ws://` the first of `ws_proxy`, `WS_PROXY`, `http_proxy`, `all_proxy` and `ALL_PROXY`. `HTTP_PROXY` is
    ///   never read: where a program serves CGI, any client can set it by a header.
    /// - `no_proxy`, or else `NO_PROXY`, is the list for [`no_proxy`](Self::no_proxy).
    ///
    /// An empty variable counts as not set. If none is set, connections are direct. A proxy that is not valid is an
    /// error of [`Client::run`](crate::Client::run) ([`ConnectError::Invalid`]), if the client needs it.
    pub fn from_env() -> Self {
        Self::from_variables(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
    }

    fn from_variables(read: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| Some((*name, read(name).filter(|value| !value.is_empty())?)))
        };
        let choice = |names| match first(names) {
            None => Choice::Direct,
            Some((name, url)) => match ProxyServer::parse(&url) {
                Ok(server) => Choice::Through(Arc::new(server)),
                Err(what) => Choice::Invalid(format!("the value of {name}: {what}").into()),
            },
        };
        let plain = choice(&["ws_proxy", "WS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"]);
        let secure = choice(&["wss_proxy", "WSS_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]);
        let list = first(&["no_proxy", "NO_PROXY"]).map(|(_, list)| list);
        Self { plain, secure, exceptions: list.as_deref().map(Exceptions::parse).unwrap_or_default() }
    }

    /// Hosts that are connected to directly, separated by commas or blanks. It replaces the list from before. Default:
    /// none, or that of the [environment](Self::from_env).
    ///
    /// A name stands for itself and all names below it, with a dot before it or not: `example.org` for
    /// `www.example.org` too. An address stands for itself, and `10.0.0.0/8` for a network; neither is compared with
    /// what a name resolves to. `*` stands for all hosts. A Unix socket is always connected to directly.
    pub fn no_proxy(mut self, hosts: &str) -> Self {
        self.exceptions = Exceptions::parse(hosts);
        self
    }

    /// The proxy for this URL. `None`: it is connected to directly.
    pub(super) fn server_for(&self, location: &Location) -> Result<Option<&ProxyServer>, ConnectError> {
        if location.unix_path.is_some() || self.exceptions.contain(&location.host) {
            return Ok(None);
        }
        match if location.is_secure { &self.secure } else { &self.plain } {
            Choice::Direct => Ok(None),
            Choice::Through(server) => Ok(Some(server)),
            Choice::Invalid(what) => Err(ConnectError::Invalid(what.to_string())),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, secure, exceptions } = self;
        f.debug_struct("Proxy").field("ws", plain).field("wss", secure).field("no_proxy", exceptions).finish()
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Through(server) => f.write_str(&server.label),
            Self::Invalid(what) => f.write_str(what),
        }
    }
}

/// One proxy.
pub(super) struct ProxyServer {
    protocol: Protocol,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
    /// Its URL without credentials, to be shown.
    label: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    /// The host's name is resolved here.
    Socks5,
    /// The proxy resolves it.
    Socks5h,
}

/// They have no `Debug`, lest they be shown.
#[derive(PartialEq, Eq)]
struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl ProxyServer {
    /// Like curl: "if the port number is not specified in the proxy string, it is assumed to be 1080".
    const DEFAULT_PORT: u16 = 1080;

    fn parse(url: &str) -> Result<Self, String> {
        let invalid = |what: &str| format!("invalid URL {:?} of a proxy: {what}", without_secrets(url));
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let protocol = match &*scheme.to_ascii_lowercase() {
            "http" => Protocol::Http,
            "socks5" => Protocol::Socks5,
            "socks5h" => Protocol::Socks5h,
            "https" => return Err(invalid("TLS to the proxy itself is not supported; is it an http:// proxy?")),
            _ => return Err(invalid("expected http://, socks5:// or socks5h://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(invalid("nothing may follow the port, and / ? # in a password are written %2F %3F %23"));
        }
        let (credentials, authority) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((credentials, authority)) => {
                (Some(Credentials::parse(credentials, protocol).map_err(invalid)?), authority)
            }
        };
        let authority: Authority = authority.parse().map_err(|_| invalid("expected HOST or HOST:PORT"))?;
        let host = authority.host();
        if host.trim_matches(['[', ']']).is_empty() {
            return Err(invalid("the host is missing"));
        }
        let port = port_of(&authority, Self::DEFAULT_PORT).ok_or_else(|| invalid("the port is not valid"))?;
        let scheme = scheme.to_ascii_lowercase();
        let label = format!("{scheme}://{host}:{port}");
        Ok(Self { protocol, host: host.trim_matches(['[', ']']).to_owned(), port, credentials, label })
    }
}

impl Credentials {
    fn parse(text: &str, protocol: Protocol) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |text| percent_decoded(text).ok_or("in a user name or password, % is written %25");
        let it = Self { user: decode(user)?, password: decode(password)? };
        match protocol {
            Protocol::Http if it.user.contains(&b':') => Err("a user name for HTTP must not have a colon"),
            Protocol::Socks5 | Protocol::Socks5h if it.user.len().max(it.password.len()) > 255 => {
                Err("a user name and a password for SOCKS5 have at most 255 bytes each")
            }
            _ => Ok(it),
        }
    }
}

/// Without its percent-encoding (RFC 3986 section 2.1). `None` if a `%` begins no two digits.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

/// A host and a port as in a request: with brackets around an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;

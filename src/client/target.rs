//! Where a client connects and what it requests there: the URL, and what the application adds to the request.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tungstenite::http::Uri;
use tungstenite::http::uri::{Authority, PathAndQuery};

use super::proxy::{Proxy, ProxyServer};
use super::{Attempt, ConnectError};
#[cfg(feature = "deflate")]
use crate::deflate::Deflate;
use crate::error::Error;
use crate::foreign;
use crate::http::upgrade;
#[cfg(feature = "tls")]
use crate::tls::ClientTls;

/// Where to connect, what to request, and by which rules.
#[derive(Clone)]
pub(crate) struct Target {
    pub(super) location: Location,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) subprotocols: Vec<String>,
    /// Whether the server has to accept the subprotocol of topics.
    #[cfg(feature = "topics")]
    pub(super) needs_topics: bool,
    pub(crate) connect_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) tls: ClientTls,
    pub(crate) proxy: Option<Proxy>,
    /// The compression to offer.
    #[cfg(feature = "deflate")]
    pub(crate) deflate: Option<Deflate>,
    /// The system's resolver; tests use others.
    pub(super) resolve: Resolve,
    /// Changes the headers and the URL of each attempt.
    pub(super) prepare: Option<Prepare>,
    pub(super) gives_up: GivesUp,
}

/// The parts of a URL.
#[derive(Clone)]
pub(super) struct Location {
    /// Whether the connection is one of TLS.
    pub(super) is_secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The path of a Unix socket, in place of host and port.
    pub(super) unix_path: Option<PathBuf>,
    /// As in the `Host` header.
    pub(super) authority: String,
    /// The path with the query.
    pub(super) path: String,
}

pub(super) type Prepare = Arc<dyn Fn(&mut Attempt) -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync>;
/// Decides which errors end the client.
pub(super) type GivesUp = Arc<dyn Fn(&Error) -> bool + Send + Sync>;

/// Finds the addresses of a host, and adds the port to each.
pub(super) type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

fn ask_the_system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

impl Location {
    fn parse(url: &str) -> Result<Self, ConnectError> {
        let invalid = |what: &str| ConnectError::Invalid(format!("invalid URL {:?}: {what}", without_secrets(url)));
        let url_without_fragment = url.split('#').next().unwrap_or(url);
        if let Some(rest) = UNIX_SCHEMES.iter().find_map(|scheme| url_without_fragment.strip_prefix(scheme)) {
            return Self::at_unix_socket(rest).map_err(invalid);
        }
        let uri: Uri =
            url_without_fragment.parse().map_err(|_| invalid("expected ws://HOST[:PORT][/PATH], or wss://"))?;
        let is_secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") if cfg!(feature = "tls") => true,
            Some("wss") => return Err(invalid("wss:// needs the feature `tls`, which this program lacks")),
            _ => return Err(invalid("expected ws:// or wss://")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(invalid(
                "it must not contain a user name or password; send a header instead, such as Authorization",
            ));
        }
        if authority.host().is_empty() {
            return Err(invalid("expected HOST or HOST:PORT after the scheme"));
        }
        let port = port_of(authority, if is_secure { 443 } else { 80 });
        let port = port.ok_or_else(|| invalid("the port is not valid"))?;
        Ok(Self {
            is_secure,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            unix_path: None,
            authority: authority.as_str().to_owned(),
            path: match uri.path_and_query().map_or("/", |path| path.as_str()) {
                path if path.starts_with('/') => path.to_owned(),
                query => format!("/{query}"),
            },
        })
    }
}

/// How the URL of a Unix socket begins: as Node's `ws` has it, and as nginx has it.
const UNIX_SCHEMES: [&str; 2] = ["ws+unix:", "unix:"];

impl Location {
    /// What follows the scheme: the path of the socket, and after a colon what is requested there.
    fn at_unix_socket(rest: &str) -> Result<Self, &'static str> {
        if !cfg!(unix) {
            return Err("this system has no Unix sockets");
        }
        // An empty host may stand before the path.
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (socket, requested) = rest.split_once(':').unwrap_or((rest, "/"));
        if socket.is_empty() {
            return Err("expected unix:/PATH/OF/SOCKET, or unix:/PATH/OF/SOCKET:/PATH");
        }
        let path = if requested.starts_with('/') { requested.to_owned() } else { format!("/{requested}") };
        if path.parse::<PathAndQuery>().is_err() {
            return Err("what is requested, after the second colon, is not valid");
        }
        Ok(Self {
            is_secure: false,
            host: "localhost".to_owned(),
            port: 0,
            unix_path: Some(socket.into()),
            authority: "localhost".to_owned(),
            path,
        })
    }
}

/// The port, or the default if there is none. `None` if it is not valid.
pub(super) fn port_of(authority: &Authority, default: u16) -> Option<u16> {
    match authority.as_str().strip_prefix(authority.host()).unwrap_or_default().strip_prefix(':') {
        None | Some("") => Some(default),
        Some(_) => authority.port_u16(),
    }
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        Ok(Self {
            location: Location::parse(url)?,
            headers: Vec::new(),
            subprotocols: Vec::new(),
            #[cfg(feature = "topics")]
            needs_topics: false,
            // Allows for two lost packets and some more: TCP retries after 1 s and 3 s.
            connect_timeout: Duration::from_secs(10),
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
            proxy: None,
            #[cfg(feature = "deflate")]
            deflate: None,
            resolve: Arc::new(ask_the_system),
            prepare: None,
            gives_up: Arc::new(Error::is_fatal),
        })
    }

    /// The target of one attempt. An error is not fatal: what the function gives may be valid the next time.
    pub(super) fn prepared(&self, number: u32, refused_with: Option<u16>) -> Result<Cow<'_, Self>, ConnectError> {
        let Some(prepare) = &self.prepare else { return Ok(Cow::Borrowed(self)) };
        let mut attempt = Attempt { number, refused_with, url: None, headers: self.headers.clone() };
        let prepared = foreign::call(|| prepare(&mut attempt));
        let prepared = prepared.unwrap_or_else(|message| Err(format!("it panicked: {message}").into()));
        prepared.map_err(ConnectError::Prepare)?;
        let Attempt { url, headers, .. } = attempt;
        let changed = || {
            let location = url.map_or_else(|| Ok(self.location.clone()), |url| Location::parse(&url))?;
            let target = Self { location, headers, ..self.clone() };
            target.check()?;
            Ok(Cow::Owned(target))
        };
        changed().map_err(|error: ConnectError| ConnectError::Prepare(error.into()))
    }

    /// The proxy through which the host is reached, if it is by one.
    pub(super) fn proxy(&self) -> Result<Option<&ProxyServer>, ConnectError> {
        self.proxy.as_ref().map_or(Ok(None), |proxy| proxy.server_for(&self.location))
    }

    /// Checks what the application added.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        self.proxy()?;
        upgrade::check_additions(&self.headers, &self.subprotocols)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and queries may hold credentials.
        f.debug_struct("Target")
            .field("authority", &self.location.authority)
            .field("path", &without_secrets(&self.location.path))
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

/// A URL that is safe to show: without user name, password and query. It need not be valid, so the end of a password is
/// not known; when in doubt, more is left out.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            (&url[..scheme.len() + 3], rest)
        }
        _ => ("", url),
    };
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    match rest.split_once(['?', '#']) {
        Some((rest, _)) => format!("{scheme}{user}{rest}?***"),
        None => format!("{scheme}{user}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, authority, path) in [
            ("ws://example.org", "example.org", 80, "example.org", "/"),
            ("ws://example.org:9001/a/b?c=d#e", "example.org", 9001, "example.org:9001", "/a/b?c=d"),
            ("ws://[::1]:9001?x", "::1", 9001, "[::1]:9001", "/?x"),
            ("ws://127.0.0.1/", "127.0.0.1", 80, "127.0.0.1", "/"),
            ("ws://example.org:/", "example.org", 80, "example.org:", "/"),
            ("ws://example.org:65535", "example.org", 65535, "example.org:65535", "/"),
        ] {
            let it = Location::parse(url).unwrap();
            assert_eq!((it.host.as_str(), it.port), (host, port), "{url}");
            assert_eq!((it.authority.as_str(), it.path.as_str()), (authority, path), "{url}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn urls_of_unix_sockets_are_taken_apart() {
        for (url, socket, path) in [
            ("unix:/run/heartwire.sock", "/run/heartwire.sock", "/"),
            ("unix:/run/heartwire.sock:/a/b?c=d#e", "/run/heartwire.sock", "/a/b?c=d"),
            ("ws+unix:///run/heartwire.sock:/a", "/run/heartwire.sock", "/a"),
            ("ws+unix:/run/heartwire.sock:?x", "/run/heartwire.sock", "/?x"),
            ("unix:here.sock:a", "here.sock", "/a"),
        ] {
            let it = Location::parse(url).unwrap();
            assert_eq!((it.unix_path.as_deref().unwrap().to_str().unwrap(), it.path.as_str()), (socket, path), "{url}");
            assert_eq!(it.authority, "localhost");
        }
        for url in ["unix:", "unix://", "unix::/a", "unix:/socket:/a b", "wss+unix:/socket", "http+unix:/socket"] {
            let error = Location::parse(url).err().unwrap();
            assert!(matches!(error, ConnectError::Invalid(_)), "{url}: {error}");
        }
    }

    #[test]
    fn other_urls_are_refused_for_good() {
        for url in [
            "",
            "example.org",
            "http://example.org",
            "ws://",
            "ws://a b",
            "ws://u:p@example.org",
            "ws://example.org:65536",
            "ws://example.org:http",
            "ws://[::1]:99999/",
        ] {
            let error = Location::parse(url).err().unwrap();
            assert!(matches!(error, ConnectError::Invalid(_)) && error.is_fatal(), "{url}: {error}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secrets() {
        for (url, shown) in [
            ("ws://example.org:9001/a/b", "ws://example.org:9001/a/b"),
            ("ws://user:s3cret@example.org/a", "ws://***@example.org/a"),
            ("ws://example.org/a?token=s3cret", "ws://example.org/a?***"),
            ("ws://user:s3/cr?e#t@example.org/a", "ws://***@example.org/a"),
            ("ws://user:s3cret@example.org/a?token=s3cret#x", "ws://***@example.org/a?***"),
            ("user:s3cret@example.org", "***@example.org"),
            ("ws:/user:s3cret@example.org", "***@example.org"),
            ("user:s3cret://@example.org", "***@example.org"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(url), shown);
            if let Err(error) = Location::parse(url) {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("s3") && !shown.contains("user:"), "{shown}");
            }
        }
        let mut target = Target::parse("ws://example.org/a?token=s3cret").unwrap();
        target.headers.push(("Authorization".to_owned(), "Bearer s3cret".to_owned()));
        assert!(!format!("{target:?}").contains("s3cret"));
    }
}

//! Where Redis is, and how to come in. Read from a URL.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo};

use super::RedisError;
#[cfg(feature = "tls")]
use crate::tls::ClientTls;

/// The scheme of a Redis that Sentinels watch.
const SENTINEL: &str = "redis+sentinel://";

const FORMS: &str = "the URL of a Redis is redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, \
                     unix:///PATH, or redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],...[:PORT]/MASTER[/DB]";

/// The address of a Redis, or of the Sentinels that know where it is.
#[derive(Clone)]
pub(super) struct Address {
    /// Of Redis itself, or, with Sentinels, of the first of them; and how to come into Redis.
    info: ConnectionInfo,
    is_secured: bool,
    sentinels: Option<Sentinels>,
    #[cfg(feature = "tls")]
    tls: ClientTls,
}

/// Those who know which Redis is the master.
#[derive(Debug, Clone)]
pub(super) struct Sentinels {
    pub(super) places: Vec<ConnectionAddr>,
    pub(super) master: String,
}

impl Address {
    /// Reads a URL of one of the [forms](FORMS).
    pub(super) fn parse(url: &str) -> Result<Self, RedisError> {
        if let Some(rest) = url.strip_prefix(SENTINEL) {
            return Self::parse_sentinels(rest).ok_or_else(|| RedisError::new(FORMS));
        }
        // TLS is ours, and the crate's URLs know of none without its own.
        let plain = url.strip_prefix("rediss:").or_else(|| url.strip_prefix("valkeys:"));
        if plain.is_some() && !cfg!(feature = "tls") {
            return Err(RedisError::new("rediss:// needs the feature tls"));
        }
        let is_secured = plain.is_some();
        let info = parse_plain(&plain.map_or_else(|| url.to_owned(), |rest| format!("redis:{rest}")));
        Ok(Self::new(info.ok_or_else(|| RedisError::new(FORMS))?, is_secured, None))
    }

    fn parse_sentinels(rest: &str) -> Option<Self> {
        let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(credentials, rest)| (credentials, rest));
        let (hosts, path) = rest.split_once('/')?;
        let (master, db) = path.split_once('/').unwrap_or((path, "0"));
        if master.is_empty() {
            return None;
        }
        let place = |host: &str| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = if has_port { "" } else { ":26379" };
            parse_plain(&format!("redis://{host}{port}")).map(|info| info.addr().clone())
        };
        let places: Vec<_> = hosts.split(',').map(place).collect::<Option<_>>()?;
        let at = if credentials.is_empty() { "" } else { "@" };
        let info = parse_plain(&format!("redis://{credentials}{at}localhost/{db}"))?.set_addr(places.first()?.clone());
        Some(Self::new(info, false, Some(Sentinels { places, master: master.to_owned() })))
    }

    fn new(info: ConnectionInfo, is_secured: bool, sentinels: Option<Sentinels>) -> Self {
        Self {
            info,
            is_secured,
            sentinels,
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn set_tls(&mut self, tls: ClientTls) {
        self.tls = tls;
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(super) fn place(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    pub(super) fn sentinels(&self) -> Option<&Sentinels> {
        self.sentinels.as_ref()
    }

    /// The configuration of TLS, and the name that Redis' certificate has to be for. `None` without TLS.
    #[cfg(feature = "tls")]
    #[allow(clippy::type_complexity, reason = "two types of rustls")]
    pub(super) fn tls(
        &self,
    ) -> Result<
        Option<(std::sync::Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>)>,
        crate::tls::TlsError,
    > {
        match self.place() {
            ConnectionAddr::Tcp(host, _) if self.is_secured => Ok(Some((self.tls.config()?, self.tls.name_for(host)?))),
            _ => Ok(None),
        }
    }
}

/// Its errors may tell of what is in the URL.
fn parse_plain(url: &str) -> Option<ConnectionInfo> {
    url.parse().ok()
}

/// Without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Sentinels { places, master }) = &self.sentinels {
            let places: Vec<_> = places.iter().map(shown).collect();
            return write!(f, "{SENTINEL}{}/{master}", places.join(","));
        }
        match self.place() {
            ConnectionAddr::Tcp(..) => {
                write!(f, "{}://{}", if self.is_secured { "rediss" } else { "redis" }, shown(self.place()))
            }
            place => f.write_str(&shown(place)),
        }
    }
}

pub(super) fn shown(place: &ConnectionAddr) -> String {
    match place {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
        ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
        _ => String::new(),
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://user:secret@[::1]:7000/2", "redis://[::1]:7000"),
            ("valkey://:secret@host", "redis://host:6379"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+sentinel://:secret@a,b:7000,[::1]/main/3", "redis+sentinel://a:26379,b:7000,[::1]:26379/main"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("secret"));
        }
        let address = Address::parse("redis+sentinel://user:secret@a/main/3").unwrap();
        let settings = address.info().redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("user"), Some("secret"), 3));
        #[cfg(feature = "tls")]
        assert_eq!(Address::parse("rediss://host").unwrap().to_string(), "rediss://host:6379");
    }

    #[test]
    fn what_is_no_url_of_a_redis_is_refused_without_showing_it() {
        for url in
            ["", "http://host", "redis://", "redis://host/x", "secret", "redis+sentinel://a", "redis+sentinel:///m"]
        {
            let error = Address::parse(url).map(drop).unwrap_err().to_string();
            assert!(error.starts_with("the URL of a Redis is") && !error.contains("secret"), "{url}: {error}");
        }
    }
}

//! The settings on the command line.

use std::time::Duration;

use heartwire::{ClientTls, Error, HeartbeatPolicy, Liveness, ServerTls};

pub struct Settings {
    pub heartbeat: HeartbeatPolicy,
    pub read_ahead: Option<usize>,
    pub max_connections: usize,
    pub server_tls: Option<ServerTls>,
    pub client_tls: ClientTls,
}

impl Settings {
    pub fn parse(words: &[&str]) -> Result<Self, Error> {
        let mut settings = Self {
            heartbeat: HeartbeatPolicy::default(),
            read_ahead: None,
            max_connections: 10_000,
            server_tls: None,
            client_tls: ClientTls::new(),
        };
        for word in words {
            match word.split_once('=') {
                Some(("beat", beat)) => settings.heartbeat = heartbeat(beat)?,
                Some(("read-ahead", bytes)) => settings.read_ahead = Some(number(bytes)?),
                Some(("max-connections", count)) => settings.max_connections = number(count)?,
                Some(("certificate", files)) => {
                    let (chain, key) = files.split_once(',').ok_or_else(|| Error::handler("no CHAIN,KEY"))?;
                    settings.server_tls = Some(ServerTls::from_pem_files(chain, key)?);
                }
                Some(("ca", file)) => settings.client_tls = ClientTls::new().ca_file(file)?,
                _ => return Err(Error::handler(format!("no setting {word}"))),
            }
        }
        Ok(settings)
    }
}

/// `off`, `default`, or `INTERVAL,TIMEOUT,MAX_MISSED[,pong]` in milliseconds.
pub fn heartbeat(text: &str) -> Result<HeartbeatPolicy, Error> {
    let words: Vec<&str> = text.split(',').collect();
    let liveness = if words.last() == Some(&"pong") { Liveness::PongOnly } else { Liveness::AnyByte };
    match words[..] {
        ["off"] => Ok(HeartbeatPolicy::off()),
        ["default"] => Ok(HeartbeatPolicy::default()),
        [interval, timeout, max_missed] | [interval, timeout, max_missed, "pong"] => {
            let policy = HeartbeatPolicy::new(milliseconds(interval)?, milliseconds(timeout)?);
            Ok(policy.max_missed(number(max_missed)?).liveness(liveness))
        }
        _ => Err(Error::handler(format!("no heartbeat {text}"))),
    }
}

pub fn milliseconds(text: &str) -> Result<Duration, Error> {
    number(text).map(Duration::from_millis)
}

pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(Error::handler)
}

//! The settings on the command line.

use std::time::Duration;

use heartwire::{Error, HeartbeatPolicy, Liveness};

pub struct Settings {
    pub heartbeat: HeartbeatPolicy,
    pub read_ahead: Option<usize>,
    pub max_connections: usize,
}

impl Settings {
    pub fn parse(words: &[&str]) -> Result<Self, Error> {
        let mut settings = Self { heartbeat: HeartbeatPolicy::default(), read_ahead: None, max_connections: 10_000 };
        for word in words {
            match word.split_once('=') {
                Some(("beat", beat)) => settings.heartbeat = heartbeat(beat)?,
                Some(("read-ahead", bytes)) => settings.read_ahead = Some(number(bytes)?),
                Some(("max-connections", count)) => settings.max_connections = number(count)?,
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

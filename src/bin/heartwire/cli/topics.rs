//! The options of topics.

#[cfg(feature = "jwt")]
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
#[cfg(feature = "jwt")]
use heartwire::topics::{PublishKeys, TokenKey, TokenPlaces, TokenVerifier};
#[cfg(feature = "redis")]
use heartwire::topics::{Redis, RedisError};
use heartwire::topics::{TopicPattern, Topics};

use super::usage_error::{UsageError, refuse};
use super::values::{parse_duration, parse_size};

/// All of them.
const NAMES: &[&str] = &[
    "history",
    "history_file",
    "presence",
    "allow_publish",
    #[cfg(feature = "jwt")]
    "publish_key_file",
    #[cfg(feature = "jwt")]
    "jwt_key_file",
    #[cfg(feature = "jwt")]
    "jwt_audience",
    #[cfg(feature = "redis")]
    "backplane",
];

#[derive(Debug, Args)]
#[command(next_help_heading = "Topics (with --mode topics)")]
pub(crate) struct TopicOptions {
    /// What each topic keeps for those who come back: messages, bytes and age, or "off"
    #[arg(long, value_name = "COUNT,BYTES,AGE|off", default_value = "1000,1MiB,10m", value_parser = parse_history)]
    history: History,

    /// Keep histories in this file from an orderly end to the next start, so that a restart loses none
    #[arg(long, value_name = "FILE")]
    history_file: Option<PathBuf>,

    /// Tell subscribers who else is subscribed, in doubt, or gone
    #[arg(long)]
    presence: bool,

    /// Let every client publish to this topic, such as chat, or to all below a prefix, such as chat/*; repeatable
    #[arg(long, value_name = "PATTERN")]
    allow_publish: Vec<TopicPattern>,

    /// Let whoever has a key of this file, one on a line, publish and read all topics by HTTP, from any machine
    #[cfg(feature = "jwt")]
    #[arg(long, value_name = "FILE")]
    publish_key_file: Option<PathBuf>,

    /// Let clients do what a token (JWT) grants that is signed with this key: a secret for HS256, or a public key in
    /// PEM for ES256; repeatable
    #[cfg(feature = "jwt")]
    #[arg(long, value_name = "FILE")]
    #[cfg_attr(feature = "auth-url", arg(conflicts_with = "auth_url"))]
    jwt_key_file: Vec<PathBuf>,

    /// Take only tokens for this audience
    #[cfg(feature = "jwt")]
    #[arg(long, value_name = "NAME", requires = "jwt_key_file")]
    jwt_audience: Option<String>,

    /// Share all topics with other servers by this Redis: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// with
    /// TLS, unix:///PATH, or redis+sentinel://HOST,HOST/MASTER; a password is better given by the environment
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "URL", value_parser = parse_redis, conflicts_with = "history_file")]
    backplane: Option<Box<Redis>>,
}

/// What a topic keeps. `None`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History(Option<(usize, usize, Duration)>);

impl TopicOptions {
    /// Refuses options that have no effect without topics.
    pub(super) fn check(given: &ArgMatches) -> Result<(), UsageError> {
        refuse(given, NAMES, "without --mode topics; add that, or leave it out")
    }

    /// # Errors
    /// A text, if a file of keys cannot be used.
    pub(crate) fn topics(&self) -> Result<Topics, String> {
        let topics = match self.history.0 {
            Some((count, bytes, age)) => Topics::new().history(count, bytes, age),
            None => Topics::new().ephemeral(),
        };
        let topics = match &self.history_file {
            Some(path) => topics.saved_at(path),
            None => topics,
        };
        let topics = topics.presence(self.presence);
        let topics = match self.allow_publish.clone() {
            patterns if patterns.is_empty() => topics,
            patterns => topics.on_publish(move |_, topic| patterns.iter().any(|pattern| pattern.matches(topic))),
        };
        #[cfg(feature = "redis")]
        let topics = match &self.backplane {
            Some(redis) => topics.backplane(Redis::clone(redis)),
            None => topics,
        };
        #[cfg(feature = "jwt")]
        let topics = self.with_keys(topics)?;
        Ok(topics)
    }

    #[cfg(feature = "jwt")]
    fn with_keys(&self, topics: Topics) -> Result<Topics, String> {
        let topics = match &self.publish_key_file {
            Some(path) => topics.publish_keys(PublishKeys::from_file(path).map_err(in_words)?),
            None => topics,
        };
        let mut keys = self.jwt_key_file.iter();
        let Some(first) = keys.next() else { return Ok(topics) };
        let mut verifier = TokenVerifier::new(TokenKey::from_file(first).map_err(in_words)?);
        for path in keys {
            verifier = verifier.key(TokenKey::from_file(path).map_err(in_words)?);
        }
        if let Some(audience) = &self.jwt_audience {
            verifier = verifier.audience(audience);
        }
        Ok(topics.tokens(verifier, TokenPlaces::new()))
    }
}

#[cfg(feature = "jwt")]
fn in_words(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Its error does not show the URL, which may have a password.
#[cfg(feature = "redis")]
fn parse_redis(url: &str) -> Result<Box<Redis>, RedisError> {
    Redis::new(url).map(Box::new)
}

fn parse_history(text: &str) -> Result<History, String> {
    if text == "off" {
        return Ok(History(None));
    }
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    let [count, bytes, age] = parts[..] else {
        return Err("expected messages, bytes and age, such as 1000,1MiB,10m, or \"off\"".to_owned());
    };
    let count = count.parse().ok().filter(|count| *count > 0).ok_or("the number of messages must be 1 or more")?;
    Ok(History(Some((count, parse_size(bytes)?, parse_duration(age)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_three_values_or_off() {
        let kept = (50, 2 * 1024 * 1024, Duration::from_secs(90));
        assert_eq!(parse_history("50,2MiB,1m30s"), Ok(History(Some(kept))));
        assert_eq!(parse_history("off"), Ok(History(None)));
        for wrong in ["", "50", "50,1MiB", "0,1MiB,1m", "50,x,1m", "50,1MiB,1", "50,1MiB,1m,1", "-1,1MiB,1m"] {
            assert!(parse_history(wrong).is_err(), "{wrong}");
        }
    }
}

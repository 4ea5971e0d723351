//! The options of every client that stays connected, and the client that they make: `heartwire connect`,
//! `heartwire subscribe` and `heartwire publish` share them.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::{Client, Error};

#[cfg(feature = "deflate")]
use super::compression::Compression;
use super::heartbeat::ClientHeartbeat;
use super::opening::Opening;
use super::proxy::ProxyOptions;
use super::settings::Settings;
use super::usage_error::UsageError;
use super::values::parse_duration;
use super::{LogOptions, tls};

/// How to connect, to whom, and what to do when that ends.
#[derive(Debug, Args)]
pub(crate) struct ConnectionOptions {
    #[command(flatten)]
    pub(crate) opening: Opening,

    /// End when the connection is lost or cannot be made
    #[arg(long)]
    no_reconnect: bool,

    /// Offer to compress messages: each by itself, or with those before it as context
    #[cfg(feature = "deflate")]
    #[arg(long, value_enum, default_value = "on")]
    deflate: Compression,

    #[command(flatten)]
    heartbeat: ClientHeartbeat,

    /// Time limit for connecting over TCP
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration, help_heading = "Limits")]
    connect_timeout: Duration,

    #[command(flatten)]
    pub(crate) settings: Settings,

    #[command(flatten)]
    pub(crate) tls: tls::ClientOptions,

    #[command(flatten)]
    proxy: ProxyOptions,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

impl ConnectionOptions {
    /// Refuses options that would have no effect beside the others.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        self.heartbeat.check(given)?;
        self.tls.check(&self.opening.url, given)?;
        self.proxy.check(&self.opening.url, given)?;
        self.opening.check(given)
    }

    /// A client as the options want it.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        let client = self.proxy.apply_to(self.tls.apply_to(self.opening.client()?)?);
        let client = client.heartbeat(self.heartbeat.policy()).connect_timeout(self.connect_timeout);
        let client = self.settings.apply_to_client(client);
        #[cfg(feature = "deflate")]
        let client = self.deflate.apply_to_client(client);
        Ok(if self.no_reconnect { client.no_reconnect() } else { client })
    }

    /// How often something is to be seen of the heartbeat.
    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.heartbeat.ping_interval()
    }
}

//! What stands in the place of `tls.rs` in a program without TLS: no options.

use clap::{ArgMatches, Args};
use heartwire::{Client, Error};

use super::usage_error::UsageError;

#[derive(Debug, Args)]
pub(crate) struct ServerOptions {}

#[derive(Debug, Args)]
pub(crate) struct ClientOptions {}

impl ServerOptions {
    pub(super) fn check(&self, _: &ArgMatches) -> Result<(), UsageError> {
        Ok(())
    }
}

impl ClientOptions {
    pub(super) fn check(&self, _: &str, _: &ArgMatches) -> Result<(), UsageError> {
        Ok(())
    }

    pub(crate) fn apply_to(&self, client: Client) -> Result<Client, Error> {
        Ok(client)
    }

    pub(crate) fn warn(&self) {}
}

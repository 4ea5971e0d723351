//! The options of an authorization service.

use std::time::Duration;

use clap::{ArgMatches, Args};
use heartwire::topics::AuthService;

use super::usage_error::{UsageError, refuse};
use super::values::parse_duration;

#[derive(Debug, Args)]
#[command(next_help_heading = "Authorization service")]
pub(crate) struct AuthOptions {
    /// Ask this HTTP service who may connect, and with --mode topics also who may subscribe and publish; without an
    /// answer nobody may
    #[arg(long, value_name = "URL", value_parser = AuthService::new)]
    auth_url: Option<AuthService>,

    /// Time limit for its answer, within --handshake-timeout
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    auth_timeout: Duration,

    /// Pass this header of clients on to it as well, such as X-Api-Key; repeatable
    #[arg(long, value_name = "NAME")]
    auth_header: Vec<String>,
}

impl AuthOptions {
    /// Refuses options that have no effect without a service, or names of headers that cannot be passed on.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        if self.auth_url.is_none() {
            refuse(given, &["auth_timeout", "auth_header"], "without --auth-url; add that, or leave it out")?;
        }
        self.service(self.auth_timeout).map(drop).map_err(UsageError::new)
    }

    /// The service, if there is one.
    ///
    /// # Errors
    /// A text, if a header cannot be passed on.
    pub(crate) fn service(&self, handshake_timeout: Duration) -> Result<Option<AuthService>, String> {
        let Some(service) = self.auth_url.clone() else { return Ok(None) };
        let service = service.timeout(self.auth_timeout.min(handshake_timeout));
        let passing = self.auth_header.iter().try_fold(service, |service, name| {
            service.pass_header(name).map_err(|error| format!("--auth-header {name}: {error}"))
        });
        passing.map(Some)
    }
}

//! The options of the opening handshake, which all clients share: to whom, and what is said.

use clap::{ArgMatches, Args};
use heartwire::{Client, Error};

use super::usage_error::UsageError;
use super::values::{parse_header, parse_subprotocol};

/// What a client sends to open a connection.
#[derive(Debug, Args)]
pub(crate) struct Opening {
    /// URL of the server, as ws://HOST[:PORT][/PATH], wss://HOST[:PORT][/PATH] or unix:SOCKET[:/PATH]
    #[arg(index = 1)]
    pub(crate) url: String,

    /// Add a header to the opening handshake; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
}

/// What a client offers to speak.
#[derive(Debug, Args)]
pub(crate) struct Subprotocols {
    /// Offer a subprotocol; repeatable, in order of preference
    #[arg(long, value_name = "NAME", value_parser = parse_subprotocol)]
    subprotocol: Vec<String>,
}

impl Subprotocols {
    pub(crate) fn apply_to(&self, client: Client) -> Client {
        self.subprotocol.iter().fold(client, Client::subprotocol)
    }
}

impl Opening {
    /// Says where a URL comes from that is not on the command line. The library, which says what is wrong with it, does
    /// not know that.
    pub(super) fn check(&self, given: &ArgMatches) -> Result<(), UsageError> {
        if given.contains_id("url") {
            return Ok(());
        }
        Client::new(&self.url)
            .map(drop)
            .map_err(|error| UsageError::new(format!("the value of HEARTWIRE_URL: {error}")))
    }

    /// A client that opens its connections so.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        let mut client = Client::new(&self.url)?;
        for (name, value) in &self.header {
            client = client.header(name, value);
        }
        Ok(client)
    }

    /// The URL as it may be shown: a query often holds a token.
    pub(crate) fn url_without_query(&self) -> &str {
        self.url.split(['?', '#']).next().unwrap_or_default()
    }
}

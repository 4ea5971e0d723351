//! The values of `--deflate`, which `heartwire serve` and `heartwire connect` have with different defaults.

use clap::ValueEnum;
use heartwire::{Client, Deflate, Server};

/// Whether messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    Off,
    /// Each message by itself.
    On,
    /// With context takeover in both directions.
    Context,
}

impl Compression {
    fn settings(self) -> Option<Deflate> {
        match self {
            Self::Off => None,
            Self::On => Some(Deflate::new()),
            Self::Context => Some(Deflate::new().context_takeover(true)),
        }
    }

    pub(crate) fn apply_to_server(self, server: Server) -> Server {
        match self.settings() {
            Some(deflate) => server.deflate(deflate),
            None => server,
        }
    }

    pub(crate) fn apply_to_client(self, client: Client) -> Client {
        match self.settings() {
            Some(deflate) => client.deflate(deflate),
            None => client,
        }
    }
}

//! The options that set up either end: flags that `heartwire serve` and `heartwire connect` share.
//!
//! A setting that the library's two ends have in common needs a field here and its call in `with_settings!`, and both
//! commands have it. The heartbeat is such a setting too, but its flags differ between the ends: see `heartbeat`.

use std::time::Duration;

use clap::Args;
use heartwire::{Client, Server};

use super::values::{
    Optional, parse_busy_poll, parse_duration, parse_optional, parse_read_buffer, parse_size, parse_size_or_zero,
};

/// How long everything may take, and how large it may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Settings {
    /// Time limit for an opening handshake
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    handshake_timeout: Duration,

    /// Time limit for a closing handshake, and for the shutdown
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    close_timeout: Duration,

    /// Largest message to accept; a larger one closes the connection with 1009
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    max_message_size: usize,

    /// Memory for what waits to be sent over one connection while its peer is slow
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    queue_size: usize,

    /// How long a live peer may accept none of what waits for it, or "off" for no limit
    #[arg(long, value_name = "DURATION|off", default_value = "off", value_parser = parse_optional)]
    full_queue_timeout: Optional,

    /// Read buffer of a connection that receives little; it grows with the traffic, and an idle connection has none
    #[arg(long, value_name = "BYTES", default_value = "4KiB", value_parser = parse_read_buffer)]
    read_buffer_size: usize,

    /// Memory for messages read ahead while earlier ones are being processed; at the limit the peer has to wait
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = parse_size_or_zero)]
    read_ahead: usize,

    /// Memory for all connections together, for what waits to be sent and what is read ahead
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_size_or_zero)]
    pub(crate) max_buffered: usize,

    /// How long to poll for the next message of a busy connection before sleeping: may save a wake-up, takes power
    #[arg(long, value_name = "DURATION|off", default_value = "off", value_parser = parse_busy_poll)]
    busy_poll: Duration,
}

impl Settings {
    #[cfg(feature = "auth-url")]
    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    #[cfg(any(target_os = "linux", feature = "topics"))]
    pub(crate) fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    pub(crate) fn close_timeout(&self) -> Duration {
        self.close_timeout
    }
}

/// A server or a client with these settings. The setters of both have the same names, but are no trait's.
macro_rules! with_settings {
    ($end:expr, $settings:expr) => {{
        // Names every field, so that the compiler reports one that is not applied.
        let Settings {
            handshake_timeout,
            close_timeout,
            max_message_size,
            queue_size,
            full_queue_timeout,
            read_buffer_size,
            read_ahead,
            max_buffered,
            busy_poll,
        } = *$settings;
        $end.handshake_timeout(handshake_timeout)
            .close_timeout(close_timeout)
            .max_message_size(max_message_size)
            .queue_size(queue_size)
            .full_queue_timeout(full_queue_timeout.0)
            .read_buffer_size(read_buffer_size)
            .read_ahead(read_ahead)
            .max_buffered(max_buffered)
            .busy_poll(busy_poll)
    }};
}

impl Settings {
    pub(crate) fn apply_to_server(&self, server: Server) -> Server {
        with_settings!(server, self)
    }

    pub(crate) fn apply_to_client(&self, client: Client) -> Client {
        with_settings!(client, self)
    }
}

//! The servers that are compared. Each is what its own documentation shows for an echo, with TCP_NODELAY.

#[cfg(feature = "peers")]
mod actix;
mod bare;
#[cfg(feature = "peers")]
mod fast;
#[cfg(feature = "peers")]
mod hand_written;
mod handler;
mod heart;
#[cfg(feature = "peers")]
mod tokio_ws;
mod tungsten;
pub(crate) mod websockets;

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::process;

pub(crate) use handler::Calls;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Thread per connection, TCP, no WebSocket: the limit of this shape.
    Bare,
    Heartwire,
    /// heartwire, answering with `feed` in place of `send`.
    HeartwireFeed,
    /// heartwire with `busy_poll` of 200 µs.
    HeartwireBusyPoll,
    /// A blocking loop of read and send, as in tungstenite's README.
    Tungstenite,
    /// tokio-tungstenite with its defaults: buffers of 128 KiB.
    TokioTungstenite,
    /// tokio-tungstenite with `forward`, as in its echo server: answers to what is there already leave together.
    TokioTungsteniteForward,
    /// tokio-tungstenite with buffers of 4 KiB.
    TokioTungstenite4k,
    Fastwebsockets,
    ActixWs,
    /// Python's websockets, its sync server.
    Websockets,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare TCP echo",
            Self::Heartwire => "heartwire",
            Self::HeartwireFeed => "heartwire (feed)",
            Self::HeartwireBusyPoll => "heartwire (busy poll)",
            Self::Tungstenite => "tungstenite, blocking",
            Self::TokioTungstenite => "tokio-tungstenite",
            Self::TokioTungsteniteForward => "tokio-tungstenite (forward)",
            Self::TokioTungstenite4k => "tokio-tungstenite, 4 KiB",
            Self::Fastwebsockets => "fastwebsockets",
            Self::ActixWs => "actix-ws",
            Self::Websockets => "websockets (Python, sync)",
        }
    }

    /// Whether it speaks WebSocket, or plain TCP.
    pub(crate) fn is_websocket(self) -> bool {
        self != Self::Bare
    }

    /// Whether it is here over TLS, too.
    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Heartwire | Self::Tungstenite | Self::TokioTungstenite | Self::TokioTungstenite4k)
    }

    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Bare | Self::Heartwire | Self::HeartwireFeed | Self::HeartwireBusyPoll | Self::Tungstenite => true,
            Self::Websockets => websockets::is_installed(),
            _ => cfg!(feature = "peers"),
        }
    }
}

/// Settings of a server process.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeOptions {
    /// Send each message to all connections, its sender included, in place of an echo; some servers only.
    #[arg(long)]
    pub(crate) broadcast: bool,
    /// Do what messages ask for before they are answered, and keep a heartbeat; some servers only.
    #[arg(long)]
    pub(crate) handler: Option<Calls>,
    /// The heartbeat's interval in milliseconds, 20 s if not given; heartwire, and others with --handler.
    #[arg(long)]
    pub(crate) interval: Option<u64>,
    /// The heartbeat's timeout in milliseconds, with --interval.
    #[arg(long, default_value_t = 1000)]
    pub(crate) timeout: u64,
    /// Misses allowed, with --interval.
    #[arg(long, default_value_t = 3)]
    pub(crate) max_missed: u32,
    /// Print a line for every closure: id, cause, and when, in microseconds of the Unix clock.
    #[arg(long)]
    pub(crate) events: bool,
    /// Over TLS, with the certificate and the key in this file; some servers only.
    #[arg(long)]
    pub(crate) tls: Option<PathBuf>,
    /// Obey `close` on the standard input: close all connections with 1012, and say how many; heartwire only.
    #[arg(long)]
    pub(crate) obeys: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            broadcast: false,
            handler: None,
            interval: None,
            timeout: 1000,
            max_missed: 3,
            events: false,
            tls: None,
            obeys: false,
        }
    }
}

impl ServeOptions {
    /// The command line for such a server.
    pub(crate) fn arguments(&self, kind: Kind) -> Vec<String> {
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut arguments = vec!["serve".to_owned(), name];
        if let Some(interval) = self.interval {
            arguments.extend(["--interval".into(), interval.to_string()]);
            arguments.extend(["--timeout".into(), self.timeout.to_string()]);
            arguments.extend(["--max-missed".into(), self.max_missed.to_string()]);
        }
        if let Some(calls) = self.handler.and_then(|calls| calls.to_possible_value()) {
            arguments.extend(["--handler".into(), calls.get_name().to_owned()]);
        }
        if self.broadcast {
            arguments.push("--broadcast".into());
        }
        if self.events {
            arguments.push("--events".into());
        }
        if let Some(file) = &self.tls {
            arguments.extend(["--tls".into(), file.display().to_string()]);
        }
        if self.obeys {
            arguments.push("--obeys".into());
        }
        arguments
    }
}

/// Serves until the standard input ends.
pub(crate) fn serve(kind: Kind, options: &ServeOptions) -> io::Result<()> {
    if !options.obeys {
        process::end_with_stdin();
    }
    match kind {
        Kind::Bare => bare::serve(options),
        Kind::Heartwire => heart::serve(options, heart::Reply::Send),
        Kind::HeartwireFeed => heart::serve(options, heart::Reply::Feed),
        Kind::HeartwireBusyPoll => heart::serve(options, heart::Reply::SendAndPoll),
        Kind::Tungstenite => tungsten::serve(options),
        #[cfg(feature = "peers")]
        Kind::TokioTungstenite if options.handler.is_some() => tokio_ws::serve_handler(options),
        #[cfg(feature = "peers")]
        Kind::TokioTungstenite => tokio_ws::serve(tokio_ws::Reply::Send, None, options),
        #[cfg(feature = "peers")]
        Kind::TokioTungsteniteForward => tokio_ws::serve(tokio_ws::Reply::Forward, None, options),
        #[cfg(feature = "peers")]
        Kind::TokioTungstenite4k => tokio_ws::serve(tokio_ws::Reply::Send, Some(4096), options),
        #[cfg(feature = "peers")]
        Kind::Fastwebsockets => fast::serve(),
        #[cfg(feature = "peers")]
        Kind::ActixWs => actix::serve(options),
        _ => Err(io::Error::other("this server is not built in")),
    }
}

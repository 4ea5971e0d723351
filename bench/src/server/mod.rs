//! The servers that are compared. Each is what its own documentation shows for an echo, or for topics, with
//! TCP_NODELAY.

#[cfg(feature = "peers")]
mod actix;
mod bare;
#[cfg(feature = "peers")]
mod fast;
#[cfg(feature = "peers")]
mod hand_written;
mod handler;
mod heart;
mod nchan;
mod node;
mod program;
pub(crate) mod redis;
mod tended;
#[cfg(feature = "peers")]
mod tokio_ws;
mod tungsten;
mod websockets;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

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
    /// Node's ws.
    NodeWs,
    /// heartwire's program, with `--mode topics`.
    HeartwireTopics,
    /// nginx with nchan, and one worker.
    Nchan,
    /// nginx with nchan, and a worker for each processor.
    NchanAuto,
    /// socket.io, with recovery of connections.
    SocketIo,
    /// socket.io, a node of several by `@socket.io/redis-adapter`.
    SocketIoRedis,
    /// socket.io, a node of several by `@socket.io/redis-streams-adapter`.
    SocketIoStreams,
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
            Self::NodeWs => "ws (Node)",
            Self::HeartwireTopics => "heartwire, topics",
            Self::Nchan => "nchan, 1 worker",
            Self::NchanAuto => "nchan, auto",
            Self::SocketIo => "socket.io",
            Self::SocketIoRedis => "socket.io, Redis adapter",
            Self::SocketIoStreams => "socket.io, streams adapter",
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
        self.missing().is_none()
    }

    /// Why it cannot be measured here.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match self {
            Self::Bare | Self::Heartwire | Self::HeartwireFeed | Self::HeartwireBusyPoll | Self::Tungstenite => None,
            Self::Websockets => websockets::missing(),
            Self::NodeWs => node::WS.missing(),
            Self::HeartwireTopics => program::missing(),
            Self::Nchan | Self::NchanAuto => nchan::missing(),
            Self::SocketIo => node::SOCKET_IO.missing(),
            Self::SocketIoRedis | Self::SocketIoStreams => node::SOCKET_IO_NODES.missing(),
            _ => (!cfg!(feature = "peers")).then_some("it is not built in, without the feature `peers`"),
        }
    }

    /// The command for such a server.
    pub(crate) fn command(self, options: &ServeOptions) -> io::Result<Command> {
        match self {
            Self::Websockets => Ok(websockets::command(options)),
            Self::NodeWs => Ok(node::WS.command(options)),
            Self::SocketIo => Ok(node::SOCKET_IO.command(options)),
            Self::SocketIoRedis => Ok(node::SOCKET_IO_NODES.command_with(options, &["--adapter", "redis"])),
            Self::SocketIoStreams => Ok(node::SOCKET_IO_NODES.command_with(options, &["--adapter", "streams"])),
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(options.arguments(self));
                Ok(command)
            }
        }
    }
}

/// How a server compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deflation {
    /// At this level of zlib, each message by itself, from 1 KiB on.
    Level(u8),
    /// As its library does by default, once it is switched on.
    Defaults,
}

impl FromStr for Deflation {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "defaults" { Ok(Self::Defaults) } else { text.parse().map(Self::Level) }
    }
}

impl fmt::Display for Deflation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(level) => level.fmt(f),
            Self::Defaults => f.write_str("defaults"),
        }
    }
}

/// Where `./test` installs what it needs of other languages.
fn tools() -> Option<PathBuf> {
    let named = std::env::var_os("TOOLS").map(PathBuf::from);
    // This program is in a folder of a build, such as target/release.
    named.or_else(|| Some(std::env::current_exe().ok()?.parent()?.parent()?.join("tools")))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
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
    /// Compress messages, at this level or as `defaults` have it; some servers only.
    #[arg(long)]
    pub(crate) deflate: Option<Deflation>,
    /// Share topics with other nodes by the Redis at this URL; servers with topics only.
    #[arg(long)]
    pub(crate) redis: Option<String>,
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
            deflate: None,
            redis: None,
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
        arguments.extend(self.foreign_arguments());
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

    /// The part that servers in other languages understand.
    fn foreign_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.broadcast {
            arguments.push("--broadcast".to_owned());
        }
        if let Some(deflate) = self.deflate {
            arguments.extend(["--deflate".into(), deflate.to_string()]);
        }
        if let Some(redis) = &self.redis {
            arguments.extend(["--redis".into(), redis.clone()]);
        }
        arguments
    }
}

/// Serves until the standard input ends.
pub(crate) fn serve(kind: Kind, options: &ServeOptions) -> io::Result<()> {
    match kind {
        Kind::HeartwireTopics => return program::serve(options),
        Kind::Nchan => return nchan::serve("1", options),
        Kind::NchanAuto => return nchan::serve("auto", options),
        _ => {}
    }
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

//! The command line.

use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use heartwire::{HeartbeatPolicy, IpNet, Liveness};

/// WebSockets with a heartbeat, on plain threads.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (what happens without a command as well).
    Serve(ServeOptions),
    /// Connect to a server: lines typed are sent, messages are printed, and a lost connection comes back.
    Connect(ConnectOptions),
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Task {
    Serve(ServeOptions),
    Connect(ConnectOptions),
}

/// Options of the server.
#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// Address to listen on; port 0 takes any free one
    #[arg(default_value = "127.0.0.1:9001", value_parser = parse_address)]
    pub(crate) address: String,

    /// What to do with messages: send each back, or to every other client
    #[arg(long, value_enum, default_value = "echo")]
    pub(crate) mode: Mode,

    /// Who beats: the server by Pings, the peer by itself, or nobody
    #[arg(long, value_enum, default_value = "server")]
    heartbeat: Leader,

    #[command(flatten)]
    beat: HeartbeatOptions,

    /// With --heartbeat peer: how long a peer may be silent before that is a miss
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    expect: Duration,

    /// With --heartbeat peer: shortest and longest time that a peer may announce for its next sign by "next="
    #[arg(long, value_name = "SHORTEST..LONGEST", value_parser = parse_range)]
    announcements: Option<(Duration, Duration)>,

    /// Take the texts "ping" and "ping next=MILLISECONDS" of all clients as heartbeats, and answer "pong"
    #[arg(long)]
    pub(crate) text_heartbeat: bool,

    /// Most connections at a time; more are answered 503
    #[arg(long, value_name = "N", default_value = "10000", value_parser = parse_count)]
    pub(crate) max_connections: usize,

    /// Most connections at a time from one client's address (of IPv6: from one network of 64 bits); more are answered 429
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) max_connections_per_address: Option<usize>,

    /// Largest message taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) max_message_size: usize,

    /// Bytes of memory that what waits for a slow peer may take
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) queue_size: usize,

    /// Bytes that may wait in memory for all connections together: in queues to slow peers, and read ahead
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_size)]
    pub(crate) max_buffered: usize,

    /// Read buffer of each connection while little comes in, in bytes; it grows by itself, and an idle one has none
    #[arg(long, value_name = "BYTES", default_value = "4KiB", value_parser = parse_size)]
    pub(crate) read_buffer_size: usize,

    /// How long an opening handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) handshake_timeout: Duration,

    /// How long a closing handshake, or the shutdown, may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) close_timeout: Duration,

    /// Let browsers in only from pages of this origin, such as https://example.org; repeatable
    #[arg(long, value_name = "ORIGIN", value_parser = parse_origin)]
    pub(crate) allow_origin: Vec<String>,

    /// Take the word of reverse proxies at this address, or in this network, on who their clients are; repeatable
    #[arg(long, value_name = "ADDR|CIDR", value_parser = parse_network)]
    pub(crate) trust_proxy: Vec<IpNet>,

    /// Show the status page at / and the metrics at /metrics even if the address is not loopback: they name peers
    #[arg(long, conflicts_with = "no_status")]
    status: bool,

    /// No status page and no metrics
    #[arg(long)]
    no_status: bool,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// Options of the client.
#[derive(Debug, Args)]
pub(crate) struct ConnectOptions {
    /// The server, as ws://HOST[:PORT][/PATH]
    pub(crate) url: String,

    #[command(flatten)]
    beat: HeartbeatOptions,

    /// Have each Ping announce when the next one is due, for a server that is led by its peers
    #[arg(long)]
    announce: bool,

    /// Add a header to the opening handshake; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,

    /// Offer a subprotocol; repeatable, the first is preferred
    #[arg(long, value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

    /// End when the connection is lost, or cannot be made
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// How long connecting may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// How long the opening handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) handshake_timeout: Duration,

    /// How long the closing handshake may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) close_timeout: Duration,

    /// Largest message taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    pub(crate) max_message_size: usize,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// The beat of whoever sends Pings.
#[derive(Debug, Args)]
struct HeartbeatOptions {
    /// Time between our Pings, or "off" for no heartbeat
    #[arg(long, value_name = "DURATION|off", default_value = "20s", value_parser = parse_optional)]
    ping_interval: Optional,

    /// How long after a Ping some life must show, or "off" to keep lines open without ever finding anyone dead
    #[arg(long, value_name = "DURATION|off", default_value = "10s", value_parser = parse_optional)]
    pong_timeout: Optional,

    /// How many misses in a row make a peer dead
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    max_missed: u32,

    /// What counts as life
    #[arg(long, value_enum, default_value = "any-byte")]
    liveness: LivenessOption,
}

/// Where the log goes, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Least important lines to log
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info", value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    level: String,

    /// Log to this file as well
    #[arg(long = "log-file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Leader {
    Server,
    Peer,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Echo,
    Broadcast,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LivenessOption {
    AnyByte,
    PongOnly,
}

/// A duration, or off. (An `Option` would mean to clap that the flag may be absent.)
#[derive(Debug, Clone, Copy)]
struct Optional(Option<Duration>);

impl HeartbeatOptions {
    fn policy(&self) -> HeartbeatPolicy {
        let liveness = match self.liveness {
            LivenessOption::AnyByte => Liveness::AnyByte,
            LivenessOption::PongOnly => Liveness::PongOnly,
        };
        let policy = match (self.ping_interval.0, self.pong_timeout.0) {
            (None, _) => HeartbeatPolicy::off(),
            (Some(interval), None) => HeartbeatPolicy::keepalive(interval),
            (Some(interval), Some(timeout)) => HeartbeatPolicy::new(interval, timeout),
        };
        policy.max_missed(self.max_missed).liveness(liveness)
    }

    fn misses(&self) -> String {
        if self.max_missed == 1 { "1 miss".to_owned() } else { format!("{} misses", self.max_missed) }
    }
}

impl ServeOptions {
    pub(crate) fn heartbeat(&self) -> HeartbeatPolicy {
        let beat = self.beat.policy();
        match self.heartbeat {
            Leader::Server => beat,
            Leader::Off => HeartbeatPolicy::off(),
            Leader::Peer => {
                let policy = beat.led_by_peer(self.expect);
                match self.announcements {
                    Some((shortest, longest)) => policy.announcements(shortest, longest),
                    None => policy,
                }
            }
        }
    }

    /// Whether the status page and the metrics are to be had on an address that is loopback, or is not.
    pub(crate) fn shows_status(&self, is_loopback: bool) -> bool {
        self.status || is_loopback && !self.no_status
    }

    /// How often a heart beats, whoever beats.
    pub(crate) fn beat_interval(&self) -> Option<Duration> {
        match self.heartbeat {
            Leader::Server => self.beat.ping_interval.0,
            Leader::Peer => Some(self.expect),
            Leader::Off => None,
        }
    }

    /// What the heartbeat chosen means, in words.
    pub(crate) fn heartbeat_in_words(&self) -> String {
        let spell = humantime::format_duration;
        let Some(worst) = self.heartbeat().worst_case() else {
            return match (self.heartbeat, self.beat.ping_interval.0) {
                (Leader::Server, Some(interval)) => {
                    format!("Ping every {}, dead peers are not found", spell(interval))
                }
                _ => "no heartbeat, dead peers are not found".to_owned(),
            };
        };
        let beat = match (self.heartbeat, self.beat.ping_interval.0, self.beat.pong_timeout.0) {
            (Leader::Server, Some(interval), Some(timeout)) => {
                format!("Ping every {}, dead after {} of {}", spell(interval), self.beat.misses(), spell(timeout))
            }
            _ => format!("peers beat, dead after {} of {}", self.beat.misses(), spell(self.expect)),
        };
        format!("{beat}: a dead peer is found within {}", spell(worst))
    }
}

impl ConnectOptions {
    pub(crate) fn heartbeat(&self) -> HeartbeatPolicy {
        self.beat.policy().announcing(self.announce)
    }

    /// How often something is to be seen of the heartbeat.
    pub(crate) fn ping_interval(&self) -> Option<Duration> {
        self.beat.ping_interval.0
    }
}

impl LogOptions {
    pub(crate) fn level(&self) -> log::LevelFilter {
        // Checked by the parser.
        self.level.parse().unwrap_or(log::LevelFilter::Info)
    }
}

/// Parses the command line. On a mistake, one line on stderr and exit status 2.
pub(crate) fn parse() -> Result<Task, ExitCode> {
    match Cli::try_parse() {
        Ok(Cli { command: Some(Command::Connect(options)), .. }) => Ok(Task::Connect(options)),
        Ok(Cli { command: Some(Command::Serve(options)), .. }) => Ok(Task::Serve(options)),
        Ok(Cli { command: None, serve }) => Ok(Task::Serve(serve)),
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or("error: invalid command line");
            let values = text.lines().map(str::trim).find(|line| line.starts_with("[possible values"));
            let _ = writeln!(io::stderr(), "{line} {}", values.unwrap_or("(try --help)"));
            Err(ExitCode::from(2))
        }
        // --help and --version.
        Err(text) => {
            let _ = text.print();
            Err(ExitCode::SUCCESS)
        }
    }
}

fn parse_address(text: &str) -> Result<String, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; expected HOST:PORT"))?;
    addresses.next().map(|_| text.to_owned()).ok_or_else(|| "no such host".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| "expected a duration such as 500ms or 20s".to_owned())?;
    if duration < Duration::from_millis(1) {
        return Err("must be 1ms or more".to_owned());
    }
    if duration > Duration::from_secs(10 * 365 * 24 * 3600) {
        return Err("must be 10 years or less".to_owned());
    }
    Ok(duration)
}

fn parse_optional(text: &str) -> Result<Optional, String> {
    if text == "off" { Ok(Optional(None)) } else { parse_duration(text).map(|duration| Optional(Some(duration))) }
}

/// Two durations, such as `1s..5m`.
fn parse_range(text: &str) -> Result<(Duration, Duration), String> {
    let (shortest, longest) = text.split_once("..").ok_or("expected two durations such as 1s..5m")?;
    let (shortest, longest) = (parse_duration(shortest)?, parse_duration(longest)?);
    if shortest > longest {
        Err("the first must not be longer than the second".to_owned())
    } else {
        Ok((shortest, longest))
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected a header such as \"Authorization: Bearer TOKEN\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// Bytes, as a plain number or with KiB, MiB or GiB.
fn parse_size(text: &str) -> Result<usize, String> {
    let expected = || "expected a number of bytes such as 65536, 64KiB or 1MiB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: usize = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1024,
        "MiB" | "M" => 1024 * 1024,
        "GiB" | "G" => 1024 * 1024 * 1024,
        _ => return Err(expected()),
    };
    let size = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(expected)?;
    if size == 0 { Err("must be 1 or more".to_owned()) } else { Ok(size) }
}

/// An origin as browsers send it: scheme, host and port, nothing behind, and the scheme's own port left out (RFC 6454
/// section 6.2).
fn parse_origin(text: &str) -> Result<String, String> {
    let expected = || "expected an origin such as https://example.org or http://localhost:8080".to_owned();
    let (scheme, host) = text.split_once("://").ok_or_else(expected)?;
    if scheme.is_empty() || host.is_empty() || host.contains(['/', '?', '#', '*', ' ']) {
        return Err(expected());
    }
    let origin = text.to_ascii_lowercase();
    let own_port = match scheme.to_ascii_lowercase().as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return Ok(origin),
    };
    Ok(origin.strip_suffix(own_port).unwrap_or(&origin).to_owned())
}

/// One address, or a network in the notation of RFC 4632.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let expected = |_| "expected an address or a network, such as 127.0.0.1, ::1 or 10.0.0.0/8".to_owned();
    text.parse::<IpNet>().or_else(|_| address()).map_err(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<ServeOptions, String> {
        let arguments = ["heartwire"].into_iter().chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        Ok(match cli.command {
            Some(Command::Serve(options)) => options,
            Some(Command::Connect(_)) => unreachable!("not asked for"),
            None => cli.serve,
        })
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let options = options(&[]).unwrap();
        assert_eq!(options.address, "127.0.0.1:9001");
        assert_eq!(options.heartbeat(), HeartbeatPolicy::default());
        assert!(options.heartbeat_in_words().ends_with("found within 50s"));
    }

    #[test]
    fn the_command_may_be_left_out() {
        assert_eq!(options(&["serve", "[::1]:0", "--max-missed", "1"]).unwrap().address, "[::1]:0");
        assert_eq!(options(&["[::1]:0", "--max-missed", "1"]).unwrap().address, "[::1]:0");
    }

    #[test]
    fn the_status_is_shown_on_loopback_or_on_request() {
        for (arguments, on_loopback, elsewhere) in
            [(&[][..], true, false), (&["--status"], true, true), (&["--no-status"], false, false)]
        {
            let options = options(arguments).unwrap();
            assert_eq!((options.shows_status(true), options.shows_status(false)), (on_loopback, elsewhere));
        }
        assert!(options(&["--status", "--no-status"]).is_err());
    }

    #[test]
    fn heartbeats_can_be_off_or_keepalive_only() {
        assert_eq!(options(&["--ping-interval", "off"]).unwrap().heartbeat(), HeartbeatPolicy::off());
        let keepalive = options(&["--ping-interval", "500ms", "--pong-timeout", "off"]).unwrap();
        assert_eq!(keepalive.heartbeat(), HeartbeatPolicy::keepalive(Duration::from_millis(500)));
    }

    #[test]
    fn the_peer_may_lead() {
        let led = options(&["--heartbeat", "peer", "--expect", "10s", "--max-missed", "2"]).unwrap();
        assert_eq!(led.heartbeat(), HeartbeatPolicy::peer_led(Duration::from_secs(10)).max_missed(2));
        assert_eq!(led.heartbeat_in_words(), "peers beat, dead after 2 misses of 10s: a dead peer is found within 20s");
        let announced = options(&["--heartbeat", "peer", "--announcements", "1s..1m"]).unwrap();
        assert_eq!(announced.heartbeat().worst_case(), Some(Duration::from_secs(3 * 70)));
        assert_eq!(options(&["--heartbeat", "off"]).unwrap().heartbeat(), HeartbeatPolicy::off());
        assert!(options(&["--announcements", "2s..1s"]).is_err());
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        for (text, size) in [("1", 1), ("64KiB", 65536), ("2M", 2 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for bad in ["", "0", "-1", "1XB", "KiB", "99999999999999999999", "99999999999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_spelt_as_browsers_do() {
        for (text, origin) in [
            ("https://Example.org", "https://example.org"),
            ("https://example.org:443", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("https://example.org:80", "https://example.org:80"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(parse_origin(text).as_deref(), Ok(origin));
        }
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let options = options(&["--trust-proxy", "::1", "--trust-proxy", "10.0.0.0/8"]).unwrap();
        let spelled: Vec<String> = options.trust_proxy.iter().map(ToString::to_string).collect();
        assert_eq!(spelled, ["::1/128", "10.0.0.0/8"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            &["--ping-interval", "0s"][..],
            &["--ping-interval", "soon"],
            &["--max-missed", "0"],
            &["--max-connections", "0"],
            &["--liveness", "maybe"],
            &["--allow-origin", "example.org"],
            &["--allow-origin", "https://example.org/"],
            &["--trust-proxy", "localhost"],
            &["--trust-proxy", "10.0.0.0/33"],
            &["--trust-proxy", "127.0.0.1:80"],
            &["--log-level", "loud"],
            &["nowhere"],
            &["127.0.0.1:70000"],
            &["--no-such-option"],
        ] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
    }
}

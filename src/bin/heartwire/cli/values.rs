//! How the values of options are spelled. Each error says what is allowed; clap names the option.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::Duration;

use heartwire::IpNet;
use tungstenite::http::HeaderValue;

/// A duration, or off. (An `Option` would mean to clap that the flag may be absent.)
#[derive(Debug, Clone, Copy)]
pub(super) struct Optional(pub(super) Option<Duration>);

/// More would be a slip of the pen on any machine.
const LARGEST_SIZE: u64 = 1 << 40;
/// What the library keeps a read buffer within.
const READ_BUFFERS: RangeInclusive<u64> = 256..=16 * 1024 * 1024;
/// Each connection has a thread, and Linux has room for so many at the most.
const MOST_CONNECTIONS: usize = 1 << 22;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What the address of a Unix socket begins with; its path follows.
pub(crate) const UNIX: &str = "unix:";

/// Whether a client's URL is that of a Unix socket.
pub(super) fn is_unix(url: &str) -> bool {
    url.strip_prefix("ws+").unwrap_or(url).starts_with(UNIX)
}

/// HOST:PORT, or a port on the loopback address, or the path of a Unix socket.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected HOST:PORT or PORT, such as 0.0.0.0:9001 or 9001";
    match text.strip_prefix(UNIX) {
        Some("") => return Err("expected the path of a Unix socket, such as unix:/run/heartwire.sock".to_owned()),
        Some(_) if cfg!(unix) => return Ok(text.to_owned()),
        _ => {}
    }
    if text.contains("://") {
        return Err(format!("URLs go with \"heartwire connect\"; {EXPECTED}"));
    }
    if super::is_command(text) {
        return Err(format!("the command '{text}' must come first, before all options; {EXPECTED}"));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            true => format!("neither a command (such as serve or connect) nor an address; {EXPECTED}"),
            false => EXPECTED.to_owned(),
        });
    };
    // An IPv6 address has colons of its own.
    if host.is_empty() || port.parse::<u16>().is_err() || text.parse::<IpAddr>().is_ok() {
        return Err(EXPECTED.to_owned());
    }
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("cannot resolve {host:?}: {error}"))?;
    addresses.next().map(|_: SocketAddr| text.to_owned()).ok_or_else(|| format!("no address is known for {host:?}"))
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    if is_negative(text) {
        return Err("must be 1ms or more".to_owned());
    }
    if is_plain_number(text) {
        return Err(format!("a duration needs a unit, such as {text}s or {text}ms"));
    }
    let expected = |_| "expected a duration such as 500ms, 20s or 1m30s".to_owned();
    match humantime::parse_duration(text).map_err(expected)? {
        duration if duration < Duration::from_millis(1) => Err("must be 1ms or more".to_owned()),
        duration if duration > TEN_YEARS => Err("must be 10 years or less".to_owned()),
        duration => Ok(duration),
    }
}

/// How long to poll, or off, which is nothing.
pub(super) fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_millis(100);
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("expected a duration of 100ms at most, such as 50us or 1ms, or \"off\"".to_owned()),
    }
}

/// Permissions of a file, as for chmod(1).
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected permissions in octal, such as 660".to_owned()),
    }
}

/// How long to drain. Service managers measure their patience in microseconds, with 32 bits.
pub(super) fn parse_drain(text: &str) -> Result<Optional, String> {
    const LONGEST: Duration = Duration::from_secs(3600);
    match parse_optional(text)? {
        Optional(Some(period)) if period > LONGEST => Err("must be 1h or less".to_owned()),
        period => Ok(period),
    }
}

pub(super) fn parse_optional(text: &str) -> Result<Optional, String> {
    if text == "off" { Ok(Optional(None)) } else { parse_duration(text).map(|duration| Optional(Some(duration))) }
}

/// Two durations, such as `1s..5m`.
pub(super) fn parse_range(text: &str) -> Result<(Duration, Duration), String> {
    let (shortest, longest) = text.split_once("..").ok_or("expected two durations such as 1s..5m")?;
    let (shortest, longest) = (parse_duration(shortest)?, parse_duration(longest)?);
    if shortest > longest {
        Err("the first must not be longer than the second".to_owned())
    } else {
        Ok((shortest, longest))
    }
}

/// A header of the opening handshake that is not the handshake's own.
pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    const EXPECTED: &str = "expected a header such as \"Authorization: Bearer TOKEN\"";
    let (name, value) = text.split_once(':').ok_or(EXPECTED)?;
    let (name, value) = (name.trim(), value.trim());
    if !is_token(name) || HeaderValue::from_str(value).is_err() {
        return Err(EXPECTED.to_owned());
    }
    match name.to_ascii_lowercase().as_str() {
        "sec-websocket-protocol" => Err("use --subprotocol instead".to_owned()),
        "host" => Err("the URL says which host it is for; leave it out".to_owned()),
        own if ["connection", "upgrade"].contains(&own) || own.starts_with("sec-websocket-") => {
            Err(format!("{name} belongs to the opening handshake itself; leave it out"))
        }
        _ => Ok((name.to_owned(), value.to_owned())),
    }
}

pub(super) fn parse_subprotocol(text: &str) -> Result<String, String> {
    match is_token(text) {
        true => Ok(text.to_owned()),
        false => Err("expected a name without spaces or commas, such as chat.v1".to_owned()),
    }
}

/// Whether this is a token (RFC 9110 section 5.6.2), such as the name of a header or a subprotocol.
fn is_token(text: &str) -> bool {
    let is_in_tokens = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_in_tokens)
}

pub(super) fn parse_connections(text: &str) -> Result<usize, String> {
    parse_count(text, MOST_CONNECTIONS as u64).map(|count| count as usize)
}

pub(super) fn parse_misses(text: &str) -> Result<u32, String> {
    parse_count(text, u32::MAX.into()).map(|count| count as u32)
}

/// A whole number from 1 to `most`.
fn parse_count(text: &str, most: u64) -> Result<u64, String> {
    if is_negative(text) {
        return Err("must be 1 or more".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("expected a whole number".to_owned());
    }
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(count) if count <= most => Ok(count),
        _ => Err(format!("must be {most} or less")),
    }
}

pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    parse_bytes(text, 1..=LARGEST_SIZE)
}

pub(super) fn parse_size_or_zero(text: &str) -> Result<usize, String> {
    parse_bytes(text, 0..=LARGEST_SIZE)
}

pub(super) fn parse_read_buffer(text: &str) -> Result<usize, String> {
    parse_bytes(text, READ_BUFFERS)
}

/// Bytes, as a plain number or with KiB, MiB or GiB.
fn parse_bytes(text: &str, allowed: RangeInclusive<u64>) -> Result<usize, String> {
    if is_negative(text) {
        return Err(format!("must be {} or more", spell_bytes(*allowed.start())));
    }
    let expected = || "expected a number of bytes such as 65536, 64KiB, 1.5MiB or 1GiB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" | "k" => KIB,
        "MiB" | "M" => MIB,
        "GiB" | "G" => GIB,
        _ => return Err(expected()),
    };
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    if [whole, fraction.unwrap_or("0")].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(expected());
    }
    // What does not fit is far above any bound.
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(factor)).unwrap_or(u64::MAX);
    let fraction = fraction.map_or(0, |digits| fraction_of(digits, factor));
    let size = whole.saturating_add(fraction);
    match usize::try_from(size) {
        _ if size < *allowed.start() => Err(format!("must be {} or more", spell_bytes(*allowed.start()))),
        Ok(bytes) if size <= *allowed.end() => Ok(bytes),
        _ => Err(format!("must be {} or less", spell_bytes(*allowed.end()))),
    }
}

/// A fraction of a whole, by its digits, rounded down. (Parsing an `f64` takes a small program 16 KiB.)
fn fraction_of(digits: &str, whole: u64) -> u64 {
    // More of them make no byte.
    let digits = &digits[..digits.len().min(15)];
    let (mut numerator, mut denominator) = (0, 1);
    for digit in digits.bytes() {
        numerator = 10 * numerator + u128::from(digit - b'0');
        denominator *= 10;
    }
    (numerator * u128::from(whole) / denominator) as u64
}

fn spell_bytes(bytes: u64) -> String {
    [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A number without a unit, other than 0.
fn is_plain_number(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && text.matches('.').count() < 2;
    is_number && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
}

/// A minus and a digit: a number, and not an option that stands where a value should.
fn is_negative(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// One address, or a network in the notation of RFC 4632.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    if text == "unix" {
        // What the library has for peers without an address.
        return Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let expected = |_| "expected an address or a network, such as 127.0.0.1, ::1 or 10.0.0.0/8".to_owned();
    let network = text.parse::<IpNet>().map_err(expected)?;
    let (address, whole) = (network.addr(), network.trunc());
    if address == whole.addr() {
        Ok(network)
    } else {
        Err(format!("{address} is one address in the network {whole}; write the one or the other"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_one_of_the_loopback_address() {
        for (text, address) in [
            ("9001", "127.0.0.1:9001"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:9001", "[::1]:9001"),
            #[cfg(unix)]
            ("unix:/run/heartwire.sock", "unix:/run/heartwire.sock"),
        ] {
            assert_eq!(parse_address(text).as_deref(), Ok(address));
        }
        for (bad, told) in [
            ("65536", "expected HOST:PORT or PORT"),
            ("127.0.0.1", "expected HOST:PORT or PORT"),
            ("127.0.0.1:70000", "expected HOST:PORT or PORT"),
            (":9001", "expected HOST:PORT or PORT"),
            ("unix:", "expected the path of a Unix socket"),
            ("::1", "expected HOST:PORT or PORT"),
            ("", "expected HOST:PORT or PORT"),
            ("nowhere", "neither a command (such as serve or connect) nor an address"),
            ("ws://127.0.0.1:9001/", "URLs go with \"heartwire connect\""),
        ] {
            let error = parse_address(bad).expect_err(bad);
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("1ms", 1), ("1.5s", 1500), ("1m30s", 90_000), ("1m 30s", 90_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for (bad, told) in [
            ("20", "a duration needs a unit, such as 20s or 20ms"),
            ("1.5", "a duration needs a unit, such as 1.5s or 1.5ms"),
            ("-5s", "must be 1ms or more"),
            ("0s", "must be 1ms or more"),
            ("0", "must be 1ms or more"),
            ("1us", "must be 1ms or more"),
            ("11years", "must be 10 years or less"),
            ("soon", "expected a duration such as 500ms, 20s or 1m30s"),
            ("", "expected a duration such as 500ms, 20s or 1m30s"),
            ("--max-missed", "expected a duration such as 500ms, 20s or 1m30s"),
        ] {
            assert_eq!(parse_duration(bad), Err(told.to_owned()), "{bad}");
        }
    }

    #[test]
    fn counts_are_whole_numbers_from_1_on() {
        assert_eq!(parse_misses("4294967295"), Ok(u32::MAX));
        assert_eq!(parse_connections("1"), Ok(1));
        for (bad, told) in [
            ("0", "must be 1 or more"),
            ("-1", "must be 1 or more"),
            ("4194305", "must be 4194304 or less"),
            ("99999999999999999999", "must be 4194304 or less"),
            ("1.5", "expected a whole number"),
            ("+1", "expected a whole number"),
            ("", "expected a whole number"),
        ] {
            assert_eq!(parse_connections(bad), Err(told.to_owned()), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        for (text, size) in [
            ("1", 1),
            ("100B", 100),
            ("64KiB", 65536),
            ("2M", 2 << 20),
            ("1GiB", 1 << 30),
            ("1.5MiB", 3 << 19),
            ("0.5k", 512),
            ("0.3KiB", 307),
            ("1.99999999999999999999999999999999999999999999KiB", 2047),
            ("1024GiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for (bad, told) in [
            ("0", "must be 1 or more"),
            ("-1", "must be 1 or more"),
            ("0.1", "must be 1 or more"),
            ("1025GiB", "must be 1024GiB or less"),
            ("99999999999999999999", "must be 1024GiB or less"),
            ("99999999999999999GiB", "must be 1024GiB or less"),
        ] {
            assert_eq!(parse_size(bad), Err(told.to_owned()), "{bad}");
        }
        for bad in ["", "1XB", "1MB", "KiB", "1.MiB", ".5MiB", "1.2.3KiB", "1e3", "+1", "--mode"] {
            let error = parse_size(bad).expect_err(bad);
            assert!(error.starts_with("expected a number of bytes such as "), "{bad}: {error}");
        }
        assert_eq!(parse_size_or_zero("0"), Ok(0));
        assert_eq!(parse_read_buffer("255"), Err("must be 256 or more".to_owned()));
        assert_eq!(parse_read_buffer("17MiB"), Err("must be 16MiB or less".to_owned()));
    }

    #[test]
    fn headers_of_the_handshake_itself_are_refused() {
        assert_eq!(parse_header("X-Other:1"), Ok(("X-Other".to_owned(), "1".to_owned())));
        assert_eq!(parse_header("A: b:c"), Ok(("A".to_owned(), "b:c".to_owned())));
        for (bad, told) in [
            ("Host: x", "the URL says which host"),
            ("Sec-WebSocket-Protocol: chat", "--subprotocol"),
            ("sec-websocket-key: x", "sec-websocket-key belongs to the opening handshake"),
            ("Connection: close", "Connection belongs to the opening handshake"),
            ("no colon", "expected a header such as"),
            ("X Y: z", "expected a header such as"),
            (": x", "expected a header such as"),
            ("X: a\r\nY: b", "expected a header such as"),
        ] {
            let error = parse_header(bad).expect_err(bad);
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn subprotocols_are_tokens() {
        assert_eq!(parse_subprotocol("heartwire.v1").as_deref(), Ok("heartwire.v1"));
        for bad in ["", "a b", "a,b", "a\n"] {
            assert!(parse_subprotocol(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_network_is_spelt_without_a_host() {
        for text in ["10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "0.0.0.0/0"] {
            assert_eq!(parse_network(text).map(|network| network.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(parse_network("::1").map(|network| network.to_string()).as_deref(), Ok("::1/128"));
        let told = "10.0.0.1 is one address in the network 10.0.0.0/8; write the one or the other";
        assert_eq!(parse_network("10.0.0.1/8"), Err(told.to_owned()));
        assert!(parse_network("fd00::1/8").unwrap_err().contains("fd00::/8"));
        assert!(parse_network("localhost").unwrap_err().starts_with("expected an address or a network"));
    }
}

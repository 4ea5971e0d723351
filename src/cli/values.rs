//! How the values of options are spelled.

use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use heartwire::IpNet;

/// A duration, or off. (An `Option` would mean to clap that the flag may be absent.)
#[derive(Debug, Clone, Copy)]
pub(super) struct Optional(pub(super) Option<Duration>);

pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{error}; expected HOST:PORT"))?;
    addresses.next().map(|_| text.to_owned()).ok_or_else(|| "no such host".to_owned())
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
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

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected a header such as \"Authorization: Bearer TOKEN\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// Bytes, as a plain number or with KiB, MiB or GiB.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
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
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
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
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let expected = |_| "expected an address or a network, such as 127.0.0.1, ::1 or 10.0.0.0/8".to_owned();
    text.parse::<IpNet>().or_else(|_| address()).map_err(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

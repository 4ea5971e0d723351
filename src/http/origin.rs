//! Origins of pages (RFC 6454), as browsers name them in the header `Origin`.

use std::error::Error as StdError;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::http::request::Request;

/// The origin of a page, such as `https://example.org` or `http://localhost:8080`: a scheme, a host and a port, for
/// [`Server::allow_origins`](crate::Server::allow_origins).
///
/// It is parsed from text and kept as browsers send it (RFC 6454 section 6.2): in lower case, and without the default
/// port of `http` or `https`. Parsing refuses what no browser sends, and so could never match: a path, a wildcard, and
/// a host that is not ASCII (write its Punycode form, `xn--...`). It also refuses `null`, which many kinds of pages
/// share.
///
/// ```
/// use heartwire::Origin;
///
/// let origin: Origin = "https://Example.org:443".parse()?;
/// assert_eq!(origin.to_string(), "https://example.org");
/// assert!("https://example.org/".parse::<Origin>().is_err());
/// # Ok::<(), heartwire::InvalidOrigin>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// The error for a text that is not an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidOrigin;

impl Origin {
    /// Whether a header's value names this origin. Case does not matter in scheme and host (RFC 6454 section 4).
    fn is(&self, value: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(value)
    }
}

/// Whether a request comes from a page of one of these origins, or from no page at all: only browsers send an Origin.
pub(crate) fn is_from_one_of(origins: &[Origin], request: &Request) -> bool {
    let mut named = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Origin"));
    named.all(|(_, value)| origins.iter().any(|origin| origin.is(value)))
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let (scheme, authority) = (scheme.to_ascii_lowercase(), authority.to_ascii_lowercase());
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err(InvalidOrigin);
        }
        let (host, port) = match authority.rsplit_once(':') {
            // A colon inside the brackets of an IPv6 address does not precede a port.
            Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
            _ => (authority.as_str(), None),
        };
        let host = parse_host(host)?;
        Ok(Self(match (scheme.as_str(), port) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
            (_, Some(port)) => format!("{scheme}://{host}:{port}"),
        }))
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidOrigin> {
    // `parse` alone would accept a sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0).ok_or(InvalidOrigin)
}

fn parse_host(host: &str) -> Result<String, InvalidOrigin> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return address.map(|address| format!("[{address}]")).ok_or(InvalidOrigin);
    }
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    if is_host { Ok(host.to_owned()) } else { Err(InvalidOrigin) }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an origin such as https://example.org or http://localhost:8080")
    }
}

impl StdError for InvalidOrigin {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelt_as_browsers_do() {
        for (text, origin) in [
            ("https://Example.org", "https://example.org"),
            ("https://example.org:443", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("https://example.org:80", "https://example.org:80"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[0:0::1]", "http://[::1]"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ] {
            assert_eq!(text.parse::<Origin>().map(|origin| origin.to_string()).as_deref(), Ok(origin));
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for text in [
            "",
            "null",
            "*",
            "example.org",
            "://example.org",
            "https://",
            "https://example.org/",
            "https://example.org?",
            "https://*.example.org",
            "https://user@example.org",
            "https://example.org:",
            "https://example.org:0",
            "https://example.org:+80",
            "https://example.org:65536",
            "https://a b",
            "https://bücher.example",
            "http://::1",
            "http://[::1",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin), "{text}");
        }
    }

    #[test]
    fn every_origin_of_a_request_has_to_be_one_of_them() {
        let origins = ["https://example.org".parse().unwrap()];
        let asks = |headers: &[u8]| {
            let head = [b"GET / HTTP/1.1\r\n", headers, b"\r\n"].concat();
            let request = Request::from_bytes(&head, "127.0.0.1:1".parse().unwrap()).unwrap();
            is_from_one_of(&origins, &request)
        };
        assert!(asks(b"") && asks(b"Origin: https://EXAMPLE.org\r\n"));
        for headers in [
            &b"Origin: null\r\n"[..],
            b"Origin:\r\n",
            b"Origin: \xff\r\n",
            b"Origin: https://example.org.evil.example\r\n",
            b"Origin: https://example.org\r\nOrigin: https://evil.example\r\n",
        ] {
            assert!(!asks(headers), "{}", headers.escape_ascii());
        }
    }
}

//! Where a client puts its token in an opening handshake, or in any other request.
//!
//! Invariant: a request has one token or none. Two that differ are refused, so that no proxy, page or log can take the
//! request for somebody else's.

use std::fmt;

use crate::http::request::Request;

/// Where a token may be in a request. It is looked for in this order:
///
/// 1. The header `Authorization: Bearer TOKEN` (RFC 6750 section 2.1). Programs should send it there. Another scheme,
///    such as `Basic`, is not for us.
/// 2. A subprotocol `heartwire.token.TOKEN` that is offered. A page can add no header, but it can offer subprotocols:
///    `new WebSocket(url, ["heartwire.v1", "heartwire.token." + token])`. This one must never be the one that is
///    chosen, for the response would show the token; and browsers close a connection on which they offered some and
///    none was chosen, so a page has to offer another beside it.
/// 3. A cookie, `heartwire_token` by default. Browsers may send it for pages of any origin. Where there is such a
///    cookie, set [`allow_origins`](crate::Server::allow_origins), or make the cookie `SameSite=Strict`.
/// 4. The parameter `token` of the query, if that is [switched on](Self::query). By default it is not: proxies log
///    queries, and browsers keep them.
///
/// The same token may be in several places. Two different ones are refused, so the order makes no difference.
///
/// ```
/// use heartwire::topics::TokenPlaces;
/// use heartwire::{Accept, Response, Server};
///
/// # fn main() -> Result<(), heartwire::Error> {
/// let places = TokenPlaces::new();
/// let server = Server::bind("127.0.0.1:0")?.on_handshake(move |request| match places.find(request) {
///     Ok(Some(token)) if token == "swordfish" => Ok(Accept::new()),
///     Ok(_) => Err(Response::new(401)),
///     Err(error) => Err(Response::new(400).because(error.to_string())),
/// });
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "`find` finds a token"]
pub struct TokenPlaces {
    cookie: Option<String>,
    query: bool,
}

/// Why the token of a request cannot be told. It shows none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestTokenError {
    /// The request has tokens that differ from one another.
    Several,
    /// A token is not UTF-8.
    NotText,
}

impl TokenPlaces {
    /// What a subprotocol that is a token begins with: `heartwire.token.`.
    pub const SUBPROTOCOL: &str = "heartwire.token.";

    /// The parameter of a query: `token`.
    pub const PARAMETER: &str = "token";

    /// The header, a subprotocol, and the cookie `heartwire_token`.
    pub fn new() -> Self {
        Self { cookie: Some("heartwire_token".to_owned()), query: false }
    }

    /// Looks for the token in the cookie with this name. Default: `heartwire_token`.
    pub fn cookie(mut self, name: impl Into<String>) -> Self {
        self.cookie = Some(name.into());
        self
    }

    /// Does not look for it in a cookie.
    pub fn no_cookie(mut self) -> Self {
        self.cookie = None;
        self
    }

    /// Whether the token may also be in the query. Default: no. [`Topics::tokens`](super::Topics::tokens)
    /// then [hides it](crate::Server::redact_query) from the server's reports.
    pub fn query(mut self, is_allowed: bool) -> Self {
        self.query = is_allowed;
        self
    }

    #[cfg(feature = "jwt")]
    pub(super) fn takes_query(&self) -> bool {
        self.query
    }

    /// The token in a request, if it has one. An empty cookie or parameter is none.
    ///
    /// # Errors
    /// If the request has two that differ, or one that is not UTF-8.
    pub fn find<'a>(&self, request: &'a Request) -> Result<Option<&'a str>, RequestTokenError> {
        let cookies = self.cookie.iter().flat_map(|name| cookies(request, name));
        let parameters = self.query.then(|| parameters(request)).into_iter().flatten();
        let mut tokens = bearers(request).chain(subprotocols(request)).chain(cookies).chain(parameters);
        let Some(token) = tokens.next() else { return Ok(None) };
        match tokens.all(|other| other == token) {
            true => std::str::from_utf8(token).map(Some).map_err(|_| RequestTokenError::NotText),
            false => Err(RequestTokenError::Several),
        }
    }
}

impl Default for TokenPlaces {
    fn default() -> Self {
        Self::new()
    }
}

/// The values of all headers with this name.
fn values<'a>(request: &'a Request, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    request.headers().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What follows `Bearer` in `Authorization`. The scheme's case does not matter (RFC 9110 section 11.1).
pub(super) fn bearers(request: &Request) -> impl Iterator<Item = &[u8]> {
    values(request, "Authorization").filter_map(|value| {
        let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
        let (scheme, token) = value.split_at(end);
        scheme.eq_ignore_ascii_case(b"Bearer").then(|| token.trim_ascii())
    })
}

fn subprotocols(request: &Request) -> impl Iterator<Item = &[u8]> {
    offered_tokens(request).map(str::as_bytes)
}

/// The tokens that are offered as subprotocols.
pub(super) fn offered_tokens(request: &Request) -> impl Iterator<Item = &str> {
    request.subprotocols().filter_map(|offered| offered.strip_prefix(TokenPlaces::SUBPROTOCOL))
}

/// The values of the cookies with this name (RFC 6265 section 4.2.1).
fn cookies<'a>(request: &'a Request, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = values(request, "Cookie").flat_map(|value| value.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let values = pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let quoted = |value: &'a [u8]| value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    values.map(move |value| quoted(value).unwrap_or(value)).filter(|value| !value.is_empty())
}

/// The values of the parameter, as they stand: a token has no character that would have to be encoded.
fn parameters(request: &Request) -> impl Iterator<Item = &[u8]> {
    let pairs = request.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, value)| *name == TokenPlaces::PARAMETER && !value.is_empty())
        .map(|(_, value)| value.as_bytes())
}

impl fmt::Display for RequestTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Several => "the request has several tokens, which differ",
            Self::NotText => "the token in the request is not UTF-8",
        })
    }
}

impl std::error::Error for RequestTokenError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[u8]) -> Request {
        let head = [format!("GET {target} HTTP/1.1\r\nHost: h\r\n").as_bytes(), headers, b"\r\n"].concat();
        Request::from_bytes(&head, "127.0.0.1:1".parse().unwrap()).unwrap()
    }

    fn find(places: &TokenPlaces, target: &str, headers: &str) -> Result<Option<String>, RequestTokenError> {
        let request = request(target, headers.as_bytes());
        places.find(&request).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn find_looks_in_each_place() {
        for (headers, token) in [
            ("", None),
            ("Authorization: Bearer a.b.c\r\n", Some("a.b.c")),
            ("authorization: bearer   a.b.c\r\n", Some("a.b.c")),
            // It is there, so it is not as if there were none: it will be found to be no token.
            ("Authorization: Bearer\r\n", Some("")),
            ("Authorization: Basic YTpi\r\n", None),
            ("Authorization: BearerX a.b.c\r\n", None),
            ("Sec-WebSocket-Protocol: heartwire.v1, heartwire.token.a.b.c\r\n", Some("a.b.c")),
            ("Sec-WebSocket-Protocol: heartwire.token\r\n", None),
            ("Sec-WebSocket-Protocol: Heartwire.Token.a\r\n", None),
            ("Cookie: x=1; heartwire_token=a.b.c; y=2\r\n", Some("a.b.c")),
            ("Cookie: heartwire_token=\"a.b.c\"\r\n", Some("a.b.c")),
            ("Cookie: x=1\r\nCookie: heartwire_token=a.b.c\r\n", Some("a.b.c")),
            ("Cookie: heartwire_token=\r\n", None),
            ("Cookie: heartwire_token\r\n", None),
            ("Cookie: xheartwire_token=a; heartwire_tokens=b; Heartwire_Token=c\r\n", None),
        ] {
            let token = token.map(str::to_owned);
            assert_eq!(find(&TokenPlaces::new(), "/?token=no", headers), Ok(token), "{headers}");
        }
    }

    #[test]
    fn find_looks_in_the_cookie_and_the_query_that_are_set() {
        let cookies = "Cookie: heartwire_token=a; session=b\r\n";
        assert_eq!(find(&TokenPlaces::new().cookie("session"), "/", cookies), Ok(Some("b".into())));
        assert_eq!(find(&TokenPlaces::new().no_cookie(), "/", cookies), Ok(None));
        let query = TokenPlaces::new().query(true);
        for (target, token) in [
            ("/?token=a.b", Some("a.b")),
            ("/?x=1&token=a.b&y", Some("a.b")),
            ("/?token=a=b", Some("a=b")),
            ("/?token=", None),
            ("/?token", None),
            ("/?tokens=a&xtoken=b&Token=c", None),
            ("/token=a", None),
        ] {
            assert_eq!(find(&query, target, ""), Ok(token.map(str::to_owned)), "{target}");
        }
    }

    #[test]
    fn find_refuses_tokens_that_differ() {
        let places = TokenPlaces::new().query(true);
        let all =
            "Authorization: Bearer a\r\nSec-WebSocket-Protocol: heartwire.token.a\r\nCookie: heartwire_token=a\r\n";
        assert_eq!(find(&places, "/?token=a", all), Ok(Some("a".into())));
        for (target, headers) in [
            ("/?token=b", all.to_owned()),
            ("/?token=a&token=b", String::new()),
            ("/", format!("{all}Authorization: Bearer b\r\n")),
            ("/", format!("{all}Authorization: Bearer\r\n")),
            ("/", format!("{all}Sec-WebSocket-Protocol: heartwire.token.b\r\n")),
            ("/", format!("{all}Cookie: heartwire_token=b\r\n")),
            ("/", "Cookie: heartwire_token=a; heartwire_token=b\r\n".to_owned()),
        ] {
            assert_eq!(find(&places, target, &headers), Err(RequestTokenError::Several), "{target} {headers}");
        }
    }

    #[test]
    fn find_refuses_a_token_that_is_no_text() {
        for headers in [&b"Authorization: Bearer \xff\r\n"[..], b"Cookie: heartwire_token=\xff\r\n"] {
            assert_eq!(TokenPlaces::new().find(&request("/", headers)), Err(RequestTokenError::NotText));
        }
    }
}

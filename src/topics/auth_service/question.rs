//! What the authorization service is asked: a URL and headers, made of a client's request.
//!
//! Invariants:
//! - What we say of a client cannot be forged by it: a header that we set is never passed on from it, and a topic is
//!   encoded.
//! - Equal questions have equal keys, and others have not.

use std::fmt::Write;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::request::Request;
use crate::topics::access::Operation;
use crate::topics::name::TopicName;
use crate::topics::token_places;

/// The headers that say who a client is.
const PASSED: [&str; 4] = ["Cookie", "Origin", "User-Agent", "Sec-WebSocket-Protocol"];

/// Those that a trusted proxy has set, if the client came through one.
const PASSED_FROM_PROXY: [&str; 2] = ["X-Forwarded-Host", "X-Forwarded-Proto"];

/// A question. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) url: Arc<str>,
    pub(super) headers: Arc<[(String, Vec<u8>)]>,
}

impl Question {
    /// The question about a client that sent this request and maybe a token later, and about a topic if one is asked
    /// for. `more` are the names of further headers that are passed on.
    pub(super) fn new(
        url: &str,
        request: &Request,
        token: Option<&str>,
        topic: Option<(Operation, &TopicName)>,
        more: &[String],
    ) -> Self {
        let mut headers = Vec::new();
        match token.or_else(|| offered_token(request)) {
            Some(token) => headers.push(("Authorization".to_owned(), format!("Bearer {token}").into_bytes())),
            None => pass(request, "Authorization", &mut headers),
        }
        let more = more.iter().map(String::as_str).filter(|name| !name.eq_ignore_ascii_case("Authorization"));
        for name in PASSED.into_iter().chain(more) {
            pass(request, name, &mut headers);
        }
        let ours = [
            ("X-Forwarded-For", request.remote_ip().to_string()),
            ("X-Forwarded-Method", request.method().to_owned()),
            ("X-Forwarded-Uri", request.target().to_owned()),
        ];
        headers.extend(ours.map(|(name, value)| (name.to_owned(), value.into_bytes())));
        let passed = headers.len();
        if request.is_proxied() {
            PASSED_FROM_PROXY.into_iter().for_each(|name| pass(request, name, &mut headers));
        }
        if !headers[passed..].iter().any(|(name, _)| name == "X-Forwarded-Host") {
            let host = request.head().values("Host").next().unwrap_or_default();
            headers.push(("X-Forwarded-Host".to_owned(), host.to_vec()));
        }
        Self { url: with_query(url, topic).into(), headers: headers.into() }
    }

    /// How many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let size = |(name, value): &(String, Vec<u8>)| name.len() + value.len() + 2 * size_of::<Vec<u8>>();
        self.url.len() + self.headers.iter().map(size).sum::<usize>()
    }
}

impl std::hash::Hash for Question {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.url.hash(state);
        self.headers.hash(state);
    }
}

/// Whether a header is of the request itself, or one that we set.
pub(super) fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 9] =
        ["accept", "connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];
    let name = name.to_ascii_lowercase();
    RESERVED.contains(&&*name) || name.starts_with("x-forwarded-")
}

/// Copies all headers of this name.
fn pass(request: &Request, name: &str, headers: &mut Vec<(String, Vec<u8>)>) {
    headers.extend(request.head().values(name).map(|value| (name.to_owned(), value.to_vec())));
}

/// The token that a page offers as a subprotocol, since it can set no header.
fn offered_token(request: &Request) -> Option<&str> {
    let is_sent = request.head().values("Authorization").next().is_some();
    token_places::offered_tokens(request).next().filter(|_| !is_sent)
}

fn with_query(url: &str, topic: Option<(Operation, &TopicName)>) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let action = topic.map_or("connect", |(operation, _)| operation.name());
    let mut url = format!("{url}{separator}action={action}");
    if let Some((_, topic)) = topic {
        let _ = write!(url, "&topic={}", utf8_percent_encode(topic.as_str(), NON_ALPHANUMERIC));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::forwarded::Trusted;

    fn request(target: &str, headers: &str) -> Request {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h:9001\r\n{headers}\r\n");
        Request::from_bytes(head.as_bytes(), "192.0.2.7:1".parse().unwrap()).unwrap()
    }

    fn question(request: &Request, token: Option<&str>) -> Question {
        Question::new("http://s/auth", request, token, None, &["X-Api-Key".to_owned()])
    }

    fn values<'a>(question: &'a Question, name: &str) -> Vec<&'a str> {
        let found = question.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| std::str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn what_says_who_the_client_is_is_passed_on_and_nothing_else() {
        let headers = "Cookie: a=1\r\ncookie: b=2\r\nAuthorization: Basic eA==\r\nOrigin: http://o\r\nUser-Agent: u\r\n\
                       Sec-WebSocket-Key: k\r\nX-Other: x\r\nX-Api-Key: secret\r\nUpgrade: websocket\r\n";
        let question = question(&request("/topics/news?token=t", headers), None);
        assert_eq!(&*question.url, "http://s/auth?action=connect");
        for (name, expected) in [
            ("Cookie", &["a=1", "b=2"][..]),
            ("Authorization", &["Basic eA=="]),
            ("Origin", &["http://o"]),
            ("User-Agent", &["u"]),
            ("X-Api-Key", &["secret"]),
            ("X-Forwarded-For", &["192.0.2.7"]),
            ("X-Forwarded-Host", &["h:9001"]),
            ("X-Forwarded-Method", &["GET"]),
            ("X-Forwarded-Uri", &["/topics/news?token=t"]),
            ("Host", &[]),
            ("Upgrade", &[]),
            ("Sec-WebSocket-Key", &[]),
            ("X-Other", &[]),
        ] {
            assert_eq!(values(&question, name), expected, "{name}");
        }
    }

    #[test]
    fn a_client_cannot_say_what_only_we_or_a_trusted_proxy_say() {
        let forged = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: inside\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Uri: /else\r\nX-Forwarded-Method: POST\r\n";
        let mut request = request("/", forged);
        let values_of = |request: &Request| {
            let question = question(request, None);
            let names = ["For", "Host", "Proto", "Uri", "Method"].map(|name| format!("X-Forwarded-{name}"));
            names.map(|name| values(&question, &name).join("|"))
        };
        assert_eq!(values_of(&request), ["192.0.2.7", "h:9001", "", "/", "GET"]);
        let mut trusted = Trusted::default();
        trusted.add(["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
        request.find_client(&trusted);
        assert_eq!(values_of(&request), ["127.0.0.1", "inside", "https", "/", "GET"]);
        for name in ["host", "X-Forwarded-User", "Connection", "content-length", "Expect"] {
            assert!(is_reserved(name), "{name}");
        }
        assert!(!is_reserved("X-Api-Key"));
    }

    #[test]
    fn a_token_is_sent_as_a_bearer_wherever_it_came_from() {
        let offered = "Sec-WebSocket-Protocol: heartwire.v1, heartwire.token.abc\r\n";
        assert_eq!(values(&question(&request("/", offered), None), "Authorization"), ["Bearer abc"]);
        assert_eq!(values(&question(&request("/", offered), Some("later")), "Authorization"), ["Bearer later"]);
        let both = format!("{offered}Authorization: Bearer header\r\n");
        assert_eq!(values(&question(&request("/", &both), None), "Authorization"), ["Bearer header"]);
        assert_eq!(values(&question(&request("/", &both), Some("later")), "Authorization"), ["Bearer later"]);
    }

    #[test]
    fn a_topic_is_encoded_and_questions_that_differ_are_not_equal() {
        let request = request("/", "");
        let about = |action, topic: &str| {
            Question::new("http://s/?key=1", &request, None, Some((action, &topic.parse().unwrap())), &[])
        };
        let one = about(Operation::Publish, "a b&action=connect#/ä");
        let encoded = "http://s/?key=1&action=publish&topic=a%20b%26action%3Dconnect%23%2F%C3%A4";
        assert_eq!(&*one.url, encoded);
        assert!(one != about(Operation::Subscribe, "a b&action=connect#/ä") && one != about(Operation::Publish, "b"));
        assert!(about(Operation::Publish, "b") == about(Operation::Publish, "b"));
        let split = |headers: &str| question(&self::request("/", headers), None);
        assert!(split("Cookie: ab\r\nCookie: c\r\n") != split("Cookie: a\r\nCookie: bc\r\n"));
    }
}

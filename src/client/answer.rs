//! The server's answer to an opening handshake, and what RFC 6455 section 4.1 demands of it.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::handshake::derive_accept_key;

use super::ConnectError;
use crate::transport::socket;

/// What a server agreed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) subprotocol: Option<String>,
    /// What was received after the answer.
    pub(super) tail: Vec<u8>,
}

/// What was asked, as far as the answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) key: &'a str,
    pub(super) subprotocols: &'a [String],
}

/// Longest head of an answer in bytes, those of interim responses before it included.
const MAX_HEAD: usize = 16 * 1024;
/// Most header lines that are taken.
const MOST_HEADERS: usize = 100;

impl Question<'_> {
    /// Reads the answer before the deadline.
    pub(super) fn read_answer(self, stream: &TcpStream, deadline: Instant) -> Result<Agreed, ConnectError> {
        let mut received = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            match socket::read_before(stream, &mut chunk, deadline).map_err(ConnectError::Lost)? {
                None => return Err(ConnectError::TimedOut),
                Some(0) => return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Some(count) => received.extend_from_slice(&chunk[..count]),
            }
            if let Some(agreed) = self.parse(&received)? {
                return Ok(agreed);
            }
            if received.len() > MAX_HEAD {
                return Err(ConnectError::BadAnswer("the head of its answer is too large"));
            }
        }
    }

    /// Looks at what has come so far. `Ok(None)` if the answer is not complete.
    fn parse(self, received: &[u8]) -> Result<Option<Agreed>, ConnectError> {
        let mut rest = received;
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
            let mut answer = httparse::Response::new(&mut headers);
            let parsed = answer.parse(rest).map_err(|_| ConnectError::BadAnswer("its answer is not HTTP"))?;
            let httparse::Status::Complete(len) = parsed else { return Ok(None) };
            rest = &rest[len..];
            let answer = Answer { status: answer.code.unwrap_or(0), headers: answer.headers };
            // Interim responses, such as 103 (Early Hints), come before the answer and are none (RFC 9110 section 15.2).
            if !matches!(answer.status, 100 | 102..=199) {
                let subprotocol = answer.check(self)?;
                return Ok(Some(Agreed { subprotocol, tail: rest.to_vec() }));
            }
        }
    }
}

/// A complete answer.
struct Answer<'a> {
    status: u16,
    headers: &'a [httparse::Header<'a>],
}

impl Answer<'_> {
    /// The subprotocol, if the answer is what it should be.
    fn check(&self, question: Question<'_>) -> Result<Option<String>, ConnectError> {
        let Question { key, subprotocols } = question;
        if self.status != 101 {
            return Err(ConnectError::Refused { status: self.status, retry_after: self.retry_after() });
        }
        if !self.has_token("Upgrade", "websocket") || !self.has_token("Connection", "Upgrade") {
            return Err(ConnectError::BadAnswer("it does not upgrade to a WebSocket"));
        }
        match self.lines("Sec-WebSocket-Accept").collect::<Vec<_>>()[..] {
            [accept] if accept == derive_accept_key(key.as_bytes()).as_bytes() => {}
            // "MUST NOT appear more than once" (RFC 6455 section 11.3.3).
            [_, _, ..] => return Err(ConnectError::BadAnswer("it has several Sec-WebSocket-Accept")),
            _ => return Err(ConnectError::BadAnswer("its Sec-WebSocket-Accept is wrong")),
        }
        if self.lines("Sec-WebSocket-Extensions").any(|extensions| !extensions.is_empty()) {
            return Err(ConnectError::BadAnswer("it uses an extension that was not offered"));
        }
        match self.lines("Sec-WebSocket-Protocol").collect::<Vec<_>>()[..] {
            [] => Ok(None),
            [chosen] => match subprotocols.iter().find(|offered| offered.as_bytes() == chosen) {
                Some(offered) => Ok(Some(offered.clone())),
                None => Err(ConnectError::BadAnswer("it chose a subprotocol that was not offered")),
            },
            // "MUST NOT appear more than once" (RFC 6455 section 11.3.4).
            _ => Err(ConnectError::BadAnswer("it chose several subprotocols")),
        }
    }

    /// What `Retry-After` says in whole seconds; more than can be counted is for ever. Dates are not understood.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.lines("Retry-After").next()?;
        let is_number = !seconds.is_empty() && seconds.iter().all(u8::is_ascii_digit);
        is_number.then(|| {
            let seconds = std::str::from_utf8(seconds).ok().and_then(|digits| digits.parse().ok());
            seconds.map_or(Duration::MAX, Duration::from_secs)
        })
    }

    /// Whether a header that holds a list has this item in any of its lines, whatever the case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        let mut items = self.lines(name).flat_map(|line| line.split(|byte| *byte == b','));
        items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The values of all lines of this name.
    fn lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let lines = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        lines.map(|header| header.value.trim_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";

    fn parse(received: &str) -> Result<Option<Agreed>, ConnectError> {
        let subprotocols = ["chat".to_owned(), "chat2".to_owned()];
        Question { key: KEY, subprotocols: &subprotocols }.parse(received.as_bytes())
    }

    fn accepts(headers: &str) -> String {
        format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n")
    }

    const UPGRADES: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

    #[test]
    fn lists_may_stand_on_several_lines() {
        for upgrades in [
            UPGRADES,
            "upgrade: h2c, WebSocket\r\nCONNECTION: keep-alive , upgrade\r\n",
            "Connection: keep-alive\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nConnection: \u{e9}\r\n",
        ] {
            let agreed = parse(&(accepts(&format!("{upgrades}{ACCEPT}")) + "tail")).unwrap().unwrap();
            assert_eq!(agreed, Agreed { subprotocol: None, tail: b"tail".to_vec() }, "{upgrades}");
        }
    }

    #[test]
    fn interim_responses_are_passed_over_at_any_length_of_what_has_come() {
        let answer = accepts(&format!("{UPGRADES}{ACCEPT}Sec-WebSocket-Protocol: chat2\r\n"));
        let whole = format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{HINTS}{answer}");
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]).unwrap(), None, "{len} bytes");
        }
        let agreed = parse(&whole).unwrap().unwrap();
        assert_eq!(agreed, Agreed { subprotocol: Some("chat2".to_owned()), tail: Vec::new() });
        let refused = parse(&format!("{HINTS}HTTP/1.1 404 Not Found\r\n\r\n")).unwrap_err();
        assert!(matches!(refused, ConnectError::Refused { status: 404, .. }), "{refused:?}");
    }

    #[test]
    fn no_line_of_a_header_is_overlooked() {
        let other = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
        let chosen = "Sec-WebSocket-Protocol: chat\r\n";
        for (headers, complaint) in [
            (format!("{ACCEPT}{other}"), "several Sec-WebSocket-Accept"),
            (format!("{ACCEPT}{ACCEPT}"), "several Sec-WebSocket-Accept"),
            (other.to_owned(), "Sec-WebSocket-Accept is wrong"),
            (String::new(), "Sec-WebSocket-Accept is wrong"),
            (format!("{ACCEPT}Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: x\r\n"), "extension"),
            (format!("{ACCEPT}Sec-WebSocket-Extensions: \u{e9}\r\n"), "extension"),
            (format!("{ACCEPT}{chosen}{chosen}"), "several subprotocols"),
            (format!("{ACCEPT}Sec-WebSocket-Protocol: \u{e9}\r\n"), "not offered"),
        ] {
            match parse(&accepts(&format!("{UPGRADES}{headers}"))) {
                Err(ConnectError::BadAnswer(what)) => assert!(what.contains(complaint), "{headers}: {what}"),
                other => panic!("{headers}: {other:?}"),
            }
        }
        let empty = format!("{UPGRADES}{ACCEPT}Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: \r\n");
        assert!(parse(&accepts(&empty)).unwrap().is_some(), "nothing is no extension");
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_nothing() {
        for (value, retry_after) in [
            ("120", Some(Duration::from_secs(120))),
            ("18446744073709551615", Some(Duration::from_secs(u64::MAX))),
            ("18446744073709551616", Some(Duration::MAX)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("Wed, 21 Oct 2065 07:28:00 GMT", None),
        ] {
            match parse(&format!("HTTP/1.1 503 No\r\nRetry-After: {value}\r\n\r\n")) {
                Err(ConnectError::Refused { status: 503, retry_after: it }) => assert_eq!(it, retry_after, "{value}"),
                other => panic!("{value}: {other:?}"),
            }
        }
    }
}

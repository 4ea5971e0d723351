//! How each server is subscribed to, and what it says: every message with its place in the history, which a client
//! needs to come back.

use std::io;
use std::net::SocketAddr;

use super::{PAYLOAD, TOPIC};
use crate::server::Kind;
use crate::wire::wrong;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The subprotocol `heartwire.topics.v1`.
    Heartwire,
    /// The subprotocol `ws+meta.nchan`.
    Nchan,
    /// socket.io 4 over engine.io 4.
    SocketIo,
    /// Bare messages to all connections, without topics.
    Broadcast,
}

/// What a subscriber keeps to come back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Where its last message stands in the history.
    pub(crate) place: Vec<u8>,
    /// Who it was, for a server that knows its sessions.
    pub(crate) session: Vec<u8>,
}

impl Memory {
    /// Whether it says nothing: who has it comes as if for the first time.
    pub(crate) fn is_empty(&self) -> bool {
        self.place.is_empty() && self.session.is_empty()
    }
}

/// What a text says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Message {
        payload: &'a [u8],
        place: &'a [u8],
    },
    /// The subscription is there.
    Subscribed,
    /// Who the subscriber is, whether the server has forgotten who it was, and what it answers.
    Session {
        session: &'a [u8],
        is_lost: bool,
        answer: Option<String>,
    },
    /// Some of what the subscriber missed is not there any more.
    Lost,
    /// The subscriber is to answer.
    Asked(String),
    Nothing,
}

const HEARTWIRE_MESSAGE: &[u8] = br#"{"type":"message","topic":"bench","position":""#;

/// In a reply of heartwire's.
const REFUSAL: &[u8] = br#""error":"#;

impl Dialect {
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::HeartwireTopics => Self::Heartwire,
            Kind::Nchan | Kind::NchanAuto => Self::Nchan,
            Kind::SocketIo | Kind::SocketIoRedis | Kind::SocketIoStreams => Self::SocketIo,
            _ => Self::Broadcast,
        }
    }

    /// The opening handshake of a subscriber: one that comes back has a memory.
    pub(crate) fn handshake(self, server: SocketAddr, memory: Option<&Memory>) -> Vec<u8> {
        let (path, header) = match self {
            Self::Heartwire => ("/".to_owned(), "Sec-WebSocket-Protocol: heartwire.topics.v1\r\n"),
            Self::Nchan => {
                let since = memory.map(|memory| format!("?last_event_id={}", String::from_utf8_lossy(&memory.place)));
                (format!("/topics/{TOPIC}{}", since.unwrap_or_default()), "Sec-WebSocket-Protocol: ws+meta.nchan\r\n")
            }
            Self::SocketIo => ("/socket.io/?EIO=4&transport=websocket".to_owned(), ""),
            Self::Broadcast => ("/".to_owned(), ""),
        };
        // The key is the example of RFC 6455 section 1.3.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
        );
        request.into_bytes()
    }

    /// What the subscriber says once the handshake is answered. `None` if it is subscribed by then.
    pub(crate) fn greeting(self, memory: Option<&Memory>) -> Option<String> {
        match self {
            Self::Heartwire => {
                let since = memory.map(|memory| format!(r#","since":"{}""#, String::from_utf8_lossy(&memory.place)));
                let since = since.unwrap_or_default();
                Some(format!(r#"{{"type":"subscribe","id":1,"topics":[{{"topic":"{TOPIC}"{since}}}]}}"#))
            }
            Self::SocketIo => Some(match memory {
                None => "40".to_owned(),
                Some(Memory { place, session }) => {
                    let [session, place] = [session, place].map(|bytes| String::from_utf8_lossy(bytes));
                    format!(r#"40{{"pid":"{session}","offset":"{place}"}}"#)
                }
            }),
            Self::Nchan | Self::Broadcast => None,
        }
    }

    /// Understands a text, of a server that this subscriber has come back to with a memory, or has not.
    ///
    /// # Errors
    /// It is none that a server should have sent.
    pub(crate) fn understand<'a>(self, text: &'a [u8], memory: Option<&Memory>) -> io::Result<Said<'a>> {
        let said = match self {
            Self::Heartwire => understand_heartwire(text),
            Self::Nchan => understand_nchan(text),
            Self::SocketIo => understand_socket_io(text, memory),
            Self::Broadcast => Some(Said::Message { payload: text, place: &[] }),
        };
        said.ok_or_else(|| wrong(&String::from_utf8_lossy(text)))
    }
}

fn understand_heartwire(text: &[u8]) -> Option<Said<'_>> {
    if let Some(rest) = text.strip_prefix(HEARTWIRE_MESSAGE) {
        let place = until(rest, b'"')?;
        let payload = rest[place.len()..].strip_prefix(br#"","text":""#)?.strip_suffix(br#""}"#)?;
        return Some(Said::Message { payload, place });
    }
    if text.starts_with(br#"{"type":"subscribed""#) {
        // A refusal is in the same reply.
        let is_refused = text.windows(REFUSAL.len()).any(|window| window == REFUSAL);
        return (!is_refused).then_some(Said::Subscribed);
    }
    if text.starts_with(br#"{"type":"lost""#) {
        return Some(Said::Lost);
    }
    text.starts_with(b"heartwire ").then_some(Said::Nothing)
}

fn understand_nchan(text: &[u8]) -> Option<Said<'_>> {
    let place = until(text.strip_prefix(b"id: ")?, b'\n')?;
    let payload = &text[text.len().checked_sub(PAYLOAD)?..];
    text[..text.len() - PAYLOAD].ends_with(b"\n\n").then_some(Said::Message { payload, place })
}

fn understand_socket_io<'a>(text: &'a [u8], memory: Option<&Memory>) -> Option<Said<'a>> {
    if let Some(rest) = text.strip_prefix(br#"42["message",""#) {
        let payload = until(rest, b'"')?;
        let rest = &rest[payload.len()..];
        // Without recovery there is no place.
        let place = rest.strip_prefix(br#"",""#).map_or(Some(&[][..]), |rest| rest.strip_suffix(br#""]"#))?;
        return Some(Said::Message { payload, place });
    }
    if text == b"2" {
        return Some(Said::Asked("3".to_owned()));
    }
    if text.starts_with(b"43") {
        return Some(Said::Subscribed);
    }
    if text.starts_with(b"40") {
        const PID: &[u8] = br#""pid":""#;
        let at = text.windows(PID.len()).position(|window| window == PID)?;
        let session = until(&text[at + PID.len()..], b'"')?;
        // Who has come back is subscribed, unless it was forgotten.
        let is_recovered = memory.is_some_and(|memory| memory.session == session);
        let answer = (!is_recovered).then(|| format!(r#"420["subscribe","{TOPIC}"]"#));
        return Some(Said::Session { session, is_lost: memory.is_some() && !is_recovered, answer });
    }
    text.starts_with(b"0").then_some(Said::Nothing)
}

/// What stands before the first such byte.
fn until(text: &[u8], end: u8) -> Option<&[u8]> {
    text.iter().position(|byte| *byte == end).map(|at| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_understood_with_their_place() {
        let payload = b"0000000000000007wire";
        for (dialect, text, place) in [
            (
                Dialect::Heartwire,
                r#"{"type":"message","topic":"bench","position":"00112233aabbccdd:8","text":"0000000000000007wire"}"#,
                "00112233aabbccdd:8",
            ),
            (Dialect::Nchan, "id: 1796028085:0\ncontent-type: text/plain\n\n0000000000000007wire", "1796028085:0"),
            (Dialect::SocketIo, r#"42["message","0000000000000007wire","Q8hdSd1"]"#, "Q8hdSd1"),
            (Dialect::SocketIo, r#"42["message","0000000000000007wire"]"#, ""),
            (Dialect::Broadcast, "0000000000000007wire", ""),
        ] {
            let said = dialect.understand(text.as_bytes(), None).unwrap();
            assert_eq!(said, Said::Message { payload, place: place.as_bytes() }, "{dialect:?}");
        }
    }

    #[test]
    fn what_is_lost_or_forgotten_is_told() {
        let lost = br#"{"type":"lost","topic":"bench","position":"00112233aabbccdd:8"}"#;
        assert_eq!(Dialect::Heartwire.understand(lost, None).unwrap(), Said::Lost);
        let memory = Memory { session: b"mine".to_vec(), place: b"Q".to_vec() };
        let session = |pid: &str, memory: Option<&Memory>| {
            let answer = format!(r#"40{{"sid":"a","pid":"{pid}"}}"#);
            match Dialect::SocketIo.understand(answer.as_bytes(), memory).unwrap() {
                Said::Session { is_lost, answer, .. } => (is_lost, answer.is_some()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(session("mine", Some(&memory)), (false, false));
        assert_eq!(session("another", Some(&memory)), (true, true));
        assert_eq!(session("mine", None), (false, true));
    }

    #[test]
    fn anything_else_is_an_error() {
        let refused = br#"{"type":"subscribed","id":1,"topics":[{"topic":"bench","error":"unavailable"}]}"#;
        assert!(Dialect::Heartwire.understand(refused, None).is_err());
        assert!(Dialect::Nchan.understand(b"anything else", None).is_err());
        assert!(Dialect::SocketIo.understand(br#"42["message","0000000000000007wire","Q"#, None).is_err());
    }
}

//! What a server sends, checked byte by byte: numbered messages or state pages in order, nothing lost, nothing else.

use std::io;
use std::sync::Arc;

use crate::pages::{Conversation, Terms};
use crate::wire::{self, Parser, Piece, wrong};

/// How a connection talks: WebSocket, plain or over TLS, or the same bytes over plain TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) is_websocket: bool,
    pub(crate) is_tls: bool,
    pub(crate) text: bool,
}

impl Dialect {
    fn opcode(self) -> u8 {
        if self.text { wire::TEXT } else { wire::BINARY }
    }
}

/// Messages as a client sends them.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    dialect: Dialect,
    messages: Messages,
}

#[derive(Debug, Clone)]
enum Messages {
    Numbered(Numbered),
    Pages(Arc<Conversation>, Terms),
}

/// Messages of one length: a number in digits, then letters that differ from sender to sender.
#[derive(Debug, Clone)]
struct Numbered {
    /// A message as a client sends it, but for its number. Its payload begins behind `head`.
    frame: Vec<u8>,
    head: usize,
    payload: Vec<u8>,
}

impl Template {
    pub(crate) const DIGITS: usize = 16;

    pub(crate) fn new(dialect: Dialect, length: usize, sender: usize) -> Self {
        Self::with_text(dialect, length, &format!(" {sender} "))
    }

    /// Messages that ask a server's handler for something.
    pub(crate) fn asking(dialect: Dialect, what: &str) -> Self {
        let text = format!(" {what} ");
        Self::with_text(dialect, Self::DIGITS + text.len(), &text)
    }

    /// State pages, on a connection with these terms.
    pub(crate) fn pages(dialect: Dialect, conversation: &Arc<Conversation>, terms: Terms) -> Self {
        Self { dialect, messages: Messages::Pages(Arc::clone(conversation), terms) }
    }

    fn with_text(dialect: Dialect, length: usize, text: &str) -> Self {
        let mut payload = vec![b'0'; length.max(Self::DIGITS)];
        for (byte, letter) in payload[Self::DIGITS..].iter_mut().zip(text.bytes().cycle()) {
            *byte = letter;
        }
        let mut frame = Vec::new();
        let head = wire::header(&mut frame, dialect.opcode(), payload.len());
        frame.extend_from_slice(&payload);
        if dialect.is_websocket {
            wire::mask(&mut frame[head..]);
        }
        Self { dialect, messages: Messages::Numbered(Numbered { frame, head, payload }) }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Appends a message.
    pub(crate) fn write(&self, number: u64, out: &mut Vec<u8>) {
        match &self.messages {
            Messages::Numbered(Numbered { frame, head, .. }) => {
                let start = out.len() + head;
                out.extend_from_slice(frame);
                let digits = &mut out[start..start + Self::DIGITS];
                write_number(digits, number);
                if self.dialect.is_websocket {
                    wire::mask(digits);
                }
            }
            Messages::Pages(conversation, terms) => out.extend_from_slice(conversation.pages.frame(number, *terms)),
        }
    }

    /// What is to come back of messages like this, from this number on. Plain TCP gets as many bytes as a frame has,
    /// and gives them all back.
    pub(crate) fn answers(&self, number: u64) -> Answers {
        let (awaited, terms) = match &self.messages {
            Messages::Numbered(Numbered { frame, head, payload }) => {
                let (expected, digits) = match self.dialect.is_websocket {
                    true => (payload.clone(), 0),
                    false => (frame.clone(), *head),
                };
                (Awaited::Numbered { expected, digits, position: 0 }, Terms::PLAIN)
            }
            Messages::Pages(conversation, terms) => {
                let conversation = Arc::clone(conversation);
                let awaited = Awaited::Page { conversation, payload: Vec::new(), is_compressed: false, terms: *terms };
                (awaited, *terms)
            }
        };
        let mut answers = Answers {
            dialect: self.dialect,
            parser: Parser::new(terms.is_compressed),
            awaited,
            first: number,
            number,
            control: None,
            seen: Seen::default(),
        };
        answers.expect();
        answers
    }
}

/// Takes a server's bytes, and compares.
#[derive(Debug)]
pub(crate) struct Answers {
    dialect: Dialect,
    parser: Parser,
    awaited: Awaited,
    first: u64,
    number: u64,
    /// The payload of the Ping that is arriving.
    control: Option<Vec<u8>>,
    seen: Seen,
}

/// The message that comes next.
#[derive(Debug)]
enum Awaited {
    Numbered {
        expected: Vec<u8>,
        /// Where the number stands in it.
        digits: usize,
        /// How much of it is here.
        position: usize,
    },
    Page {
        conversation: Arc<Conversation>,
        /// What is here of it.
        payload: Vec<u8>,
        is_compressed: bool,
        terms: Terms,
    },
}

/// What messages took on the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) messages: u64,
    pub(crate) compressed: u64,
    /// With their headers.
    pub(crate) bytes: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.compressed += other.compressed;
        self.bytes += other.bytes;
    }
}

impl Answers {
    /// The number of the message that comes next: all before are here.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Of all messages so far; over WebSocket only.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// Takes bytes in, however they are cut. Pings are answered into `out`.
    pub(crate) fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if !self.dialect.is_websocket {
            return self.take_bare(bytes);
        }
        while let Some(piece) = self.parser.next(&mut bytes)? {
            match (piece, &mut self.control) {
                (Piece::Begin(wire::PING, _), control) => *control = Some(Vec::new()),
                (Piece::Begin(wire::CLOSE, _), _) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server sent a Close frame"));
                }
                (Piece::Begin(opcode, length), _) => self.begin(opcode, length)?,
                (Piece::Payload(payload), Some(control)) => control.extend_from_slice(payload),
                (Piece::Payload(payload), None) => self.compare(payload)?,
                (Piece::End, control @ Some(_)) => {
                    wire::frame(out, wire::PONG, &control.take().unwrap_or_default());
                }
                (Piece::End, None) => self.complete()?,
            }
        }
        Ok(())
    }

    fn take_bare(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Awaited::Numbered { expected, position, .. } = &self.awaited else {
                return Err(wrong("bytes where pages are awaited"));
            };
            let (length, left) = (expected.len(), expected.len() - position);
            let (chunk, rest) = bytes.split_at(bytes.len().min(left));
            self.compare(chunk)?;
            bytes = rest;
            if matches!(self.awaited, Awaited::Numbered { position, .. } if position == length) {
                self.complete()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, opcode: u8, length: u64) -> io::Result<()> {
        let is_awaited = match &mut self.awaited {
            Awaited::Numbered { expected, .. } => opcode == self.dialect.opcode() && length == expected.len() as u64,
            Awaited::Page { payload, is_compressed, .. } => {
                *is_compressed = opcode & wire::COMPRESSED != 0;
                payload.clear();
                opcode & !wire::COMPRESSED == wire::TEXT
            }
        };
        if !is_awaited {
            return Err(wrong(&format!("a frame with opcode {opcode} and {length} bytes")));
        }
        self.seen.compressed += u64::from(opcode & wire::COMPRESSED != 0);
        self.seen.bytes += length + wire::header_length(length);
        Ok(())
    }

    fn compare(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.awaited {
            Awaited::Numbered { expected, position, .. } => {
                if expected[*position..*position + bytes.len()] != *bytes {
                    return Err(wrong("another message than was awaited"));
                }
                *position += bytes.len();
            }
            Awaited::Page { payload, .. } => payload.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn complete(&mut self) -> io::Result<()> {
        if let Awaited::Page { conversation, payload, is_compressed, terms } = &self.awaited {
            let is_first = self.number == self.first;
            if !conversation.is_right(self.number, payload, *is_compressed, is_first, *terms)? {
                return Err(wrong("another page than was awaited"));
            }
        }
        self.seen.messages += 1;
        self.number += 1;
        self.expect();
        Ok(())
    }

    fn expect(&mut self) {
        if let Awaited::Numbered { expected, digits, position } = &mut self.awaited {
            *position = 0;
            write_number(&mut expected[*digits..*digits + Template::DIGITS], self.number);
        }
    }
}

fn write_number(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;

    const WEBSOCKET: Dialect = Dialect { is_websocket: true, is_tls: false, text: false };

    /// A message as a server sends it.
    fn answer(template: &Template, number: u64) -> Vec<u8> {
        let Messages::Numbered(Numbered { payload, .. }) = &template.messages else { unreachable!() };
        let mut payload = payload.clone();
        write_number(&mut payload[..Template::DIGITS], number);
        let mut bytes = vec![0x82, payload.len() as u8];
        bytes.extend_from_slice(&payload);
        bytes
    }

    #[test]
    fn answers_are_taken_in_order_however_they_are_cut() {
        let template = Template::new(WEBSOCKET, 20, 7);
        let bytes: Vec<u8> = (0..12).flat_map(|number| answer(&template, number)).collect();
        for cut in [1, 2, 7, 22, 100, bytes.len()] {
            let mut answers = template.answers(0);
            for chunk in bytes.chunks(cut) {
                answers.take(chunk, &mut Vec::new()).unwrap();
            }
            assert_eq!(answers.number(), 12);
        }
    }

    #[test]
    fn a_wrong_byte_a_lost_message_and_a_repeated_one_are_noticed() {
        let template = Template::new(WEBSOCKET, 20, 7);
        let mut spoilt = answer(&template, 0);
        *spoilt.last_mut().unwrap() ^= 1;
        assert!(template.answers(0).take(&spoilt, &mut Vec::new()).is_err());
        for number in [0, 2] {
            assert!(template.answers(1).take(&answer(&template, number), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn a_ping_between_messages_is_answered() {
        let template = Template::new(WEBSOCKET, 20, 7);
        let mut answers = template.answers(0);
        let mut out = Vec::new();
        answers.take(b"\x89\x02hi", &mut out).unwrap();
        answers.take(&answer(&template, 0), &mut out).unwrap();
        let mut pong = Vec::new();
        wire::frame(&mut pong, wire::PONG, b"hi");
        assert_eq!((out, answers.number()), (pong, 1));
    }

    #[test]
    fn plain_tcp_gives_back_what_it_got() {
        let template = Template::new(Dialect { is_websocket: false, is_tls: false, text: false }, 20, 7);
        let mut bytes = Vec::new();
        template.write(0, &mut bytes);
        template.write(1, &mut bytes);
        assert_eq!(bytes.len(), 2 * 26, "as many bytes as masked frames have");
        let mut answers = template.answers(0);
        bytes.chunks(7).for_each(|chunk| answers.take(chunk, &mut Vec::new()).unwrap());
        assert_eq!(answers.number(), 2);
    }

    #[test]
    fn pages_come_in_order_compressed_or_not_and_are_counted() {
        let conversation = Arc::new(Conversation::new(&Arc::new(Pages::new(2000).unwrap())));
        let terms = Terms { is_compressed: true, takes_over: false };
        let template = Template::pages(Dialect { text: true, ..WEBSOCKET }, &conversation, terms);
        // As a server sends them: without the mask.
        let served = |number: u64, terms: Terms| {
            let mut frame = conversation.pages.frame(number, terms).to_vec();
            wire::mask(&mut frame[8..]);
            frame[1] &= 0x7f;
            frame.drain(4..8);
            frame
        };
        let mut answers = template.answers(0);
        let bytes = [served(0, terms), served(1, Terms::PLAIN), served(2, terms)].concat();
        bytes.chunks(7).for_each(|chunk| answers.take(chunk, &mut Vec::new()).unwrap());
        let seen = answers.seen();
        assert_eq!((seen.messages, seen.compressed, seen.bytes), (3, 2, bytes.len() as u64));
        for wrong in [served(4, terms), served(4, Terms::PLAIN)] {
            assert!(template.answers(3).take(&wrong, &mut Vec::new()).is_err());
        }
    }
}

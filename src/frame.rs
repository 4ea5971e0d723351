//! One frame on its way out: a header in place and a payload that is shared, so that a broadcast is encoded once.

use std::io::IoSlice;

use tungstenite::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::message::Message;

/// The longest header without a mask: two bytes and a length of eight. Servers do not mask (RFC 6455 section 5.1).
const MAX_HEADER: usize = 10;

/// An encoded frame. Cloning shares the payload.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    header: [u8; MAX_HEADER],
    header_len: u8,
    kind: Kind,
    payload: Bytes,
}

/// What the queue needs to know of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

impl Frame {
    pub(crate) fn message(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::new(Kind::Data, OpCode::Data(Data::Text), text.into()),
            Message::Binary(bytes) => Self::new(Kind::Data, OpCode::Data(Data::Binary), bytes),
        }
    }

    pub(crate) fn ping(payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Ping, OpCode::Control(Control::Ping), payload.into())
    }

    pub(crate) fn pong(payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Pong, OpCode::Control(Control::Pong), payload.into())
    }

    /// `payload` as [`close_payload`](crate::close::close_payload) makes it.
    pub(crate) fn close(payload: Bytes) -> Self {
        Self::new(Kind::Close, OpCode::Control(Control::Close), payload)
    }

    fn new(kind: Kind, opcode: OpCode, payload: Bytes) -> Self {
        debug_assert!(kind == Kind::Data || payload.len() <= 125, "control payloads are short (RFC 6455 section 5.5)");
        let mut header = [0; MAX_HEADER];
        let mut rest = &mut header[..];
        let fields = FrameHeader { opcode, ..FrameHeader::default() };
        // Writing to a slice fails only when it is too short, and MAX_HEADER is the longest header without a mask.
        let written = fields.format(payload.len() as u64, &mut rest);
        debug_assert!(written.is_ok());
        let header_len = (MAX_HEADER - rest.len()) as u8;
        Self { header, header_len, kind, payload }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.header().len() + self.payload.len()
    }

    /// What is left to write after `offset` bytes, header and payload.
    pub(crate) fn rest(&self, offset: usize) -> [IoSlice<'_>; 2] {
        let header = self.header();
        let (in_header, in_payload) = (offset.min(header.len()), offset.saturating_sub(header.len()));
        [IoSlice::new(&header[in_header..]), IoSlice::new(&self.payload[in_payload..])]
    }
}

#[cfg(test)]
impl Frame {
    /// What is left to write, in one piece.
    pub(crate) fn to_bytes(&self, offset: usize) -> Vec<u8> {
        self.rest(offset).iter().flat_map(|slice| slice.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(frame: &Frame) -> Vec<u8> {
        frame.to_bytes(0)
    }

    #[test]
    fn every_length_has_the_shortest_header() {
        for (len, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = Frame::message(Message::binary(vec![7; len]));
            assert_eq!(frame.header(), header);
            assert_eq!(frame.len(), header.len() + len);
            assert_eq!(encoded(&frame).len(), frame.len());
        }
    }

    #[test]
    fn kinds_have_their_opcodes() {
        assert_eq!(encoded(&Frame::message(Message::text("hi"))), b"\x81\x02hi");
        assert_eq!(encoded(&Frame::ping("1")), b"\x89\x011");
        assert_eq!(encoded(&Frame::pong("1")), b"\x8a\x011");
        assert_eq!(encoded(&Frame::close(Bytes::new())), b"\x88\x00");
    }

    #[test]
    fn the_rest_of_a_frame_is_what_was_not_written() {
        let frame = Frame::message(Message::text("hello"));
        let all = encoded(&frame);
        for offset in 0..=frame.len() {
            assert_eq!(frame.to_bytes(offset), all[offset..]);
        }
    }
}

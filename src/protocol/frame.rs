//! Outgoing messages and control frames, and their encoded form (RFC 6455 section 5.2).
//!
//! Invariants: a frame is encoded once, for the role that sends it. Clones share the payload, so a broadcast is encoded
//! once for all connections.

use std::io::IoSlice;
use std::mem;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::foreign;
use crate::message::Message;

/// The longest header: two bytes, an extended length of eight, and a mask of four.
const MAX_HEADER: usize = 14;

/// The first reserved bit, which says that the message is compressed (RFC 7692 section 6).
#[cfg(feature = "deflate")]
const COMPRESSED: u8 = 0x40;

/// Our end of the connection. Clients mask what they send, servers do not (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// A message or control frame to send, not yet encoded.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    kind: Kind,
    /// With the reserved bits.
    opcode: u8,
    payload: Bytes,
}

/// An encoded frame. Cloning shares the payload.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    header: [u8; MAX_HEADER],
    header_len: u8,
    kind: Kind,
    payload: Payload,
}

/// Bytes that the application may have lent (`Bytes::from_owner`). Its `Drop` then runs when the last frame with these
/// bytes is dropped, on whichever thread that happens.
#[derive(Debug, Clone)]
struct Payload(Bytes);

impl Drop for Payload {
    fn drop(&mut self) {
        foreign::dispose(mem::take(&mut self.0));
    }
}

// A queue of frames has room for at most twice its frames. An allocation adds 16 bytes, and that of a shared payload
// 32.
const _: () = assert!(2 * size_of::<Frame>() + 32 <= Message::OVERHEAD);

/// The kind of a frame, which decides its place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Ping,
    Pong,
    /// The answer to a text heartbeat: a data frame that is as urgent as a Pong.
    TextPong,
    Close,
}

impl Outgoing {
    pub(crate) fn message(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::new(Kind::Data, OpCode::Data(Data::Text), text),
            Message::Binary(bytes) => Self::new(Kind::Data, OpCode::Data(Data::Binary), bytes),
        }
    }

    /// A message whose payload is compressed (RFC 7692 section 6).
    #[cfg(feature = "deflate")]
    pub(crate) fn compressed(is_text: bool, payload: Vec<u8>) -> Self {
        let data = if is_text { Data::Text } else { Data::Binary };
        let mut outgoing = Self::new(Kind::Data, OpCode::Data(data), payload);
        outgoing.opcode |= COMPRESSED;
        outgoing
    }

    pub(crate) fn ping(payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Ping, OpCode::Control(Control::Ping), payload)
    }

    /// A Ping that overtakes no data.
    pub(crate) fn ping_in_line(payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Data, OpCode::Control(Control::Ping), payload)
    }

    pub(crate) fn pong(payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Pong, OpCode::Control(Control::Pong), payload)
    }

    /// The answer to a text heartbeat. It is as urgent as a Pong, and of several waiting ones only the newest remains.
    pub(crate) fn text_pong() -> Self {
        Self::new(Kind::TextPong, OpCode::Data(Data::Text), Bytes::from_static(b"pong"))
    }

    /// A Close frame. [`close_payload`](crate::protocol::close::close_payload) makes its payload.
    pub(crate) fn close(payload: Bytes) -> Self {
        Self::new(Kind::Close, OpCode::Control(Control::Close), payload)
    }

    fn new(kind: Kind, opcode: OpCode, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        debug_assert!(kind == Kind::Data || payload.len() <= 125, "control payloads are short (RFC 6455 section 5.5)");
        Self { kind, opcode: opcode.into(), payload }
    }
}

impl Frame {
    /// Encodes a frame: unmasked for a server, masked with this key for a client. The key must be unpredictable (RFC
    /// 6455 section 10.3).
    pub(crate) fn encode(outgoing: Outgoing, mask: Option<[u8; 4]>) -> Self {
        let Outgoing { kind, opcode, payload } = outgoing;
        let payload = match mask {
            None => payload,
            Some(key) => masked(payload, key),
        };
        let mut frame = Self { header: [0; MAX_HEADER], header_len: 0, kind, payload: Payload(payload) };
        frame.write_header(opcode, mask);
        frame
    }

    fn write_header(&mut self, opcode: u8, mask: Option<[u8; 4]>) {
        let (len, header) = (self.payload.0.len(), &mut self.header);
        header[0] = 0x80 | opcode;
        let mut end = match len {
            0..126 => {
                header[1] = len as u8;
                2
            }
            126..=0xffff => {
                header[1] = 126;
                header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            _ => {
                header[1] = 127;
                header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
                10
            }
        };
        if let Some(key) = mask {
            header[1] |= 0x80;
            header[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        self.header_len = end as u8;
    }

    /// Wraps data frames that were encoded one after the other by [`write_to`](Self::write_to).
    pub(crate) fn from_encoded(frames: Vec<u8>) -> Self {
        Self { header: [0; MAX_HEADER], header_len: 0, kind: Kind::Data, payload: Payload(frames.into()) }
    }

    /// Makes the payload our own, by a copy unless it is known to be. Dropping the frame then runs no code of the
    /// application.
    pub(crate) fn into_own(mut self) -> Self {
        if !self.payload.0.is_unique() {
            self.payload = Payload(Bytes::copy_from_slice(&self.payload.0));
        }
        self
    }

    /// Joins the header and the payload of a short data frame of our own. Then no send of the broadcast has to.
    pub(crate) fn joined(self) -> Self {
        /// A longer payload costs more to copy than a few sends that gather two pieces.
        const LONGEST: usize = 4096;
        if self.payload.0.len() > LONGEST {
            return self;
        }
        let mut joined = Vec::with_capacity(self.len());
        self.write_to(&mut joined);
        Self::from_encoded(joined)
    }

    /// Whether the application may have lent the payload, so that dropping the frame runs its code.
    pub(crate) fn may_be_lent(&self) -> bool {
        self.kind == Kind::Data && self.header_len > 0
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.header());
        bytes.extend_from_slice(&self.payload.0);
    }

    /// The length on the wire, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.header().len() + self.payload.0.len()
    }

    /// The memory that the frame costs, in bytes. A shared payload counts for each of its frames.
    pub(crate) fn cost(&self) -> usize {
        self.payload.0.len() + Message::OVERHEAD
    }

    /// The bytes left to write after `offset`: the rest of the header and of the payload.
    pub(crate) fn rest(&self, offset: usize) -> [IoSlice<'_>; 2] {
        let header = self.header();
        let (in_header, in_payload) = (offset.min(header.len()), offset.saturating_sub(header.len()));
        [IoSlice::new(&header[in_header..]), IoSlice::new(&self.payload.0[in_payload..])]
    }
}

/// Not inlined: this keeps the path of a server short.
#[inline(never)]
fn masked(payload: Bytes, key: [u8; 4]) -> Bytes {
    let mut payload = Vec::from(payload);
    apply_mask(&mut payload, key);
    payload.into()
}

/// Masks a payload, or removes the mask (RFC 6455 section 5.3).
pub(crate) fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

#[cfg(test)]
impl Frame {
    /// The bytes left to write, in one buffer.
    pub(crate) fn to_bytes(&self, offset: usize) -> Vec<u8> {
        self.rest(offset).iter().flat_map(|slice| slice.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::FrameHeader;

    use super::*;

    fn unmasked(outgoing: Outgoing) -> Frame {
        Frame::encode(outgoing, None)
    }

    fn bytes(outgoing: Outgoing) -> Vec<u8> {
        unmasked(outgoing).to_bytes(0)
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
            let frame = unmasked(Outgoing::message(Message::binary(vec![7; len])));
            assert_eq!(frame.header(), header);
            assert_eq!(frame.len(), header.len() + len);
            assert_eq!(frame.to_bytes(0).len(), frame.len());
        }
    }

    #[test]
    fn headers_are_what_tungstenite_writes() {
        let opcodes = [
            OpCode::Data(Data::Text),
            OpCode::Data(Data::Binary),
            OpCode::Control(Control::Ping),
            OpCode::Control(Control::Pong),
            OpCode::Control(Control::Close),
        ];
        for (opcode, mask) in opcodes.into_iter().flat_map(|opcode| [(opcode, None), (opcode, Some([1, 2, 3, 4]))]) {
            for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
                let mut expected = Vec::new();
                let fields = FrameHeader { opcode, mask, ..FrameHeader::default() };
                fields.format(len as u64, &mut expected).unwrap();
                let outgoing = Outgoing { kind: Kind::Data, opcode: opcode.into(), payload: vec![0; len].into() };
                assert_eq!(Frame::encode(outgoing, mask).header(), expected);
            }
        }
    }

    #[test]
    fn what_is_sent_has_its_opcode() {
        assert_eq!(bytes(Outgoing::message(Message::text("hi"))), b"\x81\x02hi");
        assert_eq!(bytes(Outgoing::ping("1")), b"\x89\x011");
        assert_eq!(bytes(Outgoing::pong("1")), b"\x8a\x011");
        assert_eq!(bytes(Outgoing::ping_in_line("1")), b"\x89\x011");
        assert_eq!(bytes(Outgoing::text_pong()), b"\x81\x04pong");
        assert_eq!(bytes(Outgoing::close(Bytes::new())), b"\x88\x00");
    }

    #[test]
    fn a_masked_frame_is_the_same_behind_its_key() {
        let frame = Frame::encode(Outgoing::message(Message::text("hello")), Some([1, 2, 3, 4]));
        assert_eq!(frame.to_bytes(0), [0x81, 0x85, 1, 2, 3, 4, b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1]);
        let frame = Frame::encode(Outgoing::message(Message::binary(vec![0; 70_000])), Some([9, 9, 9, 9]));
        assert_eq!(frame.header(), [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70, 9, 9, 9, 9]);
        assert!(frame.kind() == Kind::Data && frame.to_bytes(0)[14..].iter().all(|byte| *byte == 9));
        assert_eq!(Frame::encode(Outgoing::text_pong(), Some([0; 4])).kind(), Kind::TextPong);
    }

    #[test]
    fn the_rest_of_a_frame_is_what_was_not_written() {
        let frame = unmasked(Outgoing::message(Message::text("hello")));
        let all = frame.to_bytes(0);
        for offset in 0..=frame.len() {
            assert_eq!(frame.to_bytes(offset), all[offset..]);
        }
    }
}

//! A frame's header (RFC 6455 section 5.2).
//!
//! tungstenite can parse it too, and the tests compare the two. But tungstenite logs each header at `trace`, and a
//! logger is foreign code: it would run in the middle of a read, with our locks held.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) is_final: bool,
    /// The three reserved bits, in their place.
    pub(super) reserved: u8,
    pub(super) opcode: OpCode,
    pub(super) mask: Option<[u8; 4]>,
    /// The length of the payload.
    pub(super) length: u64,
}

/// A reserved opcode.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReservedOpcode;

impl Header {
    /// The header at the beginning of these bytes, and its length. `None` if it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ReservedOpcode> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let (length, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match second & 0x80 {
            0 => (None, rest),
            _ => match rest.split_first_chunk() {
                Some((mask, rest)) => (Some(*mask), rest),
                None => return Ok(None),
            },
        };
        let opcode = OpCode::from(first & 0x0f);
        if let OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) = opcode {
            return Err(ReservedOpcode);
        }
        let header = Self { is_final: first & 0x80 != 0, reserved: first & 0x70, opcode, mask, length };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tungstenite::protocol::frame::FrameHeader;

    use super::*;

    fn by_tungstenite(bytes: &[u8]) -> Result<Option<(Header, usize)>, ReservedOpcode> {
        let mut cursor = Cursor::new(bytes);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| ReservedOpcode)? else {
            return Ok(None);
        };
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = header;
        let header = Header {
            is_final,
            reserved: (u8::from(rsv1) << 6) | (u8::from(rsv2) << 5) | (u8::from(rsv3) << 4),
            opcode,
            mask,
            length,
        };
        Ok(Some((header, cursor.position() as usize)))
    }

    #[test]
    fn headers_are_what_tungstenite_takes_them_for() {
        // All first and second bytes, cut off after all lengths.
        for first_two in 0..=u16::MAX {
            let mut bytes = first_two.to_be_bytes().to_vec();
            bytes.extend(1..=13);
            for len in [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 13, 14, 15] {
                assert_eq!(Header::parse(&bytes[..len]), by_tungstenite(&bytes[..len]), "{:x?}", &bytes[..len]);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_what_tungstenite_takes_them_for(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(Header::parse(&bytes), by_tungstenite(&bytes));
        }
    }
}

//! Frames as a client puts them on the wire, valid or not.

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// Any mask will do; this one leaves no byte as it was.
const MASK: [u8; 4] = [0x5a, 0xa7, 0x33, 0xc1];

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    /// Whether the first reserved bit is set (RFC 7692 section 6).
    pub(crate) is_compressed: bool,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn text(&self) -> &str {
        assert_eq!((self.opcode, self.is_compressed), (TEXT, false), "{self:?}");
        std::str::from_utf8(&self.payload).expect("text is UTF-8")
    }

    /// Code and reason of a Close frame.
    pub(crate) fn close(&self) -> (Option<u16>, String) {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        match &self.payload[..] {
            [] => (None, String::new()),
            [high, low, reason @ ..] => {
                (Some(u16::from_be_bytes([*high, *low])), String::from_utf8(reason.to_vec()).expect("UTF-8"))
            }
            [_] => panic!("half a close code"),
        }
    }

    /// Takes a server's frame off the front, if it is all there. Whatever no server may send fails the test.
    pub(crate) fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let (&[first, second], rest) = buffer.split_first_chunk()?;
        assert_eq!(first & 0x30, 0, "reserved bits are set");
        assert_eq!(first & 0x80, 0x80, "the server fragments nothing");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (header, len) = match second {
            126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
            len => (2, usize::from(len)),
        };
        let opcode = first & 0x0f;
        assert!([TEXT, BINARY, CLOSE, PING, PONG].contains(&opcode), "opcode {opcode}");
        assert!(opcode < 8 || len <= 125, "a control frame of {len} bytes");
        let payload = buffer.get(header..header + len)?.to_vec();
        buffer.drain(..header + len);
        let is_compressed = first & 0x40 != 0;
        assert!(opcode < 8 || !is_compressed, "a compressed control frame");
        Some(Self { opcode, is_compressed, payload })
    }
}

/// A whole frame, masked as a client must.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    fragment(0x80 | opcode, payload)
}

/// A masked frame with this first byte: FIN, three reserved bits, opcode.
pub(crate) fn fragment(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..=125 => bytes.push(0x80 | len as u8),
        len @ ..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    let wide = u32::from_ne_bytes(MASK);
    // Word by word: tests run without optimisation, and some messages are large.
    let mut words = bytes[start..].chunks_exact_mut(4);
    for word in &mut words {
        let masked = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    words.into_remainder().iter_mut().zip(MASK).for_each(|(byte, key)| *byte ^= key);
    bytes
}

pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

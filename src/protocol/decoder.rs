//! From bytes to messages: the receiving half of RFC 6455, without I/O.
//!
//! Bytes go in by [`Decoder::fill`], messages come out of [`Decoder::next`]. A payload leaves the buffer as it arrives,
//! even if its frame is incomplete. So the buffer stays small however large a message is, memory follows what has
//! arrived and not what a header announces, and text that is not UTF-8 is refused at its first bad byte.
//!
//! Large payloads are not copied. The rest of a long binary frame is read straight into its message. A message that
//! fills most of the buffer takes the buffer with it, and may then hold memory of twice its length. An idle connection
//! needs no buffer at all.
//!
//! tungstenite's own reader returns nothing before a message is complete. That is too late for a deadline, for a memory
//! limit and for the UTF-8 check. The tests compare this decoder with it.

use std::io;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::message::{Message, Text};
use crate::protocol::close::{CloseCode, CloseReason};
use crate::protocol::frame::{Role, apply_mask};

mod header;

use header::{Header, ReservedOpcode};

/// What a peer can send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Message(Message),
    /// Only if the decoder takes them.
    Compressed(Compressed),
    Ping(Bytes),
    Pong(Bytes),
    Close(Option<CloseCode>, String),
}

/// A message that is still compressed (RFC 7692). It is decompressed where it is wanted, and not as it arrives: then
/// a message that does not end costs no more than its bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compressed {
    pub(crate) is_text: bool,
    pub(crate) payload: Bytes,
}

/// The decoder of one peer's stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Which end we are.
    role: Role,
    /// What has arrived. The bytes from `start` on are not decoded yet.
    buffer: Vec<u8>,
    start: usize,
    /// The capacity of the buffer, or of the next one while there is none.
    target_size: usize,
    min_size: usize,
    /// Reads in a row that left most of a grown buffer unused.
    small_reads: u8,
    max_message_size: usize,
    /// Whether messages may be compressed, because both ends have agreed to that.
    takes_compressed: bool,
    frame: Option<PartialFrame>,
    message: Option<PartialMessage>,
    /// Whether nothing more can be decoded before more bytes arrive.
    needs_more: bool,
}

/// A frame whose header is known and whose payload is still arriving.
#[derive(Debug)]
struct PartialFrame {
    opcode: OpCode,
    is_final: bool,
    /// Whether it begins a compressed message.
    is_compressed: bool,
    /// The masking key, rotated to the next byte of the payload.
    mask: Option<[u8; 4]>,
    remaining: u64,
}

#[derive(Debug)]
enum PartialMessage {
    Text(PartialText),
    Binary(Vec<u8>),
    Compressed { is_text: bool, payload: Vec<u8> },
}

impl Decoder {
    /// A control frame with its header (14 + 125 bytes) has to fit in the buffer, whatever the settings say.
    pub(crate) const MIN_BUFFER: usize = 256;
    /// The buffer grows up to this while large messages arrive. A message of 64 KiB fits in with its header.
    const MAX_BUFFER: usize = 65 * 1024;
    /// From this size on, a payload is worth an extra system call or a new buffer instead of a copy.
    const LARGE: usize = 16 * 1024;

    /// `leftover`: the bytes that arrived after the opening handshake, in the same read.
    pub(crate) fn new(role: Role, leftover: &[u8], buffer_size: usize, max_message_size: usize) -> Self {
        let min_size = buffer_size.max(Self::MIN_BUFFER);
        Self {
            role,
            buffer: leftover.to_vec(),
            start: 0,
            target_size: min_size,
            min_size,
            small_reads: 0,
            max_message_size,
            takes_compressed: false,
            frame: None,
            message: None,
            needs_more: false,
        }
    }

    /// Takes compressed messages as well, if that is agreed.
    #[cfg(feature = "deflate")]
    pub(crate) fn taking_compressed(self, takes_compressed: bool) -> Self {
        Self { takes_compressed, ..self }
    }

    /// Takes in more bytes, after [`next`](Self::next) has returned `None`. `read` appends bytes to the buffer that it
    /// is given, up to its capacity, and returns how many. Returns that number, and whether there was room for more.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<(usize, bool)> {
        self.needs_more = false;
        if let Some(frame) = &mut self.frame
            && let Some(PartialMessage::Binary(payload) | PartialMessage::Compressed { payload, .. }) =
                &mut self.message
            && frame.remaining >= Self::LARGE as u64
            && self.start == self.buffer.len()
        {
            // A long frame whose payload is kept as it is, with nothing before it in the buffer: read into the message.
            let from = payload.len();
            if payload.capacity() - from < Self::LARGE {
                payload.reserve_exact(room_for_rest(from, frame.remaining));
            }
            let room = payload.capacity() - from;
            let count = read(payload)?;
            let end = from + frame.remaining.min(count as u64) as usize;
            frame.unmask(&mut payload[from..end]);
            // The read may have gone past this frame. What follows belongs to the buffer.
            self.buffer.clear();
            self.start = 0;
            self.buffer.extend(payload.drain(end..));
            return Ok((count, count < room));
        }
        // Anything else: read into the buffer, after what is not decoded yet.
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve_exact(self.target_size.saturating_sub(self.buffer.len()).max(1));
        let room = self.buffer.capacity() - self.buffer.len();
        let count = read(&mut self.buffer)?;
        let had_room = count < room;
        if !had_room || self.target_size > self.min_size {
            self.adapt_size(had_room);
        }
        Ok((count, had_room))
    }

    /// Grows a full buffer, and shrinks one that was hardly used for a while.
    fn adapt_size(&mut self, had_room: bool) {
        if !had_room {
            self.target_size = (self.buffer.capacity() * 4).min(Self::MAX_BUFFER).max(self.target_size);
            self.small_reads = 0;
        } else if self.buffer.len() > self.min_size {
            self.small_reads = 0;
        } else {
            self.small_reads += 1;
            if self.small_reads == u8::MAX {
                self.target_size = self.min_size;
                self.small_reads = 0;
                self.buffer.shrink_to(self.target_size);
            }
        }
    }

    /// Frees the buffer if it is empty, until there is something to read.
    pub(crate) fn release(&mut self) {
        if self.start == self.buffer.len() {
            (self.buffer, self.start) = (Vec::new(), 0);
            (self.target_size, self.small_reads) = (self.min_size, 0);
        }
    }

    /// Bytes that have arrived and are not decoded yet.
    pub(crate) fn undecoded(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether [`next`](Self::next) returns `None` until more bytes arrive.
    pub(crate) fn needs_more(&self) -> bool {
        self.needs_more
    }

    /// Bytes that have arrived and may contain a whole frame that [`next`](Self::next) has not seen.
    pub(crate) fn unexamined(&self) -> usize {
        if self.needs_more { 0 } else { self.undecoded() }
    }

    /// Whether a message has begun and is not complete.
    pub(crate) fn is_in_message(&self) -> bool {
        self.message.is_some()
    }

    /// The next complete message or control frame, or `None` if more bytes are needed. After an error the decoder is of
    /// no further use.
    ///
    /// Not inlined: the caller loops over it, and would prepare for all of it before each loop.
    #[inline(never)]
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, CloseReason> {
        let next = self.decode();
        self.needs_more = matches!(next, Ok(None)) || self.undecoded() == 0;
        next
    }

    fn decode(&mut self) -> Result<Option<Incoming>, CloseReason> {
        loop {
            // Between frames: the next header, as soon as it is complete.
            if self.frame.is_none() {
                let Some(frame) = self.parse_header()? else { return Ok(None) };
                // As usual, the frame is a whole message and is all here.
                if let OpCode::Data(data) = frame.opcode
                    && frame.is_final
                    && self.message.is_none()
                    && frame.remaining <= self.undecoded() as u64
                {
                    let len = frame.remaining as usize;
                    if let Some(key) = frame.mask {
                        apply_mask(&mut self.buffer[self.start..self.start + len], key);
                    }
                    self.start += len;
                    return self.whole_message(data, frame.is_compressed, len);
                }
                self.frame = Some(frame);
            }
            // Any other frame. Without a result, it waits for more bytes, or is over and its message is not.
            let incoming = self.decode_part()?;
            if incoming.is_some() || self.frame.is_some() {
                return Ok(incoming);
            }
        }
    }

    /// Takes what has arrived of a frame that is a control frame, a part of its message, or not all here.
    ///
    /// Not inlined: this keeps the usual path of [`next`](Self::next) short.
    #[inline(never)]
    fn decode_part(&mut self) -> Result<Option<Incoming>, CloseReason> {
        // A control frame waits until it is whole.
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let available = (self.buffer.len() - self.start) as u64;
        if matches!(frame.opcode, OpCode::Control(_)) && available < frame.remaining {
            return Ok(None);
        }
        let taken = frame.remaining.min(available) as usize;
        let payload = &mut self.buffer[self.start..self.start + taken];
        frame.unmask(payload);
        self.start += taken;

        // A control frame is complete, and may lie between the frames of a message (RFC 6455 section 5.4).
        let data = match frame.opcode {
            OpCode::Control(control) => {
                self.frame = None;
                return control_frame(control, payload).map(Some);
            }
            OpCode::Data(data) => data,
        };

        // A whole message at once, whose header came before.
        if frame.remaining == 0
            && frame.is_final
            && data != Data::Continue
            && self.message.take_if(|message| message.len() == 0).is_some()
        {
            let is_compressed = frame.is_compressed;
            self.frame = None;
            return self.whole_message(data, is_compressed, taken);
        }

        // Any other payload: append it to the message, which its first frame begins.
        match self.message.get_or_insert_with(|| PartialMessage::new(data, frame.is_compressed)) {
            PartialMessage::Text(text) => text.push(payload, frame.remaining)?,
            PartialMessage::Binary(bytes) | PartialMessage::Compressed { payload: bytes, .. } => {
                bytes.reserve(room_for_chunk(bytes.len(), bytes.capacity(), payload.len(), frame.remaining));
                bytes.extend_from_slice(payload);
            }
        }

        // At the end of the frame: the message is complete, or its next frame follows.
        if frame.remaining > 0 {
            return Ok(None);
        }
        let is_final = frame.is_final;
        self.frame = None;
        match self.message.take_if(|_| is_final) {
            Some(PartialMessage::Text(text)) => text.finish().map(|message| Some(Incoming::Message(message))),
            Some(PartialMessage::Binary(bytes)) => Ok(Some(Incoming::Message(Message::Binary(bytes.into())))),
            Some(PartialMessage::Compressed { is_text, payload }) => {
                Ok(Some(Incoming::Compressed(Compressed { is_text, payload: payload.into() })))
            }
            None => Ok(None),
        }
    }

    /// The message whose payload is the last `len` bytes that were decoded. If they fill most of the buffer, the
    /// message takes the buffer.
    #[inline(always)]
    fn whole_message(&mut self, data: Data, is_compressed: bool, len: usize) -> Result<Option<Incoming>, CloseReason> {
        let payload = if len >= Self::LARGE && 2 * len >= self.buffer.capacity() {
            self.take_buffer(len)
        } else {
            Bytes::copy_from_slice(&self.buffer[self.start - len..self.start])
        };
        if is_compressed {
            return Ok(Some(Incoming::Compressed(Compressed { is_text: data == Data::Text, payload })));
        }
        let message = match data {
            Data::Text => Message::Text(Text::try_from(payload).map_err(|_| CloseReason::InvalidUtf8)?),
            _ => Message::Binary(payload),
        };
        Ok(Some(Incoming::Message(message)))
    }

    /// The last `len` bytes that were decoded, together with the buffer.
    fn take_buffer(&mut self, len: usize) -> Bytes {
        let rest = self.buffer[self.start..].to_vec();
        let taken = Bytes::from(std::mem::replace(&mut self.buffer, rest));
        let end = std::mem::take(&mut self.start);
        taken.slice(end - len..end)
    }

    /// Parses a header if it is complete, and checks all that can be checked before the payload arrives.
    fn parse_header(&mut self) -> Result<Option<PartialFrame>, CloseReason> {
        let parsed = Header::parse(&self.buffer[self.start..]);
        let parsed = parsed.map_err(|ReservedOpcode| CloseReason::Protocol("reserved opcode"))?;
        let Some((header, header_len)) = parsed else { return Ok(None) };
        self.start += header_len;

        let Header { is_final, reserved, opcode, mask, length } = header;
        if reserved != 0 {
            self.check_reserved(reserved, opcode)?;
        }
        match (self.role, mask) {
            (Role::Server, None) => return Err(CloseReason::Protocol("unmasked frame")),
            (Role::Client, Some(_)) => return Err(CloseReason::Protocol("masked frame")),
            _ => {}
        }
        match opcode {
            OpCode::Control(_) if !is_final => return Err(CloseReason::Protocol("fragmented control frame")),
            OpCode::Control(_) if length > 125 => return Err(CloseReason::Protocol("control frame over 125 bytes")),
            OpCode::Control(_) => {}
            OpCode::Data(data) => self.check_data(data, length, reserved != 0)?,
        }
        Ok(Some(PartialFrame { opcode, is_final, is_compressed: reserved != 0, mask, remaining: length }))
    }

    /// The first frame of a message may say that the message is compressed, if that is agreed (RFC 7692 section 6.2).
    #[cold]
    fn check_reserved(&self, reserved: u8, opcode: OpCode) -> Result<(), CloseReason> {
        match (reserved, opcode) {
            (0x40, OpCode::Data(Data::Text | Data::Binary)) if self.takes_compressed => Ok(()),
            _ => Err(CloseReason::Protocol("reserved bits")),
        }
    }

    fn check_data(&self, data: Data, length: u64, is_compressed: bool) -> Result<(), CloseReason> {
        let so_far = match (&self.message, data) {
            (None, Data::Text | Data::Binary) => 0,
            (Some(message), Data::Continue) => message.len() as u64,
            (None, _) => return Err(CloseReason::Protocol("continuation of no message")),
            (Some(_), _) => return Err(CloseReason::Protocol("new message inside a fragmented one")),
        };
        let size = so_far.saturating_add(length);
        if size > self.max_message_size as u64 {
            self.check_size_on_the_wire(size, is_compressed)?;
        }
        Ok(())
    }

    /// What cannot be compressed becomes longer by it: with zlib by 0.03 %, with little memory by up to 4 %, and by
    /// some bytes for each fragment. So a message may take a sixteenth more on the wire than it may have. How long it
    /// is by itself is seen when it is decompressed.
    #[cold]
    fn check_size_on_the_wire(&self, size: u64, is_compressed: bool) -> Result<(), CloseReason> {
        let is_compressed = is_compressed || matches!(self.message, Some(PartialMessage::Compressed { .. }));
        let limit = match is_compressed {
            true => self.max_message_size.saturating_add(self.max_message_size / 16 + 64),
            false => self.max_message_size,
        };
        if size > limit as u64 { Err(CloseReason::TooBig { size, limit }) } else { Ok(()) }
    }
}

impl PartialFrame {
    /// Unmasks the next piece of the payload.
    fn unmask(&mut self, piece: &mut [u8]) {
        if let Some(mask) = &mut self.mask {
            apply_mask(piece, *mask);
            let bits = 8 * (piece.len() as u32 % 4);
            *mask = u32::from_le_bytes(*mask).rotate_right(bits).to_le_bytes();
        }
        self.remaining -= piece.len() as u64;
    }
}

impl PartialMessage {
    /// The message that a frame of this kind begins.
    fn new(data: Data, is_compressed: bool) -> Self {
        match data {
            _ if is_compressed => Self::Compressed { is_text: data == Data::Text, payload: Vec::new() },
            Data::Text => Self::Text(PartialText::default()),
            _ => Self::Binary(Vec::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.complete.len() + text.carried_len,
            Self::Binary(bytes) | Self::Compressed { payload: bytes, .. } => bytes.len(),
        }
    }
}

/// Text that is checked as it arrives. A character that the end of a chunk cuts is carried to the next chunk.
#[derive(Debug, Default)]
struct PartialText {
    complete: String,
    carried: [u8; 4],
    carried_len: usize,
}

impl PartialText {
    /// Appends a chunk. `remaining`: how much of the frame is still to come.
    fn push(&mut self, mut chunk: &[u8], remaining: u64) -> Result<(), CloseReason> {
        // Complete the character that the last chunk has cut.
        while self.carried_len > 0 && !chunk.is_empty() {
            self.carried[self.carried_len] = chunk[0];
            self.carried_len += 1;
            chunk = &chunk[1..];
            match std::str::from_utf8(&self.carried[..self.carried_len]) {
                Ok(character) => {
                    self.complete.push_str(character);
                    self.carried_len = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(CloseReason::InvalidUtf8),
            }
        }
        // Split off a character that this chunk cuts.
        let (text, cut) = match std::str::from_utf8(chunk) {
            Ok(text) => (text, &[][..]),
            Err(error) if error.error_len().is_none() => {
                let (valid, cut) = chunk.split_at(error.valid_up_to());
                (std::str::from_utf8(valid).map_err(|_| CloseReason::InvalidUtf8)?, cut)
            }
            Err(_) => return Err(CloseReason::InvalidUtf8),
        };
        self.complete.reserve(room_for_chunk(self.complete.len(), self.complete.capacity(), text.len(), remaining));
        self.complete.push_str(text);
        if !cut.is_empty() {
            self.carried[..cut.len()].copy_from_slice(cut);
            self.carried_len = cut.len();
        }
        Ok(())
    }

    fn finish(self) -> Result<Message, CloseReason> {
        if self.carried_len > 0 { Err(CloseReason::InvalidUtf8) } else { Ok(Message::Text(Text::from(self.complete))) }
    }
}

fn control_frame(control: Control, payload: &[u8]) -> Result<Incoming, CloseReason> {
    Ok(match control {
        Control::Ping => Incoming::Ping(Bytes::copy_from_slice(payload)),
        Control::Pong => Incoming::Pong(Bytes::copy_from_slice(payload)),
        Control::Close => match payload {
            [] => Incoming::Close(None, String::new()),
            [_] => return Err(CloseReason::Protocol("close code cut short")),
            [high, low, reason @ ..] => {
                let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
                if !code.is_sendable() {
                    return Err(CloseReason::Protocol("invalid close code"));
                }
                let reason = std::str::from_utf8(reason).map_err(|_| CloseReason::InvalidUtf8)?;
                Incoming::Close(Some(code), reason.to_owned())
            }
        },
        Control::Reserved(_) => return Err(CloseReason::Protocol("reserved opcode")),
    })
}

/// How much to reserve for a chunk and for the rest of its frame.
fn room_for_chunk(len: usize, capacity: usize, chunk: usize, remaining: u64) -> usize {
    if capacity - len >= chunk { 0 } else { chunk + room_for_rest(len + chunk, remaining) }
}

/// How much to reserve for the rest of a frame. Never more than doubles what is here, so a header alone costs no memory
/// and a long message is copied only a few times.
fn room_for_rest(len: usize, remaining: u64) -> usize {
    usize::try_from(remaining).unwrap_or(usize::MAX).min(len.max(Decoder::MAX_BUFFER))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

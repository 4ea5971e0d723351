//! From bytes to messages: the receiving half of RFC 6455, without I/O.
//!
//! Bytes go in by [`Decoder::fill`], messages come out of [`Decoder::next`]. A payload is taken out of the buffer as it
//! arrives, whole frame or not, so the buffer stays small however large a message is, memory follows what was really
//! received rather than what a header announced, and text that is not UTF-8 is refused at its first bad byte.
//!
//! Large payloads are not copied: the rest of a long binary frame is read to where it belongs, and a message that takes
//! up most of the buffer takes the buffer with it, so that it may hold twice its length of memory. While nothing comes in
//! there need be no buffer at all.
//!
//! tungstenite's own reader is not used because it hands out nothing until a message is complete, which is too late for a
//! deadline, for a limit on memory and for the UTF-8 check. It is what the tests compare with.

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
    Ping(Bytes),
    Pong(Bytes),
    Close(Option<CloseCode>, String),
}

/// Decodes what one peer sends.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Which end we are.
    role: Role,
    /// What has arrived; from `start` on it is not decoded yet.
    buffer: Vec<u8>,
    start: usize,
    /// The capacity that the buffer has, or will have when there is something to read.
    size: usize,
    smallest: usize,
    /// Reads in a row that left most of a grown buffer unused.
    small_reads: u8,
    max_message_size: usize,
    frame: Option<PartialFrame>,
    message: Option<PartialMessage>,
    /// Whether all that has arrived was looked at, so that more is needed for anything to come out.
    is_exhausted: bool,
}

/// A frame whose header is known and whose payload is still arriving.
#[derive(Debug)]
struct PartialFrame {
    opcode: OpCode,
    is_final: bool,
    /// The key, turned to where the payload goes on.
    mask: Option<[u8; 4]>,
    remaining: u64,
}

#[derive(Debug)]
enum PartialMessage {
    Text(PartialText),
    Binary(Vec<u8>),
}

impl Decoder {
    /// A control frame must fit in the buffer (14 + 125 bytes), whatever the settings say.
    pub(crate) const MIN_BUFFER: usize = 256;
    /// The buffer grows up to this while large messages arrive: one of 64 KiB fits in with its header.
    const MAX_BUFFER: usize = 65 * 1024;
    /// What is worth a system call, or a new buffer, to save its copying.
    const LARGE: usize = 16 * 1024;

    /// `head` is what was received already, behind the opening handshake.
    pub(crate) fn new(role: Role, head: &[u8], buffer_size: usize, max_message_size: usize) -> Self {
        let smallest = buffer_size.max(Self::MIN_BUFFER);
        Self {
            role,
            buffer: head.to_vec(),
            start: 0,
            size: smallest,
            smallest,
            small_reads: 0,
            max_message_size,
            frame: None,
            message: None,
            is_exhausted: false,
        }
    }

    /// Takes more bytes in, when [`next`](Self::next) has returned `None`: `read` appends some to what it is given, up to
    /// its capacity, and says how many. Returns that, and whether there was room for more.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<(usize, bool)> {
        self.is_exhausted = false;
        if let (Some(frame), Some(PartialMessage::Binary(payload))) = (&mut self.frame, &mut self.message)
            && frame.remaining >= Self::LARGE as u64
            && self.start == self.buffer.len()
        {
            let from = payload.len();
            if payload.capacity() - from < Self::LARGE {
                payload.reserve_exact(foreseen(from, frame.remaining));
            }
            let room = payload.capacity() - from;
            let count = read(payload)?;
            let end = from + frame.remaining.min(count as u64) as usize;
            frame.unmask(&mut payload[from..end]);
            // There may have been room for more than this frame.
            self.buffer.clear();
            self.start = 0;
            self.buffer.extend(payload.drain(end..));
            return Ok((count, count < room));
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve_exact(self.size.saturating_sub(self.buffer.len()).max(1));
        let room = self.buffer.capacity() - self.buffer.len();
        let count = read(&mut self.buffer)?;
        self.follow_the_work(count < room);
        Ok((count, count < room))
    }

    /// A full buffer grows, and one that was hardly used for a while shrinks.
    fn follow_the_work(&mut self, had_room: bool) {
        if !had_room {
            self.size = (self.buffer.capacity() * 4).min(Self::MAX_BUFFER).max(self.size);
            self.small_reads = 0;
        } else if self.buffer.len() > self.smallest {
            self.small_reads = 0;
        } else if self.size > self.smallest {
            self.small_reads += 1;
            if self.small_reads == u8::MAX {
                self.size = self.smallest;
                self.small_reads = 0;
                self.buffer.shrink_to(self.size);
            }
        }
    }

    /// Gives the buffer back, if nothing is in it, until there is something to read.
    pub(crate) fn release(&mut self) {
        if self.start == self.buffer.len() {
            (self.buffer, self.start) = (Vec::new(), 0);
            (self.size, self.small_reads) = (self.smallest, 0);
        }
    }

    /// Bytes that have arrived and were not decoded yet.
    pub(crate) fn undecoded(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes that have arrived and among which there may be a whole frame that nobody has seen.
    pub(crate) fn unexamined(&self) -> usize {
        if self.is_exhausted { 0 } else { self.undecoded() }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_in_message(&self) -> bool {
        self.message.is_some()
    }

    /// The next thing that is complete, or `None` if more bytes are needed. After an error there is nothing more to be
    /// had from this decoder.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, CloseReason> {
        let next = self.decode();
        self.is_exhausted = matches!(next, Ok(None));
        next
    }

    fn decode(&mut self) -> Result<Option<Incoming>, CloseReason> {
        loop {
            if self.frame.is_none() && !self.parse_header()? {
                return Ok(None);
            }
            let Some(frame) = &mut self.frame else { return Ok(None) };
            let capacity = self.buffer.capacity();
            let available = (self.buffer.len() - self.start) as u64;
            if matches!(frame.opcode, OpCode::Control(_)) && available < frame.remaining {
                return Ok(None);
            }
            let taken = frame.remaining.min(available) as usize;
            let payload = &mut self.buffer[self.start..self.start + taken];
            frame.unmask(payload);
            self.start += taken;

            if let OpCode::Control(control) = frame.opcode {
                let incoming = control_frame(control, payload)?;
                self.frame = None;
                return Ok(Some(incoming));
            }
            if taken >= Self::LARGE
                && 2 * taken >= capacity
                && frame.remaining == 0
                && frame.is_final
                && let Some(message) = self.message.take_if(|message| message.len() == 0)
            {
                self.frame = None;
                return Ok(Some(Incoming::Message(message.all_of(self.take_buffer(taken))?)));
            }
            match &mut self.message {
                Some(PartialMessage::Text(text)) => text.push(payload, frame.remaining)?,
                Some(PartialMessage::Binary(bytes)) => {
                    bytes.reserve(room(bytes.len(), bytes.capacity(), payload.len(), frame.remaining));
                    bytes.extend_from_slice(payload);
                }
                // parse_header begins a message with its first frame and refuses a continuation of none.
                None => return Err(CloseReason::Protocol("continuation of no message")),
            }
            if frame.remaining > 0 {
                return Ok(None);
            }
            let is_final = frame.is_final;
            self.frame = None;
            if is_final {
                return match self.message.take() {
                    Some(PartialMessage::Text(text)) => Ok(Some(Incoming::Message(text.finish()?))),
                    Some(PartialMessage::Binary(bytes)) => Ok(Some(Incoming::Message(Message::Binary(bytes.into())))),
                    None => Ok(None),
                };
            }
        }
    }

    /// The last so many bytes that were decoded, and the buffer with them.
    fn take_buffer(&mut self, len: usize) -> Bytes {
        let rest = self.buffer[self.start..].to_vec();
        let taken = Bytes::from(std::mem::replace(&mut self.buffer, rest));
        let end = std::mem::take(&mut self.start);
        taken.slice(end - len..end)
    }

    /// Reads a header if it is complete, and checks all that can be checked before the payload is here.
    fn parse_header(&mut self) -> Result<bool, CloseReason> {
        let parsed = Header::parse(&self.buffer[self.start..]);
        let parsed = parsed.map_err(|ReservedOpcode| CloseReason::Protocol("reserved opcode"))?;
        let Some((header, header_len)) = parsed else { return Ok(false) };
        self.start += header_len;

        let length = header.length;
        if header.has_reserved {
            return Err(CloseReason::Protocol("reserved bits"));
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(CloseReason::Protocol("unmasked frame")),
            (Role::Client, Some(_)) => return Err(CloseReason::Protocol("masked frame")),
            _ => {}
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final => return Err(CloseReason::Protocol("fragmented control frame")),
            OpCode::Control(_) if length > 125 => return Err(CloseReason::Protocol("control frame over 125 bytes")),
            OpCode::Control(_) => {}
            OpCode::Data(data) => self.begin_data(data, length)?,
        }
        self.frame = Some(PartialFrame {
            opcode: header.opcode,
            is_final: header.is_final,
            mask: header.mask,
            remaining: length,
        });
        Ok(true)
    }

    fn begin_data(&mut self, data: Data, length: u64) -> Result<(), CloseReason> {
        let so_far = match (&self.message, data) {
            (None, Data::Text) => {
                self.message = Some(PartialMessage::Text(PartialText::default()));
                0
            }
            (None, Data::Binary) => {
                self.message = Some(PartialMessage::Binary(Vec::new()));
                0
            }
            (Some(message), Data::Continue) => message.len() as u64,
            (None, _) => return Err(CloseReason::Protocol("continuation of no message")),
            (Some(_), _) => return Err(CloseReason::Protocol("new message inside a fragmented one")),
        };
        let size = so_far.saturating_add(length);
        if size > self.max_message_size as u64 {
            return Err(CloseReason::TooBig { size, limit: self.max_message_size });
        }
        Ok(())
    }
}

impl PartialFrame {
    /// Takes the next piece of the payload.
    fn unmask(&mut self, piece: &mut [u8]) {
        if let Some(mask) = &mut self.mask {
            apply_mask(piece, *mask);
            mask.rotate_left(piece.len() % 4);
        }
        self.remaining -= piece.len() as u64;
    }
}

impl PartialMessage {
    /// The message of this kind, when all of it is here at once.
    fn all_of(&self, payload: Bytes) -> Result<Message, CloseReason> {
        Ok(match self {
            Self::Text(_) => Message::Text(Text::try_from(payload).map_err(|_| CloseReason::InvalidUtf8)?),
            Self::Binary(_) => Message::Binary(payload),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.complete.len() + text.carried_len,
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Text, checked as it arrives. A character that is cut by the end of a chunk is carried to the next.
#[derive(Debug, Default)]
struct PartialText {
    complete: String,
    carried: [u8; 4],
    carried_len: usize,
}

impl PartialText {
    /// Adds a chunk; `remaining` is what the frame still has to come.
    fn push(&mut self, mut chunk: &[u8], remaining: u64) -> Result<(), CloseReason> {
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
        let (text, cut) = match std::str::from_utf8(chunk) {
            Ok(text) => (text, &[][..]),
            Err(error) if error.error_len().is_none() => {
                let (valid, cut) = chunk.split_at(error.valid_up_to());
                (std::str::from_utf8(valid).map_err(|_| CloseReason::InvalidUtf8)?, cut)
            }
            Err(_) => return Err(CloseReason::InvalidUtf8),
        };
        self.complete.reserve(room(self.complete.len(), self.complete.capacity(), text.len(), remaining));
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

/// How much to reserve for a chunk, and for what its frame still brings.
fn room(len: usize, capacity: usize, chunk: usize, remaining: u64) -> usize {
    if capacity - len >= chunk { 0 } else { chunk + foreseen(len + chunk, remaining) }
}

/// Room for what a frame still brings, but no more than doubles what is here, so that a header alone never costs memory
/// and a long message is copied a few times at most.
fn foreseen(len: usize, remaining: u64) -> usize {
    usize::try_from(remaining).unwrap_or(usize::MAX).min(len.max(Decoder::MAX_BUFFER))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

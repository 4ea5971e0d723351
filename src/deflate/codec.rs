//! One message into DEFLATE, and one out of it (RFC 7692 section 7.2).
//!
//! Both forget what came before only when they are told to, so that they serve connections with and without context
//! takeover.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What ends a flushed stream, and is left out on the wire (RFC 7692 section 7.2.1).
const FLUSH: [u8; 4] = [0, 0, 0xff, 0xff];
/// The same, and a last block that is empty. The stream ends with it if, and only if, the message before it ends where
/// a block does.
const LAST: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// The same for a stream that has to go on: many empty blocks. If the message was cut off, they are the rest of
/// something else, and then not valid, or something comes out of them. A few would not do, for they may also be lengths
/// of codes, of which a block can have 560 bytes: of 564,027 messages that were cut off in or after these, one was
/// taken for whole, and 19,129 with one empty block.
const EMPTY: [u8; FLUSH.len() + 5 * 32] = {
    let mut blocks = [0; FLUSH.len() + 5 * 32];
    let mut at = 0;
    while at < blocks.len() {
        // Each has a byte that says what it is, and the length 0 twice; the first byte is in the message.
        blocks[at] = if matches!((at + 1) % 5, 3 | 4) { 0xff } else { 0 };
        at += 1;
    }
    blocks
};
/// How many blocks of one message may say that they are the last. One is what the RFC knows of (section 7.2.3.4); each
/// costs a copy of the window, and takes two bytes on the wire.
const MOST_LAST_BLOCKS: usize = 16;
/// How far back DEFLATE can refer.
const LARGEST_WINDOW: usize = 32 * 1024;

/// Compresses messages.
#[derive(Debug)]
pub(crate) struct Compressor {
    inner: Compress,
    window_bits: u8,
}

impl Compressor {
    /// `window_bits`: 8 to 15. zlib has no window of 8 bits, but at 9 it never looks back further than 250 bytes: 512,
    /// less 262 that it needs ahead.
    pub(crate) fn new(level: u8, window_bits: u8) -> Self {
        let inner = Compress::new_with_window_bits(Compression::new(level.into()), false, window_bits.max(9));
        Self { inner, window_bits }
    }

    pub(crate) fn window_bits(&self) -> u8 {
        self.window_bits
    }

    /// Forgets all messages so far.
    pub(crate) fn forget(&mut self) {
        self.inner.reset();
    }

    /// The payload of a compressed message. `None` if zlib fails, which it has no reason to.
    pub(crate) fn compress(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if message.is_empty() {
            // What a flush writes only if something came since the last one (RFC 7692 section 7.2.3.6).
            return Some(vec![0]);
        }
        let mut compressed = Vec::with_capacity(message.len() / 4 + 64);
        let begin = self.inner.total_in();
        loop {
            let taken = (self.inner.total_in() - begin) as usize;
            self.inner.compress_vec(&message[taken..], &mut compressed, FlushCompress::Sync).ok()?;
            let is_all_taken = (self.inner.total_in() - begin) as usize == message.len();
            // Only with room left is it certain that nothing more comes.
            if is_all_taken && compressed.len() < compressed.capacity() {
                break;
            }
            compressed.reserve(compressed.len().max(64));
        }
        let len = compressed.strip_suffix(&FLUSH)?.len();
        compressed.truncate(len);
        // It may wait in a queue, which counts what it holds.
        if compressed.capacity() > 2 * len {
            compressed.shrink_to_fit();
        }
        Some(compressed)
    }
}

/// Why a message cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// It is not what DEFLATE allows, ends in the middle of it, or refers to what was not sent.
    Invalid,
    /// It would be longer than the limit.
    TooBig,
}

/// Decompresses messages.
#[derive(Debug)]
pub(crate) struct Inflater {
    inner: Decompress,
}

impl Inflater {
    pub(crate) fn new(window_bits: u8) -> Self {
        Self { inner: Decompress::new_with_window_bits(false, window_bits.max(9)) }
    }

    /// Forgets all messages so far.
    pub(crate) fn forget(&mut self) {
        self.inner.reset(false);
    }

    /// The message of a payload that was compressed by itself. It never takes more memory than one byte beyond the
    /// limit.
    pub(crate) fn inflate_alone(&mut self, payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        self.forget();
        let mut message = Vec::new();
        if self.take(payload, &mut message, limit)? || self.take_empty(&LAST)? == Status::StreamEnd {
            return Ok(message);
        }
        Err(InflateError::Invalid)
    }

    /// The message of a payload that may refer to those before it. As for memory, see
    /// [`inflate_alone`](Self::inflate_alone).
    pub(crate) fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        let mut message = Vec::new();
        if !self.take(payload, &mut message, limit)? {
            self.take_empty(&EMPTY)?;
        }
        Ok(message)
    }

    /// Decompresses blocks that are empty: nothing may come out.
    fn take_empty(&mut self, blocks: &[u8]) -> Result<Status, InflateError> {
        let (taken, made) = (self.inner.total_in(), self.inner.total_out());
        let status = self.inner.decompress(blocks, &mut [0], FlushDecompress::None);
        let status = status.map_err(|_| InflateError::Invalid)?;
        let is_all = self.inner.total_in() - taken == blocks.len() as u64;
        if is_all && self.inner.total_out() == made { Ok(status) } else { Err(InflateError::Invalid) }
    }

    /// Decompresses a payload. Returns whether a block that says to be the last ends with it.
    fn take(&mut self, mut part: &[u8], message: &mut Vec<u8>, limit: usize) -> Result<bool, InflateError> {
        let mut last_blocks = 0;
        loop {
            if message.len() == message.capacity() {
                let room = message.len().max(4 * part.len()).max(128);
                message.reserve_exact(room.min(limit.saturating_add(1) - message.len()));
            }
            let (before, len) = (self.inner.total_in(), message.len());
            let status = self.inner.decompress_vec(part, message, FlushDecompress::None);
            let is_last = status.map_err(|_| InflateError::Invalid)? == Status::StreamEnd;
            let taken = (self.inner.total_in() - before) as usize;
            part = &part[taken..];
            if message.len() > limit {
                return Err(InflateError::TooBig);
            }
            if is_last {
                last_blocks += 1;
                if last_blocks > MOST_LAST_BLOCKS {
                    return Err(InflateError::Invalid);
                }
                // Another stream may follow (RFC 7692 section 7.2.3.4), and may refer to this one.
                self.inner.reset(false);
                let window = &message[message.len().saturating_sub(LARGEST_WINDOW)..];
                if !window.is_empty() {
                    self.inner.set_dictionary(window).map_err(|_| InflateError::Invalid)?;
                }
            }
            // Only with room left is it certain that nothing more comes out.
            let has_room = message.len() < message.capacity();
            if part.is_empty() && (has_room || is_last) {
                // Whoever keeps the message keeps its capacity.
                if message.capacity() > 2 * message.len() {
                    message.shrink_to_fit();
                }
                return Ok(is_last);
            }
            if has_room && taken == 0 && message.len() == len && !is_last {
                return Err(InflateError::Invalid);
            }
        }
    }
}

#[cfg(test)]
mod tests;

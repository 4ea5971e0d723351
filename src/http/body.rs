//! The body of a request: where it ends, and what is in it (RFC 9112 sections 6 and 7).
//!
//! Whoever reads a request differently from a proxy in front of it takes a part of one client's body for the request of
//! another (request smuggling). So nothing is guessed here. A request whose body may end in two places, or whose
//! chunked coding is not exactly that of the grammar, is refused, and nothing that follows it is read.
//!
//! Invariants: a decoder gives out no more than its limit, keeps no bytes of its own, and takes none that follow the
//! body.

use crate::http::head::is_token_byte;
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};

/// How much of a chunked body may be neither data nor the size of a chunk: extensions and trailer fields.
const MAX_EXTRAS: usize = 4 * 1024;

/// The most digits in the size of a chunk: more than any size that is accepted needs.
const MAX_DIGITS: u8 = 16;

/// Where the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes (`Content-Length`). None, if the request has no body.
    Length(u64),
    /// Where it says so itself (`Transfer-Encoding: chunked`).
    Chunked,
}

impl Framing {
    /// How the body of this request is framed.
    ///
    /// # Errors
    /// 400 for anything that another recipient might read differently.
    pub(crate) fn of(request: &Request) -> Result<Self, Box<Refusal>> {
        let head = request.head();
        let mut codings = head.values("Transfer-Encoding");
        let mut lengths = head.values("Content-Length");
        let framing = match (codings.next(), lengths.next()) {
            (None, None) => return Ok(Self::Length(0)),
            (Some(_), Some(_)) => return Err(Refusal::bad_request("both Transfer-Encoding and Content-Length")),
            (Some(coding), None) => {
                if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::bad_request("Transfer-Encoding other than chunked"));
                }
                // Such a request was forwarded by somebody who does not know the coding (section 6.1).
                if !request.is_http_1_1() {
                    return Err(Refusal::bad_request("Transfer-Encoding in HTTP/1.0"));
                }
                Self::Chunked
            }
            (None, Some(length)) => {
                if lengths.next().is_some() {
                    return Err(Refusal::bad_request("more than one Content-Length"));
                }
                Self::Length(length_of(length).ok_or_else(|| Refusal::bad_request("invalid Content-Length"))?)
            }
        };
        // Others may have taken it for a part of a header's value, and have seen another header.
        if head.has_bare_lf() {
            return Err(Refusal::bad_request("a body after lines that end without CR"));
        }
        Ok(framing)
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::Length(0)
    }
}

/// Digits and nothing else. What is too large to count is too large for any limit.
fn length_of(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let add = |length: u64, digit: &u8| length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    is_number.then(|| value.iter().fold(0, add))
}

/// Why a body is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is larger than the limit.
    TooLarge,
    /// Its chunked coding is not valid, or has too much beside the content.
    NotChunked,
}

impl From<BodyError> for Box<Refusal> {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => {
                let response = Response::new(413).text("the request body is too large\n");
                Refusal::new(response, "request body too large (max_request_body)")
            }
            BodyError::NotChunked => Refusal::bad_request("invalid chunked body"),
        }
    }
}

/// A body that is arriving.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// How many more bytes of content there may be.
    room: u64,
    /// How many more bytes of extensions and trailer fields.
    extras: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of a body with a length.
    Content(u64),
    /// The size of a chunk, of which so many digits have come.
    Size {
        size: u64,
        digits: u8,
    },
    /// The rest of an extension.
    Extension {
        size: u64,
    },
    /// LF after the size of a chunk.
    SizeLf {
        size: u64,
    },
    /// So many bytes of a chunk.
    Chunk(u64),
    /// CR after a chunk.
    ChunkCr,
    /// LF after that.
    ChunkLf,
    /// A trailer field, or the empty line that ends the body.
    Trailer,
    /// The rest of a trailer field's name.
    TrailerName,
    /// The rest of its value.
    TrailerValue,
    /// LF after that.
    TrailerLf,
    /// LF of the empty line.
    LastLf,
    Complete,
}

impl Decoder {
    /// Of a body with no more than `limit` bytes of content.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] if its length is known to be more.
    pub(crate) fn new(framing: Framing, limit: usize) -> Result<Self, BodyError> {
        let room = limit as u64;
        let state = match framing {
            Framing::Length(0) => State::Complete,
            Framing::Length(length) if length > room => return Err(BodyError::TooLarge),
            Framing::Length(length) => State::Content(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        Ok(Self { state, room, extras: MAX_EXTRAS })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Takes in bytes that have arrived, up to the end of the body, and appends its content to `body`. Returns how many
    /// it has taken: all, unless the body is complete.
    ///
    /// # Errors
    /// What is wrong with the body. Then it must not be called again.
    pub(crate) fn decode(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, BodyError> {
        let mut taken = 0;
        while !self.is_complete() && taken < bytes.len() {
            match self.state {
                State::Content(left) | State::Chunk(left) => {
                    let rest = &bytes[taken..];
                    let count = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&rest[..count]);
                    taken += count;
                    let left = left - count as u64;
                    self.state = match self.state {
                        State::Content(_) if left == 0 => State::Complete,
                        State::Content(_) => State::Content(left),
                        _ if left == 0 => State::ChunkCr,
                        _ => State::Chunk(left),
                    };
                }
                _ => {
                    self.state = self.after(bytes[taken])?;
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    /// The state after one byte of what surrounds chunks.
    fn after(&mut self, byte: u8) -> Result<State, BodyError> {
        let state = match (self.state, byte) {
            (State::Size { digits: 1.., size }, b'\r') => State::SizeLf { size },
            (State::Size { digits: 1.., size }, b';') => State::Extension { size },
            (State::Size { size, digits: digits @ 0..MAX_DIGITS }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError::NotChunked)?;
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, _) if is_visible(byte) => self.count_extra(State::Extension { size })?,
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => {
                self.room = self.room.checked_sub(size).ok_or(BodyError::TooLarge)?;
                State::Chunk(size)
            }
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::Trailer, b'\r') => State::LastLf,
            (State::Trailer | State::TrailerName, _) if is_token_byte(byte) => self.count_extra(State::TrailerName)?,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_visible(byte) => self.count_extra(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Complete,
            _ => return Err(BodyError::NotChunked),
        };
        Ok(state)
    }

    /// What nobody reads is skipped, but not without end.
    fn count_extra(&mut self, state: State) -> Result<State, BodyError> {
        self.extras = self.extras.checked_sub(1).ok_or(BodyError::NotChunked)?;
        Ok(state)
    }
}

/// Whether a byte may be in an extension or in a trailer field: no control character but the tabulator.
fn is_visible(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests;

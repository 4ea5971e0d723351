//! The head of an HTTP/1.1 message: it arrives piece by piece, under one set of limits, and is searched for headers.
//!
//! Both ends use it: the server for requests, the client for responses. There is no I/O here. [`HeadBuffer`] takes the
//! bytes that have arrived, and says whether the head is complete, incomplete or not acceptable.
//!
//! Invariants: a buffer never holds more than [`MAX_HEAD`] bytes, and the work is proportional to the bytes that
//! arrived, however small the pieces.

use std::ops::Range;

/// The longest head, in bytes. Interim responses before it count too.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// The most header lines in a head.
pub(crate) const MAX_HEADERS: usize = 100;

/// Why a head is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// It does not end within [`MAX_HEAD`] bytes.
    TooLarge,
    /// More than [`MAX_HEADERS`] lines.
    TooManyHeaders,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    UnsupportedVersion,
    /// Not HTTP.
    NotHttp,
}

impl HeadError {
    pub(super) fn of(error: httparse::Error) -> Self {
        match error {
            httparse::Error::Version => Self::UnsupportedVersion,
            httparse::Error::TooManyHeaders => Self::TooManyHeaders,
            _ => Self::NotHttp,
        }
    }
}

/// What a parser finds at the beginning of some bytes.
#[derive(Debug)]
pub(crate) enum Parsed<T> {
    /// The head has not ended yet.
    Incomplete,
    /// An interim response of this length, which another head follows.
    Interim(usize),
    /// A head of this length.
    Complete(T, usize),
}

/// A head that is arriving.
#[derive(Debug)]
pub(crate) struct HeadBuffer {
    /// Initialised throughout; `len` bytes have arrived.
    bytes: Vec<u8>,
    len: usize,
    /// Where the head begins: after empty lines and interim responses.
    start: usize,
    /// At this many bytes the head is parsed even without an empty line.
    parse_at: usize,
}

impl HeadBuffer {
    pub(crate) fn new() -> Self {
        Self::with(Vec::new()).0
    }

    /// A buffer into whose [`space`](Self::space) these bytes have been put. Also says how many they are, for
    /// [`filled`](Self::filled) to take in.
    pub(crate) fn with(mut arrived: Vec<u8>) -> (Self, usize) {
        let count = arrived.len();
        // More than the 1,032 bytes up to which glibc keeps freed memory for the thread that freed it, even if it
        // idles.
        arrived.resize((count + 1).max(2048), 0);
        (Self { bytes: arrived, len: 0, start: 0, parse_at: 0 }, count)
    }

    /// Whether nothing has arrived yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the next bytes go. Never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Takes in the first `count` bytes of [`space`](Self::space). Once the head is complete, returns the result of
    /// `parse` and the bytes after the head.
    pub(crate) fn filled<T>(
        &mut self,
        count: usize,
        parse: impl Fn(&[u8]) -> Result<Parsed<T>, HeadError>,
    ) -> Result<Option<(T, Vec<u8>)>, HeadError> {
        // An empty line may have begun with the two bytes before.
        let unsearched = self.len.saturating_sub(2);
        self.len += count;
        while self.is_due(unsearched) {
            match parse(&self.bytes[self.start..self.len])? {
                Parsed::Complete(head, len) => {
                    let tail = self.bytes[self.start + len..self.len].to_vec();
                    return Ok(Some((head, tail)));
                }
                Parsed::Interim(len) => {
                    self.start += len;
                    self.parse_at = 0;
                }
                Parsed::Incomplete => {
                    self.parse_at = 2 * (self.len - self.start);
                    break;
                }
            }
        }
        if self.len >= MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        if self.len == self.bytes.len() {
            self.bytes.resize((2 * self.len).min(MAX_HEAD), 0);
        }
        Ok(None)
    }

    /// Whether to parse now: when a line may have been the last. Also with the first bytes and each time that their
    /// number has doubled, to refuse early what is not HTTP.
    fn is_due(&mut self, unsearched: usize) -> bool {
        self.skip_empty_lines();
        let head = &self.bytes[self.start..self.len];
        let unsearched = &self.bytes[unsearched.max(self.start)..self.len];
        !head.is_empty() && (head.len() >= self.parse_at || has_empty_line(unsearched))
    }

    /// Empty lines before the start line are to be ignored (RFC 9112 section 2.2).
    fn skip_empty_lines(&mut self) {
        loop {
            match &self.bytes[self.start..self.len] {
                [b'\n', ..] => self.start += 1,
                [b'\r', b'\n', ..] => self.start += 2,
                _ => return,
            }
        }
    }
}

/// Whether a line end is followed by an empty line. A bare LF may end a line (RFC 9112 section 2.2).
fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|triple| triple == b"\n\r\n")
}

/// A complete head: the bytes as they came, and where its headers are.
#[derive(Clone)]
pub(crate) struct Head {
    bytes: Box<[u8]>,
    headers: Box<[(Span, Span)]>,
}

/// A place in the head. 32 bits are enough: the head's size is limited.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` is in `whole`. It must be a slice of it.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }
}

impl Head {
    /// `headers` are slices of `bytes`.
    pub(crate) fn new(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Self {
        let spans =
            |header: &httparse::Header<'_>| (Span::of(header.name.as_bytes(), bytes), Span::of(header.value, bytes));
        Self { bytes: bytes.into(), headers: headers.iter().map(spans).collect() }
    }

    /// All headers in order, with their values as sent.
    pub(crate) fn headers(&self) -> impl DoubleEndedIterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (self.text(*name), self.bytes(*value)))
    }

    /// The values of all lines with this name, whatever its case.
    pub(crate) fn values<'a>(&'a self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let is_named = move |other: Span| self.bytes(other).eq_ignore_ascii_case(name.as_bytes());
        self.headers.iter().filter(move |(other, _)| is_named(*other)).map(|(_, value)| self.bytes(*value))
    }

    /// The items of a header that holds a list, over all lines with this name (RFC 9110 section 5.6.1).
    pub(crate) fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let items = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
    }

    /// Whether a header that holds a list of tokens has this one, whatever its case.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether a line ends with LF alone. That is allowed (RFC 9112 section 2.2), but other recipients may see one line
    /// where we see two.
    pub(crate) fn has_bare_lf(&self) -> bool {
        self.bytes.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        &self.bytes[Range { start: span.start as usize, end: span.end as usize }]
    }

    /// A method, a target or a name: there the parser accepts only ASCII, or checked UTF-8.
    pub(crate) fn text(&self, span: Span) -> &str {
        str_of(self.bytes(span)).unwrap_or_default()
    }
}

pub(crate) fn str_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Room for the headers of one head. On the heap, because stack pages that a thread once used stay resident while it
/// lives.
pub(super) fn header_slots<'a>() -> Vec<httparse::Header<'a>> {
    vec![httparse::EMPTY_HEADER; MAX_HEADERS]
}

/// Appends a header line. Refuses anything that could end the line and forge another.
pub(super) fn push_header(bytes: &mut Vec<u8>, name: &str, value: &str) -> Result<(), &'static str> {
    if !is_token(name) {
        return Err("invalid header name");
    }
    if !is_value(value) {
        return Err("invalid header value");
    }
    for part in [name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

/// Whether this is a token (RFC 9110 section 5.6.2), such as the name of a header or a subprotocol. `HeaderName` knows
/// this too, but it brings the names of all standard headers: 16 KiB of a small program.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether this may be the value of a header (RFC 9110 section 5.5): no control character but the
/// tabulator. `HeaderValue` knows this too, but it makes a copy.
pub(super) fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::http::response::ResponseHead;

    #[test]
    fn is_token_agrees_with_the_http_crate() {
        use tungstenite::http::HeaderName;
        assert!(!is_token(""));
        for code in 0..=255u8 {
            for text in [char::from(code).to_string(), format!("x{}y", char::from(code))] {
                assert_eq!(is_token(&text), HeaderName::from_bytes(text.as_bytes()).is_ok(), "{text:?}");
            }
        }
    }

    #[test]
    fn is_value_agrees_with_the_http_crate() {
        use tungstenite::http::HeaderValue;
        for code in 0..=255u8 {
            let text = format!("x{}y", char::from(code));
            assert_eq!(is_value(&text), HeaderValue::from_str(&text).is_ok(), "{text:?}");
        }
    }

    /// What comes of a response that arrives byte by byte: its status. `parsed` counts the bytes that the parser was
    /// given.
    fn read_bytewise(bytes: &[u8], parsed: &Cell<usize>) -> Result<Option<u16>, HeadError> {
        let mut buffer = HeadBuffer::new();
        for byte in bytes {
            buffer.space()[0] = *byte;
            let complete = buffer.filled(1, |head| {
                parsed.set(parsed.get() + head.len());
                ResponseHead::parse(head)
            })?;
            if let Some((response, tail)) = complete {
                assert_eq!(tail, b"");
                return Ok(Some(response.status));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_work_is_in_proportion_to_the_bytes_however_they_trickle() {
        for (what, bytes) in [
            ("one long line", [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; MAX_HEAD]].concat()),
            ("short lines", [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\n".repeat(99), &[b'x'; MAX_HEAD]].concat()),
            ("empty lines", b"\r\n\n".repeat(MAX_HEAD)),
            ("interim responses", b"HTTP/1.1 103\r\n\r\n".repeat(MAX_HEAD)),
        ] {
            let parsed = Cell::new(0);
            assert_eq!(read_bytewise(&bytes, &parsed), Err(HeadError::TooLarge), "{what}");
            assert!(parsed.get() <= 5 * MAX_HEAD, "{what}: {} bytes were parsed", parsed.get());
        }
    }

    #[test]
    fn a_head_may_have_the_most_bytes_and_the_most_lines_but_no_more() {
        let parsed = Cell::new(0);
        let mut longest = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        longest.resize(MAX_HEAD - 4, b'x');
        assert_eq!(read_bytewise(&[&longest[..], b"\r\n\r\n"].concat(), &parsed), Ok(Some(200)));
        assert_eq!(read_bytewise(&[&longest[..], b"x\r\n\r\n"].concat(), &parsed), Err(HeadError::TooLarge));

        let lines = |count: usize| [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(count), b"\r\n"].concat();
        assert_eq!(read_bytewise(&lines(MAX_HEADERS), &parsed), Ok(Some(200)));
        assert_eq!(read_bytewise(&lines(MAX_HEADERS + 1), &parsed), Err(HeadError::TooManyHeaders));
    }

    #[test]
    fn what_is_not_http_is_refused_before_it_ends() {
        let parsed = Cell::new(0);
        assert!(read_bytewise(b"SSH-2.0-OpenSSH", &parsed).is_err());
        assert!(read_bytewise(b"HTTP/1.1 103\r\n\r\nSSH-2.0-OpenSSH", &parsed).is_err());
    }
}

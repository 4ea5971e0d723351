//! WebSocket frames as a client writes and reads them, and the opening handshake, by hand: the load must cost less than
//! the servers that it loads.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// Beside the opcode of a message that is compressed: the bit RSV1 (RFC 7692 section 6).
pub(crate) const COMPRESSED: u8 = 0x40;

/// Every frame has the same mask. It is no zero, so that servers have their work with it.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x9e];

/// Appends a masked frame.
pub(crate) fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let start = out.len() + header(out, opcode, payload.len());
    out.extend_from_slice(payload);
    mask(&mut out[start..]);
}

/// Appends the header of a masked frame. Its length.
pub(crate) fn header(out: &mut Vec<u8>, opcode: u8, len: usize) -> usize {
    let before = out.len();
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(0x80 | len as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.len() - before
}

/// The length of the header of a server's frame.
pub(crate) fn header_length(payload: u64) -> u64 {
    match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Masks bytes from the beginning of a payload on.
pub(crate) fn mask(bytes: &mut [u8]) {
    for (byte, key) in bytes.iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= key;
    }
}

/// A piece of a server's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A frame begins: opcode, with [`COMPRESSED`] if it is, and length of the payload.
    Begin(u8, u64),
    /// More of its payload.
    Payload(&'a [u8]),
    /// It is complete.
    End,
}

/// Takes a server's bytes apart, however they are cut.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    head: [u8; 10],
    head_len: usize,
    remaining: u64,
    in_payload: bool,
    /// Whether compression was agreed.
    takes_compressed: bool,
}

impl Parser {
    /// Of a server with which compression was agreed, if `takes_compressed`.
    pub(crate) fn new(takes_compressed: bool) -> Self {
        Self { takes_compressed, ..Self::default() }
    }

    /// The next piece at the front of `bytes`, which is moved on; `None` if all is taken in.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> io::Result<Option<Piece<'a>>> {
        if self.in_payload {
            if self.remaining == 0 {
                self.in_payload = false;
                return Ok(Some(Piece::End));
            }
            let count = self.remaining.min(bytes.len() as u64) as usize;
            if count == 0 {
                return Ok(None);
            }
            let (payload, rest) = bytes.split_at(count);
            *bytes = rest;
            self.remaining -= count as u64;
            return Ok(Some(Piece::Payload(payload)));
        }
        loop {
            let wanted = match (self.head_len, self.head[1] & 0x7f) {
                (0 | 1, _) | (_, 0..=125) => 2,
                (_, 126) => 4,
                (_, _) => 10,
            };
            if self.head_len == wanted {
                break;
            }
            let Some((byte, rest)) = bytes.split_first() else { return Ok(None) };
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            *bytes = rest;
        }
        let reserved = if self.takes_compressed { 0x30 } else { 0x70 };
        if self.head[0] & (0x80 | reserved) != 0x80 || self.head[1] & 0x80 != 0 {
            return Err(wrong("a frame that is fragmented, masked or has reserved bits"));
        }
        self.remaining = match self.head_len {
            2 => u64::from(self.head[1]),
            4 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            _ => self.head[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        self.head_len = 0;
        self.in_payload = true;
        Ok(Some(Piece::Begin(self.head[0] & 0x4f, self.remaining)))
    }
}

pub(crate) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

/// Connections that this process has opened.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Connects to the server.
pub(crate) fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(Type::STREAM)?;
    socket.connect_timeout(&server.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

/// Begins to connect, without blocking: the connection is there when it takes the first byte.
pub(crate) fn begin_connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(Type::STREAM.nonblocking())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// A socket with another loopback address for every 4,000: an address has 28,000 ports only, and whoever closes a
/// connection first keeps its port for a minute. 250 addresses are enough for 100,000 connections a second.
fn bound(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    let number = CONNECTIONS.fetch_add(1, Relaxed);
    let source = Ipv4Addr::new(127, 0, 1, (number / 4000 % 250 + 1) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into()).map_err(|error| match error.kind() {
        // Which of the two it is depends on where the kernel looks for a port.
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {
            io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{source} has no free port: {error}"))
        }
        _ => error,
    })?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// An opening handshake. The key and its answer are the example of RFC 6455 section 1.3.
pub(crate) const UPGRADE: &[u8] = b"GET /bench HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The same, with an offer of extensions.
pub(crate) fn upgrade_offering(extensions: &str) -> Vec<u8> {
    let head = UPGRADE.strip_suffix(b"\r\n").unwrap_or(UPGRADE);
    [head, b"Sec-WebSocket-Extensions: ", extensions.as_bytes(), b"\r\n\r\n"].concat()
}

/// The value of the server's header for extensions, empty if there is none.
pub(crate) fn extensions(answer: &[u8]) -> String {
    let answer = String::from_utf8_lossy(answer);
    let mut fields = answer.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"));
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// The length of the answer to [`UPGRADE`] at the front of these bytes; `None` if it is not complete.
pub(crate) fn upgraded(bytes: &[u8]) -> io::Result<Option<usize>> {
    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4) else {
        return Ok(None);
    };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 101 ") || !head.windows(ACCEPT.len()).any(|window| window == ACCEPT) {
        return Err(wrong(&format!("no upgrade but: {}", String::from_utf8_lossy(head))));
    }
    Ok(Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8], cut: usize) -> Vec<(u8, Vec<u8>)> {
        let mut parser = Parser::default();
        let mut frames = Vec::new();
        for mut chunk in bytes.chunks(cut) {
            while let Some(piece) = parser.next(&mut chunk).unwrap() {
                match piece {
                    Piece::Begin(opcode, _) => frames.push((opcode, Vec::new())),
                    Piece::Payload(payload) => frames.last_mut().unwrap().1.extend_from_slice(payload),
                    Piece::End => {}
                }
            }
        }
        frames
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let long = vec![7; 300];
        let mut bytes = vec![0x82, 2, 1, 2, 0x89, 0, 0x82, 126, 1, 44];
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0, 1, 65]);
        for cut in 1..bytes.len() {
            let expected = vec![(BINARY, vec![1, 2]), (PING, vec![]), (BINARY, long.clone()), (TEXT, vec![65])];
            assert_eq!(pieces(&bytes, cut), expected);
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        for head in [[0x02, 0], [0x82, 0x80], [0xc2, 0]] {
            assert!(Parser::default().next(&mut &head[..]).is_err());
        }
        for head in [[0x42, 0], [0xa2, 0]] {
            assert!(Parser::new(true).next(&mut &head[..]).is_err());
        }
        let compressed = Parser::new(true).next(&mut &[0xc1, 0][..]).unwrap();
        assert_eq!(compressed, Some(Piece::Begin(TEXT | COMPRESSED, 0)));
    }

    #[test]
    fn extensions_are_offered_and_found() {
        let request = String::from_utf8(upgrade_offering("one; two")).unwrap();
        assert!(request.ends_with("==\r\nSec-WebSocket-Extensions: one; two\r\n\r\n"), "{request}");
        assert_eq!(extensions(b"HTTP/1.1 101 Hm\r\nsec-websocket-extensions: one; a=2\r\n\r\n"), "one; a=2");
        assert_eq!(extensions(b"HTTP/1.1 101 Hm\r\nUpgrade: websocket\r\n\r\n"), "");
    }

    #[test]
    fn only_the_right_answer_upgrades() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(upgraded(&answer[..answer.len() - 1]).unwrap(), None);
        assert_eq!(upgraded(&[&answer[..], b"more"].concat()).unwrap(), Some(answer.len()));
        assert!(upgraded(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
        assert!(upgraded(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }

    #[test]
    fn masking_twice_changes_nothing() {
        let mut bytes = *b"heartwire";
        mask(&mut bytes);
        assert_ne!(&bytes, b"heartwire");
        mask(&mut bytes);
        assert_eq!(&bytes, b"heartwire");
    }
}

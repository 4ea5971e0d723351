//! A client made by hand: it sends any bytes, in any pieces, and sees exactly what comes back and how the socket ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::CEILING;
use super::frames::{CLOSE, Frame, PING, PONG, TEXT, close_payload, masked};
use super::wire::Wire;

/// The key of RFC 6455 section 1.3, whose answer is `s3pPLMBiTxaQ9kYGzzhZRbK+xOo=`.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The opening handshake for `/`.
pub(crate) fn request() -> String {
    request_with("/", "")
}

/// The opening handshake for a target, with more header lines, each ended by CR LF.
pub(crate) fn request_with(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    )
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By a FIN; over TLS by one that was announced.
    Clean,
    /// By a FIN that nobody announced, which over TLS may have been anybody's.
    Torn,
    Reset,
    /// TLS has failed, or the peer says so by an alert.
    Failed,
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Frame(Frame),
    End(End),
    /// Nothing before the deadline.
    Nothing,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// How the connection ended; of an upgrade, it has not.
    pub(crate) end: End,
}

impl Answer {
    /// The value of the only header of that name; `None` if there is none.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value
    }

    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("status line of {head:?}"));
        let headers = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("header line {line:?}"));
            (name.to_owned(), value.to_owned())
        });
        Self { status, headers: headers.collect(), body: String::new(), end: End::Clean }
    }
}

/// Sends a request and says that it is the only one, and reads the answer up to the end of the connection.
pub(crate) fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::tcp(address);
    client.write(request.as_ref());
    client.half_close();
    client.refusal()
}

/// A client. It never answers a Ping by itself.
pub(crate) struct Client {
    stream: Wire,
    received: Vec<u8>,
}

impl Client {
    /// A TCP connection on which nothing has been said.
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("the server listens"))
    }

    /// A connection that was made elsewhere.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self::on(Wire::to_server(stream))
    }

    /// The same, with or without TLS.
    pub(crate) fn on(stream: Wire) -> Self {
        stream.socket().set_nodelay(true).expect("TCP_NODELAY");
        // A server that takes nothing any more must not block a test for ever.
        stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
        Self { stream, received: Vec::new() }
    }

    /// Connects, and does the opening handshake.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::tcp(address).upgraded(&request())
    }

    /// Sends this request, and expects to be accepted.
    pub(crate) fn upgraded(mut self, request: &str) -> Self {
        self.write(request.as_bytes());
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{answer:?}");
        self
    }

    /// Reads the head of the HTTP answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let deadline = Instant::now() + CEILING;
        loop {
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                return Answer::parse(std::str::from_utf8(&head).expect("the head is ASCII"));
            }
            match self.fill(deadline) {
                Filled::Bytes => {}
                other => panic!("{other:?} in the answer after {:?}", String::from_utf8_lossy(&self.received)),
            }
        }
    }

    /// Reads an HTTP answer as long as it says, and goes on with the connection.
    pub(crate) fn response(&mut self) -> Answer {
        let mut answer = self.answer();
        let length = answer.header("Content-Length").map_or(0, |length| length.parse().expect("a number"));
        let deadline = Instant::now() + CEILING;
        while self.received.len() < length {
            match self.fill(deadline) {
                Filled::Bytes => {}
                other => panic!("{other:?} in the body of {answer:?}"),
            }
        }
        answer.body = String::from_utf8(self.received.drain(..length).collect()).expect("the body is UTF-8");
        answer
    }

    /// Reads a whole HTTP answer, up to the end of the connection.
    pub(crate) fn refusal(mut self) -> Answer {
        let mut answer = self.answer();
        answer.end = self.drain();
        answer.body = String::from_utf8(std::mem::take(&mut self.received)).expect("the body is UTF-8");
        answer
    }

    // Writing.

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    /// Writes as far as the server still takes it. Whether it took all.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// One byte in each packet, as far as packets are ours to decide.
    pub(crate) fn write_byte_by_byte(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(std::slice::from_ref(byte));
        }
    }

    pub(crate) fn send(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        self.write(&masked(opcode, payload.as_ref()));
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(TEXT, text);
    }

    pub(crate) fn send_close(&mut self, code: u16, reason: &str) {
        self.send(CLOSE, close_payload(code, reason));
    }

    /// Says no more, but goes on reading.
    pub(crate) fn half_close(&self) {
        self.stream.end_writing().expect("connected");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.stream.reset_at_end();
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    /// What it writes to and reads from.
    pub(crate) fn wire(&self) -> &Wire {
        &self.stream
    }

    /// Another handle to the same socket, for another thread.
    pub(crate) fn try_clone(&self) -> Self {
        Self::on(self.stream.try_clone().expect("a file descriptor"))
    }

    // Reading.

    /// The next frame, or the end, or nothing until the deadline.
    pub(crate) fn next_before(&mut self, deadline: Instant) -> Incoming {
        loop {
            if let Some(frame) = Frame::take(&mut self.received) {
                return Incoming::Frame(frame);
            }
            match self.fill(deadline) {
                Filled::Bytes => {}
                Filled::End(end) => {
                    assert!(self.received.is_empty() || end != End::Clean, "the last frame is torn");
                    return Incoming::End(end);
                }
                Filled::Nothing => return Incoming::Nothing,
            }
        }
    }

    pub(crate) fn next_within(&mut self, timeout: Duration) -> Incoming {
        self.next_before(Instant::now() + timeout)
    }

    /// The next frame, whatever its kind.
    pub(crate) fn frame(&mut self) -> Frame {
        match self.next_within(CEILING) {
            Incoming::Frame(frame) => frame,
            other => panic!("{other:?} instead of a frame"),
        }
    }

    /// The next data frame. Pings before it are answered, Pongs skipped.
    pub(crate) fn message(&mut self) -> Frame {
        loop {
            let frame = self.frame();
            match frame.opcode {
                PING => self.send(PONG, &frame.payload),
                PONG => {}
                _ => return frame,
            }
        }
    }

    /// The next text message.
    pub(crate) fn text(&mut self) -> String {
        self.message().text().to_owned()
    }

    /// Sends a text, and expects it back.
    pub(crate) fn expect_echo(&mut self, text: &str) {
        self.send_text(text);
        assert_eq!(self.text(), text);
    }

    /// Reads a Close frame, and nothing but Pings and Pongs before it: its code and reason.
    pub(crate) fn expect_close(&mut self) -> (Option<u16>, String) {
        loop {
            let frame = self.frame();
            if ![PING, PONG].contains(&frame.opcode) {
                return frame.close();
            }
        }
    }

    /// Reads up to the end, where no frame may come any more.
    pub(crate) fn expect_end(&mut self) -> End {
        match self.next_within(CEILING) {
            Incoming::End(end) => end,
            other => panic!("{other:?} instead of the end"),
        }
    }

    /// Reads everything up to the end, frames or not.
    pub(crate) fn drain(&mut self) -> End {
        let deadline = Instant::now() + CEILING;
        loop {
            match self.fill(deadline) {
                Filled::Bytes => {}
                Filled::End(end) => return end,
                Filled::Nothing => panic!("no end"),
            }
        }
    }

    /// What was read and is no frame so far.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.received
    }

    /// Reads on, for so long at most, whatever comes.
    pub(crate) fn drain_within(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while matches!(self.fill(deadline), Filled::Bytes) {}
    }

    /// Closes as a well-behaved client does: Close, the server's Close, the end.
    pub(crate) fn close(mut self) {
        self.send_close(1000, "");
        assert_eq!(self.expect_close().0, Some(1000));
        assert_eq!(self.expect_end(), End::Clean);
    }

    fn fill(&mut self, deadline: Instant) -> Filled {
        let mut chunk = [0; 64 * 1024];
        loop {
            // A deadline that is over still gets what is already here.
            let wait = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            self.stream.set_read_timeout(Some(wait)).expect("a read timeout");
            match self.stream.read(&mut chunk) {
                Ok(0) => return Filled::End(End::Clean),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return Filled::Bytes;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if Instant::now() < deadline => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Filled::Nothing,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Filled::End(End::Reset),
                    ErrorKind::UnexpectedEof => return Filled::End(End::Torn),
                    ErrorKind::InvalidData => return Filled::End(End::Failed),
                    _ => panic!("reading: {error}"),
                },
            }
        }
    }

    /// Reads one chunk, at most so many bytes, and forgets it: a slow reader. How many bytes it was; 0 at the end.
    pub(crate) fn sip(&mut self, most: usize) -> usize {
        let mut chunk = vec![0; most];
        self.stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
        let count = self.stream.read(&mut chunk).expect("bytes or the end");
        self.received.extend_from_slice(&chunk[..count]);
        count
    }

    /// The next frame of what [`sip`](Self::sip) has read, without reading on.
    pub(crate) fn sipped(&mut self) -> Option<Frame> {
        Frame::take(&mut self.received)
    }
}

#[derive(Debug)]
enum Filled {
    Bytes,
    End(End),
    Nothing,
}

//! Servers made by hand, for clients under test: they answer what no real server would.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use super::wire::Wire;
use super::{CEILING, CLOSE, End, PING, PONG, RunningClient, TEXT, close_payload, ms};

/// A listener made by hand.
pub(crate) struct BareServer(TcpListener);

impl BareServer {
    pub(crate) fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    /// One whose system keeps little of what nobody has read yet. Otherwise a Ping can wait there behind megabytes, and
    /// a test that is slow to read them is a peer that is dead.
    pub(crate) fn bind_with_little_room() -> Self {
        let server = Self::bind();
        SockRef::from(&server.0).set_recv_buffer_size(256 * 1024).expect("a listener");
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    /// The next connection, on which nothing has been said.
    pub(crate) fn accept(&self) -> BareConnection {
        self.accept_on(Wire::from_client)
    }

    /// The same, with or without TLS.
    pub(crate) fn accept_on(&self, wire: impl FnOnce(TcpStream) -> Wire) -> BareConnection {
        match self.socket_within(CEILING) {
            Some(socket) => BareConnection::on(wire(socket)),
            None => panic!("nobody connects"),
        }
    }

    /// The next connection, if there is one by then.
    pub(crate) fn accept_within(&self, timeout: Duration) -> Option<BareConnection> {
        self.socket_within(timeout).map(|socket| BareConnection::on(Wire::from_client(socket)))
    }

    fn socket_within(&self, timeout: Duration) -> Option<TcpStream> {
        let deadline = Instant::now() + timeout;
        self.0.set_nonblocking(true).expect("a listener");
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("a stream");
                    return Some(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                    thread::sleep(ms(1));
                }
                Err(error) => panic!("accept: {error}"),
            }
        }
    }

    /// The next connection, its opening handshake done.
    pub(crate) fn open(&self) -> BareConnection {
        let mut connection = self.accept();
        connection.upgrade("");
        connection
    }

    /// Answers the next connection's request with this, closes, and gives the request.
    pub(crate) fn answer(&self, answer: &str) -> String {
        let mut connection = self.accept();
        let request = connection.request();
        connection.write(answer.as_bytes());
        request
    }
}

/// A frame of a client, with its mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaskedFrame {
    pub(crate) opcode: u8,
    pub(crate) mask: [u8; 4],
    pub(crate) payload: Vec<u8>,
}

/// The server's end of a connection.
pub(crate) struct BareConnection {
    pub(crate) stream: Wire,
    received: Vec<u8>,
}

impl BareConnection {
    /// A connection that was accepted elsewhere, with or without TLS.
    pub(crate) fn on(stream: Wire) -> Self {
        stream.socket().set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
        stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the client takes it");
    }

    /// Reads the head of the request.
    pub(crate) fn request(&mut self) -> String {
        while !self.received.ends_with(b"\r\n\r\n") {
            assert!(self.fill(), "the request is torn: {:?}", String::from_utf8_lossy(&self.received));
        }
        String::from_utf8(std::mem::take(&mut self.received)).expect("ASCII")
    }

    /// Reads the request and accepts it, with more header lines, each ended by CR LF. Gives the request.
    pub(crate) fn upgrade(&mut self, headers: &str) -> String {
        let request = self.request();
        self.write(acceptance(&request, headers).as_bytes());
        request
    }

    /// Sends a whole frame, unmasked as a server must.
    pub(crate) fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&unmasked(opcode, payload));
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    pub(crate) fn send_close(&mut self, code: u16) {
        self.send(CLOSE, &close_payload(code, ""));
    }

    /// The next frame, which must be masked; `None` at the end.
    pub(crate) fn next_frame(&mut self) -> Option<MaskedFrame> {
        loop {
            if let Some(frame) = take(&mut self.received) {
                return Some(frame);
            }
            if !self.fill() {
                // As a client does that ends it by force.
                assert!(self.received.is_empty(), "the connection ended within a frame");
                return None;
            }
        }
    }

    pub(crate) fn frame(&mut self) -> MaskedFrame {
        self.next_frame().expect("a frame")
    }

    /// The next text. Pings before it are answered.
    pub(crate) fn text(&mut self) -> String {
        loop {
            let MaskedFrame { opcode, payload, .. } = self.frame();
            match opcode {
                PING => self.send(PONG, &payload),
                PONG => {}
                TEXT => return String::from_utf8(payload).expect("UTF-8"),
                other => panic!("opcode {other} instead of a text"),
            }
        }
    }

    /// The next text, if there is one within the read timeout that was set.
    pub(crate) fn text_if_any(&mut self) -> Option<String> {
        if take(&mut self.received.clone()).is_none() {
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap_or(0);
            self.received.extend_from_slice(&chunk[..count]);
        }
        take(&mut self.received).map(|frame| String::from_utf8(frame.payload).expect("UTF-8"))
    }

    /// Reads up to the client's Close frame: its code.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        loop {
            let frame = self.frame();
            if frame.opcode == CLOSE {
                return frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
    }

    /// Closes from the server's side, to the end.
    pub(crate) fn close(mut self, code: u16) {
        self.send_close(code);
        assert_eq!(self.close_code(), Some(code));
    }

    /// Answers the client's Close frame, which must come next but for Pings and Pongs.
    pub(crate) fn expect_close(mut self, code: u16) {
        assert_eq!(self.close_code(), Some(code));
        self.send_close(code);
    }

    /// Stops the client, and completes its closing handshake.
    pub(crate) fn expect_close_at_stop(self, client: &RunningClient) {
        assert!(client.handle.wait_connected(CEILING));
        client.handle.stop();
        self.expect_close(1000);
        client.result().unwrap();
    }

    /// Waits for the end of the connection, whatever comes before.
    pub(crate) fn wait_for_end(&mut self) -> End {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return End::Clean,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return End::Torn,
                Err(error) => panic!("no end: {error}"),
            }
        }
    }

    pub(crate) fn reset(self) {
        self.stream.reset_at_end();
    }

    /// Reads on; `false` at the end.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => false,
            Err(error) => panic!("reading from the client: {error}"),
        }
    }
}

/// The answer that accepts this request.
pub(crate) fn acceptance(request: &str, headers: &str) -> String {
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
    )
}

/// A frame of a server, short enough for the shortest header.
pub(crate) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= 125);
    [&[0x80 | opcode, payload.len() as u8], payload].concat()
}

fn take(buffer: &mut Vec<u8>) -> Option<MaskedFrame> {
    let (&[first, second], rest) = buffer.split_first_chunk()?;
    assert_eq!(first & 0xf0, 0x80, "whole frames without reserved bits");
    assert_eq!(second & 0x80, 0x80, "a client masks");
    let (header, len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        len => (2, usize::from(len)),
    };
    let mask: [u8; 4] = *buffer.get(header..)?.first_chunk()?;
    let payload = buffer.get(header + 4..header + 4 + len)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    buffer.drain(..header + 4 + len);
    Some(MaskedFrame { opcode: first & 0x0f, mask, payload })
}

/// The answer that refuses a handshake, with more header lines, each ended by CR LF.
pub(crate) fn refusal(status: u16, headers: &str) -> String {
    format!("HTTP/1.1 {status} No\r\n{headers}Content-Length: 0\r\n\r\n")
}

/// An address where nobody listens, nor ever will: it is taken. Listening there is for [`listen`](Self::listen).
pub(crate) struct ClosedPort(Socket);

impl ClosedPort {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound").as_socket().expect("an Internet address")
    }

    pub(crate) fn listen(self) -> BareServer {
        self.0.listen(128).expect("a listener");
        BareServer(self.0.into())
    }
}

/// A port that takes no more connections: its backlog is full, and what comes is not even answered.
pub(crate) struct BlackHole {
    address: SocketAddr,
    _held: (Socket, Vec<TcpStream>),
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("bound").as_socket().expect("an Internet address");
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, ms(300)) {
            fill.push(stream);
            assert!(fill.len() < 100, "the backlog does not fill");
        }
        Self { address, _held: (listener, fill) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

//! The other end: a client that runs in a thread of its own, and servers made by hand for it, which answer what no real
//! server would.

// Each test file has its own copy of this module, and uses its part of it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use heartwire::{Backoff, Client, ClientHandle, CloseReport, ConnectError, Connection, Error, Event, HeartbeatPolicy};
use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use crate::support::{CEILING, CLOSE, End, Events, PING, PONG, TEXT, close_payload, eventually, ms};

/// A client without a heartbeat that comes back quickly: a test that is about these sets its own.
pub(crate) fn client(address: SocketAddr) -> Client {
    Client::new(&format!("ws://{address}/")).expect("a valid URL").heartbeat(HeartbeatPolicy::off()).reconnect(quick())
}

/// Comes back at once, more or less.
pub(crate) fn quick() -> Backoff {
    Backoff::default().first(ms(20)).longest(ms(100)).after_restart(ms(50), ms(100))
}

/// The handler of a client that only listens.
pub(crate) fn listen(conn: &mut Connection) -> Result<(), Error> {
    loop {
        conn.recv()?;
    }
}

/// Runs a client in a thread of its own until it is dropped.
pub(crate) fn run<H>(client: Client, handler: H) -> RunningClient
where
    H: FnMut(&mut Connection) -> Result<(), Error> + Send + 'static,
{
    let handle = client.handle();
    let events = Events::new(handle.events());
    let (sender, ended) = bounded(1);
    thread::spawn(move || {
        let _ = sender.send(client.run(handler));
    });
    RunningClient { handle, events, ended }
}

/// A client that runs. Dropping it stops it and waits for its end.
pub(crate) struct RunningClient {
    pub(crate) handle: ClientHandle,
    pub(crate) events: Events,
    ended: Receiver<Result<(), Error>>,
}

impl RunningClient {
    /// Waits for `run` to return.
    pub(crate) fn result(&self) -> Result<(), Error> {
        self.ended.recv_timeout(CEILING).expect("run returns")
    }

    /// Waits for `run` to return, which must be because of a connection that did not come to be.
    pub(crate) fn not_connected(&self) -> ConnectError {
        match self.result() {
            Err(Error::Connect(error)) => error,
            other => panic!("{other:?} instead of an error of connecting"),
        }
    }

    /// Whether `run` has not returned so far.
    pub(crate) fn runs_on(&self) -> bool {
        self.ended.is_empty()
    }

    /// Stops the client, and says how long `run` took to return.
    pub(crate) fn stop(&self) -> Duration {
        let start = Instant::now();
        self.handle.stop();
        self.result().expect("stopped, and so ends without an error");
        start.elapsed()
    }

    pub(crate) fn closed(&self) -> CloseReport {
        self.events.closed()
    }

    pub(crate) fn connecting(&self) -> u32 {
        self.events.wait_for("Connecting", |event| match event {
            Event::Connecting { attempt, .. } => Some(*attempt),
            _ => None,
        })
    }

    pub(crate) fn retrying(&self) -> Duration {
        self.events.wait_for("Retrying", |event| match event {
            Event::Retrying { delay, .. } => Some(*delay),
            _ => None,
        })
    }

    pub(crate) fn connect_failed(&self) -> (String, bool) {
        self.events.wait_for("ConnectFailed", |event| match event {
            Event::ConnectFailed { error, is_fatal, .. } => Some((error.clone(), *is_fatal)),
            _ => None,
        })
    }

    /// What was told up to the end, in short: names of events, and of the causes of closures.
    pub(crate) fn story(&self) -> Vec<String> {
        self.events.rest().iter().map(in_short).collect()
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.handle.stop();
        // A test that waited for the end itself has taken the result already.
        let hangs = self.ended.recv_timeout(CEILING).is_err_and(|error| error.is_timeout());
        assert!(!hangs || thread::panicking(), "the client does not end");
    }
}

fn in_short(event: &Event) -> String {
    match event {
        Event::Connecting { attempt, .. } => format!("connecting {attempt}"),
        Event::ConnectFailed { is_fatal, .. } => (if *is_fatal { "fatal" } else { "failed" }).to_owned(),
        Event::Retrying { .. } => "retrying".to_owned(),
        Event::Opened { id, .. } => format!("opened {id}"),
        Event::Closed(report) => format!("closed {} {}", report.id, report.reason.name()),
        Event::Missed { missed, .. } => format!("missed {missed}"),
        other => format!("{other:?}"),
    }
}

/// A listener made by hand.
pub(crate) struct BareServer(TcpListener);

impl BareServer {
    pub(crate) fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    /// The next connection, on which nothing has been said.
    pub(crate) fn accept(&self) -> BareConnection {
        match self.accept_within(CEILING) {
            Some(connection) => connection,
            None => panic!("nobody connects"),
        }
    }

    /// The next connection, if there is one by then.
    pub(crate) fn accept_within(&self, timeout: Duration) -> Option<BareConnection> {
        let deadline = Instant::now() + timeout;
        self.0.set_nonblocking(true).expect("a listener");
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return Some(BareConnection::of(stream)),
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
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

impl BareConnection {
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).expect("a stream");
        stream.set_nodelay(true).expect("TCP_NODELAY");
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
                assert!(self.received.is_empty(), "the last frame is torn");
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

    /// Waits for the end of the connection, whatever comes before.
    pub(crate) fn wait_for_end(&mut self) -> End {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return End::Clean,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) => panic!("no end: {error}"),
            }
        }
    }

    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
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
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset) => false,
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

/// Waits until nobody listens at an address any more.
pub(crate) fn wait_until_refused(address: SocketAddr) {
    eventually("nobody listens", || TcpStream::connect(address).is_err());
}

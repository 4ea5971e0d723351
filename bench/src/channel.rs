//! A client's connection, plain or over TLS. The TLS is rustls' own without its buffers, for the load must cost less
//! than the servers: what arrives is opened where it was read, and only a record that is not whole yet is kept.
//!
//! A handshake needs no care: it begins with the first write, and what is written before it is complete waits for it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind};

use crate::wire;

/// What a read needs at least: the largest record of TLS, with room for more.
pub(crate) const SCRATCH: usize = 20 * 1024;

pub(crate) struct Channel {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
}

/// What a read has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// The server's end.
    End,
    /// All that was there.
    All,
    /// As much as there was room for.
    Part,
}

impl Channel {
    /// Connects to the server: with this configuration over TLS.
    pub(crate) fn connect(server: SocketAddr, config: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        Self::new(wire::connect(server)?, config)
    }

    /// Begins to connect, without blocking: the connection is there when it takes the first byte.
    pub(crate) fn begin_connect(server: SocketAddr, config: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        Self::new(wire::begin_connect(server)?, config)
    }

    fn new(stream: TcpStream, config: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let tls = config.map(|config| Tls::new(config).map(Box::new)).transpose()?;
        Ok(Self { stream, tls })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Only a plain connection's.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Whether it is over TLS and has resumed a session.
    pub(crate) fn has_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.connection.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Writes some of the bytes. Over TLS the socket may not have taken all that was sealed of them: see
    /// [`flush`](Self::flush).
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.stream).write(bytes) };
        tls.send(&self.stream)?;
        let count = bytes.len().min(Tls::SEALED_AT_ONCE);
        tls.write(&bytes[..count])?;
        self.flush_if_possible()?;
        Ok(count)
    }

    /// Writes what is sealed and was not taken yet. `WouldBlock` if the socket does not take it all.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.send(&self.stream))
    }

    fn flush_if_possible(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Reads once into `scratch`, and passes on what has arrived. A read that does not fill it has emptied the socket.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Received> {
        let pending = self.tls.as_ref().map_or(0, |tls| tls.pending.len());
        let count = (&self.stream).read(&mut scratch[pending..])?;
        let received = match pending + count {
            _ if count == 0 => return Ok(Received::End),
            filled if filled < scratch.len() => Received::All,
            _ => Received::Part,
        };
        let Some(tls) = &mut self.tls else {
            take(&scratch[..count])?;
            return Ok(received);
        };
        scratch[..pending].copy_from_slice(&tls.pending);
        tls.pending.clear();
        let taken = tls.open(&mut scratch[..pending + count], take)?;
        tls.pending.extend_from_slice(&scratch[taken..pending + count]);
        self.flush_if_possible()?;
        Ok(received)
    }

    /// The opening handshake, blocking. What the server sent after it is returned.
    pub(crate) fn upgrade(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.request_upgrade(wire::UPGRADE)?.1)
    }

    /// The same, offering extensions. The value of the server's header for them comes first.
    pub(crate) fn upgrade_offering(&mut self, extensions: &str) -> io::Result<(String, Vec<u8>)> {
        let (answer, rest) = self.request_upgrade(&wire::upgrade_offering(extensions))?;
        Ok((wire::extensions(&answer), rest))
    }

    /// The server's answer, and what came after it.
    fn request_upgrade(&mut self, request: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        self.stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        self.write(request)?;
        let mut answer = Vec::with_capacity(1024);
        let mut scratch = [0; SCRATCH];
        let end = loop {
            if let Some(end) = wire::upgraded(&answer)? {
                break end;
            }
            let received = self.receive(&mut scratch, |bytes| {
                answer.extend_from_slice(bytes);
                Ok(())
            })?;
            if received == Received::End {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        self.stream.set_read_timeout(None)?;
        let rest = answer.split_off(end);
        Ok((answer, rest))
    }
}

/// The client's end of TLS.
struct Tls {
    connection: UnbufferedClientConnection,
    /// The beginning of a record.
    pending: Vec<u8>,
    /// What was written before the handshake is complete.
    waiting: Vec<u8>,
    /// What the socket has not taken yet, from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
}

impl Tls {
    /// A few records, and not so many that they leave the cache before they are sent.
    const SEALED_AT_ONCE: usize = 64 * 1024;
    /// More than a record adds to its payload.
    const OVERHEAD: usize = 32;

    fn new(config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = crate::tls::NAME.try_into().map_err(io::Error::other)?;
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self { connection, pending: Vec::new(), waiting: Vec::new(), sealed: Vec::new(), sent: 0 })
    }

    /// Takes bytes of the application, now or when the handshake is complete.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.advance(&mut [], bytes, |_| Ok(())).map(drop)
    }

    /// Opens the whole records at the front. How many bytes they were.
    fn open(&mut self, arrived: &mut [u8], take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<usize> {
        self.advance(arrived, &[], take)
    }

    /// Does what can be done.
    fn advance(
        &mut self,
        arrived: &mut [u8],
        unsealed: &[u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<usize> {
        let Self { connection, waiting, sealed, .. } = self;
        let mut taken = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(&mut arrived[taken..]);
            let is_done = match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        take(record.payload)?;
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    seal(sealed, 1024, |space| data.encode(space).map_err(Refusal::from))?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    for bytes in [&std::mem::take(waiting)[..], unsealed].into_iter().filter(|bytes| !bytes.is_empty())
                    {
                        let space = bytes.len() + (bytes.len() / (16 * 1024) + 1) * Self::OVERHEAD;
                        seal(sealed, space, |space| traffic.encrypt(bytes, space).map_err(Refusal::from))?;
                    }
                    true
                }
                // More has to arrive, or nothing more will.
                _ => {
                    waiting.extend_from_slice(unsealed);
                    true
                }
            };
            taken += discard;
            if is_done {
                return Ok(taken);
            }
        }
    }

    fn send(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while self.sent < self.sealed.len() {
            match stream.write(&self.sealed[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Why nothing was sealed.
enum Refusal {
    NeedsSpace(usize),
    Failed(io::Error),
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(needed) => Self::NeedsSpace(needed.required_size),
            other => Self::Failed(io::Error::other(other)),
        }
    }
}

impl From<EncryptError> for Refusal {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(needed) => Self::NeedsSpace(needed.required_size),
            other => Self::Failed(io::Error::other(other)),
        }
    }
}

/// Appends what `write` makes, in so much space or, if it asks for more, in that.
fn seal(
    sealed: &mut Vec<u8>,
    mut space: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Refusal>,
) -> io::Result<()> {
    let before = sealed.len();
    loop {
        sealed.resize(before + space, 0);
        match write(&mut sealed[before..]) {
            Ok(count) => {
                sealed.truncate(before + count);
                return Ok(());
            }
            Err(Refusal::NeedsSpace(needed)) if needed > space => space = needed,
            Err(Refusal::NeedsSpace(_)) => return Err(io::Error::other("no space is enough for TLS")),
            Err(Refusal::Failed(error)) => return Err(error),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;
    use std::time::Instant;

    use rustls::{ServerConnection, StreamOwned};

    use super::*;
    use crate::tls::{self, Identity};

    /// A server that gives back what it gets, on so many connections one after the other.
    fn echo_server(connections: usize) -> SocketAddr {
        let config = tls::server(Identity::make().unwrap().file()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for _ in 0..connections {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
                let mut buffer = vec![0; 5000];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..count]).unwrap();
                }
            }
        });
        address
    }

    /// Sends all of it, and returns as much of what has come back.
    fn exchange(channel: &mut Channel, bytes: &[u8]) -> Vec<u8> {
        channel.stream().set_nonblocking(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut sent, mut answer, mut scratch) = (0, Vec::new(), vec![0; SCRATCH]);
        let is_due = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
        while answer.len() < bytes.len() {
            assert!(Instant::now() < deadline, "{} of {} bytes came back", answer.len(), bytes.len());
            let written = if sent < bytes.len() { channel.write(&bytes[sent..]) } else { channel.flush().map(|()| 0) };
            sent += written.or_else(|error| if is_due(&error) { Ok(0) } else { Err(error) }).unwrap();
            let received = channel.receive(&mut scratch, |bytes| {
                answer.extend_from_slice(bytes);
                Ok(())
            });
            match received {
                Err(error) if is_due(&error) => thread::sleep(Duration::from_micros(100)),
                received => assert_ne!(received.unwrap(), Received::End),
            }
        }
        answer
    }

    #[test]
    fn bytes_come_back_in_order_also_when_the_socket_is_full() {
        let mut channel = Channel::connect(echo_server(1), Some(tls::careless_client())).unwrap();
        let bytes: Vec<u8> = (0..8_000_000_u32).map(|number| (number / 251) as u8 ^ number as u8).collect();
        assert!(exchange(&mut channel, &bytes) == bytes);
    }

    #[test]
    fn only_who_resumes_is_taken_to_have_resumed() {
        let server = echo_server(4);
        for (config, resumes) in [(tls::resuming_client(), true), (tls::careless_client(), false)] {
            for is_first in [true, false] {
                let mut channel = Channel::connect(server, Some(Arc::clone(&config))).unwrap();
                assert_eq!(exchange(&mut channel, b"words"), b"words");
                assert_eq!(channel.has_resumed(), resumes && !is_first);
            }
        }
    }
}

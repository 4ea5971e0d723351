//! One connection's TLS, by rustls: its handshake, and the records after it. All of it is computing in memory.
//!
//! rustls keeps one state for both directions, and no buffers (its "unbuffered" interface): what arrives is given to it
//! in a buffer of ours, which it decrypts in place.

use std::io;
use std::mem;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::certificate::Certificate;
use super::error::{Peer, TlsError, TlsErrorKind};
use crate::foreign;
use crate::protocol::frame::Role;
use crate::transport::secured::{MAX_PAYLOAD, Opened, Records, record_len};

/// One connection's TLS.
pub(crate) struct Session {
    engine: Box<dyn Engine>,
    /// Records that rustls has looked at and needs to see again: parts of a message of TLS whose rest is still to come.
    held: Vec<u8>,
    /// The error that has ended it. rustls is not to be asked again then, and whoever sends is told the cause.
    failure: Option<String>,
    /// Whether the peer has said that nothing follows.
    has_ended: bool,
    /// For the texts of errors.
    peer: PeerName,
}

/// The most bytes of messages of TLS that may wait for their rest, during the handshake and after it. rustls has a
/// bound of its own for each message, but not for the records that it comes in: with a byte in each they take 23 times
/// as much. A server admits less, because it does so from anybody, and no client but one with a long chain of
/// certificates needs more.
pub(super) const fn max_waiting(role: Role) -> usize {
    match role {
        Role::Server => 32 * 1024,
        Role::Client => 128 * 1024,
    }
}

/// The error if there are more.
pub(super) fn too_much_waiting() -> TlsError {
    TlsError::new(TlsErrorKind::Protocol, "more bytes of a TLS handshake have arrived than any needs")
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The handshake needs more from the peer.
    Handshaking,
    /// The handshake is complete, and records may be sealed and opened.
    Open,
    /// The peer has said that nothing follows.
    Ended,
}

enum PeerName {
    Client,
    /// Where we connect, as the user wrote it.
    Server(String),
}

impl Session {
    /// The server's end of a new connection.
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let engine = UnbufferedServerConnection::new(config);
        let engine = engine.map_err(|error| TlsError::of_connection(error, Peer::Client))?;
        Ok(Self::new(Box::new(engine), PeerName::Client))
    }

    /// The client's end of a new connection. `server` is for the texts of errors.
    pub(crate) fn client(config: Arc<ClientConfig>, name: ServerName<'static>, server: &str) -> Result<Self, TlsError> {
        let engine = UnbufferedClientConnection::new(config, name);
        let engine = engine.map_err(|error| TlsError::of_connection(error, Peer::Server(server)))?;
        Ok(Self::new(Box::new(engine), PeerName::Server(server.to_owned())))
    }

    fn new(engine: Box<dyn Engine>, peer: PeerName) -> Self {
        Self { engine, held: Vec::new(), failure: None, has_ended: false, peer }
    }

    /// Takes the whole records off the front of `arrived`. What is in them goes to `opened`, and what has to be sent to
    /// `sealed`: also if there is an error, for an alert then says what is wrong. After the peer's end it takes and
    /// drops whatever comes.
    pub(crate) fn advance(
        &mut self,
        arrived: &mut Vec<u8>,
        opened: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Progress, TlsError> {
        if self.has_ended {
            // rustls would leave it here, and TCP may go on for ever.
            *arrived = Vec::new();
            return Ok(Progress::Ended);
        }
        let progress = if self.held.is_empty() {
            let progress = self.engine.process(arrived, opened, sealed);
            if record_len(arrived).is_some_and(|len| len <= arrived.len()) {
                self.held = mem::take(arrived);
                // The rest may be long in coming, and the buffer was for much more.
                self.held.shrink_to_fit();
            }
            progress
        } else {
            self.held.append(arrived);
            let progress = self.engine.process(&mut self.held, opened, sealed);
            if self.held.is_empty() {
                self.held = Vec::new();
            }
            progress
        };
        let progress = match progress {
            Ok(_) if self.held.len() > max_waiting(self.role()) => Err(too_much_waiting()),
            progress => progress.map_err(|error| self.explain(error)),
        };
        self.failure = progress.as_ref().err().map(ToString::to_string);
        self.has_ended = matches!(progress, Ok(Progress::Ended));
        if self.has_ended {
            (self.held, *arrived) = (Vec::new(), Vec::new());
        }
        progress
    }

    /// How many bytes wait for the rest of a message of TLS.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether the handshake is complete.
    pub(crate) fn is_complete(&self) -> bool {
        !self.engine.common().is_handshaking()
    }

    /// The certificate that the peer has presented, and that was verified.
    pub(crate) fn peer_certificate(&self) -> Option<Certificate> {
        self.engine.common().peer_certificates()?.first().map(Certificate::new)
    }

    fn role(&self) -> Role {
        match self.peer {
            PeerName::Client => Role::Server,
            PeerName::Server(_) => Role::Client,
        }
    }

    fn explain(&self, error: Error) -> TlsError {
        TlsError::of_connection(
            error,
            match &self.peer {
                PeerName::Client => Peer::Client,
                PeerName::Server(name) => Peer::Server(name),
            },
        )
    }

    fn failed(&self, error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self.explain(error))
    }
}

impl Records for Session {
    fn open(&mut self, arrived: &mut Vec<u8>, opened: &mut Vec<u8>, sealed: &mut Vec<u8>) -> io::Result<Opened> {
        // A client's tickets come after the handshake, and its store of sessions may be the application's own.
        let advanced = foreign::call(|| self.advance(arrived, opened, sealed)).unwrap_or_else(|message| {
            let error = TlsError::new(TlsErrorKind::Other, format!("TLS panicked: {message}"));
            self.failure = Some(error.to_string());
            Err(error)
        });
        match advanced {
            Ok(Progress::Ended) => Ok(Opened::Ended),
            Ok(Progress::Open | Progress::Handshaking) => Ok(Opened::MayFollow),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(io::ErrorKind::InvalidData, failure.clone()));
        }
        let outcome = self.engine.write(&mut self.held, sealed, Write::Bytes(bytes));
        outcome.map_err(|error| self.failed(error))
    }

    fn seal_end(&mut self, sealed: &mut Vec<u8>) {
        if self.failure.is_none() {
            // It fails only on a connection that is over anyway.
            let _ = self.engine.write(&mut self.held, sealed, Write::End);
        }
    }
}

/// What to write.
#[derive(Clone, Copy)]
enum Write<'a> {
    Bytes(&'a [u8]),
    /// `close_notify` (RFC 8446 section 6.1).
    End,
}

/// rustls' state of either end, without its type.
trait Engine: Send {
    fn process(&mut self, arrived: &mut Vec<u8>, opened: &mut Vec<u8>, sealed: &mut Vec<u8>)
    -> Result<Progress, Error>;
    /// `held`: what was looked at and not taken, for rustls needs to see it in every call.
    fn write(&mut self, held: &mut Vec<u8>, sealed: &mut Vec<u8>, what: Write<'_>) -> Result<(), Error>;
    fn common(&self) -> &CommonState;
}

/// A connection of rustls'. Its two kinds have nothing in common that says so.
trait Unbuffered: Send {
    type Data;
    fn next<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn next<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn next<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl<U: Unbuffered> Engine for U {
    fn process(
        &mut self,
        arrived: &mut Vec<u8>,
        opened: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Progress, Error> {
        let mut taken = 0;
        let outcome = loop {
            let UnbufferedStatus { mut discard, state, .. } = self.next(&mut arrived[taken..]);
            let mut has_opened = false;
            let done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    has_opened = true;
                    let mut outcome = None;
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                opened.extend_from_slice(record.payload);
                                discard += record.discard;
                            }
                            Err(error) => outcome = Some(Err(error)),
                        }
                    }
                    outcome
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(sealed, |space| data.encode(space).map_err(Encoding::from)).err().map(Err)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is transmitted before anything that is sealed later.
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Ok(Progress::Handshaking)),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Ok(Progress::Open)),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Ok(Progress::Ended)),
                Ok(_) => Some(Err(Error::General("an unknown state of TLS".to_owned()))),
                Err(error) => Some(Err(error)),
            };
            taken += discard;
            if let Some(outcome) = done {
                break outcome;
            }
            // Most often a record brings a message and nothing else is due: that need not be asked.
            if has_opened && taken == arrived.len() && !self.common().wants_write() {
                break Ok(Progress::Open);
            }
        };
        if outcome.is_err() {
            encode_alerts(self, sealed);
        }
        arrived.drain(..taken);
        match outcome? {
            // A server may write before it has heard all of the handshake, but has no reason to.
            Progress::Open if self.common().is_handshaking() => Ok(Progress::Handshaking),
            progress => Ok(progress),
        }
    }

    fn write(&mut self, held: &mut Vec<u8>, sealed: &mut Vec<u8>, what: Write<'_>) -> Result<(), Error> {
        loop {
            match self.next(held).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return match what {
                        Write::Bytes(bytes) => {
                            sealed.reserve_exact(bytes.len() + 64 * bytes.len().div_ceil(MAX_PAYLOAD));
                            encode(sealed, |space| traffic.encrypt(bytes, space).map_err(Encoding::from))
                        }
                        Write::End => encode(sealed, |space| traffic.queue_close_notify(space).map_err(Encoding::from)),
                    };
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(sealed, |space| data.encode(space).map_err(Encoding::from))?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                // The peer may end its direction before we end ours. It is said once.
                ConnectionState::PeerClosed => {}
                _ => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    fn common(&self) -> &CommonState {
        Unbuffered::common(self)
    }
}

/// Why something was not encoded.
enum Encoding {
    /// It needs so much space.
    NeedsSpace(usize),
    Failed(Error),
}

impl From<EncodeError> for Encoding {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(needed) => Self::NeedsSpace(needed.required_size),
            EncodeError::AlreadyEncoded => Self::Failed(Error::General("encoded twice".to_owned())),
        }
    }
}

impl From<EncryptError> for Encoding {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(needed) => Self::NeedsSpace(needed.required_size),
            EncryptError::EncryptExhausted => Self::Failed(Error::EncryptError),
        }
    }
}

/// Appends what `write` puts into the space that it is given, which is as much as it says it needs.
fn encode(bytes: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, Encoding>) -> Result<(), Error> {
    let before = bytes.len();
    let mut space = bytes.capacity() - before;
    loop {
        bytes.resize(before + space, 0);
        match write(&mut bytes[before..]) {
            Ok(count) => {
                bytes.truncate(before + count);
                return Ok(());
            }
            Err(Encoding::NeedsSpace(needed)) if needed > space => space = needed,
            Err(outcome) => {
                bytes.truncate(before);
                return Err(match outcome {
                    Encoding::NeedsSpace(_) => Error::General("no space is enough".to_owned()),
                    Encoding::Failed(error) => error,
                });
            }
        }
    }
}

/// After an error: what tells the peer of it. rustls must not see again what it has refused, nor anything after it.
fn encode_alerts(connection: &mut impl Unbuffered, sealed: &mut Vec<u8>) {
    while connection.common().wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.next(&mut []).state else { return };
        let _ = encode(sealed, |space| data.encode(space).map_err(Encoding::from));
    }
}

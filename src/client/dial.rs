//! From a URL to an open connection: addresses, TCP, directly or [through a proxy](super::proxy), and the client's side
//! of the opening handshake (RFC 6455 section 4.1). Its rules are in [`crate::http::upgrade`]; here are the I/O and the
//! deadlines. All bytes pass through [`socket::read_before`] and [`socket::write_before`].

use std::io::{self, Read};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::{Duration, Instant};

#[cfg(unix)]
use socket2::{Domain, SockAddr, Socket, Type};
use tungstenite::handshake::client::generate_key;

#[cfg(feature = "tls")]
use super::target::Location;
use super::target::Target;
use super::{ConnectError, race};
#[cfg(feature = "deflate")]
use crate::deflate::negotiation::{self, Agreed};
#[cfg(unix)]
use crate::http::forwarded::UNIX_PEER;
use crate::http::head::{HeadBuffer, HeadError};
use crate::http::request::Request;
use crate::http::response::ResponseHead;
#[cfg(feature = "deflate")]
use crate::http::upgrade::Accepted;
use crate::http::upgrade::UpgradeRequest;
#[cfg(feature = "tls")]
use crate::tls::TlsError;
#[cfg(feature = "tls")]
use crate::tls::handshake::{self, Begin, Handshake, HandshakeError};
#[cfg(feature = "tls")]
use crate::tls::session::Session;
#[cfg(feature = "topics")]
use crate::topics::SUBPROTOCOL;
use crate::transport::socket;
use crate::transport::stream::Stream;

/// The result of a successful attempt.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    /// The server, or the proxy before it.
    pub(crate) peer: SocketAddr,
    pub(crate) request: Request,
    pub(crate) subprotocol: Option<String>,
    /// The compression that the server has agreed to.
    #[cfg(feature = "deflate")]
    pub(crate) agreed: Option<Agreed>,
    /// The bytes received after the response.
    pub(crate) tail: Vec<u8>,
}

/// A way to the server on which nothing has been said yet.
pub(super) struct Way {
    pub(super) stream: Stream,
    /// The other end of the socket: the server, or the proxy before it.
    pub(super) peer: SocketAddr,
    /// What the proxy's answer was followed by. Few servers speak before they are spoken to, but one that has no room
    /// may.
    pub(super) early: Vec<u8>,
    /// For everything that is still to come of the opening.
    pub(super) deadline: Instant,
}

impl Target {
    /// Makes one attempt: connects to the first address that answers, and performs the opening handshake there.
    pub(crate) fn dial(&self, handshake_timeout: Duration) -> Result<Dialed, ConnectError> {
        let way = match self.proxy()? {
            None => {
                let (stream, peer) = self.connect()?;
                let deadline = Instant::now() + handshake_timeout;
                socket::set_options(&stream).map_err(ConnectError::Lost)?;
                Way { stream, peer, early: Vec::new(), deadline }
            }
            Some(proxy) => proxy.connect(self, handshake_timeout)?,
        };
        #[cfg(feature = "tls")]
        let way = self.secure(way)?;
        let Way { stream, peer, early, deadline } = way;
        let key = generate_key();
        let offer = self.offered_extensions();
        let asked = self.upgrade_request(&key, offer.as_deref());
        let head = asked.encode();
        let request = Request::from_bytes(head.as_bytes(), peer)
            .ok_or_else(|| ConnectError::Invalid("the request is not valid HTTP, or has too many headers".into()))?;
        send(&stream, head.as_bytes(), deadline)?;
        let (response, tail) = receive(&stream, early, deadline)?;
        let accepted = asked.check_response(&response)?;
        #[cfg(feature = "topics")]
        if self.needs_topics && accepted.subprotocol.as_deref() != Some(SUBPROTOCOL) {
            return Err(ConnectError::NoTopics);
        }
        Ok(Dialed {
            stream,
            peer,
            request,
            #[cfg(feature = "deflate")]
            agreed: self.agreed(&accepted)?,
            subprotocol: accepted.subprotocol,
            tail,
        })
    }

    #[cfg(feature = "deflate")]
    fn offered_extensions(&self) -> Option<String> {
        self.deflate.as_ref().map(negotiation::offer)
    }

    #[cfg(not(feature = "deflate"))]
    #[allow(clippy::unused_self, reason = "there are none")]
    fn offered_extensions(&self) -> Option<String> {
        None
    }

    #[cfg(feature = "deflate")]
    fn agreed(&self, accepted: &Accepted) -> Result<Option<Agreed>, ConnectError> {
        match &self.deflate {
            Some(deflate) => {
                negotiation::check_answer(deflate, &accepted.extensions).map_err(ConnectError::BadResponse)
            }
            None => Ok(None),
        }
    }

    /// Performs the handshake of TLS, if the URL asks for it. The thread of an attempt ends with it, however deep its
    /// stack has become.
    #[cfg(feature = "tls")]
    fn secure(&self, mut way: Way) -> Result<Way, ConnectError> {
        let Location { is_secure: true, host, authority, .. } = &self.location else { return Ok(way) };
        let Way { stream, deadline, .. } = &way;
        let (mut early, deadline) = (&way.early[..], *deadline);
        let session = self.tls.config().and_then(|config| Session::client(config, self.tls.name_for(host)?, authority));
        let session = session.map_err(ConnectError::Tls)?;
        let read = |space: &mut [u8]| match early.read(space)? {
            0 => socket::read_before(stream, space, deadline),
            count => Ok(Some(count)),
        };
        match handshake::perform(Begin::Client(session), stream, deadline, Handshake::computed, read) {
            // Nothing is left of it: no handshake ends by bytes from before it began.
            Ok(_) => {
                way.early.clear();
                Ok(way)
            }
            Err(HandshakeError::Tls(error)) => Err(ConnectError::Tls(error)),
            Err(HandshakeError::TimedOut) => Err(ConnectError::TimedOut),
            Err(HandshakeError::Lost(error)) => Err(ConnectError::Lost(error)),
            // Either it closed the connection without a word, or the time is over.
            Err(HandshakeError::Silent | HandshakeError::PlainHttp) if Instant::now() >= deadline => {
                Err(ConnectError::TimedOut)
            }
            Err(HandshakeError::Silent | HandshakeError::PlainHttp) => {
                Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }

    /// The connect timeout begins once the name is resolved: a slow name server does not shorten it.
    fn connect(&self) -> Result<(Stream, SocketAddr), ConnectError> {
        #[cfg(unix)]
        if let Some(path) = &self.location.unix_path {
            let stream = connect_to_unix_socket(path, self.connect_timeout).map_err(not_connected)?;
            return Ok((stream, UNIX_PEER));
        }
        let addresses = (self.resolve)(&self.location.host, self.location.port).map_err(ConnectError::Resolve)?;
        race::connect(addresses, self.connect_timeout).map_err(not_connected)
    }

    fn upgrade_request<'a>(&'a self, key: &'a str, extensions: Option<&'a str>) -> UpgradeRequest<'a> {
        let (authority, target) = (&*self.location.authority, &*self.location.path);
        UpgradeRequest { authority, target, key, subprotocols: &self.subprotocols, extensions, headers: &self.headers }
    }
}

/// Connects to a Unix socket. If there is no room for one more client to wait, it waits for that.
#[cfg(unix)]
fn connect_to_unix_socket(path: &Path, timeout: Duration) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The limit of connect(2) here.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    socket.set_write_timeout(None)?;
    Ok(Stream::new(socket))
}

/// A host where nobody listens refuses. What is reset had been accepted, perhaps before we could look.
fn not_connected(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ConnectError::Lost(error),
        _ => ConnectError::Unreachable(error),
    }
}

fn send(stream: &Stream, head: &[u8], deadline: Instant) -> Result<(), ConnectError> {
    socket::write_before(stream, head, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => lost(error),
    })
}

/// A connection that was lost in the middle of its opening handshake. In TLS 1.3 a client learns only after its own
/// part of the handshake that its certificate was refused.
fn lost(error: io::Error) -> ConnectError {
    #[cfg(feature = "tls")]
    let error = match error.downcast::<TlsError>() {
        Ok(error) => return ConnectError::Tls(error),
        Err(error) => error,
    };
    ConnectError::Lost(error)
}

fn receive(stream: &Stream, early: Vec<u8>, deadline: Instant) -> Result<(ResponseHead, Vec<u8>), ConnectError> {
    read_head(stream, early, deadline).map_err(|error| match error {
        NoHead::TimedOut => ConnectError::TimedOut,
        NoHead::Lost(error) => lost(error),
        NoHead::Bad(what) => ConnectError::BadResponse(what),
    })
}

/// Why the head of a response was not read.
pub(super) enum NoHead {
    TimedOut,
    Lost(io::Error),
    Bad(&'static str),
}

/// Reads the head of a response, after what came `early`. The second part of the result is what came after it.
pub(super) fn read_head(stream: &Stream, early: Vec<u8>, deadline: Instant) -> Result<(ResponseHead, Vec<u8>), NoHead> {
    let mut buffer = HeadBuffer::new();
    let mut early = &early[..];
    loop {
        let count = match early.read(buffer.space()) {
            Ok(count @ 1..) => count,
            _ => match socket::read_before(stream, buffer.space(), deadline).map_err(NoHead::Lost)? {
                None => return Err(NoHead::TimedOut),
                Some(0) => return Err(NoHead::Lost(io::ErrorKind::UnexpectedEof.into())),
                Some(count) => count,
            },
        };
        let complete = buffer.filled(count, ResponseHead::parse).map_err(|error| NoHead::Bad(bad_response(error)))?;
        if let Some((response, mut tail)) = complete {
            tail.extend_from_slice(early);
            return Ok((response, tail));
        }
    }
}

fn bad_response(error: HeadError) -> &'static str {
    match error {
        HeadError::TooLarge => "the head of its response is too large",
        HeadError::TooManyHeaders => "its response has too many headers",
        HeadError::UnsupportedVersion | HeadError::NotHttp => "its response is not HTTP",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn an_address_that_accepts_and_resets_was_reached_and_one_that_refuses_was_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for has_ended_before in [false, true] {
            let stream = TcpStream::connect(address).unwrap();
            let accepted = listener.accept().unwrap().0;
            if has_ended_before {
                accepted.shutdown(std::net::Shutdown::Write).unwrap();
            }
            SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).unwrap();
            drop(accepted);
            let error = loop {
                match stream.take_error().unwrap() {
                    Some(error) => break error,
                    None => thread::yield_now(),
                }
            };
            assert!(matches!(not_connected(error), ConnectError::Lost(_)));
        }
        drop(listener);
        let refused = race::connect(vec![address], Duration::from_secs(60)).unwrap_err();
        assert!(matches!(not_connected(refused), ConnectError::Unreachable(_)));
    }
}

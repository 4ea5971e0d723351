//! From a URL to an open connection: addresses, TCP, and the client's side of the opening handshake (RFC 6455 section
//! 4.1).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tungstenite::handshake::client::generate_key;

use super::answer::{Agreed, Question};
use super::target::Target;
use super::{ConnectError, race};
use crate::http::request::Request;
use crate::transport::socket;

/// What a successful dial gives.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) request: Request,
    pub(crate) subprotocol: Option<String>,
    /// What was received after the answer.
    pub(crate) tail: Vec<u8>,
}

impl Target {
    /// One attempt: the first address that answers, and the opening handshake there.
    pub(crate) fn dial(&self, handshake_timeout: Duration) -> Result<Dialed, ConnectError> {
        let (stream, peer) = self.connect()?;
        let deadline = Instant::now() + handshake_timeout;
        socket::set_options(&stream).map_err(ConnectError::Lost)?;
        let key = generate_key();
        let head = self.request_head(&key);
        socket::write_before(&stream, head.as_bytes(), deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ConnectError::TimedOut,
            _ => ConnectError::Lost(error),
        })?;
        let question = Question { key: &key, subprotocols: &self.subprotocols };
        let Agreed { subprotocol, tail } = question.read_answer(&stream, deadline)?;
        let request = Request::parse(head.as_bytes(), peer).ok().flatten();
        let (request, _) = request.ok_or(ConnectError::BadAnswer("our own request is not valid"))?;
        Ok(Dialed { stream, peer, request, subprotocol, tail })
    }

    /// The connect timeout begins when the name is resolved: a slow name server leaves no less for connecting.
    fn connect(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let addresses = (self.resolve)(&self.location.host, self.location.port).map_err(ConnectError::Resolve)?;
        race::connect(addresses, self.connect_timeout).map_err(ConnectError::Unreachable)
    }
}

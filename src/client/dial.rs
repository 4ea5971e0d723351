//! From a URL to an open connection: addresses, TCP, and the client's side of the opening handshake (RFC 6455 section
//! 4.1).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::target::Target;
use super::{ConnectError, race};
use crate::request::Request;
use crate::tcp;

/// What a successful dial gives.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) request: Request,
    pub(crate) subprotocol: Option<String>,
    /// What was received behind the answer.
    pub(crate) tail: Vec<u8>,
}

impl Target {
    /// Connects to the first address that answers, and does the opening handshake there.
    pub(crate) fn dial(&self, handshake_timeout: Duration) -> Result<Dialed, ConnectError> {
        let (stream, peer) = self.connect()?;
        let deadline = Instant::now() + handshake_timeout;
        tcp::prepare(&stream).map_err(ConnectError::Lost)?;
        let key = generate_key();
        let head = self.request_head(&key);
        tcp::write_before(&stream, head.as_bytes(), deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ConnectError::TimedOut,
            _ => ConnectError::Lost(error),
        })?;
        let (subprotocol, tail) = self.read_answer(&stream, &key, deadline)?;
        let request = Request::parse(head.as_bytes(), peer).ok().flatten();
        let (request, _) = request.ok_or(ConnectError::BadAnswer("our own request is not valid"))?;
        Ok(Dialed { stream, peer, request, subprotocol, tail })
    }

    /// The connect timeout begins when the name is resolved: a slow name server leaves no less for connecting.
    fn connect(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let addresses = (self.resolve)(&self.host, self.port).map_err(ConnectError::Resolve)?;
        race::connect(addresses, self.connect_timeout).map_err(ConnectError::Unreachable)
    }

    /// Reads the head of the answer. Gives the subprotocol and what came behind.
    fn read_answer(
        &self,
        stream: &TcpStream,
        key: &str,
        deadline: Instant,
    ) -> Result<(Option<String>, Vec<u8>), ConnectError> {
        const MAX_HEAD: usize = 16 * 1024;
        let mut head = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            match tcp::read_before(stream, &mut chunk, deadline).map_err(ConnectError::Lost)? {
                None => return Err(ConnectError::TimedOut),
                Some(0) => return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Some(count) => head.extend_from_slice(&chunk[..count]),
            }
            let mut headers = vec![httparse::EMPTY_HEADER; 100];
            let mut answer = httparse::Response::new(&mut headers);
            match answer.parse(&head) {
                Ok(httparse::Status::Complete(len)) => {
                    let subprotocol = self.check_answer(&answer, key)?;
                    return Ok((subprotocol, head[len..].to_vec()));
                }
                Ok(httparse::Status::Partial) if head.len() > MAX_HEAD => {
                    return Err(ConnectError::BadAnswer("the head of its answer is too large"));
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) => return Err(ConnectError::BadAnswer("its answer is not HTTP")),
            }
        }
    }

    /// What RFC 6455 section 4.1 demands of the answer.
    fn check_answer(&self, answer: &httparse::Response<'_, '_>, key: &str) -> Result<Option<String>, ConnectError> {
        let header = |name: &str| {
            let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let status = answer.code.unwrap_or(0);
        if status != 101 {
            let retry_after = header("Retry-After").and_then(|seconds| seconds.trim().parse().ok());
            return Err(ConnectError::Refused { status, retry_after: retry_after.map(Duration::from_secs) });
        }
        let has_token = |name: &str, token: &str| {
            header(name).is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
        };
        if !has_token("Upgrade", "websocket") || !has_token("Connection", "Upgrade") {
            return Err(ConnectError::BadAnswer("it does not upgrade to a WebSocket"));
        }
        if header("Sec-WebSocket-Accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(ConnectError::BadAnswer("its Sec-WebSocket-Accept is wrong"));
        }
        if header("Sec-WebSocket-Extensions").is_some_and(|extensions| !extensions.trim().is_empty()) {
            return Err(ConnectError::BadAnswer("it uses an extension that was not offered"));
        }
        match header("Sec-WebSocket-Protocol") {
            Some(chosen) if !self.subprotocols.iter().any(|offered| offered == chosen) => {
                Err(ConnectError::BadAnswer("it chose a subprotocol that was not offered"))
            }
            chosen => Ok(chosen.map(str::to_owned)),
        }
    }
}

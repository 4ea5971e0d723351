//! From a URL to an open connection: addresses, TCP, and the client's side of the opening handshake (RFC 6455 section
//! 4.1).

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::ConnectError;
use super::target::Target;
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
    /// Tries all addresses, and does the opening handshake with the first that answers.
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

    fn connect(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map_err(ConnectError::Resolve)?;
        connect_any(&addresses.collect::<Vec<_>>(), deadline).map_err(ConnectError::Unreachable)
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

/// Tries the addresses in turn. Each gets an even share of the time that is left, so that a silent one leaves some for
/// the others.
fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (index, address) in addresses.iter().enumerate() {
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
        if share.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_refusing_address_is_passed_over_and_the_last_error_told() {
        let address = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (dead, open) = (address().local_addr().unwrap(), address());
        let addresses = [dead, open.local_addr().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(30);
        assert_eq!(connect_any(&addresses, deadline).unwrap().1, addresses[1]);
        let error = connect_any(&addresses[..1], deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(&[], deadline).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_silent_address_leaves_time_for_the_next() {
        use socket2::{Domain, Socket, Type};
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&loopback.into()).unwrap();
        silent.listen(0).unwrap();
        let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
        // What fills its backlog is accepted by nobody; the rest is not even answered.
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&silent_address, Duration::from_millis(200)) {
            fill.push(stream);
            assert!(fill.len() < 100);
        }
        let open = TcpListener::bind(loopback).unwrap();
        let addresses = [silent_address, open.local_addr().unwrap()];
        let (_, reached) = connect_any(&addresses, Instant::now() + Duration::from_millis(600)).unwrap();
        assert_eq!(reached, addresses[1]);
    }
}

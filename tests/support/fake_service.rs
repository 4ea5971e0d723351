//! An authorization service made by hand, which answers as the test wants it: well, badly, or never.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use heartwire::topics::AuthService;

use super::{CEILING, receive};

/// A service that runs in threads of its own until it is dropped.
pub(crate) struct FakeService {
    address: SocketAddr,
    asked: Receiver<Asked>,
    is_over: Arc<AtomicBool>,
}

/// What it was asked: the head of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asked(String);

impl Asked {
    /// The path and the query.
    pub(crate) fn target(&self) -> &str {
        self.0.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of the only header of this name, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.0.split("\r\n").filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next().unwrap_or_default();
        assert_eq!(values.next(), None, "{name} twice in {self:?}");
        value
    }
}

impl FakeService {
    pub(crate) fn start(answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("a free port"), answer)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let (sender, asked) = unbounded();
        let is_over = Arc::<AtomicBool>::default();
        let (answer, is_it_over) = (Arc::new(answer), Arc::clone(&is_over));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept()
                && !is_it_over.load(SeqCst)
            {
                let (answer, sender) = (Arc::clone(&answer), sender.clone());
                thread::spawn(move || serve(stream, &sender, &*answer));
            }
        });
        Self { address, asked, is_over }
    }

    /// One that gives everybody the same answer.
    pub(crate) fn saying(status: u16, headers: &'static str, body: &'static str) -> Self {
        Self::start(move |_, stream| reply(stream, status, headers, body))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/auth", self.address)
    }

    /// What asks it.
    pub(crate) fn asker(&self) -> AuthService {
        AuthService::new(&self.url()).expect("a URL").timeout(CEILING)
    }

    /// The next question, in the order in which they came.
    pub(crate) fn asked(&self) -> Asked {
        receive("a question to the service", &self.asked)
    }

    /// How many questions came that were not looked at.
    pub(crate) fn unseen(&self) -> usize {
        self.asked.len()
    }
}

impl Drop for FakeService {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        // It waits in `accept`, and closes its port after that.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, sender: &Sender<Asked>, answer: &dyn Fn(&Asked, &mut TcpStream)) {
    stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
    stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let asked = Asked(String::from_utf8_lossy(&head).into_owned());
    let _ = sender.send(asked.clone());
    answer(&asked, &mut stream);
}

/// Answers. Whoever asked may have gone.
pub(crate) fn reply(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

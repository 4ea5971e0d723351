//! Clients that come, say one thing and go: TCP, TLS where it is asked for, opening handshake, one echo, closing
//! handshake, and the next.
//!
//! A few threads do it all by epoll, so that a thousand clients cost the load no thousand threads.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use crate::answers::{Answers, Dialect, Template};
use crate::channel::{Channel, Received, SCRATCH};
use crate::load::{Span, new_histogram};
use crate::process::Server;
use crate::wire::{self, Parser, Piece, wrong};
use crate::{interrupt, procfs, tls};

/// How a server is to be visited.
#[derive(Debug, Clone)]
pub(crate) struct Visits {
    /// Each has one connection at a time.
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    /// Whether each client resumes its session of TLS. Its first connection, which cannot, is not counted.
    pub(crate) resumes: bool,
    /// Not counted.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Connections that were over in the time, per second.
    pub(crate) rate: f64,
    /// Nanoseconds from the beginning to the opened connection, of those begun in the time.
    pub(crate) opening: Histogram<u64>,
    /// The server's processor time for each connection.
    pub(crate) processor: Duration,
    /// The load's own.
    pub(crate) own_processor: Duration,
    /// Connections that found no place in the server's backlog: their clients try again a second later.
    pub(crate) overflows: f64,
    /// Those of the connections that resumed a session, of 1.
    pub(crate) resumed: f64,
}

/// Runs it. `None` after Ctrl-C.
pub(crate) fn run(server: &Server, visits: &Visits) -> io::Result<Option<Outcome>> {
    let threads = visits.threads.min(visits.clients).max(1);
    let address = server.address;
    let dialect = server.dialect(false);
    let resumes = visits.resumes;
    // Every client needs its time to come.
    let from = Instant::now() + visits.warm_up + Duration::from_micros(500) * visits.clients as u32;
    let span = Span { from, until: from + visits.duration };
    let overflows = procfs::listen_overflows();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers = (thread..visits.clients).step_by(threads);
                scope.spawn(move || Worker::new(address, span)?.run(dialect, resumes, numbers))
            })
            .collect();
        let processors = span.processors(server);
        let (mut opening, mut count, mut resumed) = (new_histogram(), 0, 0);
        for worker in workers {
            let counted = worker.join().map_err(|_| io::Error::other("a thread of clients panicked"))??;
            opening.add(counted.opening).map_err(io::Error::other)?;
            count += counted.count;
            resumed += counted.resumed;
        }
        let [processor, own_processor] = processors.map(|time| time / count.max(1));
        let rate = f64::from(count) / visits.duration.as_secs_f64();
        let overflows = procfs::listen_overflows() - overflows;
        let resumed = f64::from(resumed) / f64::from(count.max(1));
        let outcome = Outcome { rate, opening, processor, own_processor, overflows, resumed };
        Ok((!interrupt::is_set()).then_some(outcome))
    })
}

/// A thread's share of the clients.
struct Worker {
    server: SocketAddr,
    span: Span,
    poll: Poll,
    opening: Histogram<u64>,
    /// Connections that were over in the time, and those of them that resumed a session.
    count: u32,
    resumed: u32,
}

impl Worker {
    /// How long the last connections may take. One that finds the backlog full tries again after 1, 3 and 7 seconds.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// Clients that are there at once. Each connection that ends brings one more, until all are there: a rush of a
    /// thousand would overrun the backlog of most servers before they have begun.
    const FIRST: usize = 8;

    fn new(server: SocketAddr, span: Span) -> io::Result<Self> {
        Ok(Self { server, span, poll: Poll::new()?, opening: new_histogram(), count: 0, resumed: 0 })
    }

    fn run(mut self, dialect: Dialect, resumes: bool, numbers: impl Iterator<Item = usize>) -> io::Result<Self> {
        // Slots are emptied when the time is over, lest a connection's last words count twice.
        let mut visitors: Vec<Option<Visitor>> = Vec::new();
        let mut clients = numbers.map(|number| Client::new(dialect, resumes, number));
        let mut present = 0;
        for client in clients.by_ref().take(Self::FIRST) {
            visitors.push(Some(Visitor::come(self.server, client, &self.poll, Token(present))?));
            present += 1;
        }
        let mut events = Events::with_capacity(1024);
        let mut scratch = [0; SCRATCH];
        while present > 0 && !interrupt::is_set() {
            match self.poll.poll(&mut events, Some(Duration::from_millis(100))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let slot = &mut visitors[event.token().0];
                let Some(visitor) = slot else { continue };
                if !visitor.serve(&mut scratch, event.is_read_closed())? {
                    continue;
                }
                let now = Instant::now();
                self.count(visitor, now);
                let client = Client { is_counted: true, ..visitor.client.clone() };
                *slot = None;
                if now >= self.span.until {
                    present -= 1;
                    continue;
                }
                *slot = Some(Visitor::come(self.server, client, &self.poll, event.token())?);
                if let Some(client) = clients.next() {
                    visitors.push(Some(Visitor::come(self.server, client, &self.poll, Token(visitors.len()))?));
                    present += 1;
                }
            }
            if Instant::now() >= self.span.until + Self::PATIENCE {
                let message = format!("{present} connections take more than {:?}", Self::PATIENCE);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
        }
        Ok(self)
    }

    fn count(&mut self, visitor: &Visitor, now: Instant) {
        if !visitor.client.is_counted {
            return;
        }
        let is_counted = self.span.contains(now);
        self.count += u32::from(is_counted);
        self.resumed += u32::from(is_counted && visitor.channel.has_resumed());
        // By the beginning, so that the slow ones count too, which are over after the time.
        if let Some(opening) = visitor.opening.filter(|_| self.span.contains(visitor.began)) {
            self.opening.saturating_record(opening.as_nanos() as u64);
        }
    }
}

/// Who comes again and again.
#[derive(Clone)]
struct Client {
    template: Template,
    /// For TLS. It remembers the sessions.
    config: Option<Arc<ClientConfig>>,
    is_counted: bool,
}

impl Client {
    fn new(dialect: Dialect, resumes: bool, number: usize) -> Self {
        let config = if resumes { tls::resuming_client } else { tls::careless_client };
        Self { template: Template::new(dialect, 20, number), config: dialect.is_tls.then(config), is_counted: !resumes }
    }
}

/// A connection from its beginning to its end.
struct Visitor {
    client: Client,
    channel: Channel,
    began: Instant,
    /// How long it took to open.
    opening: Option<Duration>,
    /// The first bytes, until the connection takes them.
    unsaid: Vec<u8>,
    stage: Stage,
}

enum Stage {
    /// The answer so far.
    Upgrading(Vec<u8>),
    Echoing(Answers),
    /// The end is awaited, after a Close frame of the server if it speaks WebSocket.
    Closing {
        parser: Parser,
        is_answered: bool,
    },
}

impl Visitor {
    /// Begins a connection. Mostly it is there at once, for both ends are on this machine.
    fn come(server: SocketAddr, client: Client, poll: &Poll, token: Token) -> io::Result<Self> {
        let began = Instant::now();
        let mut unsaid = Vec::with_capacity(256);
        let template = &client.template;
        let stage = if template.dialect().is_websocket {
            unsaid.extend_from_slice(wire::UPGRADE);
            Stage::Upgrading(Vec::new())
        } else {
            template.write(0, &mut unsaid);
            Stage::Echoing(template.answers(0))
        };
        let channel = Channel::begin_connect(server, client.config.clone())?;
        let mut visitor = Self { client, channel, began, opening: None, unsaid, stage };
        let interest =
            if visitor.is_connected()? { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        poll.registry().register(&mut SourceFd(&visitor.channel.stream().as_raw_fd()), token, interest)?;
        Ok(visitor)
    }

    /// Says the first bytes, if that is still to be done. Whether they are said.
    fn is_connected(&mut self) -> io::Result<bool> {
        if !self.unsaid.is_empty() {
            match self.channel.write(&self.unsaid) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                written => is_whole(written?, self.unsaid.len())?,
            }
            self.unsaid.clear();
        }
        // Over TLS that was sealed, and may not have left.
        match self.channel.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            flushed => flushed?,
        }
        if self.opening.is_none() && !self.client.template.dialect().is_websocket {
            self.opening = Some(self.began.elapsed());
        }
        Ok(true)
    }

    /// Does what can be done. Whether the connection is over. `is_ended`: the server's end is among what is to be read.
    fn serve(&mut self, scratch: &mut [u8], is_ended: bool) -> io::Result<bool> {
        if !self.is_connected()? {
            return Ok(false);
        }
        loop {
            let mut arrived = Vec::new();
            let received = self.channel.receive(scratch, |bytes| {
                arrived.extend_from_slice(bytes);
                Ok(())
            });
            match received {
                Ok(Received::End) => {
                    let is_due = matches!(self.stage, Stage::Closing { is_answered: true, .. });
                    return if is_due { Ok(true) } else { Err(wrong("its end")) };
                }
                Ok(received) => {
                    self.take(&arrived)?;
                    // Whatever comes later is another event.
                    if received == Received::All && !is_ended {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes bytes in. Where a stage is complete, says what leads to the next.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match &mut self.stage {
            Stage::Upgrading(answer) => {
                answer.extend_from_slice(bytes);
                let Some(end) = wire::upgraded(answer)? else { return Ok(()) };
                if end < answer.len() {
                    return Err(wrong("something before it was asked"));
                }
                self.opening = Some(self.began.elapsed());
                let mut request = Vec::with_capacity(64);
                self.client.template.write(0, &mut request);
                self.stage = Stage::Echoing(self.client.template.answers(0));
                is_whole(self.channel.write(&request)?, request.len())
            }
            Stage::Echoing(answers) => {
                answers.take(bytes, &mut Vec::new())?;
                if answers.number() == 1 { self.take_leave() } else { Ok(()) }
            }
            Stage::Closing { parser, is_answered } => {
                let was_answered = *is_answered;
                while let Some(piece) = parser.next(&mut bytes)? {
                    *is_answered |= matches!(piece, Piece::Begin(wire::CLOSE, _));
                }
                // Some servers close by themselves now, others wait for our end.
                if *is_answered && !was_answered { self.channel.stream().shutdown(Shutdown::Write) } else { Ok(()) }
            }
        }
    }

    /// A Close frame, and when it is answered our end. Over plain TCP our end at once.
    fn take_leave(&mut self) -> io::Result<()> {
        let is_websocket = self.client.template.dialect().is_websocket;
        self.stage = Stage::Closing { parser: Parser::default(), is_answered: !is_websocket };
        if !is_websocket {
            return self.channel.stream().shutdown(Shutdown::Write);
        }
        let mut farewell = Vec::with_capacity(16);
        wire::frame(&mut farewell, wire::CLOSE, &1000_u16.to_be_bytes());
        is_whole(self.channel.write(&farewell)?, farewell.len())
    }
}

/// A few bytes on a quiet connection: the socket takes them all.
fn is_whole(written: usize, len: usize) -> io::Result<()> {
    if written == len { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "a socket is full")) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Clients of a server that does this with each connection, for a twentieth of a second.
    fn visit(is_websocket: bool, serve: fn(TcpStream)) -> io::Result<(u64, u32)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            listener.incoming().for_each(|stream| drop(thread::spawn(move || serve(stream.unwrap()))))
        });
        let from = Instant::now();
        let span = Span { from, until: from + Duration::from_millis(50) };
        let dialect = Dialect { is_websocket, is_tls: false, text: false };
        let worker = Worker::new(address, span)?.run(dialect, false, 0..2 * Worker::FIRST)?;
        Ok((worker.opening.len(), worker.count))
    }

    #[test]
    fn connections_are_opened_used_and_closed_one_after_the_other() {
        let visits = visit(false, |stream| drop(io::copy(&mut &stream, &mut &stream)));
        let websocket_visits = visit(true, |stream| {
            let mut websocket = tungstenite::accept(stream).unwrap();
            while let Ok(message) = websocket.read() {
                if message.is_binary() {
                    websocket.send(message).unwrap();
                }
            }
        });
        for visits in [visits, websocket_visits] {
            let (opened, over) = visits.unwrap();
            // On a slow machine none may be over in the time, but all that were begun in it are waited for.
            assert!(opened >= Worker::FIRST as u64 && opened >= over.into(), "{opened} opened, {over} over");
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_fails_the_measurement() {
        let error = visit(false, |mut stream| {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        assert_eq!(error.unwrap_err().to_string(), wrong("its end").to_string());
    }

    #[test]
    fn a_close_that_is_not_answered_fails_the_measurement() {
        let error = visit(true, |stream| {
            let mut websocket = tungstenite::accept(stream).unwrap();
            let message = websocket.read().unwrap();
            websocket.send(message).unwrap();
            let _ = websocket.get_ref().shutdown(Shutdown::Write);
            let _ = io::copy(&mut websocket.get_ref(), &mut io::sink());
        });
        assert_eq!(error.unwrap_err().to_string(), wrong("its end").to_string());
    }
}

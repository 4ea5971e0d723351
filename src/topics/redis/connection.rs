//! A connection to Redis. The crate `redis` writes the commands and reads the answers; the socket is ours, and the
//! heartbeat that judges every peer of heartwire judges this one too.
//!
//! Invariants:
//! - While an answer is awaited, Redis is given up at the heartbeat's worst case: silent, stopped, or cut off.
//! - Nothing that is written here is a password: errors and logs show the address alone.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, Parser, Value, cmd};
#[cfg(feature = "tls")]
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::{Address, Sentinels};
use crate::connection::suspension;
use crate::heartbeat::{Action, Evidence, Heartbeat, HeartbeatPolicy};

/// How long a connection to one address may take to be made.
const CONNECT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is over, or could not be made.
    Lost(io::Error),
    /// Redis answers with an error: its code, such as `NOAUTH`, and the rest.
    Refused(String, String),
    /// It is not what it should be.
    Garbled(String),
}

impl Failure {
    fn garbled(error: &dyn fmt::Display) -> Self {
        Self::Garbled(format!("it does not answer as Redis does: {error}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => error.fmt(f),
            Self::Refused(code, rest) => write!(f, "it answers {code} {rest}"),
            Self::Garbled(what) => f.write_str(what),
        }
    }
}

/// An open connection.
pub(super) struct Connection {
    stream: Stream,
    parser: Parser,
}

enum Stream {
    Plain(Box<Watched>),
    #[cfg(feature = "tls")]
    Secured(Box<StreamOwned<ClientConnection, Watched>>),
}

/// A socket under a heartbeat.
struct Watched {
    socket: Socket,
    heartbeat: Heartbeat,
    arrived: u64,
    last_arrival: Instant,
    /// Since when the socket takes nothing.
    blocked_since: Option<Instant>,
    /// Why the parser came to no end.
    failure: Option<io::Error>,
}

impl Connection {
    /// Connects, and shows who we are. `hold` is given each socket before anything waits for it, so that another thread
    /// can shut it down.
    pub(super) fn open(
        address: &Address,
        policy: HeartbeatPolicy,
        hold: impl Fn(Socket) -> io::Result<()>,
    ) -> Result<Self, Failure> {
        let socket = match address.sentinels() {
            None => connect(address.place())?,
            Some(sentinels) => connect(&find_master(sentinels, policy, &hold)?)?,
        };
        hold(socket.try_clone()?)?;
        let stream = Stream::new(Watched::new(socket, policy), address)?;
        let mut connection = Self { stream, parser: Parser::new() };
        connection.introduce(address.info())?;
        if address.sentinels().is_some() {
            // A Sentinel may be behind, or Redis may.
            let role: Vec<Value> = connection.ask(&cmd("ROLE"))?;
            if role.first() != Some(&Value::BulkString(b"master".into())) {
                return Err(Failure::Garbled("it is not the master yet".to_owned()));
            }
        }
        Ok(connection)
    }

    fn introduce(&mut self, info: &ConnectionInfo) -> Result<(), Failure> {
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            self.ask::<Value>(auth.arg(password))?;
        }
        if settings.db() != 0 {
            self.ask::<Value>(cmd("SELECT").arg(settings.db()))?;
        }
        Ok(())
    }

    /// Asks one thing.
    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        self.send(&command.get_packed_command())?;
        self.answer()
    }

    /// Sends packed commands. Each is answered in its turn.
    pub(super) fn send(&mut self, commands: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(commands)?;
        Ok(self.stream.flush()?)
    }

    /// The next answer.
    pub(super) fn answer<T: FromRedisValue>(&mut self) -> Result<T, Failure> {
        let value = match self.parser.parse_value(&mut self.stream) {
            Ok(value) => value,
            Err(error) => {
                let lost = self.stream.watched().failure.take();
                return Err(match lost {
                    Some(lost) => Failure::Lost(lost),
                    None => Failure::garbled(&error),
                });
            }
        };
        match value {
            Value::ServerError(error) => {
                Err(Failure::Refused(error.code().to_owned(), error.details().unwrap_or_default().to_owned()))
            }
            value => redis::from_redis_value(value).map_err(|error| Failure::garbled(&error)),
        }
    }

    /// To be called while nothing is asked: asks for a sign of life when that is due. Returns how long the next one is
    /// off, and how long the answer took, if there was one.
    pub(super) fn keep(&mut self) -> Result<(Duration, Option<Duration>), Failure> {
        let watched = self.stream.watched();
        match watched.judge()? {
            Due::Wait(wait) => Ok((wait, None)),
            Due::Ping => Ok((Duration::ZERO, Some(self.ping()?))),
        }
    }

    /// Asks for a sign of life. Returns how long the answer took.
    pub(super) fn ping(&mut self) -> Result<Duration, Failure> {
        let asked = Instant::now();
        self.ask::<Value>(&cmd("PING"))?;
        Ok(asked.elapsed())
    }
}

impl Stream {
    #[cfg(feature = "tls")]
    fn new(watched: Watched, address: &Address) -> Result<Self, Failure> {
        let Some((config, name)) = address.tls().map_err(io::Error::other)? else {
            return Ok(Self::Plain(Box::new(watched)));
        };
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::Secured(Box::new(StreamOwned::new(session, watched))))
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unnecessary_wraps, reason = "TLS may fail")]
    fn new(watched: Watched, _: &Address) -> Result<Self, Failure> {
        Ok(Self::Plain(Box::new(watched)))
    }

    fn watched(&mut self) -> &mut Watched {
        match self {
            Self::Plain(watched) => watched,
            #[cfg(feature = "tls")]
            Self::Secured(stream) => &mut stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(watched) => watched.read(buffer),
            #[cfg(feature = "tls")]
            Self::Secured(stream) => stream.read(buffer),
        };
        // The parser tells no more of it than that there was an error.
        match read {
            Ok(0) => {
                self.watched().failure =
                    Some(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection"))
            }
            Err(error) => {
                self.watched().failure = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
            Ok(_) => {}
        }
        read
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(watched) => watched.write(bytes),
            #[cfg(feature = "tls")]
            Self::Secured(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(watched) => watched.flush(),
            #[cfg(feature = "tls")]
            Self::Secured(stream) => stream.flush(),
        }
    }
}

/// What the heartbeat wants.
enum Due {
    /// Nothing for so long.
    Wait(Duration),
    /// A sign of life, now.
    Ping,
}

impl Watched {
    fn new(socket: Socket, policy: HeartbeatPolicy) -> Self {
        let now = Instant::now();
        let heartbeat = Heartbeat::new(policy, now, 1.0);
        Self { socket, heartbeat, arrived: 0, last_arrival: now, blocked_since: None, failure: None }
    }

    /// Asks the heartbeat. A Ping that is due counts as sent.
    fn judge(&mut self) -> io::Result<Due> {
        loop {
            let now = Instant::now();
            let mut evidence = Evidence::new(self.arrived, self.last_arrival);
            evidence.blocked_since = self.blocked_since;
            evidence.suspended = suspension::so_far();
            let why = match self.heartbeat.judge(now, &evidence) {
                Action::Wait(until) => {
                    let wait = until.map_or(LONGEST_WAIT, |until| until.saturating_duration_since(now));
                    return Ok(Due::Wait(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)));
                }
                Action::Ping => {
                    self.heartbeat.ping_written(now, self.arrived);
                    return Ok(Due::Ping);
                }
                Action::Missed(_) => continue,
                Action::Dead(missed) => format!("it does not answer: {missed} of {missed} signs of life were missed"),
                Action::Stalled(limit) => format!("it takes nothing, for {} ms", limit.as_millis()),
            };
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }

    /// Tries something under a timeout of the socket, again and again, for as long as Redis is not dead.
    fn patiently(
        &mut self,
        set_timeout: fn(&Socket, Option<Duration>) -> io::Result<()>,
        mut attempt: impl FnMut(&mut Self) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            // What is asked already, or is being asked, is the Ping.
            let Due::Wait(wait) = self.judge()? else { continue };
            set_timeout(&self.socket, Some(wait))?;
            match attempt(self) {
                Err(error) if is_for_now(&error) => {}
                done => return done,
            }
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.patiently(Socket::set_read_timeout, |watched| (&watched.socket).read(buffer))?;
        self.arrived += read as u64;
        self.last_arrival = Instant::now();
        Ok(read)
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let began = Instant::now();
        let written = self.patiently(Socket::set_write_timeout, |watched| {
            let written = (&watched.socket).write(bytes);
            if written.as_ref().is_err_and(is_for_now) {
                watched.blocked_since.get_or_insert(began);
            }
            written
        });
        self.blocked_since = None;
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the Sentinels in turn which Redis is the master.
fn find_master(
    sentinels: &Sentinels,
    policy: HeartbeatPolicy,
    hold: &impl Fn(Socket) -> io::Result<()>,
) -> Result<ConnectionAddr, Failure> {
    let mut last = Failure::Garbled("no Sentinel is known".to_owned());
    for place in &sentinels.places {
        let ask = || {
            let socket = connect(place)?;
            hold(socket.try_clone()?)?;
            let mut sentinel =
                Connection { stream: Stream::Plain(Box::new(Watched::new(socket, policy))), parser: Parser::new() };
            let found: Option<(String, u16)> =
                sentinel.ask(cmd("SENTINEL").arg("get-master-addr-by-name").arg(&sentinels.master))?;
            let unknown = || Failure::Refused("nothing".to_owned(), format!("of a master {:?}", sentinels.master));
            found.map(|(host, port)| ConnectionAddr::Tcp(host, port)).ok_or_else(unknown)
        };
        match ask() {
            Ok(place) => return Ok(place),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// The limits of a socket's timeout: none may be 0, and a thread looks at times whether all is to end.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Tries all addresses of a host in turn.
fn connect(place: &ConnectionAddr) -> io::Result<Socket> {
    match place {
        ConnectionAddr::Tcp(host, port) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                match socket.connect_timeout(&address.into(), CONNECT) {
                    Ok(()) => {
                        socket.set_tcp_nodelay(true)?;
                        return Ok(socket);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect_timeout(&SockAddr::unix(path)?, CONNECT)?;
            Ok(socket)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

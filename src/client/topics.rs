//! A client of topics: it subscribes and publishes by the subprotocol `heartwire.topics.v1`, and misses nothing over
//! reconnections.
//!
//! `protocol` decides what is due and what a reply means, `wire` is its format, `link` joins it to the connection that
//! is open, and here is the loop of the thread that receives.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::backoff::{Failures, Hint};
use crate::client::{Attempt, Client, ClientHandle};
use crate::connection::Connection;
use crate::durations::clamp_duration;
use crate::error::Error;
use crate::foreign;
use crate::topics::{InvalidTopic, Position, SUBPROTOCOL};

mod delivery;
mod error;
mod handle;
mod link;
mod protocol;
mod wire;

pub use delivery::{Delivery, Member, MemberName, Presence, Subscription, Vitals};
pub use error::{PublishError, TopicRefusal};
pub use handle::{PendingPublish, TopicsHandle};
use link::{Life, Link};
use protocol::{Limits, Output, Protocol};

/// Gives the token for a connection.
type Token = Arc<dyn Fn() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + Sync>;

/// For how long a server knows a key again, unless it is set up otherwise, less what a request may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4 * 60);

/// A client of a server with topics. Made by [`Client::topics`]; subscribe, then call [`run`](Self::run).
///
/// A client that loses its connection subscribes again on the next from the last message that its handler has taken.
/// It gets what it missed, once and in order, or is told that some is [lost](Delivery::Lost).
///
/// ```no_run
/// use heartwire::{Client, Delivery};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let topics = Client::new("ws://127.0.0.1:9001/")?.topics();
///     topics.subscribe("news")?;
///     let handle = topics.handle(); // for other threads: subscribe, publish, stop
///     std::thread::spawn(move || handle.publish("chat", "good morning"));
///     topics.run(|delivery| {
///         match delivery {
///             Delivery::Message { topic, message, position, .. } => println!("{topic} {position}: {message:?}"),
///             Delivery::Lost { topic, .. } => println!("{topic}: some messages are lost"),
///             Delivery::Refused { topic, refusal, .. } => println!("{topic}: {refusal}"),
///             _ => {}
///         }
///         Ok(())
///     })?;
///     Ok(())
/// }
/// ```
#[must_use = "it does not connect until `run` is called"]
pub struct TopicsClient {
    client: Client,
    life: Life,
    token: Option<Token>,
}

impl Client {
    /// A client of the server's topics. It keeps all settings of this client, but for its
    /// [outbox](Self::outbox_size): what waits to be published has [its own](TopicsClient::outbox_size).
    ///
    /// It offers the subprotocol `heartwire.topics.v1` before all others. A server that does not accept it is
    /// [`ConnectError::NoTopics`](crate::ConnectError::NoTopics).
    pub fn topics(mut self) -> TopicsClient {
        self.target.subprotocols.retain(|subprotocol| subprotocol != SUBPROTOCOL);
        self.target.subprotocols.insert(0, SUBPROTOCOL.to_owned());
        self.target.needs_topics = true;
        self = self.outbox_size(0);
        let limits = Limits { outbox: 1024 * 1024, frame: self.settings.max_message_size, timeout: PUBLISH_TIMEOUT };
        let life = Life(Arc::new(Link::new(Protocol::new(limits))));
        TopicsClient { client: self, life, token: None }
    }
}

impl TopicsClient {
    /// How many bytes may wait to be published, without a connection or a reply. Default 1 MiB. Each message counts as
    /// the JSON that it is sent as, and 128 bytes more.
    pub fn outbox_size(self, bytes: usize) -> Self {
        self.life.0.lock().protocol.limits.outbox = bytes;
        self
    }

    /// How long a message may take to be published, from the call to the server's reply, over all connections. Default
    /// 4 minutes; clamped to 1 ms to 10 years.
    ///
    /// Keep it shorter than the server's [window](crate::topics::Topics::key_window) for keys, which is 5 minutes by
    /// default: when a message is sent again after that, the server does not know it again.
    pub fn publish_timeout(self, timeout: Duration) -> Self {
        self.life.0.lock().protocol.limits.timeout = clamp_duration(timeout);
        self
    }

    /// Shows the server this token. Default: none. The function is asked before each attempt to connect, and when the
    /// server says that the token is about to expire.
    ///
    /// For an attempt it runs in the thread of the attempt, after [`prepare`](Client::prepare), and the token goes
    /// into the header `Authorization: Bearer`. If it fails, so does the attempt, and the client retries after a
    /// pause. To renew a token it runs in the thread that called [`run`](Self::run), where it holds up messages. If it
    /// fails, or the server refuses the token, a warning is logged and it is asked again after a growing pause.
    ///
    /// A server that refuses the token of an attempt answers 401. That ends the client, unless
    /// [`give_up_if`](Client::give_up_if) decides otherwise.
    pub fn token<F>(mut self, token: F) -> Self
    where
        F: Fn() -> Result<String, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    {
        let token: Token = Arc::new(token);
        self.token = Some(Arc::clone(&token));
        let prepare = self.client.target.prepare.take();
        self.client = self.client.prepare(move |attempt: &mut Attempt| {
            if let Some(prepare) = &prepare {
                prepare(attempt)?;
            }
            attempt.header("Authorization", format!("Bearer {}", token()?));
            Ok(())
        });
        self
    }

    /// A handle to the client, for any thread. It works before [`run`](Self::run) too, but then nobody takes the
    /// replies that [`publish`](TopicsHandle::publish) waits for.
    pub fn handle(&self) -> TopicsHandle {
        TopicsHandle { link: Arc::clone(&self.life.0), client: self.client.handle() }
    }

    /// Subscribes to a topic: see [`TopicsHandle::subscribe`].
    ///
    /// # Errors
    /// [`InvalidTopic`] if the name is not that of a topic.
    pub fn subscribe(&self, subscription: impl Into<Subscription>) -> Result<(), InvalidTopic> {
        self.handle().subscribe(subscription)
    }

    /// Subscribes to a topic with what follows a position: see [`TopicsHandle::subscribe_since`].
    ///
    /// # Errors
    /// [`InvalidTopic`] if the name is not that of a topic.
    pub fn subscribe_since(&self, topic: &str, position: Position) -> Result<(), InvalidTopic> {
        self.handle().subscribe_since(topic, position)
    }

    /// Connects, reconnects when a connection is lost, and calls `handler` in this thread with all that comes, one
    /// after another.
    ///
    /// A message counts as taken when the handler has returned. While it works, the heartbeat goes on, and messages
    /// wait; so do the replies of the server, and with them all threads that [`publish`](TopicsHandle::publish). It
    /// must not wait for a reply itself ([`PublishError::InHandler`]), but it may
    /// [`try_publish`](TopicsHandle::try_publish).
    ///
    /// Returns `Ok` when the client is [stopped](TopicsHandle::stop). If the handler returns an error, the connection
    /// is closed with 1011, and the message that it was given does not count as taken. A panic does the same, and
    /// passes through.
    ///
    /// # Errors
    /// As [`Client::run`]: the handler's own, or what ends the client by [`give_up_if`](Client::give_up_if).
    pub fn run<H>(self, mut handler: H) -> Result<(), Error>
    where
        H: FnMut(Delivery) -> Result<(), Error>,
    {
        let Self { client, life, token } = self;
        let handle = client.handle();
        let failures = Failures::new(client.backoff.unwrap_or_default());
        life.0.runs_here();
        let link = Arc::clone(&life.0);
        let mut session = Session { link, client: handle, token, failures, failed_at: None, handler: &mut handler };
        // Nobody waits for a reply for ever, however this ends.
        let log = Farewell(life, client.handle());
        let result = client.run(|conn| session.serve(conn));
        drop(log);
        result
    }
}

/// Ends the life of a client, and logs what has come to nothing.
struct Farewell(Life, ClientHandle);

impl Drop for Farewell {
    fn drop(&mut self) {
        let Self(life, client) = self;
        life.end();
        while let Some(Output::Warn(line)) = life.0.next_output() {
            client.state.supervisor.log.warn(format_args!("{line}"));
        }
    }
}

/// The loop of the thread that receives, for all connections.
struct Session<'a, H> {
    link: Arc<Link>,
    client: ClientHandle,
    token: Option<Token>,
    /// The pauses before what has failed on an open connection is tried again.
    failures: Failures,
    failed_at: Option<Instant>,
    handler: &'a mut H,
}

impl<H> Session<'_, H>
where
    H: FnMut(Delivery) -> Result<(), Error>,
{
    /// Serves a connection until it ends.
    fn serve(&mut self, conn: &mut Connection) -> Result<(), Error> {
        let link = Arc::clone(&self.link);
        let _line = link.open(conn.shared());
        let mut retry_at = None;
        loop {
            self.take_outputs(conn)?;
            link.send_due();
            if link.lock().protocol.wants_retry() {
                retry_at.get_or_insert_with(|| self.next_retry());
            }
            let received = match retry_at {
                None => Some(conn.recv()?),
                Some(at) => conn.recv_timeout(at.saturating_duration_since(Instant::now()))?,
            };
            if let Some(message) = received {
                link.lock().protocol.received(&message);
            }
            if retry_at.is_some_and(|at| at <= Instant::now()) {
                retry_at = None;
                link.lock().protocol.retry();
            }
        }
    }

    fn next_retry(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(failed_at) = self.failed_at.replace(now) {
            self.failures.was_open_for(now.saturating_duration_since(failed_at));
        }
        now + self.failures.next_delay(Hint::Nothing, rand::random())
    }

    /// Calls the handler, and does what else comes of what was received.
    fn take_outputs(&mut self, conn: &Connection) -> Result<(), Error> {
        while let Some(output) = self.link.next_output() {
            match output {
                Output::Deliver(_) if self.client.state.is_stopping() => {}
                Output::Deliver(delivery) => {
                    let taken = match &delivery {
                        Delivery::Message { topic, position, .. } | Delivery::Lost { topic, position } => {
                            Some((topic.clone(), *position))
                        }
                        _ => None,
                    };
                    (self.handler)(delivery)?;
                    if let Some((topic, position)) = taken {
                        self.link.lock().protocol.taken(&topic, position);
                    }
                }
                Output::TokenExpiring => self.renew_token(conn),
                Output::Warn(line) => self.warn(conn, &line),
            }
        }
        Ok(())
    }

    fn renew_token(&self, conn: &Connection) {
        // One that came by other means cannot be renewed.
        let Some(token) = &self.token else { return };
        let asked = foreign::call(|| token()).unwrap_or_else(|panic| Err(format!("it panicked: {panic}").into()));
        match asked {
            Ok(token) => self.link.lock().protocol.authenticate(token),
            Err(error) => {
                self.warn(conn, &format!("there is no new token: {}", foreign::display_text(&error)));
                foreign::dispose(error);
                self.link.lock().protocol.token_failed();
            }
        }
    }

    fn warn(&self, conn: &Connection, line: &str) {
        self.client.state.supervisor.log.warn(format_args!("{}: {line}", conn.shared().identity));
    }
}

impl fmt::Debug for TopicsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicsClient").field("client", &self.client).finish_non_exhaustive()
    }
}

//! A client that runs in a thread of its own, and what it tells.

use std::fmt::Display;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use heartwire::{Backoff, Client, ClientHandle, CloseReport, ConnectError, Connection, Error, Event, HeartbeatPolicy};

#[cfg(feature = "tls")]
use super::tls;
use super::{CEILING, Events, ms, over_tls};

/// A client without a heartbeat that comes back quickly: a test that is about these sets its own.
pub(crate) fn client(address: SocketAddr) -> Client {
    client_for(&url(address, "/")).heartbeat(HeartbeatPolicy::off()).reconnect(quick())
}

/// A client with no settings, but that it trusts the tests' certificates.
pub(crate) fn client_for(url: &str) -> Client {
    let client = Client::new(url).expect("a valid URL");
    #[cfg(feature = "tls")]
    let client = if over_tls::is_on() { client.tls(tls::client_tls()) } else { client };
    client
}

/// The URL of a server that speaks whatever the tests run over.
pub(crate) fn url(authority: impl Display, target: &str) -> String {
    let scheme = if over_tls::is_on() { "wss" } else { "ws" };
    format!("{scheme}://{authority}{target}")
}

/// Comes back at once, more or less.
pub(crate) fn quick() -> Backoff {
    Backoff::default().first(ms(20)).longest(ms(100)).after_restart(ms(50), ms(100))
}

/// The handler of a client that only listens.
pub(crate) fn listen(conn: &mut Connection) -> Result<(), Error> {
    loop {
        conn.recv()?;
    }
}

/// Runs a client in a thread of its own until it is dropped.
pub(crate) fn run<H>(client: Client, handler: H) -> RunningClient
where
    H: FnMut(&mut Connection) -> Result<(), Error> + Send + 'static,
{
    let handle = client.handle();
    let events = Events::new(handle.events());
    let (sender, ended) = bounded(1);
    thread::spawn(move || {
        let _ = sender.send(client.run(handler));
    });
    RunningClient { handle, events, ended }
}

/// A client that runs. Dropping it stops it and waits for its end.
pub(crate) struct RunningClient {
    pub(crate) handle: ClientHandle,
    pub(crate) events: Events,
    ended: Receiver<Result<(), Error>>,
}

impl RunningClient {
    /// Waits for `run` to return.
    pub(crate) fn result(&self) -> Result<(), Error> {
        self.ended.recv_timeout(CEILING).expect("run returns")
    }

    /// Waits for `run` to return, which must be because of a connection that did not come to be.
    pub(crate) fn not_connected(&self) -> ConnectError {
        match self.result() {
            Err(Error::Connect(error)) => error,
            other => panic!("{other:?} instead of an error of connecting"),
        }
    }

    /// Whether `run` has not returned so far.
    pub(crate) fn runs_on(&self) -> bool {
        self.ended.is_empty()
    }

    /// Stops the client, and says how long `run` took to return.
    pub(crate) fn stop(&self) -> Duration {
        let start = Instant::now();
        self.handle.stop();
        self.result().expect("stopped, and so ends without an error");
        start.elapsed()
    }

    pub(crate) fn closed(&self) -> CloseReport {
        self.events.closed()
    }

    pub(crate) fn connecting(&self) -> u32 {
        self.events.wait_for("Connecting", |event| match event {
            Event::Connecting { attempt, .. } => Some(*attempt),
            _ => None,
        })
    }

    pub(crate) fn retrying(&self) -> Duration {
        self.events.wait_for("Retrying", |event| match event {
            Event::Retrying { delay, .. } => Some(*delay),
            _ => None,
        })
    }

    pub(crate) fn connect_failed(&self) -> (String, bool) {
        self.events.wait_for("ConnectFailed", |event| match event {
            Event::ConnectFailed { error, is_fatal, .. } => Some((error.clone(), *is_fatal)),
            _ => None,
        })
    }

    /// What was told up to the end, in short: names of events, and of the causes of closures.
    pub(crate) fn story(&self) -> Vec<String> {
        self.events.rest().iter().map(in_short).collect()
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.handle.stop();
        // A test that waited for the end itself has taken the result already.
        let hangs = self.ended.recv_timeout(CEILING).is_err_and(|error| error.is_timeout());
        assert!(!hangs || thread::panicking(), "the client does not end");
    }
}

fn in_short(event: &Event) -> String {
    match event {
        Event::Connecting { attempt, .. } => format!("connecting {attempt}"),
        Event::ConnectFailed { is_fatal, .. } => (if *is_fatal { "fatal" } else { "failed" }).to_owned(),
        Event::Retrying { .. } => "retrying".to_owned(),
        Event::Opened { id, .. } => format!("opened {id}"),
        Event::Closed(report) => format!("closed {} {}", report.id, report.reason.name()),
        Event::Missed { missed, .. } => format!("missed {missed}"),
        other => format!("{other:?}"),
    }
}

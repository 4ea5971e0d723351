//! `heartwire check`: whether a server takes a connection and answers a Ping, for health checks and scripts.
//!
//! One line says so, and the exit status. It makes one attempt, logs nothing unless asked to, and is over in time
//! whatever the peer does: a thread of its own runs the client, and `main` waits for it no longer than it may.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select};
use heartwire::{Client, CloseReason, ConnectError, Error, HeartbeatPolicy, ProxyErrorKind};

use crate::Failure;
use crate::cli::CheckOptions;
use crate::output;

/// How long the server may take for the closing handshake. That it answers is known by then, so this changes nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn run(options: &CheckOptions) -> Result<(), Failure> {
    let deadline = Instant::now() + options.timeout;
    let client = client(options).map_err(Failure::of_client)?;
    output::start_log(&options.log)?;
    options.tls.warn();
    let handle = client.handle();
    let (open, opened) = bounded(1);
    let (end, ended) = bounded(1);
    let runner = thread::Builder::new().name("heartwire-check".to_owned()).spawn(move || {
        let result = client.run(|conn| {
            // Nobody takes it any more if the time is over.
            let _ = open.try_send(conn.sender().ping()?);
            loop {
                conn.recv()?;
            }
        });
        let _ = end.try_send(result);
    });
    runner.map_err(|error| format!("cannot start a thread: {error}"))?;

    let url = options.opening.url_without_query();
    let round_trip = answer(options, &opened, &ended, deadline).map_err(|what| format!("{url}: {what}"))?;
    // Printing fractions takes a small program 15 KiB.
    let hundredths = (round_trip.as_nanos() + 5_000) / 10_000;
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    output::say(&options.log, &format!("ok: {url} round trip {whole}.{rest:02} ms"));
    handle.stop();
    let _ = ended.recv_deadline(deadline);
    Ok(())
}

/// A client as the options want it.
fn client(options: &CheckOptions) -> Result<Client, Error> {
    let client = options.proxy.apply_to(options.tls.apply_to(options.opening.client()?)?);
    let client = options.subprotocols.apply_to(client);
    let client = client.no_reconnect().heartbeat(HeartbeatPolicy::off());
    let client = client.connect_timeout(options.connect_timeout()).handshake_timeout(options.handshake_timeout());
    Ok(client.close_timeout(CLOSE_TIMEOUT))
}

/// Waits for the Pong: its round trip, or what is wrong and what to do.
fn answer(
    options: &CheckOptions,
    opened: &Receiver<Receiver<Duration>>,
    ended: &Receiver<Result<(), Error>>,
    deadline: Instant,
) -> Result<Duration, String> {
    let within = humantime::format_duration(options.timeout);
    let pong = select! {
        recv(opened) -> pong => pong.map_err(|_| not_open(ended, deadline))?,
        default(deadline.saturating_duration_since(Instant::now())) => {
            let advice = "see whether the host can be reached, or raise --timeout";
            return Err(format!("no connection within {within}; {advice}"));
        }
    };
    pong.recv_deadline(deadline).map_err(|why| match why {
        RecvTimeoutError::Timeout => format!(
            "connected, but no Pong within {within}; the server is held up or answers no Pings: look at it, or raise \
             --timeout"
        ),
        RecvTimeoutError::Disconnected => match ended.recv_deadline(deadline) {
            Ok(Err(Error::Closed(reason))) => closed(&reason),
            Ok(Err(error)) => error.to_string(),
            _ => "closed before its Pong; look at the server's log".to_owned(),
        },
    })
}

/// Why there was no connection.
fn not_open(ended: &Receiver<Result<(), Error>>, deadline: Instant) -> String {
    match ended.recv_deadline(deadline) {
        // It says by itself what to do.
        #[cfg(feature = "tls")]
        Ok(Err(Error::Connect(ConnectError::Tls(error)))) => error.to_string(),
        // A proxy of the environment; likewise.
        Ok(Err(Error::Connect(ConnectError::Invalid(what)))) => what,
        Ok(Err(Error::Connect(error))) => format!("{error}; {}", advice(&error)),
        Ok(Err(Error::Closed(reason))) => closed(&reason),
        Ok(Err(error)) => error.to_string(),
        _ => "no connection".to_owned(),
    }
}

fn closed(reason: &CloseReason) -> String {
    format!("connection closed before a Pong: {reason}; look at the server's log")
}

/// What to do about an attempt that failed.
fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Resolve(_) => "check the host's name",
        ConnectError::Unreachable(_) => "check that the server runs, and its address",
        ConnectError::Refused { status: 401 | 403, .. } => "send what it asks for by --header",
        ConnectError::Refused { status: 429 | 500.., .. } => "it is full, or ends, or fails: look at its log",
        ConnectError::Refused { .. } | ConnectError::BadResponse(_) => {
            "check that the URL, with its path, is that of a WebSocket"
        }
        ConnectError::Proxy(error) => match error.kind() {
            ProxyErrorKind::Credentials(_) => "give it as --proxy, or in the environment",
            ProxyErrorKind::Resolve(_) | ProxyErrorKind::Unreachable(_) | ProxyErrorKind::BadResponse(_) => {
                "check --proxy and the environment, or connect directly by --noproxy '*'"
            }
            _ => "check that it may and can reach the server, or connect directly by --noproxy '*'",
        },
        ConnectError::TimedOut => "the server is held up, or is no WebSocket server: look at it, or raise the timeouts",
        _ => "look at the server's log",
    }
}

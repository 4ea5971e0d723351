//! `heartwire connect`: a client for the command line.
//!
//! Lines from standard input are sent, messages are printed on standard output, and what happens to the connection is
//! logged. At the end of standard input what is left is sent, then the connection is closed with 1000.

use std::io::{self, BufRead, Write};
use std::thread;
use std::time::Duration;

use heartwire::{Backoff, Client, ClientHandle, ConnectError, Connection, Error, Message, TrySendError};

use crate::Failure;
use crate::cli::{ConnectOptions, Mistake};
use crate::output;

pub(crate) fn run(options: &ConnectOptions) -> Result<(), Failure> {
    let mut client = Client::new(&options.url)
        .map_err(failure)?
        .heartbeat(options.heartbeat())
        .connect_timeout(options.limits.connect_timeout)
        .handshake_timeout(options.limits.handshake_timeout)
        .close_timeout(options.limits.close_timeout)
        .max_message_size(options.limits.max_message_size);
    client = if options.no_reconnect { client.no_reconnect() } else { client.reconnect(Backoff::default()) };
    for (name, value) in &options.header {
        client = client.header(name, value);
    }
    for name in &options.subprotocol {
        client = client.subprotocol(name);
    }
    output::start_log(&options.log)?;
    let handle = client.handle();
    let stop = handle.clone();
    output::on_signals(move || stop.stop())?;
    let reader = thread::Builder::new().name("heartwire-stdin".into());
    reader.spawn(move || send_lines(&handle)).map_err(|error| error.to_string())?;
    let interval = options.ping_interval();
    client.run(|conn| print_messages(conn, interval)).map_err(failure)
}

/// What is invalid came from the command line.
fn failure(error: Error) -> Failure {
    match error {
        Error::Connect(ConnectError::Invalid(what)) => Failure::Usage(Mistake::new(what)),
        error => Failure::Failed(error.to_string()),
    }
}

/// Prints what comes, and now and then how the line is.
fn print_messages(conn: &mut Connection, interval: Option<Duration>) -> Result<(), Error> {
    let mut samples = 0;
    loop {
        let message = match interval {
            Some(interval) => conn.recv_timeout(interval)?,
            None => Some(conn.recv()?),
        };
        if let Some(round_trip) = conn.round_trip().filter(|round_trip| round_trip.samples > samples) {
            samples = round_trip.samples;
            log::info!("#{} round trip {:.1?}", conn.id(), round_trip.last);
        }
        match message {
            Some(Message::Text(text)) => print(&text)?,
            Some(Message::Binary(bytes)) => print(&format!("[{} bytes]", bytes.len()))?,
            None => {}
        }
    }
}

/// A line on standard output. When nobody reads it any more there is nothing left to do.
fn print(line: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::handler)
}

/// Sends each line, waiting for a connection where there is none, and stops the client at the end.
fn send_lines(handle: &ClientHandle) {
    for line in io::stdin().lock().lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                log::error!("cannot read standard input: {error}");
                break;
            }
        };
        if !send_line(handle, Message::from(line)) {
            return;
        }
    }
    // So that a pipe that is over before the connection stands is not in vain.
    wait_connected(handle);
    handle.stop();
}

/// `false` when there will be no connection any more.
fn send_line(handle: &ClientHandle, message: Message) -> bool {
    let mut unsent = message;
    loop {
        match handle.send(unsent) {
            Ok(()) => return true,
            Err(TrySendError::Closed(message) | TrySendError::Full(message)) => unsent = message,
            Err(_) => return false,
        }
        if !wait_connected(handle) {
            return false;
        }
    }
}

/// Waits for a connection as long as there may be one.
fn wait_connected(handle: &ClientHandle) -> bool {
    while !handle.wait_connected(Duration::from_secs(3600)) {
        if handle.has_ended() {
            return false;
        }
    }
    true
}

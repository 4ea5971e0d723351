//! `heartwire connect`: a client for the command line.
//!
//! It sends lines from standard input, prints messages on standard output, and logs what happens to the connection. At
//! the end of standard input it sends what is left and closes with 1000. The exit status says whether everything was
//! sent.
//!
//! One thread reads lines ahead and then decides about the end (`input`, `finish`), one sends them, and `main` runs the
//! client, whose handler prints (`screen`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use heartwire::{ClientHandle, ConnectError, Connection, Error, Message};

use crate::Failure;
use crate::cli::ConnectOptions;
use crate::input::Delivery;
use crate::output;
use crate::screen::Screen;

mod finish;

use finish::Progress;

pub(crate) fn run(options: &ConnectOptions) -> Result<(), Failure> {
    let client = options.client().map_err(Failure::of_client)?;
    output::start_log(&options.client.log)?;
    options.client.tls.warn();
    let handle = client.handle();
    let stop = handle.clone();
    output::on_signals(move || stop.stop())?;

    let progress = Arc::new(Progress::default());
    let (reading, reader) = (Arc::clone(&progress), handle.clone());
    let exit_timeout = options.exit_timeout;
    output::start_thread("heartwire-stdin", move || {
        if let Err(error) = reading.input.read(io::stdin().lock()) {
            reading.failed(error);
        }
        reading.finish(&reader, exit_timeout);
    })?;
    let (sending, sender) = (Arc::clone(&progress), handle.clone());
    output::start_thread("heartwire-send", move || sending.input.send_all(|line| send_line(&sender, line)))?;

    let (interval, screen) = (options.client.ping_interval(), Screen::new());
    let result = client.run(|conn| {
        progress.opened(conn.sender());
        print_messages(conn, interval, screen)
    });
    verdict(result, progress.unsent(&handle), progress.failure())
}

/// How the program ends: the client's own end, another failure and what was not sent, in one line.
fn verdict(result: Result<(), Error>, unsent: Option<String>, failure: Option<&String>) -> Result<(), Failure> {
    if let Err(error @ Error::Connect(ConnectError::Invalid(_))) = result {
        return Err(Failure::of_client(error));
    }
    let causes = [result.err().map(|error| error.to_string()), failure.cloned(), unsent];
    let causes: Vec<_> = causes.into_iter().flatten().collect();
    if causes.is_empty() { Ok(()) } else { Err(Failure::Run(causes.join("; "))) }
}

/// Prints each message that arrives, and logs each new round trip.
fn print_messages(conn: &mut Connection, interval: Option<Duration>, screen: Screen) -> Result<(), Error> {
    // When nobody reads our output any more, there is nothing left to do: the error ends the client.
    let print = |text: &str| screen.print(text).map_err(Error::handler);
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

/// Sends a line over the connection that is open. If there is none, waits for one: then the line may be sent again.
fn send_line(handle: &ClientHandle, line: Message) -> Delivery {
    match handle.send(line) {
        Ok(()) => Delivery::Taken,
        Err(_) if wait_connected(handle) => Delivery::Retry,
        Err(_) => Delivery::GivenUp,
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

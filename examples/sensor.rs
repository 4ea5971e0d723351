//! A sensor behind a bad line: every reading arrives, in order, also those of a day on which the server was away.
//!
//! Start a server that listens and sends no Pings: `cargo run -- --heartbeat peer --expect 2m`. Then run
//! `cargo run --example sensor [URL] [PERIOD_MS] [CAPACITY]` (defaults 1000 and 2000). It takes a reading in each
//! period, and keeps it until the server has confirmed that it was read. Stop the server for as long as you like, by
//! Ctrl-C or SIGSTOP, and start it again.
//!
//! What it keeps is bounded: without room the oldest reading is dropped, and counted. A reading whose confirmation was
//! lost with the line is sent again, so a server has to skip numbers that it knows. An outbox of the client
//! (`Client::outbox_size`) does less: it forgets a message when the socket has taken it, which is not yet arrival.

use std::collections::VecDeque;
use std::env;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Backoff, Client, ConfirmError, Connection, Error, HeartbeatPolicy};

/// Readings that go out before a confirmation is waited for: a lost line repeats as many at most.
const BATCH: usize = 100;

#[derive(Debug, Clone)]
struct Reading {
    number: u64,
    /// Thousandths of a degree.
    temperature: i64,
}

/// Readings that nobody has confirmed, the oldest first.
#[derive(Debug)]
struct Backlog {
    capacity: usize,
    /// Held for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    readings: VecDeque<Reading>,
    dropped: u64,
}

fn main() -> Result<(), Error> {
    let url = env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:9001/".into());
    let period = Duration::from_millis(argument(2, 1000)?);
    let capacity = usize::try_from(argument(3, 2000)?).map_err(Error::handler)?;
    let backlog = Arc::new(Backlog { capacity: capacity.max(1), state: Mutex::default() });

    let taken = Arc::clone(&backlog);
    thread::spawn(move || take_readings(&taken, period));

    // Each Ping announces the next, so that the server need not send any and the radio may sleep between them.
    let heartbeat = HeartbeatPolicy::new(Duration::from_secs(60), Duration::from_secs(20)).announcing(true);
    Client::new(&url)?
        .heartbeat(heartbeat)
        .reconnect(Backoff::default().first(Duration::from_millis(200)).longest(Duration::from_secs(60)))
        // Nobody can restart a sensor, so it comes back whatever a portal on the way answers.
        .give_up_if(|_| false)
        .run(|conn| deliver(conn, &backlog, period))
}

/// Sends what waits, batch by batch, until the connection ends.
fn deliver(conn: &mut Connection, backlog: &Backlog, period: Duration) -> Result<(), Error> {
    println!("#{} connected", conn.id());
    let sender = conn.sender();
    loop {
        let batch = backlog.oldest(BATCH);
        if let Some(newest) = batch.last() {
            for reading in &batch {
                conn.send(format!("{} {}", reading.number, reading.temperature))?;
            }
            // A slow line may take its time. If it is dead, the heartbeat ends the connection, and this wait with it.
            let mut confirmed = Err(ConfirmError::Timeout);
            while confirmed == Err(ConfirmError::Timeout) {
                confirmed = sender.confirm(Duration::from_secs(60));
            }
            if confirmed.is_ok() {
                let (waiting, dropped) = backlog.forget(newest.number);
                println!("confirmed up to {}; {waiting} waiting, {dropped} dropped", newest.number);
            }
        }
        // What the server sends is of no interest here. At the end of the connection this is the error that says why.
        let pause = if batch.len() == BATCH { Duration::ZERO } else { period };
        let until = Instant::now() + pause;
        while conn.recv_timeout(until.saturating_duration_since(Instant::now()))?.is_some() {}
    }
}

/// The simulated thermometer.
fn take_readings(backlog: &Backlog, period: Duration) {
    for number in 1.. {
        let temperature = 20_000 + (5_000.0 * (number as f64 / 100.0).sin()) as i64;
        backlog.keep(Reading { number, temperature });
        thread::sleep(period);
    }
}

impl Backlog {
    fn keep(&self, reading: Reading) {
        let mut state = self.lock();
        if state.readings.len() == self.capacity {
            state.readings.pop_front();
            state.dropped += 1;
        }
        state.readings.push_back(reading);
    }

    fn oldest(&self, count: usize) -> Vec<Reading> {
        self.lock().readings.iter().take(count).cloned().collect()
    }

    /// Forgets readings up to a number. Returns how many still wait, and how many were ever dropped.
    fn forget(&self, number: u64) -> (usize, u64) {
        let mut state = self.lock();
        // By their numbers, for some of them may have been dropped meanwhile.
        while state.readings.front().is_some_and(|reading| reading.number <= number) {
            state.readings.pop_front();
        }
        (state.readings.len(), state.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn argument(number: usize, default: u64) -> Result<u64, Error> {
    env::args().nth(number).map_or(Ok(default), |text| text.parse()).map_err(Error::handler)
}

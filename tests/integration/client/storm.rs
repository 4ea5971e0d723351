//! Many clients lose one server at once, and do not come back in step.
//!
//! `cargo test --test integration client::storm -- --nocapture` prints the histogram of docs/client.md.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Backoff, Event, ServerHandle};

use super::start_again;
use crate::support::wire::Wire;
use crate::support::{
    CEILING, RunningClient, acceptance, alone, client, echo, eventually, listen, ms, plain_only, refusal, run, server,
    start,
};

/// A server for a thousand clients, on one thread: it takes all, loses all at one moment, is unavailable for a while,
/// and takes them again.
struct Storm(TcpListener);

impl Storm {
    fn take(stream: TcpStream, is_down: bool) -> Option<Wire> {
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        let mut socket = Wire::from_client(stream);
        socket.set_read_timeout(Some(CEILING)).ok()?;
        while !request.ends_with(b"\r\n\r\n") {
            let count = socket.read(&mut chunk).ok().filter(|count| *count > 0)?;
            request.extend_from_slice(&chunk[..count]);
        }
        let answer = if is_down { refusal(503, "") } else { acceptance(&String::from_utf8(request).ok()?, "") };
        socket.write_all(answer.as_bytes()).ok()?;
        (!is_down).then_some(socket)
    }

    /// Accepts until so many clients are connected. It is told how many it has refused, and says whether to go on.
    fn accept(&self, clients: usize, is_down: impl Fn(usize) -> bool) -> Vec<Wire> {
        let (mut open, mut refused) = (Vec::new(), 0);
        while open.len() < clients {
            let (stream, _) = self.0.accept().expect("a client");
            match Self::take(stream, is_down(refused)) {
                Some(stream) => open.push(stream),
                None => refused += 1,
            }
        }
        open
    }
}

/// An attempt to come back. Times count from the loss.
struct Attempt {
    /// When it was to begin: the sum of all pauses before it.
    due: Duration,
    /// When it began, to some milliseconds. A busy machine is late for many at once, and that is no peak of theirs.
    began: Duration,
}

/// Notes the attempts of these clients until all of their channels have ended.
fn note_attempts(clients: &[RunningClient], lost: Instant) -> thread::JoinHandle<Vec<Attempt>> {
    let mut channels: Vec<_> = clients.iter().map(|client| (client.handle.events(), Duration::ZERO)).collect();
    thread::spawn(move || {
        let mut attempts = Vec::new();
        while !channels.is_empty() {
            thread::sleep(ms(2));
            channels.retain_mut(|(events, due)| {
                loop {
                    match events.try_recv() {
                        Ok(Event::Retrying { delay, .. }) => *due += delay,
                        Ok(Event::Connecting { .. }) => attempts.push(Attempt { due: *due, began: lost.elapsed() }),
                        Ok(_) => {}
                        Err(nothing) => break nothing.is_empty(),
                    }
                }
            });
        }
        attempts
    })
}

#[test]
#[cfg(target_os = "linux")]
fn a_storm_of_a_thousand_clients_comes_back_without_two_peaks() {
    plain_only!("its server does all handshakes on one thread, too slowly for a thousand clients in a debug build");
    // Both ends of each connection are ours.
    if !alone!(8192) {
        return;
    }
    const CLIENTS: usize = 1000;
    const DOWN: Duration = Duration::from_secs(3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let storm = Storm(listener);
    let clients: Vec<_> = (0..CLIENTS).map(|_| run(client(address).reconnect(Backoff::default()), listen)).collect();
    let open = storm.accept(CLIENTS, |_| false);
    eventually("all are connected", || clients.iter().all(|client| client.handle.is_connected()));

    let lost = Instant::now();
    let attempts = note_attempts(&clients, lost);
    drop(open);
    // On a busy machine, until it has refused as many as there are.
    let open = storm.accept(CLIENTS, |refused| lost.elapsed() < DOWN || refused < CLIENTS);
    let took = lost.elapsed();
    clients.iter().for_each(|client| client.handle.stop());
    drop(open);
    let attempts = attempts.join().unwrap();

    println!("{CLIENTS} clients lost one server at once; for {DOWN:?} it answered 503; {} attempts:", attempts.len());
    print(&histogram(attempts.iter().map(|attempt| attempt.began)));
    one_peak(&histogram(attempts.iter().map(|attempt| attempt.due)));
    assert!(attempts.iter().all(|attempt| attempt.began >= attempt.due), "nobody comes before its time");
    println!("the last was back {:.1} s after the loss", took.as_secs_f64());
    assert!(attempts.len() >= 2 * CLIENTS, "most came more than once");
}

/// Counts by half seconds.
fn histogram(times: impl Iterator<Item = Duration>) -> Vec<usize> {
    let mut bins: Vec<usize> = Vec::new();
    for time in times {
        let bin = (time.as_millis() / 500) as usize;
        bins.resize(bins.len().max(bin + 1), 0);
        bins[bin] += 1;
    }
    bins
}

fn print(bins: &[usize]) {
    for (bin, count) in bins.iter().enumerate() {
        println!("{:>4.1} s {count:>5} {}", bin as f64 / 2.0, "#".repeat(count.div_ceil(20)));
    }
}

/// From the highest bin on, none is higher than an earlier one by more than chance: a fifth, and four standard
/// deviations. What is less than a twentieth of the highest is no peak: of many
/// small bins some are low by chance, and hardly anything is not higher than the lowest of them.
fn one_peak(bins: &[usize]) {
    let top = (0..bins.len()).max_by_key(|bin| bins[*bin]).expect("some bins");
    assert!(top <= 1, "the first attempts are the most: {bins:?}");
    let (mut lowest, small) = (bins[top], bins[top] as f64 / 20.0);
    for (bin, count) in bins.iter().enumerate().skip(top) {
        let highest = 1.2 * lowest as f64 + 4.0 * (lowest.max(1) as f64).sqrt();
        assert!(*count as f64 <= highest.max(small), "a second peak in bin {bin}: {bins:?}");
        lowest = lowest.min(*count);
    }
}

#[test]
fn a_second_peak_would_be_seen() {
    one_peak(&[1240, 600, 545, 310, 330, 270, 190, 180, 160, 110, 60, 1, 0, 2]);
    one_peak(&[
        1090, 765, 571, 300, 327, 283, 156, 129, 142, 133, 141, 74, 57, 27, 7, 19, 23, 16, 25, 16, 11, 6, 4, 1, 2,
    ]);
    // Without jitter all come together, after 0.5 s, 1.5 s, 3.5 s.
    for in_step in [&[0, 1000, 0, 1000, 0, 0, 0, 1000][..], &[1000, 600, 900], &[1240, 600, 545, 310, 500]] {
        assert!(std::panic::catch_unwind(|| one_peak(in_step)).is_err());
    }
}

#[test]
fn a_real_server_survives_the_return_of_two_hundred_clients() {
    // As many files as some systems allow a process.
    if !alone!() {
        return;
    }
    const CLIENTS: u64 = 200;
    let first = start(server(), echo);
    let address = first.address();
    let backoff = || Backoff::default().first(ms(200)).longest(ms(1000));
    let clients: Vec<_> = (0..CLIENTS).map(|_| run(client(address).reconnect(backoff()), listen)).collect();
    let all_in = |handle: &ServerHandle| eventually("all are in", || handle.stats().open == CLIENTS);
    all_in(&first.handle);
    drop(first);
    let second = start_again(address);
    all_in(&second.handle);
    // The server has let them in a moment before they know.
    for client in &clients {
        client.events.opened();
        client.events.opened();
    }
    clients.iter().for_each(|client| client.handle.stop());
    for client in &clients {
        client.result().unwrap();
        let reasons: Vec<_> = [client.closed(), client.closed()].map(|report| report.reason.name()).into();
        assert_eq!(reasons, ["peer", "local"]);
    }
}

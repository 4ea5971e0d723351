//! Many clients that come back by themselves, as `Client` does it without being told more. They say how long each was
//! without a connection.
//!
//! Run it with a URL and a number. It prints `connected N` whenever another hundred of them, or all, are connected for
//! the first time. For each line of its input it prints one: `out N` and the gaps since the last line in milliseconds,
//! with the gaps that last still, from which clients were out for longer than a moment can be told.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

use heartwire::{Client, HeartbeatPolicy};

/// What all clients share.
#[derive(Default)]
struct Record {
    connected_first: AtomicUsize,
    /// Since when each is out, and gaps that are over. Held for moments only.
    gaps: Mutex<(Vec<Option<Instant>>, Vec<Duration>)>,
}

impl Record {
    fn opened(&self, number: usize) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let (out_since, over) = &mut *gaps;
        over.extend(out_since[number].take().map(|since| since.elapsed()));
    }

    fn lost(&self, number: usize) {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).0[number] = Some(Instant::now());
    }

    fn print(&self) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let (out_since, over) = &mut *gaps;
        let out: Vec<Duration> = out_since.iter().flatten().map(Instant::elapsed).collect();
        let all: Vec<String> =
            over.drain(..).chain(out.iter().copied()).map(|gap| gap.as_millis().to_string()).collect();
        println!("out {} {}", out.len(), all.join(" "));
    }
}

fn main() {
    let mut arguments = env::args().skip(1);
    let (url, count) = (arguments.next().expect("a URL"), arguments.next().expect("a number of clients"));
    let count: usize = count.parse().expect("a number of clients");
    let record = Arc::new(Record { gaps: Mutex::new((vec![None; count], Vec::new())), ..Record::default() });
    for number in 0..count {
        let (url, record) = (url.clone(), Arc::clone(&record));
        thread::spawn(move || {
            let client = Client::new(&url).expect("a URL").heartbeat(HeartbeatPolicy::off());
            let mut is_first = true;
            let ended = client.run(|conn| {
                record.opened(number);
                if std::mem::replace(&mut is_first, false) {
                    let connected = record.connected_first.fetch_add(1, SeqCst) + 1;
                    if connected % 100 == 0 || connected == count {
                        println!("connected {connected}");
                    }
                }
                loop {
                    if let Err(error) = conn.recv() {
                        record.lost(number);
                        return Err(error);
                    }
                }
            });
            println!("ended {ended:?}");
        });
    }
    for line in io::stdin().lock().lines() {
        line.expect("lines of text");
        record.print();
    }
}

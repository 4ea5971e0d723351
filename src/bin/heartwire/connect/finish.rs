//! The end of `heartwire connect` once its input is over: when everything is sent, or when going on is no use.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{ClientHandle, Event, Sender};

use crate::input::Input;

/// How often to check whether the peer has taken what waits in the connection's queue.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long lines may wait for a connection before the log says so.
const QUIET: Duration = Duration::from_secs(1);

/// What the threads of the client share.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) input: Input,
    /// The newest connection. Held for moments only.
    sender: Mutex<Option<Sender>>,
    /// The first failure that is not the connection's own.
    failure: OnceLock<String>,
}

/// What is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remaining {
    lines: usize,
    /// Bytes in the queue of the connection; `None` while it is just opening.
    queued: Option<usize>,
}

impl Remaining {
    /// Whether something was sent since.
    fn is_less_than(self, before: Self) -> bool {
        self.lines < before.lines || self.queued.zip(before.queued).is_some_and(|(now, before)| now < before)
    }
}

impl Progress {
    /// There is a new connection.
    pub(super) fn opened(&self, sender: Sender) {
        *self.sender() = Some(sender);
    }

    pub(super) fn failed(&self, failure: String) {
        // Fails if there is one already: the first is the cause.
        let _ = self.failure.set(failure);
    }

    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.get()
    }

    /// The input is over. Stops the client when everything is sent, when nothing is left to send and there is no
    /// connection, or when nothing could be sent for `timeout`.
    pub(super) fn finish(&self, handle: &ClientHandle, timeout: Duration) {
        let events = handle.events();
        let over = Instant::now();
        let mut deadline = over + timeout;
        let mut remaining = self.remaining(handle);
        let mut is_logged = false;
        while !handle.has_ended() {
            let before = std::mem::replace(&mut remaining, self.remaining(handle));
            if remaining.is_less_than(before) {
                deadline = Instant::now() + timeout;
            }
            let failed_attempt = events.try_iter().find_map(|event| match event {
                Event::ConnectFailed { error, .. } => Some(error),
                _ => None,
            });
            let may_wait_in_silence = handle.is_connected() || failed_attempt.is_none() && over.elapsed() < QUIET;

            match (remaining.lines, self.was_connected()) {
                (0, true) if remaining.queued == Some(0) => return handle.stop(),
                // There is nothing to send, not even by a connection that is just opening: all that remained to find
                // out was whether there is a server.
                (0, false)
                    if remaining.queued.is_some() && (failed_attempt.is_some() || Instant::now() >= deadline) =>
                {
                    let nobody = || format!("no connection within {}", humantime::format_duration(timeout));
                    self.failed(failed_attempt.unwrap_or_else(nobody));
                    return handle.stop();
                }
                _ if Instant::now() >= deadline => return handle.stop(),
                (lines @ 1.., _) if !is_logged && !may_wait_in_silence => {
                    is_logged = true;
                    let timeout = humantime::format_duration(timeout);
                    log::warn!("{} for a connection, for {timeout} at most", waiting(lines));
                }
                _ => {}
            }

            match remaining.lines {
                0 => thread::sleep(CHECK_INTERVAL),
                _ => self.input.wait_taken(CHECK_INTERVAL),
            }
        }
    }

    fn remaining(&self, handle: &ClientHandle) -> Remaining {
        // In this order: a line that moves to the queue in between counts twice rather than not at all.
        let lines = self.input.waiting();
        let queued = match &*self.sender() {
            Some(sender) if !sender.is_closed() => Some(sender.queued()),
            // One has just opened, and its handler is about to call `opened`.
            _ if handle.is_connected() => None,
            _ => Some(0),
        };
        Remaining { lines, queued }
    }

    fn was_connected(&self) -> bool {
        self.sender().is_some()
    }

    fn sender(&self) -> MutexGuard<'_, Option<Sender>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read or accepted and never sent, in words, when the client has ended.
    pub(super) fn unsent(&self, handle: &ClientHandle) -> Option<String> {
        let (lines, bytes) = (self.input.left(), handle.stats().traffic.unsent);
        let of_lines = match lines {
            0 => None,
            1 => Some("1 line".to_owned()),
            lines => Some(format!("{lines} lines")),
        };
        let of_bytes = (bytes > 0).then(|| format!("{bytes} B that a lost connection had accepted"));
        let parts: Vec<_> = [of_lines, of_bytes].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("not sent: {}", parts.join(" and ")))
    }
}

fn waiting(lines: usize) -> String {
    if lines == 1 { "1 line waits".to_owned() } else { format!("{lines} lines wait") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use heartwire::{Accept, Backoff, Client, Response, Server};

    use super::*;
    use crate::connect::send_line;

    #[test]
    fn a_line_that_left_as_the_connection_opened_is_not_in_vain() {
        const MOMENT: Duration = Duration::from_millis(1);
        let is_first = AtomicBool::new(true);
        let server = Server::bind("127.0.0.1:0").unwrap().on_handshake(move |_| match is_first.swap(false, SeqCst) {
            true => Err(Response::new(503)),
            false => Ok(Accept::new()),
        });
        let (address, server_handle) = (server.local_addr(), server.handle());
        let client = Client::new(&format!("ws://{address}/")).unwrap();
        let client = client.reconnect(Backoff::default().first(MOMENT).longest(MOMENT));
        let handle = client.handle();
        let progress = Arc::new(Progress::default());
        progress.input.read(&b"patience\n"[..]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                server.serve(|conn| {
                    loop {
                        conn.recv()?;
                    }
                })
            });
            scope.spawn(|| progress.input.send_all(|line| send_line(&handle, line)));
            scope.spawn(|| progress.finish(&handle, Duration::from_secs(30)));
            client
                .run({
                    let progress = Arc::clone(&progress);
                    move |conn| {
                        thread::sleep(3 * CHECK_INTERVAL);
                        progress.opened(conn.sender());
                        loop {
                            conn.recv()?;
                        }
                    }
                })
                .unwrap();
            server_handle.shutdown();
        });
        assert_eq!((progress.failure(), progress.unsent(&handle)), (None, None));
    }
}

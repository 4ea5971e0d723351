//! What systemd gives the server, and what it is told of it.
//!
//! It may give a listener (sd_listen_fds(3)), and take the log into its journal. A service of `Type=notify` tells it
//! (sd_notify(3)) that it listens, how many connections are open, that it stops, and, if a watchdog asks for that, that
//! it makes progress. A thread of its own tells all that, for systemd may be slow to take it. Without systemd there is
//! no such thread.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};
use heartwire::{Event, Server, ServerHandle, ServerPart};
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The shortest time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of the program waits for the thread to have told everything.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A server on the listeners that systemd has opened for this process, if there are any.
///
/// # Errors
/// What is wrong, in a line, if one of them is neither a TCP nor a Unix listener.
pub(crate) fn server() -> Result<Option<Server>, String> {
    // The crate also takes what was meant for nobody in particular.
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(None);
    }
    fn unusable(error: impl std::fmt::Display) -> String {
        format!("the socket of systemd cannot be used: {error}; use ListenStream= with a port or a path")
    }
    let mut passed = ListenFd::from_env();
    // All are taken before anything else is opened, which could get the number of one that is missing.
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        // One that is of the other kind stays where it is.
        let listener = passed.take_tcp_listener(index).map(|listener| listener.map(Passed::Tcp));
        let listener = listener.or_else(|_| Ok(passed.take_unix_listener(index)?.map(Passed::Unix)));
        listeners.extend(listener.map_err(|error: io::Error| unusable(error))?);
    }
    let mut server: Option<Server> = None;
    for listener in listeners {
        let with_listener = match (server.take(), listener) {
            (None, Passed::Tcp(listener)) => Server::from_listener(listener),
            (None, Passed::Unix(listener)) => Server::from_unix_listener(listener),
            (Some(server), Passed::Tcp(listener)) => server.also_from_listener(listener),
            (Some(server), Passed::Unix(listener)) => server.also_from_unix_listener(listener),
        };
        server = Some(with_listener.map_err(unusable)?);
    }
    Ok(server)
}

/// A listener that systemd has opened.
enum Passed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Whether standard error goes to the journal, as systemd.exec(5) says how to tell.
pub(crate) fn logs_to_journal() -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    stderr.is_ok_and(|stderr| journal == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Whether systemd runs this process as a service that tells how it is.
pub(crate) fn is_service() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// The service, as systemd knows it.
pub(crate) struct Service {
    teller: Option<TellerThread>,
}

/// The thread that tells systemd, as `main` knows it.
struct TellerThread {
    /// Dropped when the server has ended.
    end: Sender<()>,
    /// Disconnected when everything is told.
    ended: Receiver<()>,
}

impl Service {
    pub(crate) fn new() -> Self {
        Self { teller: None }
    }

    /// Has systemd told that the server listens, and all that follows.
    ///
    /// # Errors
    /// What is wrong, in a line, if there is no thread for it.
    pub(crate) fn start(&mut self, handle: &ServerHandle, close_timeout: Duration) -> Result<(), String> {
        if !is_service() {
            return Ok(());
        }
        let (end, until_end) = bounded(0);
        let (has_ended, ended) = bounded::<()>(0);
        self.teller = Some(TellerThread { end, ended });
        let teller = Teller {
            handle: handle.clone(),
            close_timeout,
            events: handle.events(),
            watchdog: sd_notify::watchdog_enabled().map(Watchdog::new),
            status: String::new(),
            has_told_stopping: false,
            cannot_tell: false,
        };
        let thread = thread::Builder::new().name("heartwire-systemd".to_owned()).spawn(move || {
            teller.run(&until_end);
            drop(has_ended);
        });
        thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
    }

    /// The server has ended. Waits until systemd was told, for a moment at most.
    pub(crate) fn finish(self) {
        if let Some(TellerThread { end, ended }) = self.teller {
            drop(end);
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

/// The thread that tells systemd.
struct Teller {
    handle: ServerHandle,
    close_timeout: Duration,
    events: Receiver<Event>,
    watchdog: Option<Watchdog>,
    /// What was told last.
    status: String,
    /// Whether it was told that the server stops.
    has_told_stopping: bool,
    /// Whether it was logged that systemd takes nothing.
    cannot_tell: bool,
}

/// When systemd wants to hear that the server makes progress.
struct Watchdog {
    /// A quarter of the time that systemd allows: one for the pause, one for the answer, and as much again in reserve.
    quarter: Duration,
    next: Instant,
}

impl Watchdog {
    fn new(limit: Duration) -> Self {
        let quarter = limit / 4;
        Self { quarter, next: Instant::now() + quarter }
    }

    /// Whether to feed the watchdog, now that these parts have not answered what was asked at `began`. Also sets when
    /// to ask next: a part that hangs has used up its time, and one that could not be asked at all has not.
    fn asked(&mut self, stalled: &[ServerPart], began: Instant, now: Instant) -> bool {
        self.next = if stalled.is_empty() { now } else { began } + self.quarter;
        stalled.is_empty()
    }
}

impl Teller {
    /// Runs until the server has ended.
    fn run(mut self, until_end: &Receiver<()>) {
        self.tell_status(&[NotifyState::Ready]);
        let mut next_status = Instant::now() + STATUS_INTERVAL;
        let mut has_changed = false;
        loop {
            let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
            let status = has_changed.then_some(next_status);
            let wake = watchdog.into_iter().chain(status).min().map_or_else(never, at);
            // What has changed once is told soon: until then nothing wakes us again.
            let events = if has_changed { never() } else { self.events.clone() };
            select! {
                recv(until_end) -> _ => break,
                recv(events) -> event => match event {
                    Ok(event) => {
                        has_changed = true;
                        self.ask_for_time(&event);
                    }
                    // There are no more.
                    Err(_) => self.events = never(),
                },
                recv(wake) -> _ => {}
            }
            self.tell_if_stopping();
            let now = Instant::now();
            if has_changed && now >= next_status {
                has_changed = false;
                next_status = now + STATUS_INTERVAL;
                while let Ok(event) = self.events.try_recv() {
                    self.ask_for_time(&event);
                }
                self.tell_status(&[]);
            }
            if self.watchdog.as_ref().is_some_and(|watchdog| now >= watchdog.next) {
                self.feed_watchdog();
            }
        }
        self.tell_if_stopping();
    }

    /// Asks systemd to be patient for as long as the server drains. Otherwise it would kill it after TimeoutStopSec=.
    fn ask_for_time(&mut self, event: &Event) {
        /// A machine may be slow when its services stop.
        const RESERVE: Duration = Duration::from_secs(10);
        if let Event::Draining { period, .. } = event {
            let time = *period + self.close_timeout + RESERVE;
            self.tell_if_stopping();
            self.tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
        }
    }

    /// Tells once that the server stops. An event has woken us for it, or the status that is due is told first.
    fn tell_if_stopping(&mut self) {
        if (self.handle.is_draining() || self.handle.is_shutting_down())
            && !std::mem::replace(&mut self.has_told_stopping, true)
        {
            self.tell(&[NotifyState::Stopping]);
        }
    }

    /// Tells the status if it has changed, and this before it.
    fn tell_status(&mut self, first: &[NotifyState<'_>]) {
        let open = match self.handle.stats().open {
            0 => "no connections".to_owned(),
            1 => "1 connection".to_owned(),
            open => format!("{open} connections"),
        };
        let status = if self.handle.is_draining() { format!("draining, {open}") } else { open };
        if status != self.status || !first.is_empty() {
            self.tell(&[first, &[NotifyState::Status(&status)]].concat());
            self.status = status;
        }
    }

    fn feed_watchdog(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let began = Instant::now();
        let stalled = self.handle.stalled_parts(watchdog.quarter);
        // A server that ends has parts that have ended, and is no longer fed then.
        let quarter = watchdog.quarter;
        for part in stalled.iter().filter(|_| !self.handle.is_shutting_down()) {
            log::error!("{part} has not answered for {quarter:.1?}: the watchdog of systemd is not fed");
        }
        if watchdog.asked(&stalled, began, Instant::now()) {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !std::mem::replace(&mut self.cannot_tell, true)
        {
            log::warn!("cannot tell systemd how the server is: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_if_every_part_has_answered_and_asks_once_in_a_quarter_of_its_time() {
        let quarter = Duration::from_secs(10);
        let mut watchdog = Watchdog::new(4 * quarter);
        let began = watchdog.next;
        let late = began + quarter;
        assert!(watchdog.asked(&[], began, late));
        assert_eq!(watchdog.next, late + quarter);
        for part in [ServerPart::AcceptLoop, ServerPart::Supervisor, ServerPart::StandIn] {
            // One that hangs is asked again at once, and one that could not be asked, later.
            assert!(!watchdog.asked(&[part], began, late));
            assert_eq!(watchdog.next, late);
            assert!(!watchdog.asked(&[part], began, began));
            assert_eq!(watchdog.next, began + quarter);
        }
    }
}

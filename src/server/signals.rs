//! Signals that end a program end its servers in order first.
//!
//! A process has one set of signal handlers, so all servers share it. A thread of its own takes the signals that end a
//! program, and calls nothing that may block: a second one ends the process even if everything else hangs. Another
//! takes SIGHUP, for which the application may have a function.

use std::io;
#[cfg(unix)]
use std::io::Read;
use std::process;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::durations::LONGEST;
use crate::error::Error;
use crate::foreign;
use crate::logging::Log;
use crate::protocol::close::CloseReason;
use crate::server::Server;
use crate::supervisor::handle::SupervisorHandle;

/// Protects the servers that end with a signal: `None` before signals are handled at all. Held for moments only.
static SERVERS: Mutex<Option<Vec<Registered>>> = Mutex::new(None);

/// A server that ends with a signal.
struct Registered {
    server: Weak<SupervisorHandle>,
    /// How long it drains before.
    drain: Option<Duration>,
    /// What SIGHUP does instead.
    on_hangup: Option<OnHangup>,
}

/// What SIGHUP does, if it is not to end the server.
pub(super) type OnHangup = Arc<dyn Fn() + Send + Sync>;

/// What shells report for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

impl Server {
    /// Lets SIGINT (Ctrl-C), SIGTERM and SIGHUP shut the server [down](crate::ServerHandle::shutdown), so that
    /// [`serve`](Self::serve) returns and the program can end in order. A second signal ends the process at once, with
    /// exit status 130. Default: the system ends the process at the first, and no connection gets a Close frame. Needs
    /// the feature `signals`, which is on by default.
    ///
    /// From this call on the signals do nothing else in this process. Several servers may share them: one signal shuts
    /// all of them down, and once all have ended, a signal ends the process.
    ///
    /// For a program whose purpose is to serve it also raises the soft limit of open files to the hard one, as soon as
    /// the server serves: each connection takes a file descriptor, and many systems allow only 1,024. A warning in the
    /// log says so if that is too little for [`max_connections`](Self::max_connections).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), heartwire::Error> {
    /// heartwire::Server::bind("127.0.0.1:9001")?.shutdown_on_signals()?.serve(|conn| {
    ///     loop {
    ///         let message = conn.recv()?;
    ///         conn.send(message)?;
    ///     }
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no file descriptors or no thread left for it.
    pub fn shutdown_on_signals(self) -> Result<Self, Error> {
        self.end_on_signals(None)
    }

    /// Like [`shutdown_on_signals`](Self::shutdown_on_signals), but the server [drains](crate::ServerHandle::drain) for
    /// this period first. A second signal shuts it down at once, and a third ends the process.
    ///
    /// # Errors
    /// As [`shutdown_on_signals`](Self::shutdown_on_signals).
    pub fn drain_on_signals(self, period: Duration) -> Result<Self, Error> {
        self.end_on_signals(Some(period))
    }

    /// Calls this function at SIGHUP, which then ends this server no more: many services read their files anew at that
    /// signal, such as certificates ([`ServerTls::reload`](crate::ServerTls::reload)). Call it before
    /// [`shutdown_on_signals`](Self::shutdown_on_signals) or [`drain_on_signals`](Self::drain_on_signals); without
    /// them it has no effect. Default: SIGHUP is a signal like the others.
    ///
    /// The function runs in a thread that does nothing else: while it blocks, further SIGHUPs wait, and other signals
    /// do not. A panic in it is logged.
    pub fn on_hangup(mut self, on_hangup: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_hangup = Some(Arc::new(on_hangup));
        self
    }

    fn end_on_signals(mut self, drain: Option<Duration>) -> Result<Self, Error> {
        let mut servers = servers();
        if servers.is_none() {
            take_signals().map_err(|error| Error::Io(io::Error::other(format!("cannot handle signals: {error}"))))?;
        }
        let list = servers.get_or_insert_default();
        let ended: Vec<_> = list.extract_if(.., |other| other.server.strong_count() == 0).collect();
        list.push(Registered { server: Arc::downgrade(&self.supervisor), drain, on_hangup: self.on_hangup.take() });
        drop(servers);
        // Their functions are the application's.
        foreign::dispose(ended);
        self.ends_with_signals = true;
        Ok(self)
    }
}

fn servers() -> MutexGuard<'static, Option<Vec<Registered>>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the threads that take the signals. They are there before the signals are ours: once they are, the system does
/// nothing about them any more, and without the threads nobody would.
///
/// Each thread has a pipe of its own: what comes through it says how many signals there were, but not which.
#[cfg(unix)]
fn take_signals() -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::{flag, low_level};

    let mut handlers = Vec::new();
    for (name, its_signals, is_hangup) in
        [("heartwire-hangup", &[SIGHUP][..], true), ("heartwire-signals", &[SIGINT, SIGTERM], false)]
    {
        let (signals, wake) = io::pipe()?;
        let came = Arc::new(AtomicBool::new(false));
        for &signal in its_signals {
            handlers.push((signal, Arc::clone(&came), wake.try_clone()?));
        }
        std::thread::Builder::new().name(name.to_owned()).spawn(move || take(signals, &came, is_hangup))?;
    }
    for (signal, came, wake) in handlers {
        flag::register(signal, came)?;
        low_level::pipe::register(signal, wake)?;
    }
    Ok(())
}

/// Takes one signal after another. If the pipe cannot be read, it looks now and then whether any `came`.
#[cfg(unix)]
fn take(mut signals: io::PipeReader, came: &AtomicBool, is_hangup: bool) {
    loop {
        match signals.read(&mut [0]) {
            // The signals never became ours: nobody can write any more.
            Ok(0) => return,
            // One for each signal.
            Ok(_) => {
                came.store(false, SeqCst);
                on_signal(is_hangup);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                std::thread::sleep(Duration::from_millis(100));
                if came.swap(false, SeqCst) {
                    on_signal(is_hangup);
                }
            }
        }
    }
}

#[cfg(not(unix))]
fn take_signals() -> io::Result<()> {
    ctrlc::set_handler(|| on_signal(false)).map_err(io::Error::other)
}

/// Runs in a thread that takes signals and does nothing else.
fn on_signal(is_hangup: bool) {
    let registered = |each: &Registered| Some((each.server.upgrade()?, each.drain, each.on_hangup.clone()));
    let running: Vec<_> = servers().iter().flatten().filter_map(registered).collect();
    // All of them, without stopping at the first.
    let took_it = |(server, drain, on_hangup): &&(Arc<SupervisorHandle>, _, Option<OnHangup>)| match on_hangup {
        Some(on_hangup) if is_hangup => {
            if let Err(message) = foreign::call(|| on_hangup()) {
                server.log.error(format_args!("on_hangup panicked: {message}"));
            }
            true
        }
        _ => step_down(server, *drain),
    };
    if running.iter().filter(took_it).count() == 0 {
        process::exit(INTERRUPTED);
    }
    // One of them may have ended meanwhile. Without this thread a second signal would do nothing.
    foreign::dispose(running);
}

/// Brings a server closer to its end. Whether there was anything to do.
fn step_down(server: &SupervisorHandle, drain: Option<Duration>) -> bool {
    if server.is_ending() {
        return false;
    }
    if let Some(period) = drain.filter(|_| !server.is_draining()) {
        server.drain(period.min(LONGEST));
        server.log.info(format_args!("draining for {period:?}; another signal shuts down at once"));
        return true;
    }
    server.shut_down(CloseReason::shutdown());
    server.log.info(format_args!("shutting down; another signal ends at once"));
    true
}

/// Raises the limit of open files. Every connection takes a file descriptor, and so does each client beyond the limit:
/// up to 64, and as many that are being dropped. A few more are in use anyway.
pub(super) fn raise_file_limit(max_connections: usize, log: &Log) {
    const OTHERS: u64 = 160;
    let needed = max_connections as u64 + OTHERS;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < needed => log.warn(format_args!(
            "the limit of open files is {limit}, and {max_connections} connections (max_connections) need {needed}: \
             clients beyond it will have to wait (see ulimit -n)"
        )),
        Ok(_) => {}
        Err(error) => log.warn(format_args!("cannot raise the limit of open files: {error}")),
    }
}

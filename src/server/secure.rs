//! A server's handshakes of TLS: where they are computed, and how many may be under way.
//!
//! The thread of each connection reads and writes its own handshake. A small crew of threads does the computing, one
//! for each processor at most, in the order in which it is asked. So no connection keeps the deep stack that this
//! needs, and of a flood of handshakes each has its turn. The crew's threads end when they have had nothing to do for a
//! while.
//!
//! So many clients may owe us a part of their handshake at a time ([`half_open`]). For one more, the client that has
//! been silent for longest is dropped.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::overflow::Overflow;
use crate::supervisor::pending_handshake::PendingHandshake;
use crate::tls::handshake::{self, Begin, Handshake, HandshakeError};
use crate::tls::{Certificate, ServerTls};
use crate::transport::socket;

/// How many clients may owe us a part of their handshake at a time: a quarter of all connections, and so many at least.
/// An attacker has to open as many within one round trip of another client to keep that client out, and each of them
/// costs us a few kilobytes.
fn half_open(max_connections: usize) -> usize {
    (max_connections / 4).max(1024)
}

/// The TLS of one server.
pub(crate) struct Secure {
    tls: ServerTls,
    crew: Crew,
    half_open: Arc<Overflow>,
}

impl Secure {
    pub(super) fn new(tls: ServerTls, max_connections: usize) -> Self {
        Self { tls, crew: Crew::new(), half_open: Arc::new(Overflow::new(half_open(max_connections))) }
    }

    /// Performs the handshake of a client before the deadline, and secures its stream. Returns its certificate.
    #[inline(never)]
    pub(super) fn perform(
        &self,
        pending: &Arc<PendingHandshake>,
        deadline: Instant,
    ) -> Result<Option<Certificate>, HandshakeError> {
        let begin = Begin::Server(self.tls.config());
        let stream = &pending.stream;
        // Signing and agreeing on keys takes long, and a deep stack. What follows does neither, unless there is a
        // certificate to verify; then a change of threads would be all that it costs. It need not be the first step
        // that signs: a hello may come in pieces, or be asked for again.
        let compute = |handshake: Box<Handshake>| match handshake.has_agreed() && !self.tls.may_ask_clients() {
            true => handshake.computed(),
            false => self.crew.compute(handshake, deadline),
        };
        let mut is_owed_nothing = true;
        handshake::perform(begin, stream, deadline, compute, |space| {
            // The time that we took for an answer is no silence of the client's.
            if !std::mem::replace(&mut is_owed_nothing, false) {
                pending.mark_heard();
            }
            let _slot = self.half_open.admit(pending).ok_or(std::io::ErrorKind::QuotaExceeded)?;
            let read = socket::read_before(stream, space, deadline);
            if let Ok(Some(1..)) = read {
                pending.mark_heard();
            }
            read
        })
    }
}

/// The threads that compute handshakes.
struct Crew {
    shared: Arc<Shared>,
    /// How many there may be. Asking costs a dozen system calls, so it is asked once.
    most_threads: usize,
}

#[derive(Default)]
struct Shared {
    /// Protects the jobs, and how many threads there are for them. Held for moments only.
    state: Mutex<State>,
    /// Signalled for each new job, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Those that wait for a job.
    idle: usize,
    is_over: bool,
}

struct Job {
    handshake: Box<Handshake>,
    /// Nobody waits for it longer.
    deadline: Instant,
    done: Promise,
}

/// Where a job's result is awaited. A channel would do, but takes a kilobyte that stays with the connection's thread.
#[derive(Default)]
struct Reply {
    /// Protects the result.
    result: Mutex<Computed>,
    /// Signalled when it is there.
    changed: Condvar,
}

#[derive(Default)]
enum Computed {
    #[default]
    NotYet,
    Done(Box<Handshake>),
    /// It panicked, or nobody computes it any more.
    Never,
}

/// The end of a reply that gives the result: [`Computed::Never`] if it is dropped.
struct Promise(Arc<Reply>);

impl Promise {
    fn keep(&self, computed: Computed) {
        let mut result = self.0.lock();
        if let Computed::NotYet = *result {
            *result = computed;
        }
        drop(result);
        self.0.changed.notify_one();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.keep(Computed::Never);
    }
}

impl Reply {
    fn wait(&self, deadline: Instant) -> Result<Box<Handshake>, HandshakeError> {
        let mut result = self.lock();
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            match std::mem::take(&mut *result) {
                Computed::Done(handshake) => return Ok(handshake),
                Computed::NotYet | Computed::Never if wait.is_zero() => return Err(HandshakeError::TimedOut),
                Computed::Never => return Err(HandshakeError::panicked()),
                Computed::NotYet => {}
            }
            result = self.changed.wait_timeout(result, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Computed> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    /// How long a thread waits for the next job before it ends.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn new() -> Self {
        let most_threads = thread::available_parallelism().map_or(1, usize::from);
        Self { shared: Arc::default(), most_threads }
    }

    /// Computes a handshake on a thread of the crew.
    fn compute(&self, handshake: Box<Handshake>, deadline: Instant) -> Result<Box<Handshake>, HandshakeError> {
        let reply = Arc::new(Reply::default());
        let done = Promise(Arc::clone(&reply));
        let mut state = self.shared.lock();
        state.jobs.push_back(Job { handshake, deadline, done });
        if state.jobs.len() > state.idle && state.threads < self.most_threads {
            state.threads += 1;
            if self.start_thread().is_err() {
                state.threads -= 1;
                // Without any thread of the crew, this thread has to do it itself.
                if state.threads == 0
                    && let Some(job) = state.jobs.pop_back()
                {
                    drop(state);
                    return job.handshake.computed();
                }
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        reply.wait(deadline)
    }

    fn start_thread(&self) -> std::io::Result<()> {
        /// rustls and a verifier of the application's own need less.
        const STACK: usize = 512 * 1024;
        let shared = Arc::clone(&self.shared);
        let builder = thread::Builder::new().name("heartwire-tls".to_owned()).stack_size(STACK);
        builder.spawn(move || shared.work()).map(drop)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            if Instant::now() < job.deadline
                && let Ok(handshake) = job.handshake.computed()
            {
                job.done.keep(Computed::Done(handshake));
            }
        }
    }

    /// Waits for a job. `None` if the thread is to end.
    fn next_job(&self) -> Option<Job> {
        let until = Instant::now() + Crew::PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            let wait = until.saturating_duration_since(Instant::now());
            if state.is_over || wait.is_zero() {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A server's handshakes of TLS: where they are computed, and how many may be under way.
//!
//! The thread of each connection reads and writes its own handshake. Computing it needs a deep stack, which stays
//! resident as long as its thread lives. A few threads may have one ([`deep_stacks`]), and compute where they are: they
//! serve clients that come and go without a switch of threads. For all others a small crew of threads does the
//! computing, one for each processor at most, in the order in which it is asked. So of many connections hardly any
//! keeps a deep stack, and of a flood of handshakes each has its turn. The crew's threads end when they have had
//! nothing to do for a while.
//!
//! So many clients may owe us a part of their handshake at a time ([`half_open`]). For one more, the client that has
//! been silent for longest is dropped.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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

/// How many connections' threads may have a deep stack: some three pages more than others. One in a hundred, so that it
/// adds 0.12 KB to a connection on average, and a few on a small server.
fn deep_stacks(max_connections: usize) -> usize {
    (max_connections / 100).max(8)
}

/// The TLS of one server.
pub(crate) struct Secure {
    tls: ServerTls,
    deep_stacks: Arc<DeepStacks>,
    crew: Crew,
    half_open: Arc<Overflow>,
}

impl Secure {
    pub(super) fn new(tls: ServerTls, max_connections: usize) -> Self {
        let deep_stacks = Arc::new(DeepStacks { left: AtomicUsize::new(deep_stacks(max_connections)) });
        Self { tls, deep_stacks, crew: Crew::new(), half_open: Arc::new(Overflow::new(half_open(max_connections))) }
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
        // All steps: the first signs and agrees on keys, and the last, which makes new keys and tickets, leaves holes
        // in the heap and goes a page deeper into the stack than anything that follows.
        let compute = |handshake: Box<Handshake>| match self.deep_stacks.admit_this_thread() {
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

/// The threads of connections that may have a deep stack.
struct DeepStacks {
    /// How many more there may be.
    left: AtomicUsize,
}

/// A thread's permission to have a deep stack, for the rest of its life.
struct DeepStack(Arc<DeepStacks>);

thread_local! {
    static DEEP_STACK: OnceCell<DeepStack> = const { OnceCell::new() };
}

impl DeepStacks {
    /// Whether this thread may have a deep stack, from now on if not before.
    fn admit_this_thread(self: &Arc<Self>) -> bool {
        DEEP_STACK.with(|own| own.get().is_some() || self.admit().is_some_and(|admitted| own.set(admitted).is_ok()))
    }

    fn admit(self: &Arc<Self>) -> Option<DeepStack> {
        let one_less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Relaxed, Relaxed, one_less).ok()?;
        Some(DeepStack(Arc::clone(self)))
    }
}

impl Drop for DeepStack {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Relaxed);
    }
}

/// The threads that compute handshakes for others.
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn so_many_threads_may_have_a_deep_stack_and_others_after_them() {
        let deep_stacks = Arc::new(DeepStacks { left: AtomicUsize::new(2) });
        let (entered, leave) = (Barrier::new(3), Barrier::new(3));
        // Joined by hand, for a scope does not wait until what belongs to a thread is dropped.
        thread::scope(|scope| {
            let admitted = || scope.spawn(|| deep_stacks.admit_this_thread()).join().unwrap();
            let admitted_for_life = || {
                assert!(deep_stacks.admit_this_thread());
                entered.wait();
                leave.wait();
                assert!(deep_stacks.admit_this_thread());
            };
            let both = [scope.spawn(admitted_for_life), scope.spawn(admitted_for_life)];
            entered.wait();
            assert!(!admitted());
            leave.wait();
            both.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(admitted() && admitted() && admitted());
        });
        assert_eq!(deep_stacks.left.load(Relaxed), 2);
    }
}

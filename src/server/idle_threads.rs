//! Idle threads: they have ended a connection, and wait in `accept` for another client.
//!
//! Starting a thread takes longer than opening a connection. So a thread that is free takes the next client itself, and
//! nothing is handed over. Meanwhile the accept loop stands back. The last idle thread to leave calls it back.
//!
//! Few threads may be idle, and each only for a moment. A thread whose stack may be deep does not wait at all: what a
//! stack was once used for stays resident, and the next client may stay for days.
//!
//! A thread whose peer was found dead waits in any case. The system takes longer to end a thread than a thread takes to
//! find its peer dead. Where thousands of peers die at once, their threads would hold up those that are still to judge
//! theirs. So they end a moment later, unless their clients are back before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{OnceLock, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::server::accept_loop::is_transient;
use crate::server::listener::Listener;
use crate::supervisor::handle::SupervisorHandle;
use crate::transport::stream::Stream;

/// How long a thread is idle before it ends: longer than it takes to find thousands of peers that died at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The idle threads of one listener.
#[derive(Debug)]
pub(super) struct IdleThreads {
    /// Gone when the server accepts no more clients, whatever threads are left.
    listener: Weak<Listener>,
    waiting: AtomicUsize,
    /// How many have become idle since the accept loop last looked.
    came: AtomicUsize,
    /// Whether clients are left to the accept loop, which has met a shortage and learns by them that it is over.
    is_suspended: AtomicBool,
    accept_loop: OnceLock<Thread>,
}

impl IdleThreads {
    /// Enough for clients that come and go, and less memory than a hundred connections.
    const MOST: usize = 64;

    pub(super) fn new(listener: Weak<Listener>) -> Self {
        Self {
            listener,
            waiting: AtomicUsize::new(0),
            came: AtomicUsize::new(0),
            is_suspended: AtomicBool::new(false),
            accept_loop: OnceLock::new(),
        }
    }

    /// Waits for a client and admits it. `None` if the thread is to end. It ends at once if enough are waiting, unless
    /// it `may_crowd`. Not inlined, for its caller's frame lies below a connection.
    #[inline(never)]
    pub(super) fn accept<T>(
        &self,
        supervisor: &SupervisorHandle,
        may_crowd: bool,
        admit: impl FnOnce(Stream, SocketAddr) -> T,
    ) -> Option<T> {
        let listener = self.listener.upgrade().filter(|listener| listener.is_prepared && has_shallow_stack())?;
        // Held until the client is admitted: the server does not end before.
        let _place = self.take_place(may_crowd)?;
        // Dropped before the place: the end finds the listener closed.
        let listener = listener;
        // Checked after the place is taken: the end waits for those who have one.
        while !supervisor.is_ending() && !supervisor.is_behind() && !self.is_suspended() {
            match listener.accept() {
                Ok(_) if supervisor.is_ending() => break,
                Ok((stream, peer)) => return Some(admit(stream, peer)),
                Err(error) if is_transient(&error) => {}
                // No client came for long, or the system is short of something. The accept loop will learn that too.
                Err(_) => break,
            }
        }
        None
    }

    /// Called by the thread of the accept loop before it accepts.
    pub(super) fn attach(&self) {
        let _ = self.accept_loop.set(thread::current());
    }

    /// Blocks the accept loop while others wait for clients, unless it has met a shortage.
    pub(super) fn stand_back(&self) {
        while !self.is_suspended() {
            if self.waiting.load(SeqCst) > 0 {
                thread::park();
            } else if !self.gives_way() {
                return;
            }
        }
    }

    /// Gives way to the threads that run. Where the processors are busy with them, one that becomes free serves the
    /// next client sooner than a new one, which would only make more of them. Where they are not, this takes
    /// microseconds. Returns whether a thread has become free.
    fn gives_way(&self) -> bool {
        const MOST_YIELDS: usize = 64;
        const LONGEST: Duration = Duration::from_millis(1);
        // If none has become free since the last client, none will so soon.
        if self.came.swap(0, SeqCst) == 0 {
            return false;
        }
        let begin = Instant::now();
        for _ in 0..MOST_YIELDS {
            thread::yield_now();
            // It may have served the next client already.
            if self.came.load(SeqCst) > 0 {
                return true;
            }
            if begin.elapsed() >= LONGEST {
                break;
            }
        }
        false
    }

    /// Blocks until the last thread has left, when the server is ending. After that no thread reports another client.
    pub(super) fn wait_until_none(&self) {
        while self.waiting.load(SeqCst) > 0 {
            thread::park();
        }
    }

    /// Leaves clients to the accept loop, or no longer.
    pub(super) fn suspend(&self, is_suspended: bool) {
        self.is_suspended.store(is_suspended, SeqCst);
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.is_suspended.load(SeqCst)
    }

    fn take_place(&self, may_crowd: bool) -> Option<Place<'_>> {
        let one_more = |waiting| (may_crowd || waiting < Self::MOST).then_some(waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, one_more).ok()?;
        self.came.fetch_add(1, SeqCst);
        Some(Place(self))
    }
}

/// One of those that wait. Dropping it leaves.
struct Place<'a>(&'a IdleThreads);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, SeqCst) == 1
            && let Some(accept_loop) = self.0.accept_loop.get()
        {
            accept_loop.unpark();
        }
    }
}

/// Whether little of this thread's stack is resident. Each page of it was a page fault when it was first used. Pages of
/// the heap count too, so a thread may end too early, and never too late.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_shallow_stack() -> bool {
    use nix::sys::resource::{UsageWho, getrusage};
    const MOST_PAGES: libc::c_long = 24;
    getrusage(UsageWho::RUSAGE_THREAD).is_ok_and(|usage| usage.minor_page_faults() <= MOST_PAGES)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn has_shallow_stack() -> bool {
    false
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::net::TcpStream;
    use std::sync::Arc;

    use crossbeam_channel as channel;

    use super::*;
    use crate::logging::Log;
    use crate::protocol::close::CloseReason;

    #[test]
    fn the_end_waits_for_a_thread_that_is_about_to_report_its_client() {
        const CEILING: Duration = Duration::from_secs(30);
        let (supervisor, _receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
        let listener = Arc::new(Listener::bind("127.0.0.1:0", &Log::default()).unwrap());
        let idle_threads = IdleThreads::new(Arc::downgrade(&listener));
        idle_threads.attach();
        let is_reported = AtomicBool::new(false);
        let (accepted, is_accepted) = channel::bounded(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                idle_threads.accept(&supervisor, false, |_, _| {
                    accepted.send(()).unwrap();
                    thread::sleep(Duration::from_millis(100));
                    is_reported.store(true, SeqCst);
                })
            });
            let _client = TcpStream::connect(listener.address).unwrap();
            is_accepted.recv_timeout(CEILING).expect("the idle thread accepts");
            supervisor.shut_down(CloseReason::shutdown());
            idle_threads.wait_until_none();
            assert!(is_reported.load(SeqCst), "the end came before the report");
        });
    }
}

//! The accept loop. It survives every error of `accept` and runs until the server is told to stop.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::logging::Log;
use crate::server::idle_threads::IdleThreads;
use crate::server::listener::Listener;
use crate::supervisor::handle::SupervisorHandle;
use crate::transport::stream::Stream;

/// Accepts until the server ends, and gives each connection to `start`, which returns whether it has started a thread.
/// If it cannot start one, that is treated like an error of `accept`: the system is short of something, and an
/// immediate retry would not help. A shortage is over when the next thread has started.
pub(crate) fn run(
    listener: &Listener,
    idle_threads: &IdleThreads,
    supervisor: &SupervisorHandle,
    stop: &Receiver<()>,
    mut start: impl FnMut(Stream, SocketAddr) -> io::Result<bool>,
) {
    let mut failures = FailureBurst::default();
    idle_threads.attach();
    loop {
        idle_threads.stand_back();
        if is_over(listener, supervisor) {
            return;
        }
        if supervisor.is_behind() {
            // Each new connection would add notices.
            let _ = stop.recv_timeout(FailureBurst::FIRST_PAUSE);
            continue;
        }
        let started = match listener.accept() {
            Ok(_) if supervisor.is_ending() => return,
            Ok((stream, peer)) => start(stream, peer).map_err(|error| {
                supervisor.count(|stats| stats.thread_errors += 1);
                ("start a thread for a connection", error)
            }),
            Err(_) if is_over(listener, supervisor) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(listener, stop);
                continue;
            }
            Err(error) if is_transient(&error) => continue,
            Err(error) => {
                supervisor.count(|stats| stats.accept_errors += 1);
                Err(("accept a connection", error))
            }
        };
        match started {
            Ok(false) => {}
            Ok(true) => {
                failures.end(&supervisor.log);
                idle_threads.suspend(false);
            }
            Err((what, error)) => {
                idle_threads.suspend(true);
                let pause = failures.add(what, &error, &supervisor.log);
                // A stop ends the pause at once.
                let _ = stop.recv_timeout(pause);
            }
        }
    }
}

/// Whether no more clients are to be accepted here.
///
/// A server that drains goes on to accept at its own addresses, to say so: with 503 to an opening handshake, for
/// proxies to try another server, and to a health check. Clients of a socket that was handed in are left to whoever
/// shares it, or takes it over: they wait for a moment, and see nothing of it.
fn is_over(listener: &Listener, supervisor: &SupervisorHandle) -> bool {
    supervisor.is_ending() || !listener.is_ours && supervisor.is_draining()
}

/// Waits for a client on a listener whose `accept` does not.
fn wait(listener: &Listener, stop: &Receiver<()>) {
    const PAUSE: Duration = Duration::from_secs(1);
    if listener.wait().is_err() {
        let _ = stop.recv_timeout(PAUSE);
    }
}

/// Whether to try again at once: the client hung up before it was accepted, or a signal arrived.
pub(super) fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        Interrupted
            | ConnectionAborted
            | ConnectionReset
            // Linux passes on pending network errors of the new connection (accept(2)).
            | NetworkDown
            | NetworkUnreachable
            | HostUnreachable
    ) || is_protocol_error(error)
}

#[cfg(unix)]
fn is_protocol_error(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN))
}

#[cfg(not(unix))]
fn is_protocol_error(_: &io::Error) -> bool {
    false
}

/// Which limit was reached and where to raise it, as far as the error tells.
#[cfg(unix)]
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; the process has reached its limit of open files (see ulimit -n)",
        Some(libc::ENFILE) => "; the system has reached its limit of open files (see sysctl fs.file-max)",
        // pthread_create(3) gives the same error for each of these limits.
        Some(libc::EAGAIN) => {
            "; a limit on threads or memory is reached (see ulimit -u and -v, sysctl kernel.threads-max, \
             kernel.pid_max and vm.max_map_count, and pids.max of the control group)"
        }
        _ => "",
    }
}

#[cfg(not(unix))]
fn hint(_: &io::Error) -> &'static str {
    ""
}

/// A burst of failures. It is logged when it begins and when it ends, and the pauses in it grow.
#[derive(Debug, Default)]
struct FailureBurst {
    since: Option<Instant>,
    failures: u32,
}

impl FailureBurst {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    fn add(&mut self, what: &str, error: &io::Error, log: &Log) -> Duration {
        if self.since.is_none() {
            log.error(format_args!("cannot {what}: {error}{}; retrying", hint(error)));
            self.since = Some(Instant::now());
        }
        self.failures += 1;
        (Self::FIRST_PAUSE * 2_u32.saturating_pow(self.failures - 1).min(1000)).min(Self::LONGEST_PAUSE)
    }

    fn end(&mut self, log: &Log) {
        if let Some(since) = self.since.take() {
            let (failures, elapsed) = (self.failures, since.elapsed());
            log.warn(format_args!("accepting connections again after {failures} failures in {elapsed:.1?}"));
            self.failures = 0;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::connection::identity::Identity;
    use crate::supervisor::event::Event;
    use crate::supervisor::notice::Notice;

    #[test]
    fn while_the_supervisor_is_behind_nobody_is_accepted_and_misses_are_counted_as_lost() {
        let (supervisor, receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
        let events = supervisor.subscribers.add();
        let miss = || {
            let remote = SocketAddr::from(([192, 0, 2, 1], 1)).into();
            Notice::Missed { connection: Identity { id: 1, remote }, what: "Pong", missed: 1, max_missed: 3 }
        };
        let mut notified = 0;
        while !supervisor.is_behind() {
            supervisor.notify_if_room(miss());
            notified += 1;
        }
        (0..10).for_each(|_| supervisor.notify_if_room(miss()));
        assert_eq!((receivers.notices.len(), supervisor.subscribers.report_lost()), (notified, None));
        assert!(matches!(events.try_recv(), Ok(Event::Lost { count: 10 })));

        let listener = Arc::new(Listener::bind("127.0.0.1:0", &Log::default()).unwrap());
        let _client = TcpStream::connect(listener.address).unwrap();
        let (_stop, stop) = crossbeam_channel::bounded(1);
        let (started, accepted) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            scope.spawn(|| {
                let idle_threads = IdleThreads::new(Arc::downgrade(&listener));
                run(&listener, &idle_threads, &supervisor, &stop, |_, _| {
                    let _ = started.send(());
                    supervisor.mark_ended();
                    Ok(true)
                });
            });
            assert!(accepted.recv_timeout(Duration::from_millis(200)).is_err(), "accepted all the same");
            // It catches up.
            receivers.notices.try_iter().for_each(drop);
            assert!(accepted.recv_timeout(Duration::from_secs(30)).is_ok());
        });
    }

    #[test]
    fn a_shortage_of_threads_is_over_when_one_has_started_and_not_with_a_client_that_needs_none() {
        let (supervisor, _receivers) = SupervisorHandle::new(Arc::default(), |_| {}).unwrap();
        let listener = Arc::new(Listener::bind("127.0.0.1:0", &Log::default()).unwrap());
        let _clients = [(); 3].map(|()| TcpStream::connect(listener.address).unwrap());
        let idle_threads = IdleThreads::new(Arc::downgrade(&listener));
        let (_stop, stop) = crossbeam_channel::bounded(1);
        let short = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        let mut outcomes = [short(), Ok(false), Ok(true)].into_iter();
        let mut was_suspended = Vec::new();
        run(&listener, &idle_threads, &supervisor, &stop, |_, _| {
            was_suspended.push(idle_threads.is_suspended());
            let outcome = outcomes.next().unwrap();
            if outcomes.len() == 0 {
                supervisor.mark_ended();
            }
            outcome
        });
        assert_eq!((was_suspended, idle_threads.is_suspended()), (vec![false, true, true], false));
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_over() {
        let (mut failures, log) = (FailureBurst::default(), Log::default());
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let pauses: Vec<u128> = (0..100).map(|_| failures.add("accept", &error, &log).as_millis()).collect();
        assert_eq!(pauses[..7], [10, 20, 40, 80, 160, 320, 500]);
        assert!(pauses[7..].iter().all(|pause| *pause == 500));
        failures.end(&log);
        assert_eq!(failures.add("accept", &error, &log).as_millis(), 10);
    }

    #[test]
    fn only_shortages_slow_the_loop_down() {
        for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO] {
            assert!(is_transient(&io::Error::from_raw_os_error(code)));
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert!(!is_transient(&io::Error::from_raw_os_error(code)));
        }
    }
}

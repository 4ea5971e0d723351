//! The accept loop. It survives whatever `accept` may fail with, until the server is told to stop.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::logging::Log;
use crate::supervisor::handle::SupervisorHandle;
use crate::transport::socket;

/// Accepts until the server ends, and gives each connection to `start`. An error of `start` (no thread could be
/// started) is treated like one of `accept`: the system is short of something, and trying on at once would not help.
pub(crate) fn run(
    listener: &TcpListener,
    supervisor: &SupervisorHandle,
    stop: &Receiver<()>,
    mut start: impl FnMut(TcpStream, SocketAddr) -> io::Result<()>,
) {
    let mut failures = FailureBurst::default();
    while !supervisor.is_ending() {
        if supervisor.is_behind() {
            // Each connection would bring more for the supervisor to hear of.
            let _ = stop.recv_timeout(FailureBurst::FIRST_PAUSE);
            continue;
        }
        let started = match listener.accept() {
            Ok(_) if supervisor.is_ending() => return,
            Ok((stream, peer)) => start(stream, peer).map_err(|error| {
                supervisor.count(|stats| stats.thread_errors += 1);
                ("start a thread for a connection", error)
            }),
            Err(_) if supervisor.is_ending() => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(listener, stop);
                continue;
            }
            // The client gave up while it waited to be accepted, or a signal came: nothing that should slow us down.
            Err(error) if is_passing(&error) => continue,
            Err(error) => {
                supervisor.count(|stats| stats.accept_errors += 1);
                Err(("accept a connection", error))
            }
        };
        match started {
            Ok(()) => failures.is_over(&supervisor.log),
            Err((what, error)) => {
                let pause = failures.with(what, &error, &supervisor.log);
                // Woken by the stop at once.
                let _ = stop.recv_timeout(pause);
            }
        }
    }
}

/// Whoever else holds the socket has made it one that does not block, and may want it so: then it is for us to wait. Not
/// for ever, for the connection that is to wake us at the end may be accepted by them.
fn wait(listener: &TcpListener, stop: &Receiver<()>) {
    const AT_MOST: Duration = Duration::from_secs(1);
    #[cfg(unix)]
    if socket::wait_for_client(listener, AT_MOST).is_ok() {
        return;
    }
    #[cfg(not(unix))]
    if listener.set_nonblocking(false).is_ok() {
        return;
    }
    let _ = stop.recv_timeout(AT_MOST);
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        Interrupted
            | ConnectionAborted
            | ConnectionReset
            // Linux hands on errors of the network that concern this one client (accept(2)).
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

/// Which limit was met, as far as the error tells.
#[cfg(unix)]
fn limits(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; the process has all the open files that it may have (see ulimit -n)",
        Some(libc::ENFILE) => "; the system has all the open files that it may have (see sysctl fs.file-max)",
        // What pthread_create(3) says, whichever it was.
        Some(libc::EAGAIN) => {
            "; a limit of threads or of memory (see ulimit -u and -v, sysctl kernel.threads-max, kernel.pid_max and \
             vm.max_map_count, and pids.max of the control group)"
        }
        _ => "",
    }
}

#[cfg(not(unix))]
fn limits(_: &io::Error) -> &'static str {
    ""
}

/// A burst of failures: logged once when it begins and once when it is over, with pauses that grow.
#[derive(Debug, Default)]
struct FailureBurst {
    since: Option<Instant>,
    failures: u32,
}

impl FailureBurst {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    fn with(&mut self, what: &str, error: &io::Error, log: &Log) -> Duration {
        if self.since.is_none() {
            log.error(format_args!("cannot {what}: {error}{}; trying on", limits(error)));
            self.since = Some(Instant::now());
        }
        self.failures += 1;
        (Self::FIRST_PAUSE * 2_u32.saturating_pow(self.failures - 1).min(1000)).min(Self::LONGEST_PAUSE)
    }

    fn is_over(&mut self, log: &Log) {
        if let Some(since) = self.since.take() {
            let (failures, elapsed) = (self.failures, since.elapsed());
            log.warn(format_args!("taking connections again after {failures} failures in {elapsed:.1?}"));
            self.failures = 0;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::thread;

    use super::*;
    use crate::connection::identity::Identity;
    use crate::supervisor::event::Event;
    use crate::supervisor::notice::Notice;

    #[test]
    fn while_the_supervisor_is_behind_nobody_is_accepted_and_misses_are_counted_as_lost() {
        let (supervisor, receivers) = SupervisorHandle::new(std::sync::Arc::default(), || {}).unwrap();
        let events = supervisor.subscribers.add();
        let miss = || {
            let remote = SocketAddr::from(([192, 0, 2, 1], 1)).into();
            Notice::Missed { connection: Identity { id: 1, remote }, what: "Pong", missed: 1, max_missed: 3 }
        };
        let mut told = 0;
        while !supervisor.is_behind() {
            supervisor.notify_if_room(miss());
            told += 1;
        }
        (0..10).for_each(|_| supervisor.notify_if_room(miss()));
        assert_eq!((receivers.notices.len(), supervisor.subscribers.tell_lost()), (told, None));
        assert!(matches!(events.try_recv(), Ok(Event::Lost { count: 10 })));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_stop, stop) = crossbeam_channel::bounded(1);
        let (started, accepted) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            scope.spawn(|| {
                run(&listener, &supervisor, &stop, |_, _| {
                    let _ = started.send(());
                    supervisor.ended();
                    Ok(())
                });
            });
            assert!(accepted.recv_timeout(Duration::from_millis(200)).is_err(), "accepted all the same");
            // It catches up.
            receivers.notices.try_iter().for_each(drop);
            assert!(accepted.recv_timeout(Duration::from_secs(30)).is_ok());
        });
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_over() {
        let (mut failures, log) = (FailureBurst::default(), Log::default());
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let pauses: Vec<u128> = (0..100).map(|_| failures.with("accept", &error, &log).as_millis()).collect();
        assert_eq!(pauses[..7], [10, 20, 40, 80, 160, 320, 500]);
        assert!(pauses[7..].iter().all(|pause| *pause == 500));
        failures.is_over(&log);
        assert_eq!(failures.with("accept", &error, &log).as_millis(), 10);
    }

    #[test]
    fn only_shortages_slow_the_loop_down() {
        for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO] {
            assert!(is_passing(&io::Error::from_raw_os_error(code)));
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert!(!is_passing(&io::Error::from_raw_os_error(code)));
        }
    }
}

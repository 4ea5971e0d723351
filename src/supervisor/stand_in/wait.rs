//! How the stand-in sleeps: until a socket is ready, another thread wakes it, or a timeout is over.

#[cfg(not(unix))]
pub(super) use elsewhere::{Sleep, Waker, pair};
#[cfg(unix)]
pub(super) use unix::{Sleep, Waker, pair};

/// By poll(2), on the sockets and on one end of a socket pair whose other end the waker writes to.
#[cfg(unix)]
mod unix {
    use std::cell::Cell;
    use std::io::{self, ErrorKind, Read};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::{GRACE, Socket};
    use crate::connection::identity::ConnectionId;
    use crate::transport::socket;

    #[derive(Debug)]
    pub(crate) struct Waker(UnixStream);

    #[derive(Debug)]
    pub(crate) struct Sleep {
        pair: UnixStream,
        /// Whether either end of the pair has failed. From then on the stand-in relies on nobody to wake it.
        is_broken: Cell<bool>,
    }

    pub(crate) fn pair() -> io::Result<(Waker, Sleep)> {
        let (waker, sleep) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        sleep.set_nonblocking(true)?;
        Ok((Waker(waker), Sleep { pair: sleep, is_broken: Cell::new(false) }))
    }

    impl Waker {
        pub(crate) fn wake(&self) {
            loop {
                // std's own write may raise SIGPIPE if the other end has gone.
                match rustix::net::send(&self.0, &[0], socket::SEND_FLAGS).map_err(|error| error.kind()) {
                    Err(ErrorKind::Interrupted) => {}
                    // The pair is full, so the stand-in wakes up anyway.
                    Ok(_) | Err(ErrorKind::WouldBlock) => return,
                    // Perhaps the system is short of memory. The end of the pair also wakes the stand-in, from now on
                    // always.
                    Err(_) => {
                        let _ = self.0.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
        }
    }

    impl Sleep {
        pub(crate) fn wait(&self, sockets: &[(ConnectionId, &Socket)], timeout: Option<Duration>) -> Vec<ConnectionId> {
            let is_broken = self.is_broken.get();
            let timeout = if is_broken { Some(timeout.map_or(GRACE, |timeout| timeout.min(GRACE))) } else { timeout };
            // A timeout that is too long for a timespec is as good as none.
            let timespec = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut polled = Vec::with_capacity(sockets.len() + 1);
            polled.extend(sockets.iter().map(|(_, socket)| {
                PollFd::new(&*socket.stream, if socket.reads { PollFlags::IN } else { PollFlags::empty() })
            }));
            if !is_broken {
                polled.push(PollFd::new(&self.pair, PollFlags::IN));
            }
            match poll(&mut polled, timespec.as_ref()) {
                Ok(_) => {}
                // The caller polls again.
                Err(rustix::io::Errno::INTR) => return Vec::new(),
                Err(_) => {
                    socket::pause_briefly(timeout);
                    return Vec::new();
                }
            }
            if polled.get(sockets.len()).is_some_and(|pair| !pair.revents().is_empty()) {
                let read = (&self.pair).read(&mut [0; 64]).map_err(|error| error.kind());
                self.is_broken.set(!matches!(read, Ok(1..) | Err(ErrorKind::Interrupted | ErrorKind::WouldBlock)));
            }
            let ready = polled.iter().zip(sockets).filter(|(polled, _)| !polled.revents().is_empty());
            ready.map(|(_, (id, _))| *id).collect()
        }
    }

    #[cfg(test)]
    mod tests {
        use std::time::Instant;

        use super::*;

        #[test]
        fn a_broken_waker_makes_the_sleeper_wake_by_itself_without_spinning() {
            let (waker, sleep) = pair().unwrap();
            let ceiling = Duration::from_secs(30);
            // What a failed write does.
            waker.0.shutdown(Shutdown::Both).unwrap();
            let begin = Instant::now();
            sleep.wait(&[], Some(ceiling));
            assert!(begin.elapsed() < ceiling, "the failure is noticed");
            waker.wake();
            for _ in 0..2 {
                let begin = Instant::now();
                sleep.wait(&[], Some(ceiling));
                assert!((GRACE..ceiling).contains(&begin.elapsed()), "{:?}", begin.elapsed());
            }
        }
    }
}

/// By trying all sockets that are read, now and then.
#[cfg(not(unix))]
mod elsewhere {
    use std::io;
    use std::time::Duration;

    use crossbeam_channel as channel;

    use super::super::{GRACE, Socket};
    use crate::connection::identity::ConnectionId;

    #[derive(Debug)]
    pub(crate) struct Waker(channel::Sender<()>);

    #[derive(Debug)]
    pub(crate) struct Sleep(channel::Receiver<()>);

    pub(crate) fn pair() -> io::Result<(Waker, Sleep)> {
        let (waker, sleep) = channel::bounded(1);
        Ok((Waker(waker), Sleep(sleep)))
    }

    impl Waker {
        pub(crate) fn wake(&self) {
            // One wake-up in the channel is enough.
            let _ = self.0.try_send(());
        }
    }

    impl Sleep {
        pub(crate) fn wait(&self, sockets: &[(ConnectionId, &Socket)], timeout: Option<Duration>) -> Vec<ConnectionId> {
            let has_readers = sockets.iter().any(|(_, socket)| socket.reads);
            let _ = match timeout.map_or(has_readers.then_some(GRACE), |timeout| {
                Some(if has_readers { timeout.min(GRACE) } else { timeout })
            }) {
                Some(timeout) => self.0.recv_timeout(timeout).is_ok(),
                None => self.0.recv().is_ok(),
            };
            sockets.iter().filter(|(_, socket)| socket.reads).map(|(id, _)| *id).collect()
        }
    }
}

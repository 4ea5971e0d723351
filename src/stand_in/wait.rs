//! How the stand-in sleeps: until a socket has something to say, somebody wakes it, or a time has come.

#[cfg(not(unix))]
pub(super) use elsewhere::{Sleep, Waker, pair};
#[cfg(unix)]
pub(super) use unix::{Sleep, Waker, pair};

/// By poll(2), over the sockets and one end of a pair that others write to.
#[cfg(unix)]
mod unix {
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::Socket;
    use crate::close::ConnectionId;

    #[derive(Debug)]
    pub(crate) struct Waker(UnixStream);

    #[derive(Debug)]
    pub(crate) struct Sleep(UnixStream);

    pub(crate) fn pair() -> io::Result<(Waker, Sleep)> {
        let (waker, sleep) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        sleep.set_nonblocking(true)?;
        Ok((Waker(waker), Sleep(sleep)))
    }

    impl Waker {
        pub(crate) fn wake(&self) {
            // It fails only if so much waits to be read that it wakes up anyway.
            let _ = (&self.0).write(&[0]);
        }
    }

    impl Sleep {
        pub(crate) fn wait(&self, sockets: &[(ConnectionId, Socket)], timeout: Option<Duration>) -> Vec<ConnectionId> {
            // A wait that is too long for a timespec is as good as none.
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut polled = vec![PollFd::new(&self.0, PollFlags::IN)];
            polled.extend(sockets.iter().map(|(_, socket)| {
                PollFd::new(&*socket.stream, if socket.reads { PollFlags::IN } else { PollFlags::empty() })
            }));
            // A signal, or a system short of memory, is as good as nothing: there will be another round.
            if poll(&mut polled, timeout.as_ref()).is_err() {
                return Vec::new();
            }
            if !polled[0].revents().is_empty() {
                let _ = (&self.0).read(&mut [0; 64]);
            }
            let ready = polled[1..].iter().zip(sockets).filter(|(polled, _)| !polled.revents().is_empty());
            ready.map(|(_, (id, _))| *id).collect()
        }
    }
}

/// By looking at all of them now and then.
#[cfg(not(unix))]
mod elsewhere {
    use std::io;
    use std::time::Duration;

    use crossbeam_channel as channel;

    use super::super::{GRACE, Socket};
    use crate::close::ConnectionId;

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
            // One that waits already is enough.
            let _ = self.0.try_send(());
        }
    }

    impl Sleep {
        pub(crate) fn wait(&self, sockets: &[(ConnectionId, Socket)], timeout: Option<Duration>) -> Vec<ConnectionId> {
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

//! Connects to a host that has several addresses: happy eyeballs (RFC 8305), so that a dead address costs a quarter of
//! a second and not the connect timeout.
//!
//! [`Race`] decides which address is next, and is pure: instants are passed in. [`connect`] has the sockets. They do
//! not block, so one thread watches all of them, and the losers are closed at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::transport::stream::Stream;

/// The addresses that are not tried yet, and when the next is due.
#[derive(Debug)]
struct Race {
    waiting: VecDeque<SocketAddr>,
    delay: Duration,
    next_at: Instant,
}

impl Race {
    /// How long an address has before the next is tried too, as RFC 8305 section 5 recommends.
    const DELAY: Duration = Duration::from_millis(250);
    /// It "MUST NOT be less than 10 milliseconds", however many addresses there are.
    const SHORTEST_DELAY: Duration = Duration::from_millis(10);

    /// If the timeout is short for so many addresses, they follow each other faster, so that each has its turn.
    fn new(addresses: Vec<SocketAddr>, now: Instant, timeout: Duration) -> Self {
        let share = timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        Self {
            waiting: interleaved(addresses).into(),
            delay: share.clamp(Self::SHORTEST_DELAY, Self::DELAY),
            next_at: now,
        }
    }

    /// The next address, if its turn has come.
    fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + self.delay;
        self.waiting.pop_front()
    }

    /// An attempt failed, so the next is due at once.
    fn attempt_failed(&mut self, now: Instant) {
        self.next_at = now;
    }

    /// When the next address is due; `None` if all have had their turn.
    fn next_at(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }
}

/// IPv6 and IPv4 in turn, beginning with the family that the resolver prefers (RFC 8305 section 4): a family that does
/// not work delays the other by one address only.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let prefers_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == prefers_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// Connects to the first of these addresses that answers. The error is that of the last attempt, or `TimedOut` if any
/// is still under way.
pub(super) fn connect(addresses: Vec<SocketAddr>, timeout: Duration) -> io::Result<(Stream, SocketAddr)> {
    let begin = Instant::now();
    let deadline = begin + timeout;
    let mut race = Race::new(addresses, begin, timeout);
    let mut under_way: Vec<(Socket, SocketAddr)> = Vec::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let now = Instant::now();
        while let Some(address) = race.next(now) {
            match begin_to_connect(address) {
                Ok(socket) => under_way.push((socket, address)),
                Err(error) => {
                    last_error = error;
                    race.attempt_failed(now);
                }
            }
        }
        let mut index = 0;
        while let Some((socket, address)) = under_way.get(index) {
            match is_connected(socket) {
                Ok(true) => {
                    let address = *address;
                    return Ok((Stream::new(under_way.swap_remove(index).0), address));
                }
                Ok(false) => index += 1,
                Err(error) => {
                    last_error = error;
                    under_way.remove(index);
                    race.attempt_failed(now);
                }
            }
        }
        let next_at = race.next_at();
        if under_way.is_empty() && next_at.is_none() {
            return Err(last_error);
        }
        // The sockets were checked once more after the deadline, because this thread may be late.
        if now >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let until = next_at.map_or(deadline, |next_at| next_at.min(deadline));
        wait_for_any(&under_way, until.saturating_duration_since(Instant::now()))?;
    }
}

fn begin_to_connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(socket),
    }
}

#[cfg(unix)]
fn is_in_progress(error: &io::Error) -> bool {
    // After a signal the connection is still established in the background (POSIX, connect).
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR))
}

#[cfg(not(unix))]
fn is_in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Whether an attempt has succeeded. `false` while it is under way.
fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until one of the attempts has succeeded or failed. It may return early.
#[cfg(unix)]
fn wait_for_any(under_way: &[(Socket, SocketAddr)], wait: Duration) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut sockets: Vec<_> = under_way.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::OUT)).collect();
    // Without a limit if the wait is too long for a timespec.
    let wait = Timespec::try_from(wait).ok();
    match poll(&mut sockets, wait.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        polled => Ok(polled.map(drop)?),
    }
}

/// The same by polling.
#[cfg(not(unix))]
fn wait_for_any(_: &[(Socket, SocketAddr)], wait: Duration) -> io::Result<()> {
    std::thread::sleep(wait.min(Duration::from_millis(10)));
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const V6: [&str; 3] = ["[2001:db8::1]:80", "[2001:db8::2]:80", "[2001:db8::3]:80"];
    const V4: [&str; 2] = ["192.0.2.1:80", "192.0.2.2:80"];

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    // Pure.

    #[test]
    fn families_take_turns_beginning_with_the_one_that_the_resolver_prefers() {
        for (resolved, tried) in [
            (&[V6[0], V6[1], V6[2], V4[0], V4[1]][..], &[V6[0], V4[0], V6[1], V4[1], V6[2]][..]),
            (&[V4[0], V6[0], V6[1]], &[V4[0], V6[0], V6[1]]),
            (&[V4[0], V4[1]], &[V4[0], V4[1]]),
            (&[V6[1], V6[0]], &[V6[1], V6[0]]),
            (&[], &[]),
        ] {
            assert_eq!(interleaved(addresses(resolved)), addresses(tried));
        }
    }

    #[test]
    fn each_silent_address_has_a_quarter_of_a_second_before_the_next_is_tried_as_well() {
        let begin = Instant::now();
        let [first, second, third] = addresses(&[V6[0], V4[0], V6[1]])[..] else { unreachable!() };
        let mut race = Race::new(vec![first, third, second], begin, ms(10_000));
        assert_eq!((race.next(begin), race.next(begin)), (Some(first), None));
        assert_eq!(race.next_at(), Some(begin + ms(250)));
        assert_eq!(race.next(begin + ms(250) - Duration::from_nanos(1)), None);
        assert_eq!(race.next(begin + ms(250)), Some(second));
        // A thread that is late does not have to catch up by trying several at once.
        let late = begin + ms(5_000);
        assert_eq!((race.next(late), race.next_at()), (Some(third), None));
        assert_eq!(race.next(late + ms(10_000)), None);
    }

    #[test]
    fn after_a_failure_the_next_address_does_not_wait() {
        let begin = Instant::now();
        let all = addresses(&[V6[0], V6[1]]);
        let mut race = Race::new(all.clone(), begin, ms(10_000));
        assert_eq!(race.next(begin), Some(all[0]));
        race.attempt_failed(begin + ms(3));
        assert_eq!((race.next_at(), race.next(begin + ms(3))), (Some(begin + ms(3)), Some(all[1])));
    }

    #[test]
    fn under_a_short_timeout_all_have_their_turn_and_never_in_a_burst() {
        let begin = Instant::now();
        let mut race = Race::new(addresses(&V6), begin, ms(300));
        let starts: Vec<u64> = (0..300).filter(|at| race.next(begin + ms(*at)).is_some()).collect();
        assert_eq!(starts, [0, 100, 200]);
        assert_eq!(Race::new(addresses(&V6), begin, ms(3)).delay, ms(10));
        assert_eq!(Race::new(Vec::new(), begin, ms(1)).next(begin), None);
    }

    // With sockets.

    const LONG: Duration = Duration::from_secs(60);

    fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn an_address_that_refuses_is_passed_over_and_the_last_error_told() {
        let (_, refusing) = bound();
        let (_listener, open) = bound();
        let (stream, reached) = connect(vec![refusing, open], LONG).unwrap();
        assert_eq!((reached, stream.socket().peer_addr().unwrap()), (open, open.into()));
        assert_eq!(connect(vec![refusing], LONG).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(Vec::new(), LONG).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// A port whose backlog is full: what comes is not even answered.
    #[cfg(target_os = "linux")]
    pub(in crate::client) fn silent() -> (SocketAddr, impl Sized) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, ms(200)) {
            fill.push(stream);
            assert!(fill.len() < 100);
        }
        (address, (listener, fill))
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_silent_address_costs_a_moment_and_not_a_share_of_the_timeout() {
        let (silent, _held) = silent();
        let (_listener, open) = bound();
        let begin = Instant::now();
        assert_eq!(connect(vec![silent, open], LONG).unwrap().1, open);
        assert!(begin.elapsed() < LONG / 4, "{:?}", begin.elapsed());
        // And a timeout that is shorter than the moment leaves time for the others all the same.
        assert_eq!(connect(vec![silent, open], ms(200)).unwrap().1, open);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_silent_addresses_end_at_the_timeout() {
        let (silent, _held) = silent();
        let (_, refusing) = bound();
        let begin = Instant::now();
        let error = connect(vec![refusing, silent], ms(300)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = begin.elapsed();
        assert!(took >= ms(300) && took < LONG / 4, "{took:?}");
    }
}

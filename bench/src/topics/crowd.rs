//! Subscribers that come all at once, take every message once, and are counted together.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::board::Board;
use super::dialect::{Dialect, Memory};
use super::subscriber::{Listener, Subscriber};
use crate::process::Server;
use crate::wire::wrong;

/// Subscribers of one server, on a few threads.
pub(crate) struct Crowd {
    pub(crate) board: Arc<Board>,
    threads: Vec<JoinHandle<Vec<Member>>>,
}

impl Crowd {
    /// Lets so many come at once. The waker is that of whoever looks at the board.
    pub(crate) fn gather(server: &Server, count: usize, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        Self::of((0..count).map(|_| None).collect(), server, threads, waker)
    }

    /// Lets these come back at once.
    pub(crate) fn again(server: &Server, left: Vec<Memory>, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        Self::of(left.into_iter().map(Some).collect(), server, threads, waker)
    }

    fn of(memories: Vec<Option<Memory>>, server: &Server, threads: usize, waker: Arc<Waker>) -> io::Result<Self> {
        let board = Arc::new(Board::new(memories.len(), waker));
        let threads = threads.clamp(1, memories.len().max(1));
        let mut groups: Vec<Vec<Option<Memory>>> = (0..threads).map(|_| Vec::new()).collect();
        for (number, memory) in memories.into_iter().enumerate() {
            groups[number % threads].push(memory);
        }
        let (dialect, address) = (Dialect::of(server.kind), server.address);
        let start = |group: Vec<Option<Memory>>| {
            let board = Arc::clone(&board);
            thread::Builder::new().name("subscribers".to_owned()).spawn(move || {
                let mut members = Vec::with_capacity(group.len());
                if let Err(error) = receive(group, dialect, address, &board, &mut members) {
                    board.failed(error);
                }
                members
            })
        };
        let threads = groups.into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { board, threads })
    }

    /// Ends the threads. The subscribers are still connected.
    pub(crate) fn stop(self) -> Vec<Member> {
        self.board.end();
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    }
}

/// The thread of a group.
fn receive(
    group: Vec<Option<Memory>>,
    dialect: Dialect,
    server: SocketAddr,
    board: &Board,
    members: &mut Vec<Member>,
) -> io::Result<()> {
    let mut poll = Poll::new()?;
    for (number, memory) in group.into_iter().enumerate() {
        let member = Member { subscriber: Subscriber::come(dialect, server, memory)?, taken: Taken::default() };
        let fd = member.subscriber.stream.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE | Interest::WRITABLE)?;
        members.push(member);
    }
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    while !board.is_over() {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            let Member { subscriber, taken } = &mut members[event.token().0];
            subscriber.proceed(&mut scratch, &mut Counted { board, taken })?;
        }
    }
    Ok(())
}

/// A subscriber, and which messages it has.
pub(crate) struct Member {
    subscriber: Subscriber,
    taken: Taken,
}

impl Member {
    /// How many messages it has.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.count
    }

    /// Leaves without a word, and keeps what it needs to come back.
    pub(crate) fn leave(self) -> Memory {
        self.subscriber.leave()
    }
}

struct Counted<'a> {
    board: &'a Board,
    taken: &'a mut Taken,
}

impl Listener for Counted<'_> {
    fn subscribed(&mut self) {
        self.board.subscribed();
    }

    fn message(&mut self, number: u64) -> io::Result<()> {
        self.taken.note(number)?;
        self.board.delivered(number);
        Ok(())
    }

    fn lost(&mut self) -> io::Result<()> {
        Err(wrong("that messages are lost"))
    }
}

/// Which messages a subscriber has.
#[derive(Debug, Default)]
struct Taken {
    count: u64,
    newest: u64,
    /// The newest, and those before it, from the lowest bit on.
    window: u128,
}

impl Taken {
    /// # Errors
    /// It has the message already, or might have: nothing is as old as that.
    fn note(&mut self, number: u64) -> io::Result<()> {
        if self.count == 0 || number > self.newest {
            let shift = u32::try_from(number - self.newest).unwrap_or(u32::MAX);
            self.window = self.window.checked_shl(shift).unwrap_or(0) | 1;
            self.newest = number;
        } else {
            let bit = u32::try_from(self.newest - number).ok().and_then(|age| 1_u128.checked_shl(age));
            match bit {
                Some(bit) if self.window & bit == 0 => self.window |= bit,
                _ => return Err(wrong(&format!("message {number} twice"))),
            }
        }
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_taken_once_in_any_order() {
        let mut taken = Taken::default();
        for number in [3, 1, 2, 500, 499, 400] {
            taken.note(number).unwrap();
        }
        assert_eq!(taken.count, 6);
        for twice in [500, 499, 400, 3] {
            assert!(taken.note(twice).is_err(), "{twice}");
        }
        taken.note(401).unwrap();
    }
}

//! A relay between clients and a server, whose lines can be cut, whose server may become another one, and which holds
//! what clients say.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::receive;

/// A relay. It lasts as long as the process.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    target: SocketAddr,
    /// Both ends of each line that was made.
    lines: Vec<(TcpStream, TcpStream)>,
    made: usize,
    /// What is to be held, one after the other.
    holds: VecDeque<Hold>,
}

struct Hold {
    word: &'static str,
    reached: Sender<()>,
    let_go: Receiver<()>,
}

/// A word that is held on its way to the server, until this is dropped.
#[allow(dead_code, reason = "only the tests of the backplane hold some")]
pub(crate) struct Held {
    reached: Receiver<()>,
    _let_go: Sender<()>,
}

#[allow(dead_code, reason = "only the tests of the backplane hold some")]
impl Held {
    /// Holds the line on which a client says this word next, after those that are to be held before.
    pub(crate) fn at(relay: &Relay, word: &'static str) -> Self {
        let ((reached, has_come), (let_go, is_over)) = (bounded(1), bounded(0));
        relay.state.lock().unwrap().holds.push_back(Hold { word, reached, let_go: is_over });
        Self { reached: has_come, _let_go: let_go }
    }

    /// Waits until a client has said it.
    pub(crate) fn wait(&self) {
        receive("the word", &self.reached);
    }
}

impl Relay {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State { target, lines: Vec::new(), made: 0, holds: VecDeque::new() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                // A server that is gone is a line that ends at once.
                let _ = client.and_then(|client| connect(client, &shared));
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new lines to another server.
    pub(crate) fn set_target(&self, target: SocketAddr) {
        self.state.lock().unwrap().target = target;
    }

    /// Cuts all lines. What is under way is lost.
    pub(crate) fn cut(&self) {
        for (client, server) in self.state.lock().unwrap().lines.drain(..) {
            for end in [client, server] {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// How many lines there have been.
    pub(crate) fn made(&self) -> usize {
        self.state.lock().unwrap().made
    }
}

fn connect(client: TcpStream, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let target = state.lock().unwrap().target;
    let server = TcpStream::connect(target)?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    {
        let mut state = state.lock().unwrap();
        state.lines.push((client.try_clone()?, server.try_clone()?));
        state.made += 1;
    }
    let (from_server, to_client, state) = (server.try_clone()?, client.try_clone()?, Arc::clone(state));
    thread::spawn(move || pass_on(|| io::copy(&mut &from_server, &mut &to_client).map(drop), &to_client));
    thread::spawn(move || pass_on(|| say(&client, &server, &state), &server));
    Ok(())
}

/// Passes on what one end says, up to its end.
fn pass_on(copy: impl FnOnce() -> io::Result<()>, to: &TcpStream) {
    let _ = copy();
    let _ = to.shutdown(Shutdown::Write);
}

/// Passes on what a client says, but for what is to be held.
fn say(mut from: &TcpStream, mut to: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut said = [0; 1 << 16];
    loop {
        let count = from.read(&mut said)?;
        if count == 0 {
            return Ok(());
        }
        let has = |word: &str| said[..count].windows(word.len()).any(|part| part == word.as_bytes());
        let hold = {
            let holds = &mut state.lock().unwrap().holds;
            if holds.front().is_some_and(|hold| has(hold.word)) { holds.pop_front() } else { None }
        };
        if let Some(Hold { reached, let_go, .. }) = hold {
            let _ = reached.send(());
            // Until the other end is dropped.
            let _ = let_go.recv();
        }
        to.write_all(&said[..count])?;
    }
}

//! A relay between clients and a server, whose lines can be cut, and whose server may become another one.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

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
}

impl Relay {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State { target, lines: Vec::new(), made: 0 }));
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

fn connect(client: TcpStream, state: &Mutex<State>) -> io::Result<()> {
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
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || pass_on(&from, &to));
    }
    Ok(())
}

/// Passes on what one end says, up to its end.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

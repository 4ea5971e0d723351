//! A line between clients and the server, which can fall silent, be cut, be reset, or break in the middle of a frame.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::socket;
use crate::times::Span;

/// How long a peer that does not read keeps us from seeing that its line is over.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    /// Where its server is now.
    server: RwLock<Arc<RwLock<SocketAddr>>>,
    /// Protects what the line does, and who is on it.
    state: Mutex<State>,
    changed: Condvar,
    /// Protects what befell it: when, and for how long. Each is noted before it does.
    faults: Mutex<Vec<Span>>,
}

#[derive(Default)]
struct State {
    silent_until: Option<Instant>,
    pairs: Vec<Weak<Pair>>,
}

/// A connection to us, and ours to the server. Both are closed when the last of the two threads lets go.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    /// Nothing passes any more.
    is_over: AtomicBool,
    /// Of what comes next only a part is to get through.
    is_tearing: AtomicBool,
}

impl Line {
    pub(crate) fn start(server: Arc<RwLock<SocketAddr>>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = RwLock::new(server);
        let (state, faults) = (Mutex::default(), Mutex::default());
        let line = Arc::new(Self { address, server, state, changed: Condvar::new(), faults });
        let accepting = Arc::clone(&line);
        thread::spawn(move || {
            for near in listener.incoming() {
                accepting.join(near.expect("a connection"));
            }
        });
        line
    }

    fn join(self: &Arc<Self>, near: TcpStream) {
        self.wait_while_silent(|| false);
        let server = *self.server.read().unwrap().read().unwrap();
        // If there is no server, the client learns it by the end of its connection.
        let Ok(far) = TcpStream::connect_timeout(&server, Duration::from_secs(1)) else { return };
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("TCP_NODELAY");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let pair = Arc::new(Pair { near, far, is_over: AtomicBool::new(false), is_tearing: AtomicBool::new(false) });
        {
            let mut state = self.state.lock().unwrap();
            state.pairs.retain(|pair| pair.strong_count() > 0);
            state.pairs.push(Arc::downgrade(&pair));
        }
        for is_up in [true, false] {
            let (line, pair) = (Arc::clone(self), Arc::clone(&pair));
            let pump = move || {
                let (from, to) = if is_up { (&pair.near, &pair.far) } else { (&pair.far, &pair.near) };
                // An end by a reset is passed on as one.
                if line.pump(&pair, from, to).is_err() {
                    pair.reset();
                }
            };
            thread::Builder::new().stack_size(128 * 1024).spawn(pump).expect("a thread");
        }
    }

    /// Passes on what comes, to its end.
    fn pump(&self, pair: &Pair, mut from: &TcpStream, to: &TcpStream) -> std::io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer)?;
            self.wait_while_silent(|| pair.is_over.load(SeqCst));
            if count == 0 {
                // Whoever has ended may still be sent something.
                let _ = to.shutdown(Shutdown::Write);
                return Ok(());
            }
            if pair.is_tearing.swap(false, SeqCst) {
                pair.write(to, &buffer[..count / 2])?;
                pair.cut();
                return Ok(());
            }
            pair.write(to, &buffer[..count])?;
        }
    }

    /// The process of a server that a client's connection leads to.
    pub(crate) fn process_of(&self, client: SocketAddr) -> Option<SocketAddr> {
        let pairs: Vec<_> = self.state.lock().unwrap().pairs.iter().filter_map(Weak::upgrade).collect();
        let pair = pairs.iter().find(|pair| pair.near.peer_addr().is_ok_and(|near| near == client))?;
        pair.far.peer_addr().ok()
    }

    /// What has befallen it so far.
    pub(crate) fn faults(&self) -> Vec<Span> {
        self.faults.lock().unwrap().clone()
    }

    fn wait_while_silent(&self, is_over: impl Fn() -> bool) {
        let mut state = self.state.lock().unwrap();
        while let Some(rest) = state.silence()
            && !is_over()
        {
            state = self.changed.wait_timeout(state, rest).unwrap().0;
        }
    }

    // Faults. Each tells how many connections it hit.

    /// Nothing gets through for a while, and nobody is told. Hits none if it is silent already.
    pub(crate) fn fall_silent(&self, time: Duration) -> usize {
        let mut state = self.state.lock().unwrap();
        let count = state.pairs.iter().filter(|pair| pair.strong_count() > 0).count();
        if state.silence().is_some() || count == 0 {
            return 0;
        }
        let now = Instant::now();
        self.faults.lock().unwrap().push((now, now + time));
        state.silent_until = Some(now + time);
        count
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().silent_until = None;
        self.changed.notify_all();
    }

    /// Leads to another server from now on.
    pub(crate) fn move_to(&self, server: Arc<RwLock<SocketAddr>>) -> usize {
        *self.server.write().unwrap() = server;
        self.cut()
    }

    pub(crate) fn cut(&self) -> usize {
        self.hit(Pair::cut)
    }

    pub(crate) fn reset(&self) -> usize {
        self.hit(Pair::reset)
    }

    pub(crate) fn tear(&self) -> usize {
        self.hit(|pair| pair.is_tearing.store(true, SeqCst))
    }

    fn hit(&self, hit: impl Fn(&Pair)) -> usize {
        let now = Instant::now();
        self.faults.lock().unwrap().push((now, now));
        let pairs: Vec<_> = self.state.lock().unwrap().pairs.iter().filter_map(Weak::upgrade).collect();
        pairs.iter().for_each(|pair| hit(pair));
        self.changed.notify_all();
        pairs.len()
    }
}

impl State {
    /// For how long it is silent yet.
    fn silence(&self) -> Option<Duration> {
        let rest = self.silent_until?.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }
}

impl Pair {
    /// Writes all, unless the line is over before.
    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {
                    if self.is_over.load(SeqCst) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut(&self) {
        self.is_over.store(true, SeqCst);
        for stream in [&self.near, &self.far] {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Both ends learn of it when both threads have let go.
    fn reset(&self) {
        self.is_over.store(true, SeqCst);
        socket::reset(&self.near);
        socket::reset(&self.far);
    }
}

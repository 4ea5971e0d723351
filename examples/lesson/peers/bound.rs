//! The peers of step 3: one lives and has nothing to say, and three die at different times after a Ping.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cable;
use super::narrator::seconds;

type Converse = fn(TcpStream) -> io::Result<()>;

pub(crate) fn play(
    converse_without_asking: Converse,
    converse: Converse,
    interval: Duration,
    timeout: Duration,
) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;

    println!("A read timeout of {}, and nothing else", seconds(interval));
    let quiet = Visit::start(&listener, converse_without_asking, move |peer| live_quietly(peer, 2 * interval))?;
    quiet.tell("alive, with nothing to say");

    println!("\nA Ping every {}, and {} for the answer", seconds(interval), seconds(timeout));
    let [early, late] = [interval / 2, interval * 9 / 10];
    let quiet = Visit::start(&listener, converse, move |peer| answer(peer, 3 * interval))?;
    let at_once = Visit::start(&listener, converse, |peer| die(peer, Duration::ZERO))?;
    let halfway = Visit::start(&listener, converse, move |peer| die(peer, early))?;
    let at_last = Visit::start(&listener, converse, move |peer| die(peer, late))?;
    quiet.tell("alive, with nothing to say");
    at_once.tell("its last byte is its answer");
    halfway.tell(&format!("its last byte comes {} later", seconds(early)));
    at_last.tell(&format!("its last byte comes {} later", seconds(late)));
    println!("{:<33}{}", "interval + timeout", seconds(interval + timeout));
    Ok(())
}

/// Lives, and says something only in the beginning. Gives, as all peers do, when it sent its last byte.
fn live_quietly(peer: &mut TcpStream, time: Duration) -> io::Result<Instant> {
    peer.write_all(b"hello\n")?;
    let last_byte = Instant::now();
    thread::sleep(time);
    Ok(last_byte)
}

/// Answers every Ping for a while, and closes.
fn answer(peer: &mut TcpStream, time: Duration) -> io::Result<Instant> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        await_ping(peer)?;
        peer.write_all(b"pong\n")?;
    }
    peer.shutdown(Shutdown::Both)?;
    Ok(Instant::now())
}

/// Answers one Ping, says something more after a while, and is cut off.
fn die(peer: &mut TcpStream, after: Duration) -> io::Result<Instant> {
    await_ping(peer)?;
    peer.write_all(b"pong\n")?;
    if !after.is_zero() {
        thread::sleep(after);
        peer.write_all(b"news\n")?;
    }
    cable::pull(peer)?;
    Ok(Instant::now())
}

fn await_ping(peer: &mut TcpStream) -> io::Result<()> {
    peer.read_exact(&mut [0; b"ping\n".len()])
}

/// One connection: how it ended on the server and when, and the peer with the time of its last byte.
struct Visit {
    server: JoinHandle<(io::Result<()>, Instant)>,
    peer: JoinHandle<io::Result<(TcpStream, Instant)>>,
}

impl Visit {
    fn start(
        listener: &TcpListener,
        converse: Converse,
        live: impl FnOnce(&mut TcpStream) -> io::Result<Instant> + Send + 'static,
    ) -> io::Result<Self> {
        let mut peer = TcpStream::connect(listener.local_addr()?)?;
        let (stream, _) = listener.accept()?;
        Ok(Self {
            server: thread::spawn(move || (converse(stream), Instant::now())),
            // The peer keeps its socket: one that is cut off never closes.
            peer: thread::spawn(move || live(&mut peer).map(|last_byte| (peer, last_byte))),
        })
    }

    fn tell(self, who: &str) {
        let (end, ended) = self.server.join().expect("it does not panic");
        let peer = self.peer.join().expect("it does not panic");
        let what = match (end, peer) {
            (Ok(()), _) => "closed by the peer".to_owned(),
            (Err(_), Ok((_, last_byte))) => {
                let after = ended.saturating_duration_since(last_byte);
                format!("taken for dead {} after its last byte", seconds(after))
            }
            (Err(_), Err(error)) => format!("taken for dead, and its peer failed: {error}"),
        };
        println!("{who:<33}{what}");
    }
}

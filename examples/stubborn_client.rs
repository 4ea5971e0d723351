//! A client that connects and then neither reads nor answers: the kind of peer that a heartbeat finds.
//!
//! Run any heartwire server with a short heartbeat, such as `cargo run -- --ping-interval 2s --pong-timeout 1s`, and
//! this client: `cargo run --example stubborn_client [ADDRESS]`. The server's Pings pile up here, unread. Its log
//! counts the misses, and then says `heartbeat lost`. A `tungstenite` server without a heartbeat would believe this
//! client alive for ever, because its TCP acknowledges everything.

use std::error::Error;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let (socket, _) = tungstenite::client(format!("ws://{address}/"), TcpStream::connect(&address)?)?;
    let stream = socket.get_ref();
    let connected = Instant::now();
    println!("connected from {}; it reads and answers nothing from now on", stream.local_addr()?);

    let mut waiting = [0; 4096];
    let mut told = 0;
    loop {
        // A peek takes nothing out of the socket: to the server it looks as if nobody reads.
        let count = stream.peek(&mut waiting)?;
        if count == 0 {
            println!("after {:.1?}: the server hung up without a Close frame", connected.elapsed());
            return Ok(());
        }
        while let Some((opcode, payload)) = frame(&waiting[told..count]) {
            told += 2 + payload.len();
            print!("after {:.1?}: ", connected.elapsed());
            match (opcode, payload) {
                (0x9, number) => println!("Ping {}, not answered", String::from_utf8_lossy(number)),
                (0x8, [high, low, reason @ ..]) => {
                    let code = u16::from_be_bytes([*high, *low]);
                    println!("Close {code} {:?}: the server found this client dead", String::from_utf8_lossy(reason));
                    return Ok(());
                }
                _ => println!("a frame with opcode {opcode:#x}, ignored"),
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The first frame, if all of it has arrived: its opcode and payload. A server without data to send sends only control
/// frames, which are short (RFC 6455 section 5.5).
fn frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [first, length, rest @ ..] = bytes else { return None };
    Some((first & 0x0f, rest.get(..usize::from(*length))?))
}

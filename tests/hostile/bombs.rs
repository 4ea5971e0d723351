//! Compressed messages that do harm: those that grow to a thousand times their size, that are damaged, that do not
//! end, and those that nobody has agreed to.
//!
//! What is compressed here is so by another implementation than heartwire's.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use heartwire::{Deflate, HeartbeatPolicy, Server};

use crate::rig::Rig;
use crate::support::deflate::{COMPRESSED, Peer, compressed, inflated};
use crate::support::usage::resident;
use crate::support::{
    BINARY, CLOSE, CONTINUATION, Client, Dice, PING, PONG, SLACK, TEXT, fragment, masked, ms, over_tls, request_with,
};
use crate::violations::refused_as;
use crate::{Checked, Control, Scenario, ensure, scaled, seed};

const MIB: usize = 1 << 20;
/// Where those go with which compression is agreed.
const PATH: &str = "/compressed";
/// What ends a flushed stream, and is left out at the end of a message.
const FLUSH: [u8; 4] = [0, 0, 0xff, 0xff];
/// How many send bombs at once, and how many want to be served meanwhile.
const BOMBERS: usize = scaled(200, 40);
const HONEST: usize = 20;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "bombs: 16 MiB in 16 KB",
            server: compressing,
            check: |rig| refused(rig, &bombs()),
            control: roomy(),
            memory: 24,
        },
        Scenario {
            name: "bombs: 16 MiB, context taken over",
            server: |server| server.deflate(Deflate::new().context_takeover(true)),
            check: |rig| refused(rig, &bombs()),
            control: roomy(),
            memory: 24,
        },
        Scenario {
            name: "compressed: cut off anywhere",
            server: compressing,
            check: |rig| refused(rig, &cut_off(true)),
            control: Control {
                what: "nothing is missing",
                server: compressing,
                check: |rig| refused(rig, &cut_off(false)),
            },
            memory: 16,
        },
        Scenario {
            name: "compressed: not valid",
            server: compressing,
            check: |rig| refused(rig, &invalid(true)),
            control: Control { what: "it is valid", server: compressing, check: |rig| refused(rig, &invalid(false)) },
            memory: 16,
        },
        Scenario {
            name: "compressed: text that is no UTF-8",
            server: compressing,
            check: |rig| refused(rig, &no_utf8(TEXT)),
            control: Control {
                what: "it is no text",
                server: compressing,
                check: |rig| refused(rig, &no_utf8(BINARY)),
            },
            memory: 16,
        },
        Scenario {
            name: "compressed: where it may not be",
            server: compressing,
            check: |rig| said_out_of_place(rig, 0x40),
            control: Control { what: "it is not said", server: compressing, check: |rig| said_out_of_place(rig, 0) },
            memory: 16,
        },
        Scenario {
            name: "compressed: many half messages",
            server: silently_compressing,
            check: |rig| half_messages(rig, scaled(1000, 200), false),
            control: Control {
                what: "they send three times as much",
                server: silently_compressing,
                check: |rig| half_messages(rig, 200, true),
            },
            // Over TLS the clients of this process have their share.
            memory: 320,
        },
        Scenario {
            name: "bombs: many at once",
            server: patiently_compressing,
            check: |rig| bombs_at_once(rig, BOMBERS, &bomb()),
            control: Control {
                what: "they are no bombs",
                server: patiently_compressing,
                check: |rig| bombs_at_once(rig, 4, &compressed(b"no bomb")),
            },
            memory: 96,
        },
    ]
}

fn compressing(server: Server) -> Server {
    server.deflate(Deflate::new())
}

/// Whoever waits for others to connect answers no Pings.
fn patiently_compressing(server: Server) -> Server {
    compressing(server).heartbeat(HeartbeatPolicy::new(ms(500), Duration::from_secs(60)))
}

/// No Pong can come in the middle of a frame.
fn silently_compressing(server: Server) -> Server {
    compressing(server).heartbeat(HeartbeatPolicy::off()).max_connections(4096)
}

fn roomy() -> Control {
    Control {
        what: "so much is allowed",
        server: |server| compressing(server).max_message_size(32 * MIB),
        check: |rig| refused(rig, &bombs()),
    }
}

/// A client with which compression is agreed.
fn connect(rig: &Rig) -> Client {
    let mut client = Client::tcp(rig.address());
    client.write(request_with(PATH, "Sec-WebSocket-Extensions: permessage-deflate\r\n").as_bytes());
    let answer = client.answer();
    let agreed = answer.header("Sec-WebSocket-Extensions").unwrap_or_default();
    assert!(answer.status == 101 && agreed.starts_with("permessage-deflate"), "{answer:?}");
    client
}

/// A whole message with a payload that is compressed.
fn compressed_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    fragment(COMPRESSED | opcode, payload)
}

/// A message with a payload that is compressed, in fragments of so many bytes with Pings between them.
fn in_fragments(opcode: u8, payload: &[u8], len: usize) -> Vec<u8> {
    let mut frames = fragment(COMPRESSED & !0x80 | opcode, &[]);
    for (number, piece) in payload.chunks(len).enumerate() {
        frames.extend(fragment(CONTINUATION, piece));
        if number % 1000 == 999 {
            frames.extend(masked(PING, b"still here?"));
        }
    }
    frames.extend(fragment(0x80 | CONTINUATION, &[]));
    frames
}

/// What is sent, in pieces of how many bytes, the close code that it must be answered with, and the name of the reason
/// that it must be reported with.
type Attack = (Vec<u8>, usize, u16, &'static str);

fn refused(rig: &Rig, attacks: &[Attack]) -> Checked {
    let (mut slowest, mut longest) = (Duration::ZERO, 0);
    for (bytes, piece, code, reason) in attacks {
        slowest = slowest.max(refused_as(rig, connect(rig), (bytes, *piece), (*code, reason))?);
        longest = longest.max(bytes.len());
    }
    let count = attacks.len();
    Ok(format!("{count} messages of up to {longest} bytes, each refused as what it is, in {slowest:.1?} at most"))
}

/// 16 MiB of zeros in 16 KB.
fn bomb() -> Vec<u8> {
    vec![compressed(&vec![0; MIB]); 16].join(&FLUSH[..])
}

fn bombs() -> Vec<Attack> {
    let bomb = bomb();
    // Each MiB in a stream of its own, which says that it ends.
    let of_streams = miniz_oxide::deflate::compress_to_vec(&vec![0; MIB], 6).repeat(16);
    let a_byte_too_much = compressed(&vec![b'x'; MIB + 1]);
    let one_frame = compressed_frame(BINARY, &bomb);
    [
        // Zeros are valid text as well.
        (compressed_frame(TEXT, &bomb), usize::MAX),
        (one_frame.clone(), usize::MAX),
        (one_frame, 1),
        (in_fragments(BINARY, &bomb, 100), usize::MAX),
        (in_fragments(TEXT, &bomb, 1), usize::MAX),
        (in_fragments(BINARY, &bomb, 1), 1000),
        (compressed_frame(BINARY, &of_streams), usize::MAX),
        (compressed_frame(TEXT, &a_byte_too_much), usize::MAX),
    ]
    .map(|(bytes, piece)| (bytes, piece, 1009, "too_big"))
    .into()
}

/// A compressed text that is cut after each of its bytes, or not at all.
fn cut_off(really: bool) -> Vec<Attack> {
    let text: String =
        (0..40).map(|number| format!("{{\"number\":{number},\"square\":{}}}", number * number)).collect();
    let whole = compressed(text.as_bytes());
    let cuts = if really { 1..whole.len() } else { whole.len()..whole.len() + 1 };
    // Also where a fragment ends.
    let frames = cuts.flat_map(|cut| {
        let cut = &whole[..cut];
        [compressed_frame(TEXT, cut), in_fragments(TEXT, cut, 50)]
    });
    frames.map(|bytes| (bytes, usize::MAX, 1007, "invalid_deflate")).collect()
}

/// What is no DEFLATE, or something near it that is.
fn invalid(really: bool) -> Vec<Attack> {
    // A block with fixed codes: "a" and then three bytes from so far back (RFC 1951 section 3.2.6).
    let repeating = |distance: (u32, u32), extra: (u32, u32)| {
        let mut bits = Bits::default();
        bits.number(0b010, 3).code(0x30 + u32::from(b'a'), 8).code(1, 7).code(distance.0, distance.1);
        // Then comes the empty block that a flush writes, but for what is left out.
        bits.number(extra.0, extra.1).code(0, 7).number(0, 3);
        bits.0
    };
    if !really {
        let from_one_back = repeating((0, 5), (0, 0));
        return vec![(compressed_frame(TEXT, &from_one_back), usize::MAX, 1007, "invalid_deflate")];
    }
    // What refers to the message before, though the context is not taken over.
    let mut peer = Peer::default();
    let text = "What is said twice is half as long.".repeat(3);
    peer.compress(text.as_bytes());
    let again = peer.compress(text.as_bytes());
    let ended = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 6);
    let payloads = [
        repeating((1, 5), (0, 0)),
        repeating((29, 5), (0x1fff, 13)),
        // The distances that do not exist.
        repeating((30, 5), (0, 0)),
        again,
        // A kind of block that does not exist, at once and after the end of a stream.
        vec![0x06],
        [&ended[..], &[0x06]].concat(),
        // As it is, of a length that is not what it says the second time, and longer than what comes.
        b"\0\x05\0\0\0hello".to_vec(),
        b"\0\xff\0\0\xffhello".to_vec(),
        // Too many codes.
        vec![0xfc; 100],
        compressed(text.as_bytes()).iter().map(|byte| !byte).collect(),
    ];
    let attack = |payload| (compressed_frame(TEXT, payload), usize::MAX, 1007, "invalid_deflate");
    payloads.iter().map(|payload| attack(payload)).collect()
}

/// Bits as DEFLATE has them (RFC 1951 section 3.1.1).
#[derive(Default)]
struct Bits(Vec<u8>, u32);

impl Bits {
    fn bit(&mut self, bit: u32) {
        if self.1.is_multiple_of(8) {
            self.0.push(0);
        }
        *self.0.last_mut().expect("there is one") |= (bit as u8 & 1) << (self.1 % 8);
        self.1 += 1;
    }

    /// Numbers begin with their lowest bit.
    fn number(&mut self, number: u32, len: u32) -> &mut Self {
        (0..len).for_each(|at| self.bit(number >> at));
        self
    }

    /// Codes begin with their highest.
    fn code(&mut self, code: u32, len: u32) -> &mut Self {
        (0..len).rev().for_each(|at| self.bit(code >> at));
        self
    }
}

fn no_utf8(opcode: u8) -> Vec<Attack> {
    let bad: [&[u8]; 6] = [
        b"\xff",
        b"\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"cut \xe2\x82",
        &[&[b'x'; 100_000], &b"and then \xff"[..]].concat(),
    ];
    let frames = bad.iter().flat_map(|bad| {
        let payload = compressed(bad);
        [compressed_frame(opcode, &payload), in_fragments(opcode, &payload, 1)]
    });
    frames.map(|bytes| (bytes, usize::MAX, 1007, "invalid_utf8")).collect()
}

/// The bit that says that a message is compressed, or with `said` 0 the same without it.
fn said_out_of_place(rig: &Rig, said: u8) -> Checked {
    let payload = compressed(b"hello");
    let (first, last) = payload.split_at(3);
    let middle = [fragment(COMPRESSED & !0x80 | TEXT, first), fragment(0x80 | said | CONTINUATION, last)].concat();
    let agreed = [
        middle,
        [fragment(TEXT, b"good"), fragment(0x80 | said | CONTINUATION, b"bye")].concat(),
        fragment(0x80 | said | PING, b"hello"),
        fragment(0x80 | said | PONG, &payload),
        fragment(0x80 | said | CLOSE, b"\x03\xe8"),
        // The other two reserved bits are nobody's.
        fragment(COMPRESSED | said >> 1 | TEXT, &payload),
        fragment(COMPRESSED | said >> 2 | BINARY, &payload),
    ];
    let not_agreed = [
        fragment(0x80 | said | TEXT, &payload),
        fragment(0x80 | said | BINARY, &payload),
        [fragment(said | TEXT, first), fragment(0x80 | CONTINUATION, last)].concat(),
    ];
    let mut slowest = Duration::ZERO;
    for (frames, client) in [(&agreed[..], connect as fn(&Rig) -> Client), (&not_agreed, without_offer)] {
        for bytes in frames {
            slowest = slowest.max(refused_as(rig, client(rig), (bytes, usize::MAX), (1002, "protocol"))?);
        }
    }
    let count = agreed.len() + not_agreed.len();
    Ok(format!("{count} places, each refused as a violation, in {slowest:.1?} at most"))
}

fn without_offer(rig: &Rig) -> Client {
    rig.connect("/violation")
}

/// Texts that become about half as long.
fn text(dice: &mut Dice, len: usize) -> String {
    (0..len).map(|_| char::from(b'a' + dice.roll(16) as u8)).collect()
}

/// Many clients send all but the end of a compressed message. That may cost what they have sent and a little.
fn half_messages(rig: &Rig, count: usize, sends_more: bool) -> Checked {
    // For each connection: its buffer, which grows with what arrives at a time, and rounding up; over TLS a record at
    // either end, and both are in this process. What inflates would take 48 KB, and what it has inflated 30 KB.
    let little = if over_tls::is_on() { 40 } else { 16 } * 1024;
    const MISSING: usize = 10;
    let text = text(&mut Dice::new(seed()), 30_000);
    let frame = compressed_frame(TEXT, &compressed(text.as_bytes()));
    let (most, rest) = frame.split_at(frame.len() - MISSING);
    let have_received = |bytes: usize| {
        let connections = rig.handle.connections();
        let counts = connections.iter().filter(|info| info.path == PATH).map(|info| info.traffic.bytes_in);
        counts.filter(|count| *count >= bytes as u64).count()
    };

    // Whatever is there for good is there after a first message.
    let mut clients: Vec<Client> = (0..count).map(|_| connect(rig)).collect();
    for client in &mut clients {
        client.send_text("hello");
        client.write(&compressed_frame(TEXT, &compressed(b"and compressed")));
        ensure!(client.text() == "hello" && client.text() == "and compressed", "no echo");
    }
    let before = resident();
    let sent = if sends_more { fragment(BINARY, &vec![7; 3 * most.len()]) } else { most.to_vec() };
    for client in &mut clients {
        client.write(&sent);
    }
    rig.wait_until("all that was sent has arrived", || have_received(sent.len()) == count)?;
    let grew = resident().saturating_sub(before);
    let (counted, allowed) = (count * most.len(), count * (most.len() + little));
    ensure!(grew <= allowed, "{count} half messages of {} bytes cost {grew}, {allowed} are allowed", most.len());

    // Each of them is whole as soon as the rest is here.
    for client in &mut clients {
        client.write(rest);
    }
    for client in &mut clients {
        let echo = client.message();
        let echo = original(echo.is_compressed, echo.payload);
        ensure!(echo == text.as_bytes(), "{} bytes came back for {}", echo.len(), text.len());
    }
    let (grew, counted) = (grew as f64 / MIB as f64, counted as f64 / MIB as f64);
    Ok(format!(
        "{count} of {} bytes: {counted:.1} MiB sent, memory grew by {grew:.1} MiB; all came to an end",
        most.len()
    ))
}

/// The payload as its sender had it.
fn original(is_compressed: bool, payload: Vec<u8>) -> Vec<u8> {
    if is_compressed { inflated(&payload) } else { payload }
}

/// Many send a bomb at once, several times, and are told that it is too big. Meanwhile others are served.
fn bombs_at_once(rig: &Rig, bombers: usize, bomb: &[u8]) -> Checked {
    const ROUNDS: usize = 3;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let be_honest = |number| be_honest(rig, number, &is_over);
        let honest: Vec<_> = (0..HONEST as u64).map(|number| scope.spawn(move || be_honest(number))).collect();
        let began = Instant::now();
        let bombed = (0..ROUNDS).try_for_each(|_| throw_all(rig, bombers, bomb));
        let took = began.elapsed();
        is_over.store(true, SeqCst);
        let (mut echoes, mut slowest) = (0, Duration::ZERO);
        for thread in honest {
            let (count, slow) = thread.join().expect("it does not panic")?;
            (echoes, slowest) = (echoes + count, slowest.max(slow));
        }
        bombed?;
        let bombs = ROUNDS * bombers;
        Ok(format!("{bombs} bombs in {took:.1?}; {HONEST} others: {echoes} echoes, the slowest {slowest:.1?}"))
    })
}

/// Each bomber connects, waits for the others, sends its bomb, and is told that it is too big.
fn throw_all(rig: &Rig, bombers: usize, bomb: &[u8]) -> Result<(), String> {
    let (frame, barrier) = (compressed_frame(BINARY, bomb), Barrier::new(bombers));
    let throw = |mut client: Client| {
        barrier.wait();
        client.try_write(&frame);
        let (code, _) = rig.close_frame(&mut client)?;
        ensure!(code == Some(1009), "a bomb was answered with {code:?}");
        Ok(())
    };
    let clients: Vec<Client> = (0..bombers).map(|_| connect(rig)).collect();
    thread::scope(|scope| {
        let throw = &throw;
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || throw(client))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

/// Sends compressed messages, and expects each back. How many there were, and how long the slowest took.
fn be_honest(rig: &Rig, number: u64, is_over: &AtomicBool) -> Result<(usize, Duration), String> {
    let mut dice = Dice::new(seed() + number);
    let mut client = connect(rig);
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !is_over.load(SeqCst) || count == 0 {
        let text = text(&mut dice, 4000);
        let began = Instant::now();
        client.write(&compressed_frame(TEXT, &compressed(text.as_bytes())));
        let echo = client.message();
        slowest = slowest.max(began.elapsed());
        let is_same = original(echo.is_compressed, echo.payload) == text.as_bytes();
        ensure!(is_same, "somebody honest got something else, opcode {}", echo.opcode);
        ensure!(slowest <= SLACK, "somebody honest waited {slowest:.1?}");
        count += 1;
    }
    client.close();
    Ok((count, slowest))
}

//! The layer between frames and records, with records that anybody can read, and a socket that takes or gives as little
//! as a test wants.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::*;

/// Records as in TLS, but for the secrecy: a number in place of a cipher shows whether one is lost, repeated or torn.
#[derive(Default)]
struct PlainRecords {
    sealed: u8,
    opened: u8,
}

const DATA: u8 = 23;
/// A record that is TLS's own affair.
const MESSAGE: u8 = 22;
const ALERT: u8 = 21;

fn record(kind: u8, number: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 1).unwrap().to_be_bytes();
    [&[kind, 3, 3][..], &len, &[number], payload].concat()
}

impl Records for PlainRecords {
    fn open(&mut self, arrived: &mut Vec<u8>, opened: &mut Vec<u8>, sealed: &mut Vec<u8>) -> io::Result<Opened> {
        while let Some(len) = record_len(arrived).filter(|len| *len <= arrived.len()) {
            let record: Vec<u8> = arrived.drain(..len).collect();
            if record[5] != self.opened {
                sealed.extend(self::record(ALERT, self.sealed, b"bad"));
                return Err(ErrorKind::InvalidData.into());
            }
            self.opened = self.opened.wrapping_add(1);
            match record[0] {
                DATA => opened.extend_from_slice(&record[6..]),
                ALERT => return Ok(Opened::Ended),
                _ => {}
            }
        }
        Ok(Opened::MayFollow)
    }

    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        assert!(bytes.len() <= MAX_SEALED);
        for payload in bytes.chunks(MAX_PAYLOAD) {
            sealed.extend(record(DATA, self.sealed, payload));
            self.sealed = self.sealed.wrapping_add(1);
        }
        Ok(())
    }

    fn seal_end(&mut self, sealed: &mut Vec<u8>) {
        sealed.extend(record(ALERT, self.sealed, &[]));
    }
}

fn secured() -> Secured {
    Secured::new(Box::new(PlainRecords::default()), Vec::new(), Vec::new(), Vec::new())
}

/// What is in the records that a socket has taken, each of which must be whole and in its place.
fn read_back(wire: &[u8]) -> Vec<u8> {
    let (mut arrived, mut opened) = (wire.to_vec(), Vec::new());
    let outcome = PlainRecords::default().open(&mut arrived, &mut opened, &mut Vec::new());
    assert!(outcome.is_ok() && arrived.is_empty(), "{outcome:?}, {} bytes left", arrived.len());
    opened
}

/// Frames of these lengths, as headers and payloads, with bytes that tell their place.
fn frames(lens: &[usize]) -> Vec<Vec<u8>> {
    let mut at = 0_usize;
    let bytes = |at: &mut usize, len: usize| {
        *at += len;
        (*at - len..*at).map(|place| (place % 251) as u8).collect()
    };
    lens.iter().map(|len| bytes(&mut at, *len)).collect()
}

/// Sends frames over a socket that has so much room before each call, as the write half does: what is not taken is
/// offered again, from its first byte on. Returns what the socket got.
fn send_all(frames: &[Vec<u8>], room: usize) -> Vec<u8> {
    let (secured, mut wire) = (secured(), Vec::new());
    let all: Vec<u8> = frames.concat();
    let (mut taken_in_all, mut on_wire, mut is_pinned) = (0, 0, false);
    for _ in 0..10_000_000 {
        let mut skipped = taken_in_all;
        let rest: Vec<IoSlice<'_>> = frames
            .iter()
            .map(|frame| {
                let from = skipped.min(frame.len());
                skipped -= from;
                IoSlice::new(&frame[from..])
            })
            .collect();
        let mut left = room;
        let taken = secured.send(&rest, MAX_SEALED, |bytes| {
            let count = bytes.len().min(left);
            left -= count;
            wire.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        let taken = taken.unwrap();
        taken_in_all += taken.frames;
        on_wire += taken.wire;
        assert_eq!(on_wire, wire.len());
        // Whatever counts as taken is on the wire in whole records, and nothing else is but what is pinned.
        assert!(taken_in_all <= read_all_whole(&wire).len());
        is_pinned = taken.is_pinned;
        if taken_in_all == all.len() {
            assert!(!is_pinned);
            return wire;
        }
    }
    panic!("{taken_in_all} of {} taken, pinned: {is_pinned}", all.len());
}

fn read_all_whole(wire: &[u8]) -> Vec<u8> {
    let mut opened = Vec::new();
    PlainRecords::default().open(&mut wire.to_vec(), &mut opened, &mut Vec::new()).unwrap();
    opened
}

#[test]
fn frames_arrive_once_and_in_order_whatever_the_socket_takes_at_a_time() {
    for lens in [
        &[1][..],
        &[2, 5, 2, 0, 2, 300],
        &[4, 20_000, 2, 7],
        &[MAX_PAYLOAD],
        &[MAX_PAYLOAD - 4, 4, 1],
        &[10, 40_000],
        &[10, 3 * MAX_SEALED + 5, 4, 1],
    ] {
        let frames = frames(lens);
        for room in [1, 2, 3, 5, 7, 1000, MAX_PAYLOAD, MAX_PAYLOAD + 6, 1 << 20] {
            if frames.concat().len() / room > 5000 {
                continue;
            }
            assert_eq!(read_back(&send_all(&frames, room)), frames.concat(), "{lens:?} by {room}");
        }
    }
}

#[test]
fn a_frame_counts_once_its_record_is_taken_and_is_pinned_until_then() {
    let (secured, frame) = (secured(), frames(&[10]).concat());
    let send = |room: &mut usize| {
        let taken = secured.send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
            let count = bytes.len().min(*room);
            *room -= count;
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        taken.unwrap()
    };
    // Not a byte of it, a part of it, and the rest.
    let nothing = send(&mut 0);
    assert_eq!(nothing, Taken { frames: 0, wire: 0, overhead: 6, is_pinned: true });
    assert_eq!(send(&mut 9), Taken { frames: 0, wire: 9, overhead: 6, is_pinned: true });
    assert_eq!(send(&mut 100), Taken { frames: 10, wire: 7, overhead: 6, is_pinned: false });
}

#[test]
fn a_record_goes_first_and_then_more_at_a_time_to_who_takes_it() {
    let frame = frames(&[3 * MAX_SEALED]).concat();
    for (most, takes, expected) in [
        (MAX_SEALED, true, &[1, 2, 2, 1][..]),
        (MAX_SEALED, false, &[1]),
        (MAX_PAYLOAD, true, &[1; 6]),
        (MAX_PAYLOAD, false, &[1]),
    ] {
        let mut written = Vec::new();
        let taken = secured().send(&[IoSlice::new(&frame)], most, |bytes| {
            written.push(bytes.len() / MAX_PAYLOAD);
            if takes { Ok(bytes.len()) } else { Err(ErrorKind::WouldBlock.into()) }
        });
        assert_eq!((&written[..], taken.unwrap().is_pinned), (expected, !takes));
    }
}

#[test]
fn a_failed_write_is_an_error_and_an_interrupted_one_is_none() {
    let (secured, frame, mut calls) = (secured(), frames(&[10]).concat(), 0);
    let taken = secured.send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
        calls += 1;
        if calls == 1 { Err(ErrorKind::Interrupted.into()) } else { Ok(bytes.len()) }
    });
    assert_eq!((taken.unwrap().frames, calls), (10, 2));
    let failed = secured.send(&[IoSlice::new(&frame)], MAX_SEALED, |_| Err(ErrorKind::BrokenPipe.into()));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn records_that_are_cut_anywhere_are_opened_once_they_are_whole() {
    let mut sealed = Vec::new();
    let mut records = PlainRecords::default();
    records.seal(b"first", &mut sealed).unwrap();
    // A record without anything that a reader of frames sees.
    sealed.extend(record(MESSAGE, records.sealed, b"ticket"));
    records.sealed += 1;
    records.seal(b"second", &mut sealed).unwrap();
    records.seal_end(&mut sealed);
    for cut in 0..=sealed.len() {
        let (secured, mut arrived, mut opened) = (secured(), Vec::new(), Vec::new());
        let mut ends = 0;
        for piece in [&sealed[..cut], &sealed[cut..]] {
            if piece.is_empty() {
                continue;
            }
            assert_eq!(ends, 0, "nothing is read after the end");
            arrived.extend_from_slice(piece);
            ends += usize::from(secured.open(&mut arrived, &mut opened).unwrap() == Opened::Ended);
            // Meanwhile another thread may send.
            secured.send(&[IoSlice::new(b"x")], MAX_SEALED, |bytes| Ok(bytes.len())).unwrap();
        }
        assert_eq!((&opened[..], ends), (&b"firstsecond"[..], 1), "cut at {cut}");
    }
}

/// A pair of sockets with the layer on one end.
fn pair() -> (Stream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let stream = Stream::from(listener.accept().unwrap().0);
    stream.secure(secured());
    (stream, peer)
}

#[test]
fn an_alert_is_written_at_once_unless_frames_are_to_be_written_before_it() {
    use std::io::Read;
    for is_first in [true, false] {
        let (stream, mut peer) = pair();
        let secured = stream.secured().unwrap();
        let frame = [7; 10];
        if !is_first {
            assert!(
                secured
                    .send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| Ok(
                        bytes.len().min(3) * usize::from(bytes.len() == 16)
                    ))
                    .unwrap()
                    .is_pinned
            );
        }
        // A record with a number that is not its own.
        let mut arrived = Arrived::new(Vec::new());
        let bad = record(DATA, 9, b"x");
        let read = arrived.read(
            &stream,
            secured,
            |buffer| {
                buffer.extend(&bad);
                Ok(bad.len())
            },
            |open| Ok((open(&mut Vec::new())?, true)),
        );
        assert_eq!(read.unwrap(), (bad.len(), true), "the bytes have come, whatever is in them");
        let again = arrived.read(&stream, secured, |_| panic!("a read after the end"), |_| panic!("more was opened"));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::InvalidData);
        let mut rest = Vec::new();
        if !is_first {
            secured
                .send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
                    rest.extend_from_slice(bytes);
                    Ok(bytes.len())
                })
                .unwrap();
            assert_eq!(rest[13..], record(ALERT, 1, b"bad"));
        }
        drop(stream);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, if is_first { record(ALERT, 0, b"bad") } else { Vec::new() });
    }
}

#[test]
fn an_alert_that_is_sealed_during_a_write_follows_what_the_write_leaves() {
    let (secured, frame, mut wire) = (secured(), [7; 10], Vec::new());
    let taken = secured.send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
        if !wire.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        wire.extend_from_slice(&bytes[..3]);
        // Another thread reads what nobody can open.
        assert!(secured.open(&mut record(DATA, 9, b"x"), &mut Vec::new()).is_err());
        Ok(3)
    });
    assert!(taken.unwrap().is_pinned);
    secured
        .send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
            wire.extend_from_slice(bytes);
            Ok(bytes.len())
        })
        .unwrap();
    assert_eq!(wire, [record(DATA, 0, &frame), record(ALERT, 1, b"bad")].concat());
}

#[test]
fn the_orderly_end_follows_everything_and_is_said_once() {
    use std::io::Read;
    let (stream, mut peer) = pair();
    assert_eq!(
        socket::write_before(&stream, b"last", Instant::now() + std::time::Duration::from_secs(60)).ok(),
        Some(())
    );
    stream.end_writing().unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, [record(DATA, 0, b"last"), record(ALERT, 1, &[])].concat());
}

#[test]
fn the_end_leaves_with_the_last_frame_however_the_socket_takes_them() {
    let frame = frames(&[10]).concat();
    for room in 1..=record(DATA, 0, &frame).len() + record(ALERT, 1, &[]).len() {
        let (secured, mut wire) = (secured(), Vec::new());
        secured.end_follows();
        let mut calls = 0;
        while wire.len() < 22 {
            let mut left = room;
            secured
                .send(&[IoSlice::new(&frame)], MAX_SEALED, |bytes| {
                    calls += 1;
                    let count = bytes.len().min(left);
                    left -= count;
                    wire.extend_from_slice(&bytes[..count]);
                    if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
                })
                .unwrap();
        }
        assert_eq!(wire, [record(DATA, 0, &frame), record(ALERT, 1, &[])].concat());
        assert!(calls == 1 || room < 22);
        // It is not said again.
        let (stream, _) = pair();
        secured.end(&stream);
        assert!(secured.lock().sealed.is_empty());
    }
}

#[test]
fn the_last_of_the_handshake_leaves_with_the_answer_or_before_a_wait() {
    use std::io::Read;
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    let ticket = record(MESSAGE, 0, b"ticket");
    for is_request_here in [true, false] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Stream::from(listener.accept().unwrap().0);
        let records = Box::new(PlainRecords { sealed: 1, opened: 0 });
        let early = if is_request_here { b"request".to_vec() } else { Vec::new() };
        stream.secure(Secured::new(records, Vec::new(), early, ticket.clone()));
        peer.set_nonblocking(true).unwrap();
        let mut space = [0; 16];
        if is_request_here {
            assert_eq!(socket::read_before(&stream, &mut space, deadline).unwrap(), Some(7));
            assert!(peer.read(&mut space).is_err(), "it waits for the answer");
        } else {
            // The peer says nothing before it has it.
            let expected = ticket.len();
            let asking = thread::spawn(move || {
                peer.set_nonblocking(false).unwrap();
                let mut got = vec![0; expected];
                peer.read_exact(&mut got).unwrap();
                peer.write_all(&record(DATA, 0, b"request")).unwrap();
                (peer, got)
            });
            assert_eq!(socket::read_before(&stream, &mut space, deadline).unwrap(), Some(7));
            let (came_back, got) = asking.join().unwrap();
            assert_eq!(got, ticket);
            peer = came_back;
        }
        socket::write_before(&stream, b"answer", deadline).unwrap();
        drop(stream);
        peer.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        let before = if is_request_here { &ticket[..] } else { &[] };
        assert_eq!(got, [before, &record(DATA, 1, b"answer")].concat());
    }
}

#[test]
fn one_direction_never_waits_for_a_write_of_the_other() {
    let secured = Arc::new(secured());
    let (opened, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let sender = thread::spawn({
        let (secured, opened, started) = (Arc::clone(&secured), Arc::clone(&opened), Arc::clone(&started));
        move || {
            // A write that lasts until something was received.
            secured.send(&[IoSlice::new(b"x")], MAX_SEALED, |bytes| {
                started.store(1, SeqCst);
                while opened.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                Ok(bytes.len())
            })
        }
    });
    while started.load(SeqCst) == 0 {
        thread::yield_now();
    }
    let mut plain = Vec::new();
    secured.open(&mut record(DATA, 0, b"y"), &mut plain).unwrap();
    opened.store(1, SeqCst);
    assert_eq!((plain, sender.join().unwrap().unwrap().frames), (b"y".to_vec(), 1));
}

#[test]
fn what_follows_the_opening_handshake_in_its_last_record_is_not_lost() {
    let (stream, mut peer) = pair();
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    let second = record(DATA, 1, b"frames");
    peer.write_all(&[record(DATA, 0, b"head and more"), second[..4].to_vec()].concat()).unwrap();
    let mut space = [0; 4];
    assert_eq!(socket::read_before(&stream, &mut space, deadline).unwrap(), Some(4));
    assert_eq!((&space, &*stream.tail(b"")), (b"head", &b" and more"[..]));
    // The record that has begun goes on where the connection reads.
    peer.write_all(&second[4..]).unwrap();
    let secured = stream.secured().unwrap();
    let (mut arrived, mut opened) = (Arrived::new(secured.take_arrived()), Vec::new());
    while opened.is_empty() {
        let read = arrived.read(
            &stream,
            secured,
            |buffer| socket::read(&stream, buffer),
            |open| Ok((open(&mut opened)?, true)),
        );
        assert!(read.unwrap().0 > 0);
    }
    assert_eq!(opened, b"frames");
}

#[test]
fn a_record_that_has_begun_keeps_only_the_memory_that_it_needs() {
    let (stream, mut peer) = pair();
    let secured = stream.secured().unwrap();
    let (mut arrived, mut opened, mut wire) = (Arrived::new(Vec::new()), Vec::new(), Vec::new());
    let mut records = PlainRecords::default();
    let message = [7; 200_000];
    message.chunks(10_000).for_each(|piece| records.seal(piece, &mut wire).unwrap());
    // Then the first byte of another record, and silence.
    wire.push(DATA);
    let writing = thread::spawn(move || peer.write_all(&wire).map(|()| peer));
    let mut read = |arrived: &mut Arrived| {
        socket::wait_readable(&stream, None).unwrap();
        let read = |buffer: &mut Vec<u8>| socket::read_now(&stream, buffer);
        arrived.read(&stream, secured, read, |open| Ok((open(&mut opened)?, true))).unwrap();
        opened.len()
    };
    while read(&mut arrived) < message.len() || arrived.bytes.is_empty() {}
    let _peer = writing.join().unwrap().unwrap();
    arrived.release();
    assert!(arrived.bytes.capacity() <= Arrived::MIN_READ, "{} bytes of memory", arrived.bytes.capacity());
    assert_eq!(arrived.bytes, [DATA]);
}

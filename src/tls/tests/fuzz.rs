//! The border between frames and records, on generated input: our layer and session at one end, rustls' own connection
//! at the other. Whatever is cut, mixed and changed, nothing panics, and no byte is torn, lost or repeated.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::fuzz::{Mutation, check, pieces};
use crate::tls::session::{Progress, Session};
use crate::transport::secured::{Arrived, MAX_SEALED, Secured};
use crate::transport::stream::Stream;

/// What tells of a record, a handshake or an alert, and what limits lengths.
const TELLING: &[u8] = &[0, 1, 2, 3, 4, 5, 8, 11, 13, 20, 21, 22, 23, 24, 0x3f, 0x40, 0x7f, 0x80, 0xff];

/// How the two ends are configured.
#[derive(Debug, Clone, Copy)]
struct Setting {
    is_server: bool,
    is_1_3: bool,
    /// The longest payload of their records; none limits nothing.
    fragment: Option<usize>,
}

fn setting() -> impl Strategy<Value = Setting> {
    let fragment = prop_oneof![Just(None), Just(Some(64)), (64..2000_usize).prop_map(Some)];
    (any::<bool>(), any::<bool>(), fragment).prop_map(|(is_server, is_1_3, fragment)| Setting {
        is_server,
        is_1_3,
        fragment,
    })
}

/// The configurations of clients of TLS 1.2 and 1.3, and of a server. Sessions are resumed, so that both kinds of
/// handshakes occur.
static CONFIGS: LazyLock<([Arc<ClientConfig>; 2], Arc<ServerConfig>)> = LazyLock::new(|| {
    let ca = ca("a CA");
    let clients = [&TLS12, &TLS13].map(|version| client_of(&[version], &[], &ca).config().unwrap());
    (clients, for_names(&ca, &["example.org"]).server().config())
});

/// Both ends, before their handshake.
fn ends(setting: Setting) -> (Session, Connection) {
    let (clients, server) = &*CONFIGS;
    let mut client = ClientConfig::clone(&clients[usize::from(setting.is_1_3)]);
    let mut server = ServerConfig::clone(server);
    let name = rustls::pki_types::ServerName::try_from("example.org").unwrap();
    let theirs = if setting.is_server { &mut client.max_fragment_size } else { &mut server.max_fragment_size };
    *theirs = setting.fragment;
    let (ours, mut theirs): (_, Connection) = if setting.is_server {
        (Session::server(Arc::new(server)).unwrap(), ClientConnection::new(Arc::new(client), name).unwrap().into())
    } else {
        let ours = Session::client(Arc::new(client), name, "example.org").unwrap();
        (ours, ServerConnection::new(Arc::new(server)).unwrap().into())
    };
    theirs.set_buffer_limit(None);
    (ours, theirs)
}

fn take_sealed(theirs: &mut Connection, wire: &mut Vec<u8>) {
    while theirs.wants_write() {
        theirs.write_tls(wire).unwrap();
    }
}

/// Gives these bytes to their end, and appends what was in them.
fn give(theirs: &mut Connection, mut bytes: &[u8], opened: &mut Vec<u8>) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        theirs.read_tls(&mut bytes).unwrap();
        theirs.process_new_packets()?;
        let _ = theirs.reader().read_to_end(opened);
    }
    Ok(())
}

/// The next bytes of an endless sequence in which none is where another should be.
fn next_bytes(at: &mut u64, len: usize) -> Vec<u8> {
    let bytes = (*at..*at + len as u64).map(|at| (at % 251) as u8 ^ (at >> 8) as u8).collect();
    *at += len as u64;
    bytes
}

/// An open connection, and what is under way between its ends.
struct Open {
    stream: Stream,
    _peer: TcpStream,
    secured: Secured,
    arrived: Arrived,
    theirs: Connection,
    to_us: Vec<u8>,
    to_them: Vec<u8>,
    /// What we are to send, from the first byte that does not count as taken.
    unsent: Vec<u8>,
    /// All that was said and opened so far.
    said: Said,
}

#[derive(Default)]
struct Said {
    by_us: u64,
    by_them: u64,
    opened_by_us: Vec<u8>,
    opened_by_them: Vec<u8>,
}

impl Open {
    fn new(setting: Setting) -> Self {
        let (mut ours, mut theirs) = ends(setting);
        let (mut arrived, mut opened, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..20 {
            let progress = ours.advance(&mut arrived, &mut opened, &mut sealed).unwrap();
            give(&mut theirs, &std::mem::take(&mut sealed), &mut Vec::new()).unwrap();
            if progress == Progress::Open && !theirs.is_handshaking() {
                break;
            }
            take_sealed(&mut theirs, &mut arrived);
        }
        // What follows the handshake is still under way: tickets, for example.
        let mut to_us = Vec::new();
        take_sealed(&mut theirs, &mut to_us);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Stream::from(listener.accept().unwrap().0);
        Self {
            stream,
            _peer: peer,
            secured: Secured::new(Box::new(ours), Vec::new(), Vec::new(), Vec::new()),
            arrived: Arrived::new(arrived),
            theirs,
            to_us,
            to_them: Vec::new(),
            unsent: Vec::new(),
            said: Said::default(),
        }
    }

    /// Sends what is unsent and `len` bytes more, in frames of these lengths, over a socket with so much room. Before
    /// each write returns, another thread has read so much.
    fn we_send(&mut self, len: usize, frame: usize, mut room: usize, reads: usize) -> io::Result<()> {
        let Self { stream, secured, arrived, to_us, to_them, unsent, said, .. } = self;
        unsent.extend(next_bytes(&mut said.by_us, len));
        let slices: Vec<IoSlice<'_>> = unsent.chunks(frame.max(1)).take(64).map(IoSlice::new).collect();
        let before = to_them.len();
        let taken = secured.send(&slices, MAX_SEALED, |bytes| {
            let count = bytes.len().min(room);
            room -= count;
            to_them.extend_from_slice(&bytes[..count]);
            read_some(stream, secured, arrived, to_us, reads, &mut said.opened_by_us).expect("it is valid");
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        })?;
        assert_eq!(taken.wire, to_them.len() - before);
        unsent.drain(..taken.frames);
        Ok(())
    }

    fn they_say(&mut self, len: usize) {
        let bytes = next_bytes(&mut self.said.by_them, len);
        self.theirs.writer().write_all(&bytes).unwrap();
        take_sealed(&mut self.theirs, &mut self.to_us);
    }

    /// Reads once: at most so many bytes of what is under way.
    fn we_read(&mut self, most: usize) -> io::Result<()> {
        let Self { stream, secured, arrived, to_us, said, .. } = self;
        read_some(stream, secured, arrived, to_us, most, &mut said.opened_by_us)
    }

    fn they_read(&mut self, most: usize) {
        let bytes: Vec<u8> = self.to_them.drain(..most.min(self.to_them.len())).collect();
        give(&mut self.theirs, &bytes, &mut self.said.opened_by_them).unwrap();
    }
}

fn read_some(
    stream: &Stream,
    secured: &Secured,
    arrived: &mut Arrived,
    to_us: &mut Vec<u8>,
    most: usize,
    opened: &mut Vec<u8>,
) -> io::Result<()> {
    let most = most.min(to_us.len());
    if most == 0 {
        return Ok(());
    }
    let read = |buffer: &mut Vec<u8>| {
        let room = buffer.capacity() - buffer.len();
        assert!(room > 0, "a read without room would be taken for the end");
        let count = most.min(room);
        buffer.extend(to_us.drain(..count));
        Ok(count)
    };
    arrived.read(stream, secured, read, |open| Ok((open(opened)?, true))).map(drop)
}

#[derive(Debug, Clone)]
enum Step {
    WeSend {
        len: usize,
        frame: usize,
        room: usize,
        /// What another thread reads during each write.
        reads: usize,
    },
    TheySay(usize),
    /// They take new keys, ask us to do the same, and say a byte.
    NewKeys,
    WeRead(usize),
    TheyRead(usize),
    /// We release the buffer of a quiet connection.
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![4 => 0..200_usize, 2 => 0..5000_usize, 1 => 0..70_000_usize];
    let some = || prop_oneof![3 => 1..40_usize, 3 => 1..2000_usize, 1 => Just(1 << 20)];
    prop_oneof![
        4 => (len(), some(), some(), prop_oneof![Just(0), some()])
            .prop_map(|(len, frame, room, reads)| Step::WeSend { len, frame, room, reads }),
        3 => len().prop_map(Step::TheySay),
        2 => Just(Step::NewKeys),
        4 => some().prop_map(Step::WeRead),
        3 => some().prop_map(Step::TheyRead),
        1 => Just(Step::Release),
    ]
}

fn nothing_is_lost((setting, steps): (Setting, Vec<Step>)) -> TestCaseResult {
    let mut open = Open::new(setting);
    for step in steps {
        match step {
            Step::WeSend { len, frame, room, reads } => open.we_send(len, frame, room, reads).unwrap(),
            Step::TheySay(len) => open.they_say(len),
            Step::NewKeys => {
                let _ = open.theirs.refresh_traffic_keys();
                open.they_say(1);
            }
            Step::WeRead(most) => open.we_read(most).unwrap(),
            Step::TheyRead(most) => open.they_read(most),
            Step::Release => open.arrived.release(),
        }
    }
    // The rest arrives at once.
    while !open.to_us.is_empty() {
        open.we_read(usize::MAX).unwrap();
    }
    for _ in 0..1000 {
        if open.unsent.is_empty() {
            break;
        }
        open.we_send(0, usize::MAX, usize::MAX, 0).unwrap();
    }
    open.they_read(usize::MAX);
    let Said { by_us, by_them, opened_by_us, opened_by_them } = open.said;
    prop_assert!(opened_by_us == next_bytes(&mut 0, by_them as usize), "{} of {by_them}", opened_by_us.len());
    prop_assert!(opened_by_them == next_bytes(&mut 0, by_us as usize), "{} of {by_us}", opened_by_them.len());
    Ok(())
}

#[test]
fn fuzz_records_cut_and_mixed_in_any_way_lose_nothing() {
    check(&(setting(), prop::collection::vec(step(), 0..40)), nothing_is_lost);
}

/// Their records with some changes: what was opened is the beginning of what they said, and after an error nothing more
/// is opened or sealed.
fn changes_are_noticed(
    (setting, lens, mutations, cuts): (Setting, Vec<usize>, Vec<Mutation>, Vec<Index>),
) -> TestCaseResult {
    let mut open = Open::new(setting);
    for len in lens {
        open.they_say(len);
    }
    let mut wire = std::mem::take(&mut open.to_us);
    let original = wire.clone();
    mutations.iter().for_each(|mutation| mutation.apply(&mut wire));
    let mut failed = None;
    'all: for piece in pieces(&wire, &cuts) {
        open.to_us.extend_from_slice(piece);
        while !open.to_us.is_empty() {
            if let Err(error) = open.we_read(usize::MAX) {
                failed = Some(error);
                break 'all;
            }
        }
    }
    // An error is told by the read that follows what came before it.
    if failed.is_none() {
        open.to_us.push(0);
        failed = open.we_read(1).err();
    }
    let (said, opened) = (next_bytes(&mut 0, open.said.by_them as usize), open.said.opened_by_us.len());
    prop_assert!(said.starts_with(&open.said.opened_by_us), "{opened} of {} bytes", said.len());
    if wire == original {
        prop_assert!(failed.is_none() && opened == said.len(), "{failed:?} after {opened} of {}", said.len());
    }
    if failed.is_some() {
        prop_assert!(open.we_send(10, 10, usize::MAX, 0).is_err(), "sealed after {failed:?}");
    }
    Ok(())
}

#[test]
fn fuzz_whatever_is_changed_in_records_is_noticed() {
    let lens = prop::collection::vec(prop_oneof![3 => 0..100_usize, 1 => 0..20_000_usize], 0..6);
    let cuts = prop::collection::vec(any::<Index>(), 0..8);
    check(&(setting(), lens, Mutation::some(TELLING), cuts), changes_are_noticed);
}

/// A handshake with some changes: it fails or succeeds, and never keeps more than a bounded number of bytes.
fn handshakes_end((setting, changed, mutations, cuts): (Setting, usize, Vec<Mutation>, Vec<Index>)) -> TestCaseResult {
    let (mut ours, mut theirs) = ends(setting);
    let (mut arrived, mut opened, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
    if ours.advance(&mut arrived, &mut opened, &mut sealed).is_err() {
        prop_assert!(false, "nothing has arrived so far");
    }
    for flight in 0..10 {
        if give(&mut theirs, &std::mem::take(&mut sealed), &mut Vec::new()).is_err() {
            return Ok(());
        }
        let mut wire = Vec::new();
        take_sealed(&mut theirs, &mut wire);
        if flight == changed {
            mutations.iter().for_each(|mutation| mutation.apply(&mut wire));
        }
        for piece in pieces(&wire, &cuts) {
            arrived.extend_from_slice(piece);
            if ours.advance(&mut arrived, &mut opened, &mut sealed).is_err() {
                return Ok(());
            }
            prop_assert!(arrived.len() + ours.held() < 128 * 1024);
        }
    }
    prop_assert!(opened.is_empty(), "they have said nothing");
    Ok(())
}

#[test]
fn fuzz_handshakes_that_were_changed_end_in_one_way_or_the_other() {
    let cuts = prop::collection::vec(any::<Index>(), 0..8);
    check(&(setting(), 0..3_usize, Mutation::some(TELLING), cuts), handshakes_end);
}

//! State pages in JSON, as the load sends and checks them, compressed where the server agrees (permessage-deflate,
//! RFC 7692).
//!
//! A page has several versions, in which some values differ from one to the next as those of sensors do: with context
//! takeover, the very same page again would be next to nothing. The load compresses each version once, before it
//! measures, and each by itself, as it always may.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::channel::Channel;
use crate::wire::{self, wrong};

/// Versions of a page. They are sent one after the other, again and again.
const VERSIONS: usize = 16;

/// What ends a flushed stream, and is left out on the wire (RFC 7692 section 7.2.1).
const FLUSH: [u8; 4] = [0, 0, 0xff, 0xff];

/// The offer of who wants neither side to keep anything from message to message.
pub(crate) const WITHOUT_TAKEOVER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The offer that leaves all to the server, as Firefox makes it.
pub(crate) const BARE: &str = "permessage-deflate";

/// What was agreed on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) is_compressed: bool,
    /// Whether what the server sends refers to what it sent before.
    pub(crate) takes_over: bool,
}

impl Terms {
    pub(crate) const PLAIN: Self = Self { is_compressed: false, takes_over: false };

    /// By the value of the server's header, which is empty if there is none.
    pub(crate) fn of(extensions: &str) -> io::Result<Self> {
        let mut words = extensions.split(';').map(str::trim);
        match words.next().unwrap_or_default() {
            "" => Ok(Self::PLAIN),
            "permessage-deflate" => {
                let takes_over = !words.any(|word| word == "server_no_context_takeover");
                Ok(Self { is_compressed: true, takes_over })
            }
            _ => Err(wrong(&format!("extensions that were not offered: {extensions}"))),
        }
    }
}

/// The opening handshake with such an offer, blocking, and what came after it. A server that is offered compression
/// has to agree.
pub(crate) fn upgrade(channel: &mut Channel, offer: Option<&str>) -> io::Result<(Terms, Vec<u8>)> {
    let Some(offer) = offer else { return Ok((Terms::PLAIN, channel.upgrade()?)) };
    let (extensions, rest) = channel.upgrade_offering(offer)?;
    let terms = Terms::of(&extensions)?;
    if terms.is_compressed { Ok((terms, rest)) } else { Err(wrong("no agreement to permessage-deflate")) }
}

/// The versions of one page, as they are sent.
#[derive(Debug)]
pub(crate) struct Pages {
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    json: Vec<u8>,
    plain_frame: Vec<u8>,
    compressed_frame: Vec<u8>,
}

impl Pages {
    /// Pages of some `size` bytes.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let versions = write_versions(size, VERSIONS)
            .into_iter()
            .map(|json| {
                let (mut plain_frame, mut compressed_frame) = (Vec::new(), Vec::new());
                wire::frame(&mut plain_frame, wire::TEXT, json.as_bytes());
                let compressed = compress(&mut compressor(6), json.as_bytes())?;
                wire::frame(&mut compressed_frame, wire::TEXT | wire::COMPRESSED, &compressed);
                Ok(Version { json: json.into_bytes(), plain_frame, compressed_frame })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { versions })
    }

    /// The mean length in bytes.
    pub(crate) fn length(&self) -> f64 {
        let total: usize = self.versions.iter().map(|version| version.json.len()).sum();
        total as f64 / self.versions.len() as f64
    }

    /// A message as a client sends it.
    pub(crate) fn frame(&self, number: u64, terms: Terms) -> &[u8] {
        let version = self.version(number);
        if terms.is_compressed { &version.compressed_frame } else { &version.plain_frame }
    }

    fn version(&self, number: u64) -> &Version {
        &self.versions[self.index(number)]
    }

    fn index(&self, number: u64) -> usize {
        (number % self.versions.len() as u64) as usize
    }

    /// What one processor takes for each page, at this level, by the library that heartwire uses.
    pub(crate) fn measure(&self, level: u32, duration: Duration) -> io::Result<Work> {
        let mut compressor = compressor(level);
        let mut compressed: Vec<Vec<u8>> = Vec::new();
        let compressing = time(duration, self.versions.len(), |index| {
            compressor.reset();
            let payload = compress(&mut compressor, &self.versions[index].json)?;
            if compressed.len() == index {
                compressed.push(payload);
            }
            Ok(())
        })?;
        let mut inflater = Inflater::default();
        let inflating = time(duration, self.versions.len(), |index| {
            let json = inflater.inflate(&compressed[index], self.versions[index].json.len())?;
            if json == self.versions[index].json { Ok(()) } else { Err(wrong("another page than was compressed")) }
        })?;
        let total: usize = compressed.iter().map(Vec::len).sum();
        Ok(Work { bytes: total as f64 / compressed.len() as f64, compressing, inflating })
    }
}

/// What compressing one page takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// What it becomes.
    pub(crate) bytes: f64,
    pub(crate) compressing: Duration,
    pub(crate) inflating: Duration,
}

/// The median time of `work`, which is done for each of so many things in turn.
fn time(duration: Duration, things: usize, mut work: impl FnMut(usize) -> io::Result<()>) -> io::Result<Duration> {
    let (mut times, end) = (Vec::new(), Instant::now() + duration);
    (0..things).try_for_each(&mut work)?;
    while times.len() < things || Instant::now() < end {
        let begin = Instant::now();
        work(times.len() % things)?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// What one server answers: shared by all connections of a load.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) pages: Arc<Pages>,
    /// The payload to which the server compresses each version, once it was found right. Without context takeover it
    /// is always the same, and need not be decompressed again.
    verified: Vec<OnceLock<Vec<u8>>>,
}

impl Conversation {
    pub(crate) fn new(pages: &Arc<Pages>) -> Self {
        let verified = pages.versions.iter().map(|_| OnceLock::new()).collect();
        Self { pages: Arc::clone(pages), verified }
    }

    /// Whether this payload is the page of this number. With context takeover the first of a connection is looked at,
    /// and the others are only counted.
    pub(crate) fn is_right(
        &self,
        number: u64,
        payload: &[u8],
        is_compressed: bool,
        is_first: bool,
        terms: Terms,
    ) -> io::Result<bool> {
        let index = self.pages.index(number);
        let json = &self.pages.versions[index].json;
        if !is_compressed {
            return Ok(payload == json);
        }
        if terms.takes_over && !is_first {
            return Ok(true);
        }
        if !terms.takes_over && self.verified[index].get().is_some_and(|verified| verified == payload) {
            return Ok(true);
        }
        let is_right = Inflater::default().inflate(payload, json.len())? == *json;
        if is_right && !terms.takes_over {
            // Somebody else may have been faster.
            let _ = self.verified[index].set(payload.to_vec());
        }
        Ok(is_right)
    }
}

fn compressor(level: u32) -> Compress {
    Compress::new_with_window_bits(Compression::new(level), false, 15)
}

/// The payload of a compressed message.
fn compress(compressor: &mut Compress, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressed = Vec::with_capacity(message.len() / 4 + 64);
    loop {
        let taken = compressor.total_in() as usize;
        compressor.compress_vec(&message[taken..], &mut compressed, FlushCompress::Sync).map_err(io::Error::other)?;
        if compressor.total_in() as usize == message.len() && compressed.len() < compressed.capacity() {
            break;
        }
        compressed.reserve(compressed.len());
    }
    let length = compressed.strip_suffix(&FLUSH).ok_or_else(|| io::Error::other("zlib did not flush"))?.len();
    compressed.truncate(length);
    Ok(compressed)
}

struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new_with_window_bits(false, 15))
    }
}

impl Inflater {
    /// A message of so many bytes, which refers to nothing before it.
    fn inflate(&mut self, payload: &[u8], length: usize) -> io::Result<Vec<u8>> {
        self.0.reset(false);
        // With room for one byte that should not be there.
        let mut message = Vec::with_capacity(length + 1);
        for part in [payload, &FLUSH] {
            let status = self.0.decompress_vec(part, &mut message, FlushDecompress::Sync);
            match status.map_err(|error| wrong(&format!("what cannot be decompressed: {error}")))? {
                Status::Ok | Status::BufError => {}
                // Nothing follows the last block.
                Status::StreamEnd => break,
            }
        }
        Ok(message)
    }
}

/// Versions of a page of some `size` bytes, a second apart.
fn write_versions(size: usize, count: usize) -> Vec<String> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    // More than there is room for.
    let mut sensors: Vec<Sensor> = (0..size / 100 + 1).map(|number| Sensor::new(number, &mut random)).collect();
    let mut versions = Vec::with_capacity(count);
    for second in 0..count as u64 {
        let now = 1_764_460_800_000 + 1000 * second;
        let mut page =
            format!("{{\"site\":\"plant-2/hall-7\",\"sequence\":{},\"at\":{now},\"sensors\":[", 48_211 + second);
        for (number, sensor) in sensors.iter_mut().enumerate() {
            sensor.live(now, &mut random);
            let before = page.len();
            page.push_str(if number == 0 { "" } else { "," });
            sensor.write(&mut page);
            if page.len() + 2 > size && number > 0 {
                page.truncate(before);
                break;
            }
        }
        page.push_str("]}");
        versions.push(page);
    }
    versions
}

/// One line of a page.
struct Sensor {
    name: String,
    kind: usize,
    value: f64,
    state: &'static str,
    peer: String,
    since: u64,
    at: u64,
}

impl Sensor {
    const KINDS: [(&str, &str, f64); 6] = [
        ("temperature", "°C", 60.0),
        ("pressure", "kPa", 480.0),
        ("vibration", "mm/s", 3.0),
        ("flow", "l/min", 120.0),
        ("power", "kW", 17.0),
        ("speed", "rpm", 2950.0),
    ];
    const MACHINES: [&str; 5] = ["press", "mill", "lathe", "conveyor", "compressor"];

    fn new(number: usize, random: &mut Random) -> Self {
        let kind = number % Self::KINDS.len();
        let machine = number / Self::KINDS.len();
        let name = format!("{}-{:03}/{}", Self::MACHINES[machine % 5], 100 + machine, Self::KINDS[kind].0);
        let peer = format!("10.20.{}.{}:{}", machine / 200, machine % 200 + 10, 32_768 + random.below(28_000));
        let at = 1_764_460_799_000 - random.below(60_000);
        let value = Self::KINDS[kind].2 * (0.8 + 0.4 * random.fraction());
        Self { name, kind, value, state: "ok", peer, since: at - random.below(100_000_000), at }
    }

    /// A second later: two in five have another value, and a few another state.
    fn live(&mut self, now: u64, random: &mut Random) {
        if random.below(5) < 2 {
            self.value *= 0.99 + 0.02 * random.fraction();
            self.at = now - random.below(1000);
        }
        self.state = match random.below(100) {
            0 => "warning",
            1 => "stale",
            2..10 => "ok",
            _ => self.state,
        };
    }

    fn write(&self, page: &mut String) {
        let Self { name, kind, value, state, peer, since, at } = self;
        let unit = Self::KINDS[*kind].1;
        // Into a String it cannot fail.
        let _ = write!(page, "{{\"name\":\"{name}\",\"value\":{value:.2},\"unit\":\"{unit}\",\"state\":\"{state}\",");
        let _ = write!(page, "\"peer\":\"{peer}\",\"connected\":{since},\"updated\":{at}}}");
    }
}

/// The same numbers in each run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn fraction(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1_u64 << 32) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { is_compressed: true, takes_over: false };

    #[test]
    fn pages_are_json_of_the_wanted_size_and_differ() {
        for size in [200, 2000, 20_000, 200_000] {
            let versions = write_versions(size, 4);
            for page in &versions {
                let value: serde_json::Value = serde_json::from_str(page).unwrap();
                assert!(!value["sensors"].as_array().unwrap().is_empty());
                assert!(page.len() <= size + 200 && page.len() + 200 > size, "{} of {size}", page.len());
            }
            assert!(versions[0] != versions[1] && versions[1] != versions[2]);
        }
    }

    #[test]
    fn what_was_verified_is_not_decompressed_again_and_anything_else_is() {
        let pages = Arc::new(Pages::new(2000).unwrap());
        let conversation = Conversation::new(&pages);
        let page = |number: u64| compress(&mut compressor(4), &pages.version(number).json).unwrap();
        for number in [0, 1, 16, 17] {
            assert!(conversation.is_right(number, &page(number), true, false, TERMS).unwrap());
            let plain = &pages.version(number).json;
            assert!(conversation.is_right(number, plain, false, false, TERMS).unwrap());
            assert!(!conversation.is_right(number, &page(number + 1), true, false, TERMS).unwrap());
        }
        // Another compressor, or the same with another setting, is right too.
        let other = compress(&mut compressor(1), &pages.version(0).json).unwrap();
        assert_ne!(other, page(0));
        assert!(conversation.is_right(0, &other, true, false, TERMS).unwrap());
        assert!(conversation.is_right(0, &[7; 40], true, false, TERMS).is_err());
    }

    #[test]
    fn with_takeover_the_first_answer_is_looked_at() {
        let pages = Arc::new(Pages::new(2000).unwrap());
        let conversation = Conversation::new(&pages);
        let terms = Terms { takes_over: true, ..TERMS };
        let mut takes_over = compressor(4);
        let first = compress(&mut takes_over, &pages.version(0).json).unwrap();
        assert!(conversation.is_right(0, &first, true, true, terms).unwrap());
        assert!(!conversation.is_right(1, &first, true, true, terms).unwrap());
        assert!(conversation.is_right(1, &first, true, false, terms).unwrap(), "it is only counted");
    }

    #[test]
    fn the_servers_header_says_what_is_agreed() {
        assert_eq!(Terms::of("").unwrap(), Terms::PLAIN);
        assert_eq!(Terms::of(WITHOUT_TAKEOVER).unwrap(), TERMS);
        let window = "permessage-deflate; server_max_window_bits=12";
        assert_eq!(Terms::of(window).unwrap(), Terms { takes_over: true, ..TERMS });
        assert!(Terms::of("x-webkit-deflate-frame").is_err());
    }
}

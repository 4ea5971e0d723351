//! The file that topics are saved to from one server to the next: lines of JSON.
//!
//! The first line has the epoch, the last one the checksum of all before it. Between them each topic is followed by its
//! messages and its keys, the oldest first. Ages are in milliseconds, and go on by the wall clock.
//!
//! Invariants:
//! - A file is used as a whole or not at all. A change of any one byte is found.
//! - What was read is gone from the disk before it is used, so no state is ever used twice.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::history::{History, Limits};
use super::keys::{Keys, Window};
use super::name::TopicName;
use super::position::Epoch;
use crate::message::Message;

const VERSION: u32 = 1;

/// The same moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

/// What all topics have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: Epoch,
    /// All offsets of topics that were removed are at most this.
    pub(super) floor: u64,
}

/// A topic, to be saved.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) name: TopicName,
    pub(super) last: u64,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) keys: Vec<(String, u64, Instant)>,
}

/// A topic that was saved.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) name: TopicName,
    pub(super) history: History,
    pub(super) keys: Keys,
}

#[derive(Debug)]
pub(super) struct Contents {
    pub(super) head: Head,
    pub(super) topics: Vec<Saved>,
}

/// What of the file is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) limits: Limits,
    pub(super) window: Window,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line<'a> {
    /// `saved` is when, in milliseconds since 1970.
    Topics {
        version: u32,
        epoch: Cow<'a, str>,
        floor: u64,
        saved: u64,
    },
    Topic {
        name: Cow<'a, str>,
        last: u64,
    },
    Text {
        offset: u64,
        age: u64,
        text: Cow<'a, str>,
    },
    Bytes {
        offset: u64,
        age: u64,
        base64: Cow<'a, str>,
    },
    Key {
        offset: u64,
        age: u64,
        key: Cow<'a, str>,
    },
    Complete {
        checksum: Cow<'a, str>,
    },
}

/// FNV-1a of 64 bits: against disks and editors, not against forgers. No change of a single byte leaves it the same.
#[derive(Debug, Clone, Copy)]
struct Checksum(u64);

impl Checksum {
    const NONE: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

// Writing. ############################################################################################################

/// Writes the file anew, under another name first. Nothing is left of it if that fails.
pub(super) fn write(path: &Path, head: Head, topics: impl Iterator<Item = Snapshot>, now: Now) -> io::Result<()> {
    let temporary = with_suffix(path, ".new");
    // One that is left of a server that was killed meanwhile.
    remove_if_there(&temporary)?;
    let written = create(&temporary).and_then(|file| {
        let mut writer = Writer { file: BufWriter::new(file), checksum: Checksum::NONE, line: Vec::new() };
        writer.write_all(head, topics, now)?;
        writer.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        // If that fails too, the first error says more.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

struct Writer<W: Write> {
    file: W,
    checksum: Checksum,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn write_all(&mut self, head: Head, topics: impl Iterator<Item = Snapshot>, now: Now) -> io::Result<()> {
        let epoch = head.epoch.to_string().into();
        self.write(&Line::Topics { version: VERSION, epoch, floor: head.floor, saved: unix_time(now.wall) })?;
        let age = |then: Instant| millis(now.instant.saturating_duration_since(then));
        for Snapshot { name, last, entries, keys } in topics {
            self.write(&Line::Topic { name: name.as_str().into(), last })?;
            for entry in entries {
                let (offset, age) = (entry.offset, age(entry.published));
                self.write(&match &entry.message {
                    Message::Text(text) => Line::Text { offset, age, text: text.as_str().into() },
                    Message::Binary(bytes) => Line::Bytes { offset, age, base64: BASE64.encode(bytes).into() },
                })?;
            }
            for (key, offset, noted) in keys {
                self.write(&Line::Key { offset, age: age(noted), key: key.into() })?;
            }
        }
        self.write(&Line::Complete { checksum: self.checksum.to_string().into() })
    }

    fn write(&mut self, line: &Line<'_>) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        self.checksum.add(&self.line);
        self.file.write_all(&self.line)
    }
}

// Reading. ############################################################################################################

/// Why a file is not used.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It was kept under another name, or could not be.
    Damaged { why: String, kept: io::Result<PathBuf> },
    /// It may be used again by mistake.
    NotRemoved(io::Error),
}

/// Reads a file, if there is one, and removes it.
pub(super) fn take(path: &Path, bounds: Bounds, now: Now) -> Result<Option<Contents>, ReadError> {
    let contents = match open(path).map_err(|error| error.to_string()) {
        Ok(None) => return Ok(None),
        Ok(Some(file)) => read(BufReader::new(file), bounds, now),
        Err(why) => Err(why),
    };
    match contents {
        Ok(contents) => {
            let removed = fs::remove_file(path).and_then(|()| sync_folder(path));
            removed.map(|()| Some(contents)).map_err(ReadError::NotRemoved)
        }
        Err(why) => {
            let aside = with_suffix(path, ".damaged");
            Err(ReadError::Damaged { why, kept: fs::rename(path, &aside).map(|()| aside) })
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        // Opening a pipe might wait for ever.
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("not a file")),
        Ok(_) => File::open(path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file as a whole.
///
/// # Errors
/// What is wrong with it.
fn read(mut file: impl BufRead, bounds: Bounds, now: Now) -> Result<Contents, String> {
    let mut reader = Reader { bounds, now, away: 0, head: None, topics: Vec::new(), last: 0, names: BTreeSet::new() };
    let (mut checksum, mut line) = (Checksum::NONE, Vec::new());
    for number in 1.. {
        line.clear();
        file.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        let Some(text) = line.strip_suffix(b"\n") else { return Err(format!("it is cut off at line {number}")) };
        let wrong = |why: &dyn fmt::Display| format!("line {number}: {why}");
        match serde_json::from_slice(text).map_err(|error| wrong(&error))? {
            Line::Complete { checksum: written } => {
                let expected = format!(r#"{{"complete":{{"checksum":"{checksum}"}}}}"#);
                if written != checksum.to_string() || text != expected.as_bytes() {
                    return Err("its checksum is wrong".to_owned());
                }
                break;
            }
            parsed => reader.take(parsed).map_err(|why| wrong(&why))?,
        }
        checksum.add(&line);
    }
    if !file.fill_buf().map_err(|error| error.to_string())?.is_empty() {
        return Err("something follows its end".to_owned());
    }
    reader.finish()
}

struct Reader {
    bounds: Bounds,
    now: Now,
    /// For how long nobody served, in milliseconds.
    away: u64,
    head: Option<Head>,
    topics: Vec<Saved>,
    /// The offset of the last message of the latest topic.
    last: u64,
    /// The topics that are there already.
    names: BTreeSet<TopicName>,
}

impl Reader {
    fn take(&mut self, line: Line<'_>) -> Result<(), &'static str> {
        match line {
            Line::Topics { version, epoch, floor, saved } => {
                if version != VERSION {
                    return Err("it was written by another version");
                }
                let epoch = epoch.parse().map_err(|_| "that is no epoch")?;
                // A clock that went back counts as one that stood still.
                self.away = unix_time(self.now.wall).saturating_sub(saved);
                let is_first = self.head.replace(Head { epoch, floor }).is_none();
                is_first.then_some(()).ok_or("it begins twice")
            }
            Line::Topic { name, last } => {
                self.check_end()?;
                self.head.ok_or("it does not begin with an epoch")?;
                let name: TopicName = name.parse().map_err(|_| "that is no name of a topic")?;
                if !self.names.insert(name.clone()) {
                    return Err("the topic is there twice");
                }
                self.last = last;
                self.topics.push(Saved { name, history: History::starting_after(last), keys: Keys::default() });
                Ok(())
            }
            Line::Text { offset, age, text } => self.take_message(offset, age, text.into_owned().into()),
            Line::Bytes { offset, age, base64 } => {
                let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| "that is not base64")?;
                self.take_message(offset, age, bytes.into())
            }
            Line::Key { offset, age, key } => {
                self.check_end()?;
                let age = self.age(age);
                let published = self.instant(age);
                let saved = self.topics.last_mut().ok_or("the key has no topic")?;
                let is_right = (1..=self.last).contains(&offset) && (1..=Keys::MAX_LEN).contains(&key.len());
                if !is_right || saved.keys.find(&key, published, &self.bounds.window).is_some() {
                    return Err("that is no key");
                }
                if age < self.bounds.window.age {
                    saved.keys.add(&key, offset, published, &self.bounds.window);
                }
                Ok(())
            }
            // That is dealt with before.
            Line::Complete { .. } => Err("it ends too early"),
        }
    }

    fn take_message(&mut self, offset: u64, age: u64, message: Message) -> Result<(), &'static str> {
        let age = self.age(age);
        let published = self.instant(age);
        let limits = self.bounds.limits;
        let saved = self.topics.last_mut().ok_or("the message has no topic")?;
        let history = &mut saved.history;
        let is_first = history.is_empty() && history.last() == self.last;
        if offset == 0 || offset > self.last || !is_first && offset != history.last() + 1 {
            return Err("the message has the wrong offset");
        }
        if age >= limits.age {
            // Those before it are older.
            *history = History::starting_after(offset);
            return Ok(());
        }
        if is_first {
            *history = History::starting_after(offset - 1);
        }
        history.push(Arc::new(Entry::new(offset, message, published)), &limits, self.now.instant);
        Ok(())
    }

    /// The messages of a topic reach up to its last.
    fn check_end(&self) -> Result<(), &'static str> {
        let reaches = self.topics.last().is_none_or(|saved| saved.history.last() == self.last);
        reaches.then_some(()).ok_or("messages of the topic are missing")
    }

    fn finish(self) -> Result<Contents, String> {
        self.check_end()?;
        let head = self.head.ok_or("it has no epoch")?;
        Ok(Contents { head, topics: self.topics })
    }

    fn age(&self, saved: u64) -> Duration {
        Duration::from_millis(saved.saturating_add(self.away))
    }

    /// When something of this age was. On a machine that has just booted that may be before all that its clock knows.
    fn instant(&self, age: Duration) -> Instant {
        self.now.instant.checked_sub(age).unwrap_or(self.now.instant)
    }
}

// Both. ###############################################################################################################

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_time(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What was renamed or removed in the folder of a path stays so when the power fails.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Folders cannot be opened here.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "it may fail elsewhere")]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { why, kept: Ok(path) } => write!(f, "{why}; it is kept as {}", path.display()),
            Self::Damaged { why, kept: Err(error) } => write!(f, "{why}; it cannot be renamed: {error}"),
            Self::NotRemoved(error) => write!(f, "it cannot be removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;

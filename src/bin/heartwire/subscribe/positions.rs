//! The file that keeps how far each topic was printed.
//!
//! Invariants:
//! - A position is written only after its message was printed: a run that is killed loses none, and may repeat those of
//!   its last second.
//! - The file is replaced as a whole: whoever reads it, and whatever ends us, it is the old one or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use heartwire::TopicsHandle;
use heartwire::topics::{Position, TopicName};

/// How often the file is brought up to date.
const PERIOD: Duration = Duration::from_secs(1);

/// Positions by their topics, as JSON. Those of topics that are not subscribed to stay as they are.
pub(super) struct PositionFile {
    path: PathBuf,
    positions: BTreeMap<String, String>,
}

/// The thread that keeps the file.
pub(super) struct Keeper {
    thread: JoinHandle<Result<(), String>>,
    end: Sender<()>,
}

impl PositionFile {
    /// Reads the file, or begins one.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let wrong = |what: &str| format!("position file {}: {what}", path.display());
        let positions: BTreeMap<String, String> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| wrong(&format!("it is not valid: {error}")))?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(wrong(&format!("it cannot be read: {error}"))),
        };
        for (topic, position) in &positions {
            position.parse::<Position>().map_err(|error| wrong(&format!("it is not valid: {topic}: {error}")))?;
        }
        let file = Self { path, positions };
        // What cannot be written is to be told before anything is printed.
        file.write()?;
        Ok(file)
    }

    pub(super) fn position(&self, topic: &TopicName) -> Option<Position> {
        self.positions.get(topic.as_str())?.parse().ok()
    }

    /// Keeps the file up to date until the end.
    pub(super) fn keep(self, topics: Vec<TopicName>, handle: TopicsHandle) -> Result<Keeper, String> {
        let (end, ended) = bounded(0);
        let thread = thread::Builder::new().name("heartwire-positions".to_owned());
        let thread = thread.spawn(move || self.run(&topics, &handle, &ended));
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Keeper { thread, end })
    }

    fn run(mut self, topics: &[TopicName], handle: &TopicsHandle, ended: &Receiver<()>) -> Result<(), String> {
        loop {
            let is_last = ended.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout);
            let now = topics.iter().filter_map(|topic| Some((topic, handle.position(topic.as_str())?)));
            let before = self.positions.clone();
            self.positions.extend(now.map(|(topic, position)| (topic.to_string(), position.to_string())));
            let written = if self.positions == before { Ok(()) } else { self.write() };
            match written {
                _ if is_last => return written,
                Ok(()) => {}
                Err(error) => {
                    // There may be room again in a moment.
                    log::error!("{error}; trying again");
                    self.positions = before;
                }
            }
        }
    }

    fn write(&self) -> Result<(), String> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let text = serde_json::to_string_pretty(&self.positions).map_err(|error| error.to_string())?;
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            // Or the file might be empty after a power failure, under its name.
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| format!("position file {}: it cannot be written: {error}", self.path.display()))
    }
}

impl Keeper {
    /// Writes the file for the last time.
    pub(super) fn finish(self) -> Result<(), String> {
        drop(self.end);
        self.thread.join().unwrap_or_else(|_| Err("the thread that keeps the position file panicked".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_makes_no_sense_is_an_error_and_stays_as_it_is() {
        let path = std::env::temp_dir().join(format!("heartwire-positions-{}", std::process::id()));
        for wrong in ["", "x", "[]", "{\"a\":1}", "{\"a\":\"1\"}"] {
            fs::write(&path, wrong).unwrap();
            let error = PositionFile::open(path.clone()).map(|_| ()).unwrap_err();
            assert!(error.contains("it is not valid"), "{wrong}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong);
        }
        fs::remove_file(&path).unwrap();
        let file = PositionFile::open(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
        let position: Position = "4f2a90c1d3e5b607:42".parse().unwrap();
        let positions = BTreeMap::from([("a".to_owned(), position.to_string())]);
        PositionFile { positions, ..file }.write().unwrap();
        let file = PositionFile::open(path.clone()).unwrap();
        assert_eq!(file.position(&"a".parse().unwrap()), Some(position));
        fs::remove_file(&path).unwrap();
        assert!(PositionFile::open(path.join("in no folder")).is_err());
    }
}

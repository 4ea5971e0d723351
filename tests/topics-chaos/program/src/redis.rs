//! Redis, as what several servers share their topics by. It writes everything to disk before it answers, so that it may
//! be killed and nothing is lost. It can be made to lose all, or what came last, as if it had not.
//!
//! Or there is a copy of it that takes its place when it is killed, and a Sentinel that sees to that. Then both keep
//! all in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::CEILING;
use crate::host::Host;
use crate::process::Process;
use crate::record::{End, Epoch};
use crate::times::Span;

/// A part of the name of the file that Redis appends to.
const APPENDED: &str = ".incr.aof";

const ON_DISK: &[&str] =
    &["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"];
const IN_MEMORY: &[&str] = &["--save", "", "--repl-diskless-sync-delay", "0"];

pub(crate) struct Redis {
    process: Process,
    standby: Option<Standby>,
    /// All epochs that there were, in their order.
    pub(crate) epochs: Vec<Epoch>,
    /// When it was not to be had, or had just lost something.
    pub(crate) troubles: Vec<Span>,
}

/// What takes its place.
struct Standby {
    copy: Process,
    sentinel: Process,
}

impl Redis {
    pub(crate) fn start(host: &Host, folder: &Path) -> Result<Self, String> {
        let mut process = Process::new(host, folder.join("redis"))?;
        process.start(ON_DISK)?;
        Ok(Self { process, standby: None, epochs: Vec::new(), troubles: Vec::new() })
    }

    /// One with a copy.
    pub(crate) fn start_with_standby(folder: &Path) -> Result<Self, String> {
        let new = |name: &str| Process::new(&Host::here(), folder.join(name));
        let (mut process, mut copy, mut sentinel) = (new("redis")?, new("copy")?, new("sentinel")?);
        process.start(IN_MEMORY)?;
        follow(&mut copy, &process)?;
        let config = sentinel.folder.join("sentinel.conf");
        let watch = format!("sentinel monitor main 127.0.0.1 {} 1\n", process.address.port());
        let times = "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 1000\n";
        fs::write(&config, watch + times).map_err(|error| format!("{}: {error}", config.display()))?;
        sentinel.start(&[&*config.to_string_lossy(), "--sentinel"])?;
        Ok(Self { process, standby: Some(Standby { copy, sentinel }), epochs: Vec::new(), troubles: Vec::new() })
    }

    /// The URL by which servers find it, if they are not to find it by a way of their own.
    pub(crate) fn url(&self) -> String {
        match &self.standby {
            None => format!("redis://{}", self.process.address),
            Some(Standby { sentinel, .. }) => format!("redis+sentinel://{}/main", sentinel.address),
        }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn has_standby(&self) -> bool {
        self.standby.is_some()
    }

    /// Notes when there was trouble.
    fn in_trouble(&mut self, make: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let began = Instant::now();
        make(self)?;
        self.troubles.push((began, Instant::now()));
        Ok(())
    }

    /// Kills it, and starts it again after a while.
    ///
    /// # Errors
    /// If it does not come back.
    pub(crate) fn restart(&mut self, after: Duration) -> Result<(), String> {
        self.in_trouble(|redis| {
            redis.process.kill();
            thread::sleep(after);
            redis.start_again()
        })
    }

    /// It stands still for a while.
    pub(crate) fn pause(&mut self, time: Duration) -> Result<(), String> {
        self.in_trouble(|redis| {
            redis.process.pause(time);
            Ok(())
        })
    }

    /// All that it has is gone. Returns once a server has found that out.
    ///
    /// # Errors
    /// If none does.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.in_trouble(|redis| {
            redis.process.ask("FLUSHALL")?;
            let deadline = Instant::now() + CEILING;
            while !redis.note_epoch(End::Complete)? {
                if Instant::now() > deadline {
                    return Err("no server finds out that Redis was flushed".to_owned());
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    }

    /// What it is told in this time is gone afterwards, for it is killed as if it had not been written to disk yet: by
    /// a file that ends where it ended before.
    ///
    /// # Errors
    /// If it does not come back.
    pub(crate) fn lose_what_comes_within(&mut self, time: Duration) -> Result<(), String> {
        let (path, length) = self.appended()?;
        thread::sleep(time);
        self.in_trouble(|redis| {
            redis.process.kill();
            let file = fs::OpenOptions::new().write(true).open(path).map_err(|error| error.to_string())?;
            file.set_len(length).map_err(|error| error.to_string())?;
            redis.start_again()
        })
    }

    /// Starts it with what is on disk, and lets it write that anew, or each start would take longer than the last.
    fn start_again(&mut self) -> Result<(), String> {
        self.process.start(ON_DISK)?;
        self.process.ask("BGREWRITEAOF")?;
        self.process.wait_until("it has written anew what it has", |process| {
            let info = process.ask_one("INFO persistence").ok().flatten().unwrap_or_default();
            ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"].iter().all(|done| info.contains(done))
        })
    }

    /// The file that it appends to, and how long that is.
    fn appended(&self) -> Result<(PathBuf, u64), String> {
        let folder = self.process.folder.join("appendonlydir");
        let files = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let paths = files.filter_map(|file| file.ok().map(|file| file.path()));
        let appended = paths.filter(|path| path.to_string_lossy().ends_with(APPENDED)).max();
        let path = appended.ok_or_else(|| format!("nothing is appended in {}", folder.display()))?;
        let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        Ok((path, length))
    }

    /// Kills it, waits until its copy has taken its place, and makes it the copy of that.
    ///
    /// # Errors
    /// If none takes its place.
    pub(crate) fn fail_over(&mut self) -> Result<(), String> {
        self.in_trouble(|redis| {
            let Some(Standby { copy, sentinel }) = &mut redis.standby else { return Err("there is no copy".into()) };
            let is_master = |sentinel: &Process, process: &Process| {
                let master = sentinel.ask("SENTINEL get-master-addr-by-name main");
                let port = Some(process.address.port().to_string());
                master.is_ok_and(|master| master.last().cloned().flatten() == port)
            };
            if !is_master(sentinel, &redis.process) {
                return Err("the Sentinel has taken a Redis for dead that lives: the machine is too busy".to_owned());
            }
            redis.process.kill();
            let has_taken_over = |sentinel: &Process| is_master(sentinel, copy);
            sentinel.wait_until("the copy has taken the place of Redis", has_taken_over)?;
            copy.wait_until("the copy is the master", |copy| {
                copy.ask_one("INFO replication").is_ok_and(|info| info.unwrap_or_default().contains("role:master"))
            })?;
            std::mem::swap(&mut redis.process, copy);
            follow(copy, &redis.process)
        })
    }

    /// Notes the epoch that it has, if it is another one: what became of the one before. Returns whether it is.
    pub(crate) fn note_epoch(&mut self, end: End) -> Result<bool, String> {
        let Some(id) = self.epoch()? else { return Ok(false) };
        let last = self.epochs.last_mut();
        if last.as_ref().is_some_and(|last| last.id == id) {
            return Ok(false);
        }
        if let Some(last) = last {
            last.end = end;
        }
        self.epochs.push(Epoch { id, end: End::Complete });
        Ok(true)
    }

    /// The epoch that it has, if a server has given it one.
    fn epoch(&self) -> Result<Option<u64>, String> {
        let text = self.process.ask_one("GET heartwire:epoch")?;
        text.map(|text| u64::from_str_radix(&text, 16).map_err(|error| format!("{error}: {text}"))).transpose()
    }
}

/// Starts a copy of a Redis, and waits until it is one.
fn follow(copy: &mut Process, of: &Process) -> Result<(), String> {
    let of = format!("127.0.0.1 {}", of.address.port());
    copy.start(&[IN_MEMORY, &["--replicaof", &of]].concat())?;
    copy.wait_until("the copy has everything", |copy| {
        copy.ask_one("INFO replication").is_ok_and(|info| info.unwrap_or_default().contains("master_link_status:up"))
    })
}

//! The certificates of `heartwire serve`: where they come from, when they have to be renewed, and their replacement
//! while the server runs.
//!
//! A thread of its own looks at the files every two seconds, by the same names each time, so that a symbolic link that
//! points elsewhere is seen too. A certificate and its key change one after the other: until they belong together the
//! old ones are served. That lasts a moment, so it is logged only if it lasts longer, and once.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use heartwire::{Certificate, Server, ServerTls, TlsError};

use crate::cli::ServeOptions;

/// The time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long before its end a certificate has to be renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);

/// The time between two warnings of it.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The certificates that are served.
pub(crate) struct Certificates {
    tls: ServerTls,
    files: Vec<PathBuf>,
    /// The files as they were just before they were read.
    seen: Vec<Option<Stamp>>,
    note: Option<String>,
    reload: (Sender<()>, Receiver<()>),
}

impl Certificates {
    /// Those that the options name, if they name any.
    ///
    /// # Errors
    /// What is wrong with which file, in a line.
    pub(crate) fn load(options: &ServeOptions) -> Result<Option<Self>, String> {
        let options = &options.tls;
        let files = options.files();
        // First, so that a change that comes while they are read is seen later.
        let seen = stamps(&files);
        let unusable = |error: TlsError| format!("cannot serve wss://: {error}");
        let (tls, note) = match options.load().map_err(unusable)? {
            Some(tls) => (tls, None),
            None if options.encrypts() => self_signed()?,
            None => return Ok(None),
        };
        let tls = options.with_clients(tls).map_err(unusable)?;
        Ok(Some(Self { tls, files, seen, note, reload: bounded(1) }))
    }

    /// The names that they are for.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.tls.certificates().iter().map(names).collect();
        names.join(", ")
    }

    /// A line on where they come from, if that is not a file.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub(crate) fn apply_to(&self, server: Server) -> Server {
        server.tls(self.tls.clone())
    }

    /// A function that has the files read anew, if there are any. It never blocks.
    pub(crate) fn reloader(&self) -> Option<impl Fn() + Send + Sync + 'static> {
        let reload = self.reload.0.clone();
        (!self.files.is_empty()).then_some(move || _ = reload.try_send(()))
    }

    /// Warns of certificates that end soon, now and later, and replaces those whose files change.
    ///
    /// # Errors
    /// What is wrong, in a line, if there is no thread for it.
    pub(crate) fn watch(self) -> Result<(), String> {
        let Self { tls, files, seen, reload: (keep, asked), .. } = self;
        let mut watch = Watch { tls, files, seen, trouble: Trouble::None, warned: Instant::now() };
        watch.warn();
        let thread = thread::Builder::new().name("heartwire-certs".to_owned()).spawn(move || {
            // As long as the process runs.
            let _keep = keep;
            watch.run(&asked);
        });
        thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
    }
}

struct Watch {
    tls: ServerTls,
    files: Vec<PathBuf>,
    /// The files as they were just before they were last read.
    seen: Vec<Option<Stamp>>,
    trouble: Trouble,
    /// When certificates that end soon were last looked for.
    warned: Instant,
}

/// Whether what the files hold now cannot be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// It may be that not all of them have been replaced yet.
    Perhaps,
    Logged,
}

impl Watch {
    fn run(&mut self, asked: &Receiver<()>) {
        loop {
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => self.reload(true),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.warned.elapsed() >= WARN_EVERY {
                self.warn();
            }
        }
    }

    fn look(&mut self) {
        // Whatever is wrong may be put right without a trace in the file's own stamps, such as a right to read it.
        if self.trouble != Trouble::None || stamps(&self.files) != self.seen {
            self.reload(false);
        }
    }

    /// `is_asked`: somebody waits for an answer in the log.
    fn reload(&mut self, is_asked: bool) {
        let before = self.trouble;
        // First, as in `load`.
        self.seen = stamps(&self.files);
        match self.tls.reload() {
            Ok(()) => {
                self.trouble = Trouble::None;
                let served: Vec<String> = self.tls.certificates().iter().map(until).collect();
                log::info!("certificates reloaded: {}", served.join("; "));
                self.warn();
            }
            Err(_) if before == Trouble::None && !is_asked => self.trouble = Trouble::Perhaps,
            Err(error) => {
                match before {
                    Trouble::Logged if !is_asked => log::debug!("the new certificates still cannot be used: {error}"),
                    _ => log::warn!("the old certificates are still served, for the new ones cannot be used: {error}"),
                }
                self.trouble = Trouble::Logged;
            }
        }
    }

    fn warn(&mut self) {
        self.warned = Instant::now();
        for warning in self.tls.certificates().iter().filter_map(|it| warning(it, SystemTime::now())) {
            log::warn!("{warning}");
        }
    }
}

/// What has to be done about a certificate, if anything.
fn warning(certificate: &Certificate, now: SystemTime) -> Option<String> {
    let of = format!("the certificate for {}", names(certificate));
    let (from, until) = (certificate.valid_from()?, certificate.valid_until()?);
    if from > now {
        let (from, now) = (date(from), date(now));
        return Some(format!("{of} is not valid before {from}, and today is {now}: is the clock right?"));
    }
    // One that is made for a few days only is not always about to end.
    let lifetime = until.duration_since(from).unwrap_or_default();
    match until.duration_since(now) {
        Err(_) => Some(format!("{of} expired on {}: renew it, for clients refuse it", date(until))),
        Ok(left) if left < RENEW_BEFORE.min(lifetime / 3) => {
            let days = left.as_secs() / (24 * 3600);
            Some(format!("{of} expires on {}, in {days} days: renew it", date(until)))
        }
        Ok(_) if certificate.is_ca() => Some(format!(
            "{of} is that of a CA: many clients refuse it from a server; have one made with basicConstraints=CA:FALSE"
        )),
        Ok(_) => None,
    }
}

fn names(certificate: &Certificate) -> String {
    /// Some have a hundred.
    const SHOWN: usize = 5;
    match certificate.names() {
        [] => "no name".to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

fn until(certificate: &Certificate) -> String {
    let until = certificate.valid_until().map(|until| format!(" until {}", date(until)));
    format!("{}{}", names(certificate), until.unwrap_or_default())
}

/// A day, such as `2027-01-31`, in UTC.
fn date(time: SystemTime) -> String {
    // What it can spell: from 1970 to 9999, where a certificate's own calendar ends.
    let mut time = humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string();
    time.truncate("2027-01-31".len());
    time
}

#[cfg(feature = "self-signed")]
fn self_signed() -> Result<(ServerTls, Option<String>), String> {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use time::OffsetDateTime;

    let make = || {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(365);
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let made: Result<_, rcgen::Error> = make();
    let (chain, key) = made.map_err(|error| format!("cannot make a certificate: {error}"))?;
    let tls = ServerTls::from_pem(chain, key).map_err(|error| error.to_string())?;
    let fingerprint = tls.certificates().first().map(Certificate::fingerprint).unwrap_or_default();
    Ok((tls, Some(format!("self-signed certificate, SHA-256 fingerprint {fingerprint}"))))
}

#[cfg(not(feature = "self-signed"))]
fn self_signed() -> Result<(ServerTls, Option<String>), String> {
    Err("this program cannot make certificates: it was built without the feature self-signed".to_owned())
}

/// What of a file changes when it does, or when another takes its place.
#[derive(PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// The file itself, and when it or its rights were last changed: rewriting it does not always show otherwise.
    inode: (u64, u64, i64, i64),
}

/// The files as they are now. `None` for one that cannot be looked at.
fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        Some(Stamp { length: metadata.len(), modified: metadata.modified().ok(), inode: inode(&metadata) })
    };
    files.iter().map(stamp).collect()
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> (u64, u64, i64, i64) {
    (0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    const DAY: u64 = 24 * 3600;

    /// What is said of a certificate that was made `age` days ago and lasts for another `left`.
    fn said(age: i64, left: i64, is_ca: bool) -> Option<String> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["example.org".to_owned()]).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        params.not_before = now - time::Duration::days(age);
        params.not_after = now + time::Duration::days(left);
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let made = params.self_signed(&key).unwrap();
        let tls = ServerTls::from_pem(made.pem(), key.serialize_pem()).unwrap();
        warning(&tls.certificates()[0], SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }

    #[test]
    fn a_warning_comes_two_weeks_before_the_end_and_later_for_short_lives() {
        assert_eq!(said(30, 14, false), None);
        let warning = said(30, 13, false).unwrap();
        assert_eq!(warning, "the certificate for example.org expires on 2027-01-28, in 13 days: renew it");
        assert_eq!((said(2, 4, false), said(5, 1, false).is_some()), (None, true));
        assert!(said(90, -1, false).unwrap().contains("expired on 2027-01-14"));
        assert!(said(-1, 90, false).unwrap().contains("not valid before 2027-01-16, and today is 2027-01-15"));
        assert!(said(1, 90, true).unwrap().contains("CA:FALSE"));
        assert_eq!(RENEW_BEFORE, Duration::from_secs(14 * DAY));
    }
}

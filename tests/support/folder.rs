//! A folder for the files of a test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

/// A folder of its own for a test, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let name = format!("heartwire-test-{}-{}", process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    /// The path of a file in it, which need not be there.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file.
    #[cfg(feature = "tls")]
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, contents).expect("a file");
        path
    }

    /// Writes a file, and gives its path as a command line has it.
    #[cfg(all(feature = "tls", feature = "cli"))]
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        self.file(name, contents);
        self.path(name)
    }

    #[cfg(all(feature = "tls", feature = "cli"))]
    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).to_str().expect("UTF-8").to_owned()
    }

    /// The names of all files in it.
    #[cfg(feature = "topics")]
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        fs::read_dir(&self.0).expect("it is there").map(|entry| name(entry.expect("an entry"))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

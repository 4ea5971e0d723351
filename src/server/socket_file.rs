//! The file of a Unix socket: made with its permissions, removed at the end, and left alone while somebody answers
//! there.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
#[cfg(not(target_os = "espidf"))]
use std::thread;
#[cfg(not(target_os = "espidf"))]
use std::time::{Duration, Instant};

#[cfg(not(target_os = "espidf"))]
use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket of ours. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at a path. A file that is left from a server that has ended is removed before.
    pub(super) fn listen(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Self, Socket)> {
        let path = path::absolute(path)?;
        let address = SockAddr::unix(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Two servers that start at one moment do not remove each other's file.
        let _lock = lock_folder(&path);
        match socket.bind(&address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_if_nobody_answers(&path, &address)?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        let metadata = fs::symlink_metadata(&path)?;
        let file = Self { path, identity: (metadata.dev(), metadata.ino()) };
        // Nobody can connect before it listens, whatever the permissions were until then.
        if let Some(mode) = mode {
            fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
        }
        socket.listen(backlog)?;
        Ok((file, socket))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Whoever serves there next removes it if we cannot.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks the folder of a path until the file is dropped. Does without if it cannot, or if it takes too long.
#[cfg(not(target_os = "espidf"))]
fn lock_folder(path: &Path) -> Option<File> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let folder = File::open(path.parent()?).ok()?;
    let deadline = Instant::now() + PATIENCE;
    while flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Some(folder)
}

/// This system has no such locks.
#[cfg(target_os = "espidf")]
fn lock_folder(_: &Path) -> Option<File> {
    None
}

/// Removes the file of a socket that nobody listens at.
fn remove_if_nobody_answers(path: &Path, address: &SockAddr) -> io::Result<()> {
    let is_socket = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        // Its server has just removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_socket {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => fs::remove_file(path),
        Err(ErrorKind::NotFound) => Ok(()),
        // Connected, or so many wait that there is no room for one more.
        Ok(()) | Err(ErrorKind::WouldBlock) => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another server listens there"))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("heartwire-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn kind(path: &Path) -> ErrorKind {
        SocketFile::listen(path, None, 1).map(drop).unwrap_err().kind()
    }

    #[test]
    fn a_file_is_removed_only_if_it_is_a_socket_that_nobody_listens_at() {
        let folder = folder("stale");
        let path = folder.join("socket");
        let (file, socket) = SocketFile::listen(&path, None, 1).unwrap();
        assert_eq!(kind(&path), ErrorKind::AddrInUse);
        // Its server was killed.
        std::mem::forget(file);
        drop(socket);
        let (file, socket) = SocketFile::listen(&path, Some(0o620), 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        // As many wait as may.
        let waiting: Vec<_> = (0..10)
            .map_while(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                client.connect(&SockAddr::unix(&path).unwrap()).ok().map(|()| client)
            })
            .collect();
        assert!(waiting.len() < 10);
        assert_eq!(kind(&path), ErrorKind::AddrInUse);
        drop((file, socket));
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert_eq!(kind(&path), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        SocketFile::listen(&path, None, 1).map(drop).unwrap_err();
        assert!(path.exists());
        assert_eq!(kind(&folder.join("nowhere/socket")), ErrorKind::NotFound);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_file_of_another_is_left_alone_at_the_end() {
        let folder = folder("other");
        let path = folder.join("socket");
        let (file, _socket) = SocketFile::listen(&path, None, 1).unwrap();
        fs::rename(&path, folder.join("moved")).unwrap();
        let (_other, _its_socket) = SocketFile::listen(&path, None, 1).unwrap();
        drop(file);
        assert!(path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn of_many_that_start_at_one_moment_one_listens() {
        let folder = folder("race");
        let path = folder.join("socket");
        for _ in 0..20 {
            let (file, socket) = SocketFile::listen(&path, None, 1).unwrap();
            std::mem::forget(file);
            drop(socket);
            let listening = thread::scope(|scope| {
                let starting: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| SocketFile::listen(&path, None, 16).ok())).collect();
                starting.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(listening.len(), 1);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

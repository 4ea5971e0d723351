//! The program as a service of systemd: what it tells a service manager, and what it takes from one.

use std::fs;
use std::io::{self, BufRead};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::process::{Process, close_code, connect, hang_up, heartwire, next_text};
use crate::support::{CEILING, ms};

/// A service manager: what it is told through its socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("heartwire-{}-{}.socket", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket in the folder for temporary files");
        Self { socket, path }
    }

    /// A server that tells this manager.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = heartwire(&[&["127.0.0.1:0"][..], arguments].concat());
        command.env("NOTIFY_SOCKET", &self.path).env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
        command
    }

    /// The next message, line by line.
    fn told(&self) -> Vec<String> {
        self.socket.set_read_timeout(Some(CEILING)).unwrap();
        self.receive().expect("the server tells something")
    }

    fn receive(&self) -> Option<Vec<String>> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(str::from_utf8(&message[..length]).expect("text").lines().map(str::to_owned).collect())
    }

    /// What has come and was not taken yet.
    fn rest(&self) -> Vec<Vec<String>> {
        self.socket.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.receive()).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn it_tells_that_it_listens_how_many_are_connected_and_that_it_stops() {
    let manager = Manager::new();
    let started = Instant::now();
    let mut server = Process::start(&mut manager.command(&[]));
    assert_eq!(manager.told(), ["READY=1", "STATUS=no connections"]);
    let (one, two) = (connect(server.address(), "/"), connect(server.address(), "/"));
    // Told once a second at most, so perhaps by two messages.
    while manager.told() != ["STATUS=2 connections"] {}
    assert!(started.elapsed() >= ms(1000), "sooner than it may be");
    hang_up(one, CloseCode::Normal, "");
    assert_eq!(manager.told(), ["STATUS=1 connection"]);
    server.signal("TERM");
    // Who is left answers, and so the server ends.
    hang_up(two, CloseCode::Normal, "");
    assert_eq!(server.wait().code(), Some(0));
    let rest = manager.rest();
    assert!(rest.contains(&vec!["STOPPING=1".to_owned()]), "{rest:?}");
    assert!(rest.iter().flatten().all(|line| !line.contains("WATCHDOG")), "nobody has asked for that: {rest:?}");
}

#[test]
fn who_ends_at_once_has_told_that_it_stops() {
    for _ in 0..5 {
        let manager = Manager::new();
        let mut server = Process::start(&mut manager.command(&[]));
        manager.told();
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(manager.rest(), [["STOPPING=1"]]);
    }
}

#[test]
fn who_drains_says_so_and_asks_for_the_time_that_it_takes() {
    let manager = Manager::new();
    let mut server = Process::start(&mut manager.command(&["--drain", "2m", "--close-timeout", "3s"]));
    assert_eq!(manager.told(), ["READY=1", "STATUS=no connections"]);
    let (one, two) = (connect(server.address(), "/"), connect(server.address(), "/"));
    while manager.told() != ["STATUS=2 connections"] {}
    server.signal("TERM");
    assert_eq!(manager.told(), ["STOPPING=1"]);
    assert_eq!(manager.told(), ["EXTEND_TIMEOUT_USEC=133000000"]);
    assert_eq!(close_code(one), 1012);
    while manager.told() != ["STATUS=draining, 1 connection"] {}
    hang_up(two, CloseCode::Normal, "");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_end_does_not_wait_for_the_next_status_line() {
    // A busy machine may make some of them last longer.
    let shortest = (0..5).map(|_| {
        let manager = Manager::new();
        let mut server = Process::start(&mut manager.command(&[]));
        assert_eq!(manager.told()[0], "READY=1");
        let client = connect(server.address(), "/");
        assert_eq!(manager.told(), ["STATUS=1 connection"]);
        // From now on there is none for a second.
        let signalled = Instant::now();
        server.signal("TERM");
        hang_up(client, CloseCode::Normal, "");
        assert_eq!(server.wait().code(), Some(0));
        signalled.elapsed()
    });
    let shortest = shortest.min().unwrap();
    assert!(shortest < ms(500), "{shortest:?}");
}

#[test]
fn a_watchdog_is_fed_while_it_lives_and_not_while_it_is_stopped() {
    let manager = Manager::new();
    // It probes itself each half of a second, and has as long for the answer.
    let server = Process::start(manager.command(&["--log-level", "trace"]).env("WATCHDOG_USEC", "2000000"));
    assert_eq!(manager.told()[0], "READY=1");
    for _ in 0..4 {
        assert_eq!(manager.told(), ["WATCHDOG=1"]);
    }
    // Such probes are no clients.
    assert_eq!(server.stderr.lines().iter().filter(|line| line.contains("connected and sent")).count(), 0);
    server.signal("STOP");
    // One may be on its way.
    manager.socket.set_read_timeout(Some(ms(2000))).unwrap();
    while manager.receive().is_some() {}
    server.signal("CONT");
    assert_eq!(manager.told(), ["WATCHDOG=1"]);
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let mut command = manager.command(&[]);
    let mut server = Process::start(command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1"));
    manager.told();
    server.signal("TERM");
    server.wait();
    assert_eq!(manager.rest(), [["STOPPING=1"]]);
}

#[test]
fn without_a_manager_there_is_no_thread_for_it_and_one_that_cannot_be_reached_is_logged_once() {
    let threads = |server: &Process| {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).expect("a process");
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        names.filter(|name| name.trim() == &"heartwire-systemd"[..15]).count()
    };
    let alone = Process::start(heartwire(&["127.0.0.1:0"]).env("NOTIFY_SOCKET", "").env("WATCHDOG_USEC", "1000"));
    let _client = connect(alone.address(), "/");
    alone.stderr.line_with(&["#1 ", "opened"]);
    assert_eq!(threads(&alone), 0);

    let lost =
        Process::start(heartwire(&["127.0.0.1:0"]).env("NOTIFY_SOCKET", "/nowhere").env("WATCHDOG_USEC", "40000"));
    let _client = connect(lost.address(), "/");
    lost.stderr.line_with(&["#1 ", "opened"]);
    lost.stderr.line_with(&["WARN", "cannot tell systemd how the server is: "]);
    assert_eq!(threads(&lost), 1);
    assert_eq!(lost.stderr.lines().iter().filter(|line| line.contains("cannot tell systemd")).count(), 1);
}

// Socket activation.

/// The server with this as its file descriptor 3, which `LISTEN_PID` says is meant for it.
fn activated(socket: impl Into<OwnedFd>, listen_pid: &str, count: u32) -> Process {
    let script = format!("exec 3<&0 </dev/null; export LISTEN_PID={listen_pid} LISTEN_FDS={count}; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_heartwire"), "127.0.0.1:0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::start_reading(&mut command, Stdio::from(socket.into()))
}

#[test]
fn a_socket_of_the_manager_is_served_in_place_of_the_address_and_outlives_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..2 {
        // Who comes before the server waits for it.
        let waiting = thread::spawn(move || {
            let mut client = connect(address, "/");
            client.send("hello".into()).unwrap();
            (next_text(&mut client), client)
        });
        let mut server = activated(listener.try_clone().unwrap(), "$$", 1);
        assert_eq!(server.address(), address);
        let (text, client) = waiting.join().unwrap();
        assert_eq!(text, "hello");
        hang_up(client, CloseCode::Normal, "");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_unix_socket_of_the_manager_is_served() {
    let path = std::env::temp_dir().join(format!("heartwire-manager-{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let server = activated(listener, "$$", 1);
    let url = format!("unix:{}", path.display());
    server.stdout.line_with(&[&format!("listening on {url} (")]);
    let mut check = Process::start(&mut heartwire(&["check", &url]));
    assert_eq!(check.wait().code(), Some(0), "{:?}", check.stderr.lines());
    server.signal("TERM");
    drop(server);
    assert!(path.exists(), "it is the manager's");
    fs::remove_file(&path).unwrap();
}

#[test]
fn several_sockets_of_the_manager_are_all_served() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let [first, second] = listeners.map(|listener| Stdio::from(OwnedFd::from(listener)));
    // What else the shell has open does not matter.
    let script = "exec 3<&0 4<&1 1>&2 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_heartwire"), "127.0.0.1:0"]);
    command.stdout(second).stderr(Stdio::piped());
    let server = Process::start_reading(&mut command, first);
    for address in addresses {
        server.stderr.line_with(&[&format!("listening on ws://{address}")]);
        let mut client = connect(address, "/");
        client.send("hello".into()).unwrap();
        assert_eq!(next_text(&mut client), "hello");
    }
}

#[test]
fn a_socket_that_is_meant_for_another_process_is_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for listen_pid in ["1", ""] {
        let server = activated(listener.try_clone().unwrap(), listen_pid, 1);
        assert_ne!(server.address(), listener.local_addr().unwrap());
    }
}

#[test]
fn what_is_no_tcp_listener_is_one_line_and_exit_1() {
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let datagrams = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    // The second of two is missing.
    for (socket, count) in [(datagrams, 1), (listener(), 2)] {
        let told = "error: the socket of systemd cannot be used: ";
        let mut server = activated(socket, "$$", count);
        assert_eq!(server.wait().code(), Some(1));
        let lines = server.stderr.lines();
        assert!(lines.len() == 1 && lines[0].starts_with(told), "{lines:?}");
    }
}

// The journal.

/// The first line of the log of a server whose `JOURNAL_STREAM` is this, or if `None` its standard error.
fn first_line(journal_stream: Option<&str>) -> String {
    let (reader, stderr) = io::pipe().unwrap();
    let stderr = OwnedFd::from(stderr);
    let metadata = fs::File::from(stderr.try_clone().unwrap()).metadata().unwrap();
    let its_own = format!("{}:{}", metadata.dev(), metadata.ino());
    let mut command = heartwire(&["127.0.0.1:0", "--max-connections", "10"]);
    command.env("JOURNAL_STREAM", journal_stream.unwrap_or(&its_own));
    let server = Process::start(command.stderr(stderr));
    drop(command);
    let _client = connect(server.address(), "/");
    let line = io::BufReader::new(reader).lines().next().expect("a line").unwrap();
    assert!(line.contains(" opened /"), "{line}");
    line
}

#[test]
fn lines_for_the_journal_begin_with_a_priority_and_others_with_the_time() {
    let line = first_line(None);
    assert!(line.starts_with("<6>#1 127.0.0.1:"), "{line}");
    for other in ["", "1:1", "journal"] {
        let line = first_line(Some(other));
        assert!(line.starts_with("20") && line.contains("Z [INFO ] #1 "), "{other:?}: {line}");
    }
}

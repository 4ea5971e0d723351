//! Programs as users run them: child processes whose output is collected by threads, and plain clients to talk to them.
//!
//! Nothing here waits for longer than [`CEILING`], and no child outlives its [`Process`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::{CEILING, request};

/// A running program.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Process {
    /// Starts a program. Output that the command does not send elsewhere is collected.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts a program, with somebody at its standard input: dropping that is its end.
    pub(crate) fn start_typing(command: &mut Command) -> (Self, ChildStdin) {
        let mut process = Self::start_reading(command, Stdio::piped());
        let stdin = process.child.stdin.take().expect("piped");
        (process, stdin)
    }

    /// Starts a program with this standard input.
    pub(crate) fn start_reading(command: &mut Command, stdin: Stdio) -> Self {
        let spawned = command.stdin(stdin).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().map_or_else(Output::none, Output::collect);
        let stderr = child.stderr.take().map_or_else(Output::none, Output::collect);
        Self { child, stdout, stderr }
    }

    /// The address in the line that servers print when they listen.
    pub(crate) fn address(&self) -> SocketAddr {
        let line = self.stdout.line_with(&["listening on ws"]);
        let address = line.split("://").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Its number, to find it by.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `INT`. Only Unix has them.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "no signal {name} for {}", self.child.id());
    }

    /// Waits for the program's own end, with all of its output.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + CEILING;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                self.stdout.wait_for_end();
                self.stderr.wait_for_end();
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end; stderr: {:#?}", self.stderr.lines());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with these arguments, its output to be collected.
pub(crate) fn heartwire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartwire"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What the tests connect to is on this machine, whatever proxy others have to be reached through.
    for name in ["ws", "wss", "http", "https", "all", "no"].map(|name| format!("{name}_proxy")) {
        command.env_remove(name.to_uppercase()).env_remove(name);
    }
    command
}

/// The program, running with these arguments.
pub(crate) fn serve(arguments: &[&str]) -> Process {
    Process::start(&mut heartwire(arguments))
}

/// `heartwire connect` to this URL, running with these arguments, and its standard input.
pub(crate) fn start_client(url: &str, arguments: &[&str]) -> (Process, ChildStdin) {
    Process::start_typing(&mut heartwire(&[&["connect", url][..], arguments].concat()))
}

pub(crate) fn type_line(stdin: &mut ChildStdin, line: &str) {
    writeln!(stdin, "{line}").expect("the client reads");
}

/// Types all of the input, to its end, in a thread of its own: a client that does not take it holds no test up.
pub(crate) fn type_all(mut stdin: ChildStdin, text: String) {
    // Fails when the client has ended before its input.
    thread::spawn(move || stdin.write_all(text.as_bytes()));
}

/// The lines of an output stream as they come.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    has_ended: bool,
}

impl Output {
    fn none() -> Self {
        let output = Self::default();
        output.change(|state| state.has_ended = true);
        output
    }

    fn collect(stream: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let collected = output.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                collected.change(|state| state.lines.push(line));
            }
            collected.change(|state| state.has_ended = true);
        });
        output
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// What has come so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Waits for a line that contains all the parts, and gives the first such line.
    pub(crate) fn line_with(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + CEILING;
        let mut state = self.0.0.lock().unwrap();
        loop {
            if let Some(line) = state.lines.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.clone();
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if state.has_ended || remaining.is_zero() {
                // Let go first: a panic that holds the lock would take the collecting thread with it.
                let lines = state.lines.clone();
                drop(state);
                panic!("no line with {parts:?} in {lines:#?}");
            }
            state = self.0.1.wait_timeout(state, remaining).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let state = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(state, CEILING, |state| !state.has_ended).unwrap());
    }
}

/// A plain blocking WebSocket, whose reads end at the ceiling. It answers Pings when it reads, and only then.
pub(crate) type Client = WebSocket<TcpStream>;

/// Connects a client to a path such as `/ann`.
pub(crate) fn connect(address: SocketAddr, path: &str) -> Client {
    let stream = tcp(address);
    tungstenite::client(format!("ws://{address}{path}"), stream).expect("the handshake succeeds").0
}

/// A TCP connection whose reads and writes end at the ceiling.
pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, CEILING).expect("the server takes connections");
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.set_write_timeout(Some(CEILING)).unwrap();
    stream
}

/// The next text or binary message; Pings in between are answered.
pub(crate) fn next_message(client: &mut Client) -> Message {
    let deadline = Instant::now() + CEILING;
    loop {
        let message = client.read().expect("a message comes");
        if !message.is_ping() && !message.is_pong() {
            return message;
        }
        client.flush().unwrap();
        assert!(Instant::now() < deadline, "only Pings and Pongs come");
    }
}

/// The next message, which must be text.
pub(crate) fn next_text(client: &mut Client) -> String {
    next_message(client).into_text().expect("a text").to_string()
}

/// Reads up to the server's Close frame, and completes the closing handshake. Gives the code.
pub(crate) fn close_code(mut client: Client) -> u16 {
    let deadline = Instant::now() + CEILING;
    loop {
        if let Message::Close(frame) = client.read().expect("a Close frame comes") {
            let _ = client.flush();
            return frame.map_or(1005, |frame| frame.code.into());
        }
        assert!(Instant::now() < deadline, "no Close frame comes");
    }
}

/// Closes as a client should: Close frame, the server's answer, end.
pub(crate) fn hang_up(mut client: Client, code: CloseCode, reason: &str) {
    let deadline = Instant::now() + CEILING;
    client.close(Some(CloseFrame { code, reason: reason.into() })).unwrap();
    while client.read().is_ok() {
        assert!(Instant::now() < deadline, "the server does not close");
    }
}

/// Sends an HTTP request as it stands, and reads the answer to its end.
pub(crate) fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = tcp(address);
    stream.write_all(request.as_bytes()).unwrap();
    // It is the only one, so the connection is not kept.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends");
    answer
}

/// Does the opening handshake by hand: from here on every byte is the test's, and no Ping is answered behind its back.
pub(crate) fn bare_connect(address: SocketAddr) -> TcpStream {
    let mut stream = tcp(address);
    stream.write_all(request().as_bytes()).unwrap();
    let head = answer_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// The head of an HTTP answer, and not one byte behind it.
pub(crate) fn answer_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the head is complete");
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

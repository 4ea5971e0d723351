//! Commands, what they send, and whether the same came back.

use std::io::Write;

use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

/// A message, whatever the library calls it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload {
    Text(Vec<String>),
    Binary(Vec<u8>),
}

/// What to do next.
pub(crate) enum Step {
    Send(Payload),
    Close,
    AwaitClose,
    End,
}

/// The commands, one at a time: the answer to one comes before the next.
pub(crate) struct Script {
    lines: Lines<BufReader<Stdin>>,
    expected: Option<(String, Payload)>,
}

impl Script {
    pub(crate) fn begin() -> Self {
        say("open");
        Self { lines: BufReader::new(tokio::io::stdin()).lines(), expected: None }
    }

    pub(crate) async fn next(&mut self) -> Step {
        let Ok(Some(command)) = self.lines.next_line().await else { return Step::End };
        let text = |parts: &[&str]| Payload::Text(parts.iter().map(|part| part.to_string()).collect());
        let payload = match command.as_str() {
            "text" => text(&["héllo ✓"]),
            "fragmented" => text(&["frag", "men", "ted ✓"]),
            "binary" => Payload::Binary(pattern(256)),
            "large" => Payload::Binary(pattern(1 << 20)),
            "close" => return Step::Close,
            "await-close" => return Step::AwaitClose,
            _ => match command.strip_prefix("file ").map(file) {
                Some(Ok(payload)) => payload,
                _ => return Step::End,
            },
        };
        self.expected = Some((command, payload.clone()));
        Step::Send(payload)
    }

    pub(crate) fn text_came(&mut self, text: &[u8]) {
        self.judge(|payload| matches!(payload, Payload::Text(parts) if parts.concat().as_bytes() == text));
    }

    pub(crate) fn binary_came(&mut self, bytes: &[u8]) {
        self.judge(|payload| matches!(payload, Payload::Binary(sent) if sent == bytes));
    }

    fn judge(&mut self, is_same: impl Fn(&Payload) -> bool) {
        match self.expected.take() {
            Some((command, payload)) if is_same(&payload) => say(&format!("ok {command}")),
            Some((command, _)) => say(&format!("bad {command}")),
            None => say("bad message that nobody asked for"),
        }
    }
}

/// A line for the driver. A pipe that broke will be seen as the end of the commands.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The version of a package that this program was built with.
pub(crate) fn version_of(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{package}\"\n")));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

fn file(path: &str) -> std::io::Result<Payload> {
    match path.ends_with(".txt") {
        true => Ok(Payload::Text(vec![std::fs::read_to_string(path)?])),
        false => Ok(Payload::Binary(std::fs::read(path)?)),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

//! Messages on standard output. In a pipe they are what the server sent; on a terminal nothing in them can move the
//! cursor, change colours, turn the direction of writing, or look like two lines.

use std::io::{self, IsTerminal, Write};

use heartwire::Escaped;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    is_terminal: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal() }
    }

    /// Prints a message as a line.
    pub(crate) fn print(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.is_terminal {
            writeln!(out, "{}", escaped(text))?
        } else {
            writeln!(out, "{text}")?
        }
        out.flush()
    }
}

/// Nothing in it is obeyed but the tab, which moves nothing that was printed.
fn escaped(text: &str) -> String {
    let parts: Vec<_> = text.split('\t').map(|part| Escaped(part).to_string()).collect();
    parts.join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_as_it_is() {
        for text in ["", "grüß dich\tdu", "日本語 👩‍👩‍👧 שלום", "C:\\path \"quoted\""] {
            assert_eq!(escaped(text), text);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(escaped("\x1b[2J\ta\r\nb\u{202e}"), "\\u{1b}[2J\ta\\r\\nb\\u{202e}");
    }
}

//! Messages on standard output. In a pipe they are what the server sent; on a terminal nothing in them can move the cursor,
//! change colours, turn the direction of writing, or look like two lines.

use std::io::{self, IsTerminal, Write};

#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    is_terminal: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal() }
    }

    /// Prints a message as a line.
    pub(super) fn print(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.is_terminal {
            writeln!(out, "{}", escaped(text))?
        } else {
            writeln!(out, "{text}")?
        }
        out.flush()
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_active(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Whether a terminal would do something at this character rather than show it: control characters (C0 but for the tab,
/// DEL, C1), ends of lines, and what turns the direction of writing (UAX #9).
fn is_active(c: char) -> bool {
    match c {
        '\t' => false,
        '\u{2028}' | '\u{2029}' => true,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
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
        for (text, shown) in [
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\r\nb", "a\\r\\nb"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("\u{2066}\u{200f}", "\\u{2066}\\u{200f}"),
            ("a\u{2028}b\u{2029}", "a\\u{2028}b\\u{2029}"),
            ("\x7f\0\x07", "\\u{7f}\\u{0}\\u{7}"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }
}

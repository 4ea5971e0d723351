//! Text from peers and handlers in a line of a log or of a terminal: it stays in its line, and is shown in its order.

use std::fmt::{self, Display, Write};

/// Displays text that a peer may have chosen so that it can be printed in a line of a log or a terminal.
///
/// Each character that would end the line, control a terminal or change the direction of text (controls C0, DEL and C1;
/// separators of lines and paragraphs; Unicode's Bidi_Control) is escaped, as in `\u{202e}`. So nobody can forge a
/// line. All others, among them quotes and backslashes, stay as they are. heartwire's own log does so with all of its
/// lines.
///
/// ```
/// use heartwire::Escaped;
///
/// assert_eq!(Escaped("hello\r\nERROR all is lost\x1b[2J").to_string(), r"hello\r\nERROR all is lost\u{1b}[2J");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((start, found)) = rest.char_indices().find(|(_, char)| is_misleading(*char)) {
            self.0.write_str(&rest[..start])?;
            Display::fmt(&found.escape_default(), self.0)?;
            rest = &rest[start + found.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Controls (C0, DEL and C1), the separators of lines and paragraphs, and what sets the direction of text (Unicode's
/// Bidi_Control).
fn is_misleading(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_mislead_is_escaped_and_all_else_is_as_it_was() {
        for (text, shown) in [
            ("one\ntwo\r\n\tthree", r"one\ntwo\r\n\tthree"),
            ("\x1b[31mred\x7f", r"\u{1b}[31mred\u{7f}"),
            ("C1: \u{9b}31m and \u{85}", r"C1: \u{9b}31m and \u{85}"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("/gpj.\u{202e}exe\u{2066}", r"/gpj.\u{202e}exe\u{2066}"),
            ("grüß \"dich\" \\ 語 🙂 e\u{301}", "grüß \"dich\" \\ 語 🙂 e\u{301}"),
            ("", ""),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
        let parts = Escaped(format_args!("{}{}", "a\n", '\n'));
        assert_eq!(parts.to_string(), r"a\n\n");
    }
}

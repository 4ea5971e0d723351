//! Text from peers and handlers in a line of the log: it stays in its line, and is shown in the order that it has.

use std::fmt::{self, Display, Write};

/// Displays what it holds, and escapes, as in `\u{202e}`, each character that would end the line, control a terminal or
/// change the direction of text, so that nobody can forge lines of the log.
#[derive(Debug)]
pub(crate) struct Escaped<T>(pub(crate) T);

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

//! The header `Sec-WebSocket-Extensions`: a list of extensions, each with its parameters (RFC 6455 section 9.1).

use crate::http::head::is_token;

/// An extension that is offered or accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) name: String,
    /// In their order, as often as they were named. A quoted value stands here without its quotes.
    pub(crate) parameters: Vec<(String, Option<String>)>,
}

/// All extensions of the header's lines, in their order. `None` if a line is not what the grammar allows: then the
/// handshake has to fail (section 9.1).
pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Extension>> {
    let mut extensions = Vec::new();
    for line in lines {
        let mut rest = Rest(std::str::from_utf8(line).ok()?);
        loop {
            // A list may have empty elements (RFC 9110 section 5.6.1.2).
            while rest.skip(',') {}
            if rest.0.is_empty() {
                break;
            }
            extensions.push(rest.extension()?);
            if !rest.0.is_empty() && !rest.skip(',') {
                return None;
            }
        }
    }
    Some(extensions)
}

/// What is left of a line. It never begins with white space.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn extension(&mut self) -> Option<Extension> {
        let name = self.token()?.to_owned();
        let mut parameters = Vec::new();
        while self.skip(';') {
            let parameter = self.token()?.to_owned();
            let value = if self.skip('=') { Some(self.value()?) } else { None };
            parameters.push((parameter, value));
        }
        Some(Extension { name, parameters })
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.find([',', ';', '=', '"', ' ', '\t']).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = trim(rest);
        is_token(token).then_some(token)
    }

    /// A token, or a quoted string that has one in it.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(str::to_owned) };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        loop {
            match characters.next()? {
                (at, '"') => {
                    self.0 = trim(&quoted[at + 1..]);
                    return is_token(&value).then_some(value);
                }
                (_, '\\') => value.push(characters.next()?.1),
                (_, character) => value.push(character),
            }
        }
    }

    /// Skips this character, if it is the next one.
    fn skip(&mut self, character: char) -> bool {
        self.0 = trim(self.0);
        let Some(rest) = self.0.strip_prefix(character) else { return false };
        self.0 = trim(rest);
        true
    }
}

fn trim(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The extensions as one text: `name;parameter=value,name`.
    fn parsed(lines: &[&str]) -> Option<String> {
        let extensions = parse(lines.iter().map(|line| line.as_bytes()))?;
        let text = |extension: &Extension| {
            let parameters = extension.parameters.iter().map(|(name, value)| match value {
                Some(value) => format!(";{name}={value}"),
                None => format!(";{name}"),
            });
            extension.name.clone() + &parameters.collect::<String>()
        };
        Some(extensions.iter().map(text).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn lists_of_all_lines_are_one_list_with_all_parameters() {
        for (lines, expected) in [
            (&[][..], ""),
            (&["", " , ,"], ""),
            (&["foo"], "foo"),
            (&[" foo ; a ;b = 1;c=\"2\" , bar", "baz;a;a"], "foo;a;b=1;c=2,bar,baz;a;a"),
            (&["foo;a=\"\\1\\0\""], "foo;a=10"),
            (&["foo,,bar,"], "foo,bar"),
            (&["\tfoo\t;\ta"], "foo;a"),
        ] {
            assert_eq!(parsed(lines).as_deref(), Some(expected), "{lines:?}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_refused() {
        for line in [
            ";",
            "=",
            "foo;",
            "foo;;a",
            "foo;a=",
            "foo;a=;b",
            "foo bar",
            "foo;a b",
            "foo;a=\"1",
            "foo;a=\"\"",
            "foo;a=\"1 2\"",
            "foo;a=\"1\"2",
            "foo;a=1\"",
            "\"foo\"",
            "foo=1",
            "foo;a=1=2",
            "f\u{f6}\u{f6}",
            "foo;a=\"\\",
            "foo;a=(1)",
        ] {
            assert_eq!(parsed(&[line]), None, "{line:?}");
        }
        assert!(parse([&b"foo\xff"[..]].into_iter()).is_none());
    }
}

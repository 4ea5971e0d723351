//! Holds a line: no type of a crate that is only our means stands in the public API.
//!
//! Such a type would make each new version of that crate a breaking one of ours. The sources are read as text. What is
//! `pub`, without a scope in parentheses, is public: the lint `unreachable_pub` sees to that. Names count that a file
//! imports from such a crate, and paths that begin with it; what a macro or an alias of ours hides is not seen.

use std::fs;
use std::path::Path;

/// Those that may stand there are re-exported by the crate root.
const MEANS: [&str; 8] = ["tungstenite", "httparse", "libc", "log", "rand", "ring", "rustix", "socket2"];

/// Where items begin that can show a type to users.
const SHOWING: [&str; 3] = ["pub ", "impl", "type "];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The source without comments and tests.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

/// The types that a file imports from these crates.
fn imported(code: &str) -> Vec<&str> {
    let imports = code.split("\nuse ").skip(1).filter_map(|import| import.split(';').next());
    let from_means = imports.filter(|import| words(import).next().is_some_and(|first| MEANS.contains(&first)));
    from_means.flat_map(words).filter(|word| word.starts_with(char::is_uppercase)).collect()
}

/// What users see of the items in it: heads of functions and implementations, public fields, and enums with all they
/// hold.
fn signatures(code: &str) -> Vec<&str> {
    let mut start = 0;
    let mut signatures = Vec::new();
    for line in code.split_inclusive('\n') {
        let rest = &code[start..];
        let item = rest.trim_start();
        start += line.len();
        if !SHOWING.iter().any(|begin| item.starts_with(begin)) {
            continue;
        }
        let end = if item.starts_with("pub enum ") {
            item.find("\n}")
        } else if item.starts_with("pub struct ") {
            // Fields stand for themselves, if they are public.
            item.find(['{', '(', ';']).filter(|end| !item[*end..].starts_with("(pub "))
        } else if item.starts_with("pub use ") {
            item.find(';')
        } else {
            item.find(['{', ';']).into_iter().chain(item.find(",\n").filter(|_| !item.contains("fn "))).min()
        };
        signatures.push(&item[..end.unwrap_or(line.len())]);
    }
    signatures
}

/// The signatures in a file that show a type of these crates.
fn leaks(source: &str) -> Vec<String> {
    let code = format!("\n{}", code(source));
    let imported = imported(&code);
    let shows = |signature: &&str| {
        words(signature).any(|word| imported.contains(&word))
            || MEANS.iter().any(|means| signature.contains(&format!("{means}::")))
    };
    signatures(&code).into_iter().filter(shows).map(str::to_owned).collect()
}

/// Calls `see` with each source of the library.
fn for_each_source(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            see(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn no_type_of_a_crate_that_is_only_our_means_is_public() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut seen, mut found) = (0, Vec::new());
    for_each_source(&root, &mut |path, source| {
        if !path.starts_with(root.join("bin")) {
            seen += signatures(&code(source)).len();
            found.extend(leaks(source).into_iter().map(|leak| format!("{}: {leak}", path.display())));
        }
    });
    assert!(seen > 200, "{seen} public signatures were found, so the sources are not read as they should be");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_leak_is_seen_wherever_it_may_stand() {
    let import = "use tungstenite::{Utf8Bytes, protocol::frame::FrameHeader};\n";
    for leak in [
        "pub use tungstenite::Bytes;",
        "pub enum Message {\n    Text(Utf8Bytes),\n}",
        "pub struct Text(pub Utf8Bytes);",
        "pub struct Text {\n    pub text: Utf8Bytes,\n}",
        "impl From<Utf8Bytes> for Message {\n}",
        "impl Deref for Text {\n    type Target = Utf8Bytes;\n}",
        "impl Text {\n    pub fn take(self) -> Utf8Bytes {\n    }\n}",
        "impl Text {\n    pub fn of(\n        n: u8,\n        text: impl Into<Utf8Bytes>,\n    ) -> Self {\n    }\n}",
        "pub fn frame() -> tungstenite::protocol::frame::Frame {\n}",
        "pub type Header = FrameHeader;",
    ] {
        assert_eq!(leaks(&format!("{import}{leak}\n")).len(), 1, "{leak}");
    }
    for private in [
        "pub struct Text(Utf8Bytes);",
        "pub struct Text {\n    text: Utf8Bytes,\n}",
        "pub(crate) fn take() -> Utf8Bytes {\n}",
        "pub fn len(&self) -> usize {\n    let text: Utf8Bytes = self.text();\n    text.len()\n}",
        "/// pub fn of(text: Utf8Bytes);",
        "#[cfg(test)]\nmod tests {\n    pub fn of(text: Utf8Bytes) {\n    }\n}",
    ] {
        assert_eq!(leaks(&format!("{import}{private}\n")), [""; 0], "{private}");
    }
}

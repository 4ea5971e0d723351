//! What ARCHITECTURE.md says of the sources is true: which folder may use which, and the ways of a message and of a
//! missed Pong from function to function.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each folder, and each file beside them, may use of the others. `connection` and `supervisor` are the one cycle.
const MAY_USE: &[(&str, &str)] = &[
    ("atomic", ""),
    ("browser", ""),
    ("durations", ""),
    ("escape", ""),
    ("foreign", ""),
    ("message", "foreign"),
    ("logging", "escape foreign"),
    ("protocol", "foreign message"),
    ("heartbeat", "durations"),
    ("tls", "escape foreign protocol transport"),
    ("error", "message protocol tls"),
    ("http", "error foreign tls"),
    ("deflate", "http protocol"),
    ("settings", "deflate durations heartbeat protocol"),
    ("transport", "foreign protocol"),
    ("connection", CONNECTION),
    ("supervisor", "atomic connection deflate error foreign http logging message protocol settings transport"),
    ("topics", TOPICS),
    ("server", SERVER),
    ("client", CLIENT),
    // For the tests of applications: nothing uses it.
    ("testing", TESTING),
];
const CONNECTION: &str =
    "atomic deflate durations error foreign heartbeat http message protocol settings supervisor tls transport";
const CLIENT: &str = "connection deflate durations error escape foreign heartbeat http logging message protocol \
                      settings supervisor tls topics transport";
const TOPICS: &str =
    "atomic connection durations error foreign heartbeat http logging message protocol supervisor tls transport";
const TESTING: &str =
    "client connection error foreign heartbeat http message protocol server settings supervisor transport";
const SERVER: &str = "atomic browser connection deflate durations error foreign heartbeat http logging message \
                      protocol settings supervisor tls topics transport";

/// Folders and files that do no I/O, and those that have no clock either: what they must not name.
const PURE: &[(&str, &[&str])] = &[
    ("http", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("protocol", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("heartbeat", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("deflate", &["TcpStream", "std::fs", "Instant::now"]),
    ("client/topics/protocol.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("client/topics/protocol/outbox.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("topics/redis/link.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("topics/redis/node_info.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("topics/redis/nodes.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    ("topics/redis/retrying.rs", &["TcpStream", "std::fs", "std::thread", "Instant::now"]),
    // It reads certificates from files.
    ("tls", &["TcpStream", "std::thread", "Instant::now"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources_in(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources_in(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The library's sources by their paths in `src`, without its tests and without comments.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut paths = Vec::new();
    sources_in(&src, &mut paths);
    let mut sources = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(&src).expect("a path in src").to_string_lossy().replace('\\', "/");
        let is_test =
            name.contains("/tests/") || ["tests.rs", "fuzz.rs", "model.rs"].iter().any(|end| name.ends_with(end));
        if !name.starts_with("bin/") && name != "lib.rs" && !is_test {
            sources.insert(name, code(&fs::read_to_string(&path).expect("a source")));
        }
    }
    sources
}

fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = source.lines().map(|line| line.split("// ").next().unwrap_or_default());
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The folder of a source, or the name of one that lies beside them.
fn part(name: &str) -> &str {
    name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// What a source uses of the crate: the names that follow `crate::`, also within braces.
fn uses(source: &str) -> BTreeSet<&str> {
    let is_name = |char: char| char.is_ascii_lowercase() || char == '_';
    let mut used = BTreeSet::new();
    for (at, found) in source.match_indices("crate::") {
        let rest = &source[at + found.len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for name in names {
            used.insert(name.split(|char| !is_name(char)).next().unwrap_or_default());
        }
    }
    // Items of the crate's root, which are public and named with a capital letter.
    used.remove("");
    used
}

/// What breaks the rules of layers.
fn violations(sources: &BTreeMap<String, String>) -> Vec<String> {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut found = Vec::new();
    for (name, source) in sources {
        let from = part(name);
        let Some(may_use) = allowed.get(from) else {
            found.push(format!("{name}: tests/integration/structure.rs does not say what {from} may use"));
            continue;
        };
        let others = uses(source)
            .into_iter()
            .filter(|used| *used != from && !may_use.split(' ').any(|allowed| allowed == *used));
        found.extend(others.map(|used| format!("{name} uses {used}")));
        let pure = PURE.iter().filter(|(part, _)| *part == from || name == part).flat_map(|(_, words)| *words);
        found.extend(pure.filter(|word| source.contains(**word)).map(|word| format!("{name} names {word}")));
    }
    found
}

#[test]
fn every_folder_uses_only_what_it_may() {
    let sources = sources();
    assert!(sources.len() > 40, "only {} sources were found", sources.len());
    assert_eq!(violations(&sources), Vec::<String>::new());
}

#[test]
fn a_use_that_is_not_allowed_is_found_however_it_is_written() {
    let found = |name: &str, source: &str| violations(&BTreeMap::from([(name.to_owned(), code(source))]));
    for source in [
        "use crate::server::Server;",
        "use crate::{message::Message, server::Server};",
        "fn f() -> crate::server::Server { todo!() }",
        "    use crate::server;",
    ] {
        assert_eq!(found("http/request.rs", source).last().unwrap(), "http/request.rs uses server", "{source}");
    }
    assert_eq!(found("heartbeat.rs", "let now = Instant::now();"), ["heartbeat.rs names Instant::now"]);
    assert_eq!(found("protocol/frame.rs", "use std::net::TcpStream;"), ["protocol/frame.rs names TcpStream"]);
    assert_eq!(found("client/topics/protocol.rs", "Instant::now()").len(), 1, "a single file");
    assert_eq!(found("new/file.rs", "").len(), 1, "a new folder has to say what it may use");
    let harmless =
        "// use crate::server;\nuse crate::http::request::Request;\n#[cfg(test)]\nmod tests { use crate::server; }";
    assert_eq!(found("connection/shared.rs", harmless), Vec::<String>::new());
}

// The ways through the code that ARCHITECTURE.md describes.

/// One step of a way: a function, and whether the next one is called in it; otherwise it is handed over to.
#[derive(Debug, PartialEq, Eq)]
struct Step<'a> {
    file: &'a str,
    function: &'a str,
    hands_over: bool,
}

/// The numbered lists of the document whose items begin with a file and a function, by their headings.
fn ways(document: &str) -> Vec<(&str, Vec<Step<'_>>)> {
    let mut ways: Vec<(&str, Vec<Step<'_>>)> = Vec::new();
    let mut heading = "";
    for line in document.lines() {
        if let Some(text) = line.strip_prefix("### ") {
            heading = text;
        }
        let is_item = line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let code: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let [file, function, ..] = code[..] else { continue };
        if !is_item || !file.starts_with("src/") {
            continue;
        }
        let step = Step { file, function, hands_over: line.contains("hands over") };
        match ways.last_mut() {
            Some((of, steps)) if *of == heading => steps.push(step),
            _ => ways.push((heading, vec![step])),
        }
    }
    ways
}

/// The body of a function, if the source has it. `Type::name` looks for `fn name`.
fn body<'a>(source: &'a str, function: &str) -> Option<&'a str> {
    let name = function.rsplit("::").next()?;
    let starts = [format!("fn {name}("), format!("fn {name}<")];
    let start = starts.iter().filter_map(|start| source.find(start.as_str())).min()?;
    let open = start + source[start..].find('{')?;
    let mut depth = 0;
    for (at, char) in source[open..].char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&source[open..=open + at]);
        }
    }
    None
}

/// Where a way is not what the sources do.
fn mistakes(steps: &[Step<'_>], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        let Some(source) = read(step.file) else {
            found.push(format!("there is no {}", step.file));
            continue;
        };
        let Some(body) = body(&source, step.function) else {
            found.push(format!("{} has no {}", step.file, step.function));
            continue;
        };
        if let Some(next) = steps.get(place + 1).filter(|_| !step.hands_over) {
            let name = next.function.rsplit("::").next().unwrap_or_default();
            if !body.contains(&format!("{name}(")) {
                found.push(format!("{} of {} does not call {name}", step.function, step.file));
            }
        }
    }
    found
}

#[test]
fn the_ways_in_the_architecture_are_those_of_the_code() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let ways = ways(&document);
    assert!(ways.len() >= 3 && ways.iter().all(|(_, steps)| steps.len() > 3), "{ways:?}");
    for (heading, steps) in &ways {
        let mistakes = mistakes(steps, |file| fs::read_to_string(root().join(file)).ok());
        assert_eq!(mistakes, Vec::<String>::new(), "{heading}");
    }
}

#[test]
fn a_way_that_is_wrong_is_found() {
    let document = "### A way\n1. `src/a.rs` `A::one`: begins\n2. `src/a.rs` `two`: hands over to a thread\n\
                    3. `src/b.rs` `B::three`\n";
    let ways = ways(document);
    let [("A way", steps)] = &ways[..] else { panic!("{ways:?}") };
    let of = |a: &'static str, b: &'static str| {
        mistakes(steps, |file| Some(if file == "src/a.rs" { a } else { b }.to_owned()))
    };
    let right = "fn one(&self) { if x { self.two() } }\nfn two<T>() {}";
    assert_eq!(of(right, "fn three() {}"), Vec::<String>::new());
    assert_eq!(of(right, "fn four() {}"), ["src/b.rs has no B::three"]);
    assert_eq!(of("fn one() { }\nfn two() {}", "fn three() {}"), ["A::one of src/a.rs does not call two"]);
    assert_eq!(mistakes(steps, |_| None).len(), 3);
}

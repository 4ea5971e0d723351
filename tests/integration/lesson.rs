//! The lesson in docs/lesson: its commands print what its pages show, its excerpts stand in its programs, and what it
//! names of heartwire's sources is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[cfg(all(feature = "cli", target_os = "linux"))]
mod commands;

/// A page of the lesson, by the name of its file.
struct Page {
    name: String,
    text: String,
}

fn pages() -> Vec<Page> {
    let mut pages: Vec<_> = files("docs/lesson", "md").map(|(name, text)| Page { name, text }).collect();
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(pages.len(), 7, "six steps and a first page");
    pages
}

/// The files in a folder whose names end so, each with its text.
fn files(folder: &str, extension: &str) -> impl Iterator<Item = (String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let extension = extension.to_owned();
    let files = entries.filter(move |path| path.extension().is_some_and(|found| *found == *extension));
    files.map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("a text"))
    })
}

/// The programs of the lesson, and what they share.
fn programs() -> impl Iterator<Item = (String, String)> {
    files("examples/lesson", "rs").chain(files("examples/lesson/peers", "rs"))
}

impl Page {
    /// The contents of its blocks that are marked so.
    fn blocks(&self, kind: &str) -> Vec<&str> {
        let begin = format!("\n```{kind}\n");
        self.text.split(&*begin).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
    }
}

/// The lines of a program or an excerpt, however deep they are indented.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

fn is_excerpt(excerpt: &str, program: &str) -> bool {
    let (excerpt, program) = (lines(excerpt), lines(program));
    program.windows(excerpt.len()).any(|window| window == excerpt)
}

#[test]
fn each_excerpt_stands_in_a_program_of_the_lesson() {
    let programs: Vec<_> = programs().map(|(_, text)| text).collect();
    let mut count = 0;
    for page in pages() {
        for excerpt in page.blocks("rust") {
            assert!(programs.iter().any(|program| is_excerpt(excerpt, program)), "{}:\n{excerpt}", page.name);
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} excerpts were found");
}

#[test]
fn an_excerpt_that_differs_from_the_program_is_found() {
    let program = "fn f() {\n    one();\n    two();\n}\n";
    assert!(is_excerpt("one();\ntwo();", program));
    assert!(!is_excerpt("one();\nthree();", program));
    assert!(!is_excerpt("one();\n\ntwo();", program));
}

/// What a text says of the sources, as "`Type::function` in [src/file.rs](...)".
fn places(text: &str) -> Vec<(String, String)> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut places = Vec::new();
    for (at, found) in text.match_indices("` in [src/") {
        let function = text[..at].rsplit('`').next().unwrap_or_default();
        let file = text[at + found.len() - "src/".len()..].split(']').next().unwrap_or_default();
        places.push((function.to_owned(), file.to_owned()));
    }
    places
}

/// Whether a source has this function, of this type if one is named.
fn has(source: &str, function: &str) -> bool {
    let (owner, name) = function.rsplit_once("::").unwrap_or_default();
    let name = if owner.is_empty() { function } else { name };
    source.contains(&format!("fn {name}(")) && (owner.is_empty() || source.contains(owner))
}

#[test]
fn the_places_in_the_source_are_there() {
    let mut places_found = 0;
    for page in pages() {
        for (function, file) in places(&page.text) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {file}: {error}", page.name));
            assert!(has(&source, &function), "{}: {file} has no {function}", page.name);
            places_found += 1;
        }
    }
    assert!(places_found >= 10, "only {places_found} places were found");
}

#[test]
fn a_place_that_is_not_there_is_found() {
    let text = "Bytes count: `A::one` in\n  [src/a.rs](a). Others: `two` in [src/b.rs](b).";
    let of = |function: &str, file: &str| (function.to_owned(), file.to_owned());
    assert_eq!(places(text), [of("A::one", "src/a.rs"), of("two", "src/b.rs")]);
    assert!(has("impl A { fn one(&self) {} }", "A::one") && has("fn two() {}", "two"));
    assert!(!has("impl A { fn won(&self) {} }", "A::one"));
    assert!(!has("impl B { fn one(&self) {} }", "A::one"));
    assert!(!has("fn two_more() {}", "two"));
}

#[test]
fn every_picture_is_shown_and_every_program_is_named() {
    let pages = pages();
    let shows = |name: &str| pages.iter().any(|page| page.text.contains(name));
    let pictures: BTreeSet<_> = files("docs/lesson", "svg").map(|(name, _)| name).collect();
    let programs: BTreeSet<_> = programs().map(|(name, _)| name).collect();
    assert!(pictures.len() >= 4 && programs.len() >= 9, "{pictures:?} {programs:?}");
    for name in pictures.iter().chain(&programs) {
        let links = [format!("({name})"), format!("lesson/{name})"), format!("lesson/peers/{name})")];
        assert!(links.iter().any(|link| shows(link)), "no page links to {name}");
    }
}

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    limits: Limits { count: 100, bytes: 10_000, age: Duration::from_secs(600) },
    window: Window { age: Duration::from_secs(300), count: 100 },
};

fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}

fn head() -> Head {
    Head { epoch: "4f2a90c1d3e5b607".parse().unwrap(), floor: 7 }
}

/// A topic with a text, bytes and a key, a second apart, the newest a second old.
fn snapshot(now: Now) -> Snapshot {
    let before = |seconds| now.instant.checked_sub(Duration::from_secs(seconds)).unwrap();
    let entry = |offset, message: Message, seconds| Arc::new(Entry::new(offset, message, before(seconds)));
    let messages = [entry(41, "ä\n\"".into(), 2), entry(42, Message::binary(vec![0, 255]), 1)];
    let keys = vec![("order".to_owned(), 42, before(1))];
    Snapshot { name: "a/b".parse().unwrap(), last: 42, entries: messages.into(), keys }
}

fn written(snapshots: Vec<Snapshot>, now: Now) -> Vec<u8> {
    let mut writer = Writer { file: Vec::new(), checksum: Checksum::NONE, line: Vec::new() };
    writer.write_all(head(), snapshots.into_iter(), now).unwrap();
    writer.file
}

/// A folder of its own for a test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("heartwire-saved-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Offsets, messages and ages in seconds of the only topic.
fn messages(contents: &Contents, now: Now) -> Vec<(u64, Message, u64)> {
    let age = |entry: &Entry| now.instant.saturating_duration_since(entry.published).as_secs();
    let [topic] = &contents.topics[..] else { panic!("{} topics", contents.topics.len()) };
    topic.history.iter().map(|entry| (entry.offset, entry.message.clone(), age(entry))).collect()
}

#[test]
fn what_was_written_is_read() {
    let now = now();
    let bytes = written(vec![snapshot(now)], now);
    // Five seconds later.
    let later = Now { instant: now.instant, wall: now.wall + Duration::from_secs(5) };
    let mut contents = read(&bytes[..], BOUNDS, later).unwrap();
    assert_eq!(contents.head, head());
    assert_eq!(messages(&contents, now), [(41, "ä\n\"".into(), 7), (42, Message::binary(vec![0, 255]), 6)]);
    let topic = &mut contents.topics[0];
    assert_eq!((topic.name.as_str(), topic.history.last()), ("a/b", 42));
    assert_eq!(topic.keys.find("order", now.instant, &BOUNDS.window), Some(42));
    let rest = Duration::from_secs(294);
    assert_eq!(topic.keys.find("order", now.instant + rest, &BOUNDS.window), None, "its age goes on");
}

#[test]
fn no_byte_can_be_other_than_it_was_written() {
    let now = now();
    let bytes = written(vec![snapshot(now)], now);
    for at in 0..bytes.len() {
        for flip in [1, 0x20, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            assert!(read(&damaged[..], BOUNDS, now).is_err(), "byte {at} xor {flip}");
        }
        let (before, after) = bytes.split_at(at);
        assert!(read(before, BOUNDS, now).is_err(), "cut off at {at}");
        assert!(read(&[before, &after[1..]].concat()[..], BOUNDS, now).is_err(), "without byte {at}");
        assert!(read(&[before, b" ", after].concat()[..], BOUNDS, now).is_err(), "a space at {at}");
    }
    assert!(read(&[&bytes[..], b"\n"].concat()[..], BOUNDS, now).is_err());
    assert!(read(&bytes[..], BOUNDS, now).is_ok());
}

#[test]
fn a_clock_that_went_back_makes_nothing_older_and_one_far_ahead_forgets_all() {
    let now = now();
    let bytes = written(vec![snapshot(now)], now);
    let back = Now { instant: now.instant, wall: now.wall - Duration::from_secs(1000) };
    let ages: Vec<_> = messages(&read(&bytes[..], BOUNDS, back).unwrap(), now).iter().map(|(.., age)| *age).collect();
    assert_eq!(ages, [2, 1]);
    // One of the two is too old.
    let later = Now { instant: now.instant, wall: now.wall + Duration::from_millis(598_500) };
    let contents = read(&bytes[..], BOUNDS, later).unwrap();
    assert_eq!(messages(&contents, now).iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [42]);
    for ahead in [600, 100_000_000_000] {
        let ahead = Now { instant: now.instant, wall: now.wall + Duration::from_secs(ahead) };
        let mut contents = read(&bytes[..], BOUNDS, ahead).unwrap();
        assert_eq!(messages(&contents, now), []);
        let topic = &mut contents.topics[0];
        assert_eq!(topic.history.last(), 42, "the offsets go on");
        topic.keys.forget(now.instant, &BOUNDS.window);
        assert!(topic.keys.is_empty());
    }
}

#[test]
fn the_limits_of_those_who_read_hold() {
    let now = now();
    let bytes = written(vec![snapshot(now)], now);
    let offsets = |limits| {
        let contents = read(&bytes[..], Bounds { limits, ..BOUNDS }, now).unwrap();
        assert_eq!(contents.topics[0].history.last(), 42);
        messages(&contents, now).iter().map(|(offset, ..)| *offset).collect::<Vec<_>>()
    };
    assert_eq!(offsets(Limits { count: 1, ..BOUNDS.limits }), [42]);
    assert_eq!(offsets(Limits { bytes: 3, ..BOUNDS.limits }), [42]);
    assert_eq!(offsets(Limits { age: Duration::from_secs(2), ..BOUNDS.limits }), [42]);
    assert!(offsets(Limits::NONE).is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_although_its_checksum_is_right() {
    let now = now();
    let entry = |offset| Arc::new(Entry::new(offset, "x".into(), now.instant));
    let with = |last, offsets: &[u64], keys: &[(&str, u64)]| Snapshot {
        name: "a".parse().unwrap(),
        last,
        entries: offsets.iter().copied().map(entry).collect(),
        keys: keys.iter().map(|(key, offset)| ((*key).to_owned(), *offset, now.instant)).collect(),
    };
    let error = |snapshots| read(&written(snapshots, now)[..], BOUNDS, now).unwrap_err();
    for (snapshots, why) in [
        (vec![with(3, &[1, 3], &[])], "wrong offset"),
        (vec![with(3, &[3, 4], &[])], "wrong offset"),
        (vec![with(3, &[0, 1], &[])], "wrong offset"),
        (vec![with(3, &[1, 2], &[])], "messages of the topic are missing"),
        (vec![with(3, &[1, 2], &[]), with(1, &[], &[])], "messages of the topic are missing"),
        (vec![with(3, &[], &[]), with(3, &[], &[])], "twice"),
        (vec![with(3, &[], &[("k", 4)])], "no key"),
        (vec![with(3, &[], &[("", 1)])], "no key"),
        (vec![with(3, &[], &[("k", 1), ("k", 2)])], "no key"),
    ] {
        let error = error(snapshots);
        assert!(error.contains(why), "{error}, not {why}");
    }
    let newer = String::from_utf8(written(Vec::new(), now)).unwrap().replace("\"version\":1", "\"version\":2");
    assert_eq!(read(newer.as_bytes(), BOUNDS, now).unwrap_err(), "line 1: it was written by another version");
}

#[test]
fn a_file_is_written_as_a_whole_for_its_owner_and_taken_once() {
    let (folder, now) = (Folder::new("once"), now());
    let path = folder.0.join("topics");
    fs::write(&path, "of an earlier server").unwrap();
    fs::write(with_suffix(&path, ".new"), "of one that was killed").unwrap();
    write(&path, head(), [snapshot(now)].into_iter(), now).unwrap();
    assert_eq!(folder.names(), ["topics"]);
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    assert_eq!(messages(&take(&path, BOUNDS, now).unwrap().unwrap(), now).len(), 2);
    assert_eq!(folder.names(), [""; 0]);
    assert!(take(&path, BOUNDS, now).unwrap().is_none());
    let nowhere = folder.0.join("no/topics");
    assert_eq!(write(&nowhere, head(), std::iter::empty(), now).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_cannot_be_used_is_kept_aside() {
    let (folder, now) = (Folder::new("aside"), now());
    let path = folder.0.join("topics");
    let refused = || take(&path, BOUNDS, now).unwrap_err().to_string();
    fs::write(&path, "{}\n").unwrap();
    let error = refused();
    assert!(error.starts_with("line 1: ") && error.ends_with("topics.damaged"), "{error}");
    assert_eq!(fs::read(with_suffix(&path, ".damaged")).unwrap(), b"{}\n");
    fs::write(&path, "").unwrap();
    assert!(refused().starts_with("it is cut off at line 1; it is kept"));
    fs::remove_file(with_suffix(&path, ".damaged")).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().starts_with("not a file; it is kept"));
    assert_eq!(folder.names(), ["topics.damaged"]);
}

/// What a property needs of a file: a topic with messages and keys, each with its age in milliseconds.
#[derive(Debug, Clone)]
struct Described {
    last: u64,
    messages: Vec<(Message, u64)>,
    keys: Vec<(String, u64)>,
}

fn described() -> impl Strategy<Value = BTreeMap<String, Described>> {
    let message = prop_oneof![any::<String>().prop_map(Message::from), any::<Vec<u8>>().prop_map(Message::from)];
    let messages = prop::collection::vec((message, 0_u64..500_000), 0..5);
    let keys = prop::collection::btree_map(any::<String>(), 0_u64..200_000, 0..5).prop_map(|keys| {
        let keys = keys.into_iter().filter(|(key, _)| (1..=Keys::MAX_LEN).contains(&key.len()));
        let mut keys: Vec<_> = keys.collect();
        // The oldest first.
        keys.sort_by_key(|(_, age)| Reverse(*age));
        keys
    });
    let topic = (any::<u32>(), messages, keys).prop_map(|(before, mut messages, keys)| {
        messages.sort_by_key(|(_, age)| Reverse(*age));
        Described { last: u64::from(before) + messages.len() as u64 + 1, messages, keys }
    });
    let name = prop::collection::vec("[^\\p{Cc}*/]{1,20}", 1..4).prop_map(|parts| parts.join("/"));
    prop::collection::btree_map(name, topic, 0..4)
}

fn snapshots(topics: &BTreeMap<String, Described>, now: Now) -> Vec<Snapshot> {
    let before = |age: u64| now.instant.checked_sub(Duration::from_millis(age)).unwrap();
    let snapshot = |(name, topic): (&String, &Described)| {
        let first = topic.last + 1 - topic.messages.len() as u64;
        let entries = topic.messages.iter().zip(first..);
        let entry =
            |((message, age), offset): (&(Message, u64), u64)| Entry::new(offset, message.clone(), before(*age));
        Snapshot {
            name: name.parse().unwrap(),
            last: topic.last,
            entries: entries.map(|one| Arc::new(entry(one))).collect(),
            keys: topic.keys.iter().map(|(key, age)| (key.clone(), topic.last, before(*age))).collect(),
        }
    };
    topics.iter().map(snapshot).collect()
}

/// The same, of a file that was read.
fn found(contents: Contents, now: Now) -> BTreeMap<String, Described> {
    let age = |then: Instant| now.instant.saturating_duration_since(then).as_millis() as u64;
    let topic = |saved: Saved| {
        let messages = saved.history.iter().map(|entry| (entry.message.clone(), age(entry.published))).collect();
        let keys = saved.keys.iter().map(|(key, offset, noted)| {
            assert_eq!(offset, saved.history.last());
            (key.to_owned(), age(noted))
        });
        (saved.name.to_string(), Described { last: saved.history.last(), messages, keys: keys.collect() })
    };
    contents.topics.into_iter().map(topic).collect()
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(topics in described()) {
        let now = now();
        let bytes = written(snapshots(&topics, now), now);
        let found = found(read(&bytes[..], BOUNDS, now).unwrap(), now);
        prop_assert_eq!(format!("{found:?}"), format!("{topics:?}"));
    }

    #[test]
    fn nothing_is_used_of_a_file_with_another_byte_or_without_its_end(
        topics in described(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        let (folder, now) = (Folder::new("property"), now());
        let bytes = written(snapshots(&topics, now), now);
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        for damaged in [&changed[..], &bytes[..at]] {
            let path = folder.0.join("topics");
            fs::write(&path, damaged).unwrap();
            prop_assert!(take(&path, BOUNDS, now).is_err());
            prop_assert_eq!(fs::read(with_suffix(&path, ".damaged")).unwrap(), damaged);
            prop_assert!(take(&path, BOUNDS, now).unwrap().is_none());
        }
        // The control.
        fs::write(folder.0.join("topics"), &bytes).unwrap();
        prop_assert!(take(&folder.0.join("topics"), BOUNDS, now).is_ok_and(|contents| contents.is_some()));
    }
}

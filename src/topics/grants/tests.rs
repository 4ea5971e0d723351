//! What grants allow, and how they are read.

use proptest::prelude::*;

use super::*;
use crate::fuzz::{self, Mutation};

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn read(json: &str) -> Result<Grants, GrantsError> {
    Grants::from_json(json.as_bytes())
}

#[test]
fn from_json_reads_what_a_builder_makes() {
    let json = r#"{"sub":"alice","subscribe":["news","sensors/*"],"publish":["chat/*"],"exp":1790000000,"iat":"x"}"#;
    let grants = Grants::new()
        .for_user("alice")
        .unwrap()
        .allow_subscribe("news".parse().unwrap())
        .allow_subscribe("sensors/*".parse().unwrap())
        .allow_publish("chat/*".parse().unwrap())
        .expire_at(UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    assert_eq!(read(json), Ok(grants));
    assert_eq!(read("{}"), Ok(Grants::new()));
}

#[test]
fn what_is_not_granted_is_refused() {
    let grants = read(r#"{"sub":"alice","subscribe":["news","sensors/*"],"publish":["chat/*"]}"#).unwrap();
    for name in ["news", "sensors/kitchen", "sensors/a/b", "user/alice", "user/alice/inbox", "user/alice/a/b"] {
        assert!(grants.may_subscribe(&topic(name)), "{name}");
    }
    for name in ["new", "news/today", "sensors", "chat/a", "user", "user/bob", "user/alice2", "User/alice", "alice"] {
        assert!(!grants.may_subscribe(&topic(name)), "{name}");
    }
    assert!(grants.may_publish(&topic("chat/a")));
    for name in ["chat", "news", "sensors/kitchen", "user/alice"] {
        assert!(!grants.may_publish(&topic(name)), "{name}");
    }
    for name in ["user", "user/alice", "news"] {
        assert!(!Grants::new().may_subscribe(&topic(name)) && !Grants::new().may_publish(&topic(name)), "{name}");
    }
}

#[test]
fn for_user_refuses_names_that_reach_into_the_topics_of_others() {
    for name in ["a", "Zoë", "a b", "auth0|5f7c", "alice@example.org", "..", &"a".repeat(256)] {
        assert_eq!(Grants::new().for_user(name).unwrap().user(), Some(name));
    }
    for name in ["", "a/b", "/", "a/", "*", "a*", "a\nb", "a\0", "a\u{85}", &"a".repeat(257)] {
        assert!(matches!(Grants::new().for_user(name), Err(GrantsError::InvalidUser { .. })), "{name:?}");
    }
}

#[test]
fn from_json_names_the_member_that_is_wrong() {
    let patterns = |count: usize| format!("{{\"publish\":[{}\"a\"]}}", "\"a\",".repeat(count - 1));
    let wrong_type = |member, expected| GrantsError::WrongType { member, expected };
    for (json, error) in [
        ("", GrantsError::NotJson),
        ("[]", GrantsError::NotAnObject),
        (r#"{"sub":1}"#, wrong_type("sub", "a text")),
        (r#"{"sub":null}"#, wrong_type("sub", "a text")),
        (r#"{"sub":["a"]}"#, wrong_type("sub", "a text")),
        (r#"{"subscribe":"news"}"#, wrong_type("subscribe", "a list of texts")),
        (r#"{"subscribe":{"0":"news"}}"#, wrong_type("subscribe", "a list of texts")),
        (r#"{"publish":["a",1]}"#, wrong_type("publish", "a list of texts")),
        (r#"{"publish":[["a"]]}"#, wrong_type("publish", "a list of texts")),
        (r#"{"publish":null}"#, wrong_type("publish", "a list of texts")),
        (r#"{"exp":"1790000000"}"#, wrong_type("exp", "a number of seconds")),
        (r#"{"exp":true}"#, wrong_type("exp", "a number of seconds")),
        (r#"{"exp":-1}"#, GrantsError::InvalidDate { member: "exp" }),
        (r#"{"exp":253402300800}"#, GrantsError::InvalidDate { member: "exp" }),
        (r#"{"exp":1e300}"#, GrantsError::InvalidDate { member: "exp" }),
        (r#"{"exp":1,"exp":2}"#, GrantsError::Duplicate { member: "exp" }),
        (r#"{"sub":"a","sub":"b"}"#, GrantsError::Duplicate { member: "sub" }),
        (r#"{"subscribe":[],"subscribe":["*"]}"#, GrantsError::Duplicate { member: "subscribe" }),
        (r#"{"publish":[],"pub\u006cish":["*"]}"#, GrantsError::Duplicate { member: "publish" }),
        (&patterns(101), GrantsError::TooMany { member: "publish" }),
        (
            r#"{"subscribe":["news","a*"]}"#,
            GrantsError::InvalidPattern { member: "subscribe", index: 1, why: InvalidTopic::Forbidden('*') },
        ),
    ] {
        assert_eq!(read(json), Err(error), "{json}");
    }
    assert_eq!(read(&patterns(100)).unwrap().publish().len(), 100);
    assert_eq!(read(&format!("{{}}{}", " ".repeat(Grants::MAX_JSON - 1))), Err(GrantsError::TooLong));
    assert_eq!(read(&format!("{{}}{}", " ".repeat(Grants::MAX_JSON - 2))), Ok(Grants::new()));
    let error = read(r#"{"publish":["secret","b//"]}"#).unwrap_err().to_string();
    let expected = "item 1 of \"publish\" in the grants is no pattern of topics: the name of a topic, or a part of it, \
                    is empty";
    assert_eq!(error, expected);
}

#[test]
fn remaining_counts_down_to_zero() {
    let at = |seconds| UNIX_EPOCH + Duration::from_millis(seconds);
    let grants = read(r#"{"exp":100.5}"#).unwrap();
    assert_eq!(grants.expires(), Some(at(100_500)));
    assert_eq!(grants.remaining(at(100_000)), Some(Duration::from_millis(500)));
    assert_eq!(grants.remaining(at(100_500)), Some(Duration::ZERO));
    assert_eq!(grants.remaining(at(200_000)), Some(Duration::ZERO));
    assert_eq!(Grants::new().remaining(at(0)), None);
}

#[test]
fn fuzz_from_json_takes_no_more_than_is_allowed() {
    let json = br#"{"sub":"al","subscribe":["a","b/*"],"publish":["*"],"exp":9e9,"x":[{"a":null}]}"#;
    fuzz::check(&Mutation::some(br#"{}[]",:/*\0x1e.subscribe"#), |mutations| {
        let mut json = json.to_vec();
        mutations.iter().for_each(|mutation| mutation.apply(&mut json));
        if let Ok(grants) = Grants::from_json(&json) {
            if let Some(user) = grants.user() {
                prop_assert!(Grants::new().for_user(user).is_ok(), "{user:?}");
            }
            prop_assert!(grants.subscribe().len() <= Grants::MAX_PATTERNS);
        }
        Ok(())
    });
}

//! JSON objects that come from others: the header of a token, its claims, and the answers of a service.
//!
//! Invariants: nothing is kept but the members that are asked for, and of a list at most one item more than is allowed.
//! Nothing is kept that is nested more deeply than a list of strings, so the depth of the JSON costs no stack. A member
//! that is asked for and comes twice is an error: of two readers, one might take the first and one the last.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most items that a list may have.
pub(super) const MAX_ITEMS: usize = 100;

/// The value of a member.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(f64),
    /// The first items, up to one more than [`MAX_ITEMS`]. `None` stands for one that is not a text.
    List(Vec<Option<String>>),
    /// `null`, a truth value, or an object.
    Other,
}

/// Why JSON is not an object with these members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectError {
    NotJson,
    NotAnObject,
    /// A member comes twice.
    Duplicate(&'static str),
}

/// The values of the members with these names, where there are any. All others are ignored.
pub(super) fn read<const N: usize>(json: &[u8], names: [&'static str; N]) -> Result<[Option<Value>; N], ObjectError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let object = deserializer.deserialize_map(Object { names }).and_then(|object| {
        deserializer.end()?;
        Ok(object)
    });
    object.map_err(|error| if error.is_data() { ObjectError::NotAnObject } else { ObjectError::NotJson })?
}

struct Object<const N: usize> {
    names: [&'static str; N],
}

impl<'de, const N: usize> Visitor<'de> for Object<N> {
    type Value = Result<[Option<Value>; N], ObjectError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { None }; N];
        let mut duplicate = None;
        while let Some(name) = map.next_key::<String>()? {
            match self.names.iter().position(|wanted| *wanted == name) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(at) => {
                    let value = map.next_value_seed(ValueReader { takes_lists: true })?;
                    if values[at].replace(value).is_some() {
                        duplicate = Some(self.names[at]);
                    }
                }
            }
        }
        Ok(duplicate.map_or(Ok(values), |name| Err(ObjectError::Duplicate(name))))
    }
}

/// Reads any value, and keeps what can be of use.
struct ValueReader {
    /// Whether the items of a list are kept. Not for a list within another.
    takes_lists: bool,
}

impl<'de> DeserializeSeed<'de> for ValueReader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while self.takes_lists && items.len() <= MAX_ITEMS {
            match list.next_element_seed(Self { takes_lists: false })? {
                Some(Value::Text(text)) => items.push(Some(text)),
                Some(_) => items.push(None),
                None => return Ok(Value::List(items)),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(if self.takes_lists { Value::List(items) } else { Value::Other })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(json: &str) -> Result<Option<Value>, ObjectError> {
        read(json.as_bytes(), ["a"]).map(|[value]| value)
    }

    #[test]
    fn a_value_is_kept_by_its_type() {
        let text = |text: &str| Some(text.to_owned());
        for (json, value) in [
            (r#"{}"#, None),
            (r#"{"b":1,"A":2}"#, None),
            (r#"{"b":[{"a":1}],"a":"x","c":null}"#, Some(Value::Text("x".into()))),
            (r#" {"\u0061" : "\n\u00e9" } "#, Some(Value::Text("\né".into()))),
            (r#"{"a":-1.5}"#, Some(Value::Number(-1.5))),
            (r#"{"a":18446744073709551615}"#, Some(Value::Number(u64::MAX as f64))),
            (
                r#"{"a":["x",1,["y"],{},null,"z"]}"#,
                Some(Value::List(vec![text("x"), None, None, None, None, text("z")])),
            ),
            (r#"{"a":{"a":{"a":1,"a":2}}}"#, Some(Value::Other)),
            (r#"{"a":null}"#, Some(Value::Other)),
            (r#"{"a":true}"#, Some(Value::Other)),
        ] {
            assert_eq!(a(json), Ok(value), "{json}");
        }
    }

    #[test]
    fn what_is_no_object_or_has_a_member_twice_is_refused() {
        for (json, error) in [
            ("", ObjectError::NotJson),
            ("{", ObjectError::NotJson),
            (r#"{"a":1}}"#, ObjectError::NotJson),
            (r#"{"a":1}{"a":1}"#, ObjectError::NotJson),
            (r#"{"a":1,}"#, ObjectError::NotJson),
            (r#"{'a':1}"#, ObjectError::NotJson),
            (r#"{"a":NaN}"#, ObjectError::NotJson),
            (r#"{"a":1e999}"#, ObjectError::NotJson),
            (r#"{"a":"\ud800"}"#, ObjectError::NotJson),
            ("[]", ObjectError::NotAnObject),
            (r#""a""#, ObjectError::NotAnObject),
            ("null", ObjectError::NotAnObject),
            (r#"{"a":1,"a":1}"#, ObjectError::Duplicate("a")),
            (r#"{"a":1,"b":[],"\u0061":null}"#, ObjectError::Duplicate("a")),
        ] {
            assert_eq!(a(json), Err(error), "{json}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}", ["a"]), Err(ObjectError::NotJson));
        assert!(a(r#"{"b":1,"b":2}"#).is_ok(), "a member that nobody asks for may come twice");
    }

    #[test]
    fn neither_depth_nor_length_costs_anything() {
        let deep = |name: &str| format!("{{\"{name}\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
        // As deep as a thread's stack might not be.
        assert_eq!(a(&deep("b")), Ok(None));
        assert!(matches!(a(&deep("a")), Ok(Some(Value::List(items))) if items == [None]));
        let long = format!("{{\"a\":[{}\"\"]}}", "\"\",".repeat(10_000));
        assert!(matches!(a(&long), Ok(Some(Value::List(items))) if items.len() == MAX_ITEMS + 1));
    }
}

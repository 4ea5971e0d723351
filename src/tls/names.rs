//! A distinguished name as text (RFC 4514), as far as its attributes have names there or in daily use.

use std::fmt::Write;

use super::der::{self, Der, Value};

/// Attribute types by their object identifiers. The last two are not in RFC 4514; openssl and nginx write them so.
const TYPES: [(&[u8], &str); 11] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// The text of a `Name`, given what is in its sequence: the last of its parts first. `None` if it is not one.
pub(super) fn to_text(name: Der<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for set in name.values() {
        let mut attributes = Vec::new();
        for attribute in (set.tag == der::SET).then(|| Der::new(set.content))?.values() {
            let mut fields = Der::new(attribute.content);
            attributes.push(attribute_text(fields.next_if(der::OID)?, fields.next()?));
        }
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute_text(oid: &[u8], value: Value<'_>) -> String {
    let name = TYPES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    match (name, string(value)) {
        (Some(name), Some(text)) => format!("{name}={}", escaped(&text)),
        // As section 2.4 has it: the whole value, in hexadecimal digits.
        (name, _) => {
            let mut text = format!("{}=#{:02x}", name.map_or_else(|| dotted(oid), str::to_owned), value.tag);
            let length = value.content.len();
            match length {
                0..0x80 => _ = write!(text, "{length:02x}"),
                0x80..0x100 => _ = write!(text, "81{length:02x}"),
                _ => {
                    let bytes = length.to_be_bytes();
                    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
                    let _ = write!(text, "{:02x}", 0x80 | bytes.len());
                    bytes.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
                }
            }
            value.content.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
            text
        }
    }
}

/// The characters of a string, if it is of a type whose characters are known.
fn string(value: Value<'_>) -> Option<String> {
    match value.tag {
        der::UTF8_STRING => String::from_utf8(value.content.to_vec()).ok(),
        der::PRINTABLE_STRING | der::IA5_STRING if value.content.is_ascii() => {
            String::from_utf8(value.content.to_vec()).ok()
        }
        der::BMP_STRING if value.content.len().is_multiple_of(2) => {
            let units = value.content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// Section 2.4: what has a meaning in the text is escaped, so that no value can pose as another attribute. So are
/// controls, which would end a line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, char) in text.chars().enumerate() {
        match char {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', char]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            char if char.is_control() => {
                let mut bytes = [0; 4];
                char.encode_utf8(&mut bytes).bytes().for_each(|byte| _ = write!(out, "\\{byte:02x}"));
            }
            char => out.push(char),
        }
    }
    out
}

fn dotted(oid: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match numbers.is_empty() {
                true => numbers.extend([(number / 40).min(2), number - (number / 40).min(2) * 40]),
                false => numbers.push(number),
            }
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match content.len() {
            short @ 0..0x80 => bytes.push(u8::try_from(short).unwrap()),
            long => {
                bytes.push(0x82);
                bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        bytes.extend(content);
        bytes
    }

    fn attribute(oid: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        value(der::SEQUENCE, &[value(der::OID, oid), value(tag, text)].concat())
    }

    fn text(sets: &[&[Vec<u8>]]) -> Option<String> {
        let name: Vec<u8> = sets.iter().flat_map(|set| value(der::SET, &set.concat())).collect();
        to_text(Der::new(&name))
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    #[test]
    fn the_last_part_comes_first_and_parts_of_one_set_stay_together() {
        let device = [attribute(CN, der::UTF8_STRING, "Gerät 7".as_bytes()), attribute(O, der::PRINTABLE_STRING, b"x")];
        let country = [attribute(&[0x55, 4, 6], der::PRINTABLE_STRING, b"DE")];
        let component = [attribute(TYPES[7].0, der::IA5_STRING, b"example")];
        assert_eq!(text(&[&country, &component, &device]).unwrap(), "CN=Gerät 7+O=x,DC=example,C=DE");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn no_value_can_pose_as_another_attribute_or_end_the_line() {
        for (given, shown) in [
            ("device,O=admin", "CN=device\\,O=admin"),
            ("a+b;c<d>e\"f\\g", "CN=a\\+b\\;c\\<d\\>e\\\"f\\\\g"),
            (" #x ", "CN=\\ #x\\ "),
            ("#x", "CN=\\#x"),
            (" ", "CN=\\ "),
            ("a\r\nb\0c\u{85}", "CN=a\\0d\\0ab\\00c\\c2\\85"),
            ("", "CN="),
        ] {
            assert_eq!(text(&[&[attribute(CN, der::UTF8_STRING, given.as_bytes())]]).unwrap(), shown);
        }
    }

    #[test]
    fn other_types_and_strings_are_hexadecimal() {
        assert_eq!(
            text(&[&[attribute(&[0x2a, 0x86, 0x48, 1], der::UTF8_STRING, b"hi")]]).unwrap(),
            "1.2.840.1=#0c026869"
        );
        assert_eq!(text(&[&[attribute(CN, der::UTF8_STRING, &[0xff])]]).unwrap(), "CN=#0c01ff");
        assert_eq!(text(&[&[attribute(CN, 0x14, b"t")]]).unwrap(), "CN=#140174");
        assert_eq!(text(&[&[attribute(CN, der::BMP_STRING, &[0, b'h', 0x20, 0xac])]]).unwrap(), "CN=h€");
        assert!(text(&[&[attribute(CN, 0x14, &[0; 300])]]).unwrap().starts_with("CN=#1482012c0000"));
    }
}

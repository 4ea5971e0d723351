//! Reading DER (X.690), as much of it as certificates need. What is not well-formed ends the reading, and never more.

/// Values that follow one another.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

/// One value: its tag, and what it contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
}

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The tag of an optional field: `[number]`, with further values in it.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The tag of a choice: `[number]`, with bytes in it.
pub(super) const fn choice(number: u8) -> u8 {
    0x80 | number
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next value. `None` at the end, and where no value is.
    pub(super) fn next(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags above 30 take further bytes. Certificates have none.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Value { tag, content })
    }

    /// The content of the next value, if it has this tag. Otherwise nothing is read.
    pub(super) fn next_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut rest = *self;
        let value = rest.next().filter(|value| value.tag == tag)?;
        *self = rest;
        Some(value.content)
    }

    /// The values in the next value, if it has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.next_if(tag).map(Self)
    }

    /// All values, to the end or to where none is.
    pub(super) fn values(mut self) -> impl Iterator<Item = Value<'a>> {
        std::iter::from_fn(move || self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_to_the_end_and_not_beyond() {
        let mut der = Der::new(&[4, 2, 7, 8, 0x30, 0x81, 3, 1, 1, 0xff, 5]);
        assert_eq!(der.next_if(SEQUENCE), None);
        assert_eq!(der.next(), Some(Value { tag: OCTET_STRING, content: &[7, 8] }));
        assert_eq!(der.enter(SEQUENCE).unwrap().next_if(BOOLEAN), Some(&[0xff][..]));
        assert_eq!(der.next(), None);
    }

    #[test]
    fn what_is_no_value_is_none() {
        let broken: [&[u8]; 8] = [
            &[],
            &[4],
            &[4, 1],
            &[4, 0x80],
            &[4, 0x85, 0, 0, 0, 0, 1, 7],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff, 7],
            &[0x1f, 1, 7],
            &[4, 0x82, 1],
        ];
        for bytes in broken {
            assert_eq!(Der::new(bytes).next(), None, "{bytes:?}");
        }
    }
}

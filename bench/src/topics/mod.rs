//! The load of servers with topics: subscribers that count every message, and publishers that wait for them.
//!
//! All servers have the same: a few threads that wait by epoll for all subscribers, and one for the publishers. What
//! differs between servers is what they are told and what they say, which [`dialect`] knows.

pub(crate) mod board;
pub(crate) mod crowd;
pub(crate) mod dialect;
mod line;
pub(crate) mod publisher;
pub(crate) mod steady;
mod subscriber;
pub(crate) mod watch;

/// The topic that all are subscribed to.
pub(crate) const TOPIC: &str = "bench";

/// Bytes of each message.
pub(crate) const PAYLOAD: usize = 20;
const DIGITS: usize = 16;
const REST: &[u8; PAYLOAD - DIGITS] = b"wire";

/// The message of a number.
pub(crate) fn payload(number: u64) -> [u8; PAYLOAD] {
    let mut payload = [b'0'; PAYLOAD];
    let mut left = number;
    for digit in payload[..DIGITS].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    payload[DIGITS..].copy_from_slice(REST);
    payload
}

/// The number of a message. `None` if it is none of ours.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    let (digits, rest) = payload.split_at_checked(DIGITS)?;
    let is_ours = rest == REST && digits.iter().all(u8::is_ascii_digit);
    is_ours.then(|| digits.iter().fold(0_u64, |number, digit| 10 * number + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_number_and_nothing_else() {
        for of in [0, 7, 1_234_567_890_123_456] {
            assert_eq!(number(&payload(of)), Some(of));
        }
        for other in
            [&b"0000000000000007wira"[..], b"000000000000000xwire", b"0000000000000007", b"0000000000000007wire "]
        {
            assert_eq!(number(other), None);
        }
    }
}

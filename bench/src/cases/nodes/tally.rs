//! What became of messages: which came to a subscriber, when, in which order, and who was told of the others.

use std::time::Duration;

use crate::topics::steady::Sent;
use crate::topics::watch::Record;

/// A message that comes after this is late.
pub(super) const IN_TIME: Duration = Duration::from_secs(1);

/// Sums over all subscribers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) in_time: u64,
    pub(super) late: u64,
    /// Of those that never came: the publisher was not told that it is published, or the subscriber was told afterwards
    /// that some are lost.
    pub(super) lost_told: u64,
    pub(super) lost_silently: u64,
    /// Times that a message came again.
    pub(super) again: u64,
    /// Messages that came after one that was published when their publisher had the answer.
    pub(super) out_of_order: u64,
    /// Of those that came.
    pub(super) latest: Duration,
}

impl Tally {
    pub(super) fn of(sent: &[Sent], records: &[Record]) -> Self {
        let mut tally = Self::default();
        for record in records {
            tally.add(sent, record);
        }
        tally
    }

    fn add(&mut self, sent: &[Sent], record: &Record) {
        let mut came = vec![None; sent.len()];
        let mut newest = None::<usize>;
        for &(number, at) in &record.arrivals {
            let first = &mut came[number as usize];
            if first.is_some() {
                self.again += 1;
                continue;
            }
            *first = Some(at);
            let accepted = sent[number as usize].accepted;
            if newest.zip(accepted).is_some_and(|(newest, accepted)| sent[newest].due >= accepted) {
                self.out_of_order += 1;
            }
            newest = newest.max(Some(number as usize));
        }
        for (message, came) in sent.iter().zip(came) {
            match came.map(|at| at.saturating_duration_since(message.due)) {
                Some(after) => {
                    *(if after <= IN_TIME { &mut self.in_time } else { &mut self.late }) += 1;
                    self.latest = self.latest.max(after);
                }
                None if message.accepted.is_none() || record.told.iter().any(|told| *told >= message.due) => {
                    self.lost_told += 1;
                }
                None => self.lost_silently += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Messages 0 to 4, one a second. All but the last were accepted after half a second.
    fn sent(begin: Instant) -> Vec<Sent> {
        let sent = |number| {
            let due = begin + Duration::from_secs(number);
            Sent { due, accepted: (number < 4).then(|| due + Duration::from_millis(500)) }
        };
        (0..5).map(sent).collect()
    }

    fn tally(arrivals: &[(u64, f64)], told: &[f64]) -> Tally {
        let begin = Instant::now();
        let at = |seconds: &f64| begin + Duration::from_secs_f64(*seconds);
        let arrivals = arrivals.iter().map(|(number, seconds)| (*number, at(seconds))).collect();
        let record = Record { arrivals, told: told.iter().map(at).collect(), ..Record::default() };
        Tally::of(&sent(begin), &[record])
    }

    #[test]
    fn each_message_is_in_time_late_or_lost() {
        let got = tally(&[(0, 0.5), (1, 1.0), (2, 5.5)], &[]);
        let latest = Duration::from_secs_f64(3.5);
        let wanted = Tally { in_time: 2, late: 1, lost_told: 1, lost_silently: 1, latest, ..Tally::default() };
        assert_eq!(got, wanted);
    }

    #[test]
    fn a_subscriber_is_told_of_what_was_lost_before() {
        let got = tally(&[(0, 0.0)], &[2.5]);
        assert_eq!((got.in_time, got.lost_told, got.lost_silently), (1, 3, 1));
    }

    #[test]
    fn a_message_counts_once_and_in_its_order() {
        let got = tally(&[(0, 0.0), (2, 2.0), (1, 2.1), (2, 2.2), (3, 3.0), (4, 4.0)], &[]);
        assert_eq!((got.in_time, got.late, got.again, got.out_of_order), (4, 1, 1, 1));
    }

    #[test]
    fn messages_that_are_under_way_together_have_no_order() {
        let got = tally(&[(0, 0.0), (1, 1.0), (4, 4.0), (3, 4.1), (2, 4.2)], &[]);
        assert_eq!(got.out_of_order, 2);
        let begin = Instant::now();
        let sent = [0, 1].map(|_| Sent { due: begin, accepted: Some(begin + Duration::from_secs(1)) });
        let record = Record { arrivals: vec![(1, begin), (0, begin)], ..Record::default() };
        assert_eq!(Tally::of(&sent, &[record]).out_of_order, 0);
    }
}

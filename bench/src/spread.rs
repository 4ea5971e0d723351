//! A median and how far it is to be believed.

/// A median with an interval that holds the true one, the median of endlessly many rounds.
///
/// The ends are two of the values themselves, as the sign test has it. That assumes nothing of their distribution, only
/// that the rounds are independent: Le Boudec, Performance Evaluation of Computer and Communication Systems, chapter 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How probably the interval holds the true median: at least 0.95, or, with fewer than six values, what all of them
    /// together reach.
    pub(crate) coverage: f64,
}

impl Spread {
    pub(crate) const WANTED: f64 = 0.95;

    /// `None` without a value that is a number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let median = f64::midpoint(sorted[last / 2], sorted[last - last / 2]);
        let (left_out, coverage) = order_interval(sorted.len());
        Some(Self { median, low: sorted[left_out], high: sorted[last - left_out], coverage })
    }

    pub(crate) fn is_single(&self) -> bool {
        self.coverage == 0.0
    }
}

/// What an interval with this coverage is called.
pub(crate) fn interval_name(coverage: f64) -> String {
    if coverage >= Spread::WANTED { "95 % interval".into() } else { format!("range, {:.0} %", coverage * 100.0) }
}

/// How many values at either end of so many the narrowest symmetric interval leaves out, and its coverage.
fn order_interval(count: usize) -> (usize, f64) {
    // Each value is below the true median with probability 1/2. The interval misses if at most `left_out` of them are,
    // or at most as many above: twice the lower tail of a binomial distribution. By logarithms, lest 2^-n be zero.
    let mut log_term = -(count as f64) * 2_f64.ln();
    let mut tail = log_term.exp();
    let mut found = (0, 1.0 - 2.0 * tail);
    for left_out in 1..count.div_ceil(2) {
        log_term += ((count - left_out + 1) as f64 / left_out as f64).ln();
        tail += log_term.exp();
        let coverage = 1.0 - 2.0 * tail;
        if coverage < Spread::WANTED {
            break;
        }
        found = (left_out, coverage);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, low: 1.0, high: 3.0, coverage: 0.75 });
        assert_eq!(Spread::of(&[4.0, 1.0, f64::NAN]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[f64::NAN]), None);
        assert!(Spread::of(&[7.0]).unwrap().is_single());
    }

    /// By hand up to 6; above, those of published tables for the population median.
    #[test]
    fn intervals_are_those_of_the_tables() {
        for (count, left_out, coverage) in [
            (1, 0, 0.0),
            (2, 0, 0.5),
            (3, 0, 0.75),
            (4, 0, 0.875),
            (5, 0, 0.9375),
            (6, 0, 0.96875),
            (8, 0, 0.9922),
            (9, 1, 0.9609),
            (11, 1, 0.9883),
            (12, 2, 0.9614),
            (15, 3, 0.9648),
            (20, 5, 0.9586),
            (50, 17, 0.9672),
            (100, 39, 0.9648),
        ] {
            let (found_left_out, found_coverage) = order_interval(count);
            assert_eq!(found_left_out, left_out, "of {count}");
            assert!((found_coverage - coverage).abs() < 0.0001, "of {count}: {found_coverage}");
        }
        // 2^-2000 is no number of this machine; by the normal approximation 1000 - 1.96 * sqrt(2000) / 2.
        assert_eq!(order_interval(2000).0, 955);
    }

    /// Of many runs of nine rounds, 96.1 % have the true median in their interval, however skewed the rounds are.
    #[test]
    fn intervals_cover_what_they_say() {
        let mut state = 1_u64;
        let mut skewed = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            1.0 / uniform
        };
        const RUNS: usize = 20_000;
        let holds = (0..RUNS).filter(|_| {
            let rounds: Vec<f64> = (0..9).map(|_| skewed()).collect();
            let spread = Spread::of(&rounds).unwrap();
            // The median of 1 / u is 2.
            (spread.low..=spread.high).contains(&2.0)
        });
        let share = holds.count() as f64 / RUNS as f64;
        assert!((share - 0.9609).abs() < 0.006, "{share}");
    }
}

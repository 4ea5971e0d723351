//! Sets of moments: spans of time, and what can be said of several of them.

use std::time::{Duration, Instant};

/// From one moment to another.
pub(crate) type Span = (Instant, Instant);

/// Spans in their order that do not touch one another.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<Span>);

impl Times {
    /// All moments that are in one of the spans at least.
    pub(crate) fn union(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().filter(|(from, to)| from <= to).collect();
        spans.sort();
        let mut joined: Vec<Span> = Vec::new();
        for (from, to) in spans {
            match joined.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> {
        self.0.iter().copied()
    }

    /// What lies between them, from a moment to another.
    pub(crate) fn gaps(&self, (begun, to): Span) -> Self {
        let (mut gaps, mut from) = (Vec::new(), begun);
        for (begin, end) in self.iter().filter(|(_, end)| *end >= begun) {
            if begin > to {
                break;
            }
            if begin > from {
                gaps.push((from, begin));
            }
            from = end;
        }
        if from < to {
            gaps.push((from, to));
        }
        Self(gaps)
    }

    /// What they have of a span.
    pub(crate) fn within(&self, (from, to): Span) -> Self {
        let cut = self.iter().map(|(begin, end)| (begin.max(from), end.min(to)));
        Self(cut.filter(|(begin, end)| begin < end).collect())
    }

    pub(crate) fn has(&self, moment: Instant) -> bool {
        self.iter().any(|(from, to)| from <= moment && moment <= to)
    }

    /// How long they are together.
    pub(crate) fn length(&self) -> Duration {
        self.iter().map(|(from, to)| to - from).sum()
    }
}

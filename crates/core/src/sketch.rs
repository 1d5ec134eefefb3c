//! How long something takes: a histogram of durations, some of which are only known to be longer than what was seen.
//!
//! Buckets grow with the duration (64 to each doubling, so a value is known to 1.6 %) and are found by shifts alone: the
//! same durations give the same sketch on every machine, and two sketches are merged by adding. What was cut off enters
//! as a lower bound (Kaplan and Meier, H30): taken for a duration it would pull every deadline down, left out it would
//! too, as it is the slow ones that are cut.
//!
//! Rejected: a library for t-digests or DDSketch (none knows censored values; logarithms in floating point differ
//! between machines); keeping the durations themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Span;

/// How an observation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was done.
    Finished,
    /// It was cut off by us (a learned deadline, a cancel) or lost: it would have taken longer.
    Cut,
    /// It ran its whole configured time and was not done.
    Expired,
}

/// Counts by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    finished: BTreeMap<u16, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cut: BTreeMap<u16, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    expired: BTreeMap<u16, u32>,
    /// All of them, so that nobody has to sum up.
    #[serde(default)]
    count: u64,
}

/// Buckets to each doubling.
const STEPS: u64 = 64;
/// Of those that outlived the last one that finished, at least one in so many must have run its whole configured time
/// for the others to count as hung like them.
const WITNESSES: u64 = 5;

fn bucket(span: Span) -> u16 {
    let micros = u64::try_from(span.0).unwrap_or(0);
    if micros < STEPS {
        return u16::try_from(micros).unwrap_or(0);
    }
    let exponent = u64::from(micros.ilog2());
    let within = (micros >> (exponent - 6)) - STEPS;
    u16::try_from((exponent - 5) * STEPS + within).unwrap_or(u16::MAX)
}

/// The first duration of a bucket; that of the next one is the first beyond it.
fn first_of(bucket: u64) -> Span {
    if bucket < STEPS {
        return Span(i64::try_from(bucket).unwrap_or(0));
    }
    let (doublings, within) = (bucket / STEPS - 1, bucket % STEPS);
    Span(i64::try_from((STEPS + within).checked_shl(u32::try_from(doublings).unwrap_or(64)).unwrap_or(0)).unwrap_or(i64::MAX))
}

/// A quantile, known to lie between two durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantile {
    /// Not below.
    pub from: Span,
    /// Below.
    pub to: Span,
}

impl Sketch {
    /// One more.
    pub fn add(&mut self, took: Span, end: End) {
        let counts = match end {
            End::Finished => &mut self.finished,
            End::Cut => &mut self.cut,
            End::Expired => &mut self.expired,
        };
        let count = counts.entry(bucket(took)).or_insert(0);
        *count = count.saturating_add(1);
        self.count = self.count.saturating_add(1);
    }

    /// All of another, too.
    pub fn merge(&mut self, other: &Self) {
        let add = |to: &mut BTreeMap<u16, u32>, from: &BTreeMap<u16, u32>| {
            for (bucket, count) in from {
                let sum = to.entry(*bucket).or_insert(0);
                *sum = sum.saturating_add(*count);
            }
        };
        add(&mut self.finished, &other.finished);
        add(&mut self.cut, &other.cut);
        add(&mut self.expired, &other.expired);
        self.count = self.count.saturating_add(other.count);
    }

    /// How many it has seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them finished.
    pub fn finished(&self) -> u64 {
        sum(&self.finished)
    }

    /// Within what so large a part of those that finish at all have finished; `None` where what was seen does not reach
    /// so far.
    ///
    /// Those that hang for ever would keep every high quantile from being reached. They are left out as far as they are
    /// known to hang: some of those that outlived the last one that finished must have run their whole configured time.
    pub fn quantile(&self, part: f64) -> Option<Quantile> {
        let wanted = part * (1.0 - self.hung());
        let mut found = None;
        self.walk(|bucket, surviving| {
            if found.is_none() && 1.0 - surviving >= wanted - 1e-9 {
                found = Some(bucket);
            }
        });
        found.map(|b: u16| Quantile { from: first_of(u64::from(b)), to: first_of(u64::from(b) + 1) })
    }

    /// The part that never finishes, as far as that is known.
    fn hung(&self) -> f64 {
        let Some(last) = self.finished.keys().next_back().copied() else { return 1.0 };
        let expired: u64 = self.expired.range(last..).map(|(_, n)| u64::from(*n)).sum();
        let cut: u64 = self.cut.range(last..).map(|(_, n)| u64::from(*n)).sum();
        if expired == 0 || expired.saturating_mul(WITNESSES) < expired + cut {
            return 0.0;
        }
        let mut left = 1.0;
        self.walk(|_, surviving| left = surviving);
        left
    }

    /// The curve of Kaplan and Meier: after each bucket in which something finished, the part that is not done yet.
    #[allow(clippy::cast_precision_loss)] // counts of a window are small
    fn walk(&self, mut at: impl FnMut(u16, f64)) {
        let mut at_risk = self.count();
        let mut surviving = 1.0;
        let mut former = 0;
        for (bucket, done) in &self.finished {
            // What was cut off in the bucket itself counts as having outlived it.
            at_risk = at_risk.saturating_sub(between(&self.cut, former, *bucket) + between(&self.expired, former, *bucket));
            former = *bucket;
            surviving *= 1.0 - u64::from(*done) as f64 / at_risk.max(1) as f64;
            at_risk = at_risk.saturating_sub(u64::from(*done));
            at(*bucket, surviving);
        }
    }
}

fn sum(counts: &BTreeMap<u16, u32>) -> u64 {
    counts.values().map(|n| u64::from(*n)).sum()
}

fn between(counts: &BTreeMap<u16, u32>, from: u16, to: u16) -> u64 {
    counts.range(from..to.max(from)).map(|(_, n)| u64::from(*n)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(values: impl IntoIterator<Item = (i64, End)>) -> Sketch {
        let mut sketch = Sketch::default();
        values.into_iter().for_each(|(millis, end)| sketch.add(Span::millis(millis), end));
        sketch
    }

    #[test]
    fn a_bucket_holds_what_is_put_into_it() {
        for micros in (0..200).chain([1_000, 63_999, 1_000_000, 86_400_000_000, i64::MAX / 2]) {
            let b = u64::from(bucket(Span(micros)));
            let (from, to) = (first_of(b), first_of(b + 1));
            assert!(from.0 <= micros && micros < to.0, "{micros}: {from:?} {to:?}");
            assert!(micros < 128 || (to.0 - from.0) * 64 <= from.0, "{micros}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let sketch = filled((1..=1000).map(|n| (n, End::Finished)));
        for (part, millis) in [(0.5, 500), (0.95, 950), (0.99, 990), (0.995, 995)] {
            let found = sketch.quantile(part).unwrap();
            assert!(found.from <= Span::millis(millis) && Span::millis(millis) < found.to, "{part}: {found:?}");
        }
    }

    #[test]
    fn sketches_merge_in_any_order() {
        let a = filled((1..50).map(|n| (n * 7, End::Finished)));
        let b = filled((1..50).map(|n| (n * 11, if n % 3 == 0 { End::Cut } else { End::Finished })));
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(&b);
        ba.merge(&a);
        assert_eq!(ab, ba);
        assert_eq!(ab.count(), 98);
        let text = serde_json::to_string(&ab).unwrap();
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), ab);
    }

    #[test]
    fn h30_what_was_cut_off_is_a_lower_bound() {
        // Durations 1 … 100; whatever is longer than 80 is cut off there.
        let cut = filled((1..=100).map(|n| if n > 80 { (80, End::Cut) } else { (n, End::Finished) }));
        let median = cut.quantile(0.5).unwrap();
        assert!(median.from <= Span::millis(50) && Span::millis(50) < median.to, "{median:?}");
        assert_eq!(cut.quantile(0.9), None, "what was seen does not reach so far");
        // By those that were cut off early nothing is known of the end: the others stand for them.
        let early = filled((1..=100).map(|n| (n, End::Finished)).chain((0..50).map(|_| (1, End::Cut))));
        let median = early.quantile(0.5).unwrap();
        assert!(median.from <= Span::millis(51) && Span::millis(49) < median.to, "{median:?}");
    }

    #[test]
    fn what_is_known_to_hang_hides_no_quantile() {
        let hung = |witnesses: usize, cut: usize| {
            let done = (1..=95).map(|n| (n, End::Finished));
            let full = std::iter::repeat_n((60_000, End::Expired), witnesses);
            filled(done.chain(full).chain(std::iter::repeat_n((200, End::Cut), cut)))
        };
        assert!(hung(5, 0).quantile(0.99).is_some());
        assert!(hung(1, 4).quantile(0.99).is_some());
        assert_eq!(hung(1, 5).quantile(0.99), None, "too few have shown that they never finish");
        assert_eq!(hung(0, 5).quantile(0.99), None);
        assert_eq!(filled([(60_000, End::Expired)]).quantile(0.5), None, "nothing has ever finished");
    }
}

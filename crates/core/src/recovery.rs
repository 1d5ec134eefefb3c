//! When what waits on a cluster is tried before its time: the cluster is seen to be well again.
//!
//! The pauses between tries grow to minutes, so that a cluster in trouble is left alone; what waits must not sit them out
//! once the trouble is over. Two things tell of that: a health test that is good after bad ones, and a release that
//! succeeds after it had been owed. Trouble that no test sees (a broker that takes nothing while the API answers) would
//! never be told by the second if everybody paused, so of those to whom something is owed a few at a time try ahead of
//! their pauses. Rejected: shorter pauses for all, which a thousand owed rows would turn into a load.

use std::collections::BTreeSet;

use crate::id::RequestId;
use crate::time::Span;

/// So many requests try ahead of their pauses in one round.
pub const SCOUTS: usize = 4;
/// So many rounds in a row everything is tried: a call that was under way when the trouble ended may still fail by it.
const ROUNDS: u32 = 4;
/// What waits is tried so many a second, all of it within half a minute.
const A_SECOND: usize = 64;
const SPREAD_AT_MOST: i64 = 30;

/// What is to be tried now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Nothing ahead of its time.
    Nothing,
    /// These.
    These(BTreeSet<RequestId>),
    /// Everything that waits on the cluster.
    All,
}

/// What the watch over a cluster remembers from one round to the next.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    sick: bool,
    rounds: u32,
    scouts: BTreeSet<RequestId>,
    last: Option<RequestId>,
}

impl Recovery {
    /// Of a cluster that was well, or not, when it was last looked at.
    pub fn new(well: bool) -> Self {
        Self { sick: !well, ..Self::default() }
    }

    /// Takes in a round: whether its test was good, and the requests to which it owes a clean-up.
    pub fn round(&mut self, well: bool, owing: &BTreeSet<RequestId>) -> Wake {
        let taken_back = self.scouts.iter().any(|scout| !owing.contains(scout));
        if (self.sick && well) || taken_back {
            self.rounds = ROUNDS;
        } else if !well && !self.sick {
            self.rounds = 0;
        }
        self.sick = !well;
        self.scouts.clear();
        if self.rounds > 0 {
            self.rounds -= 1;
            return Wake::All;
        }
        let after = owing.iter().filter(|id| self.last.is_none_or(|last| **id > last));
        let around = after.chain(owing.iter()).take(SCOUTS.min(owing.len()));
        let mut last = self.last;
        self.scouts = around.inspect(|id| last = Some(**id)).copied().collect();
        self.last = last;
        if self.scouts.is_empty() { Wake::Nothing } else { Wake::These(self.scouts.clone()) }
    }
}

/// How long the `index`-th of those that are woken together waits still; `fraction` is chance from 0 to 1.
#[allow(clippy::cast_possible_truncation)]
pub fn spread(index: usize, fraction: f64) -> Span {
    let second = i64::try_from(index / A_SECOND).unwrap_or(SPREAD_AT_MOST).min(SPREAD_AT_MOST);
    Span::seconds(second).plus(Span((fraction * 1_000_000.0) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SplitMix;
    use crate::time::Timestamp;

    fn ids(count: usize) -> Vec<RequestId> {
        let mut chance = SplitMix::new(1);
        let mut ids: Vec<RequestId> = (0..count).map(|_| RequestId::new(Timestamp(0), &mut chance)).collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_good_test_after_bad_ones_wakes_all_and_what_was_under_way_too() {
        let (mut recovery, none) = (Recovery::new(true), BTreeSet::new());
        assert_eq!(recovery.round(true, &none), Wake::Nothing);
        assert_eq!(recovery.round(false, &none), Wake::Nothing);
        assert_eq!(recovery.round(false, &none), Wake::Nothing);
        for _ in 0..ROUNDS {
            assert_eq!(recovery.round(true, &none), Wake::All);
        }
        assert_eq!(recovery.round(true, &none), Wake::Nothing);
        // A process that takes the watch over knows what the one before it saw.
        assert_eq!(Recovery::new(false).round(true, &none), Wake::All);
        // Sick once more: nothing is woken until it is well.
        recovery.round(false, &none);
        assert_eq!(recovery.round(true, &none), Wake::All);
        assert_eq!(recovery.round(false, &none), Wake::Nothing);
    }

    #[test]
    fn a_few_try_ahead_in_turn_and_the_first_that_succeeds_wakes_all() {
        let (mut recovery, all) = (Recovery::new(true), ids(10));
        let mut owing: BTreeSet<RequestId> = all.iter().copied().collect();
        let mut tried = BTreeSet::new();
        for _ in 0..3 {
            let Wake::These(scouts) = recovery.round(true, &owing) else { panic!("nobody tries") };
            assert_eq!(scouts.len(), SCOUTS);
            tried.extend(scouts);
        }
        assert_eq!(tried.len(), 10, "each has its turn");
        let scout = *recovery.scouts.iter().next().unwrap();
        owing.remove(&scout);
        assert_eq!(recovery.round(true, &owing), Wake::All);
        // What is taken back by itself tells nothing: everything is tried at present anyhow.
        owing.pop_first();
        for _ in 1..ROUNDS {
            assert_eq!(recovery.round(true, &owing), Wake::All);
        }
        let one: BTreeSet<RequestId> = owing.into_iter().take(1).collect();
        for _ in 0..3 {
            assert_eq!(recovery.round(false, &one), Wake::These(one.clone()), "a sick one, too");
        }
    }

    #[test]
    fn many_are_spread_and_all_within_half_a_minute() {
        assert_eq!((spread(0, 0.0), spread(63, 0.5)), (Span::ZERO, Span::millis(500)));
        assert_eq!(spread(640, 0.25), Span::millis(10_250));
        assert_eq!(spread(1_000_000, 0.0), Span::seconds(30));
    }
}

//! The budget of extra launches (H31): a token bucket on each cluster, so that hedges, and races that nobody asked for,
//! never add more than a few percent to what a cluster has to do anyway.
//!
//! Whole numbers, in millionths of a launch, so that both databases count alike. It fills with the work itself and
//! needs no clock: a cluster that gets no first attempts gets no hedges either.

use crate::run::{Attempt, Role, Run};

/// One launch.
pub const LAUNCH: i64 = 1_000_000;
/// As much as it holds; it starts full.
pub const FULL: i64 = 10 * LAUNCH;

/// What each first attempt adds, from the setting in percent.
#[allow(clippy::cast_possible_truncation)]
fn earned(percent: f64) -> i64 {
    (percent.clamp(0.0, 100.0) * 10_000.0).round() as i64
}

/// What an attempt changes in its cluster's budget at its start. Failover, and a race that was asked for, draw nothing.
pub fn change(run: &Run, attempt: &Attempt) -> i64 {
    match attempt.role {
        Role::First => earned(attempt.settings.extra_launch_budget_percent),
        role if run.draws_on_budget(role) => -LAUNCH,
        _ => 0,
    }
}

/// The budget after a change: never below nothing, never above [`FULL`].
pub fn after(budget: i64, change: i64) -> i64 {
    budget.saturating_add(change).clamp(0, FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h31_twenty_first_attempts_pay_for_one_more_launch() {
        let mut budget = 0;
        for _ in 0..20 {
            assert!(budget < LAUNCH);
            budget = after(budget, earned(5.0));
        }
        assert_eq!(budget, LAUNCH);
        assert_eq!(after(after(budget, -LAUNCH), -LAUNCH), 0, "never in debt");
        assert_eq!(after(FULL, earned(5.0)), FULL, "never more than it holds");
        assert_eq!((earned(0.0), earned(-1.0), earned(f64::NAN), earned(1e9)), (0, 0, 0, LAUNCH));
    }
}

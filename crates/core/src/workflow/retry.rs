//! Back-off between tries (SPEC 3.2).

use crate::chance::Chance;
use crate::cluster::Retry;
use crate::time::Span;

/// The pause before retry number `retry` (from 1): `initial × factor^(retry − 1)`, at most `cap`, with a
/// jitter of a quarter either way so that many that failed together do not come back together.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
pub fn backoff(policy: &Retry, retry: u32, chance: &mut dyn Chance) -> Span {
    let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX).min(64);
    let base = (policy.initial.0 as f64 * policy.factor.powi(exponent)).min(policy.cap.0 as f64);
    Span((base * (0.75 + 0.5 * chance.fraction())).min(policy.cap.0 as f64) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SplitMix;

    #[test]
    fn pauses_double_up_to_the_cap_with_jitter() {
        let policy = Retry { initial: Span::seconds(5), factor: 2.0, cap: Span::seconds(300), max_retries: 3 };
        let mut chance = SplitMix::new(3);
        for (retry, seconds) in [(1, 5.0), (2, 10.0), (3, 20.0), (4, 40.0), (20, 300.0)] {
            let pause = backoff(&policy, retry, &mut chance).as_seconds_f64();
            assert!(pause >= seconds * 0.75 - 1e-6 && pause <= (seconds * 1.25).min(300.0), "{retry}: {pause}");
        }
    }
}

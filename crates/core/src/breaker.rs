//! The circuit breaker of a cluster (SPEC 6.3, H27): a fold over how calls to it ended.
//!
//! It opens when enough calls of the last while have failed, and at least half of all: a few failures among many good
//! calls are weather, not sickness. Open, it lets nothing through for a time, then one call alone to see: done, it
//! closes; failed, it opens again. Only what says that the backend is sick counts (transient, ambiguous, no answer);
//! whoever asks for what a backend refuses opens nothing.
//!
//! Rejected: failures in a row, which a busy cluster with one good call in ten never has; one breaker a process, whose
//! neighbours each go on until they have seen for themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::{Class, Failure};
use crate::id::TenantId;
use crate::time::{Span, Timestamp};

/// When it opens, and for how long (`settings.breaker`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Failures that open it, if they are half of all calls.
    pub failures: u64,
    /// Calls of so long are looked at.
    pub window: Span,
    /// Nothing is let through for so long.
    pub open: Span,
}

impl Default for Policy {
    fn default() -> Self {
        Self { failures: 10, window: Span::seconds(60), open: Span::seconds(30) }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Calls are let through.
    #[default]
    Closed,
    /// None is until then.
    Open {
        /// From then on one is, to see.
        until: Timestamp,
    },
    /// One is under way, to see.
    HalfOpen {
        /// It has its answer by then, or another may try.
        until: Timestamp,
    },
}

impl State {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

/// Calls that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Well, or in a way that says nothing against the backend.
    pub good: u64,
    /// In a way that does.
    pub bad: u64,
}

impl Calls {
    fn plus(self, other: Self) -> Self {
        Self { good: self.good.saturating_add(other.good), bad: self.bad.saturating_add(other.bad) }
    }
}

/// The breaker of one cluster, as all workers share it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// How it stands.
    #[serde(flatten)]
    pub state: State,
    /// The calls of the half window that is running, and of the one before.
    #[serde(default)]
    now: Calls,
    #[serde(default)]
    before: Calls,
    #[serde(default)]
    since: Timestamp,
    /// How often it has opened.
    #[serde(default)]
    pub opened: u64,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Go,
    /// It may as the one that sees how the backend is, if nobody else is that by now.
    Probe,
    /// Not before then.
    NotBefore(Timestamp),
}

/// Whether a failure says that the backend is sick.
pub fn counts(failure: &Failure) -> bool {
    matches!(failure.class, Class::Transient | Class::Ambiguous)
}

impl Breaker {
    /// Whether a call may be made now.
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        match self.state {
            State::Closed => Verdict::Go,
            State::Open { until } | State::HalfOpen { until } if now < until => Verdict::NotBefore(until),
            State::Open { .. } | State::HalfOpen { .. } => Verdict::Probe,
        }
    }

    /// Takes in calls that ended; true when it opens by them. What was under way when it opened says nothing more.
    pub fn note(&mut self, calls: Calls, policy: Policy, now: Timestamp) -> bool {
        if self.state != State::Closed {
            return false;
        }
        let half = Span(policy.window.0 / 2);
        let passed = now.since(self.since);
        if passed >= half {
            self.before = if passed < half.plus(half) { self.now } else { Calls::default() };
            self.now = Calls::default();
            self.since = now;
        }
        self.now = self.now.plus(calls);
        let all = self.now.plus(self.before);
        let opens = all.bad >= policy.failures && all.bad >= all.good;
        if opens {
            self.open(policy, now);
        }
        opens
    }

    fn open(&mut self, policy: Policy, now: Timestamp) {
        let state = State::Open { until: now.plus(policy.open) };
        *self = Self { state, opened: self.opened.saturating_add(1), since: now, ..Self::default() };
    }

    /// One call is let through to see how the backend is; false when it is not the time, or another one is.
    pub fn begin_probe(&mut self, within: Span, now: Timestamp) -> bool {
        let may = self.verdict(now) == Verdict::Probe;
        if may {
            self.state = State::HalfOpen { until: now.plus(within) };
        }
        may
    }

    /// It could be tried for so long by now, and nobody has: there is no work for the cluster that would.
    pub fn is_untried(&self, now: Timestamp) -> bool {
        match self.state {
            State::Closed => false,
            State::Open { until } | State::HalfOpen { until } => now.since(until) >= UNTRIED,
        }
    }

    /// That call has ended.
    pub fn end_probe(&mut self, good: bool, policy: Policy, now: Timestamp) {
        match self.state {
            State::HalfOpen { .. } if good => {
                *self = Self { state: State::Closed, opened: self.opened, since: now, ..Self::default() };
            }
            State::HalfOpen { .. } => self.open(policy, now),
            _ => {}
        }
    }
}

/// Why nothing is called on a cluster although it is there: its credentials are refused (H29).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// The backend's words.
    pub error: String,
}

/// What holds a cluster's calls back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gate {
    /// Its breaker.
    pub breaker: Breaker,
    /// Whether it is paused.
    pub paused: Option<Pause>,
    /// Tenants of which so many calls wait for a slot that more would only stand in line, with when to ask again; known
    /// to this process alone (H28).
    pub full: BTreeMap<TenantId, Timestamp>,
}

/// A call that is not made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Worth asking again then.
    pub until: Timestamp,
    /// What the request waits for: `cluster_health` or `capacity`.
    pub reason: &'static str,
    /// In words.
    pub detail: String,
    /// Only so long as the operation's own deadline (H27).
    pub by_breaker: bool,
}

/// Whoever waits for a cluster tries it within this.
const UNTRIED: Span = Span::seconds(10);
/// A paused cluster is looked at again after this.
const PAUSED_AGAIN: Span = Span::seconds(15);
/// What only makes more work waits this long longer than what takes work away (H27).
const AFTER_UNDO: Span = Span::millis(500);

impl Gate {
    /// Why nothing new may be placed there.
    pub fn closed_to_new(&self) -> Option<String> {
        if let Some(paused) = &self.paused {
            return Some(format!("is paused: {}", paused.error));
        }
        match self.breaker.state {
            State::Closed => None,
            State::Open { .. } => Some("its circuit breaker is open: too many calls have failed".to_owned()),
            State::HalfOpen { .. } => Some("its circuit breaker is half open".to_owned()),
        }
    }

    /// Whether a call of a tenant is held back now. `urgent`: it takes something back or stops it, and goes first.
    pub fn holds(&self, tenant: TenantId, urgent: bool, now: Timestamp) -> Option<Held> {
        let held = |until, reason, detail, by_breaker| Some(Held { until, reason, detail, by_breaker });
        if let Some(paused) = &self.paused {
            let detail = format!("the cluster is paused, its credentials are refused: {}", paused.error);
            return held(now.plus(PAUSED_AGAIN), "cluster_health", detail, false);
        }
        if let State::Open { until } | State::HalfOpen { until } = self.breaker.state {
            let until = if urgent { until } else { until.plus(AFTER_UNDO) };
            if now < until {
                let detail = format!("the cluster's circuit breaker is {}", self.breaker.state.name().replace('_', " "));
                return held(until, "cluster_health", detail, true);
            }
        }
        let full = self.full.get(&tenant).filter(|until| now < **until && !urgent)?;
        held(*full, "capacity", "the cluster has as many calls in flight as it may".to_owned(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { failures: 4, window: Span::seconds(10), open: Span::seconds(30) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_800_000_000_000_000).plus(Span::seconds(seconds))
    }

    fn calls(good: u64, bad: u64) -> Calls {
        Calls { good, bad }
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(breaker.note(calls(0, 4), POLICY, at(0)));
        breaker
    }

    #[test]
    fn h27_enough_failures_in_a_window_open_it_when_they_are_half_of_all() {
        let mut breaker = Breaker::default();
        assert!(!breaker.note(calls(0, 3), POLICY, at(0)));
        assert!(breaker.note(calls(0, 1), POLICY, at(6)), "in the halves of one window");
        let mut slow = Breaker::default();
        for second in 0..20 {
            assert!(!slow.note(calls(0, 1), POLICY, at(second * 5)), "never four within ten seconds");
        }
        let mut weather = Breaker::default();
        for second in 0..20 {
            assert!(!weather.note(calls(5, 4), POLICY, at(second)), "four of nine");
        }
        assert!(weather.note(calls(0, 50), POLICY, at(20)));
    }

    #[test]
    fn h27_one_call_alone_sees_whether_it_may_close() {
        let mut breaker = opened();
        assert_eq!(breaker.verdict(at(29)), Verdict::NotBefore(at(30)));
        assert!(!breaker.begin_probe(Span::seconds(5), at(29)));
        assert!(breaker.begin_probe(Span::seconds(5), at(30)));
        assert!(!breaker.begin_probe(Span::seconds(5), at(31)), "one at a time");
        assert_eq!(breaker.verdict(at(31)), Verdict::NotBefore(at(35)));
        let mut failed = breaker;
        failed.end_probe(false, POLICY, at(32));
        assert_eq!((failed.verdict(at(32)), failed.opened), (Verdict::NotBefore(at(62)), 2));
        breaker.end_probe(true, POLICY, at(32));
        assert_eq!((breaker.verdict(at(32)), breaker.opened), (Verdict::Go, 1));
        assert!(!breaker.note(calls(0, 3), POLICY, at(33)), "it counts from nothing");
    }

    #[test]
    fn h27_a_probe_whose_worker_died_is_followed_by_another() {
        let mut breaker = opened();
        assert!(breaker.begin_probe(Span::seconds(5), at(30)));
        assert!(breaker.begin_probe(Span::seconds(5), at(35)));
    }

    #[test]
    fn h27_what_ends_while_it_is_open_changes_nothing() {
        let mut breaker = opened();
        let before = breaker;
        assert!(!breaker.note(calls(100, 100), POLICY, at(5)));
        breaker.end_probe(true, POLICY, at(5));
        assert_eq!(breaker, before);
    }

    #[test]
    fn h27_only_what_says_that_the_backend_is_sick_counts() {
        let counted = [Class::Transient, Class::Ambiguous, Class::Permanent, Class::Capacity, Class::Throttled, Class::Auth]
            .map(|class| counts(&Failure::new(class, "x", "y")));
        assert_eq!(counted, [true, true, false, false, false, false]);
    }

    #[test]
    fn h27_undo_goes_first_when_it_half_opens() {
        let gate = Gate { breaker: opened(), ..Gate::default() };
        let tenant = TenantId::new(at(0), &mut crate::chance::SplitMix::new(1));
        assert!(gate.holds(tenant, true, at(29)).is_some_and(|h| h.by_breaker && h.reason == "cluster_health"));
        assert_eq!(gate.holds(tenant, true, at(30)), None);
        assert!(gate.holds(tenant, false, at(30)).is_some());
        assert_eq!(gate.holds(tenant, false, at(31)), None);
        assert!(gate.closed_to_new().is_some(), "nothing is placed there before it is closed");
    }

    #[test]
    fn h27_where_nobody_waits_the_background_probe_tries() {
        let breaker = opened();
        assert!(!breaker.is_untried(at(39)) && breaker.is_untried(at(40)));
        assert!(!Breaker::default().is_untried(at(1000)));
    }

    #[test]
    fn it_survives_its_text() {
        for breaker in [Breaker::default(), opened()] {
            let text = serde_json::to_string(&breaker).unwrap();
            assert_eq!(serde_json::from_str::<Breaker>(&text).unwrap(), breaker, "{text}");
        }
        assert_eq!(serde_json::from_str::<Breaker>(r#"{"state":"closed"}"#).unwrap(), Breaker::default());
    }
}

//! Which attempt starts beside or after which (SPEC 3.4): single, failover, race, hedge.
//!
//! A further attempt is asked for by [`Directive::launch`](super::Directive) and placed in the same transaction. One
//! beside another is an extra: where it finds no room or no budget the request goes on without it and says so, while a
//! failover that finds no place is the end. So race and hedge are never worse than failover. Rejected: waiting for room
//! for the second attempt of a race, which would keep a request from its first one.

use serde_json::json;

use super::pipeline::Place;
use super::{Attempt, AttemptState, Directive, Moment, Role, Run};
use crate::event::{Event, EventKind};
use crate::id::ClusterId;
use crate::spec::{Strategy, StrategyKind};
use crate::time::Timestamp;

impl Run {
    /// How it is tried: as the request says, else by the policy that held at its admission.
    pub fn strategy(&self) -> Strategy {
        self.spec.strategy.or(self.policy).unwrap_or_default().for_kind(self.spec.kind)
    }

    /// Whether an attempt of that role takes from its cluster's budget of extra launches: a hedge does, and a race that
    /// nobody asked for (H31).
    pub fn draws_on_budget(&self, role: Role) -> bool {
        role == Role::Hedge || (role == Role::Race && self.spec.strategy.is_none())
    }

    /// Clusters that have or had an attempt of it: the next one goes elsewhere.
    pub fn used_clusters(&self) -> Vec<ClusterId> {
        self.attempts.iter().map(|a| a.cluster).collect()
    }

    /// Those of them where none is at work any more. An attempt beside another may share its cluster where there is no
    /// other, but never goes where one has failed.
    pub fn failed_clusters(&self) -> Vec<ClusterId> {
        self.attempts.iter().filter(|a| a.state != AttemptState::Running).map(|a| a.cluster).collect()
    }

    /// The second attempt of its race is still to be started. It is, in the transaction that started the first.
    pub fn races(&self) -> bool {
        let only = if let [only] = self.attempts.as_slice() { Some(only) } else { None };
        let begins = |a: &Attempt| a.state == AttemptState::Running && a.asked_beside.is_none();
        self.strategy().kind == StrategyKind::Race && only.is_some_and(begins)
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.state == AttemptState::Running)
    }

    /// Were this attempt to fail, another would take over: the one beside it, or the next one on another cluster.
    pub(super) fn may_go_elsewhere(&self, place: Place) -> bool {
        let Place::Attempt(index) = place else { return false };
        let strategy = self.strategy();
        let may_follow = strategy.kind != StrategyKind::Single
            && self.attempts.len() < usize::try_from(strategy.max_attempts).unwrap_or(usize::MAX)
            && self.attempts.get(index).is_some_and(|a| a.others);
        may_follow || self.living().count() > 1
    }

    /// The further attempt that is wanted now. One that may be wanted later sets the time to wake.
    pub(super) fn further(&self, m: &Moment<'_>, d: &mut Directive) -> Option<Role> {
        let (strategy, used) = (self.strategy(), u32::try_from(self.attempts.len()).unwrap_or(u32::MAX));
        let stuck = self.error.as_ref().is_some_and(|e| e.code == "stuck");
        if !self.state.is_working() || used >= strategy.max_attempts || stuck {
            return None;
        }
        let mut living = self.living();
        let Some(first) = living.next() else {
            return (strategy.kind != StrategyKind::Single).then_some(Role::Failover);
        };
        if living.next().is_some() {
            return None;
        }
        match strategy.kind {
            StrategyKind::Race => self.races().then_some(Role::Race),
            StrategyKind::Hedge => {
                let at = self.hedge_at(first, m)?;
                if at > m.now {
                    d.wake(at);
                }
                (at <= m.now).then_some(Role::Hedge)
            }
            StrategyKind::Single | StrategyKind::Failover => None,
        }
    }

    /// When an attempt counts as slow: longer in its step than 95 of 100 are. Asked once for each step.
    fn hedge_at(&self, attempt: &Attempt, m: &Moment<'_>) -> Option<Timestamp> {
        let step = attempt.current_step();
        if attempt.asked_beside >= Some(step) {
            return None;
        }
        let started = attempt.steps.get(step.number()).and_then(|s| s.started_at)?;
        let recorded = m.known.deadlines.step(attempt.provider, attempt.cluster, step, &self.spec).map(|usual| usual.p95);
        // Why not before: after a downtime everything looks slow until it was asked once (H12).
        Some(started.plus(recorded.unwrap_or(attempt.settings.hedge_after)).max(self.progress.not_before))
    }

    /// A further attempt beside the one at work was placed, or could not be: either way it is not asked for again in
    /// this step.
    pub(super) fn asked_beside(&mut self) {
        for attempt in self.attempts.iter_mut().filter(|a| a.state == AttemptState::Running) {
            attempt.asked_beside = Some(attempt.current_step());
        }
    }

    /// No cluster has room for an attempt beside another, or the budget of extra launches is used up: the request goes
    /// on with the one that it has, and fails over should that fail.
    pub fn go_without(&mut self, role: Role, reason: &str, m: &mut Moment<'_>) {
        let (attempt, step) = self.leading().map(|a| (a.id, a.current_step())).unzip();
        self.asked_beside();
        let detail = json!({"role": role, "instead": StrategyKind::Failover, "reason": reason});
        let step = step.map(|s| s.name().to_owned());
        m.events.push(Event { step, attempt, detail, ..Event::new(EventKind::AttemptNotStarted) });
    }
}

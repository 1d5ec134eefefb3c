//! What is wanted of a service that stands, and the action that brings it there: suspend, reactivate, deprovision.
//!
//! The newest wish wins (H13), but nothing begins before the call in flight has ended. What fails changes no state
//! (H14): a suspend is tried again, a failed reactivate is stopped again and goes on showing its error.

use serde_json::json;

use super::{ActionRun, Directive, Moment, OperationStatus, Run, ServiceHealth, Stop, Wanted};
use crate::event::{Actor, Event, EventKind};
use crate::failure::{Class, Failure};
use crate::lifecycle::{Outcome, State};
use crate::time::Span;

/// A suspend that failed is tried again after this (H14).
const SUSPEND_AGAIN: Span = Span::seconds(900);
/// The reason of a deprovision by the end of a time to live.
const TTL_IS_OVER: &str = "its time to live is over";
/// One decision ends at most so many actions and begins the next: a suspend that was superseded, the reactivate after it.
const ACTIONS_AT_ONCE: usize = 4;

/// The code of an action that ended because another one was asked for.
const SUPERSEDED: &str = "superseded";

impl ActionRun {
    /// Something of it, or of what it stands for, may have been done.
    fn has_begun(&self) -> bool {
        self.halfway || self.operations.iter().any(|o| !o.tries.is_empty())
    }

    /// What its operations do now: the stop after a failed reactivate is a suspend.
    pub(super) fn does(&self) -> &str {
        if self.stop == Stop::Running { "suspend" } else { &self.name }
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.status == "running" || self.stop == Stop::Running
    }

    fn all(&self, status: OperationStatus) -> bool {
        self.operations.iter().all(|o| o.status == status)
    }

    /// The error of the operation that failed, if one did.
    fn failure(&self) -> Option<Failure> {
        let failed = self.operations.iter().find(|o| o.status == OperationStatus::Failed)?;
        let told = failed.refused.as_deref().or_else(|| failed.tries.last().and_then(|t| t.error.as_ref())).cloned();
        Some(told.unwrap_or_else(|| Failure::new(Class::Transient, "action_failed", "it failed")))
    }
}

impl Run {
    /// Brings a service that stands to what is wanted of it (H13).
    pub(super) fn pursue(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        self.check_ttl(m, d);
        // Why again: the end of one action may call for the next at once, as a failed reactivate does (H14).
        for _ in 0..ACTIONS_AT_ONCE {
            if !self.pursue_once(m, d) {
                return;
            }
        }
    }

    /// True when an action ended.
    fn pursue_once(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        if self.action.as_ref().is_some_and(|a| a.is_at_work() && !self.action_wanted(a.does())) {
            if self.action_in_flight(m) {
                return false;
            }
            self.give_up_action(m);
        }
        match (self.wanted, self.state) {
            (Wanted::Gone, _) => {
                self.outcome = Some(Outcome::Deprovisioned);
                self.start_action("deprovision", m);
                self.begin_rollback(m);
                false
            }
            (Wanted::Suspended, State::Completed) => self.pursue_action("suspend", m, d),
            (Wanted::Running, State::Suspended) => self.pursue_action("reactivate", m, d),
            (Wanted::Suspended, State::Suspended) if self.is_to_be_stopped() => self.stop_again(m, d),
            // What a wish that was taken back may have done is undone (H13).
            (Wanted::Suspended, State::Suspended) if self.is_halfway("reactivate", "suspend") => {
                self.pursue_action("suspend", m, d)
            }
            (Wanted::Running, State::Completed) if self.is_halfway("suspend", "reactivate") => {
                self.pursue_action("reactivate", m, d)
            }
            _ => false,
        }
    }

    fn action_in_flight(&self, m: &Moment<'_>) -> bool {
        let in_flight = |o: &super::Operation| o.status == OperationStatus::Running && o.generation == m.generation;
        self.action.as_ref().is_some_and(|a| a.operations.iter().any(in_flight))
    }

    fn check_ttl(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        let (Some(ttl), Some(ready)) = (self.spec.ttl_seconds, self.ready_at) else { return };
        let end = ready.plus(Span::from_seconds_f64(ttl));
        if m.now < end {
            d.wake(end);
            return;
        }
        if self.wanted != Wanted::Gone {
            self.wanted = Wanted::Gone;
            self.reason = Some(TTL_IS_OVER.to_owned());
        }
        // Also when a call had to end first: the reason says who ended it.
        if self.reason.as_deref() == Some(TTL_IS_OVER) {
            m.actor = Some(Actor::system("ttl"));
        }
    }

    pub(super) fn action_wanted(&self, name: &str) -> bool {
        matches!(
            (name, self.wanted),
            ("suspend", Wanted::Suspended) | ("reactivate", Wanted::Running) | ("deprovision", Wanted::Gone)
        )
    }

    /// `action` was given up after it had begun, or what undoes it has not succeeded yet.
    fn is_halfway(&self, action: &str, undoes: &str) -> bool {
        self.action.as_ref().is_some_and(|a| {
            let given_up = a.name == action && a.status == "failed" && a.has_begun() && a.stop != Stop::Done;
            given_up || (a.name == undoes && a.status != "succeeded")
        })
    }

    pub(super) fn start_action(&mut self, name: &str, m: &Moment<'_>) {
        let already = self.action.as_ref().is_some_and(|a| a.name == name && a.status == "running");
        if already {
            return;
        }
        let halfway = self.action.as_ref().is_some_and(|a| a.status != "succeeded" && a.has_begun());
        self.action = Some(ActionRun {
            name: name.to_owned(),
            status: "running".to_owned(),
            reason: self.reason.clone(),
            started_at: m.now,
            finished_at: None,
            error: None,
            operations: Vec::new(),
            next_at: None,
            halfway,
            stop: Stop::None,
        });
    }

    /// True when the action ended.
    fn pursue_action(&mut self, name: &str, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        let failed = self.action.as_ref().filter(|a| a.name == name && a.status == "failed").and_then(|a| a.next_at);
        if let Some(next) = failed.filter(|n| *n > m.now) {
            d.wake(next);
            return false;
        }
        self.start_action(name, m);
        let ended = self.work_on_action(m, d);
        let over = ended.is_some();
        if let Some(ended) = ended {
            self.end_action(ended.err(), m);
        }
        over
    }

    /// Plans it where that is still to be done and moves it on. What it came to, once it has ended.
    fn work_on_action(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> Option<Result<(), Failure>> {
        let name = self.action.as_ref()?.does().to_owned();
        if let Err(failure) = self.plan_action(&name, m) {
            return Some(Err(failure));
        }
        if self.action.as_ref()?.failure().is_none() {
            self.advance_action(m, d);
        }
        let action = self.action.as_ref()?;
        // It may have failed in this very decision: what is held back for too long fails without a call.
        match action.failure() {
            // No other action may begin before what is still under way for this one has ended (H13).
            Some(failure) => (!self.action_in_flight(m)).then_some(Err(failure)),
            None => action.all(OperationStatus::Succeeded).then_some(Ok(())),
        }
    }

    fn is_to_be_stopped(&self) -> bool {
        let failed = |a: &&ActionRun| a.name == "reactivate" && a.status == "failed" && a.stop != Stop::Done;
        let action = self.action.as_ref().filter(failed);
        action.is_some_and(|a| a.has_begun() && a.error.as_ref().is_none_or(|e| e.code != SUPERSEDED))
    }

    /// What a failed reactivate may have started is stopped again (H14). True when that is done.
    fn stop_again(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        let Some(action) = self.action.as_mut() else { return false };
        if let Some(next) = action.next_at.filter(|n| *n > m.now) {
            d.wake(next);
            return false;
        }
        if action.stop == Stop::None || action.next_at.take().is_some() {
            action.stop = Stop::Running;
            action.halfway = true;
            action.operations.clear();
        }
        let Some(ended) = self.work_on_action(m, d) else { return false };
        let Some(action) = self.action.as_mut() else { return false };
        match ended {
            Ok(()) => {
                action.stop = Stop::Done;
                self.health = None;
                true
            }
            Err(failure) => {
                let again = m.now.plus(SUSPEND_AGAIN);
                action.next_at = Some(again);
                d.wake(again);
                let detail = json!({"action": "suspend", "after": action.name});
                m.events.push(Event { error: Some(failure.clone()), detail, ..Event::new(EventKind::SuspendFailed) });
                self.health = Some(ServiceHealth { state: "degraded".to_owned(), detail: Some(failure.message), at: m.now });
                false
            }
        }
    }

    /// Another wish is newer. The question that a person was asked for it stands no more.
    fn give_up_action(&mut self, m: &mut Moment<'_>) {
        self.drop_question(m);
        let Some(action) = self.action.as_mut() else { return };
        if action.status == "running" {
            return self.end_action(Some(Failure::new(Class::Transient, SUPERSEDED, "another action was asked for")), m);
        }
        action.stop = Stop::None;
        action.next_at = None;
    }

    fn plan_action(&mut self, name: &str, m: &Moment<'_>) -> Result<(), Failure> {
        let Some(winner) = self.winner.and_then(|w| self.attempts.iter().find(|a| a.id == w)) else { return Ok(()) };
        let Some(action) = self.action.as_mut().filter(|a| a.operations.is_empty()) else { return Ok(()) };
        let plan = m.planner.plan_action(winner.cluster, name, &self.spec)?;
        action.operations = plan.operations.into_iter().map(|p| super::attempt::operation(p, &winner.settings)).collect();
        Ok(())
    }

    fn end_action(&mut self, error: Option<Failure>, m: &mut Moment<'_>) {
        let Some(action) = &mut self.action else { return };
        action.finished_at = Some(m.now);
        if error.is_none() { "succeeded" } else { "failed" }.clone_into(&mut action.status);
        action.error.clone_from(&error);
        let suspend = action.name == "suspend";
        let detail = json!({"action": action.name, "reason": action.reason});
        let superseded = error.as_ref().is_some_and(|e| e.code == SUPERSEDED);
        if suspend && error.is_some() && !superseded {
            action.next_at = Some(m.now.plus(SUSPEND_AGAIN));
        }
        if superseded {
            return;
        }
        let kind = match (suspend, error.is_none()) {
            (true, true) => EventKind::Suspended,
            (true, false) => EventKind::SuspendFailed,
            (false, true) => EventKind::Reactivated,
            (false, false) => EventKind::ReactivateFailed,
        };
        let mut event = Event { error: error.clone(), detail, ..Event::new(kind) };
        match error {
            None => {
                self.enter(if suspend { State::Suspended } else { State::Completed }, &mut event);
                self.health = None;
            }
            Some(e) => {
                self.health = Some(ServiceHealth { state: "degraded".to_owned(), detail: Some(e.message), at: m.now });
                if !suspend {
                    self.wanted = Wanted::Suspended;
                }
            }
        }
        m.events.push(event);
    }
}

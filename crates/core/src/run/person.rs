//! What only people know (SPEC 3.8, H17): the access details of a managed service, and that a vendor has suspended,
//! started or ended it.
//!
//! A question stands until its first answer; the same answer again is fine, another one is refused until it is asked
//! anew. Access details and confirmations are kept apart, so that a confirmation never loses what a customer needs.

use serde_json::json;

use super::attempt::done_event;
use super::pipeline::Place;
use super::{AttemptState, Confirmation, ManualInput, Moment, Operation, OperationStatus, Refusal, Run, Try};
use crate::event::{Event, EventKind};
use crate::failure::Failure;
use crate::lifecycle::{State, Step};
use crate::spec::Kind;

/// What is confirmed when a service is released.
const RELEASE: &str = "release";

impl ManualInput {
    /// Nothing but a yes.
    fn is_bare(&self) -> bool {
        self.endpoints.is_empty() && self.credentials.is_none()
    }

    fn is_same(&self, other: &Self) -> bool {
        let sealed = |i: &Self| i.credentials.as_ref().map(|c| c.fingerprint.clone());
        self.endpoints == other.endpoints && sealed(self) == sealed(other)
    }
}

impl Run {
    pub(super) fn take_input(&mut self, input: ManualInput, m: &mut Moment<'_>) -> Result<(), Refusal> {
        // H17: the first input wins; the same again gets the same answer.
        if let Some(asked) = &self.confirmation {
            return match &asked.given {
                None => {
                    self.take_confirmation(input, m);
                    Ok(())
                }
                Some(former) if former.is_same(&input) => Ok(()),
                Some(_) => self.refuse("take another manual input"),
            };
        }
        if let Some(former) = &self.manual_input {
            return if former.is_same(&input) { Ok(()) } else { self.refuse("take another manual input") };
        }
        let open = self.spec.kind == Kind::Managed && (self.state.is_working() || self.state == State::Queued);
        if !open {
            return self.refuse("take manual input");
        }
        if self.state == State::Verifying {
            for attempt in self.attempts.iter_mut().filter(|a| a.state == AttemptState::Running) {
                attempt.endpoints.clone_from(&input.endpoints);
                // What was verified by then was verified at another address.
                let verified = |o: &&mut Operation| o.planned.step == Step::Verify && o.status == OperationStatus::Succeeded;
                attempt.operations.iter_mut().filter(verified).for_each(|o| o.status = OperationStatus::Waiting);
            }
        }
        self.manual_input = Some(input);
        if self.awaits_person() {
            self.wait_for(None, m.now, m.events);
        }
        self.touch(m);
        Ok(())
    }

    /// The vendor has done it. New access details come with a reactivation where they have changed.
    fn take_confirmation(&mut self, input: ManualInput, m: &mut Moment<'_>) {
        let winner = self.winner.and_then(|w| self.attempt_index(w)).and_then(|i| self.attempts.get_mut(i));
        let restarted = self.confirmation.as_ref().is_some_and(|c| c.of == "reactivate");
        if let Some(winner) = winner.filter(|_| restarted && !input.is_bare()) {
            if !input.endpoints.is_empty() {
                winner.endpoints.clone_from(&input.endpoints);
            }
            let former = self.manual_input.take().and_then(|f| f.credentials);
            let credentials = input.credentials.clone().or(former);
            self.manual_input = Some(ManualInput { endpoints: winner.endpoints.clone(), credentials });
        }
        if let Some(asked) = self.confirmation.as_mut() {
            asked.given = Some(input);
        }
        self.wait_for(None, m.now, m.events);
        self.touch(m);
        self.conclude(m);
    }

    /// Asks for a confirmation that something was done at the vendor.
    fn ask_confirmation(&mut self, of: &str, m: &mut Moment<'_>) {
        self.drop_question(m);
        self.confirmation = Some(Box::new(Confirmation { of: of.to_owned(), given: None }));
        let done = match of {
            "suspend" => "has suspended it",
            "reactivate" => "has started it again",
            _ => "has ended it",
        };
        let text = format!("confirm by manual input that the vendor {done}");
        self.wait_for(Some(("manual_input", Some(text))), m.now, m.events);
        let (attempt, detail) = (self.winner, json!({"confirm": of}));
        m.events.push(Event { attempt, detail, ..Event::new(EventKind::InputRequired) });
    }

    /// What a person was asked is not asked any more.
    pub(super) fn drop_question(&mut self, m: &mut Moment<'_>) {
        if self.confirmation.take().is_some_and(|c| c.given.is_none()) {
            self.wait_for(None, m.now, m.events);
        }
    }

    /// The release of what a person set up waits for a person: nobody else sees that the vendor has ended it (H17).
    pub(super) fn awaits_release(&mut self, m: &mut Moment<'_>) -> bool {
        let by_hand = |o: &Operation| o.planned.awaits_input && o.status == OperationStatus::Succeeded;
        let handed_over = self.attempts.iter().flat_map(|a| &a.operations).any(by_hand);
        if self.state != State::RollingBack || !handed_over {
            return false;
        }
        if self.confirmation.as_ref().is_none_or(|c| c.of != RELEASE) {
            self.ask_confirmation(RELEASE, m);
        }
        self.confirmation.as_ref().is_none_or(|c| c.given.is_none())
    }

    /// H17: what verifies a service that a person set up waits for what that person is asked for anew.
    pub(super) fn asks_person(&self, place: Place, operation: &Operation) -> bool {
        matches!(place, Place::Attempt(_)) && operation.planned.step == Step::Verify && self.awaits_person()
    }

    /// An operation that a person does: nothing is called; it is done once the input is there (SPEC 3.8).
    pub(super) fn await_input(&mut self, place: Place, index: usize, m: &mut Moment<'_>) {
        let of = self.whose(place);
        let Some(operation) = self.operation_mut(place, index) else { return };
        let first = operation.tries.is_empty();
        if first {
            operation.tries.push(Try::begin(m.now));
        }
        let Some(input) = self.input_of(place, first, m) else { return };
        let Some(operation) = self.operation_mut(place, index) else { return };
        if let Some(last) = operation.tries.last_mut() {
            last.finished_at = Some(m.now);
        }
        operation.status = OperationStatus::Succeeded;
        m.events.push(done_event(operation, of.as_ref(), "succeeded"));
        if let Place::Attempt(index) = place
            && let Some(attempt) = self.attempts.get_mut(index)
        {
            attempt.endpoints = input.endpoints;
        }
        self.wait_for(None, m.now, m.events);
        self.touch(m);
    }

    /// What a person gave for an operation, which is asked for where it is not there yet.
    fn input_of(&mut self, place: Place, first: bool, m: &mut Moment<'_>) -> Option<ManualInput> {
        let Place::Attempt(index) = place else {
            if first {
                let of = self.action.as_ref().map(|a| a.does().to_owned())?;
                self.ask_confirmation(&of, m);
            }
            return self.confirmation.as_ref()?.given.clone();
        };
        if self.manual_input.is_none() && self.waiting.is_none() {
            let attempt = self.attempts.get(index).map(|a| a.id);
            self.wait_for(Some(("manual_input", None)), m.now, m.events);
            m.events.push(Event { attempt, ..Event::new(EventKind::InputRequired) });
        }
        self.manual_input.clone()
    }

    /// H17: a typo in what a person gave never rolls a vendor's service back; it is asked for again.
    pub(super) fn ask_person_again(&mut self, place: Place, index: usize, failure: &Failure, m: &mut Moment<'_>) -> bool {
        let Place::Attempt(attempt) = place else { return false };
        let verifies = |o: &Operation| o.planned.step == Step::Verify;
        if self.spec.kind != Kind::Managed || !self.operations(place).get(index).is_some_and(verifies) {
            return false;
        }
        if let Some(operation) = self.operation_mut(place, index) {
            operation.status = OperationStatus::Waiting;
            operation.next_at = None;
        }
        self.manual_input = None;
        if !self.awaits_person() {
            self.wait_for(Some(("manual_input", Some(failure.message.clone()))), m.now, m.events);
            let attempt = self.attempts.get(attempt).map(|a| a.id);
            let (step, error) = (failure.step.clone(), Some(failure.clone()));
            m.events.push(Event { step, attempt, error, ..Event::new(EventKind::InputRequired) });
        }
        true
    }
}

//! What people ask of a request, and the refusals by its state (API.md, HTTP).

use serde_json::json;

use super::{ManualInput, Moment, Run, Wanted};
use crate::event::{Event, EventKind};
use crate::failure::{Class, Failure};
use crate::id::{RequestId, ResourceId};
use crate::lifecycle::{Outcome, State};

/// One wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Take it back before it is completed.
    Cancel {
        /// Why.
        reason: Option<String>,
    },
    /// Stop the service, keeping everything.
    Suspend {
        /// Why.
        reason: Option<String>,
    },
    /// Start it again.
    Reactivate {
        /// Why.
        reason: Option<String>,
    },
    /// Release a completed service.
    Deprovision {
        /// Why.
        reason: Option<String>,
        /// Also when others still stand on it (H24).
        force: bool,
    },
    /// The access details of a managed service.
    ManualInput(ManualInput),
    /// Close clean-up that is owed without proof (H8).
    WriteOff {
        /// Which rows.
        resources: Vec<ResourceId>,
        /// Why.
        reason: String,
    },
    /// A prerequisite ended otherwise (by Provisor itself).
    DependencyEnded {
        /// Which one.
        prerequisite: RequestId,
    },
    /// It waited longer than it may (by Provisor itself, H16).
    QueueTimeout,
    /// Nothing can ever take it any more (by Provisor itself).
    Unplaceable {
        /// Cluster and reason.
        rejected: Vec<(String, String)>,
    },
}

/// The state does not allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The state.
    pub state: State,
    /// What it allows.
    pub allowed: Vec<&'static str>,
    /// A sentence for people.
    pub detail: String,
}

impl Run {
    /// Takes a wish in: 'so already' and 'under way' are fine, all else is refused by state.
    pub fn command(&mut self, command: Command, m: &mut Moment<'_>) -> Result<(), Refusal> {
        match command {
            Command::Cancel { reason } => self.cancel(reason, m),
            Command::Suspend { reason } => self.want(Wanted::Suspended, "suspend", reason, m),
            Command::Reactivate { reason } => self.want(Wanted::Running, "reactivate", reason, m),
            Command::Deprovision { reason, .. } => self.deprovision(reason, m),
            Command::ManualInput(input) => self.take_input(input, m),
            Command::WriteOff { resources, reason } => self.write_off_owed(&resources, &reason, m),
            Command::DependencyEnded { prerequisite } => {
                let text = format!("its prerequisite {prerequisite} ended without completing");
                self.fail_queued(Failure::new(Class::Permanent, "dependency_failed", text), m)
            }
            Command::QueueTimeout => {
                let limit = self.spec.queue_timeout_seconds.unwrap_or_default();
                let text = format!("it waited longer than its queue_timeout_seconds of {limit}");
                self.fail_queued(Failure::new(Class::Capacity, "queue_timeout", text), m)
            }
            Command::Unplaceable { rejected } => self.fail_queued(super::attempt::no_room(&rejected), m),
        }
    }

    pub(super) fn refuse<T>(&self, what: &str) -> Result<T, Refusal> {
        // `gone` is final (H13): the state still allows what the request does not any more.
        let leaving = self.state.is_standing() && self.wanted == Wanted::Gone;
        let allowed = if leaving { vec!["deprovision"] } else { self.state.allowed_actions().to_vec() };
        let hint = if what == "cancel" && self.state.is_standing() { "; use deprovision" } else { "" };
        let name = if leaving { "being deprovisioned" } else { self.state.name() };
        let detail = format!("a request that is {name} cannot be asked to {what}{hint}");
        Err(Refusal { state: self.state, allowed, detail })
    }

    fn cancel(&mut self, reason: Option<String>, m: &mut Moment<'_>) -> Result<(), Refusal> {
        match self.state {
            State::RollingBack | State::RolledBack if self.outcome == Some(Outcome::Cancelled) => return Ok(()),
            State::Queued | State::PendingApproval => {}
            s if s.is_working() => {}
            _ => return self.refuse("cancel"),
        }
        self.outcome = Some(Outcome::Cancelled);
        let detail = json!({"reason": reason});
        self.reason = reason;
        m.events.push(Event { actor: m.actor.clone(), detail, ..Event::new(EventKind::CancelRequested) });
        self.begin_rollback(m);
        self.conclude(m);
        Ok(())
    }

    fn want(&mut self, wanted: Wanted, name: &str, reason: Option<String>, m: &mut Moment<'_>) -> Result<(), Refusal> {
        if !self.state.is_standing() || self.wanted == Wanted::Gone {
            return self.refuse(name);
        }
        if self.wanted == wanted {
            // Asked again after a failure it is tried at once.
            if self.action.as_ref().is_some_and(|a| a.name == name && a.status == "failed") {
                self.show_action(name, m);
            }
            // So is the stop after a reactivate that failed.
            if let Some(action) = self.action.as_mut().filter(|a| a.does() == name && a.next_at.is_some()) {
                action.next_at = Some(m.now);
            }
            return Ok(());
        }
        self.wanted = wanted;
        self.note_action(name, reason, m);
        self.show_action(name, m);
        Ok(())
    }

    /// What was accepted shows at once as the running action, unless another one must end first (H13).
    fn show_action(&mut self, name: &str, m: &Moment<'_>) {
        let needed =
            matches!((name, self.state), ("suspend", State::Completed) | ("reactivate", State::Suspended) | ("deprovision", _));
        if needed && self.action.as_ref().is_none_or(|a| !a.is_at_work()) {
            self.start_action(name, m);
        }
    }

    fn note_action(&mut self, name: &str, reason: Option<String>, m: &mut Moment<'_>) {
        let detail = json!({"action": name, "reason": reason});
        self.reason = reason;
        m.events.push(Event { actor: m.actor.clone(), detail, ..Event::new(EventKind::ActionRequested) });
    }

    fn deprovision(&mut self, reason: Option<String>, m: &mut Moment<'_>) -> Result<(), Refusal> {
        match self.state {
            State::RollingBack | State::RolledBack if self.ready_at.is_some() => Ok(()),
            s if s.is_standing() => {
                if self.wanted != Wanted::Gone {
                    self.wanted = Wanted::Gone;
                    self.note_action("deprovision", reason, m);
                    self.show_action("deprovision", m);
                }
                Ok(())
            }
            _ => self.refuse("deprovision"),
        }
    }

    fn write_off_owed(&mut self, resources: &[ResourceId], reason: &str, m: &mut Moment<'_>) -> Result<(), Refusal> {
        let owed = |id: &ResourceId| self.owed().any(|r| r.id == *id) || self.ledger.iter().any(|r| r.id == *id && r.written_off);
        if let Some(wrong) = resources.iter().find(|id| !owed(id)) {
            let detail = format!("{wrong} is not clean-up that this request owes");
            return Err(Refusal { state: self.state, allowed: self.state.allowed_actions().to_vec(), detail });
        }
        self.write_off(resources, reason, m);
        self.conclude(m);
        Ok(())
    }

    fn fail_queued(&mut self, mut failure: Failure, m: &mut Moment<'_>) -> Result<(), Refusal> {
        if self.state != State::Queued {
            return self.refuse("fail in the queue");
        }
        failure.at = Some(m.now);
        self.give_up(failure, m);
        self.conclude(m);
        Ok(())
    }
}

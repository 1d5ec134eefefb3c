//! A cluster is well again: what waits on it because of a failure is tried now, and not at the end of its pause.
//!
//! The retries that were used stay used. A pause that the backend itself has asked for is kept.

use super::{Operation, OperationStatus, Run};
use crate::breaker;
use crate::failure::Failure;
use crate::id::ClusterId;
use crate::time::{Span, Timestamp};

fn of_trouble(failure: &Failure) -> bool {
    breaker::counts(failure) && failure.retry_after.is_none()
}

/// What comes within this time anyhow is left as it is.
const SOON: Span = Span::seconds(1);

fn sooner(next: &mut Option<Timestamp>, at: Timestamp) -> bool {
    let later = next.is_some_and(|next| next > at.plus(SOON));
    if later {
        *next = Some(at);
    }
    later
}

impl Operation {
    fn waits_for_trouble(&self) -> bool {
        let waits = matches!(self.status, OperationStatus::Waiting | OperationStatus::Looking);
        waits && self.tries.last().and_then(|t| t.error.as_ref()).is_some_and(of_trouble)
    }
}

impl Run {
    /// Brings what waits on a cluster because of a failure forward to `at`. True when something was to wait longer.
    pub fn cluster_is_back(&mut self, cluster: ClusterId, at: Timestamp) -> bool {
        let mut changed = false;
        let rows = self.ledger.iter_mut().filter(|r| r.cluster == cluster && !r.is_closed() && r.busy.is_none());
        for row in rows.filter(|r| r.last_error.as_ref().is_some_and(of_trouble)) {
            changed |= sooner(&mut row.next_at, at);
        }
        let here: Vec<_> = self.attempts.iter().filter(|a| a.cluster == cluster).map(|a| a.id).collect();
        let attempts = self.attempts.iter_mut().filter(|a| a.cluster == cluster);
        let mut operations: Vec<&mut Operation> = attempts.flat_map(|a| &mut a.operations).collect();
        if let Some(action) = self.action.as_mut().filter(|_| self.winner.is_some_and(|w| here.contains(&w))) {
            if action.error.as_ref().is_some_and(of_trouble) {
                changed |= sooner(&mut action.next_at, at);
            }
            operations.extend(&mut action.operations);
        }
        for operation in operations.into_iter().filter(|o| o.waits_for_trouble()) {
            changed |= sooner(&mut operation.next_at, at);
        }
        changed
    }
}

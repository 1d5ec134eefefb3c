//! A small model of the store: one request's row, with its lease. A differential test in the store's crate plays the same
//! commands to this and to the real operations and compares what both keep.

use provisor_core::run::{Command, Directive, OperationStatus, Role};
use provisor_core::workflow::Answer;
use provisor_core::{Run, Span, State, Timestamp};

use crate::desk::Desk;

/// A request's row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The document.
    pub run: Run,
    /// Who holds the lease.
    pub worker: Option<usize>,
    /// The fencing token.
    pub generation: i64,
    /// When somebody should look at it; the end of the lease while it is held.
    pub due: Timestamp,
    /// A command came while a worker held it.
    pub attention: bool,
}

/// What a claim or a settlement brought.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Calls to make, and when to look again.
    pub directive: Directive,
    /// Whether the worker holds the lease.
    pub held: bool,
}

impl Row {
    /// A request that was just admitted.
    pub fn new(run: Run, now: Timestamp) -> Self {
        Self { run, worker: None, generation: 0, due: now, attention: false }
    }

    /// `Claim`: a worker takes the request if it is due. `desk.generation` is set to the new token.
    pub fn claim(&mut self, worker: usize, lease: Span, desk: &mut Desk<'_>) -> Option<Taken> {
        if self.due > desk.now || self.due == Timestamp::NEVER {
            return None;
        }
        desk.generation = self.generation + 1;
        if self.run.state == State::Queued && !desk.place(&mut self.run, Role::First) {
            return None;
        }
        self.generation += 1;
        let directive = desk.advance(&mut self.run);
        let held = !directive.calls.is_empty();
        let due = if held { desk.now.plus(lease) } else { directive.wake_at };
        self.keep(held.then_some(worker), due);
        Some(Taken { directive, held })
    }

    /// `Settle`: takes answers in under the fence of the lease. `None`: the lease is lost.
    pub fn settle(
        &mut self,
        worker: usize,
        answers: Vec<Answer>,
        in_flight: bool,
        lease: Span,
        desk: &mut Desk<'_>,
    ) -> Option<Taken> {
        if self.worker != Some(worker) || self.generation != desk.generation {
            return None;
        }
        for answer in answers {
            desk.with_room(&mut self.run, |desk, run| desk.with(|m| run.settle(answer, m)));
        }
        let directive = desk.advance(&mut self.run);
        let held = !directive.calls.is_empty() || in_flight;
        let due = match (held, self.is_asking()) {
            (true, _) => desk.now.plus(lease),
            (false, true) => desk.now,
            (false, false) => directive.wake_at,
        };
        self.keep(held.then_some(worker), due);
        Some(Taken { directive, held })
    }

    /// `Ask`: a person's wish, kept beside whatever the holder does. False: the state refuses it.
    pub fn ask(&mut self, command: Command, desk: &mut Desk<'_>) -> bool {
        let before = self.run.clone();
        desk.generation = self.generation;
        let asked = desk.with_room(&mut self.run, |desk, run| desk.with(|m| run.command(command, m))).is_ok();
        if asked && self.run != before {
            self.attention = self.worker.is_some();
            if self.worker.is_none() {
                self.due = if self.run.state.is_terminal() { Timestamp::NEVER } else { desk.now };
            }
        }
        asked
    }

    /// `KeepLeases`: the heartbeat. Answers whether a command came; `None` where the lease is lost.
    pub fn extend(&mut self, worker: usize, generation: i64, until: Timestamp) -> Option<bool> {
        let held = self.worker == Some(worker) && self.generation == generation;
        held.then(|| {
            self.due = until;
            self.attention
        })
    }

    fn keep(&mut self, worker: Option<usize>, due: Timestamp) {
        self.worker = worker;
        self.due = if worker.is_none() && self.run.state.is_terminal() { Timestamp::NEVER } else { due };
        self.attention = false;
    }

    /// A call counts as under way that was handed out under this generation.
    fn is_asking(&self) -> bool {
        let actions = self.run.action.iter().flat_map(|a| &a.operations);
        let mut operations = self.run.attempts.iter().flat_map(|a| &a.operations).chain(actions);
        operations.any(|o| o.status == OperationStatus::Running && o.generation == self.generation)
            || self.run.ledger.iter().any(|r| r.busy == Some(self.generation))
    }
}

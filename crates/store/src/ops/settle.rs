//! Answers of calls in, next calls out, under the fence of the lease's generation.

use std::collections::BTreeSet;
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::event::Actor;
use provisor_core::mutant::{self, Mutant};
use provisor_core::run::{Directive, Moment, Operation, OperationStatus, Role};
use provisor_core::workflow::{Answer, Call};
use provisor_core::{RequestId, Run, Timestamp};

use super::place::{Clusters, Placed};
use super::save::{self, Context, Lease, Loaded};
use super::writes::Writes;
use crate::op::{Mode, Op, OpError};
use crate::tx::Tx;

/// Takes in answers and decides what is next.
pub struct Settle {
    /// Of which request.
    pub id: RequestId,
    /// The lease's fencing token.
    pub generation: i64,
    /// Who holds it.
    pub worker: String,
    /// What came back.
    pub answers: Vec<Answer>,
    /// Other calls of it are still under way, so the lease is kept.
    pub in_flight: bool,
    /// The worker stops: take the answers in, but begin nothing new.
    pub closing: bool,
    /// Identity of a backend that was learned on the way (H4).
    pub identities: Vec<(provisor_core::ClusterId, String)>,
    /// Surroundings.
    pub context: Arc<Context>,
}

/// What to do next.
pub struct Settled {
    /// The run as it is now.
    pub run: Run,
    /// Calls to make.
    pub calls: Vec<Call>,
    /// When to look again.
    pub wake_at: Timestamp,
    /// Whether the lease was given back: nothing is under way and nothing is due.
    pub released: bool,
}

impl Op for Settle {
    type Out = Settled;
    const NAME: &'static str = "settle";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Settled, OpError> {
        Self::run_joined(&[self], tx).await?.pop().unwrap_or_else(|| Err(OpError::Corrupt("no answer".to_owned())))
    }

    fn joins(&self) -> bool {
        true
    }

    async fn run_joined(all: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Result<Settled, OpError>>, OpError> {
        let now = tx.now().await?;
        let mut answers: Vec<Option<Result<Settled, OpError>>> = all.iter().map(|_| None).collect();
        // Of two for one request the later one sees what the earlier one has stored, hence rounds.
        while answers.iter().any(Option::is_none) {
            let open = all.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
            let mut found = save::load_all(tx, &open.map(|(one, _)| one.id).collect()).await?;
            let (mut writes, mut seen) = (Writes::default(), BTreeSet::new());
            for (one, answer) in all.iter().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
                if !seen.insert(one.id) {
                    continue;
                }
                // Each is fenced by itself; whatever fails beyond that fails all.
                *answer = Some(match one.held(found.remove(&one.id)) {
                    Ok(loaded) => Ok(Box::pin(one.settle(tx, &mut writes, loaded, now)).await?),
                    Err(refusal) => Err(refusal),
                });
            }
            if let Some(one) = all.first() {
                save::finish(tx, &one.context, writes, now).await?;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl Settle {
    /// The run, if the lease on it is still this one.
    fn held(&self, found: Option<Result<Loaded, OpError>>) -> Result<Loaded, OpError> {
        let is_ours = |l: &Loaded| l.generation == self.generation && l.worker.as_deref() == Some(&self.worker);
        let held = found.transpose()?.filter(|l| is_ours(l) || mutant::on(Mutant::NoFence));
        held.ok_or(OpError::Fenced)
    }

    /// Decides, and notes what is to be written.
    async fn settle(&self, tx: &mut Tx<'_>, writes: &mut Writes, mut loaded: Loaded, now: Timestamp) -> Result<Settled, OpError> {
        let mut events = Vec::new();
        let mut chance = SplitMix::new((self.context.seeds)());
        let mut moment = self.context.moment(now, self.generation, &mut chance, &mut events, None);
        for (cluster, identity) in &self.identities {
            let unknown = loaded.run.attempts.iter_mut().filter(|a| a.cluster == *cluster && a.identity.is_none());
            unknown.for_each(|a| a.identity = Some(identity.clone()));
        }
        for answer in &self.answers {
            loaded.run.settle(answer.clone(), &mut moment);
        }
        let directive = if self.closing {
            Directive { calls: Vec::new(), wake_at: now, launch: None }
        } else {
            advance(tx, writes, &mut loaded.run, &mut moment).await?
        };
        let released = directive.calls.is_empty() && !self.in_flight;
        // Calls that were handed out and that nobody makes went with the lost answer of a former settlement:
        // whoever comes next asks anew, at once instead of when the request counts as stuck.
        let lost = released && is_asking(&loaded.run, self.generation) && !mutant::on(Mutant::ForgottenCalls);
        let wake_at = if lost { now } else { directive.wake_at };
        let lease = if released { Lease::Free(wake_at) } else { Lease::Held(&self.worker, now.plus(self.context.lease)) };
        for event in &mut events {
            event.actor.get_or_insert_with(|| Actor::worker(&self.worker));
        }
        let kept = save::keep(writes, loaded, events, lease, now, &mut chance)?;
        Ok(Settled { run: kept.run, calls: directive.calls, wake_at, released })
    }
}

/// Whether a call counts as under way that was handed out under this generation.
fn is_asking(run: &Run, generation: i64) -> bool {
    let operations = run.attempts.iter().flat_map(|a| &a.operations).chain(run.action.iter().flat_map(|a| &a.operations));
    let asks = |o: &Operation| o.status == OperationStatus::Running && o.generation == generation;
    operations.into_iter().any(asks) || run.ledger.iter().any(|r| r.busy == Some(generation))
}

/// Decides what is next, with a further attempt where one is wanted and there is room for it now (H11).
pub(crate) async fn advance(
    tx: &mut Tx<'_>,
    writes: &mut Writes,
    run: &mut Run,
    m: &mut Moment<'_>,
) -> Result<Directive, OpError> {
    let mut directive = run.advance(m);
    while let Some(role) = directive.launch {
        // What the requests before this one took of the clusters must be seen.
        writes.flush(tx).await?;
        save::lock_tenant(tx, run.tenant).await?;
        let mut clusters = Clusters::locked(tx, m.planner).await?;
        if role != Role::Failover {
            clusters.place_beside(run, role, m);
        } else if !matches!(clusters.place(run, role, m), Placed::Launched) {
            let failure = run.error.clone().unwrap_or_else(|| {
                provisor_core::Failure::new(provisor_core::Class::Capacity, "no_cluster", "no other cluster has room")
            });
            run.give_up(failure, m);
        }
        let mut next = run.advance(m);
        next.calls.splice(0..0, directive.calls);
        next.wake_at = next.wake_at.min(directive.wake_at);
        directive = next;
    }
    Ok(directive)
}

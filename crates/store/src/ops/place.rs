//! Placement inside a transaction: choose, plan, and start the attempt that reserves the room.
//!
//! Room that a request has waited for long is kept for it (H16): to whoever was admitted later, the cluster
//! that it would have if nothing were taken looks full. So large requests come to their place although small
//! ones would always fit into what just became free. Rejected: a reservation in a table, which would have to
//! be taken back at each change of a cluster; who waits, and for what, is asked anew in each transaction.

use std::borrow::Cow;
use std::collections::BTreeMap;

use provisor_core::budget;
use provisor_core::cluster::{ClusterSpec, Health};
use provisor_core::placement::{Candidate, Choice, choose};
use provisor_core::quota::Amounts;
use provisor_core::run::{Launch, Moment, Role};
use provisor_core::workflow::Planner;
use provisor_core::{Class, ClusterId, Failure, RequestId, Run, Span, Spec, Timestamp};
use serde::Deserialize;

use super::gate;
use crate::op::OpError;
use crate::tx::{Query, Stmt, Tx, both, each};
use crate::value::Row;

const CLUSTERS: Stmt = both(
    "select id, spec, health, draining, identity, reserved_cpu + used_cpu, reserved_memory + used_memory, \
     reserved_storage + used_storage, reserved_slots + used_slots, extra_launches, breaker, paused from cluster order by ordinal",
);

// Why a cross join: SQLite keeps its order, so the few that wait are asked, not every tenant. Why the slot:
// room that a request could not use now is kept from nobody.
const ELDERS: Stmt = both(
    "select r.run from request r cross join tenant t where r.no_room_since <= ?1 and t.id = r.tenant \
     and t.in_work < t.max_concurrent order by r.no_room_since limit ?2",
);

// H18: before what they hold is read in a statement of its own.
const LOCK: Stmt = each("select id from cluster order by id", "select id from cluster order by id for update");

pub(crate) const STATEMENTS: &[&Stmt] = &[&CLUSTERS, &ELDERS, &LOCK];

/// After this long without a place, younger requests may not take room on its best cluster (H16).
const KEPT_AFTER: Span = Span::seconds(900);
/// Of those that have waited so long, so many are minded, the longest first.
const ELDERS_AT_MOST: i64 = 64;

/// The clusters as placement sees them in this transaction. What is placed in it counts at once.
pub(crate) struct Clusters {
    pub candidates: Vec<Candidate>,
    identities: BTreeMap<ClusterId, String>,
    /// Budgets of extra launches (H31).
    budgets: BTreeMap<ClusterId, i64>,
    kept: Vec<(ClusterId, RequestId)>,
}

/// The part of a run that is needed to find its best cluster.
#[derive(Deserialize)]
struct Elder {
    id: RequestId,
    spec: Spec,
    #[serde(default)]
    regions: Vec<String>,
}

/// What became of an attempt at placement.
pub(crate) enum Placed {
    /// An attempt was started.
    Launched,
    /// No cluster takes it now.
    Not(Choice),
    /// Every cluster that has room says that it can never be done there.
    Refused(Failure),
}

/// The question who has waited long.
fn elders(now: Timestamp) -> Query {
    Query::new(&ELDERS, vec![now.0.saturating_sub(KEPT_AFTER.0).into(), ELDERS_AT_MOST.into()])
}

impl Clusters {
    /// Locks them all, for who is going to place, and reads them.
    pub(crate) async fn locked(tx: &mut Tx<'_>, planner: &dyn Planner) -> Result<Self, OpError> {
        let queries = Self::locking(tx.now().await?);
        Self::answered(&tx.several(queries.into()).await?, planner)
    }

    /// The questions of [`Self::locked`], to be asked together with others.
    pub(crate) fn locking(now: Timestamp) -> [Query; 3] {
        [Query::new(&LOCK, vec![]), Query::new(&CLUSTERS, vec![]), elders(now)]
    }

    /// Their answers.
    pub(crate) fn answered(answers: &[Vec<Row>], planner: &dyn Planner) -> Result<Self, OpError> {
        let [_, clusters, elders] = answers else { return Err(OpError::Corrupt("three answers".to_owned())) };
        Ok(Self::of(clusters)?.keeping(elders, planner))
    }

    /// The same without the lock.
    pub(crate) async fn load(tx: &mut Tx<'_>, planner: &dyn Planner) -> Result<Self, OpError> {
        let elders = elders(tx.now().await?);
        let answers = tx.several(vec![Query::new(&CLUSTERS, vec![]), elders]).await?;
        let [clusters, elders] = answers.as_slice() else { return Err(OpError::Corrupt("two answers".to_owned())) };
        Ok(Self::of(clusters)?.keeping(elders, planner))
    }

    /// The question for them all, without what is kept for others.
    pub(crate) fn reading() -> Query {
        Query::new(&CLUSTERS, vec![])
    }

    /// Its answer. There are tens or hundreds, not millions.
    pub(crate) fn of(rows: &[Row]) -> Result<Self, OpError> {
        let mut found = Self { candidates: Vec::new(), identities: BTreeMap::new(), budgets: BTreeMap::new(), kept: Vec::new() };
        for row in rows {
            let id: ClusterId = row.id(0)?;
            if let Some(identity) = row.opt_text(4)? {
                found.identities.insert(id, identity.to_owned());
            }
            found.budgets.insert(id, row.int(9)?);
            found.candidates.push(Candidate {
                id,
                spec: row.json::<ClusterSpec>(1)?,
                health: row.json::<Health>(2)?,
                draining: row.int(3)? != 0,
                taken: Amounts { cpu: row.int(5)?, memory_gb: row.int(6)?, storage_gb: row.int(7)? },
                taken_slots: row.int(8)?,
                closed: gate::read(row, 10)?.closed_to_new(),
            });
        }
        Ok(found)
    }

    /// With the room that is kept for those who have waited long.
    fn keeping(mut self, elders: &[Row], planner: &dyn Planner) -> Self {
        for row in elders {
            // What this release cannot read keeps no room, and stops nobody.
            let Ok(elder) = row.json::<Elder>(0) else { continue };
            self.kept.extend(self.best(&elder, planner).map(|cluster| (cluster, elder.id)));
        }
        self
    }

    /// Where placement would put it if nothing were taken.
    fn best(&self, elder: &Elder, planner: &dyn Planner) -> Option<ClusterId> {
        let empty = |c: &Candidate| Candidate { taken: Amounts::default(), taken_slots: 0, ..c.clone() };
        let candidates: Vec<Candidate> = self.candidates.iter().map(empty).collect();
        let mut avoid = Vec::new();
        loop {
            let best = choose(&candidates, &elder.spec, &elder.regions, &avoid).cluster?;
            if planner.plan(best, &elder.spec).is_ok() {
                return Some(best);
            }
            avoid.push(best);
        }
    }

    /// Chooses a cluster for a request, or for one that is yet to come (`None`), which is younger than all.
    pub(crate) fn choose(&self, id: Option<RequestId>, spec: &Spec, regions: &[String], avoid: &[ClusterId]) -> Choice {
        let kept: Vec<ClusterId> =
            self.kept.iter().filter(|(_, elder)| id.is_none_or(|id| *elder < id)).map(|(cluster, _)| *cluster).collect();
        let mut candidates = Cow::Borrowed(self.candidates.as_slice());
        if !kept.is_empty() {
            for candidate in candidates.to_mut().iter_mut().filter(|c| kept.contains(&c.id)) {
                let (limit, taken) = (candidate.spec.capacity, candidate.taken);
                candidate.taken = Amounts {
                    cpu: limit.cpu.unwrap_or(taken.cpu),
                    memory_gb: limit.memory_gb.unwrap_or(taken.memory_gb),
                    storage_gb: limit.storage_gb.unwrap_or(taken.storage_gb),
                };
                candidate.taken_slots = limit.slots.unwrap_or(candidate.taken_slots);
            }
        }
        let mut choice = choose(&candidates, spec, regions, avoid);
        for candidate in self.candidates.iter().filter(|c| kept.contains(&c.id)) {
            let rejected = choice.rejected.iter_mut().find(|(name, _)| *name == candidate.spec.name);
            if let Some((_, reason)) = rejected.filter(|(_, reason)| reason.starts_with("no room")) {
                reason.push_str(", as it is kept for a request that has waited longer");
            }
        }
        choice
    }

    /// Starts the first attempt of a run, or the one after a failed one, where there is room for it. The second one of a
    /// race starts with the first.
    pub(crate) fn place(&mut self, run: &mut Run, role: Role, m: &mut Moment<'_>) -> Placed {
        let placed = self.place_apart(run, role, run.used_clusters(), m);
        if matches!(placed, Placed::Launched) && run.races() {
            self.place_beside(run, Role::Race, m);
        }
        placed
    }

    /// Starts an attempt beside the one that is at work: elsewhere, or on the same cluster where there is no other. Where
    /// there is no room or no budget the request goes on without it, and says why.
    pub(crate) fn place_beside(&mut self, run: &mut Run, role: Role, m: &mut Moment<'_>) {
        let draws = run.draws_on_budget(role);
        let is_spent = |left: &i64| draws && *left < budget::LAUNCH;
        let broke: Vec<ClusterId> = self.budgets.iter().filter(|(_, left)| is_spent(left)).map(|(id, _)| *id).collect();
        let mut why = Vec::new();
        for used in [run.used_clusters(), run.failed_clusters()] {
            let avoid = used.iter().chain(&broke).copied().collect();
            why = match self.place_apart(run, role, avoid, m) {
                Placed::Launched => return,
                Placed::Not(choice) => choice.rejected,
                Placed::Refused(failure) => vec![(failure.code, failure.message)],
            };
        }
        let spent = |name: &str| self.candidates.iter().any(|c| c.spec.name == name && broke.contains(&c.id));
        let reason = |(name, reason): &(String, String)| {
            let reason = if spent(name) { "its budget of extra launches is used up" } else { reason.as_str() };
            format!("{name}: {reason}")
        };
        let reasons: Vec<String> = why.iter().map(reason).collect();
        run.go_without(role, &reasons.join("; "), m);
    }

    /// Starts an attempt on the best cluster besides those to avoid.
    fn place_apart(&mut self, run: &mut Run, role: Role, mut avoid: Vec<ClusterId>, m: &mut Moment<'_>) -> Placed {
        let (mut refusal, mut passes): (Option<Failure>, bool) = (None, false);
        loop {
            let choice = self.choose(Some(run.id), &run.spec, &run.regions, &avoid);
            let Some(id) = choice.cluster else {
                return match refusal {
                    Some(failure) if !choice.may_wait && !passes => Placed::Refused(failure),
                    _ => Placed::Not(Choice { may_wait: choice.may_wait || passes, ..choice }),
                };
            };
            match m.planner.plan(id, &run.spec) {
                Ok(plan) => {
                    let identity = self.identities.get(&id).cloned();
                    let Some(chosen) = self.candidates.iter_mut().find(|c| c.id == id) else { return Placed::Not(choice) };
                    chosen.taken = chosen.taken.plus(run.spec.needs());
                    chosen.taken_slots += 1;
                    let spec = &chosen.spec;
                    let launch = Launch {
                        role,
                        cluster: id,
                        cluster_name: spec.name.clone(),
                        provider: spec.provider,
                        region: spec.region.clone(),
                        identity,
                        settings: spec.common(),
                        others: choice.others,
                        plan,
                    };
                    run.launch(launch, m);
                    if let (Some(started), Some(left)) = (run.attempts.last(), self.budgets.get_mut(&id)) {
                        *left = budget::after(*left, budget::change(run, started));
                    }
                    self.kept.retain(|(_, elder)| *elder != run.id);
                    return Placed::Launched;
                }
                Err(failure) => {
                    // Only what is so for good is a refusal; a cluster may be unknown to this process for a moment.
                    passes |= failure.class != Class::Permanent;
                    refusal = Some(failure);
                    avoid.push(id);
                }
            }
        }
    }
}

//! Placement inside a transaction: choose, plan, and start the attempt that reserves the room.

use std::collections::BTreeMap;

use provisor_core::cluster::{ClusterSpec, Health};
use provisor_core::placement::{Candidate, Choice, choose};
use provisor_core::quota::Amounts;
use provisor_core::run::{Launch, Moment};
use provisor_core::{ClusterId, Failure, Run};

use crate::op::OpError;
use crate::tx::{Stmt, Tx, both};

const CLUSTERS: Stmt = both(
    "select id, spec, health, draining, identity, reserved_cpu + used_cpu, reserved_memory + used_memory, \
     reserved_storage + used_storage, reserved_slots + used_slots from cluster order by ordinal",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&CLUSTERS];

/// The clusters as placement sees them in this transaction. What is placed in it counts at once.
pub(crate) struct Clusters {
    pub candidates: Vec<Candidate>,
    identities: BTreeMap<ClusterId, String>,
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

impl Clusters {
    /// Reads them all; there are tens or hundreds, not millions.
    pub(crate) async fn load(tx: &mut Tx<'_>) -> Result<Self, OpError> {
        let mut found = Self { candidates: Vec::new(), identities: BTreeMap::new() };
        for row in tx.rows(&CLUSTERS, &[]).await? {
            let id: ClusterId = row.id(0)?;
            if let Some(identity) = row.opt_text(4)? {
                found.identities.insert(id, identity.to_owned());
            }
            found.candidates.push(Candidate {
                id,
                spec: row.json::<ClusterSpec>(1)?,
                health: row.json::<Health>(2)?,
                draining: row.int(3)? != 0,
                taken: Amounts { cpu: row.int(5)?, memory_gb: row.int(6)?, storage_gb: row.int(7)? },
                taken_slots: row.int(8)?,
            });
        }
        Ok(found)
    }

    /// Starts the next attempt of a run where there is room for it.
    pub(crate) fn place(&mut self, run: &mut Run, m: &mut Moment<'_>) -> Placed {
        let mut avoid = run.failed_clusters();
        let mut refusal: Option<Failure> = None;
        loop {
            let choice = choose(&self.candidates, &run.spec, &run.regions, &avoid);
            let Some(id) = choice.cluster else {
                return match refusal {
                    Some(failure) if !choice.may_wait => Placed::Refused(failure),
                    _ => Placed::Not(choice),
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
                        cluster: id,
                        cluster_name: spec.name.clone(),
                        provider: spec.provider,
                        region: spec.region.clone(),
                        identity,
                        settings: spec.common(),
                        plan,
                    };
                    run.launch(launch, m);
                    return Placed::Launched;
                }
                Err(failure) => {
                    refusal = Some(failure);
                    avoid.push(id);
                }
            }
        }
    }
}

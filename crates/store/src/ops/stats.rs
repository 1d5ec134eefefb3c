//! The numbers behind /metrics, read in one consistent state.

use provisor_core::breaker::Gate;
use provisor_core::cluster::{Capacity, HealthState};
use provisor_core::quota::Amounts;
use provisor_core::{Kind, State};

use super::balance::Balance;
use super::clusters::ListClusters;
use super::log;
use super::readers::{Backlog, Backlogs};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};

// Kinds in columns: rows by state and kind would have to be sorted first.
const CENSUS: Stmt = both(
    "select state, count(*) filter (where kind = 'vps'), count(*) filter (where kind = 'kubernetes_namespace'), \
     count(*) filter (where kind = 'environment'), count(*) filter (where kind = 'managed') from request group by state",
);
const IN_WORK: Stmt =
    each("select coalesce(sum(in_work), 0) from tenant", "select coalesce(sum(in_work), 0)::bigint from tenant");
// Whatever is leased is begun and due: at the end of its lease.
const LEASES: Stmt = both("select count(worker) from request where state <> 'queued' and due_at < 9223372036854775807");
const OPEN: Stmt = both("select state, count(*) from resource where open = 1 group by state");

pub(crate) const STATEMENTS: &[&Stmt] = &[&CENSUS, &IN_WORK, &LEASES, &OPEN];

/// The numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Requests by state and kind; pairs without any are left out.
    pub requests: Vec<(State, Kind, i64)>,
    /// Queued ones.
    pub queue_depth: i64,
    /// In work (H19).
    pub in_work: i64,
    /// Leases that workers hold.
    pub leases: i64,
    /// Open rows of the ledger by their state.
    pub open_resources: Vec<(String, i64)>,
    /// The last position of the log.
    pub head: i64,
    /// Every cluster.
    pub clusters: Vec<ClusterNumbers>,
    /// Every follower.
    pub readers: Vec<Backlog>,
}

/// The numbers of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterNumbers {
    /// Its name.
    pub name: String,
    /// Its health.
    pub health: HealthState,
    /// Our limits.
    pub limit: Capacity,
    /// Held by attempts at work.
    pub reserved: Amounts,
    /// How many attempts that are.
    pub reserved_slots: i64,
    /// Held by services that stand.
    pub used: Amounts,
    /// How many services that are.
    pub used_slots: i64,
    /// Its breaker, and whether it is paused.
    pub gate: Gate,
    /// Whether all agrees, as the last sweep has found.
    pub balance: Option<Balance>,
}

/// Reads the numbers.
#[derive(Debug, Clone, Copy)]
pub struct Stats;

impl Op for Stats {
    type Out = Numbers;
    const NAME: &'static str = "stats";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let mut requests = Vec::new();
        for row in tx.rows(&CENSUS, &[]).await? {
            let state = row.text(0)?;
            let state = State::parse(state).ok_or_else(|| OpError::Corrupt(format!("state {state}")))?;
            for (column, (_, kind)) in (1..).zip(Kind::ALL) {
                let count = row.int(column)?;
                requests.extend((count > 0).then_some((state, kind, count)));
            }
        }
        let queued = requests.iter().filter(|(state, ..)| *state == State::Queued);
        let queue_depth = queued.map(|(.., count)| count).sum();
        let open = tx.rows(&OPEN, &[]).await?;
        let open_resources = open.iter().map(|r| Ok((r.text(0)?.to_owned(), r.int(1)?))).collect::<Result<_, OpError>>()?;
        let clusters = ListClusters.run(tx).await?.into_iter().map(|view| ClusterNumbers {
            name: view.spec.name,
            health: view.health.state,
            limit: view.spec.capacity,
            reserved: view.reserved,
            reserved_slots: view.reserved_slots,
            used: view.used,
            used_slots: view.used_slots,
            gate: view.gate,
            balance: view.balance,
        });
        Ok(Numbers {
            clusters: clusters.collect(),
            queue_depth,
            in_work: count(tx, &IN_WORK).await?,
            leases: count(tx, &LEASES).await?,
            open_resources,
            head: log::head(tx).await?,
            readers: Backlogs.run(tx).await?,
            requests,
        })
    }
}

async fn count(tx: &mut Tx<'_>, stmt: &'static Stmt) -> Result<i64, OpError> {
    tx.row(stmt, &[]).await?.map_or(Ok(0), |row| row.int(0))
}

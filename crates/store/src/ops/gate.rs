//! What holds a cluster's calls back: its breaker (H27) and its pause (H29), in its row, shared by all workers.
//!
//! Nothing is written for calls that end well: a worker counts them, and brings what it has counted together with the
//! first one that failed.

use std::collections::BTreeMap;

use provisor_core::breaker::{self, Breaker, Calls, Gate, Pause};
use provisor_core::cluster::ClusterSpec;
use provisor_core::{ClusterId, Span};

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};
use crate::value::{Row, to_json};

macro_rules! get {
    ($tail:literal) => {
        concat!("select breaker, paused, spec, version from cluster where id = ?1", $tail)
    };
}
// H18: what is read is what is written back.
const GET: Stmt = each(get!(""), get!(" for update"));
const PUT: Stmt = both("update cluster set breaker = ?2, paused = ?3 where id = ?1");
const ALL: Stmt = both("select breaker, paused, id from cluster where breaker is not null or paused is not null order by id");

pub(crate) const STATEMENTS: &[&Stmt] = &[&GET, &PUT, &ALL];

/// The gate that stands in two columns of a row.
pub(crate) fn read(row: &Row, first: usize) -> Result<Gate, OpError> {
    let breaker = row.opt_text(first)?.map(|_| row.json::<Breaker>(first)).transpose()?.unwrap_or_default();
    let paused = row.opt_text(first + 1)?.map(|_| row.json::<Pause>(first + 1)).transpose()?;
    Ok(Gate { breaker, paused, full: BTreeMap::new() })
}

/// What happened at a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// So many calls have ended since the last time.
    Calls(Calls),
    /// A worker asks to make the one call that sees how the backend is; it has its answer within this.
    Probe(Span),
    /// That call has ended.
    Probed {
        /// Whether the backend is well again.
        good: bool,
    },
    /// Its credentials are refused, those of this version of the cluster.
    Refused {
        /// The version that the caller was bound to.
        version: i64,
        /// The backend's words.
        error: String,
    },
    /// They are accepted, or there are others.
    Accepted,
}

/// Takes in what happened at a cluster's gate.
#[derive(Debug, Clone)]
pub struct AtGate {
    /// Which cluster.
    pub id: ClusterId,
    /// What happened.
    pub happened: Happened,
}

/// The gate as it is by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The gate.
    pub gate: Gate,
    /// It has changed by what happened; of a worker that asks for the one call: it may make it.
    pub changed: bool,
}

impl Op for AtGate {
    type Out = Passed;
    const NAME: &'static str = "at_gate";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Passed, OpError> {
        let now = tx.now().await?;
        let row = tx.row(&GET, &[self.id.into()]).await?.ok_or(OpError::NotFound("cluster"))?;
        let mut gate = read(&row, 0)?;
        let policy: breaker::Policy = row.json::<ClusterSpec>(2)?.common().breaker;
        let before = gate.clone();
        let changed = match &self.happened {
            Happened::Calls(calls) => gate.breaker.note(*calls, policy, now),
            Happened::Probe(within) => gate.breaker.begin_probe(*within, now),
            Happened::Probed { good } => {
                gate.breaker.end_probe(*good, policy, now);
                gate != before
            }
            Happened::Refused { version, error } if *version == row.int(3)? && gate.paused.is_none() => {
                gate.paused = Some(Pause { since: now, error: error.clone() });
                true
            }
            Happened::Refused { .. } => false,
            Happened::Accepted => gate.paused.take().is_some(),
        };
        if gate != before {
            let paused = gate.paused.as_ref().map(to_json).transpose()?;
            tx.exec(&PUT, &[self.id.into(), to_json(&gate.breaker)?.into(), paused.into()]).await?;
        }
        Ok(Passed { gate, changed })
    }
}

/// Every gate at which something has happened.
#[derive(Debug, Clone, Copy)]
pub struct AllGates;

impl Op for AllGates {
    type Out = Vec<(ClusterId, Gate)>;
    const NAME: &'static str = "all_gates";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&ALL, &[]).await?.iter().map(|row| Ok((row.id(2)?, read(row, 0)?))).collect()
    }
}

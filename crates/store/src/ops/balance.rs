//! Whether ledger, inventory and capacity of a cluster agree, as the last sweep has found (SPEC 3.6).
//!
//! Kept in the cluster's row, so that every process can say it without asking the backend. It is told and never repaired
//! by itself: what does not agree is a fault of somebody's.

use provisor_core::{ClusterId, Timestamp};
use serde::{Deserialize, Serialize};

use super::quota::Difference;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::to_json;

const PUT: Stmt = both("update cluster set balance = ?2 where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&PUT];

/// What a sweep has found of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// When.
    pub at: Timestamp,
    /// Objects that rows of the ledger explain.
    pub owned: u64,
    /// Objects with our tag that no row explains, and that it did not release.
    pub unexplained: u64,
    /// Rows whose objects are not there.
    pub missing: u64,
    /// Counters of its capacity that are not what attempts hold.
    pub capacity: Vec<Difference>,
}

impl Balance {
    /// Everything agrees.
    pub fn is_even(&self) -> bool {
        self.unexplained == 0 && self.missing == 0 && self.capacity.is_empty()
    }
}

/// Notes what a sweep has found.
#[derive(Debug, Clone)]
pub struct NoteBalance {
    /// Of which cluster.
    pub id: ClusterId,
    /// What.
    pub balance: Balance,
}

impl Op for NoteBalance {
    type Out = ();
    const NAME: &'static str = "note_balance";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        match tx.exec(&PUT, &[self.id.into(), to_json(&self.balance)?.into()]).await? {
            0 => Err(OpError::NotFound("cluster")),
            _ => Ok(()),
        }
    }
}

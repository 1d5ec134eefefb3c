//! What only one process may do at a time: held by a lease of the store's clock (H40), with a generation that
//! every write under it carries.
//!
//! Rejected: the database's advisory locks, which live in a session and say nothing of a process that is frozen.

use provisor_core::Span;

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};

const HOLD: Stmt = both(
    "insert into role as held (name, holder, generation, until) values (?1, ?2, 1, ?4) on conflict (name) do update set \
     generation = case when held.holder = excluded.holder and held.until > ?3 then held.generation else held.generation + 1 end, \
     holder = excluded.holder, until = excluded.until where held.holder = excluded.holder or held.until <= ?3 \
     returning generation",
);
const LEAVE: Stmt = both("update role set until = 0 where name = ?1 and generation = ?2");
// Locked, so that nobody takes it over before what is written under it is committed.
macro_rules! held {
    ($tail:literal) => {
        concat!("select generation from role where name = ?1 and generation = ?2 and until > ?3", $tail)
    };
}
const HELD: Stmt = each(held!(""), held!(" for share"));

pub(crate) const STATEMENTS: &[&Stmt] = &[&HOLD, &LEAVE, &HELD];

/// A role as it is held: its name and the generation of its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Which.
    pub name: &'static str,
    /// The fencing token.
    pub generation: i64,
}

/// Takes a role, or extends the lease of the one who has it. `None`: another has it.
#[derive(Debug, Clone)]
pub struct HoldRole {
    /// Which.
    pub name: &'static str,
    /// Who asks.
    pub holder: String,
    /// For how long.
    pub lease: Span,
}

impl Op for HoldRole {
    type Out = Option<Role>;
    const NAME: &'static str = "hold_role";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let now = tx.now().await?;
        let values = [self.name.into(), self.holder.as_str().into(), now.0.into(), now.plus(self.lease).0.into()];
        let held = tx.row(&HOLD, &values).await?;
        held.map(|row| Ok(Role { name: self.name, generation: row.int(0)? })).transpose()
    }
}

/// Gives a role back, so that the next one need not wait for the end of its lease.
#[derive(Debug, Clone)]
pub struct LeaveRole(pub Role);

impl Op for LeaveRole {
    type Out = ();
    const NAME: &'static str = "leave_role";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        tx.exec(&LEAVE, &[self.0.name.into(), self.0.generation.into()]).await.map(drop)
    }
}

/// An operation that is done only while a role is held; else it is `Fenced`. Without a role it is done as it is: by
/// the one process on the store, or for somebody who asks.
#[derive(Debug, Clone)]
pub struct Under<O> {
    /// The role, where there is one.
    pub role: Option<Role>,
    /// What is done.
    pub op: O,
}

impl<O: Op> Op for Under<O> {
    type Out = O::Out;
    const NAME: &'static str = O::NAME;
    const MODE: Mode = O::MODE;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        if let Some(role) = &self.role {
            let now = tx.now().await?;
            let held = tx.row(&HELD, &[role.name.into(), role.generation.into(), now.0.into()]).await?;
            held.ok_or(OpError::Fenced)?;
        }
        self.op.run(tx).await
    }
}

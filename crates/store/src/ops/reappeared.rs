//! Something came back under the tag of a closed row (H6): logged; the state stays.

use std::sync::Arc;

use provisor_core::ResourceId;
use provisor_core::chance::SplitMix;
use provisor_core::event::{Event, EventKind, ResourceRef};

use super::save::{self, Context, Lease};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};

/// Notes the return of a row's object, before it is released again.
pub struct Reappeared {
    /// The closed row.
    pub row: ResourceId,
    /// The backend's id of what came back.
    pub provider_id: String,
    /// Surroundings.
    pub context: Arc<Context>,
}

const REQUEST_OF: Stmt = both("select request from resource where id = ?1");
const DUE: Stmt = both("select due_at from request where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&REQUEST_OF, &DUE];

impl Op for Reappeared {
    type Out = ();
    const NAME: &'static str = "reappeared";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let now = tx.now().await?;
        let row = tx.row(&REQUEST_OF, &[self.row.into()]).await?.ok_or(OpError::NotFound("resource"))?;
        let id = row.id(0)?;
        let loaded = save::load(tx, id).await?.ok_or(OpError::NotFound("request"))?;
        let due = tx.row(&DUE, &[id.into()]).await?.map_or(Ok(i64::MAX), |r| r.int(0))?;
        let known = loaded.run.ledger.iter().find(|r| r.id == self.row);
        let resource = known.map(|r| ResourceRef { kind: r.kind.clone(), id: r.id, provider_id: Some(self.provider_id.clone()) });
        let event = Event { resource, attempt: known.map(|r| r.attempt), ..Event::new(EventKind::ResourceReappeared) };
        let mut chance = SplitMix::new((self.context.seeds)());
        let lease = Lease::Attention(provisor_core::Timestamp(due));
        save::save(tx, &self.context, loaded, vec![event], lease, now, &mut chance).await.map(|_| ())
    }
}

//! A person's wish, decided by core, kept beside whatever its worker does (H7).

use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::event::Actor;
use provisor_core::run::{Command, Wanted};
use provisor_core::{RequestId, State, TenantId};

use super::requests::RequestView;
use super::save::{self, Context, Lease};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};

/// Asks something of a request.
pub struct Ask {
    /// Of which.
    pub id: RequestId,
    /// Only when it is this tenant's.
    pub scope: Option<TenantId>,
    /// What.
    pub command: Command,
    /// Who asks.
    pub actor: Actor,
    /// Surroundings.
    pub context: Arc<Context>,
}

const STANDING: Stmt = both(
    "select count(*) from dependency d cross join request r where r.id = d.request and d.prerequisite = ?1 \
     and r.state in ('queued', 'pending_approval')",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&STANDING];

impl Op for Ask {
    type Out = RequestView;
    const NAME: &'static str = "ask";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<RequestView, OpError> {
        let now = tx.now().await?;
        let found = save::load(tx, self.id).await?.filter(|l| self.scope.is_none_or(|t| t == l.run.tenant));
        let mut loaded = found.ok_or(OpError::NotFound("request"))?;
        // What is under way already is not asked for again.
        let new = loaded.run.wanted != Wanted::Gone;
        if let (Command::Deprovision { force: false, .. }, true) = (&self.command, new) {
            self.refuse_while_stood_on(tx, loaded.run.state).await?;
        }
        let mut events = Vec::new();
        let mut chance = SplitMix::new((self.context.seeds)());
        let before = loaded.run.clone();
        let mut moment = self.context.moment(now, loaded.generation, &mut chance, &mut events, Some(self.actor.clone()));
        loaded.run.command(self.command.clone(), &mut moment).map_err(|r| OpError::StateConflict {
            state: r.state.name().to_owned(),
            allowed: r.allowed.iter().map(|a| (*a).to_owned()).collect(),
            detail: r.detail,
        })?;
        if loaded.run != before {
            for event in &mut events {
                event.actor.get_or_insert_with(|| self.actor.clone());
            }
            let due = if loaded.run.state.is_terminal() { provisor_core::Timestamp::NEVER } else { now };
            loaded = save::save(tx, &self.context, loaded, events, Lease::Attention(due), now, &mut chance).await?;
        }
        Ok(RequestView::of(loaded, now))
    }
}

impl Ask {
    /// To deprovision what others wait for needs `force` (H24).
    async fn refuse_while_stood_on(&self, tx: &mut Tx<'_>, state: State) -> Result<(), OpError> {
        let waiting = tx.row(&STANDING, &[self.id.into()]).await?.map_or(Ok(0), |r| r.int(0))?;
        if waiting == 0 || !state.is_standing() {
            return Ok(());
        }
        let detail = format!("{waiting} of its dependents still wait for it; with force it is released and they fail");
        Err(OpError::StateConflict { state: state.name().to_owned(), allowed: vec!["deprovision".to_owned()], detail })
    }
}

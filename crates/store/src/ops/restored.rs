//! After a restore or a promotion (H41): the log goes on in a new epoch, and every open row looks by its tag first.
//!
//! The epoch is the upper part of a position in the log (see [`super::log::epoch_of`]), so cursors of before the
//! restore, which may be beyond the restored log's end, stand before everything that comes after it: their followers
//! miss nothing new. Rejected: an epoch in a column of its own, with which a cursor would be two numbers.

use std::sync::Arc;

use provisor_core::RequestId;
use provisor_core::chance::SplitMix;

use super::log::{EPOCH_BITS, epoch_of};
use super::save::{self, Context, Lease};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};

const LAST: Stmt = each(
    "select max((select position from log_start), coalesce((select max(position) from event), 0))",
    "select head from feed_state for update",
);
const RAISE: Stmt = each("update log_start set position = ?1", "update feed_state set head = ?1");
// Nobody is mailed or called about what a restore repeats (H38).
const TO_HEAD: Stmt = both("update reader set position = ?1 where name like 'email%' or name like 'webhook%'");
const LIVE: Stmt = both("select id from request where live = 1 and id > ?1 order by id limit ?2");

pub(crate) const STATEMENTS: &[&Stmt] = &[&LAST, &RAISE, &TO_HEAD, &LIVE];

/// Requests looked at in one transaction.
const PAGE: i64 = 256;

/// Begins the next epoch of the log. Answers its number.
#[derive(Debug, Clone, Copy)]
pub struct RaiseEpoch;

impl Op for RaiseEpoch {
    type Out = i64;
    const NAME: &'static str = "raise_epoch";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<i64, OpError> {
        // What is committed and has no place yet belongs to the epoch that ends.
        super::log::catch_up(tx).await?;
        let last = tx.row(&LAST, &[]).await?.map_or(Ok(0), |row| row.int(0))?;
        let start = epoch_of(last) << EPOCH_BITS;
        tx.exec(&RAISE, &[start.into()]).await?;
        tx.exec(&TO_HEAD, &[start.into()]).await?;
        Ok(epoch_of(start))
    }
}

/// Makes the open rows of the next requests look by their tags first.
pub struct Reopen {
    /// After this request.
    pub after: Option<RequestId>,
    /// Surroundings.
    pub context: Arc<Context>,
}

/// What a [`Reopen`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopened {
    /// Requests that changed.
    pub changed: usize,
    /// Where to go on; `None` when all are done.
    pub next: Option<RequestId>,
}

impl Op for Reopen {
    type Out = Reopened;
    const NAME: &'static str = "reopen";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Reopened, OpError> {
        let now = tx.now().await?;
        let after = self.after.map_or_else(String::new, |id| id.to_string());
        let mut done = Reopened { changed: 0, next: None };
        let rows = tx.rows(&LIVE, &[after.into(), PAGE.into()]).await?;
        let full = i64::try_from(rows.len()).unwrap_or(0) >= PAGE;
        for row in rows {
            let id: RequestId = row.id(0)?;
            done.next = full.then_some(id);
            let Some(mut loaded) = save::load(tx, id).await? else { continue };
            // Whoever had the lease when the backup was made is fenced.
            loaded.generation += 1;
            let mut events = Vec::new();
            let mut chance = SplitMix::new((self.context.seeds)());
            let mut moment = self.context.moment(now, loaded.generation, &mut chance, &mut events, None);
            if loaded.run.after_restore(&mut moment) {
                done.changed += 1;
                save::save(tx, &self.context, loaded, events, Lease::Free(now), now, &mut chance).await?;
            }
        }
        Ok(done)
    }
}

//! Reading the log: the events of one request, and the feed that every follower reads.
//!
//! SQLite has one writer, so the order of positions is the order of commits, and a follower that remembers
//! a position misses nothing. PostgreSQL has many: what is inserted first may be committed last. There each
//! event gets its place in the feed once and for all from whoever reads the log next after its commit, under
//! a lock ([`catch_up`]): what is visible and has no place yet is placed in order of insertion. So the order
//! of the feed is that in which events became visible, without a gap, the same for every follower, and one
//! number is a cursor in both databases (H34; docs/decisions/0009). What may still be without a place is
//! found by the horizon: every event of an older transaction has one.
//!
//! Events lie in rows of several ([`super::log_row`]); a row's place is that of its last event, and the others have those
//! before it. A cursor may stand in the middle of a row.

use provisor_core::event::{Event, EventKind};
use provisor_core::{EventId, Kind, RequestId, State, TenantId, Timestamp};

use super::log_row::{self, columns};
pub use super::log_row::{LogRow, Standing};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Query, Stmt, Tx, both, each};
use crate::value::{Row, Val};

/// The lower part of a position counts within an epoch, the upper part counts the epochs: each restore of the store
/// begins one (H41), so that no position stands for two events.
pub const EPOCH_BITS: u32 = 40;

/// The epoch of a position, from 1.
pub fn epoch_of(position: i64) -> i64 {
    (position >> EPOCH_BITS) + 1
}

/// Entries of one answer at most.
pub const PAGE_LIMIT: i64 = 1000;
/// Entries of one request in one answer at most.
const SUBJECT_LIMIT: i64 = 10_000;
/// Positions that one call looks through at most, when few of them match.
const SCAN_LIMIT: i64 = 10_000;

/// ?1 after, ?2 up to, ?3 published only, ?4 limit.
macro_rules! feed {
    ($driver:literal) => {
        concat!(
            "select event.position, ",
            columns!(),
            " from event where ",
            $driver,
            "position > ?1 and position <= ?2 and (?3 = 0 or sequence is not null) order by position limit ?4"
        )
    };
}

/// The same for PostgreSQL.
macro_rules! placed_feed {
    ($driver:literal) => {
        concat!(
            "select feed.place, ",
            columns!(),
            " from feed join event on event.position = feed.position where ",
            $driver,
            "feed.place > ?1 and feed.place <= ?2 and (?3 = 0 or event.sequence is not null) order by feed.place limit ?4"
        )
    };
}

const OF_SUBJECT: Stmt = each(
    concat!("select event.position, ", columns!(), " from event where subject = ?1 and version > ?2 order by version limit ?3"),
    // What has no place yet was committed after this look began.
    concat!(
        "select feed.place, ",
        columns!(),
        " from event join feed on feed.position = event.position",
        " where event.subject = ?1 and event.version > ?2 order by event.version limit ?3"
    ),
);
const FEED: Stmt = each(feed!(""), placed_feed!(""));
// Why the tenant's id too: a deleted tenant's name may be taken by another one, who must not see its log.
const FEED_OF_TENANT: Stmt = each(
    feed!(
        "tenant = ?5 and sequence is not null and exists (select 1 from request where request.id = event.subject \
         and request.tenant = ?6) and "
    ),
    placed_feed!(
        "feed.tenant = ?5 and event.sequence is not null and exists (select 1 from request where request.id = event.subject \
         and request.tenant = ?6) and "
    ),
);
const TENANT_NAME: Stmt = both("select name from tenant where id = ?1");
const HEAD: Stmt = each("select coalesce(max(position), 0) from event", "select head from feed_state");
const NEXT: Stmt = each("select min(position) from event where position > ?1", "select min(place) from feed where place > ?1");
// Whatever is visible is below the snapshot's end; said so that the planner expects few rows between two bounds and
// goes by the index, whereas beyond one bound it expects a third of the log.
const IS_BEHIND: Stmt = each(
    "select 0",
    "select 1 from event e where e.tx >= (select horizon from feed_state) and e.tx < pg_snapshot_xmax(pg_current_snapshot()) \
     and not exists (select 1 from feed f where f.position = e.position) limit 1",
);
// H18: the lock in a statement of its own, so that the next one sees what its last holder did.
const LOCK_FEED: Stmt = each("select 0", "select head from feed_state for update");
// Why the horizon stays after a full round: what was left out of it may be of an older transaction.
const PLACE: Stmt = each(
    "select 0 * ?1",
    "with fresh as (select e.position, e.tenant, e.count from event e \
        where e.tx >= (select horizon from feed_state) and e.tx < pg_snapshot_xmax(pg_current_snapshot()) \
        and not exists (select 1 from feed f where f.position = e.position) order by e.position limit ?1), \
     placed as (insert into feed (place, position, tenant) \
        select s.head + sum(f.count) over (order by f.position), f.position, f.tenant from fresh f cross join feed_state s), \
     counted as (select count(*) as many, coalesce(sum(count), 0)::bigint as events from fresh) \
     update feed_state set head = head + counted.events, \
        horizon = case when counted.many < ?1 then pg_snapshot_xmin(pg_current_snapshot()) else horizon end \
     from counted returning counted.many",
);

pub(crate) const STATEMENTS: &[&Stmt] =
    &[&OF_SUBJECT, &FEED, &FEED_OF_TENANT, &TENANT_NAME, &HEAD, &NEXT, &IS_BEHIND, &LOCK_FEED, &PLACE];

/// Rows that get their place in one statement.
const PLACED_AT_ONCE: i64 = 20_000;

/// The request of a published event, as it was then.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryRequest {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its state after the event.
    pub state: State,
    /// Its order.
    pub order_id: Option<String>,
}

/// One event as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place in the log.
    pub position: i64,
    /// Its id, which never changes.
    pub id: EventId,
    /// The request that it is about.
    pub subject: RequestId,
    /// Counts the request's events from 1.
    pub version: i64,
    /// Counts the request's published events from 1 (H35).
    pub sequence: Option<i64>,
    /// What it tells.
    pub kind: EventKind,
    /// The name of the tenant whose it is.
    pub tenant: String,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// The fact.
    pub body: Event,
    /// The request as it was then; only of published events.
    pub request: Option<EntryRequest>,
}

/// The events of one request, oldest first.
#[derive(Debug, Clone)]
pub struct EntriesOf {
    /// Of which request.
    pub subject: RequestId,
    /// After this version; 0 for all.
    pub after: i64,
}

impl EntriesOf {
    /// All events of a request, as far as one answer holds them.
    pub fn all(subject: RequestId) -> Self {
        Self { subject, after: 0 }
    }
}

impl Op for EntriesOf {
    type Out = Vec<Entry>;
    const NAME: &'static str = "entries_of";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let rows = tx.rows(&OF_SUBJECT, &[self.subject.into(), self.after.into(), SUBJECT_LIMIT.into()]).await?;
        let mut all = Vec::new();
        for row in &rows {
            all.extend(log_row::entries(row, |e| e.version > self.after)?);
        }
        all.truncate(usize::try_from(SUBJECT_LIMIT).unwrap_or(usize::MAX));
        Ok(all)
    }
}

/// What comes after a position.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// After this position; 0 from the beginning.
    pub after: i64,
    /// Only these kinds; all when empty.
    pub kinds: Vec<EventKind>,
    /// Only of this tenant, and then only what is published, whatever `published_only` says.
    pub tenant: Option<TenantId>,
    /// How many at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
    /// Only what followers get (H35).
    pub published_only: bool,
}

/// A part of the feed.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// The entries, oldest first.
    pub entries: Vec<Entry>,
    /// Where to go on: everything up to here has been looked at.
    pub next: i64,
    /// Whether that is the end of the log for now.
    pub at_head: bool,
}

impl Op for Feed {
    type Out = FeedPage;
    const NAME: &'static str = "feed";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let limit = self.limit.clamp(1, PAGE_LIMIT);
        // The first row may have been read in part and give nothing.
        let rows_limit = if self.kinds.is_empty() { limit + 1 } else { SCAN_LIMIT };
        let looked = look(tx, self.after, self.tenant, self.published_only, rows_limit).await?;
        let (entries, taken_to) = self.take(&looked.rows, usize::try_from(limit).unwrap_or(usize::MAX))?;
        let next = taken_to.unwrap_or(looked.next);
        Ok(FeedPage { entries, next, at_head: next >= looked.head })
    }
}

/// The published rows of the log after a position, as they lie there: for whoever shows the same events to many.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// After this position.
    pub after: i64,
    /// How many rows at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
}

/// What a [`Tail`] found.
#[derive(Debug)]
pub struct TailPage {
    /// The rows, oldest first. Of the first one, some events may be before the position.
    pub rows: Vec<LogRow>,
    /// Where to go on: everything up to here has been looked at.
    pub next: i64,
    /// Whether that is the end of the log for now.
    pub at_head: bool,
}

impl Op for Tail {
    type Out = TailPage;
    const NAME: &'static str = "tail";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let looked = look(tx, self.after, None, true, self.limit.clamp(1, PAGE_LIMIT)).await?;
        let at_head = looked.next >= looked.head;
        let rows = looked.rows.into_iter().map(LogRow::of).collect::<Result<_, _>>()?;
        Ok(TailPage { rows, next: looked.next, at_head })
    }
}

/// Rows after a position, where to go on when all of them are taken, and the end of the log.
struct Looked {
    rows: Vec<Row>,
    next: i64,
    head: i64,
}

async fn look(
    tx: &mut Tx<'_>,
    after: i64,
    tenant: Option<TenantId>,
    published_only: bool,
    limit: i64,
) -> Result<Looked, OpError> {
    let head = head(tx).await?;
    let end = scan_end(tx, after, head, SCAN_LIMIT).await?;
    // A position beyond the head is kept: the log of a restored store may be shorter.
    if end <= after {
        return Ok(Looked { rows: Vec::new(), next: after, head });
    }
    let mut params: Vec<Val> = vec![after.into(), end.into(), published_only.into(), limit.into()];
    let rows = match tenant {
        Some(tenant) => {
            let name = tx.row(&TENANT_NAME, &[tenant.into()]).await?;
            let name = name.map(|r| r.text(0).map(str::to_owned)).transpose()?.ok_or(OpError::NotFound("tenant"))?;
            params.extend([name.into(), tenant.into()]);
            tx.rows(&FEED_OF_TENANT, &params).await?
        }
        None => tx.rows(&FEED, &params).await?,
    };
    let all_of_them = i64::try_from(rows.len()).unwrap_or(i64::MAX) < limit;
    let next = if all_of_them { end } else { rows.last().map_or(Ok(end), |row| row.int(0))? };
    Ok(Looked { rows, next, head })
}

impl Feed {
    /// What is asked for of some rows; and where there is as much as asked for, how far it has looked.
    fn take(&self, rows: &[Row], limit: usize) -> Result<(Vec<Entry>, Option<i64>), OpError> {
        let published_only = self.published_only || self.tenant.is_some();
        let wanted = |e: &Standing| {
            e.position > self.after
                && (e.sequence.is_some() || !published_only)
                && (self.kinds.is_empty() || self.kinds.contains(&e.kind))
        };
        let mut taken = Vec::new();
        for row in rows {
            taken.extend(log_row::entries(row, wanted)?);
            if taken.len() >= limit {
                taken.truncate(limit);
                break;
            }
        }
        let looked_at = taken.last().filter(|_| taken.len() >= limit).map(|e| e.position);
        Ok((taken, looked_at))
    }
}

/// The last position of the log; 0 when it is empty.
#[derive(Debug, Clone, Copy)]
pub struct Head;

impl Op for Head {
    type Out = i64;
    const NAME: &'static str = "head";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        head(tx).await
    }
}

/// Whether something is committed that has no place in the feed yet.
pub(crate) async fn is_behind(tx: &mut Tx<'_>) -> Result<bool, OpError> {
    tx.row(&IS_BEHIND, &[]).await?.map_or(Ok(false), |row| Ok(row.int(0)? != 0))
}

/// Gives a place in the feed to all that is visible and has none.
pub(crate) async fn catch_up(tx: &mut Tx<'_>) -> Result<(), OpError> {
    let mut queries = vec![Query::new(&LOCK_FEED, vec![])];
    loop {
        queries.push(Query::new(&PLACE, vec![PLACED_AT_ONCE.into()]));
        let answers = tx.several(std::mem::take(&mut queries)).await?;
        let placed = answers.last().and_then(|rows| rows.first()).map_or(Ok(0), |row| row.int(0))?;
        if placed < PLACED_AT_ONCE {
            return Ok(());
        }
    }
}

/// How far a reader looks that has read up to a position. Between two epochs there is nothing, and much of it; and the
/// end is that of a row, so that no row lies on both sides of it.
pub(crate) async fn scan_end(tx: &mut Tx<'_>, after: i64, head: i64, limit: i64) -> Result<i64, OpError> {
    let from = if epoch_of(after) < epoch_of(head) { after.max(next(tx, after).await? - 1) } else { after };
    let far = from.saturating_add(limit);
    if far < head { next(tx, far - 1).await } else { Ok(head) }
}

/// The next position that an event has.
async fn next(tx: &mut Tx<'_>, after: i64) -> Result<i64, OpError> {
    tx.row(&NEXT, &[after.into()]).await?.map_or(Ok(None), |row| row.opt_int(0)).map(|next| next.unwrap_or(after))
}

pub(crate) async fn head(tx: &mut Tx<'_>) -> Result<i64, OpError> {
    tx.row(&HEAD, &[]).await?.map_or(Ok(0), |row| row.int(0))
}

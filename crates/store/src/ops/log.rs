//! Reading the log: the events of one request, and the feed that every follower reads.
//!
//! SQLite has one writer, so the order of positions is the order of commits, and a follower that remembers
//! a position misses nothing.

use provisor_core::event::{Event, EventKind};
use provisor_core::{EventId, Kind, RequestId, State, TenantId, Timestamp};
use serde::Deserialize;

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::{Row, Val};

/// Entries of one answer at most.
pub const PAGE_LIMIT: i64 = 1000;
/// Entries of one request in one answer at most.
const SUBJECT_LIMIT: i64 = 10_000;
/// Positions that one call looks through at most, when few of them match.
const SCAN_LIMIT: i64 = 20_000;

macro_rules! entries {
    ($($tail:tt)+) => {
        concat!("select position, id, subject, version, sequence, kind, tenant, at, body from event where ", $($tail)+)
    };
}

/// ?1 after, ?2 up to, ?3 kinds, ?4 published only, ?5 limit.
macro_rules! feed {
    ($driver:literal) => {
        entries!(
            $driver,
            "position > ?1 and position <= ?2 and (?3 is null or instr(?3, ' ' || kind || ' ') > 0)",
            " and (?4 = 0 or sequence is not null) order by position limit ?5"
        )
    };
}

const OF_SUBJECT: Stmt = both(entries!("subject = ?1 and version > ?2 order by version limit ?3"));
const FEED: Stmt = both(feed!(""));
// Why the tenant's id too: a deleted tenant's name may be taken by another one, who must not see its log.
const FEED_OF_TENANT: Stmt =
    both(feed!("tenant = ?6 and exists (select 1 from request where request.id = event.subject and request.tenant = ?7) and "));
const TENANT_NAME: Stmt = both("select name from tenant where id = ?1");
const HEAD: Stmt = both("select coalesce(max(position), 0) from event");

pub(crate) const STATEMENTS: &[&Stmt] = &[&OF_SUBJECT, &FEED, &FEED_OF_TENANT, &TENANT_NAME, &HEAD];

/// The request of a published event, as it was then.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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

/// What is in a body besides the fact.
#[derive(Deserialize)]
struct Beside {
    request: Option<EntryRequest>,
}

impl Entry {
    fn read(row: &Row) -> Result<Self, OpError> {
        let kind = row.text(5)?;
        Ok(Self {
            position: row.int(0)?,
            id: row.id(1)?,
            subject: row.id(2)?,
            version: row.int(3)?,
            sequence: row.opt_int(4)?,
            kind: EventKind::parse(kind).ok_or_else(|| OpError::Corrupt(format!("event kind {kind}")))?,
            tenant: row.text(6)?.to_owned(),
            at: Timestamp(row.int(7)?),
            body: row.json(8)?,
            request: row.json::<Beside>(8)?.request,
        })
    }
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
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let rows = tx.rows(&OF_SUBJECT, &[self.subject.into(), self.after.into(), SUBJECT_LIMIT.into()]).await?;
        rows.iter().map(Entry::read).collect()
    }
}

/// What comes after a position.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// After this position; 0 from the beginning.
    pub after: i64,
    /// Only these kinds; all when empty.
    pub kinds: Vec<EventKind>,
    /// Only of this tenant.
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
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let limit = self.limit.clamp(1, PAGE_LIMIT);
        let head = head(tx).await?;
        let end = head.min(self.after.saturating_add(SCAN_LIMIT));
        // A position beyond the head is kept: the log of a restored store may be shorter.
        if end <= self.after {
            return Ok(FeedPage { entries: Vec::new(), next: self.after, at_head: true });
        }
        let kinds = (!self.kinds.is_empty()).then(|| self.kinds.iter().fold(" ".to_owned(), |all, k| all + k.name() + " "));
        let mut params: Vec<Val> = vec![self.after.into(), end.into(), kinds.into(), self.published_only.into(), limit.into()];
        let rows = match self.tenant {
            Some(tenant) => {
                let name = tx.row(&TENANT_NAME, &[tenant.into()]).await?;
                let name = name.map(|r| r.text(0).map(str::to_owned)).transpose()?.ok_or(OpError::NotFound("tenant"))?;
                params.extend([name.into(), tenant.into()]);
                tx.rows(&FEED_OF_TENANT, &params).await?
            }
            None => tx.rows(&FEED, &params).await?,
        };
        let entries: Vec<Entry> = rows.iter().map(Entry::read).collect::<Result<_, _>>()?;
        let full = i64::try_from(entries.len()).unwrap_or(i64::MAX) >= limit;
        let next = entries.last().map_or(end, |last| if full { last.position } else { end });
        Ok(FeedPage { entries, next, at_head: next >= head })
    }
}

/// The last position of the log; 0 when it is empty.
#[derive(Debug, Clone, Copy)]
pub struct Head;

impl Op for Head {
    type Out = i64;
    const NAME: &'static str = "head";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        head(tx).await
    }
}

pub(crate) async fn head(tx: &mut Tx<'_>) -> Result<i64, OpError> {
    tx.row(&HEAD, &[]).await?.map_or(Ok(0), |row| row.int(0))
}

//! Rows of the ledger across requests, for the sweeper: what should be at a cluster, and whose a tag is.

use provisor_core::run::RowState;
use provisor_core::{AttemptId, ClusterId, RequestId, ResourceId, State, Timestamp};

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::Row;

/// Rows on one page at most.
pub const PAGE_LIMIT: i64 = 1000;
/// Tags or ids in one call at most.
const LIST_LIMIT: usize = 1000;

macro_rules! rows {
    ($tail:literal) => {
        concat!(
            "select resource.id, resource.request, resource.attempt, resource.cluster, resource.kind, resource.name, resource.tag,",
            " resource.provider_id, resource.state, resource.in_doubt, resource.open, resource.created_at, resource.released_at,",
            " resource.seen_closed, request.state from resource join request on request.id = resource.request where ",
            $tail
        )
    };
}

const OPEN: Stmt = both(rows!("resource.cluster = ?1 and resource.open = 1 and resource.id > ?2 order by resource.id limit ?3"));
const BY_TAG: Stmt = both(rows!("resource.tag = ?1 order by resource.id"));
const SEEN: Stmt = both("update resource set seen_closed = seen_closed + 1 where id = ?1 and open = 0 returning seen_closed");
const UNSEEN: Stmt = both("update resource set seen_closed = 0 where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&OPEN, &BY_TAG, &SEEN, &UNSEEN];

/// A row of the ledger as the sweeper sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSummary {
    /// Its id.
    pub id: ResourceId,
    /// Its request.
    pub request: RequestId,
    /// Its attempt.
    pub attempt: AttemptId,
    /// Where it is.
    pub cluster: ClusterId,
    /// `server`, `volume` …
    pub kind: String,
    /// Its name at the backend.
    pub name: String,
    /// Its tag (H1).
    pub tag: String,
    /// The backend's id, once known.
    pub provider_id: Option<String>,
    /// How it stands.
    pub state: RowState,
    /// Whether a create may have been done of which we do not know.
    pub in_doubt: bool,
    /// Whether something is still to be done for it.
    pub open: bool,
    /// When the intent was written.
    pub created_at: Timestamp,
    /// When it was confirmed gone.
    pub released_at: Option<Timestamp>,
    /// Sweeps that have seen its object although it is closed (H2).
    pub seen_closed: i64,
    /// The state of its request.
    pub request_state: State,
}

impl RowSummary {
    fn read(row: &Row) -> Result<Self, OpError> {
        let (state, request_state) = (row.text(8)?, row.text(14)?);
        Ok(Self {
            id: row.id(0)?,
            request: row.id(1)?,
            attempt: row.id(2)?,
            cluster: row.id(3)?,
            kind: row.text(4)?.to_owned(),
            name: row.text(5)?.to_owned(),
            tag: row.text(6)?.to_owned(),
            provider_id: row.opt_text(7)?.map(str::to_owned),
            state: parse_state(state).ok_or_else(|| OpError::Corrupt(format!("row state {state}")))?,
            in_doubt: row.int(9)? != 0,
            open: row.int(10)? != 0,
            created_at: Timestamp(row.int(11)?),
            released_at: row.opt_int(12)?.map(Timestamp),
            seen_closed: row.int(13)?,
            request_state: State::parse(request_state).ok_or_else(|| OpError::Corrupt(format!("state {request_state}")))?,
        })
    }
}

fn parse_state(name: &str) -> Option<RowState> {
    let all = [RowState::Intended, RowState::Created, RowState::Releasing, RowState::Owed, RowState::Released];
    all.into_iter().find(|s| s.name() == name)
}

/// A page of a cluster's open rows, in order of their ids.
#[derive(Debug, Clone)]
pub struct OpenRows {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// After this row.
    pub after: Option<ResourceId>,
    /// How many at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
}

impl Op for OpenRows {
    type Out = Vec<RowSummary>;
    const NAME: &'static str = "open_rows";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let after = self.after.map(|id| id.to_string()).unwrap_or_default();
        let rows = tx.rows(&OPEN, &[self.cluster.into(), after.into(), self.limit.clamp(1, PAGE_LIMIT).into()]).await?;
        rows.iter().map(RowSummary::read).collect()
    }
}

/// The rows that tags name; tags without a row are left out. Of more than a thousand tags only the first
/// thousand.
#[derive(Debug, Clone)]
pub struct RowsByTag {
    /// The tags.
    pub tags: Vec<String>,
}

impl Op for RowsByTag {
    type Out = Vec<RowSummary>;
    const NAME: &'static str = "rows_by_tag";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let mut found = Vec::new();
        for tag in self.tags.iter().take(LIST_LIMIT) {
            for row in tx.rows(&BY_TAG, &[tag.as_str().into()]).await? {
                found.push(RowSummary::read(&row)?);
            }
        }
        Ok(found)
    }
}

/// Counts that a sweep has seen the objects of closed rows; answers how many sweeps in a row have. Rows
/// that are not closed are left out. `unseen` begins again from nothing.
#[derive(Debug, Clone, Default)]
pub struct MarkSeenClosed {
    /// Rows whose objects were seen.
    pub seen: Vec<ResourceId>,
    /// Rows whose objects are not there any more.
    pub unseen: Vec<ResourceId>,
}

impl Op for MarkSeenClosed {
    type Out = Vec<(ResourceId, i64)>;
    const NAME: &'static str = "mark_seen_closed";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let mut counts = Vec::new();
        for id in self.seen.iter().take(LIST_LIMIT) {
            if let Some(row) = tx.row(&SEEN, &[(*id).into()]).await? {
                counts.push((*id, row.int(0)?));
            }
        }
        let unseen: Vec<_> = self.unseen.iter().take(LIST_LIMIT).map(|id| vec![(*id).into()]).collect();
        tx.batch(&UNSEEN, unseen).await?;
        Ok(counts)
    }
}

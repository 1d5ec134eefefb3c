//! Requests as they are shown: one, several, and lists by cursor, newest first.
//!
//! A list is driven by the most telling of its conditions through an index that is ordered by id, and the
//! other conditions are checked row by row. So a page costs no more than the rows of that one condition
//! between two pages. Rejected: putting the text of the query together from its conditions, which no test
//! could prepare; offsets, which read everything before them.

use provisor_core::{Kind, RequestId, Run, State, TenantId, Timestamp};

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::{Row, Val};

/// Requests on one page at most.
pub const PAGE_LIMIT: i64 = 500;
/// Requests asked for by their ids at most.
const IDS_LIMIT: usize = 1000;

macro_rules! view {
    ($from:literal, $tail:literal) => {
        concat!(
            "select request.run, tenant.name, request.version, request.events, request.published, request.updated_at, \
             case when tenant.in_work >= tenant.max_concurrent then 1 else 0 end from ",
            $from,
            " left join tenant on tenant.id = request.tenant where ",
            $tail
        )
    };
}

/// A list: ?1 id before which, ?2 state, ?3 kind, ?4 tenant, ?5 name, ?6 and ?7 label, ?8 limit.
macro_rules! list {
    ($from:literal, $driver:literal, $order:literal) => {
        concat!(
            view!($from, $driver),
            " and (?2 is null or request.state = ?2) and (?3 is null or request.kind = ?3)",
            " and (?4 is null or request.tenant = ?4) and (?5 is null or request.name = ?5)",
            " and (?6 is null or exists (select 1 from label as l where l.name = ?6 and l.value = ?7 and l.request = request.id))",
            " order by ",
            $order,
            " desc limit ?8"
        )
    };
}

const GET: Stmt = both(view!("request", "request.id = ?1 and (?2 is null or request.tenant = ?2)"));
const LIST: Stmt = both(list!("request", "request.id < ?1", "request.id"));
const BY_STATE: Stmt = both(list!("request", "request.state = ?2 and request.id < ?1", "request.id"));
const BY_KIND: Stmt = both(list!("request", "request.kind = ?3 and request.id < ?1", "request.id"));
const BY_TENANT: Stmt = both(list!("request", "request.tenant = ?4 and request.id < ?1", "request.id"));
const BY_TENANT_AND_STATE: Stmt =
    both(list!("request", "request.tenant = ?4 and request.state = ?2 and request.id < ?1", "request.id"));
const BY_NAME: Stmt = both(list!("request", "request.name = ?5 and request.id < ?1", "request.id"));
// Why a cross join: it keeps the order in which SQLite looks the two up.
const BY_LABEL: Stmt = both(list!(
    "label cross join request",
    "label.name = ?6 and label.value = ?7 and label.request < ?1 and request.id = label.request",
    "label.request"
));

pub(crate) const STATEMENTS: &[&Stmt] =
    &[&GET, &LIST, &BY_STATE, &BY_KIND, &BY_TENANT, &BY_TENANT_AND_STATE, &BY_NAME, &BY_LABEL];

/// A request as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestView {
    /// The whole of it.
    pub run: Run,
    /// The tenant's name; the one that it was admitted under, when the tenant is deleted.
    pub tenant_name: String,
    /// Rises with every change.
    pub version: i64,
    /// How many events it has.
    pub events: i64,
    /// How many of them are published.
    pub published: i64,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Its tenant has as many in work as it may (SPEC 6.2): then it is that which a queued one waits for.
    pub tenant_is_full: bool,
}

impl RequestView {
    fn read(row: &Row) -> Result<Self, OpError> {
        let run: Run = row.json(0)?;
        Ok(Self {
            tenant_name: row.opt_text(1)?.map_or_else(|| run.spec.tenant.clone(), str::to_owned),
            version: row.int(2)?,
            events: row.int(3)?,
            published: row.int(4)?,
            updated_at: Timestamp(row.int(5)?),
            tenant_is_full: row.int(6)? != 0,
            run,
        })
    }
}

/// One request, if it is there and the caller's.
#[derive(Debug, Clone)]
pub struct GetRequest {
    /// Which.
    pub id: RequestId,
    /// Only of this tenant.
    pub scope: Option<TenantId>,
}

impl Op for GetRequest {
    type Out = Option<RequestView>;
    const NAME: &'static str = "get_request";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let row = tx.row(&GET, &[self.id.into(), self.scope.into()]).await?;
        row.as_ref().map(RequestView::read).transpose()
    }
}

/// Several requests in the order asked; those that are not there or not the caller's are left out. Of more
/// than a thousand only the first thousand.
#[derive(Debug, Clone)]
pub struct GetRequests {
    /// Which.
    pub ids: Vec<RequestId>,
    /// Only of this tenant.
    pub scope: Option<TenantId>,
}

impl Op for GetRequests {
    type Out = Vec<RequestView>;
    const NAME: &'static str = "get_requests";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let mut views = Vec::new();
        for id in self.ids.iter().take(IDS_LIMIT) {
            if let Some(row) = tx.row(&GET, &[(*id).into(), self.scope.into()]).await? {
                views.push(RequestView::read(&row)?);
            }
        }
        Ok(views)
    }
}

/// A page of requests, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListRequests {
    /// In this state.
    pub state: Option<State>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// With this label: name and value.
    pub label: Option<(String, String)>,
    /// Of this name.
    pub name: Option<String>,
    /// After this one: the `next` of the page before.
    pub cursor: Option<RequestId>,
    /// How many at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
    /// What the caller may see: only this tenant's, or all.
    pub scope: Option<TenantId>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestPage {
    /// What is on it.
    pub items: Vec<RequestView>,
    /// The cursor of the page after it; `None` on the last one.
    pub next: Option<RequestId>,
}

impl ListRequests {
    /// The statement that reads the least.
    fn statement(&self, tenant: Option<TenantId>) -> &'static Stmt {
        match (tenant.is_some(), self.state.is_some()) {
            _ if self.label.is_some() => &BY_LABEL,
            _ if self.name.is_some() => &BY_NAME,
            (true, true) => &BY_TENANT_AND_STATE,
            (true, false) => &BY_TENANT,
            (false, true) => &BY_STATE,
            (false, false) if self.kind.is_some() => &BY_KIND,
            (false, false) => &LIST,
        }
    }
}

impl Op for ListRequests {
    type Out = RequestPage;
    const NAME: &'static str = "list_requests";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let tenant = match (self.scope, self.tenant) {
            (Some(scope), Some(tenant)) if scope != tenant => return Ok(RequestPage { items: Vec::new(), next: None }),
            (scope, tenant) => scope.or(tenant),
        };
        let limit = self.limit.clamp(1, PAGE_LIMIT);
        // "~" sorts after every id.
        let before = self.cursor.map_or_else(|| "~".to_owned(), |c| c.to_string());
        let params: [Val; 8] = [
            before.into(),
            self.state.map(State::name).into(),
            self.kind.map(Kind::name).into(),
            tenant.into(),
            self.name.as_deref().into(),
            self.label.as_ref().map(|(name, _)| name.as_str()).into(),
            self.label.as_ref().map(|(_, value)| value.as_str()).into(),
            (limit + 1).into(),
        ];
        let rows = tx.rows(self.statement(tenant), &params).await?;
        let shown = usize::try_from(limit).unwrap_or(1);
        let more = rows.len() > shown;
        let items: Vec<RequestView> = rows.iter().take(shown).map(RequestView::read).collect::<Result<_, _>>()?;
        let next = items.last().map(|v| v.run.id).filter(|_| more);
        Ok(RequestPage { items, next })
    }
}

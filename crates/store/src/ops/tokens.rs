//! Access tokens: only their digests are kept.

use provisor_core::{TenantId, Timestamp, TokenId};

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::Row;

/// Tokens on one page at most.
pub const PAGE_LIMIT: i64 = 500;

macro_rules! view {
    ($tail:literal) => {
        concat!(
            "select token.id, token.name, token.role, token.tenant, tenant.name, token.created_at, token.expires_at,",
            " token.revoked_at from token left join tenant on tenant.id = token.tenant where ",
            $tail
        )
    };
}

const INSERT: Stmt = both(
    "insert into token (id, name, hash, role, tenant, created_at, expires_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
     on conflict (hash) do nothing",
);
const BY_ID: Stmt = both(view!("token.id = ?1 and (?2 is null or token.tenant = ?2)"));
const BY_HASH: Stmt =
    both(view!("token.hash = ?1 and token.revoked_at is null and (token.expires_at is null or token.expires_at > ?2)"));
const LIST: Stmt = both(view!("token.id > ?1 and (?2 is null or token.tenant = ?2) order by token.id limit ?3"));
const REVOKE: Stmt = both("update token set revoked_at = ?2 where id = ?1 and revoked_at is null");

pub(crate) const STATEMENTS: &[&Stmt] = &[&INSERT, &BY_ID, &BY_HASH, &LIST, &REVOKE];

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// What its bearer may do.
    pub role: String,
    /// Whose it is; `None` for the platform.
    pub tenant: Option<TenantId>,
    /// The tenant's name.
    pub tenant_name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl TokenView {
    fn read(row: &Row) -> Result<Self, OpError> {
        let tenant = row.opt_text(3)?.is_some().then(|| row.id(3)).transpose()?;
        Ok(Self {
            id: row.id(0)?,
            name: row.text(1)?.to_owned(),
            role: row.text(2)?.to_owned(),
            tenant,
            tenant_name: row.opt_text(4)?.map(str::to_owned),
            created_at: Timestamp(row.int(5)?),
            expires_at: row.opt_int(6)?.map(Timestamp),
            revoked_at: row.opt_int(7)?.map(Timestamp),
        })
    }
}

/// Keeps a new token.
#[derive(Debug, Clone)]
pub struct CreateToken {
    /// Its id.
    pub id: TokenId,
    /// The digest of its text.
    pub hash: String,
    /// Its name.
    pub name: String,
    /// What its bearer may do.
    pub role: String,
    /// Whose it is; `None` for the platform.
    pub tenant: Option<TenantId>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

impl Op for CreateToken {
    type Out = TokenView;
    const NAME: &'static str = "create_token";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let now = tx.now().await?;
        let values = [
            self.id.into(),
            self.name.as_str().into(),
            self.hash.as_str().into(),
            self.role.as_str().into(),
            self.tenant.into(),
            now.0.into(),
            self.expires_at.map(|t| t.0).into(),
        ];
        // The same digest again is the same token: a given first token at each start.
        if tx.exec(&INSERT, &values).await? == 0 {
            return find(tx, &self.hash).await?.ok_or(OpError::NotFound("token"));
        }
        get(tx, self.id, None).await
    }
}

/// The token of a digest, if it holds now.
#[derive(Clone)]
pub struct FindToken {
    /// The digest.
    pub hash: String,
}

impl Op for FindToken {
    type Out = Option<TokenView>;
    const NAME: &'static str = "find_token";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        find(tx, &self.hash).await
    }
}

/// A token by its id.
#[derive(Debug, Clone)]
pub struct GetToken {
    /// Which.
    pub id: TokenId,
    /// Only of this tenant.
    pub scope: Option<TenantId>,
}

impl Op for GetToken {
    type Out = Option<TokenView>;
    const NAME: &'static str = "get_token";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let row = tx.row(&BY_ID, &[self.id.into(), self.scope.into()]).await?;
        row.as_ref().map(TokenView::read).transpose()
    }
}

/// A page of tokens, oldest first.
#[derive(Debug, Clone, Default)]
pub struct ListTokens {
    /// After this one.
    pub after: Option<TokenId>,
    /// How many at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
    /// What the caller may see: only this tenant's, or all.
    pub scope: Option<TenantId>,
}

impl Op for ListTokens {
    type Out = Vec<TokenView>;
    const NAME: &'static str = "list_tokens";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let after = self.after.map(|id| id.to_string()).unwrap_or_default();
        let rows = tx.rows(&LIST, &[after.into(), self.scope.into(), self.limit.clamp(1, PAGE_LIMIT).into()]).await?;
        rows.iter().map(TokenView::read).collect()
    }
}

/// Ends a token at once. Again is the same.
#[derive(Debug, Clone)]
pub struct RevokeToken {
    /// Which.
    pub id: TokenId,
    /// Only of this tenant.
    pub scope: Option<TenantId>,
}

impl Op for RevokeToken {
    type Out = TokenView;
    const NAME: &'static str = "revoke_token";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        get(tx, self.id, self.scope).await?;
        let now = tx.now().await?;
        tx.exec(&REVOKE, &[self.id.into(), now.0.into()]).await?;
        get(tx, self.id, self.scope).await
    }
}

async fn get(tx: &mut Tx<'_>, id: TokenId, scope: Option<TenantId>) -> Result<TokenView, OpError> {
    let row = tx.row(&BY_ID, &[id.into(), scope.into()]).await?.ok_or(OpError::NotFound("token"))?;
    TokenView::read(&row)
}

async fn find(tx: &mut Tx<'_>, hash: &str) -> Result<Option<TokenView>, OpError> {
    let now = tx.now().await?;
    let row = tx.row(&BY_HASH, &[hash.into(), now.0.into()]).await?;
    row.as_ref().map(TokenView::read).transpose()
}

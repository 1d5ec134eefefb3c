//! Facts about the store itself: names with texts.

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};

const GET: Stmt = both("select value from meta where name = ?1");
const PUT: Stmt = both("insert into meta (name, value) values (?1, ?2) on conflict (name) do update set value = excluded.value");
const MAKE: Stmt = both("insert into meta (name, value) values (?1, ?2) on conflict (name) do nothing");
const REMOVE: Stmt = both("delete from meta where name = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&GET, &PUT, &MAKE, &REMOVE];

/// The name under which [`InstallationId`] is kept.
const INSTALLATION: &str = "installation";
const INSTALLATION_LETTERS: usize = 8;

/// A text by its name.
#[derive(Debug, Clone)]
pub struct GetMeta {
    /// Its name.
    pub name: String,
}

impl Op for GetMeta {
    type Out = Option<String>;
    const NAME: &'static str = "get_meta";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        get(tx, &self.name).await
    }
}

/// Sets a text, or removes it.
#[derive(Debug, Clone)]
pub struct PutMeta {
    /// Its name.
    pub name: String,
    /// The text; `None` removes it.
    pub value: Option<String>,
}

impl Op for PutMeta {
    type Out = ();
    const NAME: &'static str = "put_meta";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        match &self.value {
            Some(value) => tx.exec(&PUT, &[self.name.as_str().into(), value.as_str().into()]).await?,
            None => tx.exec(&REMOVE, &[self.name.as_str().into()]).await?,
        };
        Ok(())
    }
}

/// Sets a text unless there is one; answers the one that holds.
#[derive(Debug, Clone)]
pub struct MakeMeta {
    /// Its name.
    pub name: String,
    /// The text for the case that there is none.
    pub value: String,
}

impl Op for MakeMeta {
    type Out = String;
    const NAME: &'static str = "make_meta";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.exec(&MAKE, &[self.name.as_str().into(), self.value.as_str().into()]).await?;
        get(tx, &self.name).await?.ok_or(OpError::NotFound("meta"))
    }
}

/// The installation's id, made with the store: part of every ownership tag (H1).
#[derive(Debug, Clone)]
pub struct InstallationId {
    candidate: String,
}

impl InstallationId {
    /// Gets the id, or makes it from `chance`.
    pub fn new(chance: &mut dyn provisor_core::Chance) -> Self {
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let letter = |n: u64| usize::try_from(n).ok().and_then(|n| letters.get(n)).copied().map_or('a', char::from);
        Self { candidate: (0..INSTALLATION_LETTERS).map(|_| letter(chance.below(letters.len() as u64))).collect() }
    }
}

impl Op for InstallationId {
    type Out = String;
    const NAME: &'static str = "installation_id";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let make = MakeMeta { name: INSTALLATION.to_owned(), value: self.candidate.clone() };
        make.run(tx).await
    }
}

async fn get(tx: &mut Tx<'_>, name: &str) -> Result<Option<String>, OpError> {
    let row = tx.row(&GET, &[name.into()]).await?;
    row.map(|r| r.text(0).map(str::to_owned)).transpose()
}

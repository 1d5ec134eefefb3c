//! What the log teaches of how long operations take (SPEC 3.3, H30): the page of what ended since, and the step that
//! takes it in.
//!
//! What is learned and how far the reader has come change in one transaction, and only from where the reader stands: so
//! each operation counts once, whatever crashes or repeats in between. The page is read and its lessons are drawn
//! outside of that transaction, as everybody waits for the one who writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::deadline::{self, Class, Figures, Key, Lesson};
use provisor_core::event::{Actor, Event, EventKind};
use provisor_core::{RequestId, Timestamp};
use serde_json::json;

use super::log::{self, Entry};
use super::log_row::{self, columns};
use super::readers::{OpenReader, Start};
use super::save::{self, Context, Lease};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each, many};
use crate::value::{Val, to_json};

/// The reader's name.
pub const READER: &str = "deadlines";
/// Rows of one page at most.
const PAGE: i64 = 200;
/// Positions that one page looks through at most.
const SCAN: i64 = 20_000;

// What asked nobody has no class, and is passed by without being read.
const ENDED: Stmt = each(
    concat!(
        "select event.position, ",
        columns!(),
        " from event where position > ?1 and position <= ?2 and instr(body, '\"class\":{') > 0 order by position limit ?3"
    ),
    concat!(
        "select feed.place, ",
        columns!(),
        " from feed join event on event.position = feed.position where feed.place > ?1 and feed.place <= ?2 \
         and strpos(event.body, '\"class\":{') > 0 order by feed.place limit ?3"
    ),
);
const ADVANCE: Stmt = both("update reader set position = ?3 where name = ?1 and position = ?2");
const GET: Stmt = many(
    "select class, body from learned where class = ?1",
    "select l.class, l.body from unnest(?1::text[]) as n (class) join learned l on l.class = n.class",
);
const PUT: Stmt = both(
    "insert into learned (class, key, body, version) values (?1, ?2, ?3, 1) on conflict (class) do update set \
     body = excluded.body, version = learned.version + 1",
);
const ALL: Stmt = both("select key, body from learned order by class");
const STAMP: Stmt = both("select cast(coalesce(sum(version), 0) as bigint) from learned");
const DUE: Stmt = both("select due_at from request where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&ENDED, &ADVANCE, &GET, &PUT, &ALL, &STAMP, &DUE];

/// One operation or step that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Whose.
    pub request: RequestId,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// What is alike.
    pub key: Key,
    /// What it tells.
    pub lesson: Lesson,
}

/// A page of what ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedPage {
    /// From where it was read.
    pub from: i64,
    /// Oldest first.
    pub ended: Vec<Ended>,
    /// Everything up to here is in it.
    pub to: i64,
    /// That is the end of the log for now.
    pub at_head: bool,
}

fn read(entry: &Entry) -> Option<Ended> {
    let (key, lesson) = deadline::ended(entry.kind, entry.body.step.as_deref(), &entry.body.detail)?;
    Some(Ended { request: entry.subject, at: entry.at, key, lesson })
}

/// Opens the reader, at the beginning (H38), and answers where it stands.
pub fn open() -> OpenReader {
    OpenReader { name: READER.to_owned(), start: Start::Beginning }
}

/// What ended after a position.
#[derive(Debug, Clone, Copy)]
pub struct ReadEnded {
    /// After this one.
    pub after: i64,
}

impl Op for ReadEnded {
    type Out = EndedPage;
    const NAME: &'static str = "read_ended";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<EndedPage, OpError> {
        let head = log::head(tx).await?;
        let end = log::scan_end(tx, self.after, head, SCAN).await?;
        if end <= self.after {
            return Ok(EndedPage { from: self.after, ended: Vec::new(), to: self.after, at_head: true });
        }
        let rows = tx.rows(&ENDED, &[self.after.into(), end.into(), PAGE.into()]).await?;
        let to = match rows.last() {
            Some(last) if i64::try_from(rows.len()).unwrap_or(i64::MAX) >= PAGE => last.int(0)?,
            _ => end,
        };
        let told = [EventKind::OperationDone, EventKind::StepFinished];
        let mut ended = Vec::new();
        for row in &rows {
            let entries = log_row::entries(row, |e| e.position > self.after && told.contains(&e.kind))?;
            ended.extend(entries.iter().filter_map(read));
        }
        Ok(EndedPage { from: self.after, ended, to, at_head: to >= head })
    }
}

/// Takes a page in and moves the reader on; `Fenced` when it does not stand where the page begins.
pub struct TakeIn {
    /// The page.
    pub page: EndedPage,
    /// Surroundings.
    pub context: Arc<Context>,
}

impl Op for TakeIn {
    type Out = Vec<(Key, Figures)>;
    const NAME: &'static str = "take_in";
    const MODE: Mode = Mode::Write;

    /// Answers the classes that have changed.
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<(Key, Figures)>, OpError> {
        let page = &self.page;
        if tx.exec(&ADVANCE, &[READER.into(), page.from.into(), page.to.into()]).await? == 0 {
            return Err(OpError::Fenced);
        }
        let keys: BTreeSet<Key> = page.ended.iter().flat_map(|e| e.key.chain()).collect();
        let mut found: BTreeMap<String, Class> = BTreeMap::new();
        for row in tx.rows_of(&GET, keys.iter().map(|key| vec![key.name().into()]).collect()).await? {
            // What cannot be read is learned anew: it is only experience.
            found.insert(row.text(0)?.to_owned(), row.json(1).unwrap_or_default());
        }
        let known = |key: Key| {
            let class = found.remove(&key.name()).unwrap_or_default();
            (key, class)
        };
        let mut classes: BTreeMap<Key, Class> = keys.into_iter().map(known).collect();
        let mut off = Vec::new();
        for ended in &page.ended {
            for key in ended.key.chain() {
                if classes.get_mut(&key).is_some_and(|c| c.learn(&ended.lesson, ended.at)) {
                    off.push((key, ended.request));
                }
            }
        }
        let mut rows: Vec<Vec<Val>> = Vec::with_capacity(classes.len());
        for (key, class) in &classes {
            rows.push(vec![key.name().into(), to_json(key)?.into(), to_json(class)?.into()]);
        }
        tx.batch(&PUT, rows).await?;
        // In order of the requests, as each is locked.
        off.sort_by_key(|(_, request)| *request);
        for (key, request) in off {
            self.tell_off(tx, &key, request).await?;
        }
        Ok(classes.into_iter().map(|(key, class)| (key, class.figures())).collect())
    }
}

impl TakeIn {
    /// The fact stands with the request whose operation was the last of too many.
    async fn tell_off(&self, tx: &mut Tx<'_>, key: &Key, request: RequestId) -> Result<(), OpError> {
        let now = tx.now().await?;
        let Ok(Some(loaded)) = save::load(tx, request).await else { return Ok(()) };
        let detail = json!({"class": key.name(), "for_seconds": deadline::OFF});
        let actor = Some(Actor::system(READER));
        let event = Event { detail, actor, ..Event::new(EventKind::LearningOff) };
        let due = tx.row(&DUE, &[request.into()]).await?.map_or(Ok(i64::MAX), |row| row.int(0))?;
        let mut chance = SplitMix::new((self.context.seeds)());
        save::save(tx, &self.context, loaded, vec![event], Lease::Attention(Timestamp(due)), now, &mut chance).await.map(drop)
    }
}

/// Everything that is known, for a process that begins or follows.
#[derive(Debug, Clone, Copy)]
pub struct AllLearned;

impl Op for AllLearned {
    type Out = Vec<(Key, Figures)>;
    const NAME: &'static str = "all_learned";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let rows = tx.rows(&ALL, &[]).await?;
        // What this release cannot read is not known to it.
        let read = |row: &crate::value::Row| Some((row.json(0).ok()?, row.json::<Class>(1).ok()?.figures()));
        Ok(rows.iter().filter_map(read).collect())
    }
}

/// Another value whenever something was learned.
#[derive(Debug, Clone, Copy)]
pub struct LearnedStamp;

impl Op for LearnedStamp {
    type Out = i64;
    const NAME: &'static str = "learned_stamp";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<i64, OpError> {
        tx.row(&STAMP, &[]).await?.map_or(Ok(0), |row| row.int(0))
    }
}

//! The end of the log, read once for all live streams. Whoever waits there and is woken first reads what is new; the others
//! find it in memory. An event is read and written as text when the first stream shows it, for all of them.
//!
//! Only what was published a moment ago is kept. A stream that is further behind reads the log itself until it has come
//! near enough. Rejected: a task that reads ahead and sends to every stream, which works also where nobody listens, and
//! must decide what becomes of a stream that does not keep up.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use provisor_store::ops::log::{LogRow, Standing, Tail as ReadTail};
use provisor_store::{OpError, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::show;
use crate::sse::LOOK_AGAIN;

/// Rows kept.
const KEPT: usize = 512;
/// Rows read at a time.
const PAGE: i64 = 256;

/// A row of the log with the texts of those of its events that were shown.
pub(crate) struct Told {
    row: LogRow,
    texts: Vec<OnceLock<String>>,
}

impl Told {
    fn new(row: LogRow) -> Self {
        let texts = row.standings().iter().map(|_| OnceLock::new()).collect();
        Self { row, texts }
    }

    /// The row.
    pub(crate) fn row(&self) -> &LogRow {
        &self.row
    }

    /// Those of its events that are wanted, with their texts.
    pub(crate) fn shown<'a>(
        &'a self,
        installation: &'a str,
        wanted: impl Fn(&Standing) -> bool + 'a,
    ) -> impl Iterator<Item = Result<(Standing, &'a str), OpError>> + 'a {
        let all = self.row.standings().iter().zip(&self.texts);
        all.filter(move |(standing, _)| wanted(standing)).map(move |(standing, text)| {
            if let Some(text) = text.get() {
                return Ok((*standing, text.as_str()));
            }
            let entry = self.row.entry(standing)?;
            Ok((*standing, text.get_or_init(|| show::event::text(&entry, installation)).as_str()))
        })
    }
}

#[derive(Default)]
struct Kept {
    /// All that is published after this position and up to `to` is in `rows`.
    from: i64,
    to: i64,
    rows: VecDeque<Arc<Told>>,
    /// What the bell said before the last look that came to the end, and when that was.
    at_head: Option<(u64, Instant)>,
}

/// What has come after a position.
pub(crate) struct News {
    /// Rows, oldest first; of the first one some events may be before the position.
    pub(crate) rows: Vec<Arc<Told>>,
    /// Everything up to here has been looked at.
    pub(crate) to: i64,
    /// There may be more at once.
    pub(crate) more: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Tail(Mutex<Kept>);

impl Tail {
    /// What is published after a position; `None` where that is too long ago. `bell` is what the bell said before the call.
    pub(crate) async fn after(&self, store: &Store, position: i64, bell: u64) -> Result<Option<News>, OpError> {
        // Held while the log is read: who comes meanwhile finds what this one has read.
        let mut kept = self.0.lock().await;
        if position > kept.to {
            // Nobody has listened for a while: what lies between is nobody's.
            *kept = Kept { from: position, to: position, ..Kept::default() };
        }
        if position < kept.from {
            return Ok(None);
        }
        // Half of it, as all of them look again after that time, one a little after the other.
        let is_known = kept.at_head.is_some_and(|(said, at)| said == bell && at.elapsed() < LOOK_AGAIN / 2);
        if !is_known {
            kept.look(store, bell).await?;
        }
        let known = kept.rows.partition_point(|told| told.row.position() <= position);
        let rows = kept.rows.range(known..).cloned().collect();
        Ok(Some(News { rows, to: kept.to, more: kept.at_head.is_none() }))
    }
}

impl Kept {
    async fn look(&mut self, store: &Store, bell: u64) -> Result<(), OpError> {
        let at = Instant::now();
        let page = store.run(ReadTail { after: self.to, limit: PAGE }).await?;
        self.rows.extend(page.rows.into_iter().map(|row| Arc::new(Told::new(row))));
        self.to = page.next;
        self.at_head = page.at_head.then_some((bell, at));
        while self.rows.len() > KEPT {
            self.from = self.rows.pop_front().map_or(self.from, |told| told.row.position());
        }
        Ok(())
    }
}

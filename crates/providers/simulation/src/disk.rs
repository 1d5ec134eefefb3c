//! The simulated cloud's own durable memory, apart from Provisor's database: one table of keys and JSON values.
//!
//! The cloud lives in memory; what changes is written through by one thread that folds whatever is queued into one
//! commit. A call that made or deleted something is answered only after its commit, so that a create that answered is
//! there after a kill; a mere count of calls waits for nobody. `synchronous=NORMAL` is enough: the cloud has to outlive
//! Provisor's process, not a power cut. Rejected: a table for each thing with columns, as nobody ever queries them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

/// Writes that may be queued before the caller waits.
const QUEUE: usize = 16_384;
/// Writes folded into one commit.
const BATCH: usize = 2_000;

/// Why the cloud's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The folder cannot be made.
    #[error("the folder of the simulated cloud cannot be made: {0}")]
    Folder(#[from] std::io::Error),
    /// The file cannot be read or written; also when another process holds it.
    #[error("the simulated cloud's memory cannot be opened (does another process hold it?): {0}")]
    Database(#[from] rusqlite::Error),
}

/// A key and its new value; `None` removes it.
pub(crate) type Change = (String, Option<String>);

struct Write {
    changes: Vec<Change>,
    written: Option<oneshot::Sender<bool>>,
}

/// The memory and its thread.
pub(crate) struct Disk {
    sender: Option<SyncSender<Write>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens the memory in a folder, with all that is in it.
    pub(crate) fn open(folder: &Path) -> Result<(Self, BTreeMap<String, String>), DiskError> {
        std::fs::create_dir_all(folder)?;
        let connection = Connection::open(folder.join("simcloud.db"))?;
        // Why exclusive: two clouds over one memory would both be wrong.
        connection.execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=2000;
             CREATE TABLE IF NOT EXISTS memory(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;",
        )?;
        let all = {
            let mut statement = connection.prepare("SELECT key, value FROM memory")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<BTreeMap<String, String>, _>>()?
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("simcloud-disk".to_owned()).spawn(move || write(connection, &receiver))?;
        Ok((Self { sender: Some(sender), thread: Some(thread) }, all))
    }

    /// Queues changes in the order of the calls; with `durable` the receiver tells when they are committed.
    pub(crate) fn put(&self, changes: Vec<Change>, durable: bool) -> Option<oneshot::Receiver<bool>> {
        let (written, receiver) = durable.then(oneshot::channel).unzip();
        // A thread that is gone drops `written`, which the receiver sees as a failed write.
        if let Some(sender) = &self.sender {
            let _ = sender.send(Write { changes, written });
        }
        receiver
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(mut connection: Connection, queue: &Receiver<Write>) {
    let mut failing = false;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while let Some(more) = (batch.len() < BATCH).then(|| queue.try_recv().ok()).flatten() {
            batch.push(more);
        }
        let mut changes: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for (key, value) in batch.iter().flat_map(|w| &w.changes) {
            changes.insert(key, value.as_deref());
        }
        let result = commit(&mut connection, &changes);
        // Once: a full disk fails every write.
        match &result {
            Err(error) if !failing => tracing::error!(%error, "the simulated cloud cannot write its memory"),
            _ => {}
        }
        failing = result.is_err();
        for written in batch.into_iter().filter_map(|w| w.written) {
            let _ = written.send(result.is_ok());
        }
    }
}

fn commit(connection: &mut Connection, changes: &BTreeMap<&str, Option<&str>>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut put = transaction
            .prepare_cached("INSERT INTO memory(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2")?;
        let mut remove = transaction.prepare_cached("DELETE FROM memory WHERE key = ?1")?;
        for (key, value) in changes {
            match value {
                Some(value) => put.execute((key, value))?,
                None => remove.execute((key,))?,
            };
        }
    }
    transaction.commit()
}

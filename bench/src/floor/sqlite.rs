//! One writer thread on SQLite: write-ahead log, every commit flushed.

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{Change, GROUP_LIMIT};
use crate::{BenchError, Done, io};

const SCHEMA: &str = "
    pragma journal_mode = wal;
    pragma synchronous = full;
    create table request (id text primary key, state text not null, version integer not null, body text not null,
        updated_at integer not null) strict;
    create table event (position integer primary key autoincrement, subject text not null, version integer not null,
        kind text not null, at integer not null, body text not null, unique (subject, version)) strict;";
const INSERT: &str = "insert into request (id, state, version, body, updated_at) values (?1, ?2, 1, ?3, ?4)";
const UPDATE: &str = "update request set state = ?2, version = version + 1, updated_at = ?4 where id = ?1 and version = ?3";
const EVENT: &str = "insert into event (subject, version, kind, at, body) values (?1, ?2, ?3, ?4, ?5)";

fn wrong(error: &rusqlite::Error) -> BenchError {
    BenchError::Wrong(error.to_string())
}

pub(super) fn start(file: &str, queue: mpsc::Receiver<Change>) -> Done<std::thread::JoinHandle<()>> {
    let connection = Connection::open(file).map_err(|e| wrong(&e))?;
    connection.execute_batch(SCHEMA).map_err(|e| wrong(&e))?;
    let thread = std::thread::Builder::new().name("floor-writer".to_owned());
    thread.spawn(move || write_all(&connection, queue)).map_err(io("a thread"))
}

fn write_all(connection: &Connection, mut queue: mpsc::Receiver<Change>) {
    let mut group = Vec::with_capacity(GROUP_LIMIT);
    while queue.blocking_recv_many(&mut group, GROUP_LIMIT) > 0 {
        let done = write_group(connection, &group).is_ok();
        for change in group.drain(..) {
            // Nobody may wait for it any more.
            let _ = change.done.send(done);
        }
    }
}

fn write_group(connection: &Connection, group: &[Change]) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("begin immediate")?.execute([])?;
    let now = super::now_us();
    for change in group {
        let changed = if change.version == 0 {
            connection.prepare_cached(INSERT)?.execute((&change.id, change.state, &change.body, now))?
        } else {
            connection.prepare_cached(UPDATE)?.execute((&change.id, change.state, change.version, now))?
        };
        if changed != 1 {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        connection.prepare_cached(EVENT)?.execute((&change.id, change.version + 1, change.state, now, &change.body))?;
    }
    connection.prepare_cached("commit")?.execute([]).map(drop)
}

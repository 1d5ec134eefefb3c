//! Every statement is prepared, and none of them reads through a large table.

use std::collections::BTreeSet;

use provisor_store::Store;
use provisor_store::driver::postgres::{PLANNING, numbered};
use provisor_store::ops::ALL_STATEMENTS;
use rusqlite::Connection;

use crate::build::Folder;

/// Tables that grow with the number of requests.
const LARGE: [&str; 6] = ["request", "event", "resource", "label", "dependency", "idempotency"];

/// Statements that may read through an index of a large table, with what they read and why.
const ALLOWED: [(&str, &str, &str); 3] = [
    ("stats", "USING COVERING INDEX request_state", "the number of requests by state is counted in a narrow index"),
    ("stats", "USING COVERING INDEX resource_open", "only open rows are in the index"),
    ("wake", "USING INDEX resource_open", "only what is owed is read"),
];

/// The same for PostgreSQL.
const ALLOWED_ON_POSTGRES: [(&str, &str, &str); 3] = [
    ("stats", "using request_census", "the number of requests by state is counted in a narrow index"),
    ("stats", "using resource_open", "only open rows are in the index"),
    ("stats", "using request_due", "only what is begun and due is in the index"),
];

fn database() -> (Folder, Connection) {
    let folder = Folder::new();
    drop(Store::open_sqlite(&folder.database()).unwrap());
    let connection = Connection::open(folder.database()).unwrap();
    (folder, connection)
}

#[test]
fn every_statement_can_be_prepared() {
    let (_folder, connection) = database();
    let mut count = 0;
    for (file, statements) in ALL_STATEMENTS {
        for statement in *statements {
            connection.prepare(statement.text).unwrap_or_else(|e| panic!("{file}: {e}\n{}", statement.text));
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// The same on PostgreSQL, and there is an index for each condition on a large table: with reading through
/// made as dear as can be, none is read through all the same.
#[test]
fn every_statement_can_be_prepared_and_has_its_index_on_postgres() {
    let Some(url) = crate::postgres::database() else { return };
    drop(Store::open_postgres(&url).unwrap());
    let faults = faults_on_postgres(&url, false);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The statements that would read through a large table, as the server plans them for any values; where it has rows
/// enough to care, through a whole index neither.
#[allow(clippy::print_stderr)] // Plans are shown to whoever asks.
pub fn faults_on_postgres(url: &str, has_rows: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut script = String::new();
    let mut texts = Vec::new();
    for (file, statements) in ALL_STATEMENTS {
        for statement in *statements {
            let text = statement.postgres.unwrap_or(statement.text);
            let count = (1..30).take_while(|n| text.contains(&format!("?{n}"))).count();
            let name = format!("s{}", texts.len());
            let nulls = if count == 0 { String::new() } else { format!("({})", vec!["null"; count].join(", ")) };
            // Told apart in the answers by a row of its own.
            let prepare = format!("prepare {name} as {};", numbered(text));
            script.extend([prepare, format!("select '#{name}'; explain (costs off) execute {name}{nulls};\n")]);
            texts.push((*file, text));
        }
    }
    let mut current = 0;
    let lines = crate::postgres::sql(url, &format!("{PLANNING}; set jit = off;\n{script}"));
    for (index, line) in lines.iter().enumerate() {
        if let Some(number) = line.strip_prefix("#s") {
            current = number.parse().unwrap();
            continue;
        }
        let (file, text) = texts[current];
        if std::env::var_os("SHOW_PLANS").is_some() {
            eprintln!("{file}: {text}\n    {line}");
        }
        let near = |index: usize| lines.get(index).map_or("", String::as_str);
        // The first row of an index is not all of it.
        let searched = near(index + 1).contains("Index Cond:") || near(index.saturating_sub(1)).contains("Limit");
        let allowed = ALLOWED_ON_POSTGRES.iter().any(|(f, plan, _)| *f == file && line.contains(plan));
        if read_through_on_postgres(line, has_rows && !searched).is_some_and(|table| LARGE.contains(&table)) && !allowed {
            faults.push(format!("{file}: {line}\n    {text}"));
        }
        // A page of a list comes in the order of its index, and nobody helps: both cost what the whole table costs.
        let gathered = line.split_once("Bitmap Heap Scan on ").and_then(|(_, rest)| rest.split([' ', '(']).next());
        let gathers = gathered.is_some_and(|table| LARGE.contains(&table)) || line.contains("Gather");
        if gathers || has_rows && file == "requests" && line.contains("Sort") {
            faults.push(format!("{file}: {line}\n    {text}"));
        }
    }
    assert!(texts.len() > 40 && current == texts.len() - 1, "{current} of {}", texts.len());
    faults
}

/// The table that a line of a plan reads through: all of it, or all of an index of it.
fn read_through_on_postgres(line: &str, unsearched: bool) -> Option<&str> {
    let whole = line.contains("Seq Scan on ");
    let index = unsearched && (line.contains("Index Scan using ") || line.contains("Index Only Scan using "));
    let table = if whole || index { line.split(" on ").nth(1) } else { None };
    table?.split(' ').next()
}

/// The large tables of a statement under all the names that it gives them.
fn large_names(text: &str) -> BTreeSet<String> {
    let cleaned = text.to_lowercase().replace(['(', ')', ','], " ");
    let words: Vec<&str> = cleaned.split_whitespace().collect();
    let mut names = BTreeSet::new();
    for (index, word) in words.iter().enumerate().filter(|(_, w)| LARGE.contains(w)) {
        names.insert((*word).to_owned());
        let next = words.get(index + 1).filter(|w| **w == "as").map_or(index + 1, |_| index + 2);
        names.extend(words.get(next).map(|w| (*w).to_owned()));
    }
    names
}

/// What a step of a plan reads through: a whole table or index, or all that is in one state.
fn read_through(detail: &str) -> Option<&str> {
    let searched = detail.strip_prefix("SEARCH ").filter(|d| d.ends_with("(state=?)") || d.ends_with("(kind=?)"));
    detail.strip_prefix("SCAN ").or(searched)?.split(' ').next()
}

#[test]
fn no_statement_reads_through_a_large_table() {
    let (_folder, connection) = database();
    let faults = faults_on_sqlite(&connection);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The statements that would read through a large table, or sort.
#[allow(clippy::print_stderr)] // The same.
pub fn faults_on_sqlite(connection: &Connection) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, statements) in ALL_STATEMENTS {
        for statement in *statements {
            let mut explain = connection.prepare(&format!("explain query plan {}", statement.text)).unwrap();
            let params = vec![rusqlite::types::Null; explain.parameter_count()];
            let details: Vec<String> =
                explain.query_map(rusqlite::params_from_iter(params), |row| row.get(3)).unwrap().map(Result::unwrap).collect();
            let large = large_names(statement.text);
            for detail in &details {
                let Some(scanned) = read_through(detail) else { continue };
                let allowed = ALLOWED.iter().any(|(f, plan, _)| f == file && detail.contains(plan));
                if large.contains(scanned) && !allowed {
                    faults.push(format!("{file}: {detail}\n    {}", statement.text));
                }
            }
            if std::env::var_os("SHOW_PLANS").is_some() {
                eprintln!("{file}: {}\n    {}", statement.text, details.join("\n    "));
            }
            if details.iter().any(|d| d.contains("TEMP B-TREE FOR ORDER BY")) && *file != "ledger" {
                faults.push(format!("{file} sorts: {details:?}\n    {}", statement.text));
            }
        }
    }
    faults
}

//! Which test shows which hard case, found by the number in its name. The table of all:
//! `cargo test -p provisor-engine --test it hard::cases -- --nocapture`.
//!
//! A case that must hold on both databases and has no test on one of them fails the test below, so a number cannot get
//! lost when tests are moved. Rejected: a list kept by hand, which agrees with the tests on the day it is written; a document
//! checked in, which every new test would make stale.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The cases that must be shown on both databases.
const ON_BOTH: [(u32, &str); 20] = [
    (1, "The tag"),
    (2, "The sweeper's safety"),
    (3, "Undo never touches a stranger"),
    (4, "\"Already gone\" is believed only of the same backend"),
    (5, "The zombie's create"),
    (6, "Late arrivals"),
    (7, "Winning, cancelling, being stuck, against calls in flight"),
    (8, "Clean-up owed"),
    (9, "Attempts do not share"),
    (10, "Retrying"),
    (11, "State with several attempts"),
    (12, "Stuck"),
    (13, "Commands during an action"),
    (14, "An action fails"),
    (15, "Drift"),
    (16, "Queued for ever"),
    (17, "Managed"),
    (40, "Clocks"),
    (41, "Restore, promotion"),
    (42, "Durability"),
];

/// On which database a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    Both,
    Sqlite,
    Postgres,
    /// It needs none.
    Neither,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    on: On,
    name: String,
    file: String,
}

type Cases = BTreeMap<u32, Vec<Shown>>;

/// Every case with its tests.
fn table() -> String {
    let (cases, scenarios) = (found(), scenarios());
    let mut text = String::new();
    for (number, shown) in &cases {
        let title = ON_BOTH.iter().find(|(n, _)| n == number).map_or(String::new(), |(_, title)| format!(" {title}"));
        let _ = writeln!(text, "H{number}{title}");
        for (on, word) in [
            (On::Both, "SQLite and PostgreSQL"),
            (On::Sqlite, "SQLite"),
            (On::Postgres, "PostgreSQL"),
            (On::Neither, "without a store"),
        ] {
            for one in shown.iter().filter(|s| s.on == on) {
                let _ = writeln!(text, "  {word}: {} ({})", one.name, one.file);
            }
        }
        if let Some(count) = scenarios.get(number) {
            let _ = writeln!(text, "  scenarios of core: {count}");
        }
    }
    text
}

/// All tests that bear a number.
fn found() -> Cases {
    let (mut cases, root) = (Cases::new(), &root());
    for file in sources() {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for (number, name) in text.lines().filter_map(numbered) {
            cases.entry(number).or_default().push(Shown { on: on(&place), name: name.to_owned(), file: place.clone() });
        }
    }
    for shown in cases.values_mut() {
        shown.sort();
    }
    cases
}

/// `pub(crate) async fn h05_a_lost_answer(…`: the number and the name.
fn numbered(line: &str) -> Option<(u32, &str)> {
    let (before, rest) = line.split_once("fn h")?;
    let is_head = before.split_whitespace().all(|word| word == "async" || word.starts_with("pub"));
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let number = rest.get(..digits)?.parse().ok().filter(|_| is_head && rest.as_bytes().get(digits) == Some(&b'_'))?;
    let end = rest.find('(')?;
    Some((number, line.get(before.len() + 3..before.len() + 4 + end)?))
}

/// Suites run on both; beside them a place says which one it is about.
fn on(place: &str) -> On {
    let suites = ["engine/tests/it/hard/", "engine/tests/it/crash.rs", "store/tests/it/ops/", "store/tests/it/pipeline/"];
    if suites.iter().any(|suite| place.contains(suite)) {
        On::Both
    } else if place.contains("postgres") {
        On::Postgres
    } else if ["crates/core/", "crates/providers/", "crates/api/src/"].iter().any(|without| place.starts_with(without)) {
        On::Neither
    } else {
        On::Sqlite
    }
}

/// How many scenarios of core name a case in their title.
fn scenarios() -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for file in listed(&root().join("crates/core/scenarios"), "txt") {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        for title in text.lines().filter(|line| line.starts_with("===")) {
            let words = title.split(|c: char| !c.is_ascii_alphanumeric());
            let mut numbers: Vec<u32> = words.filter_map(|w| w.strip_prefix('H')?.parse().ok()).collect();
            numbers.sort_unstable();
            numbers.dedup();
            for n in numbers {
                *counts.entry(n).or_insert(0) += 1;
            }
        }
    }
    counts
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sources() -> Vec<PathBuf> {
    let mut files = listed(&root().join("crates"), "rs");
    files.extend(listed(&root().join("provisor"), "rs"));
    files.sort();
    files
}

/// Files of a kind below a folder.
fn listed(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(listed(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_case_that_must_hold_on_both_databases_has_a_test_on_each() {
    let cases = found();
    let has = |number: &u32, on: On| cases.get(number).is_some_and(|s| s.iter().any(|s| s.on == On::Both || s.on == on));
    let missing: Vec<String> = ON_BOTH
        .iter()
        .flat_map(|(number, _)| [On::Sqlite, On::Postgres].map(|on| (number, on)))
        .filter(|(number, on)| !has(number, *on))
        .map(|(number, on)| format!("H{number} on {on:?}"))
        .collect();
    eprintln!("{}", table());
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn numbers_are_read_from_the_heads_of_functions_alone() {
    assert_eq!(numbered("pub(crate) async fn h05_a_lost_answer(ground: Ground) {"), Some((5, "h05_a_lost_answer")));
    assert_eq!(numbered("    fn h1_a_tag_is_short() {"), Some((1, "h1_a_tag_is_short")));
    assert_eq!(numbered("// as in fn h1_a_tag()"), None);
    assert_eq!(numbered("fn house() {"), None);
    assert_eq!(numbered("fn h1tag() {"), None);
}

//! The binary on a real PostgreSQL: the main job, also when it is killed in the middle, and two servers at once.
//!
//! `PROVISOR_TEST_POSTGRES_URL` names a server whose user may create databases; each test makes one and leaves
//! it there. Without it the tests are skipped with a line, and fail where `PROVISOR_TEST_REQUIRE_SERVICES=1`.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::house::{Done, Folder, LIMIT, Server, command};
use crate::outside::{Cloud, Http, assert_balanced, crash, list, text, wait_up_to};
use crate::process::what_was_answered_survives_a_kill;
use crate::recovery::{seeded, survives_kills};
use crate::restore::a_restored_store_misses_nothing_and_releases_nothing_unknown;
use crate::timeline::assert_adds_up;

/// What the quickstart applies.
const EXAMPLE: &str = include_str!("../../../examples/quickstart.yaml");

/// Runs statements on a connection of its own; answers the first column of each row.
pub(crate) fn sql(url: &str, text: &str) -> Vec<String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (client, link) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let link = tokio::spawn(link);
        let answers = client.simple_query(text).await.unwrap();
        drop(client);
        link.await.unwrap().unwrap();
        let first = |m| match m {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        answers.into_iter().filter_map(first).collect()
    })
}

/// The URL of a fresh database; `None` without a server.
pub(crate) fn database() -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var("PROVISOR_TEST_POSTGRES_URL") else {
        assert!(std::env::var_os("PROVISOR_TEST_REQUIRE_SERVICES").is_none_or(|v| v != "1"), "no PROVISOR_TEST_POSTGRES_URL");
        writeln!(std::io::stderr().lock(), "skipped on PostgreSQL: PROVISOR_TEST_POSTGRES_URL is not set").unwrap();
        return None;
    };
    let name = format!("binary_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    sql(&url, &format!("create database {name}"));
    let (server, rest) = url.rsplit_once('/').unwrap();
    let parameters = rest.split_once('?').map_or(String::new(), |(_, p)| format!("?{p}"));
    Some(format!("{server}/{name}{parameters}"))
}

/// A folder whose configuration names the database.
fn folder(url: &str) -> Folder {
    let folder = Folder::new();
    folder.write("provisor.toml", &format!("[database]\nurl = \"{url}\"\n[worker]\nlease_seconds = 2\n"));
    folder
}

/// `user:password@` of a URL is not in a text.
#[track_caller]
fn assert_secret(url: &str, told: &str) {
    let login = url.split_once("://").unwrap().1.split_once('@').unwrap().0;
    assert!(!told.contains(login), "{told}");
}

#[test]
fn the_example_is_completed_although_the_server_is_killed_in_the_middle() {
    let Some(url) = database() else { return };
    let mut server = Server::start_in(folder(&url));
    server.apply(EXAMPLE, &[]).exits(0);
    for count in [12, 24] {
        let http = Http::of(&server);
        wait_up_to(LIMIT, "there are events", || (http.events().len() >= count).then_some(()));
        server = Server::start_in(crash(server));
    }
    let http = Http::of(&server);
    wait_up_to(LIMIT * 2, "all is completed", || http.requests().iter().all(|r| r["state"] == "completed").then_some(()));
    let requests = http.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_eq!(list(request, "/attempts").len(), 1, "{request:#}");
        if request["kind"] == "vps" {
            assert_adds_up(&http, text(request, "/id"));
        }
    }
    let clouds = ["sim-eu-1", "sim-k8s-1", "sim-argo-1"].map(|name| Cloud { http: &http, name });
    assert_balanced(&http, &clouds);
    assert_eq!(sql(&url, "select count(*) from request where state = 'completed'"), ["4"], "it is in that database");
    assert_secret(&url, &server.log());
    let folder = server.stop();
    assert!(!folder.0.join("data/provisor.db").exists());
}

#[test]
fn kills_again_and_again_lose_nothing_and_double_nothing() {
    let Some(url) = database() else { return };
    let seed = seeded(3);
    println!("seed {seed}");
    survives_kills(folder(&url), false, seed);
}

#[test]
fn quickstart_runs_on_it() {
    let Some(url) = database() else { return };
    let folder = folder(&url);
    let arguments = ["quickstart", "--data", "q", "--listen", "127.0.0.1:0", "--exit-when-done"];
    let done: Done = command(&folder.0).args(arguments).output().unwrap().into();
    let done = done.exits(0);
    assert!(done.out.contains("What happened to web") && done.out.contains("with the data in postgres://"), "{done:?}");
    assert_secret(&url, &done.out);
    assert_secret(&url, &done.err);
}

fn name_of(url: &str) -> String {
    url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned()
}

fn serve(url: &str) -> Done {
    let folder = folder(url);
    command(&folder.0).args(["serve", "--data", "data", "--listen", "127.0.0.1:0"]).output().unwrap().into()
}

#[test]
fn h42_commits_that_are_not_durable_are_refused() {
    let Some(url) = database() else { return };
    sql(&url, &format!("alter database {} set synchronous_commit = off", name_of(&url)));
    let weak = serve(&url).exits(2);
    assert!(weak.err.contains("synchronous_commit = off") && weak.err.trim().lines().count() == 1, "{weak:?}");
    assert_secret(&url, &weak.err);
}

#[test]
fn h42_what_was_answered_survives_a_kill() {
    let Some(url) = database() else { return };
    what_was_answered_survives_a_kill(folder(&url));
}

#[test]
fn what_it_refuses_is_told_in_one_line() {
    let Some(url) = database() else { return };
    let name = name_of(&url);
    let (user, _) = url.split_once("://").unwrap().1.split_once(':').unwrap();
    let wrong = url.replacen(&format!("{user}:"), &format!("{user}:hunter2"), 1);
    let told = [serve(&wrong).exits(2), serve(&url.replace(&name, "not_there")).exits(2)];
    sql(&url, "create table notes (note text)");
    let others = serve(&url).exits(2);
    assert!(others.err.contains("tables of another program"), "{others:?}");
    assert!(told[0].err.contains("refuses the login"), "{told:?}");
    // A standby, or a server that somebody has made one that only answers.
    sql(&url, &format!("drop table notes; alter database {name} set default_transaction_read_only = on"));
    let standby = serve(&url).exits(2);
    assert!(standby.err.contains("transaction_read_only = on"), "{standby:?}");
    sql(&url, &format!("set transaction read write; alter database {name} reset default_transaction_read_only"));
    // A user that may not make tables.
    let guest = format!("guest_{name}");
    sql(&url, &format!("create role {guest} login password 'hunter2'"));
    let (_, place) = url.split_once('@').unwrap();
    let poor = serve(&format!("postgres://{guest}:hunter2@{place}")).exits(2);
    assert!(poor.err.contains("permission denied for schema public"), "{poor:?}");
    sql(&url, &format!("drop role {guest}"));
    for done in told.iter().chain([&others, &standby, &poor]) {
        assert_eq!(done.err.trim().lines().count(), 1, "{done:?}");
        assert_secret(&url, &done.err);
        assert!(!done.err.contains("hunter2"), "{done:?}");
    }
}

#[test]
fn h41_a_restored_database_misses_nothing_and_releases_nothing_unknown() {
    let (Some(first), Some(second)) = (database(), database()) else { return };
    a_restored_store_misses_nothing_and_releases_nothing_unknown(&first, Some(&second));
}

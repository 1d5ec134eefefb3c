//! Opening a PostgreSQL database: refusals that say what and where in one line, and nothing of the password.

use std::io::{Read as _, Write as _};

use provisor_core::State;
use provisor_store::driver::postgres::PostgresError;
use provisor_store::ops::requests::GetRequest;
use provisor_store::{OpenError, Store};

use super::server::{database, sql};
use crate::build::World;

fn refusal(url: &str) -> PostgresError {
    let error = Store::open_postgres(url).err().expect("it opened");
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("provisor:provisor") && !text.contains("hunter2"), "{text}");
    match error {
        OpenError::Postgres(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reopening_keeps_everything() {
    let Some(url) = database() else { return };
    let run = {
        let world = World::over(Store::open_postgres(&url).unwrap(), None);
        let tenant = world.tenant("acme").await;
        world.request(&tenant, "db", State::Queued).await
    };
    let store = Store::open_postgres(&url).unwrap();
    assert_eq!(store.run(GetRequest { id: run.id, scope: None }).await.unwrap().unwrap().run, run);
}

#[test]
fn many_open_an_empty_database_at_once() {
    let Some(url) = database() else { return };
    let open = || {
        let url = url.clone();
        std::thread::Builder::new().spawn(move || drop(Store::open_postgres(&url).unwrap())).unwrap()
    };
    for thread in (0..4).map(|_| open()).collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    let twice = "select version from refinery_schema_history group by version having count(*) > 1";
    assert_eq!(sql(&url, twice), Vec::<String>::new());
    assert_eq!(sql(&url, "select min(version) from refinery_schema_history"), ["1"]);
}

#[test]
fn wrong_urls_are_refused() {
    assert!(matches!(refusal("database"), PostgresError::Url { .. }));
    assert!(matches!(refusal("postgres:///database"), PostgresError::Url { .. }));
    let error = refusal("postgres://provisor:hunter2@127.0.0.1:1/database");
    assert!(matches!(&error, PostgresError::Unreachable { place, .. } if place == "127.0.0.1:1/database"), "{error}");
    let error = refusal("postgres://provisor:hunter2@127.0.0.1:1/database?sslmode=verify-full&sslrootcert=/no/such");
    assert!(matches!(&error, PostgresError::Url { reason } if reason.contains("/no/such cannot be read")), "{error}");
}

/// Lets in whoever comes, and is gone at the first question.
fn gone_at_the_first_question() -> String {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let answer = move || -> std::io::Result<()> {
        let (mut client, _) = server.accept()?;
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut start = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut start)?;
        // The login is good, and it waits for a question.
        client.write_all(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x18server_version\x0015.0\0Z\0\0\0\x05I")?;
        client.read_exact(&mut [0; 1])
    };
    std::thread::Builder::new().spawn(move || answer().unwrap()).unwrap();
    format!("postgres://provisor@{address}/database?sslmode=disable")
}

/// The migrations' own questions are wrapped twice by their library.
#[test]
fn a_server_that_goes_away_while_it_is_migrated_cannot_be_reached() {
    let Some(url) = database() else { return };
    // The session ends when the names of what is applied are read, which only the migrations do.
    sql(
        &url,
        "create view refinery_schema_history as select 7 as version, pg_terminate_backend(pg_backend_pid())::text as name, \
         '' as applied_on, '0' as checksum",
    );
    let error = refusal(&url);
    assert!(matches!(&error, PostgresError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_server_that_goes_away_meanwhile_cannot_be_reached() {
    let error = refusal(&gone_at_the_first_question());
    assert!(matches!(&error, PostgresError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_wrong_login_is_refused() {
    let Some(url) = database() else { return };
    for wrong in [url.replace("provisor:provisor", "provisor:hunter2"), format!("{url}_that_is_not_there")] {
        let error = refusal(&wrong);
        assert!(matches!(error, PostgresError::Login { .. }), "{error}");
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let Some(url) = database() else { return };
    drop(Store::open_postgres(&url).unwrap());
    let newer =
        "insert into refinery_schema_history (version, name, applied_on, checksum) values (99, 'later', '2030-01-01', '1')";
    sql(&url, newer);
    assert!(matches!(refusal(&url), PostgresError::Newer { found: 99, .. }));
}

#[test]
fn somebody_elses_database_is_refused() {
    let Some(url) = database() else { return };
    sql(&url, "create table notes (note text)");
    assert!(matches!(refusal(&url), PostgresError::NotOurs { .. }));
}

#[test]
fn h42_commits_that_are_not_durable_are_refused() {
    let Some(url) = database() else { return };
    let name = url.rsplit_once('/').unwrap().1;
    sql(&url, &format!("alter database {name} set synchronous_commit = off"));
    let error = refusal(&url);
    assert!(matches!(&error, PostgresError::Setting { setting: "synchronous_commit", .. }), "{error}");
    sql(
        &url,
        &format!("alter database {name} reset synchronous_commit; alter database {name} set default_transaction_read_only = on"),
    );
    let error = refusal(&url);
    assert!(matches!(&error, PostgresError::Setting { setting: "transaction_read_only", .. }), "{error}");
}

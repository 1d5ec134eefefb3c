//! Opening a store: refusals that say what and where, the lock of the folder, and that everything is kept.

use provisor_core::State;
use provisor_store::lock::{DataLock, LockError};
use provisor_store::ops::requests::GetRequest;
use provisor_store::{OpenError, Store};

use crate::build::{Folder, World};

fn refusal(result: Result<Store, OpenError>) -> OpenError {
    let error = result.err().expect("it opened");
    assert!(!error.to_string().contains('\n'), "more than one line: {error}");
    error
}

#[tokio::test]
async fn reopening_keeps_everything() {
    let folder = Folder::new();
    let path = folder.database();
    let run = {
        let world = World::over(Store::open_sqlite(&path).unwrap(), None);
        let tenant = world.tenant("acme").await;
        world.request(&tenant, "db", State::Queued).await
    };
    let store = Store::open_sqlite(&path).unwrap();
    let view = store.run(GetRequest { id: run.id, scope: None }).await.unwrap().unwrap();
    assert_eq!(view.run, run);
    assert_eq!(view.tenant_name, "acme");
}

#[test]
fn what_is_no_database_is_refused() {
    let folder = Folder::new();
    std::fs::write(folder.database(), "this is a text, not a database; it is long enough to have a header".repeat(20)).unwrap();
    let error = refusal(Store::open_sqlite(&folder.database()));
    assert_eq!(error, OpenError::NotADatabase { path: folder.database() });
    assert!(error.to_string().ends_with("provisor.db is not a database"), "{error}");
}

#[test]
fn somebody_elses_database_is_refused() {
    let folder = Folder::new();
    rusqlite::Connection::open(folder.database()).unwrap().execute_batch("create table notes (text)").unwrap();
    assert_eq!(refusal(Store::open_sqlite(&folder.database())), OpenError::NotOurs { path: folder.database() });
}

#[test]
fn a_newer_schema_is_refused() {
    let folder = Folder::new();
    drop(Store::open_sqlite(&folder.database()).unwrap());
    let newer = "insert into refinery_schema_history (version, name, applied_on, checksum)
                 values (99, 'later', '2030-01-01T00:00:00Z', '1')";
    rusqlite::Connection::open(folder.database()).unwrap().execute_batch(newer).unwrap();
    let error = refusal(Store::open_sqlite(&folder.database()));
    assert_eq!(error, OpenError::Newer { path: folder.database(), found: 99, known: 7 });
}

#[test]
fn an_unusable_folder_is_refused() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refusal(Store::open_sqlite(&file.join("provisor.db")));
    assert!(matches!(&error, OpenError::Folder { path, .. } if *path == file), "{error}");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let error = refusal(Store::open_sqlite(&folder.path().join("folder")));
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_folder_is_refused() {
    // The one folder that not even root may write to.
    let error = refusal(Store::open_sqlite(std::path::Path::new("/proc/self/provisor.db")));
    assert!(matches!(&error, OpenError::Folder { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let store = Store::open_sqlite(&folder.database()).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
    drop(store);
}

#[test]
fn h42_a_second_holder_is_told_who_has_the_folder() {
    let folder = Folder::new();
    let lock = DataLock::acquire(folder.path()).unwrap();
    let error = DataLock::acquire(folder.path()).unwrap_err();
    assert!(matches!(&error, LockError::Held { .. }));
    let text = error.to_string();
    assert!(text.contains(&format!("process {} since 2", std::process::id())) && !text.contains('\n'), "{text}");
    drop(lock);
    DataLock::acquire(folder.path()).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(DataLock::acquire(&file), Err(LockError::Unusable { .. })));
}

//! Keeping a store: `migrate`, `backup`, `restore`, and what follows a restore (H41).
//!
//! A backup of SQLite is a database file of its own; of PostgreSQL it is an archive of `pg_dump`. The key is in neither:
//! who finds a copy must not be able to read the secrets in it, so the key file is kept apart.

use std::path::Path;
use std::process::{Command, Stdio};

use provisor_store::backup;
use provisor_store::driver::postgres::tool_environment;
use serde_json::json;

use crate::cli::{Global, Restore};
use crate::config::{Config, Database, Settings};
use crate::fail::Fail;
use crate::output::{Out, Table};
use crate::wiring;

/// Words of a tool that are shown.
const TOLD: usize = 500;

fn settings(global: &Global) -> Result<(Settings, Out), Fail> {
    let asked = global.asked(None).map_err(Fail::Usage)?;
    let settings = Config::load(&asked).map_err(Fail::Config)?.settings();
    Ok((settings, Out::new(global.output, global.quiet)))
}

/// `migrate`.
pub(crate) fn migrate(global: &Global) -> Result<(), Fail> {
    let (settings, out) = settings(global)?;
    wiring::migrate(&settings)?;
    let place = settings.database.to_string();
    out.value(&json!({"database": place, "migrated": true}), || format!("The schema of {place} is up to date.\n"))
}

/// `backup`.
pub(crate) fn backup(global: &Global, file: &Path) -> Result<(), Fail> {
    let (settings, out) = settings(global)?;
    let failed = |e: backup::BackupError| Fail::Usage(e.to_string());
    let size = match &settings.database {
        Database::Sqlite(database) => backup::backup_sqlite(database, file).map_err(failed)?,
        Database::Postgres(url) => {
            if file.exists() {
                return Err(failed(backup::BackupError::Exists { path: file.to_owned() }));
            }
            let part = backup::part_of(file);
            let name = part.to_string_lossy().into_owned();
            let dumped = tool(url, "pg_dump", &["--format=custom", "--no-owner", "--no-privileges", "--file", &name]);
            if let Err(fail) = dumped {
                // Why ignored: what it was about is said, and a full disk should have its room again.
                let _ = std::fs::remove_file(&part);
                return Err(fail);
            }
            backup::finish(&part, file).map_err(failed)?
        }
    };
    let key = settings.key_file.display().to_string();
    let text = || format!("{} holds everything but the key ({size} bytes). Keep {key} in another place.\n", file.display());
    out.value(&json!({"file": file.display().to_string(), "bytes": size, "key_file": key}), text)
}

/// `restore`.
pub(crate) async fn restore(global: &Global, asked: &Restore) -> Result<(), Fail> {
    let (settings, out) = settings(global)?;
    match &settings.database {
        Database::Sqlite(database) => {
            let locks = wiring::hold(&settings)?;
            let moment = provisor_store::clock::wall(provisor_core::Timestamp(0))();
            let aside = backup::restore_sqlite(&asked.file, database, asked.replace, moment.0 / 1_000_000);
            if let Some(aside) = aside.map_err(|e| Fail::Usage(e.to_string()))? {
                out.remark(&format!("what was there is in {} now", aside.display()));
            }
            drop(locks);
        }
        Database::Postgres(url) => {
            if !asked.file.is_file() {
                return Err(Fail::Usage(format!("{} is no file", asked.file.display())));
            }
            if asked.replace {
                let why = "--replace is for SQLite; on PostgreSQL restore into an empty database";
                return Err(Fail::Usage(why.to_owned()));
            }
            let (name, database) = (asked.file.to_string_lossy().into_owned(), database_of(url)?);
            let arguments =
                ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", &database, &name];
            tool(url, "pg_restore", &arguments)?;
        }
    }
    take_into_use(&settings, out).await
}

fn database_of(url: &str) -> Result<String, Fail> {
    let all = tool_environment(url).map_err(|e| Fail::Usage(e.to_string()))?;
    all.into_iter()
        .find(|(name, _)| *name == "PGDATABASE")
        .map(|(_, value)| value)
        .ok_or_else(|| Fail::Usage("database.url names no database".to_owned()))
}

/// Runs a tool of PostgreSQL. Its environment tells it where to connect, so that no password is in a list of processes.
fn tool(url: &str, name: &str, arguments: &[&str]) -> Result<(), Fail> {
    let environment = tool_environment(url).map_err(|e| Fail::Usage(e.to_string()))?;
    let mut command = Command::new(name);
    command.args(arguments).envs(environment).stdin(Stdio::null());
    let done = command.output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Fail::Usage(format!("{name} is not installed here; it comes with PostgreSQL's client (postgresql-client)"))
        }
        _ => Fail::Usage(format!("{name} cannot be started: {e}")),
    })?;
    if done.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&done.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Fail::Usage(format!("{name} failed: {}", told.chars().take(TOLD).collect::<String>())))
}

/// `admin after-restore`.
pub(crate) async fn after_restore(global: &Global) -> Result<(), Fail> {
    let (settings, out) = settings(global)?;
    take_into_use(&settings, out).await
}

async fn take_into_use(settings: &Settings, out: Out) -> Result<(), Fail> {
    let (engine, _locks) = wiring::at_rest(settings).await?;
    let done = engine.after_restore().await.map_err(|e| Fail::Ended(format!("the store could not be taken into use: {e}")))?;
    let unknown: Vec<_> = done
        .unknown
        .iter()
        .map(|u| json!({"cluster": u.cluster, "kind": u.kind, "provider_id": u.provider_id, "tag": u.tag}))
        .collect();
    let silent: Vec<_> = done.silent.iter().map(|(cluster, why)| json!({"cluster": cluster, "error": why})).collect();
    let value = json!({"epoch": done.epoch, "reopened": done.reopened, "unknown": unknown, "silent": silent});
    out.value(&value, || {
        let mut text =
            format!("The log is in epoch {}. {} requests look by tag for what they may have made.\n", done.epoch, done.reopened);
        for (cluster, why) in &done.silent {
            text += cluster;
            text += " could not be asked: ";
            text += why;
            text.push('\n');
        }
        if !done.unknown.is_empty() {
            text.push_str(
                "\nThese bear our tag and are in no ledger, most likely made after the backup. Until they are gone the \
                           sweeper releases nothing on their clusters. Look at each, and delete it there or with `provisor sweep CLUSTER --release ID`:\n\n",
            );
            let mut table = Table::new(&["cluster", "kind", "id", "tag"]);
            for u in &done.unknown {
                table.row(vec![u.cluster.clone(), u.kind.clone(), u.provider_id.clone(), u.tag.clone()]);
            }
            text.push_str(&table.render());
        }
        text
    })
}

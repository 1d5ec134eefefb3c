//! `cargo xtask chaos`: the real processes under faults and kills, and what must hold in the end.
//!
//! A simulated cloud runs as a process of its own and outlives everything else. Five tenants ask for
//! everything that can be asked for by itself; every call of every cloud may fail, get lost or come late;
//! processes are killed in the middle of the work. Everything is asked by plain HTTP, and everything that is
//! drawn follows from one seed (the moments of kills follow from how far the work is). Rejected: kills by the
//! clock alone (on a slow machine they fall on nothing).

mod checks;
mod disk;
mod house;
mod http;
mod load;
mod meanwhile;
mod postgres;
mod proxy;
mod stage;
mod trouble;
mod verdict;

use std::path::PathBuf;

use self::stage::Stage;
use crate::process::must;
use crate::shell::{Done, Failed, cargo, root, say};

/// Where the state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// In the one process that does everything.
    Sqlite,
    /// In a server, behind a proxy that cuts, and used by several processes.
    Postgres,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) requests: usize,
    pub(crate) kills: usize,
    pub(crate) seed: u64,
    pub(crate) database: Database,
    pub(crate) minutes: u64,
    pub(crate) calm: bool,
    pub(crate) crash_points: bool,
    pub(crate) keep: bool,
    pub(crate) binary: Option<PathBuf>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            requests: 500,
            kills: 20,
            seed: 1,
            database: Database::Sqlite,
            minutes: 30,
            calm: false,
            crash_points: false,
            keep: false,
            binary: None,
        }
    }
}

fn asked(options: &[&str]) -> Done<Asked> {
    let mut asked = Asked::default();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut number = || {
            let value = options.next().and_then(|v| v.parse::<u64>().ok());
            value.ok_or_else(|| Failed::new(format!("{option} NUMBER")))
        };
        match *option {
            "--requests" => asked.requests = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--kills" => asked.kills = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--seed" => asked.seed = number()?,
            "--minutes" => asked.minutes = number()?,
            "--database" => {
                asked.database = match options.next() {
                    Some(&"sqlite") => Database::Sqlite,
                    Some(&"postgres") => Database::Postgres,
                    _ => return Err(Failed::new("--database sqlite|postgres")),
                };
            }
            "--calm" => asked.calm = true,
            "--crash-points" => asked.crash_points = true,
            "--keep" => asked.keep = true,
            "--binary" => asked.binary = options.next().map(PathBuf::from),
            other => return Err(Failed::new(format!("unknown option {other}"))),
        }
    }
    Ok(asked)
}

/// `cargo xtask chaos`.
pub(crate) fn run(options: &[&str]) -> Done {
    play(&asked(options)?)
}

/// The one of `cargo xtask test --chaos`: the same always, and over in little more than a minute.
pub(crate) fn small() -> Done {
    play(&Asked { requests: 60, kills: 3, minutes: 4, ..Asked::default() })
}

/// One whole run.
fn play(asked: &Asked) -> Done {
    let binary = match &asked.binary {
        Some(binary) => std::fs::canonicalize(binary).map_err(|e| Failed::new(format!("{}: {e}", binary.display())))?,
        None => built(asked.crash_points)?,
    };
    let home = std::env::temp_dir().join(format!("provisor-chaos-{}", std::process::id()));
    std::fs::create_dir_all(&home).map_err(|e| Failed::new(format!("{}: {e}", home.display())))?;
    say(&format!("chaos: seed {}, {} requests, {} kills, in {}", asked.seed, asked.requests, asked.kills, home.display()));
    let mut stage = Stage::open(asked, &home, &binary)?;
    let done = stage.perform();
    drop(stage);
    if done.is_ok() && !asked.keep {
        let _ = std::fs::remove_dir_all(&home);
    } else {
        say(&format!("logs and data are kept in {}", home.display()));
    }
    done.map_err(|e| Failed::new(format!("{}\nagain: cargo xtask chaos {}", e.message(), again(asked))))
}

fn again(asked: &Asked) -> String {
    let database = if asked.database == Database::Postgres { " --database postgres" } else { "" };
    let points = if asked.crash_points { " --crash-points" } else { "" };
    format!("--seed {} --requests {} --kills {}{database}{points}", asked.seed, asked.requests, asked.kills)
}

/// Builds the binary as it is now, and says where it is.
fn built(crash_points: bool) -> Done<PathBuf> {
    let mut command = std::process::Command::new(cargo());
    command.current_dir(root()).args(["build", "--quiet", "--package", "provisor", "--bin", "provisor"]);
    if crash_points {
        command.args(["--features", "crash-points"]);
    }
    must(command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("debug/provisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = asked(&["--requests", "60", "--kills", "3", "--seed", "9", "--calm"]).expect("options");
        assert_eq!((read.requests, read.kills, read.seed, read.calm), (60, 3, 9, true));
        assert!(asked(&["--kills"]).is_err() && asked(&["--database"]).is_err());
    }
}

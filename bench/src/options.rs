//! What is asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::{BenchError, Done};

pub(crate) const USAGE: &str = "\
provisor-bench run --provisor FILE [--systems NAME,…] [--concurrency N,…] [--seconds S] [--rounds N] [--out FILE] [--count-flushes]
provisor-bench floor sqlite|postgres --at FILE|URL --listen-file FILE
systems: floor-sqlite, sqlite, sqlite-vps, floor-postgres, postgres, postgres-vps";

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Bare HTTP and SQLite.
    FloorSqlite,
    /// Provisor on SQLite, a managed service.
    Sqlite,
    /// Provisor on SQLite, a server on the simulated cloud.
    SqliteVps,
    /// Bare HTTP and PostgreSQL.
    FloorPostgres,
    /// Provisor on PostgreSQL, a managed service.
    Postgres,
    /// Provisor on PostgreSQL, a server on the simulated cloud.
    PostgresVps,
}

impl Name {
    const ALL: [(&'static str, Self); 6] = [
        ("floor-sqlite", Self::FloorSqlite),
        ("sqlite", Self::Sqlite),
        ("sqlite-vps", Self::SqliteVps),
        ("floor-postgres", Self::FloorPostgres),
        ("postgres", Self::Postgres),
        ("postgres-vps", Self::PostgresVps),
    ];

    /// As it is written.
    pub(crate) fn text(self) -> &'static str {
        Self::ALL.iter().find(|(_, n)| *n == self).map_or("", |(text, _)| text)
    }

    pub(crate) fn is_floor(self) -> bool {
        matches!(self, Self::FloorSqlite | Self::FloorPostgres)
    }

    pub(crate) fn is_postgres(self) -> bool {
        matches!(self, Self::FloorPostgres | Self::Postgres | Self::PostgresVps)
    }

    pub(crate) fn is_vps(self) -> bool {
        matches!(self, Self::SqliteVps | Self::PostgresVps)
    }

    /// The floor of the same database.
    pub(crate) fn floor(self) -> Self {
        if self.is_postgres() { Self::FloorPostgres } else { Self::FloorSqlite }
    }
}

/// What a run measures.
#[derive(Debug)]
pub(crate) struct Options {
    /// The server's binary.
    pub(crate) provisor: PathBuf,
    pub(crate) systems: Vec<Name>,
    /// Requests in the air at a time.
    pub(crate) concurrency: Vec<usize>,
    /// Length of each measurement.
    pub(crate) length: Duration,
    /// How often each is made, in turns with the others.
    pub(crate) rounds: usize,
    /// Where the JSON goes.
    pub(crate) out: Option<PathBuf>,
    /// Count flushes by watching the system calls; it slows everything down, so rates do not count then.
    pub(crate) count_flushes: bool,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Done<Self> {
        let mut options = Self {
            provisor: PathBuf::new(),
            systems: Name::ALL.iter().map(|(_, name)| *name).collect(),
            concurrency: vec![16, 64, 256],
            length: Duration::from_secs(3),
            rounds: 3,
            out: None,
            count_flushes: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| usage(&format!("{word} needs a value")));
            match *word {
                "--provisor" => options.provisor = value()?.into(),
                "--systems" => options.systems = value()?.split(',').map(name).collect::<Done<_>>()?,
                "--concurrency" => options.concurrency = value()?.split(',').map(number).collect::<Done<_>>()?,
                "--seconds" => options.length = Duration::from_secs(number(value()?)? as u64),
                "--rounds" => options.rounds = number(value()?)?,
                "--out" => options.out = Some(value()?.into()),
                "--count-flushes" => options.count_flushes = true,
                other => return Err(usage(&format!("{other}?"))),
            }
        }
        if options.provisor.as_os_str().is_empty() {
            return Err(usage("--provisor is missing"));
        }
        Ok(options)
    }
}

/// A floor to be served.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) postgres: bool,
    /// A file, or a URL.
    pub(crate) at: String,
    /// Gets the address when it listens.
    pub(crate) listen_file: PathBuf,
}

impl Floor {
    pub(crate) fn parse(words: &[&str]) -> Done<Self> {
        match words {
            [database @ ("sqlite" | "postgres"), "--at", at, "--listen-file", file] => {
                Ok(Self { postgres: *database == "postgres", at: (*at).to_owned(), listen_file: (*file).into() })
            }
            _ => Err(usage("a floor?")),
        }
    }
}

fn usage(what: &str) -> BenchError {
    BenchError::Usage(format!("{what}\n{USAGE}"))
}

fn name(text: &str) -> Done<Name> {
    let found = Name::ALL.iter().find(|(t, _)| *t == text).map(|(_, name)| *name);
    found.ok_or_else(|| usage(&format!("no system {text}")))
}

fn number(text: &str) -> Done<usize> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| usage(&format!("{text} is no number above 0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_faults_are_told() {
        let options = Options::parse(&["--provisor", "p", "--systems", "sqlite,floor-postgres", "--seconds", "3"]).expect("good");
        assert_eq!(options.systems, [Name::Sqlite, Name::FloorPostgres]);
        assert_eq!((options.length, options.concurrency.as_slice()), (Duration::from_secs(3), [16, 64, 256].as_slice()));
        for wrong in
            [&["--provisor"][..], &[], &["--provisor", "p", "--systems", "oracle"], &["--provisor", "p", "--seconds", "0"]]
        {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! Connecting, checking and migrating: everything that can be wrong at the start, each told in one line.

use std::error::Error;
use std::time::Duration;

use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{faults, tls};

/// The first version that we know to work.
const OLDEST: i64 = 15;
/// Everybody who migrates takes this lock: "Pvsr".
const MIGRATION_LOCK: i64 = 0x5076_7372;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When a peer that is gone without a word is noticed.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// The migrations, in order; forwards only. `migrations_are_all_listed` compares with the folder.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__first", include_str!("../../../migrations/postgres/V1__first.sql")),
    ("V2__roles", include_str!("../../../migrations/postgres/V2__roles.sql")),
    ("V3__drift", include_str!("../../../migrations/postgres/V3__drift.sql")),
    ("V4__extra_launches", include_str!("../../../migrations/postgres/V4__extra_launches.sql")),
    ("V5__learned", include_str!("../../../migrations/postgres/V5__learned.sql")),
    ("V6__gate", include_str!("../../../migrations/postgres/V6__gate.sql")),
    ("V7__balance", include_str!("../../../migrations/postgres/V7__balance.sql")),
];

/// How statements are planned. Each is prepared and has an index for each of its conditions (a test sees to it), so
/// the best plan is known and the same for all values. Left to itself the server plans by the statistics of tables
/// that were empty a minute ago, and reads through them; of a page of a list it gathers all that fits the filter and
/// sorts it, where the index has them in order; and for a look that finds nothing it starts helpers, which takes longer
/// than all of the rest (28 ms against 0.06).
pub const PLANNING: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_hashjoin = off; \
     set enable_mergejoin = off; set enable_bitmapscan = off; set max_parallel_workers_per_gather = 0";
/// What every session of ours is set to. A transaction that stands still is ended by the server, because it
/// holds up the log's horizon and its locks hold up others: sooner than a lease ends, so that a worker that was
/// frozen in the middle of one stops nobody for longer than its lease would.
const SESSION: &str = "set lock_timeout = '15s'; set idle_in_transaction_session_timeout = '5s'; \
     set client_min_messages = warning; set jit = off; set synchronous_commit = on";

/// Why a PostgreSQL database could not be opened: what and where, in one line and without the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// The text is no URL of a database.
    #[error("the database URL cannot be used: {reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// No encrypted connection as it was asked for.
    #[error("the database server at {place} cannot be reached over TLS: {reason}")]
    Tls {
        /// Host, port and database.
        place: String,
        /// What was wrong: no TLS there, an unknown authority, another name.
        reason: String,
    },
    /// Nobody answers there.
    #[error("the database server at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Host, port and database.
        place: String,
        /// The system's words.
        reason: String,
    },
    /// Its disk is full.
    #[error("the disk of the database server at {place} is full: {reason}")]
    Full {
        /// Host, port and database.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// Wrong user or password, or no such database.
    #[error("the database at {place} refuses the login: {reason}")]
    Login {
        /// Host, port and database.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// An old server.
    #[error("the database server at {place} is PostgreSQL {found}; {OLDEST} or later is needed")]
    TooOld {
        /// Host, port and database.
        place: String,
        /// Its version.
        found: String,
    },
    /// Commits are not durable there, or texts are not kept as they are (H42).
    #[error("the database at {place} has {setting} = {found}; {needed} is needed")]
    Setting {
        /// Host, port and database.
        place: String,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// There are tables of somebody else.
    #[error("the database at {place} has tables of another program; give Provisor a database or a schema of its own")]
    NotOurs {
        /// Host, port and database.
        place: String,
    },
    /// A later version of Provisor has migrated it.
    #[error(
        "the database at {place} has schema version {found}, but this version of Provisor knows only {known}; use the newer version"
    )]
    Newer {
        /// Host, port and database.
        place: String,
        /// The version in the database.
        found: i64,
        /// The latest version that we know.
        known: i64,
    },
    /// A migration failed.
    #[error("the database at {place} could not be migrated: {reason}")]
    Migration {
        /// Host, port and database.
        place: String,
        /// What failed.
        reason: String,
    },
    /// Anything else that the server says.
    #[error("the database at {place} could not be opened: {reason}")]
    Database {
        /// Host, port and database.
        place: String,
        /// The server's words.
        reason: String,
    },
}

/// Whether a URL can be used at all, without connecting.
pub fn check_url(url: &str) -> Result<(), PostgresError> {
    Address::parse(url, Duration::ZERO).map(drop)
}

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    place: String,
    tls: MakeRustlsConnect,
    statement_limit: Duration,
}

impl Address {
    pub(super) fn parse(url: &str, statement_limit: Duration) -> Result<Self, PostgresError> {
        let refused = |reason: String| PostgresError::Url { reason };
        let (url, tls) = tls::split(url).map_err(refused)?;
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| refused(faults::text(&e)))?;
        if config.get_hosts().is_empty() {
            return Err(refused("it names no host, such as postgres://user:password@host:5432/database".to_owned()));
        }
        let split = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(split) {
            // Why so few words: what stands before it is a part of the password.
            return Err(refused("the password holds an @, which must be written as %40".to_owned()));
        }
        config.connect_timeout(*config.get_connect_timeout().unwrap_or(&CONNECT_TIMEOUT));
        config.tcp_user_timeout(SILENCE_LIMIT).keepalives_idle(SILENCE_LIMIT);
        if config.get_application_name().is_none() {
            config.application_name("provisor");
        }
        let place = place(&config);
        Ok(Self { config, place, tls, statement_limit })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// A session set up as all of ours are. Must be called where its connection's task may live.
    pub(super) async fn connect(&self) -> Result<Client, PostgresError> {
        let (client, link) = self.config.connect(self.tls.clone()).await.map_err(|e| self.connect_error(&e))?;
        tokio::spawn(async move {
            if let Err(error) = link.await {
                // Why no more: there are several, and the store tells once that its database cannot be used.
                tracing::debug!(error = faults::text(&error), "a connection to the database ended");
            }
        });
        let session = format!("{SESSION}; {PLANNING}; set statement_timeout = {}", self.statement_limit.as_millis());
        client.batch_execute(&session).await.map_err(|e| self.error(&e))?;
        Ok(client)
    }

    /// The first connection: checks the server, then migrates.
    pub(super) async fn open(&self) -> Result<(), PostgresError> {
        let (mut client, link) = self.config.connect(self.tls.clone()).await.map_err(|e| self.connect_error(&e))?;
        // It is told at the greeting, so an old server is not asked for what it may not know.
        let version = link.parameter("server_version").unwrap_or_default().to_owned();
        let task = tokio::spawn(link);
        let opened = match self.check(&client, &version).await {
            Ok(()) => self.migrate(&mut client).await,
            Err(error) => Err(error),
        };
        drop(client);
        // It ends with its client; what it says about that is of no interest.
        let _ = task.await;
        opened
    }

    /// Before our own settings: the server's must not be weaker than we think.
    async fn check(&self, client: &Client, version: &str) -> Result<(), PostgresError> {
        let place = || self.place.clone();
        let digits = version.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(version.len());
        if version.get(..digits).and_then(|major| major.parse::<i64>().ok()).unwrap_or(0) < OLDEST {
            return Err(PostgresError::TooOld { place: place(), found: version.to_owned() });
        }
        let needed: [(&'static str, &[&str], &'static str); 3] = [
            ("fsync", &["on"], "on"),
            ("synchronous_commit", &["on", "remote_apply"], "on or remote_apply"),
            ("server_encoding", &["UTF8"], "UTF8"),
        ];
        for (setting, good, needed) in needed {
            let found = self.ask_text(client, &format!("show {setting}")).await?;
            if !good.contains(&found.as_str()) {
                return Err(PostgresError::Setting { place: place(), setting, found, needed });
            }
        }
        let read_only = self.ask_text(client, "show transaction_read_only").await?;
        if read_only != "off" {
            let (setting, needed) = ("transaction_read_only", "a server that can be written to");
            return Err(PostgresError::Setting { place: place(), setting, found: read_only, needed });
        }
        Ok(())
    }

    async fn migrate(&self, client: &mut Client) -> Result<(), PostgresError> {
        client.batch_execute(SESSION).await.map_err(|e| self.error(&e))?;
        client.batch_execute("set lock_timeout = 0; set statement_timeout = 0").await.map_err(|e| self.error(&e))?;
        client.batch_execute(&format!("select pg_advisory_lock({MIGRATION_LOCK})")).await.map_err(|e| self.error(&e))?;
        // The lock goes with the session, which ends here in any case.
        let failed = |e: refinery::Error| {
            // The tool wraps it once more where it was asking for what is applied.
            let mut inner: Option<&(dyn Error + 'static)> = Some(&e);
            while let Some(error) = inner.filter(|error| !error.is::<tokio_postgres::Error>()) {
                inner = error.source();
            }
            let cause: Option<&tokio_postgres::Error> = inner.and_then(<dyn Error>::downcast_ref);
            // The server's words; the tool's own are "db error".
            let reason = cause.map_or_else(|| one_line(&e), faults::text);
            let passing = |e: &PostgresError| matches!(e, PostgresError::Unreachable { .. } | PostgresError::Full { .. });
            let migration = || PostgresError::Migration { place: self.place.clone(), reason };
            cause.map(|cause| self.error(cause)).filter(passing).unwrap_or_else(migration)
        };
        let listed: Result<Vec<_>, _> = MIGRATIONS.iter().map(|(name, sql)| refinery::Migration::unapplied(name, sql)).collect();
        let listed = listed.map_err(failed)?;
        let known = listed.iter().map(|m| i64::from(m.version())).max().unwrap_or(0);
        let tables = self.ask_text(client, "select count(*)::text from pg_tables where schemaname = current_schema()").await?;
        let history = self.ask_text(client, "select coalesce(to_regclass('refinery_schema_history')::text, '')").await?;
        if history.is_empty() && tables != "0" {
            return Err(PostgresError::NotOurs { place: self.place.clone() });
        }
        if !history.is_empty() {
            let found = self.ask_text(client, "select coalesce(max(version), 0)::text from refinery_schema_history").await?;
            let found = found.parse().unwrap_or(0);
            if found > known {
                return Err(PostgresError::Newer { place: self.place.clone(), found, known });
            }
        }
        refinery::Runner::new(&listed).set_abort_divergent(true).run_async(client).await.map_err(failed)?;
        // After a restore into another cluster transactions are numbered anew: what has its place is then
        // found by asking for each (see ops::log).
        let rebase = "update feed_state set horizon = '0' where horizon > pg_snapshot_xmax(pg_current_snapshot())";
        client.batch_execute(rebase).await.map_err(|e| self.error(&e))
    }

    async fn ask_text(&self, client: &Client, text: &str) -> Result<String, PostgresError> {
        let row = client.query_one(text, &[]).await.map_err(|e| self.error(&e))?;
        row.try_get(0).map_err(|e| self.error(&e))
    }

    fn connect_error(&self, error: &tokio_postgres::Error) -> PostgresError {
        let (place, reason) = (self.place.clone(), faults::text(error));
        let Some(said) = error.as_db_error() else {
            // The kind of an error is told in words alone.
            let tls = reason.starts_with("error performing TLS handshake");
            return if tls { PostgresError::Tls { place, reason } } else { PostgresError::Unreachable { place, reason } };
        };
        let login = [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        if login.contains(said.code()) {
            PostgresError::Login { place, reason }
        } else {
            PostgresError::Unreachable { place, reason }
        }
    }

    pub(super) fn database(&self, reason: String) -> PostgresError {
        PostgresError::Database { place: self.place.clone(), reason }
    }

    /// A server that goes away while it is asked is one that cannot be reached: the next try may find it again.
    fn error(&self, error: &tokio_postgres::Error) -> PostgresError {
        let (place, reason) = (self.place.clone(), faults::text(error));
        if error.code() == Some(&SqlState::DISK_FULL) {
            return PostgresError::Full { place, reason };
        }
        let went_away = match error.code() {
            Some(code) => code.code().starts_with("57P"),
            None => error.is_closed() || error.source().is_some_and(<dyn Error + 'static>::is::<std::io::Error>),
        };
        if went_away { PostgresError::Unreachable { place, reason } } else { PostgresError::Database { place, reason } }
    }
}

fn place(config: &Config) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}:{port}/{database}", hosts.join(","))
}

fn one_line(error: &refinery::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn migrations_are_all_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let listed: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, listed);
    }

    #[test]
    fn a_place_says_where_and_never_the_password() {
        let parse = |url: &str| Address::parse(url, Duration::from_secs(1));
        let address = parse("postgres://me:secret@db.example:5433/provisor").unwrap();
        assert_eq!(address.place, "db.example:5433/provisor");
        assert!(matches!(parse("postgres://h/db?sslmode=strange"), Err(PostgresError::Url { .. })));
        assert!(matches!(parse("what is this"), Err(PostgresError::Url { .. })));
        assert!(matches!(parse("postgres:///db"), Err(PostgresError::Url { .. })));
        let split = parse("postgres://me:sec@ret@db.example/x").err().map(|e| e.to_string()).unwrap();
        assert!(split.contains("%40") && !split.contains("sec") && !split.contains("ret"), "{split}");
    }
}

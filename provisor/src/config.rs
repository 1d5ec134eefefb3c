//! Configuration: `provisor.toml`, then the environment (`PROVISOR_DATABASE__URL`), then flags; the later
//! wins. Unknown keys are refused with the nearest known one, and every fault names key, source, rule and value.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use provisor_core::spec::StrategyKind;
use serde_json::{Value as Json, json};

pub(crate) mod load;
pub(crate) mod schema;
pub(crate) mod value;

use crate::output::put;
use load::{Fault, Loader, Source};
use schema::{KEYS, Kind};
use value::Value;

/// The file that is read where no other is named and it exists.
pub(crate) const DEFAULT_FILE: &str = "provisor.toml";

/// What the command line says about configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// A file by name.
    pub(crate) file: Option<PathBuf>,
    /// Flags: key, the flag's name, its value.
    pub(crate) flags: Vec<(String, String, String)>,
}

/// The whole configuration with the source of every value.
#[derive(Debug)]
pub(crate) struct Config {
    values: std::collections::BTreeMap<&'static str, (Value, Source)>,
    /// Variables of Kubernetes service links, which are not ours.
    pub(crate) foreign: Vec<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where the data is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file of this machine, which one process holds at a time.
    Sqlite(PathBuf),
    /// A server that several processes may share: its URL, which may hold a password.
    Postgres(String),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => f.write_str(&value::without_password(url)),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

/// What the wiring needs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Folder of everything.
    pub(crate) data_dir: PathBuf,
    /// Where the data is.
    pub(crate) database: Database,
    /// HOST:PORT.
    pub(crate) listen: String,
    /// The first administrator's token, where given.
    pub(crate) bootstrap_token: Option<String>,
    /// The key file.
    pub(crate) key_file: PathBuf,
    /// Requests driven at once.
    pub(crate) worker_concurrency: usize,
    /// Length of a lease.
    pub(crate) lease: Duration,
    /// Longest wait at shutdown.
    pub(crate) shutdown: Duration,
    /// When a request counts as stuck.
    pub(crate) stuck_after: Duration,
    /// How requests are tried that do not say so themselves.
    pub(crate) strategy: StrategyKind,
    /// Whether deadlines are learned.
    pub(crate) learns: bool,
    /// Ranges that probes may reach besides.
    pub(crate) probe_cidrs: Vec<String>,
    /// How logs are written.
    pub(crate) log_format: LogFormat,
    /// What is logged.
    pub(crate) log_level: String,
}

impl Config {
    /// Reads file, environment and flags.
    pub(crate) fn load(asked: &Asked) -> Result<Self, Vec<Fault>> {
        Self::load_from(asked, std::env::vars_os())
    }

    /// As `load`, with another environment.
    pub(crate) fn load_from(asked: &Asked, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, Vec<Fault>> {
        let mut loader = Loader::default();
        match &asked.file {
            Some(path) => loader.file(path, true),
            None => loader.file(Path::new(DEFAULT_FILE), false),
        }
        loader.variables(variables);
        for (key, flag, text) in &asked.flags {
            loader.flag(key, flag, text);
        }
        if !loader.faults.is_empty() {
            return Err(loader.faults);
        }
        let mut values = loader.values;
        for key in KEYS.iter().filter(|k| k.offered) {
            let Some(text) = key.default else { continue };
            if let Ok(value) = value::read(key.kind, &value::Raw::Text(text.to_owned()), false) {
                values.entry(key.name).or_insert((value, Source::Default));
            }
        }
        let mut config = Self { values, foreign: loader.foreign };
        config.derive();
        Ok(config)
    }

    /// Defaults that follow from the data folder.
    fn derive(&mut self) {
        let data = self.text(schema::DATA_DIR);
        let derived =
            [("database.url", format!("sqlite://{data}/provisor.db")), ("secrets.key_file", format!("{data}/secrets.key"))];
        for (name, text) in derived {
            self.values.entry(name).or_insert((Value::Text(text), Source::Default));
        }
    }

    fn text(&self, name: &str) -> String {
        self.values.get(name).map_or_else(String::new, |(v, _)| v.to_string())
    }

    fn seconds(&self, name: &str) -> Duration {
        match self.values.get(name) {
            Some((Value::Number(n), _)) => Duration::try_from_secs_f64(*n).unwrap_or(Duration::MAX),
            _ => Duration::ZERO,
        }
    }

    /// The data folder.
    pub(crate) fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.text(schema::DATA_DIR))
    }

    /// Where a key's value comes from.
    pub(crate) fn source(&self, name: &str) -> Option<&Source> {
        self.values.get(name).map(|(_, s)| s)
    }

    /// As the wiring needs it.
    pub(crate) fn settings(&self) -> Settings {
        let url = self.text("database.url");
        let database = match url.strip_prefix("sqlite://") {
            Some(path) => Database::Sqlite(PathBuf::from(path)),
            None => Database::Postgres(url),
        };
        let concurrency = match self.values.get("worker.concurrency") {
            Some((Value::Integer(n), _)) => usize::try_from(*n).unwrap_or(1),
            _ => 1,
        };
        let cidrs = match self.values.get("probes.allow_cidrs") {
            Some((Value::List(items), _)) => items.clone(),
            _ => Vec::new(),
        };
        Settings {
            data_dir: self.data_dir(),
            database,
            listen: self.text(schema::HTTP_LISTEN),
            bootstrap_token: self.values.get("auth.bootstrap_token").map(|(v, _)| v.to_string()),
            key_file: PathBuf::from(self.text("secrets.key_file")),
            worker_concurrency: concurrency,
            lease: self.seconds("worker.lease_seconds"),
            shutdown: self.seconds("worker.shutdown_seconds"),
            stuck_after: self.seconds("stuck_after_seconds"),
            strategy: StrategyKind::parse(&self.text("strategy")).unwrap_or(StrategyKind::Failover),
            learns: self.text("deadlines.learned") != "off",
            probe_cidrs: cidrs,
            log_format: if self.text("log.format") == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: self.text("log.level"),
        }
    }

    /// Every offered key with value and source, for `config show`; secrets are hidden.
    pub(crate) fn show(&self) -> Json {
        let rows = KEYS.iter().filter(|k| k.offered).map(|key| {
            let (value, source) = match self.values.get(key.name) {
                Some((_, source)) if key.kind == Kind::Secret => (Json::from("(hidden)"), source.to_string()),
                Some((value, source)) if key.kind == Kind::Database => {
                    (Json::from(value::without_password(&value.to_string())), source.to_string())
                }
                Some((value, source)) => (value.json(), source.to_string()),
                None => (Json::Null, Source::Default.to_string()),
            };
            json!({"key": key.name, "value": value, "source": source})
        });
        Json::Array(rows.collect())
    }
}

/// The schema as JSON, for `config schema`.
pub(crate) fn schema_json() -> Json {
    let rows = KEYS.iter().map(|k| {
        json!({"key": k.name, "type": k.kind.describe(), "default": k.default, "variable": schema::variable(k.name),
               "since": if k.offered { Json::from(k.since) } else { Json::Null }, "offered": k.offered, "description": k.doc})
    });
    Json::Array(rows.collect())
}

/// docs/generated/config.md.
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nGenerated by `provisor docs config`; do not edit.\n\nRead in this order, the later wins: `provisor.toml` (or `--config FILE`), environment variables, flags\n(`--data DIR`, `--listen ADDRESS`, `--set KEY=VALUE`). Unknown keys and variables are refused. An empty variable counts as not set.\n\n| key | variable | type | default | since | what it does |\n|---|---|---|---|---|---|\n",
    );
    for k in KEYS.iter().filter(|k| k.offered) {
        let default = k.default.filter(|d| !d.is_empty()).map_or("–".to_owned(), |d| format!("`{d}`"));
        let kind = k.kind.describe().replace('|', "\\|");
        put(
            &mut text,
            format_args!("| `{}` | `{}` | {kind} | {default} | {} | {} |\n", k.name, schema::variable(k.name), k.since, k.doc),
        );
    }
    let later: Vec<String> = KEYS.iter().filter(|k| !k.offered).map(|k| format!("`{}`", k.name)).collect();
    put(&mut text, format_args!("\nKnown, but not offered by this version, and refused when set: {}.\n", later.join(", ")));
    text += "\nRead by the command line and no configuration keys: `PROVISOR_SERVER`, `PROVISOR_TOKEN`, `PROVISOR_CONFIG`.\n";
    text
}

#[cfg(test)]
mod tests;

//! The configuration's schema: one table from which parsing, `config show`, `config check`, `config schema`
//! and docs/generated/config.md are made.
//!
//! Why a table and not serde structures: each value must know its source (file and line, variable, flag)
//! and its documentation, and all faults are reported at once; serde stops at the first and knows neither.
//! Keys of API.md behind which nothing stands yet are in the table too, so that setting one is refused with
//! a clear word instead of looking like a typing error.

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A folder or a file.
    Path,
    /// `sqlite://PATH` or `postgres://…`; may hold a password, which is never shown.
    Database,
    /// `HOST:PORT`.
    Address,
    /// Seconds within bounds, fractions allowed.
    Seconds(f64, f64),
    /// A whole number within bounds.
    Integer(u64, u64),
    /// One of a list of words.
    Word(&'static [&'static str]),
    /// Address ranges such as `10.0.0.0/8`.
    Cidrs,
    /// What is logged.
    Filter,
    /// A text that is never shown.
    Secret,
}

impl Kind {
    /// In words, for people.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Database => "URL (sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE)".to_owned(),
            Self::Address => "HOST:PORT".to_owned(),
            Self::Seconds(min, max) => format!("seconds, {min} to {max}"),
            Self::Integer(min, max) => format!("whole number, {min} to {max}"),
            Self::Word(words) => words.join(" | "),
            Self::Cidrs => "list of address ranges (CIDR)".to_owned(),
            Self::Filter => "level, or directives".to_owned(),
            Self::Secret => "secret text".to_owned(),
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Its dotted name.
    pub(crate) name: &'static str,
    /// What it may be.
    pub(crate) kind: Kind,
    /// What holds where nothing is set; `None` where that is derived or empty.
    pub(crate) default: Option<&'static str>,
    /// What it does.
    pub(crate) doc: &'static str,
    /// The version that first had it.
    pub(crate) since: &'static str,
    /// Whether something stands behind it in this version.
    pub(crate) offered: bool,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, doc, since: "0.1.0", offered: true }
}

const fn later(name: &'static str, doc: &'static str) -> Key {
    Key { name, kind: Kind::Text, default: None, doc, since: "", offered: false }
}

/// The name of the key with the data folder.
pub(crate) const DATA_DIR: &str = "data.dir";
/// The name of the key with the listen address.
pub(crate) const HTTP_LISTEN: &str = "http.listen";

/// Every key, in the order in which they are shown.
pub(crate) const KEYS: &[Key] = &[
    key(
        DATA_DIR,
        Kind::Path,
        Some("provisor-data"),
        "Folder of the embedded database, the key file, the administrator's token and the simulated cloud. One process holds it at a time. Flag: --data.",
    ),
    key(
        "database.url",
        Kind::Database,
        None,
        "The database: `sqlite://` and a path, or PostgreSQL 15 or later, with a database or a schema of its own. By default provisor.db in data.dir.",
    ),
    key(
        HTTP_LISTEN,
        Kind::Address,
        Some("127.0.0.1:8620"),
        "Where the API is served. Port 0 takes a free one; the address is written to the file `listen` in data.dir. Flag: --listen.",
    ),
    key(
        "auth.bootstrap_token",
        Kind::Secret,
        None,
        "The first administrator's token, taken at the first start on an empty store. Without it one is made and written to `admin-token` in data.dir.",
    ),
    key(
        "secrets.key_file",
        Kind::Path,
        None,
        "The key under which credentials are encrypted. By default `secrets.key` in data.dir, made at the first start.",
    ),
    key("worker.concurrency", Kind::Integer(1, 4096), Some("256"), "Requests that the worker drives at once."),
    key(
        "worker.lease_seconds",
        Kind::Seconds(0.5, 3600.0),
        Some("10"),
        "How long a worker's claim holds without a heartbeat: after a crash work goes on within this time.",
    ),
    key(
        "worker.shutdown_seconds",
        Kind::Seconds(0.0, 3600.0),
        Some("30"),
        "How long a shutdown waits for provider calls in flight.",
    ),
    key(
        "stuck_after_seconds",
        Kind::Seconds(0.1, 3.2e8),
        Some("1800"),
        "A request in a working state without progress for this long fails by itself.",
    ),
    key(
        "strategy",
        Kind::Word(&["single", "failover", "race", "hedge"]),
        Some("failover"),
        "How requests are tried that do not say so themselves, of tenants that do not either. Kinds whose endpoint the request fixes take failover where this says race or hedge.",
    ),
    key(
        "deadlines.learned",
        Kind::Word(&["on", "off"]),
        Some("on"),
        "Whether deadlines of operations are learned from how long they took before; a cluster's `settings.learned_deadlines` may switch it off for that cluster alone.",
    ),
    key(
        "probes.allow_cidrs",
        Kind::Cidrs,
        Some(""),
        "Address ranges that probes may reach although they are loopback or link-local; separated by commas in variables and flags.",
    ),
    key("log.format", Kind::Word(&["text", "json"]), Some("text"), "How logs are written to standard error."),
    key(
        "log.level",
        Kind::Filter,
        Some("info"),
        "What is logged: error, warn, info, debug, trace, or directives such as `info,provisor_engine=debug`.",
    ),
    later("redis.url", "Redis for locks, wake-ups and cache."),
    later("kafka.brokers", "Kafka brokers that events are published to."),
    later("kafka.topic", "Kafka topic."),
    later("smtp.url", "Server for outgoing e-mail."),
    later("webhooks.allow_cidrs", "Private address ranges that webhooks may reach."),
    later("otlp.endpoint", "Where traces are sent."),
];

/// The key of a name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The environment variable of a key: `PROVISOR_DATABASE__URL`.
pub(crate) fn variable(name: &str) -> String {
    format!("PROVISOR_{}", name.to_uppercase().replace('.', "__"))
}

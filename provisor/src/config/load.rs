//! From file, environment and flags to checked values, with the source of each. All faults are found at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use provisor_core::check::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{KEYS, Key, find, variable};
use super::value::{Broken, Raw, Value, read};

/// Variables that begin with `PROVISOR_` and are no configuration keys: the command line reads them.
pub(crate) const OTHER_VARIABLES: [&str; 3] = ["PROVISOR_SERVER", "PROVISOR_TOKEN", "PROVISOR_CONFIG"];

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody set it.
    Default,
    /// A file and the line in it.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One fault of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key, or what stands for one.
    pub(crate) key: String,
    /// Where it is set.
    pub(crate) source: Source,
    /// The rule that it breaks.
    pub(crate) rule: &'static str,
    /// The value, where it may be shown.
    pub(crate) value: String,
    /// A sentence.
    pub(crate) message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if !matches!(&self.source, Source::Variable(name) if *name == self.key) {
            write!(f, ": {}", self.key)?;
        }
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {} (rule: {})", self.message, self.rule)
    }
}

/// What is set, before defaults.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    /// Values by key; a later source replaces an earlier one.
    pub(crate) values: BTreeMap<&'static str, (Value, Source)>,
    /// Faults found so far.
    pub(crate) faults: Vec<Fault>,
    /// Variables that look like ours and are known to be somebody else's.
    pub(crate) foreign: Vec<String>,
}

impl Loader {
    /// Reads a file. A missing one is a fault only when it was asked for by name.
    pub(crate) fn file(&mut self, path: &Path, asked: bool) {
        let fault = |rule, message: String| Fault {
            key: "configuration file".to_owned(),
            source: Source::File(path.to_owned(), 0),
            rule,
            value: String::new(),
            message,
        };
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked => return,
            Ok(meta) if meta.len() > MAX_FILE_BYTES => {
                return self.faults.push(fault("max", format!("is larger than {MAX_FILE_BYTES} bytes")));
            }
            _ => {}
        }
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &text),
            Err(e) => self.faults.push(fault("exists", format!("cannot be read: {e}"))),
        }
    }

    /// Reads the text of a file.
    pub(crate) fn text(&mut self, path: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(0, |s| line_of(text, s.start));
            self.faults.push(Fault {
                key: "TOML".to_owned(),
                source: Source::File(path.to_owned(), line),
                rule: "format",
                value: String::new(),
                message: error.message().to_owned(),
            });
        }
        if errors.is_empty() {
            self.table(path, text, "", table.get_ref());
        }
    }

    fn table(&mut self, path: &Path, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let source = Source::File(path.to_owned(), line_of(text, name.span().start));
            let below = format!("{key}.");
            if find(&key).is_none() && KEYS.iter().any(|k| k.name.starts_with(&below)) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(path, text, &below, inner),
                    _ => self.broken(&key, &source, "", &Broken { rule: "type", message: "must be a table".to_owned() }),
                }
            } else {
                self.set(&key, &raw(value), source, true);
            }
        }
    }

    /// Reads the environment.
    pub(crate) fn variables(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let ours: BTreeMap<String, &'static Key> = KEYS.iter().map(|k| (variable(k.name), k)).collect();
        let mut found: Vec<_> = variables.filter_map(|(n, v)| Some((n.into_string().ok()?, v))).collect();
        found.retain(|(name, _)| name.starts_with("PROVISOR_") && !OTHER_VARIABLES.contains(&name.as_str()));
        // Read where the points are (docs/chaos.md); other builds know no such variable.
        found.retain(|(name, _)| !(cfg!(feature = "crash-points") && name == "PROVISOR_CRASH_AT"));
        found.sort();
        for (name, value) in found {
            let source = Source::Variable(name.clone());
            match (ours.get(&name), value.into_string()) {
                // Why: Compose files pass on unset variables as empty ones.
                (Some(_), Ok(text)) if text.is_empty() => {}
                (Some(key), Ok(text)) => self.set(key.name, &Raw::Text(text), source, false),
                (Some(key), Err(_)) => {
                    let message = "is not UTF-8".to_owned();
                    self.broken(key.name, &source, "", &Broken { rule: "format", message });
                }
                (None, _) if is_service_link(&name) => self.foreign.push(name),
                (None, _) => {
                    let mut known: Vec<&str> = ours.keys().map(String::as_str).collect();
                    known.extend(OTHER_VARIABLES);
                    let message = format!("is not a known variable{}", hint(&name, &known));
                    self.broken(&name, &source, "", &Broken { rule: "unknown_key", message });
                }
            }
        }
    }

    /// Reads one flag's value.
    pub(crate) fn flag(&mut self, key: &str, flag: &str, text: &str) {
        self.set(key, &Raw::Text(text.to_owned()), Source::Flag(flag.to_owned()), false);
    }

    fn set(&mut self, name: &str, raw: &Raw, source: Source, typed: bool) {
        let Some(key) = find(name) else {
            let known: Vec<&str> = KEYS.iter().map(|k| k.name).collect();
            let message = format!("is not a known key{}", hint(name, &known));
            return self.broken(name, &source, "", &Broken { rule: "unknown_key", message });
        };
        let shown = if key.kind == super::schema::Kind::Secret { "(hidden)".to_owned() } else { raw.to_string() };
        if !key.offered {
            let message = format!("{name} is not offered by this version; leave it out");
            // Why no value: what belongs behind these keys often carries a password.
            return self.broken(name, &source, "", &Broken { rule: "not_offered", message });
        }
        match read(key.kind, raw, typed) {
            Ok(value) => {
                self.values.insert(key.name, (value, source));
            }
            Err(broken) => self.broken(name, &source, &super::value::without_password(&shown), &broken),
        }
    }

    fn broken(&mut self, key: &str, source: &Source, value: &str, broken: &Broken) {
        self.faults.push(Fault {
            key: key.to_owned(),
            source: source.clone(),
            rule: broken.rule,
            value: value.to_owned(),
            message: broken.message.clone(),
        });
    }
}

/// The nearest known name: one that begins or ends with what was written, else by edits.
fn hint(name: &str, known: &[&str]) -> String {
    let part = |k: &&&str| name.len() > 3 && (k.starts_with(name) || k.ends_with(&format!(".{name}")));
    let near = nearest(name, known).or_else(|| known.iter().find(part).copied());
    near.map_or(String::new(), |n| format!("; did you mean `{n}`?"))
}

/// Kubernetes puts the addresses of a Service named `provisor` into every container of its namespace.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix("PROVISOR_").unwrap_or_default();
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_HOST") || rest.starts_with("SERVICE_PORT")
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(n) if n.radix() == 10 => Raw::Number(n.as_str().to_owned()),
        DeValue::Integer(n) => {
            i128::from_str_radix(n.as_str(), n.radix()).map_or(Raw::Other("integer"), |n| Raw::Number(n.to_string()))
        }
        DeValue::Float(n) => Raw::Number(n.as_str().to_owned()),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|i| i.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Raw::Other("list"), Raw::List)
        }
        other => Raw::Other(other.type_str()),
    }
}

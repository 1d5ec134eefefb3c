//! Reading a manifest: YAML or JSON into values, and every fault of the whole file at once.
//!
//! The same checks as the server's run here first, so that all faults of a file come together with the
//! file's own pointers; sent one after another, the first refusal would hide the others. The server checks
//! again: this is for people, not for safety.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use provisor_core::check::{Flaw, Flaws, nearest};
use provisor_core::cluster::ClusterSpec;
use provisor_core::spec::{Seal, Sealed, Spec};
use provisor_core::tenant::TenantSpec;
use serde_json::{Map, Value};

use crate::fail::Fail;

/// Largest file: the limit of the API's bodies.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Most requests in one file: the limit of a batch.
const MAX_REQUESTS: usize = 1000;
/// Parts of a manifest, in the order in which they are applied.
const PARTS: [&str; 3] = ["tenants", "clusters", "requests"];
/// Parts of the contract that this version does not offer.
const LATER: [&str; 2] = ["rules", "webhooks"];

/// A checked manifest.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// Entries as they are sent, with their normal form.
    pub(crate) tenants: Vec<Entry<TenantSpec>>,
    /// As above; credentials are resolved.
    pub(crate) clusters: Vec<Entry<ClusterSpec>>,
    /// As above.
    pub(crate) requests: Vec<Entry<Spec>>,
}

/// One entry.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// What is sent.
    pub(crate) raw: Value,
    /// Its normal form.
    pub(crate) spec: T,
}

/// What seals nothing: the command line only compares, the server encrypts.
pub(crate) struct Unsealed;

impl Seal for Unsealed {
    fn seal(&self, _: &str) -> Sealed {
        Sealed { key: String::new(), sealed: String::new(), fingerprint: String::new() }
    }
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String, Fail> {
    let shown = path.display();
    let unreadable = |e: std::io::Error| Fail::Usage(format!("{shown} cannot be read: {e}"));
    let mut bytes = Vec::new();
    // Why one more than the limit: to see that there is more, without reading all of it.
    let limit = MAX_BYTES as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() > MAX_BYTES {
        let message = format!("{shown} is larger than the limit of {MAX_BYTES} bytes (1 MiB)");
        let mut flaws = Flaws::default();
        flaws.add("", "max", &Value::Null, message.clone());
        return Err(Fail::Flawed(message, flaws.0));
    }
    String::from_utf8(bytes).map_err(|_| Fail::Usage(format!("{shown} is not UTF-8 text")))
}

/// Reads a file of YAML or JSON.
pub(crate) fn read_file(path: &Path) -> Result<Value, Fail> {
    parse(&path.display().to_string(), &read_text(path)?)
}

/// Reads YAML or JSON (which is YAML too). Anchors are bounded: a small file must not become a large value.
pub(crate) fn parse(name: &str, text: &str) -> Result<Value, Fail> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_documents: 1, max_nodes: 200_000, max_aliases: 2_000, max_anchors: 2_000, max_depth: 64 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000, max_alias_expansions_per_anchor: 2_000 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let place = e.location().map_or(String::new(), |l| format!(":{}:{}", l.line(), l.column()));
        Fail::Usage(format!("{name}{place}: not valid YAML or JSON: {}", e.without_snippet()))
    })
}

impl Manifest {
    /// Reads and checks a manifest. `folder` is where `credentials_file` is looked for.
    pub(crate) fn read(name: &str, text: &str, folder: &Path) -> Result<Self, Fail> {
        let value = parse(name, text)?;
        if value.is_null() {
            return Err(Fail::Usage(format!("{name} is empty; it should hold tenants, clusters or requests")));
        }
        Self::check(name, &value, folder)
    }

    /// Checks a manifest's value.
    pub(crate) fn check(name: &str, value: &Value, folder: &Path) -> Result<Self, Fail> {
        let mut flaws = Flaws::default();
        let mut manifest = Self::default();
        if let Some(map) = value.as_object() {
            top_level(map, &mut flaws);
            manifest.tenants =
                entries(map, "tenants", &mut flaws, |p, v, _| TenantSpec::check(p, &v).map(|spec| Entry { raw: v, spec }));
            manifest.clusters = entries(map, "clusters", &mut flaws, |p, v, f| cluster(p, v, folder, f));
            manifest.requests =
                entries(map, "requests", &mut flaws, |p, v, _| Spec::check(p, &v, &Unsealed).map(|spec| Entry { raw: v, spec }));
        } else {
            flaws.add("", "type", value, "a manifest is an object with tenants, clusters or requests");
        }
        if flaws.0.is_empty() {
            manifest.unique(&mut flaws);
        }
        let count = flaws.0.len();
        let plural = if count == 1 { "fault" } else { "faults" };
        flaws.finish(manifest).map_err(|all| Fail::Flawed(format!("{name} has {count} {plural}; nothing was changed"), all))
    }

    /// A name may stand once.
    fn unique(&self, flaws: &mut Flaws) {
        let tenants = self.tenants.iter().map(|e| e.spec.name.as_str());
        let clusters = self.clusters.iter().map(|e| e.spec.name.as_str());
        repeated("tenants", tenants.map(|n| (n.to_owned(), n)), flaws);
        repeated("clusters", clusters.map(|n| (n.to_owned(), n)), flaws);
        let requests = self.requests.iter().map(|e| (format!("{}\0{}", e.spec.tenant, e.spec.name), e.spec.name.as_str()));
        repeated("requests", requests, flaws);
    }
}

fn repeated<'a>(part: &str, names: impl Iterator<Item = (String, &'a str)>, flaws: &mut Flaws) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (index, (key, name)) in names.enumerate() {
        if let Some(first) = seen.get(&key) {
            let message = format!("{name} stands already at /{part}/{first}");
            flaws.add(&format!("/{part}/{index}/name"), "unique", &Value::from(name), message);
        } else {
            seen.insert(key, index);
        }
    }
}

/// Keys that are not known, or not yet.
fn top_level(map: &Map<String, Value>, flaws: &mut Flaws) {
    for (key, value) in map.iter().filter(|(k, _)| !PARTS.contains(&k.as_str())) {
        let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        let known: Vec<&str> = PARTS.iter().chain(&LATER).copied().collect();
        let message = if LATER.contains(&key.as_str()) {
            format!("{key} are not offered by this version")
        } else {
            let hint = nearest(key, &known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            format!("`{key}` is not a known key{hint}")
        };
        flaws.add(&pointer, "unknown_key", value, message);
    }
}

/// Checks each entry of a part.
fn entries<T>(
    map: &Map<String, Value>,
    part: &str,
    flaws: &mut Flaws,
    mut check: impl FnMut(&str, Value, &mut Flaws) -> Result<Entry<T>, Vec<Flaw>>,
) -> Vec<Entry<T>> {
    let Some(value) = map.get(part).filter(|v| !v.is_null()) else { return Vec::new() };
    let Some(items) = value.as_array() else {
        flaws.add(&format!("/{part}"), "type", value, "must be a list");
        return Vec::new();
    };
    if items.len() > MAX_REQUESTS {
        flaws.add(&format!("/{part}"), "max", &Value::from(items.len()), format!("at most {MAX_REQUESTS} entries"));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match check(&format!("/{part}/{index}"), item.clone(), flaws) {
            Ok(entry) => found.push(entry),
            Err(more) => flaws.0.extend(more),
        }
    }
    found
}

/// A cluster, with `credentials_env` and `credentials_file` made into `credentials`.
fn cluster(pointer: &str, mut value: Value, folder: &Path, flaws: &mut Flaws) -> Result<Entry<ClusterSpec>, Vec<Flaw>> {
    if let Some(map) = value.as_object_mut() {
        credentials(pointer, map, folder, flaws);
    }
    let (spec, _) = ClusterSpec::check(pointer, &value)?;
    Ok(Entry { raw: value, spec })
}

fn credentials(pointer: &str, map: &mut Map<String, Value>, folder: &Path, flaws: &mut Flaws) {
    let given =
        ["credentials", "credentials_env", "credentials_file"].into_iter().filter(|k| map.get(*k).is_some_and(|v| !v.is_null()));
    if given.count() > 1 {
        let message = "only one of credentials, credentials_env and credentials_file may be given";
        flaws.add(&format!("{pointer}/credentials"), "unique", &Value::Null, message);
    }
    for (key, from_file) in [("credentials_env", false), ("credentials_file", true)] {
        let Some(value) = map.remove(key).filter(|v| !v.is_null()) else { continue };
        let at = format!("{pointer}/{key}");
        let Some(source) = value.as_str() else {
            flaws.add(&at, "type", &value, "must be a text");
            continue;
        };
        let read = if from_file { credentials_file(folder, source) } else { credentials_variable(source) };
        match read {
            Ok(found) if found.is_object() => {
                map.insert("credentials".to_owned(), found);
            }
            Ok(_) => flaws.add(&at, "type", &value, format!("{source} must hold an object, as YAML or JSON")),
            Err(message) => flaws.add(&at, "exists", &value, message),
        }
    }
}

fn credentials_file(folder: &Path, path: &str) -> Result<Value, String> {
    let path: PathBuf = folder.join(path);
    read_file(&path).map_err(|e| secretless(&path.display().to_string(), &e))
}

fn credentials_variable(name: &str) -> Result<Value, String> {
    let text = std::env::var(name).map_err(|_| format!("the environment variable {name} is not set, or not UTF-8"))?;
    parse(name, &text).map_err(|e| secretless(name, &e))
}

/// A parser's message may quote its input; here that is a secret.
fn secretless(name: &str, error: &Fail) -> String {
    match error {
        Fail::Usage(text) if text.contains("not valid YAML or JSON") => format!("{name} is not valid YAML or JSON"),
        other => other.to_string(),
    }
}

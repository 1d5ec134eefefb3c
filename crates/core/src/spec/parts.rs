//! The nested parts of a specification.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::{Flaws, Object, text_of};

/// How large a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Virtual processors.
    pub cpu: u32,
    /// GiB of memory.
    pub memory_gb: u32,
    /// GiB of storage.
    pub storage_gb: u32,
}

impl Size {
    pub(super) fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Self> {
        let mut o = Object::new(pointer, value, flaws);
        let mut part = |key: &'static str, max: u64| {
            let raw = o.required(key, flaws)?;
            let n = crate::check::integer_of(&o.at(key), raw, 1, max, flaws)?;
            u32::try_from(n).ok()
        };
        let (cpu, memory_gb, storage_gb) = (part("cpu", 4096), part("memory_gb", 65_536), part("storage_gb", 1_048_576));
        o.finish(flaws);
        Some(Self { cpu: cpu?, memory_gb: memory_gb?, storage_gb: storage_gb? })
    }
}

/// An encrypted text (SPEC 11): opened only for the call that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key that it was encrypted with (H44).
    pub key: String,
    /// Nonce and ciphertext in base 64.
    pub sealed: String,
    /// A keyed digest of the clear text, so that equality can be seen without opening it.
    pub fingerprint: String,
}

/// How a service is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// The HTTP probe.
    pub http: Option<HttpProbe>,
}

/// One HTTP question and the answers that are good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Port asked.
    pub port: u16,
    /// Path asked.
    pub path: String,
    /// First good status.
    pub expect_from: u16,
    /// Last good status.
    pub expect_to: u16,
}

impl Probes {
    pub(super) fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Self {
        let mut o = Object::new(pointer, value, flaws);
        let http = o.raw("http").and_then(|v| HttpProbe::check(&o.at("http"), v, flaws));
        o.finish(flaws);
        Self { http }
    }
}

impl HttpProbe {
    fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Self> {
        let mut o = Object::new(pointer, value, flaws);
        let port = o.integer("port", 1, 65_535, flaws).unwrap_or(80);
        let path = o.text("path", 1024, flaws).unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') || path.contains(char::is_whitespace) || path.contains(char::is_control) {
            flaws.add(&o.at("path"), "format", &Value::from(path.clone()), "must begin with / and have no spaces");
        }
        let expect = o.text("expect", 7, flaws).unwrap_or_else(|| "100-599".to_owned());
        let range = status_range(&expect);
        if range.is_none() {
            flaws.add(&o.at("expect"), "format", &Value::from(expect), "must be a status or a range such as 200-399");
        }
        o.finish(flaws);
        let (expect_from, expect_to) = range?;
        Some(Self { port: u16::try_from(port).ok()?, path, expect_from, expect_to })
    }
}

fn status_range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let range = (from.parse().ok()?, to.parse().ok()?);
    (100 <= range.0 && range.0 <= range.1 && range.1 <= 599).then_some(range)
}

/// Which way a request is tried (SPEC 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKind {
    /// One attempt.
    Single,
    /// Another attempt elsewhere when one fails.
    Failover,
    /// Two attempts from the start; the first to verify wins.
    Race,
    /// A second attempt beside one that is slow.
    Hedge,
}

impl StrategyKind {
    /// All of them with their names.
    pub const ALL: [(&'static str, Self); 4] =
        [("single", Self::Single), ("failover", Self::Failover), ("race", Self::Race), ("hedge", Self::Hedge)];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, s)| *s == self).map_or("", |(n, _)| n)
    }

    /// The strategy of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
    }

    /// Two attempts may be at work at once.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Race | Self::Hedge)
    }
}

/// A strategy with its limit of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strategy {
    /// Which.
    #[serde(rename = "type")]
    pub kind: StrategyKind,
    /// How many attempts there may be in all.
    pub max_attempts: u32,
}

impl Default for Strategy {
    fn default() -> Self {
        Self::of(StrategyKind::Failover)
    }
}

impl Strategy {
    /// A strategy with its usual limit of attempts.
    pub fn of(kind: StrategyKind) -> Self {
        Self { kind, max_attempts: if kind == StrategyKind::Single { 1 } else { 3 } }
    }

    /// Reads the one that stands at `pointer`.
    pub fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Self {
        let mut o = Object::new(pointer, value, flaws);
        let kind = o.word("type", &StrategyKind::ALL, flaws).unwrap_or(StrategyKind::Failover);
        let asked = o.integer("max_attempts", 1, 3, flaws).and_then(|n| u32::try_from(n).ok());
        let at = o.at("max_attempts");
        if kind == StrategyKind::Single && asked.is_some_and(|n| n > 1) {
            flaws.add(&at, "max", &Value::from(asked), "single has one attempt");
        }
        if kind.is_parallel() && asked.is_some_and(|n| n < 2) {
            flaws.add(&at, "min", &Value::from(asked), format!("{} needs two attempts", kind.name()));
        }
        o.finish(flaws);
        let usual = Self::of(kind);
        Self { max_attempts: asked.unwrap_or(usual.max_attempts), ..usual }
    }

    /// What of it holds for a kind of service. Two attempts at once need two endpoints, so where the request fixes the
    /// endpoint a policy of race or hedge means failover (H9).
    #[must_use]
    pub fn for_kind(self, kind: super::Kind) -> Self {
        let narrow = self.kind.is_parallel() && kind.fixes_endpoint();
        Self { kind: if narrow { StrategyKind::Failover } else { self.kind }, ..self }
    }
}

/// Where an environment comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// URL of the Git repository.
    pub repository: String,
    /// Branch.
    pub branch: Option<String>,
    /// Commit; the branch's head when not given.
    pub commit_sha: Option<String>,
    /// Folder with the manifests.
    pub path: String,
}

impl Source {
    pub(super) fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Self> {
        let mut o = Object::new(pointer, value, flaws);
        let repository = o.required_text("repository", 2048, flaws);
        if let Some(url) = &repository {
            let known = ["https://", "http://", "ssh://", "git@", "git://"].iter().any(|p| url.starts_with(p));
            if !known || url.contains(char::is_whitespace) {
                flaws.add(&o.at("repository"), "format", &Value::from(url.clone()), "must be the URL of a Git repository");
            }
        }
        let branch = o.text("branch", 255, flaws);
        let commit_sha = o.raw("commit_sha").and_then(|v| commit(&o.at("commit_sha"), v, flaws));
        let path = o.text("path", 1024, flaws).unwrap_or_else(|| ".".to_owned());
        if path.starts_with('/') || path.split('/').any(|p| p == "..") {
            flaws.add(&o.at("path"), "format", &Value::from(path.clone()), "must stay inside the repository");
        }
        o.finish(flaws);
        Some(Self { repository: repository?, branch, commit_sha, path })
    }
}

fn commit(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<String> {
    let text = text_of(pointer, value, 64, flaws)?;
    if text.len() < 7 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        flaws.add(pointer, "format", value, "must be 7 to 64 hexadecimal digits");
    }
    Some(text)
}

//! What a tenant asks for, and every rule that it must keep.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::{Flaw, Flaws, Object, integer_of, text_of, word_of};

mod parts;
pub use parts::{HttpProbe, Probes, Sealed, Size, Source, Strategy, StrategyKind};

/// The four kinds of service (SPEC 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A virtual server.
    Vps,
    /// A Kubernetes or OpenShift namespace.
    KubernetesNamespace,
    /// A preview environment of a Git branch.
    Environment,
    /// A service that a vendor sets up by hand.
    Managed,
}

impl Kind {
    /// All kinds with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("vps", Self::Vps),
        ("kubernetes_namespace", Self::KubernetesNamespace),
        ("environment", Self::Environment),
        ("managed", Self::Managed),
    ];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vps => "vps",
            Self::KubernetesNamespace => "kubernetes_namespace",
            Self::Environment => "environment",
            Self::Managed => "managed",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, k)| *k)
    }
}

/// The specification of one request. Its JSON is what the store keeps, and, with [`Spec::OPTIONAL`], what the API shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Unique per tenant among requests that are not rolled back (H21).
    pub name: String,
    /// The tenant's name.
    pub tenant: String,
    /// What is asked for.
    pub kind: Kind,
    /// Where; `null` only for managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether a near region will do (H22).
    #[serde(default)]
    pub region_fallback: bool,
    /// How large; `null` for kinds without a size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// A provider type that it must run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The name of the one cluster that it must run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Image of a vps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Ports of a vps that are opened and verified.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Public keys put on a vps.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// cloud-init, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<Sealed>,
    /// How it is verified, where not by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// Single or failover.
    pub strategy: Strategy,
    /// The order that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Who is told when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify_email: Option<String>,
    /// Become tags or metadata of the server.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Names in the same batch, or request ids.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Where an environment's manifests are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How long an environment lives after it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<f64>,
    /// Product of a managed service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// How long it may wait in the queue (H16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout_seconds: Option<f64>,
}

/// Encrypts a text before it becomes part of a specification.
pub trait Seal {
    /// The encrypted form of `clear`.
    fn seal(&self, clear: &str) -> Sealed;
}

impl Spec {
    /// Keys that are left out of the JSON where there is nothing to say; the API shows them as `null`.
    pub const OPTIONAL: [&str; 13] = [
        "region",
        "size",
        "provider",
        "cluster",
        "image",
        "user_data",
        "probes",
        "order_id",
        "notify_email",
        "source",
        "ttl_seconds",
        "product",
        "queue_timeout_seconds",
    ];

    /// Reads one request of a manifest or an API body that stands at `pointer`.
    pub fn check(pointer: &str, value: &Value, seal: &dyn Seal) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let mut o = Object::new(pointer, value, &mut flaws);
        let f = &mut flaws;
        let kind_value = o.required("kind", f);
        let kind = kind_value.and_then(|v| word_of(&o.at("kind"), v, &Kind::ALL, f));
        let name = o.required_text("name", 63, f);
        check_name(&o.at("name"), name.as_deref(), f);
        let spec = Self {
            name: name.unwrap_or_default(),
            tenant: o.required_text("tenant", 63, f).unwrap_or_default(),
            kind: kind.unwrap_or(Kind::Managed),
            region: o.text("region", 63, f),
            region_fallback: o.boolean("region_fallback", f).unwrap_or(false),
            size: o.raw("size").and_then(|v| Size::check(&o.at("size"), v, f)),
            provider: o.word("provider", &crate::cluster::PROVIDER_WORDS, f).map(|p| p.name().to_owned()),
            cluster: o.text("cluster", 63, f),
            image: o.text("image", 255, f),
            ports: ports(&mut o, f),
            ssh_keys: o.list("ssh_keys", 50, f, ssh_key),
            user_data: o.text("user_data", 65_535, f).map(|clear| seal.seal(&clear)),
            probes: o.raw("probes").map(|v| Probes::check(&o.at("probes"), v, f)),
            strategy: o.raw("strategy").map_or_else(Strategy::default, |v| Strategy::check(&o.at("strategy"), v, f)),
            order_id: o.text("order_id", 255, f),
            notify_email: o.text("notify_email", 254, f),
            labels: o.texts("labels", 64, f),
            depends_on: o.list("depends_on", 50, f, |p, v, f| text_of(p, v, 63, f)),
            source: o.raw("source").and_then(|v| Source::check(&o.at("source"), v, f)),
            ttl_seconds: o.number("ttl_seconds", 1.0, 3.2e8, f),
            product: o.text("product", 255, f),
            queue_timeout_seconds: o.number("queue_timeout_seconds", 0.001, 3.2e8, f),
        };
        let mut spec = spec;
        if kind.is_some() {
            spec.check_kind(&mut o, value, f);
        }
        if spec.kind == Kind::Vps && value.get("ports").is_none_or(Value::is_null) {
            spec.ports = vec![22];
        }
        spec.check_probe_port(&o, f);
        check_email(&o.at("notify_email"), spec.notify_email.as_deref(), f);
        o.finish(f);
        flaws.finish(spec)
    }

    /// What a kind needs, and what it cannot use.
    fn check_kind(&self, o: &mut Object<'_>, value: &Value, flaws: &mut Flaws) {
        let (needs, useless): (&[&str], &[&str]) = match self.kind {
            Kind::Vps => (&["region", "size", "image"], &["source", "ttl_seconds", "product"]),
            Kind::KubernetesNamespace => {
                (&["region", "size"], &["source", "ttl_seconds", "product", "image", "ports", "ssh_keys", "user_data", "probes"])
            }
            Kind::Environment => (&["region", "source"], &["product", "image", "ports", "ssh_keys", "user_data"]),
            Kind::Managed => (&["product"], &["source", "ttl_seconds", "image", "ports", "ssh_keys", "user_data"]),
        };
        for key in needs.iter().filter(|k| value.get(**k).is_none_or(Value::is_null)) {
            let message = format!("{key} is required for kind {}", self.kind.name());
            flaws.add(&o.at(key), "required", &Value::Null, message);
        }
        for key in useless.iter().filter(|k| value.get(**k).is_some_and(|v| !v.is_null())) {
            let given = value.get(*key).cloned().unwrap_or_default();
            flaws.add(&o.at(key), "unknown_key", &given, format!("{key} means nothing for kind {}", self.kind.name()));
        }
    }

    /// A port that no rule opens can never answer.
    fn check_probe_port(&self, o: &Object<'_>, flaws: &mut Flaws) {
        let Some(port) = self.probes.as_ref().and_then(|p| p.http.as_ref()).map(|h| h.port) else { return };
        if self.kind == Kind::Vps && !self.ports.contains(&port) {
            let at = format!("{}/http/port", o.at("probes"));
            flaws.add(&at, "exists", &Value::from(port), format!("port {port} is probed, but not among the ports"));
        }
    }

    /// What it takes of quota and of a cluster.
    pub fn needs(&self) -> crate::quota::Amounts {
        let size = self.size.unwrap_or_default();
        crate::quota::Amounts {
            cpu: i64::from(size.cpu),
            memory_gb: i64::from(size.memory_gb),
            storage_gb: i64::from(size.storage_gb),
        }
    }
}

/// Names are labels of DNS: they become names of servers, namespaces and applications.
fn check_name(pointer: &str, name: Option<&str>, flaws: &mut Flaws) {
    let Some(name) = name else { return };
    if !is_dns_label(name) {
        let message = "must be lower case letters, digits and hyphens, beginning and ending with a letter or digit";
        flaws.add(pointer, "format", &Value::from(name), message);
    }
}

/// Whether a text is a label of DNS (RFC 1123): at most 63 of `[a-z0-9-]`, no hyphen at either end.
pub fn is_dns_label(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}

fn check_email(pointer: &str, email: Option<&str>, flaws: &mut Flaws) {
    let Some(email) = email else { return };
    let fits = email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
        && !email.contains(char::is_whitespace)
        && !email.contains(char::is_control);
    if !fits {
        flaws.add(pointer, "format", &Value::from(email), "must be an e-mail address");
    }
}

fn ports(o: &mut Object<'_>, flaws: &mut Flaws) -> Vec<u16> {
    let pointer = o.at("ports");
    let mut list = o.list("ports", 32, flaws, |p, v, f| integer_of(p, v, 1, 65_535, f).and_then(|n| u16::try_from(n).ok()));
    let count = list.len();
    list.sort_unstable();
    list.dedup();
    if list.len() < count {
        flaws.add(&pointer, "unique", &Value::Null, "a port may stand once");
    }
    list
}

fn ssh_key(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<String> {
    let text = text_of(pointer, value, 16_384, flaws)?;
    let kind = text.split_whitespace().next().unwrap_or_default();
    let fits = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|p| kind.starts_with(p))
        && text.split_whitespace().nth(1).is_some_and(|b| b.len() >= 16)
        && !text.contains('\n');
    if !fits {
        flaws.add(pointer, "format", value, "must be one line of an OpenSSH public key");
    }
    Some(text)
}

#[cfg(test)]
mod tests;

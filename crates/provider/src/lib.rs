//! The contract between the engine and a backend.
//!
//! A [`Provider`] is bound to one registered cluster. Its calls never sleep and never retry: they answer
//! *done*, *running, look again in …*, or a classed [`Failure`]. Waiting, deadlines, retries and cancels
//! are the engine's, and the engine asks `core`. A create whose answer is lost is
//! [`Class::Ambiguous`](provisor_core::Class::Ambiguous); the engine then asks [`Provider::find`] by the
//! ownership tag before anything is made again.
//!
//! Every backend passes [`conformance`]; [`probe`] holds the probes that all of them share.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::check::Flaw;
use provisor_core::cluster::ClusterSpec;
use provisor_core::id::ClusterId;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Found, Made, Plan};
use provisor_core::{Failure, Span, Spec};

pub mod conformance;
pub mod probe;

/// What an operation answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It is done.
    Done(Made),
    /// It is under way; perform it again after a pause. `made` carries what is already durable (the id
    /// of what is being made), `seen` what was seen, for the error of a time-out.
    Running {
        /// What is known by now.
        made: Made,
        /// Status as the backend words it.
        seen: String,
        /// When to look again; `None` takes the engine's default (2 s).
        look_again: Option<Span>,
    },
}

/// What a release answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// Confirmed absent, on the backend that it was made on.
    Gone,
    /// Another object stands in its place and was left alone (H3).
    Replaced,
    /// Asked for; look again.
    Running {
        /// Status as the backend words it.
        seen: String,
        /// When to look again; `None` takes the engine's default (2 s).
        look_again: Option<Span>,
    },
}

/// One check of a connectivity test.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it is good.
    pub ok: bool,
    /// How long it took.
    pub latency_ms: u64,
    /// What exactly failed.
    pub error: Option<String>,
}

/// What a running service uses now; `unavailable` says why a figure is missing.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Metrics {
    /// Share of the processors, in percent.
    pub cpu_percent: Option<f64>,
    /// GiB in use.
    pub memory_used_gb: Option<f64>,
    /// GiB in use.
    pub disk_used_gb: Option<f64>,
    /// Bytes received since boot.
    pub network_rx_bytes: Option<u64>,
    /// Bytes sent since boot.
    pub network_tx_bytes: Option<u64>,
    /// Figure → why it is missing.
    pub unavailable: std::collections::BTreeMap<String, String>,
}

/// An action on a completed service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop it, keeping everything.
    Suspend,
    /// Start it again.
    Reactivate,
}

/// Bounds of one page of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects of this page.
    pub items: Vec<Found>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// A backend, bound to one cluster. All calls may be made at the same time.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// The operations of an attempt. Pure: no call, no clock. A specification that this cluster can never
    /// serve (no such image, say) may be refused here.
    fn plan(&self, spec: &Spec) -> Result<Plan, Failure>;

    /// The operations of an action, all in step `activate` or `verify`. Pure.
    fn plan_action(&self, action: Action, spec: &Spec) -> Result<Plan, Failure>;

    /// What an operation brings that asks nobody: it is then over without a call. Pure. Nothing that touches a
    /// backend belongs here, as what is answered may be forgotten by a crash and answered again.
    fn answer(&self, operation: &str, spec: &Spec) -> Option<Made> {
        let _ = (operation, spec);
        None
    }

    /// Who the backend is (H4): project id, instance uuid … Answers of a backend with another identity
    /// prove nothing about what was made here.
    async fn identity(&self) -> Result<String, Failure>;

    /// One operation, re-enterable: with `work.provider_id` set it goes on with what a former call made,
    /// without it it creates. An answer of a create that was lost is `Ambiguous`.
    async fn perform(&self, work: &Work) -> Result<Progress, Failure>;

    /// Why an operation that failed or was not done in time is as it is, in the backend's own words: a line each,
    /// the most telling first. Asked once, after the fact and with little time; what cannot be learned is left out.
    async fn diagnose(&self, work: &Work) -> Vec<String> {
        let _ = work;
        Vec::new()
    }

    /// Everything that carries this tag, or this name where the name is the key; soft-deleted counts as
    /// there (H6).
    async fn find(&self, kind: &str, tag: &str, name: &str) -> Result<Vec<Found>, Failure>;

    /// Releases one resource: reads it, checks that it is ours (H3), deletes it, and says gone only once
    /// its absence is confirmed.
    async fn release(&self, held: &Held) -> Result<Released, Failure>;

    /// One page of everything whose tag begins with `prefix` (see `Tag::prefix`).
    async fn list_owned(&self, prefix: &str, from: Option<String>) -> Result<Page, Failure>;

    /// Named checks, each timed.
    async fn test(&self) -> Vec<Check>;

    /// What the backend says it has room for in all; `None` where it does not tell.
    async fn capacity(&self) -> Result<Option<provisor_core::cluster::Capacity>, Failure>;

    /// What a running service uses.
    async fn metrics(&self, work: &Work) -> Result<Metrics, Failure>;
}

/// What a provider needs to know of its cluster.
#[derive(Clone)]
pub struct Binding {
    /// The cluster's id.
    pub id: ClusterId,
    /// Its description.
    pub spec: ClusterSpec,
    /// Its credentials in clear. Never logged.
    pub credentials: Secret,
    /// Opens what is kept encrypted in a specification (`user_data`).
    pub open: Arc<dyn Open>,
    /// Addresses that probes may reach besides the public and private ranges.
    pub probe_allow: Vec<Cidr>,
}

/// Opens an encrypted text.
pub trait Open: Send + Sync {
    /// The clear text.
    fn open(&self, sealed: &provisor_core::spec::Sealed) -> Result<String, Failure>;
}

/// Credentials: a JSON object that does not show itself.
#[derive(Clone, Default)]
pub struct Secret(serde_json::Value);

impl Secret {
    /// Wraps credentials.
    pub fn new(value: serde_json::Value) -> Self {
        Self(value)
    }

    /// A text of the credentials.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(serde_json::Value::as_str)
    }

    /// The whole object; take care not to log it.
    pub fn value(&self) -> &serde_json::Value {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Makes providers of one type.
pub trait Connector: Send + Sync {
    /// Faults of the provider's own keys in endpoint, credentials and settings, with pointers below
    /// `pointer` (`{pointer}/endpoint/auth_url`). `credentials` is `None` in an edit that leaves them.
    fn check(&self, pointer: &str, spec: &ClusterSpec, credentials: Option<&serde_json::Value>) -> Vec<Flaw>;

    /// A provider bound to a cluster. Makes no call yet.
    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure>;
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `127.0.0.0/8` or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((a, b)) => (a, Some(b.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits })
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same_prefix(u128::from(u32::from(a)) << 96, u128::from(u32::from(b)) << 96, self.bits)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(u128::from(a), u128::from(b), self.bits),
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, bits: u8) -> bool {
    bits == 0 || (a ^ b) >> (128 - u32::from(bits)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_addresses() {
        let range = Cidr::parse("127.0.0.0/8").expect("range");
        assert!(range.contains("127.77.0.1".parse().expect("address")));
        assert!(!range.contains("128.0.0.1".parse().expect("address")));
        assert!(Cidr::parse("10.0.0.1").expect("one").contains("10.0.0.1".parse().expect("address")));
        assert!(Cidr::parse("10.0.0.0/33").is_none());
    }

    #[test]
    fn credentials_do_not_show_themselves() {
        let secret = Secret::new(serde_json::json!({"password": "hunter2"}));
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.text("password"), Some("hunter2"));
    }
}

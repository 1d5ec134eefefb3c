//! The figures for Prometheus in its text format 0.0.4. The list of metrics is data: the docs are made of it.

use std::fmt::Write;

use provisor_core::cluster::{Capacity, HealthState};
use provisor_store::ops::stats::{ClusterNumbers, Numbers};

/// A metric: its name and what it tells. All are gauges.
pub(crate) const METRICS: &[(&str, &str)] = &[
    ("provisor_requests", "Requests by state and kind."),
    ("provisor_queue_depth", "Requests that are queued."),
    ("provisor_in_work", "Requests in work, as tenants' limits count them."),
    ("provisor_leases", "Leases that workers hold."),
    ("provisor_open_resources", "Rows of the ledger that are not closed, by state."),
    ("provisor_log_position", "The last position of the event log."),
    ("provisor_follower_lag", "Positions of the log that a follower has still to read."),
    ("provisor_cluster_limit", "Our limit of a cluster's dimension; absent where there is none."),
    ("provisor_cluster_reserved", "What attempts at work hold of a cluster."),
    ("provisor_cluster_used", "What services hold of a cluster."),
    ("provisor_cluster_health", "1 for the present health of a cluster."),
    ("provisor_streams", "Live streams that are open."),
];

/// The dimensions of a cluster; one without a value is left out.
type Dimensions = [(&'static str, Option<i64>); 4];

struct Page {
    text: String,
}

impl Page {
    fn metric(&mut self, name: &str, lines: impl IntoIterator<Item = (String, i64)>) {
        let help = METRICS.iter().find(|(n, _)| *n == name).map_or("", |(_, help)| help);
        // Why unwrapped by `_`: writing into a text cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in lines {
            let _ = if labels.is_empty() {
                writeln!(self.text, "{name} {value}")
            } else {
                writeln!(self.text, "{name}{{{labels}}} {value}")
            };
        }
    }
}

/// A label with its value escaped.
fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// The page.
pub(crate) fn page(numbers: &Numbers, streams: usize) -> String {
    let mut page = Page { text: String::new() };
    let one = |value: i64| [(String::new(), value)];
    let requests = numbers
        .requests
        .iter()
        .map(|(state, kind, count)| (format!("{},{}", label("state", state.name()), label("kind", kind.name())), *count));
    page.metric("provisor_requests", requests);
    page.metric("provisor_queue_depth", one(numbers.queue_depth));
    page.metric("provisor_in_work", one(numbers.in_work));
    page.metric("provisor_leases", one(numbers.leases));
    page.metric("provisor_open_resources", numbers.open_resources.iter().map(|(state, n)| (label("state", state), *n)));
    page.metric("provisor_log_position", one(numbers.head));
    page.metric("provisor_follower_lag", numbers.readers.iter().map(|r| (label("follower", &r.name), r.behind)));
    let of_clusters = |value: fn(&ClusterNumbers) -> Dimensions| {
        numbers.clusters.iter().flat_map(move |c| {
            let named = move |(dimension, value): (&str, Option<i64>)| {
                Some((format!("{},{}", label("cluster", &c.name), label("dimension", dimension)), value?))
            };
            value(c).into_iter().filter_map(named)
        })
    };
    page.metric("provisor_cluster_limit", of_clusters(|c| limits(&c.limit)));
    page.metric("provisor_cluster_reserved", of_clusters(|c| amounts(c.reserved, c.reserved_slots)));
    page.metric("provisor_cluster_used", of_clusters(|c| amounts(c.used, c.used_slots)));
    page.metric("provisor_cluster_health", numbers.clusters.iter().flat_map(health));
    page.metric("provisor_streams", one(i64::try_from(streams).unwrap_or(i64::MAX)));
    page.text
}

fn limits(limit: &Capacity) -> Dimensions {
    [("cpu", limit.cpu), ("memory_gb", limit.memory_gb), ("storage_gb", limit.storage_gb), ("slots", limit.slots)]
}

fn amounts(held: provisor_core::Amounts, slots: i64) -> Dimensions {
    [("cpu", Some(held.cpu)), ("memory_gb", Some(held.memory_gb)), ("storage_gb", Some(held.storage_gb)), ("slots", Some(slots))]
}

fn health(cluster: &ClusterNumbers) -> Vec<(String, i64)> {
    let states = [("online", HealthState::Online), ("degraded", HealthState::Degraded), ("offline", HealthState::Offline)];
    let line = |(name, state): (&str, HealthState)| {
        (format!("{},{}", label("cluster", &cluster.name), label("state", name)), i64::from(cluster.health == state))
    };
    states.into_iter().map(line).collect()
}

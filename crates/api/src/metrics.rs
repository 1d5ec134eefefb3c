//! The figures for Prometheus in its text format 0.0.4. The list of metrics is data: the docs are made of it.

use std::fmt::Write;

use provisor_core::cluster::{Capacity, HealthState};
use provisor_store::ops::balance::Balance;
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
    ("provisor_breaker", "1 for the present state of a cluster's circuit breaker."),
    ("provisor_breaker_opened", "How often a cluster's circuit breaker has opened."),
    ("provisor_cluster_paused", "1 while a cluster's credentials are refused and nothing is called there."),
    (
        "provisor_unexplained_resources",
        "Objects with our tag at a cluster that no open row of the ledger explains, by the last sweep.",
    ),
    ("provisor_missing_resources", "Rows of the ledger whose objects are not at their cluster, by the last sweep."),
    ("provisor_capacity_differences", "Counters of a cluster's capacity that are not what attempts hold, by the last sweep."),
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
    page.metric("provisor_breaker", numbers.clusters.iter().flat_map(breaker));
    let of_each = |value: fn(&ClusterNumbers) -> i64| numbers.clusters.iter().map(move |c| (label("cluster", &c.name), value(c)));
    page.metric("provisor_breaker_opened", of_each(|c| i64::try_from(c.gate.breaker.opened).unwrap_or(i64::MAX)));
    page.metric("provisor_cluster_paused", of_each(|c| i64::from(c.gate.paused.is_some())));
    let swept = |value: fn(&Balance) -> u64| {
        let named = move |c: &ClusterNumbers| {
            let value = c.balance.as_ref().map(value)?;
            Some((label("cluster", &c.name), i64::try_from(value).unwrap_or(i64::MAX)))
        };
        numbers.clusters.iter().filter_map(named)
    };
    page.metric("provisor_unexplained_resources", swept(|b| b.unexplained));
    page.metric("provisor_missing_resources", swept(|b| b.missing));
    page.metric("provisor_capacity_differences", swept(|b| u64::try_from(b.capacity.len()).unwrap_or(u64::MAX)));
    page.metric("provisor_streams", one(i64::try_from(streams).unwrap_or(i64::MAX)));
    page.text
}

fn limits(limit: &Capacity) -> Dimensions {
    [("cpu", limit.cpu), ("memory_gb", limit.memory_gb), ("storage_gb", limit.storage_gb), ("slots", limit.slots)]
}

fn amounts(held: provisor_core::Amounts, slots: i64) -> Dimensions {
    [("cpu", Some(held.cpu)), ("memory_gb", Some(held.memory_gb)), ("storage_gb", Some(held.storage_gb)), ("slots", Some(slots))]
}

fn breaker(cluster: &ClusterNumbers) -> Vec<(String, i64)> {
    let state = cluster.gate.breaker.state.name();
    let line = |name: &str| (format!("{},{}", label("cluster", &cluster.name), label("state", name)), i64::from(name == state));
    ["closed", "open", "half_open"].into_iter().map(line).collect()
}

fn health(cluster: &ClusterNumbers) -> Vec<(String, i64)> {
    let states = [("online", HealthState::Online), ("degraded", HealthState::Degraded), ("offline", HealthState::Offline)];
    let line = |(name, state): (&str, HealthState)| {
        (format!("{},{}", label("cluster", &cluster.name), label("state", name)), i64::from(cluster.health == state))
    };
    states.into_iter().map(line).collect()
}

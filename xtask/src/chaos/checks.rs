//! What must hold of a whole installation once its work has ended, looked at from outside only.
//!
//! Each check is a sentence and a function, and tells every breach with the request that it is about. What
//! may come late by H6 and H8 (a create in doubt is watched after its request has completed, what still arrives
//! is released by the sweeper, a lost attempt's clean-up holds its cluster's capacity) is given time; nothing else is.
//! Until that is over [`super::meanwhile`] judges exactly what may be open, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::http::Http;
use super::load::{CLUSTERS, Fate, roles};
use crate::shell::Done;

/// What was seen from outside at one time.
pub(crate) struct Seen {
    pub(crate) requests: Vec<Value>,
    /// Ledger rows by request.
    pub(super) rows: BTreeMap<String, Vec<Value>>,
    /// Everything that a cluster ever made, by cluster.
    made: BTreeMap<String, Vec<Value>>,
    quotas: BTreeMap<String, Value>,
    pub(super) clusters: Vec<Value>,
    events: Vec<Value>,
    /// What Provisor itself says of its clusters.
    own: BTreeMap<String, Value>,
    /// The names that were asked for.
    pub(crate) asked: BTreeMap<String, Fate>,
}

/// A sentence that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    /// What must hold.
    pub(crate) check: &'static str,
    /// The request that it is about, where it is about one.
    pub(crate) request: Option<String>,
    /// What was seen instead.
    pub(crate) what: String,
}

/// A check by name.
pub(crate) struct Check {
    pub(crate) sentence: &'static str,
    /// It may come true a while after the last request has ended (H6).
    pub(crate) settles: bool,
    look: fn(&Seen, &mut Told),
}

/// Gathers what a check finds.
#[derive(Default)]
pub(super) struct Told(Vec<(Option<String>, String)>);

impl Told {
    pub(super) fn of(&mut self, request: &Value, what: impl Into<String>) {
        self.0.push((Some(text(request, "id").to_owned()), what.into()));
    }
    pub(super) fn all(&mut self, what: impl Into<String>) {
        self.0.push((None, what.into()));
    }
    pub(super) fn under(self, check: &'static str) -> impl Iterator<Item = Breach> {
        self.0.into_iter().map(move |(request, what)| Breach { check, request, what })
    }
}

/// Everything that is checked.
pub(crate) const CHECKS: [Check; 13] = [
    Check { sentence: "every request that was asked for is there once", settles: false, look: asked_once },
    Check { sentence: "every request ends completed or rolled_back", settles: false, look: ended },
    Check { sentence: "a completed request has four steps that succeeded and a winner", settles: false, look: steps },
    Check { sentence: "of what a request made, only its winner's is kept, one of each role", settles: true, look: ledger },
    Check { sentence: "no clean-up is owed", settles: true, look: nothing_owed },
    Check { sentence: "what lives in the clouds is what completed requests own", settles: true, look: clouds },
    Check { sentence: "nothing is left of a rolled back request", settles: true, look: nothing_left },
    Check { sentence: "nothing is made twice under one tag", settles: false, look: made_once },
    Check { sentence: "quota used is what live requests hold", settles: false, look: quota },
    Check { sentence: "capacity used is what winners hold, and nothing stays reserved", settles: true, look: capacity },
    Check { sentence: "the log has no gap, and each end is told once", settles: false, look: log },
    Check { sentence: "Provisor's inventory knows nothing orphaned and misses nothing", settles: true, look: own_inventory },
    Check { sentence: "what a completed request names as its endpoint answers", settles: false, look: endpoints },
];

impl Seen {
    /// Looks at everything.
    pub(crate) fn look(http: &Http, cloud: &Http, asked: &BTreeMap<String, Fate>) -> Done<Self> {
        let requests = http.all("/api/requests", "cursor")?;
        let mut rows = BTreeMap::new();
        for request in &requests {
            let id = text(request, "id");
            rows.insert(id.to_owned(), list(&http.get(&format!("/api/requests/{id}/resources"))?, "items").to_vec());
        }
        let (mut made, mut own, mut quotas) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (name, _) in CLUSTERS {
            made.insert(name.to_owned(), list(&cloud.get(&format!("/sim/{name}/inventory"))?, "resources").to_vec());
            // It asks the cloud, which has its bad moments in this run; none of them is a finding.
            let answer = (0..5).find_map(|_| http.get(&format!("/api/clusters/{name}/inventory")).ok());
            own.extend(answer.map(|answer| (name.to_owned(), answer)));
        }
        for tenant in http.all("/api/tenants", "cursor")? {
            let name = text(&tenant, "name");
            quotas.insert(name.to_owned(), http.get(&format!("/api/tenants/{name}/quota"))?);
        }
        let (clusters, events) = (http.all("/api/clusters", "cursor")?, http.all("/api/events", "after")?);
        Ok(Self { requests, rows, made, quotas, clusters, events, own, asked: asked.clone() })
    }

    /// Every breach of the checks that settle, or of those that do not.
    pub(crate) fn breaches(&self, settles: bool) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for check in CHECKS.iter().filter(|c| c.settles == settles) {
            let mut told = Told::default();
            (check.look)(self, &mut told);
            breaches.extend(told.under(check.sentence));
        }
        breaches
    }

    /// Objects of the clouds that are there now.
    fn live(&self) -> impl Iterator<Item = (&str, &Value)> {
        let all = self.made.iter().flat_map(|(cluster, made)| made.iter().map(move |m| (cluster.as_str(), m)));
        all.filter(|(_, m)| m.get("gone_at").is_none_or(Value::is_null))
    }

    pub(super) fn open_rows(&self, request: &Value) -> impl Iterator<Item = &Value> {
        let rows = self.rows.get(text(request, "id")).map_or(&[][..], Vec::as_slice);
        rows.iter().filter(|r| text(r, "state") != "released")
    }
}

/// A text of an object, empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list of an object.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn size(request: &Value, dimension: &str) -> i64 {
    request.pointer(&format!("/spec/size/{dimension}")).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn stands(request: &Value) -> bool {
    matches!(text(request, "state"), "completed" | "suspended")
}

fn asked_once(seen: &Seen, told: &mut Told) {
    let mut count: BTreeMap<&str, usize> = seen.asked.keys().map(|name| (name.as_str(), 0)).collect();
    for request in &seen.requests {
        *count.entry(text(request, "name")).or_default() += 1;
    }
    for (name, n) in count.into_iter().filter(|(_, n)| *n != 1) {
        told.all(format!("{name} is there {n} times"));
    }
}

fn ended(seen: &Seen, told: &mut Told) {
    for request in &seen.requests {
        let suspends = seen.asked.get(text(request, "name")) == Some(&Fate::Suspended);
        match text(request, "state") {
            "completed" | "rolled_back" => {}
            // A reactivate that failed is stopped again (H14).
            "suspended" if suspends => {}
            state => told.of(request, format!("is {state}, waits for {}", request.get("waiting_for").unwrap_or(&Value::Null))),
        }
    }
}

fn steps(seen: &Seen, told: &mut Told) {
    for request in seen.requests.iter().filter(|r| stands(r)) {
        let steps: Vec<&str> = list(request, "steps").iter().map(|s| text(s, "status")).collect();
        if steps != ["succeeded"; 4] || text(request, "winner").is_empty() {
            told.of(request, format!("steps are {steps:?}, the winner is {:?}", text(request, "winner")));
        }
    }
}

/// What its winner plays, where it has one.
pub(super) fn plays(request: &Value) -> Option<&'static str> {
    let winner = list(request, "attempts").iter().find(|a| a.get("id") == request.get("winner"))?;
    CLUSTERS.iter().find(|(name, _)| *name == text(winner, "cluster")).map(|(_, plays)| *plays)
}

fn ledger(seen: &Seen, told: &mut Told) {
    for request in &seen.requests {
        let open: Vec<&Value> = seen.open_rows(request).collect();
        if !stands(request) {
            if text(request, "state") == "rolled_back" && !open.is_empty() {
                told.of(request, format!("rolled back, but {} rows are open: {open:?}", open.len()));
            }
            continue;
        }
        let mut kinds: Vec<&str> = open.iter().map(|r| text(r, "kind")).collect();
        kinds.sort_unstable();
        if plays(request).is_none_or(|p| kinds != roles(p)) {
            told.of(request, format!("open rows are of {kinds:?}"));
        }
        for row in open.iter().filter(|r| text(r, "state") != "created" || r.get("attempt") != request.get("winner")) {
            told.of(request, format!("keeps a row that is {} and of {}", text(row, "state"), text(row, "attempt")));
        }
    }
}

fn nothing_owed(seen: &Seen, told: &mut Told) {
    for request in seen.requests.iter().filter(|r| !list(r, "cleanup_owed").is_empty()) {
        told.of(request, format!("owes {:?}", list(request, "cleanup_owed")));
    }
}

fn clouds(seen: &Seen, told: &mut Told) {
    let mut owned: BTreeMap<(String, String, String), &Value> = BTreeMap::new();
    for request in seen.requests.iter().filter(|r| stands(r)) {
        for row in seen.open_rows(request) {
            let key = (text(row, "cluster").to_owned(), text(row, "kind").to_owned(), text(row, "provider_id").to_owned());
            if owned.insert(key, request).is_some() {
                told.of(request, format!("owns what another owns too: {row}"));
            }
        }
    }
    for (cluster, object) in seen.live() {
        let key = (cluster.to_owned(), text(object, "kind").to_owned(), text(object, "id").to_owned());
        if owned.remove(&key).is_none() {
            told.0.push((
                Some(text(object, "request").to_owned()),
                format!("{cluster} holds what no completed request owns: {object}"),
            ));
        }
    }
    for ((cluster, kind, id), request) in owned {
        told.of(request, format!("{cluster} has no {kind} {id} any more"));
    }
}

fn nothing_left(seen: &Seen, told: &mut Told) {
    let gone: BTreeMap<&str, &Value> =
        seen.requests.iter().filter(|r| text(r, "state") == "rolled_back").map(|r| (text(r, "id"), r)).collect();
    for (cluster, object) in seen.live() {
        if let Some(request) = gone.get(text(object, "request")) {
            told.of(request, format!("{cluster} still holds {object}"));
        }
    }
}

fn made_once(seen: &Seen, told: &mut Told) {
    for (cluster, object) in seen.made.iter().flat_map(|(c, all)| all.iter().map(move |o| (c, o))) {
        if object.get("created_count").and_then(Value::as_u64).is_none_or(|n| n > 1) {
            told.0.push((Some(text(object, "request").to_owned()), format!("{cluster} made twice: {object}")));
        }
    }
}

fn quota(seen: &Seen, told: &mut Told) {
    for (tenant, quota) in &seen.quotas {
        let live = || seen.requests.iter().filter(|r| text(r, "tenant") == tenant && text(r, "state") != "rolled_back");
        for dimension in list(quota, "dimensions") {
            let name = text(dimension, "name");
            let held: i64 = match name.strip_prefix("requests.") {
                Some(kind) => live().filter(|r| text(r, "kind") == kind).map(|_| 1).sum(),
                None => live().map(|r| size(r, name)).sum(),
            };
            if dimension.get("used").and_then(Value::as_i64) != Some(held) {
                told.all(format!("{tenant}: live requests hold {held}, the quota says {dimension}"));
            }
        }
    }
}

fn capacity(seen: &Seen, told: &mut Told) {
    for cluster in &seen.clusters {
        let name = text(cluster, "name");
        let here = |r: &&Value| {
            let winner = list(r, "attempts").iter().find(|a| a.get("id") == r.get("winner"));
            text(r, "state") != "rolled_back" && winner.is_some_and(|a| text(a, "cluster") == name)
        };
        for dimension in ["cpu", "memory_gb", "storage_gb", "slots"] {
            let held = seen.requests.iter().filter(here);
            let held: i64 = held.map(|r| if dimension == "slots" { 1 } else { size(r, dimension) }).sum();
            let room = cluster.pointer(&format!("/capacity/{dimension}")).unwrap_or(&Value::Null);
            let number = |key: &str| room.get(key).and_then(Value::as_i64);
            if number("used") != Some(held) || number("reserved") != Some(0) {
                told.all(format!("{name}: winners hold {held} {dimension}, the cluster says {room}"));
            }
        }
    }
}

fn log(seen: &Seen, told: &mut Told) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut types: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in &seen.events {
        let subject = text(event, "subject");
        if !ids.insert(text(event, "id")) {
            told.0.push((Some(subject.to_owned()), format!("twice in the log: {event}")));
        }
        let former = last.entry(subject).or_default();
        let sequence = text(event, "sequence").parse().unwrap_or(0);
        if sequence != *former + 1 {
            told.0.push((Some(subject.to_owned()), format!("after {former} comes {event}")));
        }
        *former = sequence;
        *types.entry(subject).or_default().entry(text(event, "type")).or_default() += 1;
    }
    for request in &seen.requests {
        let told_of = types.get(text(request, "id"));
        let count = |kind: &str| told_of.and_then(|t| t.get(kind)).copied().unwrap_or(0);
        let (completed, back) = (count("provisioning.completed"), count("provisioning.rolled-back"));
        let released = count("service.deprovisioned");
        let expected = match (stands(request), request.get("ready_at").is_some_and(Value::is_string)) {
            (true, _) => (1, 0, 0),
            (false, true) => (1, 0, 1),
            (false, false) => (0, 1, 0),
        };
        if (completed, back, released) != expected {
            told.of(request, format!("completed {completed}, rolled-back {back}, deprovisioned {released} times in the log"));
        }
    }
}

fn own_inventory(seen: &Seen, told: &mut Told) {
    for (name, _) in CLUSTERS {
        match seen.own.get(name) {
            None => told.all(format!("the inventory of {name} is not answered")),
            Some(own) => {
                for kind in ["orphaned", "missing"] {
                    if !list(own, kind).is_empty() {
                        told.all(format!("{name}: {kind} {:?}", list(own, kind)));
                    }
                }
            }
        }
    }
}

fn endpoints(seen: &Seen, told: &mut Told) {
    for request in seen.requests.iter().filter(|r| text(r, "state") == "completed") {
        if list(request, "endpoints").is_empty() {
            told.of(request, "has no endpoint");
        }
        for endpoint in list(request, "endpoints") {
            let url = text(endpoint, "url");
            let host = url.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
            // A simulated namespace has an address of nowhere.
            let Ok(address) = host.parse::<SocketAddr>() else { continue };
            if let Err(error) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                told.of(request, format!("{url} does not answer: {error}"));
            }
        }
    }
}

//! Looking at Provisor from outside: HTTP as any client does it, what the simulated cloud really holds, and
//! what must hold of a whole installation once its work has ended.
//!
//! Nothing here uses the product's own client, so that a mistake that both sides make alike is seen. A
//! client is a connection of its own: threads that race do not share one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use provisor_core::Timestamp;
use serde_json::{Value, json};

use crate::house::{Folder, LIMIT, Server};

/// Settings of a simulated cluster that loses no time: as the first entries of its `settings`.
pub(crate) const FAST: &str = "late_create_seconds: 0.2, list_lag_seconds: 0.05, \
    retry: {initial_seconds: 0.05, cap_seconds: 0.2, max_retries: 2}, probe: {every_seconds: 0.1}";

/// The kinds that a server of OpenStack is made of.
pub(crate) const KINDS: [&str; 5] = ["floating_ip", "port", "security_group", "server", "volume"];

/// A manifest's entry of a cluster that plays OpenStack; `more` are keys of it, `settings` beside `FAST`.
pub(crate) fn cluster(name: &str, more: &str, settings: &str) -> String {
    format!(
        "- {{name: {name}, provider: simulation, simulates: openstack, region: eu-west-1{more}, settings: {{{FAST}{settings}}}}}\n"
    )
}

/// A manifest's entry of the tenant acme.
pub(crate) fn tenant(cpu: u32, max_concurrent: u32) -> String {
    format!(
        "tenants:\n- {{name: acme, quota: {{cpu: {cpu}, memory_gb: 1000, storage_gb: 9000}}, max_concurrent: {max_concurrent}}}\n"
    )
}

/// Waits until there is something.
#[track_caller]
pub(crate) fn wait<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_up_to(LIMIT, what, look)
}

/// Waits until there is something, with a limit of its own.
#[track_caller]
pub(crate) fn wait_up_to<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < limit, "after {limit:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A text at a place of a document.
#[track_caller]
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer}: {value:#}"))
}

/// A list at a place of a document.
#[track_caller]
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no list at {pointer}: {value:#}"))
}

/// A whole number at a place of a document.
#[track_caller]
pub(crate) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_else(|| panic!("no number at {pointer}: {value:#}"))
}

/// A time at a place of a document, in microseconds.
#[track_caller]
pub(crate) fn time(value: &Value, pointer: &str) -> i64 {
    let text = text(value, pointer);
    Timestamp::parse(text).unwrap_or_else(|| panic!("{pointer}: {text} is no time")).0
}

/// One HTTP client with a connection of its own.
pub(crate) struct Http {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// It has this status; then its body.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        self.json()
    }

    /// A header, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

impl Http {
    /// To an address, without a token.
    pub(crate) fn open(base: &str) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
        Self { runtime, client, base: base.trim_end_matches('/').to_owned(), token: None }
    }

    /// To a server, as its first administrator.
    pub(crate) fn of(server: &Server) -> Self {
        let address = std::fs::read_to_string(server.folder.0.join("data/listen")).unwrap();
        Self::open(&format!("http://{address}")).with_token(&server.token())
    }

    /// With another token.
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.trim().to_owned());
        self
    }

    /// Asks; an error is that of the connection.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, String> {
        match body {
            Some(body) => self.raw(method, path, &[headers, &[("content-type", "application/json")]].concat(), body),
            None => self.raw(method, path, headers, String::new()),
        }
    }

    /// Asks with a body of any kind.
    pub(crate) fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, String> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let response = request.send().await.map_err(|e| format!("{e:?}"))?;
            let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
                Some((name.to_string(), value.to_str().ok()?.to_owned()))
            };
            let headers = response.headers().iter().filter_map(header).collect();
            let status = response.status().as_u16();
            let body = response.text().await.map_err(|e| format!("{e:?}"))?;
            Ok(Answer { status, headers, body })
        })
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Reads what must be there.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.send("GET", path, &[], None).is(200)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], Some(body.to_string()))
    }

    /// Asks for an action.
    #[track_caller]
    pub(crate) fn act(&self, id: &str, action: &str) -> Value {
        self.post(&format!("/api/requests/{id}/{action}"), &json!({"reason": "test"})).is(202)
    }

    /// Every item of a list, over all of its pages.
    #[track_caller]
    pub(crate) fn all(&self, path: &str, cursor: &str) -> Vec<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}{joint}limit=500{next}"));
            let found = list(&page, "/items");
            items.extend(found.iter().cloned());
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(at) if !found.is_empty() => next = format!("&{cursor}={at}"),
                _ => return items,
            }
        }
    }

    pub(crate) fn requests(&self) -> Vec<Value> {
        self.all("/api/requests", "cursor")
    }

    pub(crate) fn request(&self, id: &str) -> Value {
        self.get(&format!("/api/requests/{id}"))
    }

    /// The published events of everything, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.all("/api/events", "after")
    }

    /// The published events of one request.
    pub(crate) fn events_of(&self, id: &str) -> Vec<Value> {
        self.events().into_iter().filter(|e| e["subject"] == id).collect()
    }

    pub(crate) fn resources(&self, id: &str) -> Vec<Value> {
        list(&self.get(&format!("/api/requests/{id}/resources")), "/items").to_vec()
    }

    pub(crate) fn timeline(&self, id: &str) -> Value {
        self.get(&format!("/api/requests/{id}/timeline?detail=operations"))
    }

    /// Waits until a request is in a state.
    #[track_caller]
    pub(crate) fn reaches(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            last = self.request(id);
            if last["state"] == state {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{id} does not become {state}: {last:#}");
    }
}

/// A simulated cluster as it really is, wherever it runs.
pub(crate) struct Cloud<'a> {
    pub(crate) http: &'a Http,
    pub(crate) name: &'a str,
}

impl Cloud<'_> {
    /// Everything that was ever made, with the calls.
    pub(crate) fn inventory(&self) -> Value {
        self.http.get(&format!("/sim/{}/inventory", self.name))
    }

    /// What is there now: kind and id.
    pub(crate) fn live(&self) -> BTreeSet<(String, String)> {
        let inventory = self.http.get(&format!("/sim/{}/inventory?live=true", self.name));
        let live = list(&inventory, "/resources").iter();
        live.map(|r| (text(r, "/kind").to_owned(), text(r, "/id").to_owned())).collect()
    }
}

/// A server killed at once, and its folder.
pub(crate) fn crash(mut server: Server) -> Folder {
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let folder = std::mem::replace(&mut server.folder, Folder(PathBuf::from("none")));
    // The address of the dead would be taken for that of the next.
    let _ = std::fs::remove_file(folder.0.join("data/listen"));
    folder
}

/// What must hold when nothing is under way any more: the clouds hold exactly what completed requests own,
/// nothing was made twice, quota and capacity are those of the requests, and the log has no gap.
#[track_caller]
pub(crate) fn assert_balanced(http: &Http, clouds: &[Cloud<'_>]) {
    let requests = http.requests();
    let mut owned: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for request in &requests {
        owned_by(http, request, &mut owned);
    }
    for cloud in clouds {
        assert_eq!(cloud.live(), owned.remove(cloud.name).unwrap_or_default(), "what {} holds, and who owns it", cloud.name);
        let inventory = cloud.inventory();
        for made in list(&inventory, "/resources") {
            assert!(number(made, "/created_count") <= 1, "made twice: {made:#}");
        }
    }
    assert!(owned.is_empty(), "owned, but of no cloud: {owned:?}");
    assert_quota(http, &requests);
    assert_capacity(http, &requests);
    assert_log(http);
}

/// What a request owns by its ledger; of an ended one nothing may be open.
#[track_caller]
fn owned_by(http: &Http, request: &Value, owned: &mut BTreeMap<String, BTreeSet<(String, String)>>) {
    let state = text(request, "/state");
    assert!(["completed", "suspended", "rolled_back"].contains(&state), "still {state}: {request:#}");
    assert_eq!(request["cleanup_owed"], json!([]), "{request:#}");
    let rows = http.resources(text(request, "/id"));
    let open: Vec<&Value> = rows.iter().filter(|r| r["state"] != "released").collect();
    if state == "rolled_back" {
        assert!(open.is_empty(), "rolled back, but open: {open:#?}");
        return;
    }
    let mut kinds: Vec<&str> = open.iter().map(|r| text(r, "/kind")).collect();
    kinds.sort_unstable();
    if request["kind"] == "vps" {
        assert_eq!(kinds, KINDS, "{open:#?}");
    }
    for row in open {
        assert_eq!(row["state"], "created", "{row:#}");
        assert_eq!(row["attempt"], request["winner"], "only the winner keeps something: {row:#}");
        let object = (text(row, "/kind").to_owned(), text(row, "/provider_id").to_owned());
        assert!(owned.entry(text(row, "/cluster").to_owned()).or_default().insert(object), "owned twice: {row:#}");
    }
}

#[track_caller]
fn assert_quota(http: &Http, requests: &[Value]) {
    for tenant in http.all("/api/tenants", "cursor") {
        let name = text(&tenant, "/name");
        let live = || requests.iter().filter(|r| r["tenant"] == name && r["state"] != "rolled_back");
        let quota = http.get(&format!("/api/tenants/{name}/quota"));
        for dimension in list(&quota, "/dimensions") {
            let held: i64 = match text(dimension, "/name").strip_prefix("requests.") {
                Some(kind) => i64::try_from(live().filter(|r| r["kind"] == kind).count()).unwrap(),
                None => live().map(|r| r["spec"]["size"][text(dimension, "/name")].as_i64().unwrap_or(0)).sum(),
            };
            assert_eq!(number(dimension, "/used"), held, "{name}: {dimension}");
        }
    }
}

#[track_caller]
fn assert_capacity(http: &Http, requests: &[Value]) {
    for cluster in http.all("/api/clusters", "cursor") {
        let name = text(&cluster, "/name");
        let stands_here = |r: &&Value| {
            let winner = list(r, "/attempts").iter().find(|a| a["id"] == r["winner"]);
            r["state"] != "rolled_back" && winner.is_some_and(|a| a["cluster"] == name)
        };
        let here: Vec<&Value> = requests.iter().filter(stands_here).collect();
        for dimension in ["cpu", "memory_gb", "storage_gb", "slots"] {
            let used: i64 = match dimension {
                "slots" => i64::try_from(here.len()).unwrap(),
                size => here.iter().map(|r| r["spec"]["size"][size].as_i64().unwrap_or(0)).sum(),
            };
            let room = &cluster["capacity"][dimension];
            assert_eq!((number(room, "/reserved"), number(room, "/used")), (0, used), "{name} {dimension}: {room}");
        }
    }
}

/// Each request's published events count from one without a gap, and no event stands twice.
#[track_caller]
pub(crate) fn assert_log(http: &Http) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in http.events() {
        assert!(ids.insert(text(&event, "/id").to_owned()), "twice: {event:#}");
        let former = last.entry(text(&event, "/subject").to_owned()).or_default();
        let sequence: i64 = text(&event, "/sequence").parse().unwrap();
        assert_eq!(sequence, *former + 1, "a gap before {event:#}");
        *former = sequence;
    }
}

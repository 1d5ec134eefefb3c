//! The recording: answers of a real OpenStack, by what was asked.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::fake::Exchange;

/// Where it is kept.
pub(crate) const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/recorded.json");

static ANSWERS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("recorded.json")).expect("recorded.json"));

/// An answer: status and body. Of several kinds of answer to the same question the first, where the key does not tell.
pub(crate) fn answer(key: &str) -> (u16, Value) {
    let begins = format!("{key} ");
    let found = ANSWERS.get(key).or_else(|| ANSWERS.iter().find(|(k, _)| k.starts_with(&begins)).map(|(_, v)| v));
    let Some(found) = found else { panic!("nothing was recorded for {key:?}; cargo xtask openstack record") };
    let status = found["status"].as_u64().and_then(|s| s.try_into().ok()).expect("a status");
    (status, found["body"].clone())
}

/// What is asked, without ids and queries: `GET compute /servers/{id}`; and what tells kinds of answers apart: the state
/// of a server or volume, the action, the status and name of a fault.
pub(crate) fn key(exchange: &Exchange) -> String {
    let asked = &exchange.asked;
    let mut key = format!("{} {}", asked.method(), place(asked.path()));
    if asked.path().ends_with("/action") {
        let action = asked.body.as_object().and_then(|body| body.keys().next()).cloned().unwrap_or_default();
        key = format!("{key} {action}");
    }
    if exchange.status >= 400 {
        let fault = exchange.body.as_object().and_then(|body| body.iter().next());
        let name = fault.map_or("", |(outer, inner)| inner["type"].as_str().unwrap_or(outer));
        return format!("{key} {} {name}", exchange.status).trim_end().to_owned();
    }
    for item in ["server", "volume"] {
        if let Some(found) = exchange.body.get(item).filter(|_| asked.method() == "GET") {
            let task = found["OS-EXT-STS:task_state"].as_str().map_or_else(String::new, |task| format!("/{task}"));
            return format!("{key} {}{task}", found["status"].as_str().unwrap_or_default());
        }
    }
    key
}

/// `service /path`, with `{id}` for ids, and without versions, projects and queries.
pub(crate) fn place(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.trim_start_matches('/').split('/');
    let service = parts.next().unwrap_or_default();
    let mut rest: Vec<&str> = Vec::new();
    for (at, part) in parts.enumerate() {
        let version = at == 0 && (part.starts_with('v') && part.len() <= 4);
        let project = service == "volume" && at == 1 && is_id(part);
        if !version && !project {
            rest.push(if is_id(part) { "{id}" } else { part });
        }
    }
    format!("{service} /{}", rest.join("/"))
}

fn is_id(part: &str) -> bool {
    let hex = part.trim_start_matches("req-").bytes().filter(u8::is_ascii_hexdigit).count();
    hex >= 32
}

//! What comes in: bodies, query strings, headers of conditions. Everything is checked by the readers of
//! core, so that all faults come at once, each with its place.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::{HeaderMap, header, request::Parts};
use futures::StreamExt as _;
use provisor_core::check::{Flaws, nearest};
use serde_json::Value;

use crate::problem::Problem;

/// Largest body.
pub const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// As much of a body that is too large is taken in before it is refused.
const DRAIN_LIMIT_BYTES: usize = 16 * BODY_LIMIT_BYTES;
/// Entries of a page where the caller says nothing, and at most.
const PAGE_DEFAULT: i64 = 50;
const PAGE_LIMIT: i64 = 500;
/// Longest idempotency key.
const KEY_LIMIT: usize = 255;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read(request).await?;
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|e| Problem::new("malformed_body", format!("The body is not one JSON document: {e}.")))
    }
}

/// A JSON body that may be missing: then it is an empty object.
#[derive(Debug)]
pub(crate) struct OptionalBody(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for OptionalBody {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = read(request).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Value::Object(serde_json::Map::new())));
        }
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|e| Problem::new("malformed_body", format!("The body is not one JSON document: {e}.")))
    }
}

/// The whole body. One that is too large is taken in to its end, as far as that is bearable, and thrown away:
/// closed while it still sends, a client would see its connection break off instead of the answer.
async fn read(request: Request) -> Result<Bytes, Problem> {
    let too_large = || {
        let problem = Problem::new("too_large", format!("The body is larger than {BODY_LIMIT_BYTES} bytes."));
        problem.header(header::CONNECTION, "close")
    };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    // Who expects a word before sending need not send at all.
    let bearable = if request.headers().contains_key(header::EXPECT) { BODY_LIMIT_BYTES } else { DRAIN_LIMIT_BYTES };
    if length.is_some_and(|length| length > bearable) {
        return Err(too_large());
    }
    let mut stream = request.into_body().into_data_stream();
    let (mut body, mut taken) = (Vec::new(), 0_usize);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Problem::new("malformed_body", "The body broke off."))?;
        taken = taken.saturating_add(chunk.len());
        if taken <= BODY_LIMIT_BYTES {
            body.extend_from_slice(&chunk);
        } else if taken > DRAIN_LIMIT_BYTES {
            break;
        }
    }
    if taken > BODY_LIMIT_BYTES { Err(too_large()) } else { Ok(body.into()) }
}

/// The query string. Unknown names are refused: a filter with a typing error would show everything.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    flaws: Flaws,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = pairs.map_err(|_| Problem::flaw("?", "format", Value::Null, "the query string cannot be read"))?;
        Ok(Self { pairs, known: Vec::new(), flaws: Flaws::default() })
    }
}

impl Params {
    /// A text; an empty one counts as not given.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut found = self.pairs.iter().filter(|(n, _)| n == name);
        let (_, value) = found.next()?;
        if found.next().is_some() {
            self.flaws.add(&format!("?{name}"), "unique", &Value::from(value.clone()), format!("{name} may stand once"));
        }
        Some(value.clone()).filter(|v| !v.is_empty())
    }

    /// A text that must not be empty where it is given: without it something else is asked for.
    pub(crate) fn filled(&mut self, name: &'static str) -> Option<String> {
        let (text, given) = (self.text(name), self.pairs.iter().any(|(n, _)| n == name));
        if given && text.is_none() {
            self.flaw(name, "required", "", format!("{name} must not be empty"));
        }
        text
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T>(&mut self, name: &'static str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let found = parse(&text);
        if found.is_none() {
            self.flaw(name, "format", &text, format!("must be {wanted}"));
        }
        found
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            self.flaw(name, "enum", &text, format!("must be one of {}", all.join(", ")));
        }
        found
    }

    /// `true` or `false`; false where it is not given.
    pub(crate) fn flag(&mut self, name: &'static str) -> bool {
        self.word(name, &[("true", true), ("false", false)]).unwrap_or(false)
    }

    /// The size of a page.
    pub(crate) fn limit(&mut self) -> i64 {
        let Some(text) = self.text("limit") else { return PAGE_DEFAULT };
        match text.parse::<i64>() {
            Ok(n) if (1..=PAGE_LIMIT).contains(&n) => return n,
            Ok(n) if n > PAGE_LIMIT => self.flaw("limit", "max", &text, format!("must be at most {PAGE_LIMIT}")),
            Ok(_) => self.flaw("limit", "min", &text, "must be at least 1"),
            Err(_) => self.flaw("limit", "type", &text, "must be a whole number"),
        }
        PAGE_DEFAULT
    }

    /// Notes a fault.
    pub(crate) fn flaw(&mut self, name: &str, rule: &str, value: &str, message: impl Into<String>) {
        self.flaws.add(&format!("?{name}"), rule, &Value::from(value), message);
    }

    /// Ends the reading: unknown names are faults.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        let unknown: Vec<_> = self.pairs.iter().filter(|(n, _)| !self.known.contains(&n.as_str())).cloned().collect();
        for (name, value) in unknown {
            let hint = nearest(&name, &self.known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            self.flaw(&name, "unknown_key", &value, format!("`{name}` is not known here{hint}"));
        }
        self.flaws.finish(()).map_err(Problem::invalid)
    }
}

/// The `Idempotency-Key`, where it is given.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|k| !k.is_empty() && k.len() <= KEY_LIMIT);
    let refused = || {
        let message = format!("must be 1 to {KEY_LIMIT} visible characters");
        Problem::flaw("Idempotency-Key", "format", Value::Null, message)
    };
    key.map(|k| Some(k.to_owned())).ok_or_else(refused)
}

/// The version in `If-Match`, where it is given. One that is none of ours matches nothing.
pub(crate) fn if_match(headers: &HeaderMap) -> Option<i64> {
    const NO_VERSION: i64 = -1;
    let text = headers.get(header::IF_MATCH)?.to_str().unwrap_or_default().trim();
    if text == "*" {
        return None;
    }
    let bare = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    Some(bare.parse().unwrap_or(NO_VERSION))
}

/// A digest of a parsed body: the same whatever its spaces and the order of its keys (H20).
pub(crate) fn fingerprint(body: &Value) -> String {
    let mut text = String::new();
    canonical(body, &mut text);
    crate::auth::digest(&text)
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Merges a patch into a document (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_does_as_rfc_7396_says() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in cases {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }

    #[test]
    fn h20_a_fingerprint_does_not_depend_on_spaces_or_order() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":{"c":[1,2],"d":"x"}}"#).unwrap_or_default();
        let b: Value = serde_json::from_str(r#"{ "b": {"d":"x", "c":[1, 2]}, "a":1 }"#).unwrap_or_default();
        assert_eq!(fingerprint(&a), fingerprint(&b));
        assert_ne!(fingerprint(&a), fingerprint(&json!({"a": 1})));
    }
}

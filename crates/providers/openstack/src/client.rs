//! One Keystone session and the calls that go through it.
//!
//! A thin client of our own instead of a generated one: it is about 25 endpoints, and what decides is whether a
//! request can have left the machine when its answer did not come. So this file keeps apart what nobody received,
//! what may have been done, and what was answered; `classify` draws the conclusions. Nothing here sleeps, follows
//! redirects or tries again, with one exception: a call answered 401 was not carried out, so it is repeated once
//! with a new token.
//!
//! The token is renewed by one caller while the others wait (see [`flight`](crate::flight)), before it expires by
//! Keystone's own reckoning: its lifetime is the difference of two times of the server, measured from here with a
//! monotonic clock, so that neither side's wall clock matters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use provisor_core::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::Instant;

use crate::catalog::{Choice, Entry, Service, base_url};
use crate::config::{Credentials, Endpoint};
use crate::flight::Flight;
use crate::versions;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Less than the 600 s after which common front proxies and wsgi servers drop idle connections; a connection that
/// dies just as a create is written makes that create ambiguous.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// A token is renewed when less than this part of its life is left.
const RENEWAL_SHARE: u32 = 10;
/// How long networks, flavors and images are believed to be as they were: fifty servers begun at once ask once.
const LOOKED_UP_FOR: Duration = Duration::from_secs(60);
/// Different lists that are kept.
const LOOKED_UP_AT_MOST: usize = 1000;
const BODY_LIMIT: usize = 32 << 20;
const MESSAGE_LIMIT: usize = 400;

/// What happened to a call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No byte of the request was received: refused, name not resolved, TLS not agreed.
    NotSent(String),
    /// It was sent, and no complete answer came.
    Lost(String),
    /// It was answered with an error.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The service's own name for the fault, where it has one.
        fault: Option<String>,
        /// The service's words, shortened and without secrets.
        message: String,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// It was answered with success, but in a form that cannot be read.
    Unreadable(String),
    /// It could not be addressed: the catalog has no such service.
    NoEndpoint(String),
    /// The service is too old or too new to be spoken to.
    Incompatible(String),
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct CallError {
    pub(crate) method: Method,
    pub(crate) service: Service,
    pub(crate) path: String,
    pub(crate) outcome: Outcome,
    pub(crate) request_id: Option<String>,
}

impl CallError {
    /// The HTTP status, where there was an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_absent(&self) -> bool {
        self.status() == Some(404) && self.service != Service::Identity
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: ", self.service.name(), self.method, self.path)?;
        match &self.outcome {
            Outcome::NotSent(why) => write!(f, "not sent: {why}")?,
            Outcome::Lost(why) => write!(f, "no answer: {why}")?,
            Outcome::Answered { status, fault, message, .. } => {
                write!(f, "{status} ")?;
                if let Some(fault) = fault {
                    write!(f, "{fault} ")?;
                }
                f.write_str(message)?;
            }
            Outcome::Unreadable(why) => write!(f, "unexpected answer: {why}")?,
            Outcome::NoEndpoint(why) | Outcome::Incompatible(why) => f.write_str(why)?,
        }
        match &self.request_id {
            Some(id) => write!(f, " ({id})"),
            None => Ok(()),
        }
    }
}

/// A call to be made.
#[derive(Clone)]
pub(crate) struct Call {
    method: Method,
    service: Service,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    timeout: Duration,
    secret: Option<String>,
}

impl Call {
    fn new(method: Method, service: Service, path: impl Into<String>) -> Self {
        let path = path.into();
        Self { method, service, path, query: Vec::new(), body: None, timeout: CALL_TIMEOUT, secret: None }
    }

    /// Reads something.
    pub(crate) fn get(service: Service, path: impl Into<String>) -> Self {
        Self::new(Method::GET, service, path)
    }

    /// Makes something, or asks for an action.
    pub(crate) fn post(service: Service, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(Method::POST, service, path) }
    }

    /// Deletes something.
    pub(crate) fn delete(service: Service, path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, service, path)
    }

    /// With a query parameter.
    pub(crate) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// With another limit than the usual one.
    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With a text that a service may echo in its fault (user data) and that must not show there.
    pub(crate) fn hiding(mut self, secret: Option<String>) -> Self {
        self.secret = secret;
        self
    }

    fn failed(&self, outcome: Outcome, request_id: Option<String>) -> CallError {
        CallError { method: self.method.clone(), service: self.service, path: self.path.clone(), outcome, request_id }
    }
}

/// A Keystone session: token, project, catalog.
pub(crate) struct Session {
    token: HeaderValue,
    renew_at: Instant,
    /// The project that the token is for: the identity of this backend (H4).
    pub(crate) project_id: String,
    /// What its user may be there, by name.
    pub(crate) roles: Vec<String>,
    catalog: Vec<Entry>,
}

/// The client of one cloud with one set of credentials.
pub(crate) struct Client {
    http: reqwest::Client,
    auth_url: String,
    choice: Choice,
    credentials: Credentials,
    session: Flight<Session>,
    compute_version: Flight<HeaderValue>,
    volume_version: Flight<HeaderValue>,
    placement_version: Flight<HeaderValue>,
    looked_up: Mutex<BTreeMap<String, Arc<Flight<LookedUp>>>>,
}

/// A list of what seldom changes, and when it was asked for.
struct LookedUp {
    at: Instant,
    rows: Vec<Value>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("auth_url", &self.auth_url).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client; nothing is sent yet. The error is for people.
    pub(crate) fn new(endpoint: &Endpoint, credentials: Credentials) -> Result<Self, String> {
        // The process's TLS implementation; a second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .user_agent(concat!("provisor/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &endpoint.ca_file {
            let pem = std::fs::read(path).map_err(|e| format!("endpoint.ca_file {path}: {e}"))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| format!("endpoint.ca_file {path}: {}", causes(&e)))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let auth_url = endpoint.auth_url.trim_end_matches('/');
        reqwest::Url::parse(auth_url).map_err(|e| format!("endpoint.auth_url: {e}"))?;
        let auth_url = if auth_url.ends_with("/v3") { auth_url.to_owned() } else { format!("{auth_url}/v3") };
        Ok(Self {
            http: builder.build().map_err(|e| format!("HTTP client: {}", causes(&e)))?,
            auth_url,
            choice: Choice {
                interface: endpoint.interface.trim_end_matches("URL").to_owned(),
                region: endpoint.region_name.clone(),
                overrides: endpoint.overrides.clone(),
            },
            credentials,
            session: Flight::default(),
            compute_version: Flight::default(),
            volume_version: Flight::default(),
            placement_version: Flight::default(),
            looked_up: Mutex::default(),
        })
    }

    /// A fresh login, whatever session there is; for tests of the credentials.
    pub(crate) async fn renew(&self) -> Result<Arc<Session>, CallError> {
        let present = self.session.present().await;
        self.session(present.as_ref()).await
    }

    /// The current session; logs in where there is none, or where it is `stale` or near its end.
    pub(crate) async fn session(&self, stale: Option<&Arc<Session>>) -> Result<Arc<Session>, CallError> {
        let good = |session: &Arc<Session>| {
            let refused = stale.is_some_and(|old| Arc::ptr_eq(old, session));
            !refused && Instant::now() < session.renew_at
        };
        self.session.get(good, self.login()).await
    }

    /// Logs in. This POST makes nothing that anybody must release, so a lost answer is harmless.
    async fn login(&self) -> Result<Session, CallError> {
        let call = Call::post(Service::Identity, "/auth/tokens", self.credentials.login()).within(LOGIN_TIMEOUT);
        let asked_at = Instant::now();
        let reply = self.send(&call, &self.auth_url, None, None).await?;
        let unreadable = |why: &str| call.failed(Outcome::Unreadable(why.to_owned()), None);
        let mut token =
            reply.headers.get("x-subject-token").cloned().ok_or_else(|| unreadable("a token without X-Subject-Token"))?;
        token.set_sensitive(true);
        let body: TokenBody = serde_json::from_value(reply.body).map_err(|_| unreadable("a token without project or times"))?;
        let body = body.token;
        let (Some(issued), Some(expires)) = (Timestamp::parse(&body.issued_at), Timestamp::parse(&body.expires_at)) else {
            return Err(unreadable("a token without times"));
        };
        let life = expires.since(issued).to_std();
        Ok(Session {
            token,
            renew_at: asked_at + life.saturating_sub(life / RENEWAL_SHARE),
            project_id: body.project.id,
            roles: body.roles.into_iter().map(|role| role.name).collect(),
            catalog: body.catalog,
        })
    }

    /// Makes a call and answers the body; `Value::Null` where there is none.
    pub(crate) async fn call(&self, call: Call) -> Result<Value, CallError> {
        self.call_dated(call).await.map(|(body, _)| body)
    }

    /// As `call`, and the service's own time of its answer, by which the age of its objects can be told without
    /// trusting two clocks.
    pub(crate) async fn call_dated(&self, call: Call) -> Result<(Value, Option<i64>), CallError> {
        let session = self.session(None).await?;
        match self.call_as(&call, &session).await {
            Err(error) if error.status() == Some(401) => {
                let renewed = self.session(Some(&session)).await?;
                self.call_as(&call, &renewed).await
            }
            result => result,
        }
    }

    /// The rows of a list that seldom changes: asked for once a minute by one for all. An empty one is asked for each
    /// time, so that what was missing is found as soon as it is there.
    pub(crate) async fn look_up(&self, call: Call, key: &str) -> Result<Vec<Value>, CallError> {
        let name = format!("{} {} {:?}", call.service.name(), call.path, call.query);
        let flight = {
            let mut all = self.looked_up.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= LOOKED_UP_AT_MOST {
                all.clear();
            }
            Arc::clone(all.entry(name).or_default())
        };
        let fetch = async {
            let at = Instant::now();
            let mut answer = self.call(call).await?;
            let rows = match answer.get_mut(key).map(Value::take) {
                Some(Value::Array(rows)) => rows,
                _ => Vec::new(),
            };
            Ok(LookedUp { at, rows })
        };
        let good = |found: &Arc<LookedUp>| !found.rows.is_empty() && found.at.elapsed() < LOOKED_UP_FOR;
        Ok(flight.get(good, fetch).await?.rows.clone())
    }

    /// Forgets every list, for those who ask how things are now.
    pub(crate) fn forget_lists(&self) {
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn call_as(&self, call: &Call, session: &Session) -> Result<(Value, Option<i64>), CallError> {
        let base = base_url(&session.catalog, &self.choice, call.service, &session.project_id)
            .map_err(|why| call.failed(Outcome::NoEndpoint(why), None))?;
        let version = self.version(call, &base, &session.token).await?;
        let reply = self.send(call, &base, Some(&session.token), version.as_deref()).await?;
        let date = reply.headers.get("date").and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok()).map(OffsetDateTime::unix_timestamp);
        Ok((reply.body, date))
    }

    /// The microversion to speak, agreed before the first call: what is too old is told before anything is made.
    async fn version(&self, call: &Call, base: &str, token: &HeaderValue) -> Result<Option<Arc<HeaderValue>>, CallError> {
        let (Some(spoken), Some(agreed)) = (versions::spoken(call.service), self.agreed(call.service)) else { return Ok(None) };
        let fetch = async {
            let ask = Call::get(call.service, "");
            let document = match self.send(&ask, &versions::document_url(call.service, base), Some(token), None).await {
                Ok(reply) => Some(reply.body),
                // A gateway may hide it, or ask for something else; what that means the call itself will tell.
                Err(error) if error.status().is_some_and(|s| matches!(s, 300 | 403..=406 | 410)) => None,
                Err(error) if matches!(error.outcome, Outcome::Unreadable(_)) => None,
                Err(error) => return Err(error),
            };
            let words = spoken.agree(document.as_ref());
            let words = words.map_err(|why| call.failed(Outcome::Incompatible(why), None))?;
            HeaderValue::try_from(words).map_err(|e| call.failed(Outcome::Incompatible(e.to_string()), None))
        };
        agreed.get(|_| true, fetch).await.map(Some)
    }

    fn agreed(&self, service: Service) -> Option<&Flight<HeaderValue>> {
        match service {
            Service::Compute => Some(&self.compute_version),
            Service::Volume => Some(&self.volume_version),
            Service::Placement => Some(&self.placement_version),
            Service::Identity | Service::Network | Service::Image => None,
        }
    }

    async fn send(
        &self,
        call: &Call,
        base: &str,
        token: Option<&HeaderValue>,
        version: Option<&HeaderValue>,
    ) -> Result<Reply, CallError> {
        let mut request = self.http.request(call.method.clone(), format!("{base}{}", call.path)).timeout(call.timeout);
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(token) = token {
            request = request.header("x-auth-token", token.clone());
        }
        if let Some(version) = version {
            request = request.header("openstack-api-version", version.clone());
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|e| call.failed(unanswered(&e), None))?;
        let status = response.status();
        let headers = response.headers().clone();
        let request_id = request_id(&headers);
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= BODY_LIMIT => bytes.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    let why = format!("more than {} MiB", BODY_LIMIT >> 20);
                    return Err(call.failed(Outcome::Unreadable(why), request_id));
                }
                Ok(None) => break,
                Err(e) => return Err(call.failed(Outcome::Lost(causes(&e)), request_id)),
            }
        }
        if status.is_success() {
            let body = read_body(status, &bytes);
            let body = body.map_err(|why| call.failed(Outcome::Unreadable(why), request_id))?;
            return Ok(Reply { headers, body });
        }
        let (fault, message) = fault_of(&bytes);
        let mut secrets: Vec<&str> = self.credentials.secrets().collect();
        secrets.extend(call.secret.as_deref());
        let message = shorten(hide(message, &secrets));
        let retry_after =
            headers.get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        Err(call.failed(Outcome::Answered { status: status.as_u16(), fault, message, retry_after }, request_id))
    }
}

struct Reply {
    headers: HeaderMap,
    body: Value,
}

#[derive(Deserialize)]
struct TokenBody {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    issued_at: String,
    expires_at: String,
    project: Project,
    #[serde(default)]
    roles: Vec<RoleName>,
    #[serde(default)]
    catalog: Vec<Entry>,
}

#[derive(Deserialize)]
struct RoleName {
    name: String,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

fn read_body(status: StatusCode, bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() || status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|e| format!("no JSON: {e}"))
}

/// Whether a request without an answer can have been received.
fn unanswered(error: &reqwest::Error) -> Outcome {
    if error.is_connect() || error.is_builder() { Outcome::NotSent(causes(error)) } else { Outcome::Lost(causes(error)) }
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-openstack-request-id", "x-compute-request-id"]
        .iter()
        .find_map(|name| headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .map(|text| text.chars().take(80).collect())
}

/// An error with its causes, without the URL (the path is shown anyway, a query may hold more).
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = inner.source();
    }
    if error.is_timeout() && !texts.iter().any(|text| text.contains("timed out")) {
        texts.insert(0, "timed out".to_owned());
    }
    if texts.is_empty() { "connection lost".to_owned() } else { shorten(texts.join(": ")) }
}

/// The fault's name and words, from the four forms that the services use.
fn fault_of(bytes: &[u8]) -> (Option<String>, String) {
    let text = || String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(bytes) else {
        return (None, text());
    };
    let Some((name, fault)) = map.iter().next() else {
        return (None, text());
    };
    let word = |key: &str| fault.get(key).and_then(Value::as_str).map(str::to_owned);
    match (word("message"), fault.as_str()) {
        // Neutron names the fault in `type`, Keystone in `title`, Nova and Cinder by the outer key.
        (Some(message), _) => (word("type").or_else(|| word("title")).or_else(|| Some(name.clone())), message),
        (None, Some(message)) => (None, message.to_owned()),
        (None, None) => (None, text()),
    }
}

fn hide(message: String, secrets: &[&str]) -> String {
    secrets.iter().filter(|secret| secret.len() > 2).fold(message, |text, secret| text.replace(secret, "…"))
}

fn shorten(message: String) -> String {
    if message.chars().count() <= MESSAGE_LIMIT {
        return message;
    }
    message.chars().take(MESSAGE_LIMIT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_s_fault_form_is_read() {
        let nova = br#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores"}}"#;
        assert_eq!(fault_of(nova), (Some("forbidden".into()), "Quota exceeded for cores".into()));
        let neutron = br#"{"NeutronError": {"type": "OverQuota", "message": "Quota", "detail": ""}}"#;
        assert_eq!(fault_of(neutron), (Some("OverQuota".into()), "Quota".into()));
        let keystone = br#"{"error": {"code": 401, "title": "Unauthorized", "message": "No"}}"#;
        assert_eq!(fault_of(keystone), (Some("Unauthorized".into()), "No".into()));
        let glance = b"<html>\n <h1>404  Not Found</h1></html>";
        assert_eq!(fault_of(glance).1, "<html> <h1>404 Not Found</h1></html>");
    }

    #[test]
    fn secrets_and_long_texts_are_cut_out() {
        assert_eq!(hide("Value: c2VjcmV0 is too long".into(), &["c2VjcmV0"]), "Value: … is too long");
        assert_eq!(shorten("x".repeat(1000)).chars().count(), MESSAGE_LIMIT + 1);
    }
}

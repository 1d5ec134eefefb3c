//! The small typed HTTP client, used by the command line and by the tests, so that it is always exercised.
//!
//! One method a route. A problem document comes back as [`ClientError::Problem`]. It tries again by itself
//! only what cannot be done twice: GET, and POST with an `Idempotency-Key`. Rejected: a client generated
//! from the OpenAPI document, whose errors and streams would have to be written anyway.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::parts::{Items, Page, ServiceStatus};
use crate::problem::Problem;

mod calls;
mod lines;
mod stream;

pub use stream::{EventStream, Received};

/// How often a call is tried in all, where it may be tried again.
const TRIES: u32 = 4;
/// The first pause between two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time of one call.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// Longest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Why a call did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server could not be reached, or the connection broke.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// Something that is no answer of Provisor.
    #[error("{0}")]
    Other(String),
}

impl ClientError {
    /// The problem's code, where there is one.
    pub fn code(&self) -> Option<&str> {
        if let Self::Problem(p) = self { Some(&p.code) } else { None }
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Problem(p) => p.retriable,
            Self::Unreachable { .. } => true,
            Self::Other(_) => false,
        }
    }
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What a list of requests is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Only in this state.
    pub state: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only with this label: `name=value`.
    pub label: Option<String>,
    /// Only of this name.
    pub name: Option<String>,
    /// Where the page begins.
    pub cursor: Option<String>,
    /// How many.
    pub limit: Option<u32>,
}

/// What the feed of events is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// After this cursor.
    pub after: Option<String>,
    /// Only these types, divided by commas; `provisioning.*` takes all of a family.
    pub kind: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// How many.
    pub limit: Option<u32>,
}

/// A call about to be made.
pub(crate) struct Call<'a> {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<&'a Value>,
    key: Option<&'a str>,
    if_match: Option<&'a str>,
    patch: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: None, key: None, if_match: None, patch: false }
    }
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }
    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }
    pub(crate) fn body(mut self, body: &'a Value) -> Self {
        self.body = Some(body);
        self
    }
    pub(crate) fn key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }
    pub(crate) fn patch(mut self, body: &'a Value, if_match: Option<&'a str>) -> Self {
        (self.body, self.if_match, self.patch) = (Some(body), if_match, true);
        self
    }
    pub(crate) fn query(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.extend(value.map(|v| (name, v)));
        self
    }
    fn may_repeat(&self) -> bool {
        self.method == Method::GET || self.key.is_some()
    }
}

impl Client {
    /// A client of the server at `base`, for example `http://127.0.0.1:8620`.
    pub fn new(base: &str, token: Option<&str>) -> Result<Self, ClientError> {
        // Why ignored: another part of the process may have installed it already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("provisor/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| ClientError::Other(format!("no HTTP client: {}", reason_of(&e))))?;
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(ClientError::Other(format!("the server's address must begin with http:// or https://, not be {base:?}")));
        }
        Ok(Self { http, base, token: token.map(str::to_owned) })
    }

    /// The address of the server.
    pub fn base(&self) -> &str {
        &self.base
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn unreachable(&self, path: &str, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.url(path), reason: reason_of(error) }
    }

    /// Makes a call and reads the answer as text; tries again where that is safe.
    pub(crate) async fn text(&self, call: Call<'_>) -> Result<String, ClientError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.once(&call).await {
                Err(e) if call.may_repeat() && e.is_retriable() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.once(&call).await
    }

    async fn once(&self, call: &Call<'_>) -> Result<String, ClientError> {
        let answer = self.prepare(call).timeout(CALL_LIMIT).send().await.map_err(|e| self.unreachable(&call.path, &e))?;
        let status = answer.status();
        let bytes = self.read(&call.path, answer).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() { Ok(text) } else { Err(problem_of(status, &text)) }
    }

    async fn read(&self, path: &str, mut answer: reqwest::Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(path, &e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_LIMIT_BYTES {
                return Err(ClientError::Other(format!("the answer to {path} is longer than {ANSWER_LIMIT_BYTES} bytes")));
            }
        }
        Ok(bytes)
    }

    pub(crate) fn prepare(&self, call: &Call<'_>) -> reqwest::RequestBuilder {
        let mut request = self.http.request(call.method.clone(), self.url(&call.path));
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(etag) = call.if_match {
            request = request.header("if-match", format!("\"{etag}\""));
        }
        match call.body {
            // Why by hand: `json` would overwrite the content type of a merge patch.
            Some(body) if call.patch => request.header("content-type", "application/merge-patch+json").body(body.to_string()),
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// Makes a call and reads the answer as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        let path = call.path.clone();
        let text = self.text(call).await?;
        serde_json::from_str(&text).map_err(|e| ClientError::Other(format!("the answer to {path} is not as expected: {e}")))
    }

    /// `/health/live`: the process answers.
    pub async fn live(&self) -> Result<ServiceStatus, ClientError> {
        self.json(Call::get("/health/live")).await
    }

    /// `/health/ready`: it can serve.
    pub async fn ready(&self) -> Result<ServiceStatus, ClientError> {
        self.json(Call::get("/health/ready")).await
    }
}

/// What a server said no with. Something else than a problem document comes from a proxy in between.
pub(crate) fn problem_of(status: StatusCode, text: &str) -> ClientError {
    if let Ok(problem) = serde_json::from_str::<Problem>(text) {
        return ClientError::Problem(Box::new(problem));
    }
    let shown: String = text.chars().take(200).collect();
    ClientError::Other(format!("HTTP {status} without a problem document: {shown}"))
}

/// An error with its causes: reqwest's own text leaves out what matters ("connection refused").
pub(crate) fn reason_of(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// A list that comes whole or in pages.
impl<T> From<Items<T>> for Page<T> {
    fn from(list: Items<T>) -> Self {
        Self { items: list.items, next_cursor: None }
    }
}

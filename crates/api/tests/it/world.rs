//! A small world: one tenant, one cluster of a provider that promises everything.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use provisor_api::auth::{PLATFORM_ADMIN, digest};
use provisor_api::{App, EngineBackend, router};
use provisor_core::chance::SplitMix;
use provisor_core::check::{Flaw, Flaws};
use provisor_core::cluster::{Capacity, ClusterSpec, ProviderType};
use provisor_core::lifecycle::Step;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::{PLAN_VERSION, Planned};
use provisor_core::workflow::{Found, Plan};
use provisor_core::{Chance, Class, Failure, Spec, Timestamp, TokenId};
use provisor_engine::{Config, Connectors, Engine};
use provisor_provider::{Action, Binding, Check, Connector, Metrics, Page, Progress, Provider, Released};
use provisor_store::Store;
use provisor_store::clock::ManualClock;
use provisor_store::ops::tokens::CreateToken;
use provisor_store::vault::Vault;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

pub const TOKEN: &str = "pvr_test_administrator";
pub const READER: &str = "pvr_test_reader";

/// Promises everything and does nothing.
struct Promise;

#[async_trait]
impl Provider for Promise {
    fn plan(&self, _: &Spec) -> Result<Plan, Failure> {
        let operations =
            vec![Planned::new("create_server", Step::Allocate).makes("server"), Planned::new("probe_ssh", Step::Verify)];
        Ok(Plan { version: PLAN_VERSION, operations })
    }
    fn plan_action(&self, _: Action, _: &Spec) -> Result<Plan, Failure> {
        Ok(Plan { version: PLAN_VERSION, operations: Vec::new() })
    }
    async fn identity(&self) -> Result<String, Failure> {
        Ok("promise".to_owned())
    }
    async fn perform(&self, _: &Work) -> Result<Progress, Failure> {
        Err(Failure::new(Class::Permanent, "not_supported", "it only promises"))
    }
    async fn find(&self, _: &str, _: &str, _: &str) -> Result<Vec<Found>, Failure> {
        Ok(Vec::new())
    }
    async fn release(&self, _: &Held) -> Result<Released, Failure> {
        Ok(Released::Gone)
    }
    async fn list_owned(&self, _: &str, _: Option<String>) -> Result<Page, Failure> {
        Err(Failure::new(Class::Transient, "unreachable", "nobody is there"))
    }
    async fn test(&self) -> Vec<Check> {
        vec![Check { name: "login".to_owned(), ok: false, latency_ms: 3, error: Some("no".to_owned()) }]
    }
    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        Ok(None)
    }
    async fn metrics(&self, _: &Work) -> Result<Metrics, Failure> {
        Ok(Metrics::default())
    }
}

struct PromiseConnector;

impl Connector for PromiseConnector {
    fn check(&self, pointer: &str, spec: &ClusterSpec, _: Option<&Value>) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        for key in spec.endpoint.keys().filter(|k| *k != "auth_url") {
            flaws.add(&format!("{pointer}/endpoint/{key}"), "unknown_key", &Value::Null, "not known");
        }
        flaws.0
    }
    fn connect(&self, _: Binding) -> Result<Arc<dyn Provider>, Failure> {
        Ok(Arc::new(Promise))
    }
}

pub struct World {
    pub router: Router,
    pub close: watch::Sender<bool>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// Checks that it is a problem document of a code, and gives it.
    pub fn problem(&self, code: &str) -> Value {
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["type"], format!("/errors/{code}"));
        for key in ["title", "detail", "instance", "retriable"] {
            assert!(!body[key].is_null(), "{key} is missing: {body}");
        }
        body
    }

    /// Pointer and rule of each fault.
    pub fn faults(&self) -> Vec<(String, String)> {
        let body = self.problem("invalid_request");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        body["errors"].as_array().unwrap().iter().map(|e| (text(&e["pointer"]), text(&e["rule"]))).collect()
    }
}

impl World {
    /// An empty world with its tokens.
    pub async fn empty() -> Self {
        let clock = ManualClock::new(Timestamp(1_800_000_000_000_000));
        let store = Store::in_memory(clock.clock()).unwrap();
        let vault = Arc::new(Vault::ephemeral().unwrap());
        let mut connectors = Connectors::new();
        connectors.insert(ProviderType::Openstack, Arc::new(PromiseConnector));
        let seed = std::sync::Mutex::new(SplitMix::new(7));
        let seeds = Box::new(move || seed.lock().unwrap().next_u64());
        let engine = Engine::new(store.clone(), vault, connectors, Config::default(), seeds).await.unwrap();
        for (text, role) in [(TOKEN, PLATFORM_ADMIN), (READER, "viewer")] {
            let id = TokenId::new(store.now(), &mut SplitMix::new(text.len() as u64));
            let token =
                CreateToken { id, hash: digest(text), name: role.into(), role: role.into(), tenant: None, expires_at: None };
            store.run(token).await.unwrap();
        }
        let (close, closing) = watch::channel(false);
        let sim = Box::new(|name: &str, live: bool| (name == "sim").then(|| json!({"cluster": name, "live": live})));
        let app = App::new(Arc::new(EngineBackend::new(engine, sim)), closing);
        Self { router: router(app), close }
    }

    /// A world with tenant `acme` and cluster `one`.
    pub async fn new() -> Self {
        let world = Self::empty().await;
        let tenant = json!({"name": "acme", "quota": {"cpu": 100, "requests": {"vps": 40}}});
        assert_eq!(world.post("/api/tenants", &tenant).await.status, StatusCode::CREATED);
        let cluster = json!({"name": "one", "provider": "openstack", "region": "eu", "credentials": {"password": "hunter2"},
            "endpoint": {"auth_url": "http://127.0.0.1:1"}});
        let made = world.post("/api/clusters", &cluster).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        world
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body), &[("content-type", "application/json")]).await
    }

    /// Asks for a server and gives the request.
    pub async fn admit(&self, name: &str) -> Value {
        let made = self.post("/api/requests", &vps(name)).await;
        assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text);
        made.json()
    }
}

pub fn vps(name: &str) -> Value {
    json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
        "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40}})
}

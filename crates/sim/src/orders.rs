//! Carrying out what the plan asks for, as a client would that is not answered: it asks again, with the same key.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::event::{Actor, Endpoint};
use provisor_core::run::{Command, ManualInput};
use provisor_core::spec::{Seal, Sealed};
use provisor_core::{RequestId, Spec};
use provisor_engine::Engine;
use provisor_store::OpError;
use provisor_store::ops::admit::Idempotency;
use serde_json::{Value, json};

use crate::node::{API, WORKERS};
use crate::plan::{Ask, Wish};
use crate::stage::Stage;

/// Tries of one order.
const TRIES: usize = 40;
/// Between two of them.
const AGAIN: Duration = Duration::from_millis(300);
/// A client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long an order waits for the request that it is about.
const LOOKS_FOR: usize = 10;

/// Nothing here is sealed.
struct NoSeal;

impl Seal for NoSeal {
    fn seal(&self, _: &str) -> Sealed {
        Sealed { key: String::new(), sealed: String::new(), fingerprint: String::new() }
    }
}

/// Who asks.
pub(crate) fn client() -> Actor {
    Actor { kind: "token".to_owned(), id: "client".to_owned() }
}

/// Carries one order out.
pub(crate) async fn carry_out(stage: Arc<Stage>, index: usize) {
    let Some(order) = stage.plan.orders.get(index).cloned() else { return };
    stage.until_ms(order.at_ms).await;
    let mut unsure = false;
    for attempt in 0..TRIES {
        let asked = async {
            match engine(&stage, order.via) {
                Some(engine) => ask(&stage, &engine, index, &order.wish).await,
                None => Err(OpError::Database("nobody is there".to_owned())),
            }
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(OpError::Unknown("nobody answers".to_owned())));
        stage.note(|| format!("order {index} try {attempt}: {answer:?}"));
        match answer {
            Err(OpError::Database(_) | OpError::Unknown(_)) => {
                // What was sent may still be done, whatever is answered to the next try.
                unsure = true;
                tokio::time::sleep(AGAIN).await;
            }
            Err(OpError::NotFound(_)) if attempt < LOOKS_FOR => tokio::time::sleep(AGAIN).await,
            _ => {
                if answer.is_ok() || !unsure {
                    stage.lock().answered.insert(index, answer.is_ok());
                }
                return;
            }
        }
    }
}

/// The engine of a process, or of any other that has one.
pub(crate) fn engine(stage: &Stage, via: usize) -> Option<Arc<Engine>> {
    let of = |node: usize| stage.life(node).and_then(|life| life.engine());
    of(via).or_else(|| std::iter::once(API).chain(WORKERS).find_map(of))
}

async fn ask(stage: &Stage, engine: &Engine, index: usize, wish: &Wish) -> Result<(), OpError> {
    let reason = || Some("as planned".to_owned());
    let command = match wish {
        Wish::Admit(asks) => return admit(engine, index, asks).await,
        Wish::Retry(name) => return engine.retry(newest(stage, name)?, None, client()).await.map(drop),
        Wish::Enable(cluster, on) => {
            let mut spec = engine.cluster(cluster).await?.spec;
            spec.provisioning_enabled = *on;
            return engine.update_cluster(cluster, spec, None, None).await.map(drop);
        }
        Wish::Cancel(name) => (name, Command::Cancel { reason: reason() }),
        Wish::Suspend(name) => (name, Command::Suspend { reason: reason() }),
        Wish::Reactivate(name) => (name, Command::Reactivate { reason: reason() }),
        Wish::Deprovision(name) => (name, Command::Deprovision { reason: reason(), force: false }),
        Wish::Input(name) => (name, input()),
    };
    engine.command(newest(stage, command.0)?, command.1, client()).await.map(drop)
}

/// What a person answers to every question.
pub(crate) fn input() -> Command {
    let endpoint = Endpoint { name: "url".to_owned(), url: "https://service.example/".to_owned() };
    Command::ManualInput(ManualInput { endpoints: vec![endpoint], credentials: None })
}

/// The youngest request of a name: a retry bears the name of what it retries.
fn newest(stage: &Stage, name: &str) -> Result<RequestId, OpError> {
    let inner = stage.lock();
    let of_name = inner.watch.requests.iter().filter(|(_, p)| p.name == name);
    of_name.map(|(id, _)| *id).max().ok_or(OpError::NotFound("request"))
}

async fn admit(engine: &Engine, index: usize, asks: &[Ask]) -> Result<(), OpError> {
    let mut items = Vec::with_capacity(asks.len());
    for ask in asks {
        items.push(Spec::check("", &manifest(ask), &NoSeal).map_err(OpError::Invalid)?);
    }
    let pointers = (0..asks.len()).map(|i| format!("/requests/{i}")).collect();
    let key = Idempotency {
        route: "POST /api/requests".to_owned(),
        key: format!("order-{index}"),
        fingerprint: format!("body of {index}"),
    };
    engine.admit(items, pointers, client(), Some(key)).await.map(drop)
}

/// The manifest of a request.
fn manifest(ask: &Ask) -> Value {
    let size = json!({"cpu": ask.cpu, "memory_gb": 1, "storage_gb": 1});
    let mut value = json!({"name": ask.name, "tenant": ask.tenant, "kind": ask.kind, "region": "eu",
        "strategy": {"type": ask.strategy}, "depends_on": ask.after});
    match ask.kind.as_str() {
        "vps" => {
            value["size"] = size;
            value["image"] = json!("debian-12");
            value["ports"] = json!([22, 80]);
        }
        "kubernetes_namespace" => value["size"] = size,
        "environment" => {
            value["source"] = json!({"repository": "https://git.example/shop.git", "branch": "main",
                "commit_sha": "0a1b2c3d", "path": "deploy"});
        }
        _ => value["product"] = json!("database"),
    }
    value
}

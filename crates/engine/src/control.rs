//! What the API asks of the engine: admission, commands, clusters, and questions that are answered now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use provisor_core::check::{Flaw, Flaws};
use provisor_core::cluster::ClusterSpec;
use provisor_core::event::Actor;
use provisor_core::run::Command;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, ClusterId, Failure, RequestId, Spec, State, Timestamp};
use provisor_provider::{Check, Metrics, Progress};
use provisor_store::OpError;
use provisor_store::ops::admit::{Admit, Dry, DryRun, Idempotency};
use provisor_store::ops::clusters::{
    ClusterView, CreateCluster, Credentials, DeleteCluster, GetCluster, ListClusters, UpdateCluster,
};
use provisor_store::ops::command::Ask;
use provisor_store::ops::gate::Happened;
use provisor_store::ops::requests::{GetRequest, RequestView};
use serde_json::Value;

use crate::Engine;
use crate::crash::{self, Point};

/// What credentials are encrypted for.
const CREDENTIALS: &str = "cluster-credentials";
/// Longest time of a connectivity test.
const TEST_LIMIT: Duration = Duration::from_secs(30);
/// Longest time of one check of a running service.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// The result of a connectivity test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestReport {
    /// Whether every check is good.
    pub ok: bool,
    /// How long it took in all.
    pub latency_ms: u64,
    /// Every check.
    pub checks: Vec<Check>,
}

impl Engine {
    /// Admits requests, all or none. `pointers` say where each stands in the input.
    pub async fn admit(
        &self,
        items: Vec<Spec>,
        pointers: Vec<String>,
        actor: Actor,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<RequestView>, OpError> {
        self.keep_up().await?;
        let context = Arc::clone(&self.context);
        let admit = self.store.run(Admit { items, pointers, actor, idempotency, retry_of: None, context });
        // Why rung as soon as it waits for its turn at the store: the claim then waits right behind it, and takes what it
        // admits in the same commit.
        let (views, ()) = tokio::join!(biased; admit, async { self.bell.claim_soon() });
        let views = views?;
        crash::at(Point::AfterAdmit, || "".into()).await;
        self.bell.ring();
        Ok(views)
    }

    /// The same admission without storing anything.
    pub async fn dry_run(&self, items: Vec<Spec>, pointers: Vec<String>, actor: Actor) -> Result<Dry, OpError> {
        self.keep_up().await?;
        let context = Arc::clone(&self.context);
        self.store.run(DryRun(Admit { items, pointers, actor, idempotency: None, retry_of: None, context })).await
    }

    /// Asks something of a request.
    pub async fn command(&self, id: RequestId, command: Command, actor: Actor) -> Result<RequestView, OpError> {
        let view = self.store.run(Ask { id, scope: None, command, actor, context: Arc::clone(&self.context) }).await?;
        crash::at(Point::AfterCommand, || "".into()).await;
        self.bell.poke(id);
        Ok(view)
    }

    /// Admits a rolled-back request again (SPEC 7), with a new order or none (H32).
    pub async fn retry(&self, id: RequestId, order_id: Option<String>, actor: Actor) -> Result<RequestView, OpError> {
        let old = self.store.run(GetRequest { id, scope: None }).await?.ok_or(OpError::NotFound("request"))?;
        if old.run.state != State::RolledBack {
            return Err(OpError::StateConflict {
                state: old.run.state.name().to_owned(),
                allowed: old.run.state.allowed_actions().iter().map(|a| (*a).to_owned()).collect(),
                detail: "only a request that is rolled back can be retried".to_owned(),
            });
        }
        let mut spec = old.run.spec;
        spec.order_id = order_id;
        // Prerequisites are named by id from now on, a dead one by its own live retry (H24).
        spec.depends_on = self.live_prerequisites(&old.run.depends_on).await?;
        let context = Arc::clone(&self.context);
        let admit =
            Admit { items: vec![spec], pointers: vec![String::new()], actor, idempotency: None, retry_of: Some(id), context };
        let view = self.store.run(admit).await?.into_iter().next().ok_or(OpError::NotFound("request"))?;
        self.bell.ring();
        Ok(view)
    }

    async fn live_prerequisites(&self, ids: &[RequestId]) -> Result<Vec<String>, OpError> {
        let mut live = Vec::with_capacity(ids.len());
        for id in ids {
            let mut id = *id;
            // Why the bound: retries form a chain, never a circle.
            for _ in 0..100 {
                let found = self.store.run(GetRequest { id, scope: None }).await?;
                match found.and_then(|v| v.run.retried_as) {
                    Some(next) => id = next,
                    None => break,
                }
            }
            live.push(id.to_string());
        }
        Ok(live)
    }

    /// Registers a cluster, after its adapter has checked its keys.
    pub async fn register_cluster(&self, mut spec: ClusterSpec, credentials: Option<Value>) -> Result<ClusterView, OpError> {
        self.check_cluster("", &spec, Some(credentials.as_ref().unwrap_or(&Value::Null)))?;
        let mut chance = provisor_core::chance::SplitMix::new((self.context.seeds)());
        let id = ClusterId::new(self.store.now(), &mut chance);
        self.discover(id, &mut spec, credentials.clone().unwrap_or_default()).await?;
        let sealed = self.seal_credentials(credentials.as_ref())?;
        let view = self.store.run(CreateCluster { id, spec, credentials: sealed }).await?;
        self.bind(&view)?;
        self.bell.ring();
        Ok(view)
    }

    /// Changes a cluster. `credentials`: `None` leaves them.
    pub async fn update_cluster(
        &self,
        key: &str,
        mut spec: ClusterSpec,
        credentials: Option<Value>,
        if_match: Option<i64>,
    ) -> Result<ClusterView, OpError> {
        let old = self.cluster(key).await?;
        self.check_cluster("", &spec, credentials.as_ref())?;
        if spec.discover {
            let present = credentials.clone().map_or_else(|| self.open_credentials(&old), Ok)?;
            self.discover(old.id, &mut spec, present).await?;
        }
        // Why compared in clear: sealed twice, the same credentials do not look the same.
        let change = match &credentials {
            None => Credentials::Keep,
            Some(given) if *given == self.open_credentials(&old)? => Credentials::Keep,
            some => Credentials::Replace(self.seal_credentials(some.as_ref())?),
        };
        if matches!(change, Credentials::Keep) && spec == old.spec && if_match.is_none_or(|v| v == old.version) {
            return Ok(old);
        }
        let identity = match (&change, credentials) {
            (Credentials::Replace(_), Some(given)) => self.identity_by(&old, &spec, given).await?,
            _ => None,
        };
        let replaced = change.clone();
        let view = self.store.run(UpdateCluster { id: old.id, spec, credentials: change, if_match, identity }).await?;
        self.bind(&view)?;
        if matches!(replaced, Credentials::Replace(_)) {
            self.guard.at_gate(view.id, Happened::Accepted).await;
        }
        self.bell.ring();
        Ok(view)
    }

    /// `capacity: discover`: the backend's own limits, asked at registration and at each change.
    async fn discover(&self, id: ClusterId, spec: &mut ClusterSpec, credentials: Value) -> Result<(), OpError> {
        if !spec.discover {
            return Ok(());
        }
        let asked = match self.registry.connect(id, spec, credentials) {
            Ok(provider) => tokio::time::timeout(TEST_LIMIT, provider.capacity())
                .await
                .unwrap_or_else(|_| Err(Failure::new(Class::Transient, "operation_timed_out", "the backend does not answer"))),
            Err(failure) => Err(failure),
        };
        let why = match asked {
            Ok(Some(capacity)) => {
                spec.capacity = capacity;
                return Ok(());
            }
            Ok(None) => "the backend does not tell its capacity; give the limits".to_owned(),
            Err(failure) => format!("the backend could not be asked for its capacity: {}", failure.message),
        };
        let mut flaws = Flaws::default();
        flaws.add("/capacity", "exists", &Value::from("discover"), why);
        Err(OpError::Invalid(flaws.0))
    }

    /// Who the backend is by other credentials, which are not stored when it refuses them (H29). `None` when it does not
    /// answer: then the background probe finds out, and until then nothing is made or believed gone under another
    /// identity.
    async fn identity_by(&self, old: &ClusterView, spec: &ClusterSpec, credentials: Value) -> Result<Option<String>, OpError> {
        let Ok(provider) = self.registry.connect(old.id, spec, credentials) else { return Ok(None) };
        match tokio::time::timeout(TEST_LIMIT, provider.identity()).await {
            Ok(Ok(identity)) => Ok(Some(identity)),
            Ok(Err(failure)) if failure.class == Class::Auth => {
                let mut flaws = Flaws::default();
                let text = format!("the backend refuses them: {}", failure.message);
                flaws.add("/credentials", "exists", &Value::Null, text);
                Err(OpError::Invalid(flaws.0))
            }
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Forgets a cluster that nothing stands on.
    pub async fn remove_cluster(&self, key: &str, if_match: Option<i64>) -> Result<(), OpError> {
        let old = self.cluster(key).await?;
        self.store.run(DeleteCluster { id: old.id, if_match }).await?;
        self.refresh_clusters().await
    }

    /// A cluster by id or name.
    pub async fn cluster(&self, key: &str) -> Result<ClusterView, OpError> {
        let view = self.store.run(GetCluster { key: key.to_owned() }).await?.ok_or(OpError::NotFound("cluster"))?;
        self.bind(&view)?;
        Ok(view)
    }

    /// Faults of a cluster that its adapter sees.
    pub fn check_cluster(&self, pointer: &str, spec: &ClusterSpec, credentials: Option<&Value>) -> Result<(), OpError> {
        let flaws: Vec<Flaw> = match self.registry.connector(spec.provider) {
            Ok(connector) => connector.check(pointer, spec, credentials.filter(|c| !c.is_null()).or(credentials)),
            Err(failure) => {
                let mut flaws = Flaws::default();
                let value = Value::from(spec.provider.name());
                flaws.add(&format!("{pointer}/provider"), "enum", &value, failure.message);
                flaws.0
            }
        };
        if flaws.is_empty() { Ok(()) } else { Err(OpError::Invalid(flaws)) }
    }

    fn seal_credentials(&self, credentials: Option<&Value>) -> Result<Option<String>, OpError> {
        let sealed = credentials.filter(|c| !c.is_null()).map(|c| self.vault.seal_json(CREDENTIALS, c)).transpose();
        sealed.map_err(|e| OpError::Corrupt(e.to_string()))
    }

    /// Binds what is registered to this process's providers; called at start and when others changed it.
    pub async fn refresh_clusters(&self) -> Result<(), OpError> {
        // Why before the list: what is registered while it is read is not in it, and not gone.
        let mut gone = self.registry.ids();
        for view in self.store.run(ListClusters).await? {
            self.bind(&view)?;
            gone.remove(&view.id);
        }
        self.registry.forget(&gone);
        Ok(())
    }

    fn bind(&self, view: &ClusterView) -> Result<(), OpError> {
        self.registry.bind(view.id, view.version, &view.spec, self.open_credentials(view)?);
        Ok(())
    }

    fn open_credentials(&self, view: &ClusterView) -> Result<Value, OpError> {
        let Some(sealed) = &view.credentials else { return Ok(Value::Null) };
        self.vault.open_json(CREDENTIALS, sealed).map_err(|e| OpError::Corrupt(e.to_string()))
    }

    /// Tests a cluster's connectivity now (SPEC 5).
    #[allow(clippy::disallowed_methods, reason = "a latency is measured by the monotonic clock")]
    pub async fn test_cluster(&self, key: &str) -> Result<TestReport, OpError> {
        let view = self.cluster(key).await?;
        let began = Instant::now();
        let checks = match self.registry.get(view.id) {
            Ok(bound) => tokio::time::timeout(TEST_LIMIT, bound.provider.test())
                .await
                .unwrap_or_else(|_| vec![failed("answer", format!("no answer within {} s", TEST_LIMIT.as_secs()), TEST_LIMIT)]),
            Err(failure) => vec![failed("connect", failure.message, Duration::ZERO)],
        };
        let latency_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(TestReport { ok: checks.iter().all(|c| c.ok), latency_ms, checks })
    }

    /// Verifies a service again, now: the checks of its verify step (API.md, check-status).
    #[allow(clippy::disallowed_methods, reason = "a latency is measured by the monotonic clock")]
    pub async fn check_status(&self, id: RequestId) -> Result<Vec<Check>, OpError> {
        let standing = self.standing(id, "only a service that stands can be checked").await?;
        let bound = self.registry.get(standing.cluster);
        let mut checks = Vec::new();
        for (operation, item) in standing.probes {
            let work = Work { operation, item, ..standing.work.clone() };
            let began = Instant::now();
            let answer = match &bound {
                Ok(bound) => match tokio::time::timeout(CHECK_LIMIT, bound.provider.perform(&work)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Failure::new(Class::Transient, "operation_timed_out", "no answer in time")),
                },
                Err(failure) => Err(failure.clone()),
            };
            let name = work.item.map_or(work.operation.clone(), |item| format!("{}:{item}", work.operation));
            checks.push(match answer {
                Ok(Progress::Done(_)) => Check { name, ok: true, latency_ms: millis(began.elapsed()), error: None },
                Ok(Progress::Running { seen, .. }) => failed(&name, seen, began.elapsed()),
                Err(failure) => failed(&name, failure.message, began.elapsed()),
            });
        }
        Ok(checks)
    }

    /// What a service that stands uses now, and when that was asked.
    pub async fn metrics(&self, id: RequestId) -> Result<(Metrics, Timestamp), OpError> {
        let standing = self.standing(id, "only a service that stands can be measured").await?;
        let told = |failure: Failure| OpError::Backend { code: failure.code, message: failure.message };
        let bound = self.registry.get(standing.cluster).map_err(told)?;
        let silent = |_| Failure::new(Class::Transient, "backend_silent", "the backend did not answer in time");
        let asked = tokio::time::timeout(CHECK_LIMIT, bound.provider.metrics(&standing.work)).await;
        Ok((asked.map_err(silent).and_then(|answer| answer).map_err(told)?, self.store.now()))
    }

    /// A service that stands, as questions about it need it.
    async fn standing(&self, id: RequestId, else_told: &str) -> Result<Standing, OpError> {
        let view = self.store.run(GetRequest { id, scope: None }).await?.ok_or(OpError::NotFound("request"))?;
        let run = view.run;
        let won = run.winner.and_then(|w| run.attempts.iter().find(|a| a.id == w));
        let Some(attempt) = won.filter(|_| run.state.is_standing()) else {
            return Err(OpError::StateConflict {
                state: run.state.name().to_owned(),
                allowed: run.state.allowed_actions().iter().map(|a| (*a).to_owned()).collect(),
                detail: else_told.to_owned(),
            });
        };
        let live = run.ledger.iter().filter(|r| r.attempt == attempt.id && !r.unwanted && !r.is_closed());
        let verify = attempt.operations.iter().filter(|o| o.planned.step == provisor_core::lifecycle::Step::Verify);
        Ok(Standing {
            cluster: attempt.cluster,
            probes: verify.map(|o| (o.planned.name.clone(), o.planned.item.clone())).collect(),
            work: Work {
                operation: "metrics".to_owned(),
                item: None,
                spec: run.spec.clone(),
                request: run.id,
                attempt: Some(attempt.id),
                tag: None,
                name: run.spec.name.clone(),
                provider_id: None,
                resources: live.filter_map(|r| Some((r.kind.clone(), r.provider_id.clone()?))).collect(),
                facts: attempt.facts.clone(),
                endpoints: attempt.endpoints.clone(),
                try_number: 1,
            },
        })
    }
}

/// A service that stands.
struct Standing {
    cluster: ClusterId,
    /// Its probes: operation and item.
    probes: Vec<(String, Option<String>)>,
    /// The work of a question about it.
    work: Work,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn failed(name: &str, error: String, took: Duration) -> Check {
    Check { name: name.to_owned(), ok: false, latency_ms: millis(took), error: Some(error) }
}

//! The clouds as one process sees them: questions may be late, answers may be lost, and what was sent arrives.
//!
//! The faults of the clouds themselves are the simulated cloud's; here are those of the way. A question that has left
//! the process is in a task of its own, so that neither a time-out nor a kill takes it back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use provisor_core::check::Flaw;
use provisor_core::cluster::{Capacity, ClusterSpec};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Found, Made, Plan};
use provisor_core::{Failure, RequestId, Spec};
use provisor_provider::{Action, Binding, Check, Connector, Metrics, Page, Progress, Provider, Released};
use tokio::sync::oneshot;

use crate::node::Life;
use crate::plan::{Network, Trouble};
use crate::stage::Stage;

/// Connects one process to the clouds.
pub(crate) struct Edges {
    stage: Arc<Stage>,
    life: Arc<Life>,
}

impl Edges {
    pub(crate) fn new(stage: Arc<Stage>, life: Arc<Life>) -> Self {
        Self { stage, life }
    }
}

impl Connector for Edges {
    fn check(&self, pointer: &str, spec: &ClusterSpec, credentials: Option<&serde_json::Value>) -> Vec<Flaw> {
        self.stage.cloud.check(pointer, spec, credentials)
    }

    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure> {
        let cluster = binding.spec.name.clone();
        let inner = self.stage.cloud.connect(binding)?;
        Ok(Arc::new(Way { stage: Arc::clone(&self.stage), life: Arc::clone(&self.life), cluster, inner }))
    }
}

/// The way of one process to one cluster.
struct Way {
    stage: Arc<Stage>,
    life: Arc<Life>,
    cluster: String,
    inner: Arc<dyn Provider>,
}

impl Way {
    /// Sends a question, and waits for its answer as long as the caller does.
    async fn send<T, F>(&self, operation: &str, request: Option<RequestId>, ask: impl Fn(Arc<dyn Provider>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let count = self.stage.count(self.life.node, operation);
        self.life.cross(&self.stage, true, operation, count).await;
        let call = self.stage.count_call(&self.cluster, operation);
        let how = self.trouble(operation, request, call);
        let mut pause = self.stage.pause(&format!("{} {operation}", self.cluster), call);
        if let Some(Network::Late(ms)) = how {
            pause += Duration::from_millis(ms);
        }
        let (told, answer) = oneshot::channel();
        let (sent, twice) = (ask(Arc::clone(&self.inner)), (how == Some(Network::Twice)).then(|| ask(Arc::clone(&self.inner))));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // Nobody may be left to be told.
            let _ = told.send(sent.await);
            if let Some(again) = twice {
                again.await;
            }
        });
        let answer = answer.await;
        self.life.cross(&self.stage, false, operation, count).await;
        match answer {
            Ok(answer) if how != Some(Network::Lost) => answer,
            _ => std::future::pending().await,
        }
    }

    /// What becomes of a call on its way; and whether the cloud's own fault strikes it, for the table of what was tried.
    fn trouble(&self, operation: &str, request: Option<RequestId>, call: u32) -> Option<Network> {
        let whom: Vec<RequestId> = request.into_iter().collect();
        let name = request.and_then(|id| self.stage.lock().watch.name_of(id));
        let of_name = name.as_ref().map_or(0, |n| self.stage.count_call(&self.cluster, &format!("{operation} {n}")));
        let by_cloud = |t: &Trouble| match t {
            Trouble::Cloud { operation: o, request, calls, .. } if o == operation => {
                let count = if request.is_some() { of_name } else { call };
                (request.is_none() || *request == name) && calls.contains(&u64::from(count))
            }
            _ => false,
        };
        if let Some(trouble) = self.stage.strike(by_cloud) {
            self.stage.lock().coverage.struck(trouble.word(), operation, whom.clone());
        }
        let by_network = |t: &Trouble| {
            matches!(t, Trouble::Network { cluster, operation: o, nth, .. }
                if *cluster == self.cluster && o == operation && *nth == call)
        };
        let trouble = self.stage.strike(by_network)?;
        self.stage.lock().coverage.struck(trouble.word(), operation, whom);
        if let Trouble::Network { how, .. } = trouble { Some(how.clone()) } else { None }
    }

    fn told<T>(&self, operation: &str, what: &str, answer: &Result<T, Failure>, shape: impl Fn(&T) -> String) {
        self.stage.note(|| {
            let how = answer.as_ref().map_or_else(|f| format!("{}: {}", f.code, f.message), shape);
            format!("{} {} {operation} {what} {how}", self.life.name(), self.cluster)
        });
    }
}

#[async_trait]
impl Provider for Way {
    fn plan(&self, spec: &Spec) -> Result<Plan, Failure> {
        self.inner.plan(spec)
    }

    fn plan_action(&self, action: Action, spec: &Spec) -> Result<Plan, Failure> {
        self.inner.plan_action(action, spec)
    }

    fn answer(&self, operation: &str, spec: &Spec) -> Option<Made> {
        self.inner.answer(operation, spec)
    }

    async fn diagnose(&self, work: &Work) -> Vec<String> {
        let ask = |inner: Arc<dyn Provider>| {
            let work = work.clone();
            async move { inner.diagnose(&work).await }
        };
        self.send("diagnose", Some(work.request), ask).await
    }

    async fn identity(&self) -> Result<String, Failure> {
        self.send("identity", None, |inner| async move { inner.identity().await }).await
    }

    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        if let Some(tag) = work.tag.as_ref().filter(|_| work.provider_id.is_none()) {
            self.stage.intended(tag, &work.operation).await;
        }
        let ask = |inner: Arc<dyn Provider>| {
            let work = work.clone();
            async move { inner.perform(&work).await }
        };
        let answer = self.send(&work.operation, Some(work.request), ask).await;
        self.told(&work.operation, &work.spec.name, &answer, |p| match p {
            Progress::Done(made) => format!("done {:?}", made.provider_id),
            Progress::Running { seen, .. } => seen.clone(),
        });
        answer
    }

    async fn find(&self, kind: &str, tag: &str, name: &str) -> Result<Vec<Found>, Failure> {
        let ask = |inner: Arc<dyn Provider>| {
            let (kind, tag, name) = (kind.to_owned(), tag.to_owned(), name.to_owned());
            async move { inner.find(&kind, &tag, &name).await }
        };
        let request = self.stage.lock().watch.request_of(tag);
        let answer = self.send("find", request, ask).await;
        self.told("find", tag, &answer, |found| format!("{:?}", found.iter().map(|f| &f.provider_id).collect::<Vec<_>>()));
        answer
    }

    async fn release(&self, held: &Held) -> Result<Released, Failure> {
        let ask = |inner: Arc<dyn Provider>| {
            let held = held.clone();
            async move { inner.release(&held).await }
        };
        let operation = format!("delete_{}", held.kind);
        let request = self.stage.lock().watch.request_of(held.tag.as_str());
        let answer = self.send(&operation, request, ask).await;
        self.told(&operation, &held.provider_id, &answer, |r| format!("{r:?}"));
        answer
    }

    async fn list_owned(&self, prefix: &str, from: Option<String>) -> Result<Page, Failure> {
        let ask = |inner: Arc<dyn Provider>| {
            let (prefix, from) = (prefix.to_owned(), from.clone());
            async move { inner.list_owned(&prefix, from).await }
        };
        let answer = self.send("list_owned", None, ask).await;
        self.told("list_owned", "", &answer, |page| format!("{} items", page.items.len()));
        answer
    }

    async fn test(&self) -> Vec<Check> {
        self.send("test", None, |inner| async move { inner.test().await }).await
    }

    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        self.send("capacity", None, |inner| async move { inner.capacity().await }).await
    }

    async fn metrics(&self, work: &Work) -> Result<Metrics, Failure> {
        self.inner.metrics(work).await
    }
}

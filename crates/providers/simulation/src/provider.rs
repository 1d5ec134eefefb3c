//! The adapter: the contract of a provider, spoken to a simulated cloud as a real adapter speaks to a real one.
//!
//! It adopts its own where the key is taken, probes the listeners itself, and tells what cannot be. It neither sleeps
//! nor retries. The one thing that it does twice is to register: a cloud that lost its memory is told its settings again.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::cluster::{Capacity, ProviderType};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Found, Made, Plan};
use provisor_core::{Class, Failure, Spec};
use provisor_provider::probe::{self, Guard};
use provisor_provider::{Action, Check, Metrics, Page, Progress, Provider, Released};
use tokio::sync::Mutex;

use crate::cloud::UNKNOWN_CLUSTER;
use crate::port::{Ask, CloudPort, Deletion, Order, Registration, Reply, check};
use crate::table::{Effect, Played};

/// Any answer at all counts where the request does not say which.
const ANY_STATUS: (u16, u16) = (100, 599);

/// One simulated cluster as a backend.
pub(crate) struct Simulated {
    cluster: String,
    registration: Registration,
    port: Arc<dyn CloudPort>,
    registered: Mutex<bool>,
    guard: Guard,
}

impl Simulated {
    /// A cluster of the cloud behind `port`; `registered`: the cloud knows it already.
    pub(crate) fn new(cluster: &str, registration: Registration, port: Arc<dyn CloudPort>, registered: bool) -> Self {
        // Why open: the simulated cloud lives on loopback by design.
        let guard = Guard { allow: Vec::new(), open: true };
        Self { cluster: cluster.to_owned(), registration, port, registered: Mutex::new(registered), guard }
    }

    fn played(&self, spec: &Spec) -> Result<&'static Played, Failure> {
        let wanted = spec.provider.as_deref().filter(|p| *p != ProviderType::Simulation.name());
        let fits = |p: &&ProviderType| p.serves() == Some(spec.kind) && wanted.is_none_or(|w| w == p.name());
        let played = self.registration.plays.iter().find(fits).and_then(|p| Played::of(*p));
        played.ok_or_else(|| {
            let text = format!("{} simulates nothing that serves kind {}", self.cluster, spec.kind.name());
            Failure::new(Class::Permanent, "kind_not_served", text)
        })
    }

    async fn ask(&self, ask: Ask) -> Result<Reply, Failure> {
        self.register(false).await?;
        match self.port.call(&self.cluster, ask.clone()).await {
            Err(failure) if failure.code == UNKNOWN_CLUSTER => {
                self.register(true).await?;
                self.port.call(&self.cluster, ask).await
            }
            other => other,
        }
    }

    async fn register(&self, again: bool) -> Result<(), Failure> {
        let mut registered = self.registered.lock().await;
        if again || !*registered {
            self.port.call(&self.cluster, Ask::Register(self.registration.clone())).await?;
            *registered = true;
        }
        Ok(())
    }

    async fn adopt(&self, order: &Order, found: Found, leaving: bool) -> Result<Progress, Failure> {
        let name = &found.provider_id;
        if order.tag.as_deref() != Some(found.tag.as_str()) {
            let text = format!("{} {name} exists already and is not ours", found.kind);
            return Err(Failure::new(Class::Permanent, "name_taken", text));
        }
        if leaving {
            let text = format!("{} {name} is being deleted", found.kind);
            return Err(Failure::new(Class::Transient, "being_deleted", text));
        }
        let again = Order { provider_id: Some(name.clone()), ..order.clone() };
        let reply = self.ask(Ask::Perform(Box::new(again))).await?;
        progress(reply)
    }

    /// One real try where there is a real listener.
    async fn probe(&self, work: &Work, operation: &str, address: Option<SocketAddr>) -> Result<Progress, Failure> {
        let Some(address) = address else { return Ok(Progress::Done(Made::default())) };
        let result = match operation {
            "probe_ssh" => probe::ssh(&self.guard, address).await.map(drop),
            "probe_http" | "probe_url" => {
                let asked = work.spec.probes.as_ref().and_then(|p| p.http.as_ref());
                let asked = asked.filter(|p| work.item.as_ref().is_none_or(|item| *item == p.port.to_string()));
                let path = asked.map_or("/", |p| p.path.as_str());
                let good = asked.map_or(ANY_STATUS, |p| (p.expect_from, p.expect_to));
                probe::http(&self.guard, &format!("http://{address}{path}"), good).await.map(drop)
            }
            _ => probe::tcp(&self.guard, address).await,
        };
        match result {
            Ok(()) => Ok(Progress::Done(Made::default())),
            Err(failure) if failure.class == Class::Transient => {
                Ok(Progress::Running { made: Made::default(), seen: failure.message, look_again: None })
            }
            Err(failure) => Err(failure),
        }
    }
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new(Class::Permanent, "unexpected_answer", format!("the simulated cloud answers {reply:?}"))
}

fn progress(reply: Reply) -> Result<Progress, Failure> {
    match reply {
        Reply::Done { made } => Ok(Progress::Done(made)),
        Reply::Running { made, seen, look_again } => Ok(Progress::Running { made, seen, look_again }),
        other => Err(unexpected(&other)),
    }
}

#[async_trait]
impl Provider for Simulated {
    fn plan(&self, spec: &Spec) -> Result<Plan, Failure> {
        Ok(self.played(spec)?.plan(spec))
    }

    fn plan_action(&self, action: Action, spec: &Spec) -> Result<Plan, Failure> {
        Ok(self.played(spec)?.plan_action(action, spec))
    }

    async fn identity(&self) -> Result<String, Failure> {
        match self.ask(Ask::Identity).await? {
            Reply::Identity { identity } => Ok(identity),
            other => Err(unexpected(&other)),
        }
    }

    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        let played = self.played(&work.spec)?;
        let mut order = Order::of(played.provider, work);
        let makes = played.operation(&work.operation, work.attempt.is_none()).is_some_and(|o| o.effect == Effect::Make);
        if !makes {
            // What it works on is in `resources`; a tag here would make a lost answer look like a lost create.
            order.tag = None;
            order.provider_id = None;
        }
        match self.ask(Ask::Perform(Box::new(order.clone()))).await? {
            Reply::Exists { found, leaving } => self.adopt(&order, found, leaving).await,
            Reply::Answering { address } => self.probe(work, &order.operation, address).await,
            other => progress(other),
        }
    }

    async fn find(&self, kind: &str, tag: &str, _name: &str) -> Result<Vec<Found>, Failure> {
        match self.ask(Ask::Find { kind: kind.to_owned(), tag: tag.to_owned() }).await? {
            Reply::Page { items, .. } => Ok(items),
            other => Err(unexpected(&other)),
        }
    }

    async fn release(&self, held: &Held) -> Result<Released, Failure> {
        match self.ask(Ask::Release(Box::new(Deletion::of(held)))).await? {
            Reply::Gone => Ok(Released::Gone),
            Reply::Replaced => Ok(Released::Replaced),
            Reply::Leaving { seen, look_again } => Ok(Released::Running { seen, look_again }),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_owned(&self, prefix: &str, from: Option<String>) -> Result<Page, Failure> {
        match self.ask(Ask::List { prefix: prefix.to_owned(), from }).await? {
            Reply::Page { items, next } => Ok(Page { items, next }),
            other => Err(unexpected(&other)),
        }
    }

    async fn test(&self) -> Vec<Check> {
        let begun = tokio::time::Instant::now();
        let reply = self.ask(Ask::Test).await.and_then(|reply| match reply {
            Reply::Checks { checks } => Ok(checks),
            other => Err(unexpected(&other)),
        });
        let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match reply {
            Ok(checks) => checks.into_iter().map(|(name, ok, ms, error)| check((name, ok, ms.max(latency_ms), error))).collect(),
            Err(failure) => vec![
                check(("reachable".to_owned(), false, latency_ms, Some(failure.message))),
                check(("login".to_owned(), false, 0, Some("not tried".to_owned()))),
                check(("quota".to_owned(), false, 0, Some("not tried".to_owned()))),
            ],
        }
    }

    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        match self.ask(Ask::Capacity).await? {
            Reply::Capacity { total } => Ok(Some(total)),
            other => Err(unexpected(&other)),
        }
    }

    async fn metrics(&self, work: &Work) -> Result<Metrics, Failure> {
        match self.ask(Ask::Metrics { resources: work.resources.clone() }).await? {
            Reply::Metrics(figures) => Ok(figures.into()),
            other => Err(unexpected(&other)),
        }
    }
}

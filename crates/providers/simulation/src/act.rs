//! What each operation of the tables does to the cloud.

use provisor_core::cluster::ProviderType;
use provisor_core::event::Endpoint;
use provisor_core::workflow::Made;
use provisor_core::{Class, Failure, Span, Timestamp};

use crate::port::{Order, Reply};
use crate::ports::{self, Way};
use crate::settings::FaultKind;
use crate::table::{Effect, Operation, Pace, Played};
use crate::turn::{Call, Sort, Turn, failed};
use crate::world::{Cluster, Outcome, Resource, key};

/// Performs an operation.
pub(crate) fn act(cluster: &mut Cluster, order: &Order, played: &Played, operation: &Operation, now: Timestamp) -> Turn {
    match operation.effect {
        Effect::Make if order.provider_id.is_some() => poll(cluster, order, played, operation, now),
        Effect::Make => create(cluster, order, played, operation, now),
        _ => on_host(cluster, order, played, operation, now),
    }
}

/// Looks at what a former call made.
fn poll(cluster: &mut Cluster, order: &Order, played: &Played, operation: &Operation, now: Timestamp) -> Turn {
    let call = cluster.begin(&format!("get_{}", operation.kind), &order.tenant, &order.request_name, Sort::Other);
    if let Some(turn) = cluster.struck(&call, false) {
        return turn;
    }
    let key = key(operation.kind, order.provider_id.as_deref().unwrap_or_default());
    let (result, reply) = match cluster.live.get(&key).filter(|r| r.leaving.is_none()) {
        None => ("missing", Err(vanished(&key))),
        Some(resource) => progress(cluster, resource, played, now),
    };
    cluster.end(&call, result, reply, Span::ZERO, false)
}

/// How far something that is being made has come.
fn progress(cluster: &Cluster, resource: &Resource, played: &Played, now: Timestamp) -> (&'static str, Result<Reply, Failure>) {
    let made = made(cluster, resource, played, played.front != played.host);
    if resource.built_at > now {
        let look_again = Some(resource.built_at.since(now));
        return ("running", Ok(Reply::Running { made, seen: "creating".to_owned(), look_again }));
    }
    ("ok", Ok(Reply::Done { made }))
}

fn create(cluster: &mut Cluster, order: &Order, played: &Played, operation: &Operation, now: Timestamp) -> Turn {
    let call = cluster.begin(operation.name, &order.tenant, &order.request_name, Sort::Create);
    if let Some(turn) = cluster.struck(&call, true) {
        return turn;
    }
    if !cluster.goes_well(order, operation) {
        return unlucky(cluster, &call, operation);
    }
    if call.is(FaultKind::LateSuccess) {
        let due = now.plus(cluster.too_late(&call, operation));
        cluster.arrives_late(order, due);
        return cluster.end(&call, "late_success", Ok(Reply::Gone), Span::ZERO, true);
    }
    let latency = cluster.latency(operation.name, call.number);
    let wait = if operation.pace == Pace::Call { latency } else { Span::ZERO };
    match cluster.make(order, played, operation, now) {
        Outcome::Made(key) => {
            let boot = operation.boots.map_or(Span::ZERO, |name| cluster.latency(name, call.number));
            if let Some(resource) = cluster.live.get_mut(&key) {
                resource.built_at = if operation.pace == Pace::Wait { now.plus(latency) } else { now };
                resource.ready_at = now.plus(boot);
            }
            cluster.save_resource(&key);
            if call.is(FaultKind::Vanish) {
                let usual = Span::from_seconds_f64((cluster.settings.time_scale * 10.0).max(0.5));
                cluster.vanish(&key, now.plus(call.delay().unwrap_or(usual)));
            }
            let reply = cluster.live.get(&key).map(|r| progress(cluster, r, played, now).1);
            let reply = reply.unwrap_or_else(|| Err(vanished(&key)));
            let result = if call.is(FaultKind::Vanish) { "vanish" } else { "ok" };
            cluster.end(&call, result, reply, wait, true)
        }
        Outcome::Exists(key) => {
            let reply = match cluster.live.get(&key) {
                Some(r) => Ok(Reply::Exists { found: r.found(now), leaving: r.leaving.is_some() }),
                None => Err(vanished(&key)),
            };
            cluster.end(&call, "exists", reply, wait, true)
        }
        Outcome::Missing(key) => {
            let text = format!("{}: {key} could not be found", operation.name);
            let failure = Failure::new(Class::Permanent, "dependency_not_found", text);
            cluster.end(&call, "permanent", Err(failure), wait, true)
        }
    }
}

/// An operation on something that is there.
fn on_host(cluster: &mut Cluster, order: &Order, played: &Played, operation: &Operation, now: Timestamp) -> Turn {
    let Some(id) = order.resources.get(operation.kind) else {
        let text = format!("{} needs a {}, and there is none", operation.name, operation.kind);
        return failed(Failure::new(Class::Permanent, "missing_resource", text));
    };
    let key = key(operation.kind, id);
    let call = cluster.begin(operation.name, &order.tenant, &order.request_name, Sort::Other);
    if let Some(turn) = cluster.struck(&call, false) {
        return turn;
    }
    if !cluster.goes_well(order, operation) {
        return unlucky(cluster, &call, operation);
    }
    if cluster.live.get(&key).is_none_or(|r| r.leaving.is_some()) {
        return cluster.end(&call, "missing", Err(vanished(&key)), Span::ZERO, false);
    }
    let latency = cluster.latency(operation.name, call.number);
    let wait = if operation.pace == Pace::Call { latency } else { Span::ZERO };
    let site = Site { order, played, operation, key: &key, latency, now };
    let (result, reply) = match operation.effect {
        Effect::Rule => site.rule(cluster),
        Effect::PowerOn => site.power_on(cluster, &call),
        Effect::PowerOff => site.power_off(cluster, &call),
        Effect::WaitHost => site.wait_host(cluster, &call),
        Effect::Probe(way) => site.probe(cluster, &call, way),
        Effect::ProbeUrl if order.plays != ProviderType::Manual => site.probe(cluster, &call, Way::Http),
        Effect::ProbeUrl | Effect::Check => site.check(cluster, &call),
        Effect::Access => site.done(cluster, true),
        Effect::Change | Effect::Person | Effect::Make => site.done(cluster, false),
    };
    // What waits was told to wait longer; its answer is not lost.
    let delayed = call.is(FaultKind::LateSuccess) && operation.pace == Pace::Wait;
    let call = if delayed { Call { strike: None, ..call } } else { call };
    cluster.end(&call, if delayed { "late_success" } else { result }, reply, wait, false)
}

/// An operation with everything that it needs to know.
struct Site<'a> {
    order: &'a Order,
    played: &'a Played,
    operation: &'a Operation,
    key: &'a str,
    latency: Span,
    now: Timestamp,
}

type Result2 = (&'static str, Result<Reply, Failure>);

impl Site<'_> {
    fn done(&self, cluster: &Cluster, tells_address: bool) -> Result2 {
        let told = cluster.live.get(self.key).filter(|_| tells_address);
        let made = told.map_or_else(Made::default, |r| made(cluster, r, self.played, true));
        // It made nothing: what it works on has a row of its own.
        ("ok", Ok(Reply::Done { made: Made { provider_id: None, uid: None, ..made } }))
    }

    fn running(&self, seen: &str, until: Option<Timestamp>) -> Result2 {
        let look_again = until.map(|at| at.since(self.now));
        ("running", Ok(Reply::Running { made: Made::default(), seen: seen.to_owned(), look_again }))
    }

    /// When this operation is done, fixed at the first call of each try.
    fn due(&self, cluster: &mut Cluster, call: &Call) -> Timestamp {
        let name = format!("{}:{}", self.operation.name, self.order.item.as_deref().unwrap_or_default());
        let late = call.is(FaultKind::LateSuccess).then(|| cluster.too_late(call, self.operation));
        let Some(resource) = cluster.live.get_mut(self.key) else { return self.now };
        let known = resource.dues.get(&name).filter(|(number, _)| *number == self.order.try_number && late.is_none());
        if let Some((_, at)) = known {
            return *at;
        }
        let at = self.now.plus(late.unwrap_or(self.latency));
        resource.dues.insert(name, (self.order.try_number, at));
        if at > self.now {
            cluster.save_resource(self.key);
        }
        at
    }

    fn rule(&self, cluster: &mut Cluster) -> Result2 {
        let port = self.order.item.as_deref().and_then(|p| p.parse::<u16>().ok());
        let Some(port) = port else {
            let text = format!("{}: {:?} is no port", self.operation.name, self.order.item);
            return ("permanent", Err(Failure::new(Class::Permanent, "bad_item", text)));
        };
        let is_new = cluster.live.get_mut(self.key).is_some_and(|r| r.rules.insert(port));
        if is_new {
            cluster.save_resource(self.key);
        }
        // A second one is refused (409), which is as good as done.
        (if is_new { "ok" } else { "exists" }, self.done(cluster, false).1)
    }

    fn power_on(&self, cluster: &mut Cluster, call: &Call) -> Result2 {
        let boot = self.operation.boots.map_or(self.latency, |name| cluster.latency(name, call.number));
        let late = call.is(FaultKind::LateSuccess).then(|| cluster.too_late(call, self.operation));
        let Some(resource) = cluster.live.get_mut(self.key) else { return ("missing", Err(vanished(self.key))) };
        let changes = !resource.power || late.is_some();
        if changes {
            resource.power = true;
            resource.ready_at = self.now.plus(late.unwrap_or(boot));
            resource.dues.clear();
        }
        let (ready_at, stack) = (resource.ready_at, resource.stack());
        if changes {
            cluster.save_resource(self.key);
        }
        cluster.touched.insert(stack);
        if self.operation.pace == Pace::Wait && ready_at > self.now {
            return self.running("starting", Some(ready_at));
        }
        self.done(cluster, false)
    }

    fn power_off(&self, cluster: &mut Cluster, call: &Call) -> Result2 {
        if let Some(resource) = cluster.live.get_mut(self.key).filter(|r| r.power) {
            resource.power = false;
            resource.dues.clear();
            cluster.save_resource(self.key);
        }
        let due = self.due(cluster, call);
        if due > self.now { self.running("stopping", Some(due)) } else { self.done(cluster, false) }
    }

    fn wait_host(&self, cluster: &mut Cluster, call: &Call) -> Result2 {
        let late = call.is(FaultKind::LateSuccess).then(|| cluster.too_late(call, self.operation));
        let Some(resource) = cluster.live.get_mut(self.key) else { return ("missing", Err(vanished(self.key))) };
        // A further try repeats the action, so the boot begins anew.
        let begun = resource.dues.get(self.operation.name).map_or(1, |(number, _)| *number);
        let again = self.now.plus(self.latency);
        let changes = late.is_some() || self.order.try_number > begun;
        if changes {
            resource.ready_at = late.map_or(resource.ready_at.min(again), |late| self.now.plus(late));
            resource.dues.insert(self.operation.name.to_owned(), (self.order.try_number, resource.ready_at));
        }
        let (power, ready_at, stack) = (resource.power, resource.ready_at, resource.stack());
        if changes {
            cluster.save_resource(self.key);
        }
        cluster.touched.insert(stack);
        match (power, ready_at > self.now) {
            (false, _) => self.running("stopped", None),
            (true, true) => self.running("booting", Some(ready_at)),
            (true, false) => self.done(cluster, self.played.front == self.played.host),
        }
    }

    /// A service that does not answer yet is something to wait for, not a failure.
    fn probe(&self, cluster: &mut Cluster, call: &Call, way: Way) -> Result2 {
        let services = cluster.live.get(self.key).and_then(|r| cluster.services(r, self.now));
        let Some((address, open)) = services else { return self.running("the service does not answer", None) };
        let wanted = self.order.item.as_deref().and_then(|p| p.parse::<u16>().ok());
        let port = open.iter().find(|(p, w)| *w == way && wanted.is_none_or(|n| n == *p)).map(|(p, _)| *p);
        let Some(port) = port else { return self.running("the port is not open", None) };
        let due = self.due(cluster, call);
        if due > self.now {
            return self.running("the service does not answer yet", Some(due));
        }
        cluster.touched.extend(cluster.live.get(self.key).map(Resource::stack));
        let address = cluster.settings.listeners.then(|| ports::socket(address, port).into());
        ("ok", Ok(Reply::Answering { address }))
    }

    fn check(&self, cluster: &mut Cluster, call: &Call) -> Result2 {
        if cluster.live.get(self.key).is_some_and(|r| !r.power) {
            return self.running("stopped", None);
        }
        let due = self.due(cluster, call);
        if due > self.now { self.running("not ready yet", Some(due)) } else { self.done(cluster, false) }
    }
}

fn unlucky(cluster: &mut Cluster, call: &Call, operation: &Operation) -> Turn {
    let text = format!("{}: this attempt was drawn to fail here by success_rate (simulated)", operation.name);
    let wait = cluster.latency(operation.name, call.number);
    let call = Call { operation: call.operation.clone(), number: call.number, strike: None };
    cluster.end(&call, "permanent", Err(Failure::new(Class::Permanent, "simulated_failure", text)), wait, false)
}

fn vanished(key: &str) -> Failure {
    Failure::new(Class::Transient, "vanished", format!("{key} is not there any more")).spoiled()
}

/// What is known of a resource; with its address and endpoints where they are to be told.
fn made(cluster: &Cluster, resource: &Resource, played: &Played, tells_address: bool) -> Made {
    let mut made = Made { provider_id: Some(resource.id.clone()), uid: resource.uid.clone(), ..Made::default() };
    if !tells_address || resource.kind != played.front {
        return made;
    }
    let fact = match (resource.address, resource.plays) {
        (Some(address), ProviderType::Argocd) => {
            let url = format!("http://{}/", ports::socket(address, 80));
            made.endpoints = vec![Endpoint { name: "url".to_owned(), url }];
            address.to_string()
        }
        (Some(address), _) => {
            made.endpoints = resource.ports.iter().map(|(p, w)| ports::endpoint(address, *p, *w)).collect();
            address.to_string()
        }
        (None, _) => {
            let url = format!("https://{}.simulated.example:6443/api/v1/namespaces/{}", cluster.name, resource.id);
            made.endpoints = vec![Endpoint { name: "api".to_owned(), url }];
            resource.id.clone()
        }
    };
    made.facts.insert(played.address_fact.to_owned(), fact);
    made
}

//! A long random walk over all operations, the same on both drivers: what one answers and stores, the other
//! answers and stores, to the last byte; all invariants hold on the way; and in the end, when everything is
//! released, nothing is held.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::cluster::HealthState;
use provisor_core::event::Endpoint;
use provisor_core::run::{Command, ManualInput};
use provisor_core::workflow::{Answer, Call, Found, Reply, Task};
use provisor_core::{Chance, Class, Failure, RequestId, ResourceId, Span, Spec, State};
use provisor_store::OpError;
use provisor_store::ops::admit::{Admit, DryRun, Idempotency};
use provisor_store::ops::heartbeat::{FreeAll, HandBack, KeepLeases};
use provisor_store::ops::reappeared::Reappeared;
use provisor_store::ops::settle::Settle;
use serde_json::json;

use super::scene::{Lease, Scene, good, made, managed, names, spec};
use super::tables::{Tables, assert_same};

const STEPS: usize = 2000;
const LEASES_AT_MOST: usize = 24;

struct Walk {
    scene: Scene,
    chance: SplitMix,
    ids: Vec<RequestId>,
    leases: Vec<Lease>,
    states: BTreeSet<State>,
}

/// What a walk left behind.
struct Trace {
    steps: Vec<String>,
    tables: Tables,
    states: BTreeSet<State>,
}

impl Walk {
    async fn new(scene: Scene, seed: u64) -> Self {
        for (tenant, limit) in [("a", 3), ("b", 2), ("c", 50)] {
            let quota = json!({"cpu": 60, "requests": {"vps": 30, "managed": 8}});
            scene.tenant(tenant, json!({"max_concurrent": limit, "quota": quota})).await;
        }
        scene.cluster("one", json!({"capacity": {"cpu": 30, "slots": 14}})).await;
        scene.cluster("two", json!({"capacity": {"cpu": 24}})).await;
        scene.cluster("three", json!({"capacity": {"cpu": 20, "memory_gb": 12}})).await;
        Self { scene, chance: SplitMix::new(seed), ids: Vec::new(), leases: Vec::new(), states: BTreeSet::new() }
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.chance.below(n as u64)).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Any request, mostly one of the last.
    fn any_id(&mut self) -> Option<RequestId> {
        if self.ids.is_empty() {
            return None;
        }
        let among = if self.one_in(4) { self.ids.len() } else { self.ids.len().min(25) };
        let index = self.ids.len() - 1 - self.below(among);
        Some(self.ids[index])
    }

    async fn step(&mut self) -> String {
        match self.below(100) {
            0..20 => self.admit().await,
            20..42 => self.claim().await,
            42..76 if self.leases.is_empty() => self.claim().await,
            42..76 => self.settle().await,
            76..84 => self.ask().await,
            84..87 => self.keep().await,
            87..89 => self.hand_back().await,
            89..96 => {
                let long = if self.one_in(8) { 700_000 } else { 8_000 };
                let span = Span::millis(i64::try_from(self.below(long)).unwrap());
                self.scene.clock.advance(span);
                format!("clock {span:?}")
            }
            96..98 => self.retry().await,
            98 => self.reappear().await,
            _ => self.disturb().await,
        }
    }

    fn spec(&mut self) -> Spec {
        let name = format!("n{}", self.below(120));
        let tenant = ["a", "b", "c"][self.below(3)];
        if self.one_in(8) {
            return Spec { tenant: tenant.to_owned(), ..managed(&name) };
        }
        let cpu = if self.one_in(40) { 31 } else { 1 + self.below(4) };
        let mut extra = json!({"tenant": tenant, "size": {"cpu": cpu, "memory_gb": 1 + self.below(2), "storage_gb": 1}});
        if self.one_in(4) {
            let on = self.any_id().map_or_else(|| "n1".to_owned(), |id| id.to_string());
            extra["depends_on"] = json!([on]);
        }
        if self.one_in(5) {
            extra["strategy"] = json!({"type": "single"});
        }
        if self.one_in(6) {
            extra["queue_timeout_seconds"] = json!(5 + self.below(100));
        }
        if self.one_in(50) {
            extra["image"] = json!("unknown");
        }
        spec(&name, extra)
    }

    async fn admit(&mut self) -> String {
        let count = 1 + self.below(3);
        let items: Vec<Spec> = (0..count).map(|_| self.spec()).collect();
        let key = self.one_in(3).then(|| {
            let key = format!("k{}", self.below(20));
            Idempotency { route: "r".to_owned(), key, fingerprint: format!("f{}", self.below(2)) }
        });
        let admission = self.scene.admission(items, key);
        if self.one_in(6) {
            return format!("dry {:?}", self.scene.store.run(DryRun(admission)).await);
        }
        self.admitted(admission).await
    }

    async fn admitted(&mut self, admission: Admit) -> String {
        let answer = self.scene.store.run(admission).await;
        for view in answer.iter().flatten() {
            if !self.ids.contains(&view.run.id) {
                self.ids.push(view.run.id);
            }
        }
        format!("admit {answer:?}")
    }

    async fn retry(&mut self) -> String {
        let Some(id) = self.any_id() else { return String::new() };
        let run = self.scene.run_of(id).await;
        if run.state != State::RolledBack {
            return format!("{id} is not rolled back");
        }
        let spec = Spec { depends_on: Vec::new(), ..run.spec };
        let admission = Admit { retry_of: Some(id), ..self.scene.admission(vec![spec], None) };
        self.admitted(admission).await
    }

    async fn claim(&mut self) -> String {
        let (worker, limit) = (format!("w{}", self.below(3)), 1 + self.below(4));
        if self.leases.len() >= LEASES_AT_MOST {
            self.leases.remove(0);
        }
        let batch = self.scene.claim(&worker, limit).await;
        let mut text = format!("claim {worker} {limit} {} {:?}", batch.busy, batch.next_due);
        for claimed in batch.claimed {
            self.states.insert(claimed.run.state);
            let calls = names(&claimed.calls);
            write!(text, " {} {} {calls:?} {:?}", claimed.run.id, claimed.generation, claimed.wake_at).unwrap();
            self.leases.push(Lease::of(&worker, claimed));
        }
        // With nothing to do time goes on to what comes next.
        if !batch.busy && self.one_in(3) {
            let wait = batch.next_due.since(self.scene.store.now()).min(Span::seconds(3600));
            self.scene.clock.advance(wait);
        }
        text
    }

    async fn settle(&mut self) -> String {
        let index = self.below(self.leases.len());
        let mut lease = self.leases[index].clone();
        let (mut answers, mut open) = (Vec::new(), Vec::new());
        for call in std::mem::take(&mut lease.calls) {
            if self.one_in(5) {
                open.push(call);
                continue;
            }
            let answer = self.answer(&call);
            if matches!(answer.reply, Reply::Progress(_)) {
                open.push(call);
            }
            answers.push(answer);
        }
        let (in_flight, closing) = (!open.is_empty(), self.one_in(25));
        let settled = self.scene.store.run(Settle { in_flight, closing, ..self.scene.settling(&lease, answers) }).await;
        let Ok(settled) = settled else {
            self.leases.remove(index);
            return format!("settle {:?}", settled.err());
        };
        self.states.insert(settled.run.state);
        let text = format!("settle {} {:?} {:?} {}", lease.id, names(&settled.calls), settled.wake_at, settled.released);
        open.extend(settled.calls);
        lease.calls = open;
        if settled.released {
            self.leases.remove(index);
        } else {
            self.leases[index] = lease;
        }
        text
    }

    fn answer(&mut self, call: &Call) -> Answer {
        let fail = |class| Reply::Failed(Failure::new(class, "scripted", "told to fail"));
        let found = |tag: &str, kind: &str, n: usize, spoiled| Found {
            kind: kind.to_owned(),
            provider_id: format!("found-{tag}-{n}"),
            uid: None,
            tag: tag.to_owned(),
            age_seconds: None,
            spoiled,
        };
        let drawn = self.below(100);
        let reply = match &call.task {
            Task::Perform(work) => match drawn {
                0..8 => fail(Class::Transient),
                8..13 => fail(Class::Ambiguous),
                13..16 => fail(Class::Permanent),
                16..19 => fail(Class::Throttled),
                19..20 => fail(Class::Auth),
                20..22 => fail(Class::Capacity),
                22..25 => Reply::TimedOut { last_seen: None, diagnosis: Vec::new() },
                25..28 if work.tag.is_some() => Reply::Progress(made(&format!("early-{}", work.name))),
                28..30 => Reply::Failed(Failure::new(Class::Transient, "error", "in state ERROR").spoiled()),
                _ => return good(call),
            },
            Task::Find { tag, kind, .. } => match drawn {
                0..25 => Reply::Looked(vec![found(tag.as_str(), kind, 0, false)]),
                25..30 => Reply::Looked(vec![found(tag.as_str(), kind, 0, false), found(tag.as_str(), kind, 1, false)]),
                30..33 => Reply::Looked(vec![found(tag.as_str(), kind, 0, true)]),
                33..38 => fail(Class::Transient),
                _ => return good(call),
            },
            Task::Release(_) => match drawn {
                0..15 => fail(Class::Transient),
                15..18 => Reply::TimedOut { last_seen: Some("deleting".to_owned()), diagnosis: Vec::new() },
                18..20 => Reply::Gone { replaced: true },
                _ => return good(call),
            },
        };
        Answer { key: call.key.clone(), reply }
    }

    async fn ask(&mut self) -> String {
        let Some(id) = self.any_id() else { return String::new() };
        let reason = None;
        let command = match self.below(10) {
            0..2 => Command::Cancel { reason },
            2..4 => Command::Suspend { reason },
            4..6 => Command::Reactivate { reason },
            6..8 => Command::Deprovision { reason, force: self.one_in(2) },
            8 => {
                let resources = self.scene.run_of(id).await.owed().map(|r| r.id).collect();
                Command::WriteOff { resources, reason: "told to".to_owned() }
            }
            _ => {
                let url = format!("http://host-{}", self.below(2));
                Command::ManualInput(ManualInput { endpoints: vec![Endpoint { name: "web".to_owned(), url }], credentials: None })
            }
        };
        let answer = self.scene.ask(id, command).await;
        self.states.extend(answer.iter().map(|v| v.run.state));
        format!("ask {:?}", answer.map(|v| (v.run.id, v.run.state, v.version, v.events, v.published)))
    }

    async fn keep(&mut self) -> String {
        let worker = format!("w{}", self.below(3));
        let context = Arc::clone(&self.scene.context);
        // Now and then those of others, too.
        let all = self.one_in(2);
        let leases = self.leases.iter().filter(|l| all || l.worker == worker).map(|l| (l.id, l.generation)).collect();
        format!("keep {:?}", self.scene.store.run(KeepLeases { worker, leases, context }).await)
    }

    async fn hand_back(&mut self) -> String {
        if self.leases.is_empty() {
            return String::new();
        }
        let index = self.below(self.leases.len());
        let lease = self.leases.remove(index);
        let back = HandBack { worker: lease.worker, leases: vec![(lease.id, lease.generation)] };
        format!("hand back {:?}", self.scene.store.run(back).await)
    }

    async fn reappear(&mut self) -> String {
        let Some(id) = self.any_id() else { return String::new() };
        let closed: Option<ResourceId> = self.scene.run_of(id).await.ledger.iter().find(|r| r.is_closed()).map(|r| r.id);
        let row = closed.unwrap_or_else(|| self.scene.id());
        let context = Arc::clone(&self.scene.context);
        format!("reappeared {:?}", self.scene.store.run(Reappeared { row, provider_id: "back".to_owned(), context }).await)
    }

    async fn disturb(&mut self) -> String {
        if self.one_in(4) {
            return format!("free {:?}", self.scene.store.run(FreeAll).await);
        }
        let name = ["one", "two", "three"][self.below(3)];
        let state = [HealthState::Degraded, HealthState::Offline, HealthState::Online][self.below(8).min(2)];
        let id = self.scene.cluster_now(name).await.id;
        self.scene.health(id, state).await;
        format!("{name} is {state:?}")
    }

    /// Takes everything to its end.
    async fn release_all(&mut self) {
        for name in ["one", "two", "three"] {
            let id = self.scene.cluster_now(name).await.id;
            self.scene.health(id, HealthState::Online).await;
        }
        self.scene.store.run(FreeAll).await.unwrap();
        for id in &self.ids {
            if self.scene.ask(*id, Command::Cancel { reason: None }).await.is_err() {
                let force = Command::Deprovision { reason: None, force: true };
                drop(self.scene.ask(*id, force).await);
            }
        }
        for id in &self.ids {
            self.scene.until(*id, State::RolledBack).await;
        }
    }
}

async fn walk(scene: Scene, seed: u64, checked: bool) -> Trace {
    let mut walk = Walk::new(scene, seed).await;
    let mut steps = Vec::with_capacity(STEPS);
    for number in 0..STEPS {
        let step = walk.step().await;
        assert!(!step.contains("Corrupt(") && !step.contains("Database("), "step {number}: {step}");
        steps.push(step);
        if checked && number % 100 == 99 {
            walk.scene.check().await;
        }
    }
    walk.release_all().await;
    walk.scene.check().await;
    for tenant in ["a", "b", "c"] {
        let now = walk.scene.tenant_now(tenant).await;
        assert_eq!((now.usage.amounts.cpu, now.usage.amounts.memory_gb, now.usage.amounts.storage_gb, now.in_work), (0, 0, 0, 0));
        assert!(now.usage.requests.values().all(|n| *n == 0), "{:?}", now.usage);
    }
    for cluster in ["one", "two", "three"] {
        let now = walk.scene.cluster_now(cluster).await;
        assert_eq!((now.reserved.cpu, now.used.cpu, now.reserved_slots, now.used_slots), (0, 0, 0, 0), "{cluster}");
    }
    Trace { steps, tables: walk.scene.tables().await, states: walk.states }
}

async fn both(seed: u64) {
    let one = walk(Scene::inline(), seed, true).await;
    let other = walk(Scene::sqlite(), seed, false).await;
    for (number, (a, b)) in one.steps.iter().zip(&other.steps).enumerate() {
        assert_eq!(a, b, "step {number}");
    }
    assert_same(&one.tables, &other.tables);
    // The walk went everywhere and did everything, or it shows nothing.
    for state in [State::Queued, State::Allocating, State::Configuring, State::Activating, State::Completed, State::RollingBack] {
        assert!(one.states.contains(&state), "{state:?} was never reached: {:?}", one.states);
    }
    let told = |start: &str| one.steps.iter().filter(|s| s.starts_with(start)).count();
    for (start, least) in [
        ("admit Ok", 60),
        ("admit Err", 60),
        ("dry Ok", 3),
        ("ask Ok", 30),
        ("ask Err", 30),
        ("settle req_", 200),
        ("settle Some(Fenced)", 20),
    ] {
        assert!(told(start) >= least, "{start}: {}", told(start));
    }
    assert!(one.steps.iter().all(|s| !s.starts_with("settle Some") || s == &format!("settle {:?}", Some(OpError::Fenced))));
}

#[tokio::test]
async fn two_drivers_walk_the_same_way() {
    both(1).await;
}

#[tokio::test]
async fn two_drivers_walk_another_way() {
    both(2).await;
}

/// A longer hunt, run by hand: `cargo test -p provisor-store many_walks -- --ignored`.
#[tokio::test]
#[ignore = "takes minutes"]
async fn many_walks() {
    for seed in 3..40 {
        let trace = walk(Scene::inline(), seed, true).await;
        assert!(trace.steps.len() == STEPS, "seed {seed}");
    }
}

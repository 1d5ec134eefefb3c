//! The small model of the store, in which every interleaving is walked (`provisor-worlds`), against the real operations:
//! the same claims, settlements, commands and heartbeats leave the same behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use provisor_core::chance::SplitMix;
use provisor_core::event::Actor;
use provisor_core::run::{Admission, Command};
use provisor_core::workflow::{Answer, Call, CallKey, Reply};
use provisor_core::{Chance, Class, Failure, Run, Span, budget};
use provisor_store::OpError;
use provisor_store::ops::heartbeat::KeepLeases;
use provisor_worlds::desk::{Desk, Place};
use provisor_worlds::store::Row;
use serde_json::json;

use super::scene::{LEASE, Lease, Scene, good, merged, names, spec};
use super::tables::row_of;

const WORKERS: [&str; 2] = ["w0", "w1"];
const STEPS: usize = 80;
const LIVES: u64 = 16;

/// A lease as both sides know it: the real one with its calls, and the model's calls in the same order.
struct Held {
    lease: Lease,
    calls: Vec<Call>,
}

struct Pair<'a> {
    scene: &'a Scene,
    chance: SplitMix,
    dice: SplitMix,
    row: Row,
    places: Vec<Place>,
    held: BTreeMap<usize, Held>,
}

pub async fn keeps_what_the_store_keeps(scene: Scene) {
    scene.tenant("acme", json!({"max_concurrent": 1000})).await;
    // Without pauses, as jitter differs.
    let settings = json!({"settings": {"retry": {"initial_seconds": 0, "cap_seconds": 0, "max_retries": 2},
        "late_create_seconds": 6, "list_lag_seconds": 1, "hedge_after_seconds": 3}});
    for name in ["one", "two"] {
        scene.cluster(name, merged(settings.clone(), json!({"capacity": {}}))).await;
    }
    let mut seen = BTreeMap::new();
    for seed in 0..LIVES {
        let kind = ["single", "failover", "race", "hedge"][usize::try_from(seed % 4).unwrap()];
        let mut pair = Pair::new(&scene, seed, kind).await;
        for step in 0..STEPS {
            let what = pair.step(&mut seen).await;
            pair.compare(&format!("life {seed} ({kind}), step {step}: {what}")).await;
        }
        // What is left of it is nobody's any more.
        scene.clock.advance(LEASE);
        pair.rest().await;
    }
    assert!(seen.values().all(|n| *n >= 3) && seen.len() == 7, "all was tried: {seen:?}");
    scene.check().await;
}

impl<'a> Pair<'a> {
    async fn new(scene: &'a Scene, seed: u64, kind: &str) -> Self {
        let spec = spec(&format!("n{seed}"), json!({"strategy": {"type": kind}}));
        let view = scene.try_admit(vec![spec.clone()]).await.unwrap().remove(0);
        let admission = Admission {
            id: view.run.id,
            tenant: view.run.tenant,
            spec,
            regions: view.run.regions.clone(),
            policy: None,
            depends_on: Vec::new(),
            must_wait: false,
            retry_of: None,
            actor: Actor::system("model"),
        };
        let now = scene.store.now();
        let mut places = Vec::new();
        for name in ["one", "two"] {
            let cluster = scene.cluster_now(name).await;
            let (name, settings) = (cluster.spec.name.clone(), cluster.spec.common());
            places.push(Place { id: cluster.id, name, settings, room: 1000, budget: budget::FULL });
        }
        let row = Row::new(Run::admit(admission, now).0, now);
        Self { scene, chance: SplitMix::new(seed), dice: SplitMix::new(seed ^ 0x4d), row, places, held: BTreeMap::new() }
    }

    fn model<T>(&mut self, generation: i64, act: impl FnOnce(&mut Row, &mut Desk<'_>) -> T) -> T {
        let context = &self.scene.context;
        let mut desk = Desk {
            places: &mut self.places,
            planner: context.planner.as_ref(),
            chance: &mut self.dice,
            now: self.scene.store.now(),
            generation,
            send_within: Span(LEASE.0 / 2),
            downtime: Span(context.downtime.load(std::sync::atomic::Ordering::Relaxed)),
            stuck_after: context.stuck_after,
            known: context.known(),
            events: Vec::new(),
        };
        act(&mut self.row, &mut desk)
    }

    async fn step(&mut self, seen: &mut BTreeMap<&'static str, u32>) -> String {
        let (what, told) = match self.chance.below(20) {
            0..=3 => ("later", self.later()),
            4..=7 => ("claim", self.claim().await),
            8 => ("look", self.settle(0).await),
            9 => ("beat", self.beat().await),
            10 if self.chance.below(4) == 0 => ("cancel", self.cancel().await),
            11 if self.chance.below(3) == 0 => ("forget", self.forget()),
            _ => ("settle", self.settle(1).await),
        };
        *seen.entry(what).or_default() += 1;
        format!("{what} {told}")
    }

    fn later(&mut self) -> String {
        let by = Span::millis([100, 1000, 3000, 10_000][usize::try_from(self.chance.below(4)).unwrap()]);
        self.scene.clock.advance(by);
        format!("{by:?}")
    }

    fn worker(&mut self) -> usize {
        usize::try_from(self.chance.below(2)).unwrap()
    }

    async fn claim(&mut self) -> String {
        let worker = self.worker();
        let mut claimed = self.scene.claim(WORKERS[worker], 1).await.claimed;
        let taken = self.model(0, |row, desk| row.claim(worker, LEASE, desk));
        let calls = taken.filter(|t| t.held).map(|t| t.directive.calls);
        assert_eq!(claimed.is_empty(), calls.is_none(), "both take it, or none");
        let (Some(claimed), Some(calls)) = (claimed.pop(), calls) else { return "of nothing".to_owned() };
        let lease = Lease::of(WORKERS[worker], claimed);
        let told = names(&lease.calls).join(" ");
        assert_eq!(names(&lease.calls), names(&calls));
        self.held.insert(worker, Held { lease, calls });
        told
    }

    /// Some of a worker's answers; with none it only looks.
    async fn settle(&mut self, at_least: usize) -> String {
        let worker = self.worker();
        let Some(mut held) = self.held.remove(&worker) else { return "of nobody".to_owned() };
        let mut answers = Vec::new();
        let mut others = Vec::new();
        let mut told = String::new();
        while answers.len() < at_least.min(1) + usize::try_from(self.chance.below(2)).unwrap() * at_least
            && !held.calls.is_empty()
        {
            let index = usize::try_from(self.chance.below(held.calls.len() as u64)).unwrap();
            let (real, model) = (held.lease.calls.remove(index), held.calls.remove(index));
            let reply = self.reply(&real);
            write!(told, " {} {}", names(std::slice::from_ref(&real))[0], kind_of(&reply)).unwrap();
            // The tag in an id is another one on each side.
            let own = match &reply {
                Reply::Done(_) => good(&model).reply,
                other => other.clone(),
            };
            answers.push(Answer { key: real.key, reply });
            others.push(Answer { key: model.key, reply: own });
        }
        let in_flight = !held.calls.is_empty();
        let generation = held.lease.generation;
        let settle = provisor_store::ops::settle::Settle { in_flight, ..self.scene.settling(&held.lease, answers) };
        let real = self.scene.store.run(settle).await;
        let model = self.model(generation, |row, desk| row.settle(worker, others, in_flight, LEASE, desk));
        match (real, model) {
            (Ok(settled), Some(taken)) => {
                assert_eq!(settled.released, !taken.held);
                assert_eq!(names(&settled.calls), names(&taken.directive.calls));
                assert_eq!(settled.wake_at, if taken.held { taken.directive.wake_at } else { self.row.due });
                held.lease.calls.extend(settled.calls);
                held.calls.extend(taken.directive.calls);
                if taken.held {
                    self.held.insert(worker, held);
                }
            }
            (Err(OpError::Fenced), None) => told.push_str(" fenced"),
            (real, model) => panic!("one is fenced: {:?} {:?}", real.err(), model.is_none()),
        }
        told
    }

    fn reply(&mut self, call: &Call) -> Reply {
        match (self.chance.below(10), &call.key) {
            (0, CallKey::Operation { .. } | CallKey::Release { .. }) => {
                Reply::Failed(Failure::new(Class::Transient, "weather", "the weather is bad"))
            }
            (1, CallKey::Operation { .. }) => Reply::Failed(Failure::new(Class::Permanent, "weather", "it will not work")),
            (2 | 3, _) => Reply::TimedOut { last_seen: None, diagnosis: Vec::new() },
            _ => good(call).reply,
        }
    }

    async fn beat(&mut self) -> String {
        let worker = self.worker();
        let Some(held) = self.held.get(&worker) else { return "of nobody".to_owned() };
        let generation = held.lease.generation;
        let leases = vec![(self.row.run.id, generation)];
        let context = std::sync::Arc::clone(&self.scene.context);
        let kept = self.scene.store.run(KeepLeases { worker: WORKERS[worker].to_owned(), leases, context }).await.unwrap();
        let until = self.scene.store.now().plus(LEASE);
        assert_eq!(kept.first().map(|k| k.attention), self.row.extend(worker, generation, until));
        String::new()
    }

    async fn cancel(&mut self) -> String {
        let real = self.scene.ask(self.row.run.id, Command::Cancel { reason: None }).await;
        let model = self.model(0, |row, desk| row.ask(Command::Cancel { reason: None }, desk));
        assert_eq!(real.is_ok(), model);
        format!("{model}")
    }

    /// A worker dies: its lease runs out.
    fn forget(&mut self) -> String {
        let worker = self.worker();
        self.held.remove(&worker);
        WORKERS[worker].to_owned()
    }

    async fn compare(&self, what: &str) {
        let (real, stored) = (self.scene.run_of(self.row.run.id).await, row_of(&self.scene.store, self.row.run.id).await);
        let worker = self.row.worker.map(|w| WORKERS[w].to_owned());
        let model = (worker, self.row.generation, self.row.due.0, self.row.attention);
        assert_eq!((stored.worker, stored.generation, stored.due_at, stored.attention), model, "{what}");
        assert_eq!(shape(&real), shape(&self.row.run), "{what}");
    }

    /// It is put away, so that the next life is alone in the queue.
    async fn rest(&mut self) {
        let id = self.row.run.id;
        let run = self.scene.run_of(id).await;
        if run.state.is_terminal() {
            return;
        }
        let command = if run.state.is_standing() {
            Command::Deprovision { reason: None, force: false }
        } else {
            Command::Cancel { reason: None }
        };
        let _ = self.scene.ask(id, command).await;
        self.scene.until(id, provisor_core::State::RolledBack).await;
    }
}

fn kind_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Done(_) => "done",
        Reply::Failed(_) => "failed",
        Reply::TimedOut { .. } => "timed out",
        _ => "answered",
    }
}

/// Everything of a run that does not name an id.
fn shape(run: &Run) -> String {
    let mut out = format!("{:?} {:?} {:?}\n", run.state, run.outcome, run.waiting.as_ref().map(|w| &w.reason));
    for a in &run.attempts {
        let (won, released) = (run.winner == Some(a.id), a.released_at);
        writeln!(out, "{} {:?} {} {:?} {:?} {won} {released:?}", a.number, a.role, a.cluster_name, a.state, a.asked_beside)
            .unwrap();
        for o in &a.operations {
            let row = o.row.and_then(|id| run.ledger.iter().position(|r| r.id == id));
            let tries: Vec<_> =
                o.tries.iter().map(|t| (t.started_at, t.finished_at, t.error.as_ref().map(|e| &e.code))).collect();
            let (name, generation) = (&o.planned.name, o.generation);
            writeln!(out, "  {name} {:?} {tries:?} {} {:?} {row:?} {generation}", o.status, o.retries, o.next_at).unwrap();
        }
    }
    for r in &run.ledger {
        let (made, times) = (r.provider_id.is_some(), (r.send_by, r.asked_at, r.next_at, r.released_at));
        let flags = (r.in_doubt, r.unwanted, r.busy, r.empty_looks, r.calls, r.failures);
        writeln!(out, "  {} {:?} {made} {times:?} {flags:?}", r.operation, r.state).unwrap();
    }
    out
}

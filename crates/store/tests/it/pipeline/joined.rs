//! Operations that are done as one: each gets the answer that it would have had alone, and the tables are the same in the
//! end, whatever is refused among them.

use std::fmt::Write as _;

use provisor_core::chance::SplitMix;
use provisor_core::lifecycle::Outcome;
use provisor_core::run::Command;
use provisor_core::workflow::Answer;
use provisor_core::{Chance, Class, RequestId, Span, State};
use provisor_store::ops::admit::{Admit, Idempotency};
use provisor_store::ops::quota::QuotaProof;
use provisor_store::ops::settle::Settled;
use provisor_store::{Mode, Op, OpError, Tx};
use serde_json::json;

use super::scene::{Lease, Scene, cpus, failed, good, spec};

/// Several operations of a kind as one, in one transaction.
pub struct Together<O>(pub Vec<O>);

impl<O: Op> Op for Together<O> {
    type Out = Vec<Result<O::Out, OpError>>;
    const NAME: &'static str = "together";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let all: Vec<&O> = self.0.iter().collect();
        assert!(all.iter().all(|op| op.joins()), "it would not be done with others");
        O::run_joined(&all, tx).await
    }
}

/// What was done to a scene and its like one by one must look the same.
struct Side {
    scene: Scene,
    joined: bool,
    leases: Vec<Lease>,
}

impl Side {
    async fn new(scene: Scene, joined: bool) -> Self {
        scene.tenant("acme", json!({"max_concurrent": 4, "quota": {"cpu": 14}})).await;
        // Made later, so that its id is later, too.
        scene.clock.advance(Span::seconds(1));
        scene.tenant("bolt", json!({"max_concurrent": 3})).await;
        for name in ["one", "two"] {
            scene.cluster(name, json!({})).await;
        }
        Self { scene, joined, leases: Vec::new() }
    }

    async fn run<O: Op>(&self, ops: Vec<O>) -> Vec<Result<O::Out, OpError>> {
        if self.joined {
            return self.scene.store.run(Together(ops)).await.unwrap();
        }
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(self.scene.store.run(op).await);
        }
        answers
    }

    /// Calls with few names and fewer keys, for tenants with little, some of whom are not there.
    fn admission(&self, chance: &mut SplitMix) -> Admit {
        let pick = |chance: &mut SplitMix, of: &[&str]| of[usize::try_from(chance.below(of.len() as u64)).unwrap()].to_owned();
        let mut items = Vec::new();
        for _ in 0..=chance.below(2) {
            let tenant = pick(chance, &["acme", "acme", "acme", "bolt", "bolt", "nobody"]);
            let mut extra = json!({"tenant": tenant, "labels": {"n": "1"}});
            extra["size"] = json!({"cpu": 1 + chance.below(4), "memory_gb": 1, "storage_gb": 1});
            if chance.below(5) == 0 {
                extra["image"] = json!("unknown");
            }
            items.push(spec(&format!("r{}", chance.below(12)), extra));
        }
        let key = (chance.below(3) == 0).then(|| Idempotency {
            route: "requests".to_owned(),
            key: format!("key-{}", chance.below(6)),
            fingerprint: format!("{}", chance.below(2)),
        });
        self.scene.admission(items, key)
    }

    async fn step(&mut self, mut chance: SplitMix) -> String {
        self.scene.clock.advance(Span(i64::try_from(1 + chance.below(2_000_000)).unwrap()));
        let admissions = (0..=chance.below(6)).map(|_| self.admission(&mut chance)).collect();
        let mut told = format!("{:?}", self.run(admissions).await);
        let batch = self.scene.claim("w", usize::try_from(1 + chance.below(4)).unwrap()).await;
        for claimed in batch.claimed {
            self.leases.retain(|l| l.id != claimed.run.id);
            self.leases.push(Lease::of("w", claimed));
        }
        let (mut settlements, mut again) = (Vec::new(), Vec::new());
        for lease in &self.leases {
            let answer = |call| match chance.below(12) {
                0 => failed(call, Class::Transient),
                1 => failed(call, Class::Permanent),
                _ => good(call),
            };
            let answers: Vec<Answer> = lease.calls.iter().map(answer).collect();
            settlements.push(self.scene.settling(lease, answers.clone()));
            // The same again: by then the lease is given back, or the answers are known.
            if chance.below(5) == 0 {
                again.push(self.scene.settling(lease, answers));
            }
        }
        settlements.append(&mut again);
        let mut held: Vec<Lease> = Vec::new();
        for settled in self.run(settlements).await {
            match settled {
                Ok(settled) => {
                    let Settled { run, calls, released, wake_at } = &settled;
                    write!(told, "{run:?} {calls:?} {released} {wake_at:?}").unwrap();
                    let id = settled.run.id;
                    let lease = self.leases.iter().find(|l| l.id == id).unwrap().clone();
                    held.retain(|l| l.id != id);
                    if !settled.released {
                        held.push(Lease { calls: settled.calls, ..lease });
                    }
                }
                Err(error) => write!(told, "{error:?}").unwrap(),
            }
        }
        self.leases = held;
        told
    }
}

pub async fn is_as_one_by_one(scene: Scene) {
    let (mut one, mut other) = (Side::new(scene, true).await, Side::new(Scene::inline(), false).await);
    let mut steps = SplitMix::new(7);
    let mut told = String::new();
    for step in 0..60 {
        let chance = steps.next_u64();
        let (left, right) = (one.step(SplitMix::new(chance)).await, other.step(SplitMix::new(chance)).await);
        if left != right {
            let from = left.bytes().zip(right.bytes()).position(|(a, b)| a != b).unwrap_or(0).saturating_sub(200);
            let near = |text: &str| text.chars().skip(from).take(600).collect::<String>();
            panic!("step {step}\n{}\n\n{}", near(&left), near(&right));
        }
        told += &left;
    }
    for word in ["NameTaken", "QuotaExceeded", "IdempotencyMismatch", "NoCluster", "Invalid", "Fenced", "Completed", "RolledBack"]
    {
        assert!(told.contains(word), "{word} was not met");
    }
    for side in [&one, &other] {
        assert_eq!(side.scene.store.run(QuotaProof).await, Ok(vec![]));
        side.scene.check().await;
    }
    let (left, right) = (one.scene.tables().await, other.scene.tables().await);
    for ((name, left), (_, right)) in left.iter().zip(&right).filter(|((name, _), _)| *name != "event") {
        assert_eq!(left, right, "{name}");
    }
}

fn key(key: &str, fingerprint: &str) -> Idempotency {
    Idempotency { route: "r".to_owned(), key: key.to_owned(), fingerprint: fingerprint.to_owned() }
}

/// H18, H20, H21 inside of one group.
pub async fn the_first_of_a_group_wins(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 4}})).await;
    scene.cluster("one", json!({})).await;
    let calls = vec![
        scene.admission(vec![spec("db", json!({}))], Some(key("a", "f"))),
        scene.admission(vec![spec("web", json!({})), spec("db", json!({}))], None),
        scene.admission(vec![spec("db", json!({}))], Some(key("a", "f"))),
        scene.admission(vec![spec("db", json!({}))], Some(key("a", "other"))),
        scene.admission(vec![spec("large", cpus(4))], Some(key("b", "f"))),
        scene.admission(vec![spec("web", cpus(3))], Some(key("b", "g"))),
        scene.admission(vec![spec("more", cpus(1))], None),
    ];
    let answers = scene.store.run(Together(calls)).await.unwrap();
    let first = answers[0].as_ref().unwrap();
    let holder = first[0].run.id.to_string();
    assert_eq!(answers[1], Err(OpError::NameTaken { pointer: "/requests/1/name".to_owned(), name: "db".to_owned(), holder }));
    assert_eq!(answers[2].as_ref().unwrap(), first, "a twin has the first one's answer");
    assert_eq!(answers[3], Err(OpError::IdempotencyMismatch));
    assert!(matches!(&answers[4], Err(OpError::QuotaExceeded(short)) if (short[0].used, short[0].requested) == (1, 4)));
    assert!(answers[5].is_ok(), "what a refused call asked for holds neither name nor quota, and binds no key");
    assert!(matches!(&answers[6], Err(OpError::QuotaExceeded(short)) if short[0].used == 4));
    let usage = scene.tenant_now("acme").await.usage;
    assert_eq!(usage.amounts.cpu, 4);
    scene.check().await;
}

pub async fn a_lost_lease_is_fenced_alone(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    for name in ["a", "b", "c"] {
        scene.admit(name, json!({})).await;
    }
    let old: Vec<Lease> = scene.claim("w", 3).await.claimed.into_iter().map(|c| Lease::of("w", c)).collect();
    scene.clock.advance(Span::seconds(30));
    let taken = scene.take("other").await;
    let settle = |lease: &Lease| scene.settling(lease, lease.calls.iter().map(good).collect());
    let answers = scene.store.run(Together(old.iter().map(settle).collect())).await.unwrap();
    for (lease, answer) in old.iter().zip(&answers) {
        let fenced = lease.id == taken.id;
        assert_eq!(answer.as_ref().err(), fenced.then_some(&OpError::Fenced));
    }
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2);
    scene.check().await;
    scene.drive(taken).await;
    scene.check().await;
}

/// A prerequisite that ends in a group tells its dependents, also those that are in the group themselves.
pub async fn ends_are_told_after_a_group(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let (gate, other) = (scene.admit("gate", json!({})).await, scene.admit("other", json!({})).await);
    let waits = scene.admit("waits", json!({"depends_on": ["gate", "other"]})).await;
    let behind = scene.admit("behind", json!({"depends_on": ["waits"]})).await;
    let leases: Vec<Lease> = scene.claim("w", 8).await.claimed.into_iter().map(|c| Lease::of("w", c)).collect();
    assert_eq!(leases.len(), 2);
    let settle = |lease: &Lease| {
        let answer = |call| if lease.id == gate { failed(call, Class::Permanent) } else { good(call) };
        scene.settling(lease, lease.calls.iter().map(answer).collect())
    };
    for answer in scene.store.run(Together(leases.iter().map(settle).collect())).await.unwrap() {
        assert!(answer.is_ok());
    }
    for id in [waits, behind] {
        let run = scene.run_of(id).await;
        assert_eq!(run.outcome, Some(Outcome::DependencyFailed), "{:?}", run.state);
    }
    assert_ne!(scene.run_of(other).await.state, State::Failed);
    scene.check().await;
}

/// Many queues of several tenants in one claim: turns, slots and room as if they were taken one by one.
pub async fn a_large_claim_is_as_many_small_ones(scene: Scene) {
    let mut orders: Vec<Vec<RequestId>> = Vec::new();
    for (scene, limit) in [(scene, 64), (Scene::inline(), 1)] {
        scene.cluster("one", json!({"capacity": {"cpu": 30}})).await;
        scene.cluster("two", json!({"capacity": {"cpu": 9}})).await;
        for (tenant, most, many) in [("a", 20, 30), ("b", 3, 9), ("c", 100, 2), ("d", 100, 12)] {
            scene.clock.advance(Span::millis(10));
            scene.tenant(tenant, json!({"max_concurrent": most})).await;
            // Some are too large for the room that is left, so that they are passed by.
            let item = |n: u32| spec(&format!("n{n}"), super::scene::merged(cpus(1 + 3 * (n % 3)), json!({"tenant": tenant})));
            scene.try_admit((0..many).map(item).collect()).await.unwrap();
        }
        let mut order = Vec::new();
        loop {
            let batch = scene.claim("w", limit).await;
            order.extend(batch.claimed.iter().map(|c| c.run.id));
            if !batch.busy {
                break;
            }
        }
        assert!(order.len() > 12, "{}", order.len());
        scene.check().await;
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
}

/// What ends in the middle of a claim is told at its end; nobody is held up or lost.
pub async fn a_claim_tells_who_waits(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let gate = scene.admit("gate", json!({})).await;
    let waits = scene.admit("waits", json!({"depends_on": ["gate"]})).await;
    scene.until(gate, State::Completed).await;
    assert_eq!(scene.claim("w", 8).await.claimed.iter().map(|c| c.run.id).collect::<Vec<_>>(), [waits]);
    let behind = scene.admit("behind", json!({"depends_on": ["waits"], "queue_timeout_seconds": 60})).await;
    let last = scene.admit("last", json!({"depends_on": ["behind"]})).await;
    scene.clock.advance(Span::seconds(61));
    // The queue time of one is over, and its lease has run out at the same time.
    let batch = scene.claim("w", 8).await;
    assert!(batch.busy);
    assert_eq!(scene.run_of(last).await.outcome, Some(Outcome::DependencyFailed));
    assert!(scene.run_of(behind).await.outcome.is_some());
    scene.ask(waits, Command::Cancel { reason: None }).await.unwrap();
    scene.check().await;
}

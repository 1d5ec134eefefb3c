//! The same random operations on SQLite and on PostgreSQL: the same answers, and the same rows in the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use provisor_core::chance::SplitMix;
use provisor_core::cluster::HealthState;
use provisor_core::run::Command;
use provisor_core::workflow::Answer;
use provisor_core::{Chance, Class, RequestId, Span};
use provisor_store::driver::postgres::Lanes;
use provisor_store::ops::admit::{Admit, DryRun, Idempotency};
use provisor_store::ops::heartbeat::KeepLeases;
use provisor_store::ops::log::{EntriesOf, Feed};
use provisor_store::ops::quota::QuotaProof;
use provisor_store::ops::requests::ListRequests;
use provisor_store::ops::stats::Stats;
use provisor_store::ops::tenants::UpdateTenant;
use provisor_store::value::{Row, Val};
use serde_json::json;

use crate::pipeline::scene::{Lease, Scene, failed, good, name, spec};
use crate::pipeline::tables::Tables;

const STEPS: usize = 250;

/// One scene with the leases that its workers hold.
struct Side {
    scene: Scene,
    leases: Vec<Lease>,
    requests: Vec<RequestId>,
    clusters: Vec<provisor_core::ClusterId>,
}

impl Side {
    async fn new(scene: Scene) -> Self {
        scene.tenant("acme", json!({"max_concurrent": 4, "quota": {"cpu": 12}})).await;
        // Made later, so that its id is later, too.
        scene.clock.advance(Span::seconds(1));
        scene.tenant("bolt", json!({"max_concurrent": 2})).await;
        let mut clusters = Vec::new();
        for name in ["one", "two"] {
            clusters.push(scene.cluster(name, json!({})).await.id);
        }
        Self { scene, leases: Vec::new(), requests: Vec::new(), clusters }
    }

    fn any(&self, chance: &mut SplitMix) -> Option<RequestId> {
        let index = usize::try_from(chance.below(self.requests.len().max(1) as u64)).unwrap();
        self.requests.get(index).copied()
    }

    fn admission(&self, step: usize, chance: &mut SplitMix) -> Admit {
        let tenant = ["acme", "bolt", "nobody"][usize::try_from(chance.below(10)).unwrap().saturating_sub(7).min(2)];
        let mut items = Vec::new();
        for n in 0..=chance.below(3) {
            let mut extra = json!({"tenant": tenant, "size": {"cpu": 1 + chance.below(4), "memory_gb": 1, "storage_gb": 1}});
            if chance.below(4) == 0 {
                extra["depends_on"] = json!([format!("r{}", chance.below(step as u64 + 1))]);
            }
            if n > 0 && chance.below(2) == 0 {
                extra["depends_on"] = json!([format!("r{step}")]);
            }
            if chance.below(10) == 0 {
                extra["image"] = json!("unknown");
            }
            let label = if n == 0 { format!("r{step}") } else { format!("r{step}-{n}") };
            items.push(spec(&label, extra));
        }
        let key = (chance.below(3) == 0).then(|| Idempotency {
            route: "requests".to_owned(),
            key: format!("key-{}", chance.below(10)),
            fingerprint: format!("{}", chance.below(2)),
        });
        self.scene.admission(items, key)
    }

    async fn admit(&mut self, step: usize, chance: &mut SplitMix) -> String {
        match self.scene.store.run(self.admission(step, chance)).await {
            Ok(views) => {
                for id in views.iter().map(|v| v.run.id) {
                    if !self.requests.contains(&id) {
                        self.requests.push(id);
                    }
                }
                format!("{views:?}")
            }
            Err(error) => format!("{error:?}"),
        }
    }

    // Why one at a time: of several that are due at the same microsecond either may come first.
    async fn claim(&mut self) -> String {
        let batch = self.scene.claim("w", 1).await;
        let mut told = format!("{} {:?}", batch.busy, batch.next_due);
        for claimed in batch.claimed {
            write!(told, " {} {} {:?} {:?}", claimed.run.id, claimed.generation, claimed.calls, claimed.wake_at).unwrap();
            self.leases.retain(|l| l.id != claimed.run.id);
            self.leases.push(Lease::of("w", claimed));
        }
        told
    }

    async fn settle(&mut self, chance: &mut SplitMix) -> String {
        if self.leases.is_empty() {
            return String::new();
        }
        let lease = self.leases.remove(usize::try_from(chance.below(self.leases.len() as u64)).unwrap());
        let answer = |call| match chance.below(12) {
            0 => failed(call, Class::Transient),
            1 => failed(call, Class::Permanent),
            _ => good(call),
        };
        let answers: Vec<Answer> = lease.calls.iter().map(answer).collect();
        match self.scene.settle(&lease, answers).await {
            Ok(settled) => {
                let told = format!("{:?} {:?} {} {:?}", settled.run, settled.calls, settled.released, settled.wake_at);
                if !settled.released {
                    self.leases.push(Lease { calls: settled.calls, ..lease });
                }
                told
            }
            Err(error) => format!("{error:?}"),
        }
    }

    async fn ask(&self, chance: &mut SplitMix) -> String {
        let Some(id) = self.any(chance) else { return String::new() };
        let command = match chance.below(5) {
            0 => Command::Cancel { reason: None },
            1 => Command::Suspend { reason: Some("a reason".to_owned()) },
            2 => Command::Reactivate { reason: None },
            3 => Command::Deprovision { reason: None, force: false },
            _ => Command::Deprovision { reason: None, force: true },
        };
        format!("{:?}", self.scene.ask(id, command).await)
    }

    async fn edit(&self, chance: &mut SplitMix) -> String {
        let states = [HealthState::Online, HealthState::Online, HealthState::Offline];
        let cluster = self.clusters[usize::try_from(chance.below(2)).unwrap()];
        self.scene.health(cluster, states[usize::try_from(chance.below(3)).unwrap()]).await;
        let tenant = self.scene.tenant_now("acme").await;
        let mut spec = tenant.spec.clone();
        spec.max_concurrent = u32::try_from(1 + chance.below(5)).unwrap();
        let if_match = (chance.below(2) == 0).then_some(tenant.version - i64::from(chance.below(4) == 0));
        format!("{:?}", self.scene.store.run(UpdateTenant { id: tenant.id, spec, if_match }).await)
    }

    async fn retry(&mut self, step: usize, chance: &mut SplitMix) -> String {
        let Some(id) = self.any(chance) else { return String::new() };
        let mut item = self.scene.run_of(id).await.spec;
        item.name = format!("r{step}");
        let admit = Admit { retry_of: Some(id), ..self.scene.admission(vec![item], None) };
        let answer = self.scene.store.run(admit).await;
        for view in answer.iter().flatten() {
            self.requests.push(view.run.id);
        }
        self.requests.dedup();
        format!("{answer:?}")
    }

    async fn look(&self, step: usize, chance: &mut SplitMix) -> String {
        let store = &self.scene.store;
        let Some(id) = self.any(chance) else { return String::new() };
        let kinds = Vec::new();
        let after = i64::try_from(chance.below(200)).unwrap();
        let feed = Feed { after, limit: 20, published_only: chance.below(2) == 0, kinds, tenant: None };
        let page = store.run(feed).await.unwrap();
        let list = ListRequests { limit: 5, tenant: Some(self.scene.tenant_now("bolt").await.id), ..ListRequests::default() };
        let leases = self.leases.iter().take(1).map(|l| (l.id, l.generation)).collect();
        let context = &self.scene.context;
        let kept = store.run(KeepLeases { worker: "w".to_owned(), leases, context: context.clone() }).await;
        let mut stats = store.run(Stats).await.unwrap();
        stats.requests.sort();
        stats.open_resources.sort();
        format!(
            "{:?} {:?} {:?} {kept:?} {stats:?} {:?} {:?} {:?}",
            page,
            store.run(EntriesOf::all(id)).await,
            store.run(list).await,
            store.run(QuotaProof).await,
            store.run(DryRun(self.admission(step, chance))).await,
            self.leases.iter().map(|l| (l.id, l.calls.iter().map(name).collect::<Vec<_>>())).collect::<Vec<_>>(),
        )
    }

    async fn step(&mut self, step: usize, mut chance: SplitMix) -> String {
        self.scene.clock.advance(Span(i64::try_from(1 + chance.below(3_000_000)).unwrap()));
        match chance.below(20) {
            0..4 => self.admit(step, &mut chance).await,
            4..8 => self.claim().await,
            8..15 => self.settle(&mut chance).await,
            15 => self.ask(&mut chance).await,
            16 => self.edit(&mut chance).await,
            17 => self.retry(step, &mut chance).await,
            _ => self.look(step, &mut chance).await,
        }
    }

    /// The rows of all tables, without what only one of the databases has.
    async fn rows(&self) -> BTreeMap<&'static str, Vec<Row>> {
        let tables: Tables = self.scene.tables().await;
        let cut = |(name, rows): (&'static str, Vec<Row>)| {
            let without_tx = |row: Row| match (name, row.0.len()) {
                // position, tx, id …
                ("event", 10) => {
                    Row(row.0.iter().enumerate().filter(|(n, _)| *n > 1).map(|(_, v)| v.clone()).collect::<Vec<Val>>())
                }
                ("event", _) => Row(row.0.iter().skip(1).cloned().collect()),
                _ => row,
            };
            (name, rows.into_iter().map(without_tx).collect())
        };
        tables.into_iter().map(cut).collect()
    }
}

#[tokio::test]
async fn the_same_operations_have_the_same_effects_on_both_databases() {
    for seed in 1..=2 {
        let Some(postgres) = Scene::postgres_with(Lanes::of(1, 1, 1)) else { return };
        let (mut lite, mut postgres) = (Side::new(Scene::inline()).await, Side::new(postgres).await);
        let mut steps = SplitMix::new(seed);
        let mut told = 0;
        for step in 0..STEPS {
            let chance = steps.next_u64();
            let one = lite.step(step, SplitMix::new(chance)).await;
            let other = postgres.step(step, SplitMix::new(chance)).await;
            told += one.len();
            if one != other {
                let from = one.bytes().zip(other.bytes()).position(|(a, b)| a != b).unwrap_or(0).saturating_sub(200);
                let near = |text: &str| text.chars().skip(from).take(600).collect::<String>();
                panic!("seed {seed}, step {step}\n{}\n\n{}", near(&one), near(&other));
            }
        }
        let (one, other) = (lite.rows().await, postgres.rows().await);
        for (table, rows) in &one {
            for (number, row) in rows.iter().enumerate() {
                assert_eq!(Some(row), other[table].get(number), "seed {seed}: {table}, row {number}");
            }
            assert_eq!(rows.len(), other[table].len(), "seed {seed}: rows of {table}");
        }
        // The fourth column counts the events of a row.
        let events: i64 = one["event"].iter().map(|row| row.int(3).unwrap()).sum();
        assert!(told > 100_000 && events > 100, "too little was done: {told}, {events} events");
        lite.scene.check().await;
        postgres.scene.check().await;
    }
}

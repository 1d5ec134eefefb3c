//! Many at once. SQLite has one writer, so what must be shown is that each operation checks and changes in one
//! transaction, and that group commit keeps neighbours apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use provisor_core::run::Command;
use provisor_core::{RequestId, State};
use provisor_store::OpError;
use provisor_store::ops::admit::Idempotency;
use serde_json::json;
use tokio::task::JoinSet;

use super::scene::{Lease, Scene, cpus, good, merged, spec};

macro_rules! races {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(super::Scene::sqlite()).await;
            })*
        }
        mod inline {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(super::Scene::inline()).await;
            })*
        }
    };
}

races! { h18_the_last_unit h20_one_key h21_one_name claims_share_nothing one_lease_settled_by_many everything_at_once }

/// Runs a task for each number and gathers what they answer.
async fn all<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(task(number));
    }
    tasks.join_all().await
}

async fn h18_the_last_unit(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 10, "requests": {"vps": 5}}})).await;
    scene.cluster("one", json!({})).await;
    for n in 0..4 {
        scene.admit(&format!("first-{n}"), json!({})).await;
    }
    let scene = Arc::new(scene);
    let answers = all(64, |n| {
        let scene = Arc::clone(&scene);
        async move { scene.try_admit(vec![spec(&format!("race-{n}"), json!({}))]).await }
    })
    .await;
    let mut won = 0;
    for answer in answers {
        match answer {
            Ok(_) => won += 1,
            Err(OpError::QuotaExceeded(short)) => assert_eq!((short[0].name.as_str(), short[0].used), ("requests.vps", 5)),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    scene.check().await;
}

async fn h20_one_key(scene: Scene) {
    let scene = Arc::new(scene.with_one_of_each().await);
    let answers = all(64, |_| {
        let scene = Arc::clone(&scene);
        let key = Idempotency { route: "r".to_owned(), key: "k".to_owned(), fingerprint: "f".to_owned() };
        async move { scene.store.run(scene.admission(vec![spec("db", json!({}))], Some(key))).await.unwrap()[0].run.id }
    })
    .await;
    assert!(answers.iter().all(|id| *id == answers[0]), "a twin gets the winner's answer");
    assert_eq!(scene.tenant_now("acme").await.usage.amounts.cpu, 1);
    scene.check().await;
}

async fn h21_one_name(scene: Scene) {
    let scene = Arc::new(scene.with_one_of_each().await);
    let answers = all(64, |_| {
        let scene = Arc::clone(&scene);
        async move { scene.try_admit(vec![spec("db", json!({}))]).await }
    })
    .await;
    let winner = answers.iter().find_map(|a| a.as_ref().ok()).unwrap()[0].run.id.to_string();
    let refused = answers.iter().filter(|a| matches!(a, Err(OpError::NameTaken { holder, .. }) if *holder == winner));
    assert_eq!(refused.count(), 63);
    scene.check().await;
}

/// Workers that claim at once never hold one request together, whatever they ask for; nobody's limit and no
/// cluster's room is overrun.
async fn claims_share_nothing(scene: Scene) {
    scene.cluster("one", json!({"capacity": {"cpu": 20}})).await;
    scene.cluster("two", json!({"capacity": {"cpu": 11}})).await;
    for tenant in ["a", "b", "c", "d"] {
        scene.tenant(tenant, json!({"max_concurrent": 7})).await;
        let specs = (0..25).map(|n| spec(&format!("n{n}"), merged(cpus(1 + n % 3), json!({"tenant": tenant})))).collect();
        scene.try_admit(specs).await.unwrap();
    }
    let scene = Arc::new(scene);
    let claims = all(16, |worker| {
        let scene = Arc::clone(&scene);
        async move {
            let mut held: Vec<RequestId> = Vec::new();
            loop {
                let batch = scene.claim(&format!("w{worker}"), 1 + worker % 4).await;
                held.extend(batch.claimed.iter().map(|c| c.run.id));
                if !batch.busy {
                    return held;
                }
            }
        }
    })
    .await;
    let mut holders: BTreeMap<RequestId, usize> = BTreeMap::new();
    for (worker, held) in claims.iter().enumerate() {
        for id in held {
            assert_eq!(holders.insert(*id, worker), None, "{id} is held twice");
            assert_eq!(scene.run_of(*id).await.state, State::Allocating);
        }
    }
    scene.check().await;
    let (one, two) = (scene.cluster_now("one").await, scene.cluster_now("two").await);
    assert!(one.reserved.cpu >= 18 && two.reserved.cpu >= 9, "as full as it goes: {} {}", one.reserved.cpu, two.reserved.cpu);
    for tenant in ["a", "b", "c", "d"] {
        assert!(scene.tenant_now(tenant).await.in_work <= 7);
    }
}

async fn one_lease_settled_by_many(scene: Scene) {
    let scene = Arc::new(scene.with_one_of_each().await);
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    let answers = all(32, |_| {
        let (scene, lease) = (Arc::clone(&scene), lease.clone());
        async move { scene.settle(&lease, vec![good(&lease.calls[0])]).await.map(|s| s.calls.len()) }
    })
    .await;
    assert_eq!(answers.iter().filter(|a| **a == Ok(1)).count(), 1, "the next call is handed out once");
    let run = scene.run_of(id).await;
    assert_eq!(run.ledger.len(), 2);
    scene.check().await;
    scene.until(id, State::Completed).await;
    scene.check().await;
}

/// Workers, people and fenced former holders at once; then everything is released, and nothing is left.
async fn everything_at_once(scene: Scene) {
    scene.tenant("acme", json!({"max_concurrent": 12})).await;
    scene.cluster("one", json!({"capacity": {"cpu": 8}})).await;
    scene.cluster("two", json!({"capacity": {"cpu": 8}})).await;
    let on = |n: usize| if n % 5 == 4 { json!({"depends_on": [format!("n{}", n - 1)]}) } else { json!({}) };
    let views = scene.try_admit((0..60).map(|n| spec(&format!("n{n}"), on(n))).collect()).await.unwrap();
    let ids: Arc<Vec<RequestId>> = Arc::new(views.iter().map(|v| v.run.id).collect());
    let scene = Arc::new(scene);
    all(12, |task| {
        let (scene, ids) = (Arc::clone(&scene), Arc::clone(&ids));
        async move {
            for round in 0..20 {
                let id = ids[(task * 7 + round * 3) % ids.len()];
                match task % 3 {
                    0 => work(&scene, task).await,
                    1 => drop(scene.ask(id, Command::Cancel { reason: None }).await),
                    _ => drop(scene.ask(id, Command::Deprovision { reason: None, force: round % 2 == 0 }).await),
                }
            }
        }
    })
    .await;
    scene.check().await;
    for id in ids.iter() {
        // One of the two is what its state allows, unless it is over.
        drop(scene.ask(*id, Command::Cancel { reason: None }).await);
        drop(scene.ask(*id, Command::Deprovision { reason: None, force: true }).await);
    }
    for id in ids.iter() {
        scene.until(*id, State::RolledBack).await;
    }
    scene.check().await;
    let tenant = scene.tenant_now("acme").await;
    let (one, two) = (scene.cluster_now("one").await, scene.cluster_now("two").await);
    assert_eq!((tenant.usage.amounts.cpu, tenant.in_work), (0, 0));
    assert_eq!((one.reserved_slots + one.used_slots, two.reserved_slots + two.used_slots), (0, 0));
}

/// Claims a few and takes each to its end; one in four is left to its lease.
async fn work(scene: &Scene, worker: usize) {
    let worker = format!("w{worker}");
    for (number, claimed) in scene.claim(&worker, 4).await.claimed.into_iter().enumerate() {
        if number == 3 {
            continue;
        }
        let mut lease = Lease::of(&worker, claimed);
        loop {
            let answers = lease.calls.iter().map(good).collect();
            match scene.settle(&lease, answers).await {
                Ok(settled) if settled.released => break,
                Ok(settled) => lease.calls = settled.calls,
                Err(error) => {
                    assert_eq!(error, OpError::Fenced);
                    break;
                }
            }
        }
    }
}

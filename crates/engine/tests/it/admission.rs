//! Admission: all or nothing, quota under a race, idempotency, dependencies, dry run, retry.

use std::sync::Arc;

use provisor_core::run::Command;
use provisor_core::{Class, State};
use provisor_store::OpError;
use provisor_store::ops::admit::Idempotency;
use provisor_store::ops::log::Head;
use provisor_store::ops::quota::{QuotaOf, QuotaProof};
use provisor_store::ops::requests::RequestView;
use serde_json::json;

use crate::toy::Next;
use crate::world::{Test, actor};

fn key(fingerprint: &str) -> Idempotency {
    Idempotency { route: "POST /api/requests".into(), key: "k1".into(), fingerprint: fingerprint.into() }
}

async fn admit(t: &Test, name: &str, extra: serde_json::Value) -> Result<Vec<RequestView>, OpError> {
    t.engine.admit(vec![Test::spec(name, extra)], vec![String::new()], actor(), None).await
}

#[tokio::test(start_paused = true)]
async fn h20_the_same_key_and_body_answer_the_same_request() {
    let t = Test::start(&["one"], json!({})).await;
    let once = |f| t.engine.admit(vec![Test::spec("db", json!({}))], vec![String::new()], actor(), Some(key(f)));
    let first = once("a").await.unwrap();
    let again = once("a").await.unwrap();
    assert_eq!(first[0].run.id, again[0].run.id);
    assert!(matches!(once("b").await, Err(OpError::IdempotencyMismatch)));
}

#[tokio::test(start_paused = true)]
async fn h21_a_name_is_free_again_after_the_rollback() {
    let t = Test::start(&["one"], json!({})).await;
    let first = admit(&t, "db", json!({})).await.unwrap();
    match admit(&t, "db", json!({})).await {
        Err(OpError::NameTaken { holder, pointer, .. }) => {
            assert_eq!((holder, pointer.as_str()), (first[0].run.id.to_string(), "/name"));
        }
        other => panic!("{other:?}"),
    }
    t.until(first[0].run.id, &[State::Completed]).await;
    t.engine.command(first[0].run.id, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
    t.until(first[0].run.id, &[State::RolledBack]).await;
    admit(&t, "db", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn h18_64_callers_race_for_the_last_unit_and_one_gets_it() {
    let t = Test::start(&["one"], json!({"quota": {"cpu": 10, "requests": {"vps": 4}}})).await;
    for i in 0..3 {
        admit(&t, &format!("first-{i}"), json!({})).await.unwrap();
    }
    let engine = Arc::clone(&t.engine);
    let tries = (0..64).map(|i| {
        let (engine, spec) = (Arc::clone(&engine), Test::spec(&format!("race-{i}"), json!({})));
        tokio::spawn(async move { engine.admit(vec![spec], vec![String::new()], actor(), None).await })
    });
    let mut won = 0;
    for one in tries.collect::<Vec<_>>() {
        match one.await.unwrap() {
            Ok(_) => won += 1,
            Err(OpError::QuotaExceeded(short)) => {
                assert_eq!(short.len(), 1);
                assert_eq!(
                    (short[0].name.as_str(), short[0].limit, short[0].used, short[0].requested),
                    ("requests.vps", Some(4), 4, 1)
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_all_or_nothing() {
    let t = Test::start(&["one"], json!({"quota": {"cpu": 2}})).await;
    let specs: Vec<_> = (0..3).map(|i| Test::spec(&format!("vps-{i}"), json!({}))).collect();
    let pointers = (0..3).map(|i| format!("/requests/{i}")).collect();
    let refused = t.engine.admit(specs, pointers, actor(), None).await;
    assert!(matches!(refused, Err(OpError::QuotaExceeded(_))));
    let used = t.engine.store().run(QuotaOf { tenant: "acme".into() }).await.unwrap();
    assert!(used.iter().all(|d| d.used == 0));
}

#[tokio::test(start_paused = true)]
async fn h24_cycles_unknown_and_ended_prerequisites_are_refused_by_name() {
    let t = Test::start(&["one"], json!({})).await;
    let pair = |a: &str, b: &str| Test::spec(a, json!({"depends_on": [b]}));
    let pointers = vec!["/requests/0".to_owned(), "/requests/1".to_owned()];
    match t.engine.admit(vec![pair("a", "b"), pair("b", "a")], pointers, actor(), None).await {
        Err(OpError::DependencyCycle(path)) => assert_eq!(path, ["a", "b", "a"]),
        other => panic!("{other:?}"),
    }
    match admit(&t, "a", json!({"depends_on": ["nobody"]})).await {
        Err(OpError::DependencyUnknown { pointer, name }) => {
            assert_eq!((pointer.as_str(), name.as_str()), ("/depends_on/0", "nobody"));
        }
        other => panic!("{other:?}"),
    }
    t.world.script("one", "create_volume", &[Next::Fail(Class::Permanent)]);
    let gone = admit(&t, "gone", json!({})).await.unwrap()[0].run.id;
    t.until(gone, &[State::RolledBack]).await;
    match admit(&t, "a", json!({"depends_on": [gone.to_string()]})).await {
        Err(OpError::DependencyEnded { state, .. }) => assert_eq!(state, "rolled_back"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_cluster_can_ever_fit_is_refused_with_each_reason() {
    let t = Test::start(&["one"], json!({})).await;
    for (change, word) in [
        (json!({"region": "mars"}), "region"),
        (json!({"size": {"cpu": 9, "memory_gb": 1, "storage_gb": 1}}), "too small"),
        (json!({"cluster": "two"}), "pinned"),
    ] {
        match admit(&t, "db", change).await {
            Err(OpError::NoCluster { rejected, .. }) => assert!(rejected[0].1.contains(word), "{rejected:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_everything_and_stores_nothing() {
    let t = Test::start(&["one"], json!({"quota": {"cpu": 1}})).await;
    let head = t.engine.store().run(Head).await.unwrap();
    let specs = vec![Test::spec("web", json!({"depends_on": ["db"]})), Test::spec("db", json!({}))];
    let dry = t.engine.dry_run(specs, vec!["/requests/0".into(), "/requests/1".into()], actor()).await.unwrap();
    assert_eq!(dry.order, ["db", "web"]);
    assert_eq!(dry.items[0].cluster.as_deref(), Some("one"));
    assert_eq!(dry.items[0].plan.as_ref().unwrap().operations.len(), 5);
    let cpu = dry.items[0].quota.iter().find(|d| d.name == "cpu").unwrap();
    assert!(!cpu.fits() && cpu.requested == 2);
    assert_eq!(t.engine.store().run(Head).await.unwrap(), head);
}

#[tokio::test(start_paused = true)]
async fn h20_a_retry_is_a_new_request_linked_both_ways_and_made_once() {
    let t = Test::start(&["one"], json!({})).await;
    t.world.script("one", "create_volume", &[Next::Fail(Class::Permanent)]);
    let old = admit(&t, "db", json!({"order_id": "o-1"})).await.unwrap()[0].run.id;
    assert!(matches!(t.engine.retry(old, None, actor()).await, Err(OpError::StateConflict { .. })));
    t.until(old, &[State::RolledBack]).await;
    let new = t.engine.retry(old, None, actor()).await.unwrap().run;
    assert_eq!((new.retry_of, new.spec.order_id.clone()), (Some(old), None));
    assert_eq!(t.run_of(old).await.retried_as, Some(new.id));
    assert_eq!(t.engine.retry(old, None, actor()).await.unwrap().run.id, new.id);
    t.until(new.id, &[State::Completed]).await;
}

#[tokio::test(start_paused = true)]
async fn fairness_ten_thousand_of_one_tenant_do_not_delay_another() {
    let t = Test::start(&["one"], json!({"max_concurrent": 2})).await;
    let mut chance = provisor_core::chance::SplitMix::new(77);
    let id = provisor_core::TenantId::new(t.engine.store().now(), &mut chance);
    let spec = provisor_core::tenant::TenantSpec::check("", &json!({"name": "small"})).unwrap();
    t.engine.store().run(provisor_store::ops::tenants::CreateTenant { id, spec }).await.unwrap();
    let many: Vec<_> = (0..300).map(|i| Test::spec(&format!("many-{i}"), json!({}))).collect();
    let pointers = (0..300).map(|i| format!("/requests/{i}")).collect();
    t.engine.admit(many, pointers, actor(), None).await.unwrap();
    let began = t.engine.store().now();
    let other = admit(&t, "other", json!({"tenant": "small"})).await.unwrap()[0].run.id;
    t.until(other, &[State::Completed]).await;
    assert!(t.engine.store().now().since(began).as_seconds_f64() < 5.0);
}

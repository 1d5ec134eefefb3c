//! Admission: all of a batch or nothing, refusals that name everything, and the same call answered the same.

use provisor_core::run::Command;
use provisor_core::{Kind, Spec, State, Timestamp};
use provisor_store::OpError;
use provisor_store::ops::admit::{Admit, DryRun, Idempotency};
use provisor_store::ops::tenants::DeleteTenant;
use provisor_store::tx::{Stmt, both};
use serde_json::{Value, json};

use super::scene::{Scene, cpus, managed, merged, spec};
use super::tables::{Sql, assert_same, row_of};
use crate::build::START;

static DRAIN: Stmt = both("update tenant set draining = 1 where name = 'leaving'");
static LOWER: Stmt = both("update tenant set spec = replace(spec, '\"cpu\":4', '\"cpu\":2')");

fn key(fingerprint: &str) -> Idempotency {
    Idempotency { route: "POST /api/requests".to_owned(), key: "k".to_owned(), fingerprint: fingerprint.to_owned() }
}

fn cancel() -> Command {
    Command::Cancel { reason: None }
}

pub async fn stores_a_batch(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let web = spec("web", json!({"depends_on": ["db"], "labels": {"env": "prod"}}));
    let views = scene.try_admit(vec![web, spec("db", cpus(2)), managed("licence")]).await.unwrap();
    let names: Vec<_> = views.iter().map(|v| v.run.spec.name.as_str()).collect();
    assert_eq!(names, ["web", "db", "licence"], "in input order");
    assert_eq!(views[0].run.depends_on, [views[1].run.id]);
    for (view, due) in views.iter().zip([Timestamp::NEVER, START, START]) {
        assert_eq!((view.run.state, view.version, view.events, view.published), (State::Queued, 1, 1, 1));
        assert_eq!(row_of(&scene.store, view.run.id).await.due_at, due.0);
        assert_eq!(scene.view(view.run.id).await, *view, "the answer is what is stored");
    }
    let usage = scene.tenant_now("acme").await.usage;
    assert_eq!((usage.amounts.cpu, usage.requests[&Kind::Vps], usage.requests[&Kind::Managed]), (3, 2, 1));
    let tables = scene.tables().await;
    let count = |name| tables.iter().find(|(n, _)| *n == name).unwrap().1.len();
    assert_eq!((count("request"), count("event"), count("dependency"), count("label")), (3, 3, 1, 1));
    scene.check().await;
}

/// Each refusal by a word of its error; `None` of the batch is stored.
pub async fn refuses_all_or_nothing(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 4, "requests": {"vps": 4}}})).await;
    scene.tenant("leaving", json!({})).await;
    scene.cluster("one", json!({"capacity": {"cpu": 8, "memory_gb": 64}})).await;
    scene.store.run(Sql(&DRAIN, vec![])).await.unwrap();
    scene.admit("taken", json!({})).await;
    let ended = scene.admit("ended", json!({})).await;
    scene.ask(ended, cancel()).await.unwrap();
    let on = |names: Value| json!({"depends_on": names});
    let cases: Vec<(Vec<Spec>, &str)> = vec![
        (vec![spec("x", json!({"tenant": "nobody"}))], "/requests/1/tenant"),
        (vec![spec("x", json!({"tenant": "leaving"}))], "draining"),
        (vec![spec("taken", json!({}))], "NameTaken"),
        (vec![spec("x", json!({})), spec("x", json!({}))], "/requests/2/name"),
        (vec![spec("x", cpus(3))], "QuotaExceeded"),
        (vec![spec("x", cpus(1)), spec("y", cpus(2))], "QuotaExceeded"),
        // What is over the quota and too large for every cluster is refused for the quota first (SPEC 4.3).
        (vec![spec("x", cpus(9))], "QuotaExceeded"),
        (vec![spec("x", json!({"size": {"cpu": 1, "memory_gb": 65, "storage_gb": 1}}))], "too small"),
        (vec![spec("x", json!({"region": "mars"}))], "is in region"),
        (vec![spec("x", json!({"image": "unknown"}))], "there is no image"),
        (vec![spec("x", on(json!(["nothing"])))], "DependencyUnknown"),
        (vec![spec("x", on(json!([scene.id::<provisor_core::id::Request>().to_string()])))], "DependencyUnknown"),
        (vec![spec("x", on(json!([ended.to_string()])))], "DependencyEnded"),
        (vec![spec("x", on(json!(["x"])))], "DependencyCycle"),
        (vec![spec("x", on(json!(["y"]))), spec("y", on(json!(["x"])))], "DependencyCycle"),
    ];
    for (specs, word) in cases {
        // One that could be admitted alone stands before those that cannot.
        let mut batch = vec![spec("good", json!({}))];
        batch.extend(specs);
        let error = format!("{:?}", scene.refused(scene.try_admit(batch)).await);
        assert!(error.contains(word), "{word}: {error}");
    }
    let error = scene.refused(scene.try_admit(vec![spec("x", cpus(3)), spec("y", cpus(2))])).await;
    let OpError::QuotaExceeded(short) = error else { panic!("{error:?}") };
    assert_eq!((short.len(), short[0].name.as_str()), (1, "cpu"));
    assert_eq!((short[0].limit, short[0].used, short[0].requested), (Some(4), 1, 5));
    scene.check().await;
}

pub async fn another_tenants_request_is_no_prerequisite(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.tenant("other", json!({})).await;
    let foreign = scene.admit("db", json!({"tenant": "other"})).await;
    let error = scene.refused(scene.try_admit(vec![spec("web", json!({"depends_on": [foreign.to_string()]}))])).await;
    let pointer = "/requests/0/depends_on/0".to_owned();
    assert_eq!(error, OpError::DependencyUnknown { pointer, name: foreign.to_string() }, "it is not even said that it exists");
}

pub async fn h18_a_lowered_limit_takes_nothing_and_refuses_more(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 4}})).await;
    scene.cluster("one", json!({})).await;
    let id = scene.admit("db", cpus(4)).await;
    scene.store.run(Sql(&LOWER, vec![])).await.unwrap();
    let error = scene.refused(scene.try_admit(vec![spec("more", cpus(1))])).await;
    assert!(matches!(error, OpError::QuotaExceeded(_)), "{error:?}");
    // What asks nothing of the dimension that is over its limit is admitted.
    scene.try_admit(vec![managed("licence")]).await.unwrap();
    scene.ask(id, cancel()).await.unwrap();
    scene.admit("more", cpus(2)).await;
    scene.check().await;
}

pub async fn h20_a_key_is_answered_the_same(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.tenant("other", json!({})).await;
    let admit = |key, specs: Vec<Spec>| scene.store.run(scene.admission(specs, key));
    let batch = || vec![spec("db", json!({})), spec("web", json!({}))];
    // Refusals and dry runs bind nothing.
    let refused = scene.refused(admit(Some(key("a")), vec![spec("db", cpus(9))])).await;
    assert!(matches!(refused, OpError::NoCluster { .. }));
    scene.store.run(DryRun(scene.admission(batch(), Some(key("b"))))).await.unwrap();
    let first = admit(Some(key("c")), batch()).await.unwrap();
    let before = scene.tables().await;
    assert_eq!(admit(Some(key("c")), batch()).await.unwrap(), first);
    assert_same(&before, &scene.tables().await);
    assert_eq!(scene.refused(admit(Some(key("d")), batch())).await, OpError::IdempotencyMismatch);
    // The answer is the request as it is by now, also when it is over and its name taken again.
    scene.ask(first[0].run.id, cancel()).await.unwrap();
    scene.admit("db", json!({})).await;
    let again = admit(Some(key("c")), batch()).await.unwrap();
    assert_eq!((again[0].run.id, again[0].run.state), (first[0].run.id, State::RolledBack));
    // A key is its tenant's, its route's; without one each call is its own.
    admit(Some(key("e")), vec![spec("db", json!({"tenant": "other"}))]).await.unwrap();
    let batch_route = Idempotency { route: "POST /api/requests/batch".to_owned(), ..key("f") };
    admit(Some(batch_route), vec![spec("third", json!({}))]).await.unwrap();
    assert!(matches!(scene.refused(admit(None, batch())).await, OpError::NameTaken { .. }));
    // A batch over several tenants has its key of the platform.
    let both_tenants = || vec![spec("p", json!({})), spec("q", json!({"tenant": "other"}))];
    let first = admit(Some(key("g")), both_tenants()).await.unwrap();
    assert_eq!(admit(Some(key("g")), both_tenants()).await.unwrap(), first);
    scene.check().await;
}

pub async fn h26_a_key_ends_with_its_tenant(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let admit = || scene.store.run(scene.admission(vec![spec("db", json!({}))], Some(key("a"))));
    let first = admit().await.unwrap()[0].run.clone();
    scene.ask(first.id, cancel()).await.unwrap();
    scene.store.run(DeleteTenant { id: first.tenant, if_match: None }).await.unwrap();
    let refused = scene.refused(admit()).await;
    assert!(matches!(refused, OpError::Invalid(_)), "{refused:?}");
    let next = scene.tenant("acme", json!({})).await;
    let second = admit().await.unwrap()[0].run.clone();
    assert_ne!(second.id, first.id, "another tenant of the same name sees nothing of the former one");
    assert_eq!(second.tenant, next.id);
    scene.check().await;
}

pub async fn a_dry_run_is_the_real_one_and_stores_nothing(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 4}})).await;
    scene.cluster("one", json!({})).await;
    let before = scene.tables().await;
    let dry = |specs: Vec<Spec>| scene.store.run(DryRun(scene.admission(specs, None)));
    let seen = dry(vec![spec("web", json!({"depends_on": ["db"]})), spec("db", cpus(4))]).await.unwrap();
    assert_eq!(seen.order, ["db", "web"]);
    assert_eq!(seen.items[0].cluster.as_deref(), Some("one"));
    assert_eq!(seen.items[1].plan.as_ref().unwrap().operations.len(), 5);
    let cpu = &seen.items[0].quota[0];
    assert_eq!((cpu.name.as_str(), cpu.used, cpu.requested, cpu.fits()), ("cpu", 0, 5, false), "told, not refused");
    assert!(matches!(dry(vec![spec("x", cpus(9))]).await, Err(OpError::NoCluster { .. })));
    assert!(matches!(dry(vec![spec("x", json!({"depends_on": ["y"]}))]).await, Err(OpError::DependencyUnknown { .. })));
    assert_same(&before, &scene.tables().await);
    let id = scene.admit("db", cpus(4)).await;
    scene.until(id, State::Completed).await;
    let full = dry(vec![spec("x", cpus(8))]).await.unwrap();
    assert_eq!((full.items[0].cluster.as_deref(), full.items[0].choice.may_wait), (None, true));
}

pub async fn a_retry_is_one_and_linked_both_ways(scene: Scene) {
    scene.tenant("acme", json!({"quota": {"cpu": 1}})).await;
    scene.cluster("one", json!({})).await;
    let old = scene.admit("db", json!({})).await;
    scene.ask(old, cancel()).await.unwrap();
    let retry = |of| Admit { retry_of: Some(of), ..scene.admission(vec![spec("db", json!({}))], None) };
    assert_eq!(scene.refused(scene.store.run(retry(scene.id()))).await, OpError::NotFound("request"));
    let blocker = scene.admit("blocker", json!({})).await;
    let refused = scene.refused(scene.store.run(retry(old))).await;
    assert!(matches!(refused, OpError::QuotaExceeded(_)), "{refused:?}");
    scene.ask(blocker, cancel()).await.unwrap();
    let new = scene.store.run(retry(old)).await.unwrap()[0].run.clone();
    assert_eq!((new.retry_of, scene.run_of(old).await.retried_as), (Some(old), Some(new.id)));
    assert_eq!(row_of(&scene.store, old).await.due_at, Timestamp::NEVER.0);
    let before = scene.tables().await;
    assert_eq!(scene.store.run(retry(old)).await.unwrap()[0].run.id, new.id, "a retry of a retried one answers that one (H20)");
    assert_same(&before, &scene.tables().await);
    scene.check().await;
}

pub async fn h22_regions_are_fixed(scene: Scene) {
    scene.tenant("acme", json!({})).await;
    scene.cluster("one", json!({"capacity": {"cpu": 1}})).await;
    scene.cluster("far", json!({"region": "us"})).await;
    scene.completed("stands", json!({})).await;
    let stays = scene.admit("stays", json!({})).await;
    let goes = scene.admit("goes", merged(cpus(1), json!({"region_fallback": true}))).await;
    scene.until(goes, State::Completed).await;
    let run = scene.run_of(goes).await;
    assert_eq!((run.regions.as_slice(), run.attempts[0].region.as_str()), (["eu".to_owned(), "us".to_owned()].as_slice(), "us"));
    let run = scene.run_of(stays).await;
    assert_eq!((run.state, run.regions), (State::Queued, vec!["eu".to_owned()]));
    scene.check().await;
}

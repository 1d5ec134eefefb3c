//! Tenants and their quota.

use provisor_core::State;
use provisor_core::quota::Amounts;
use provisor_store::OpError;
use provisor_store::ops::quota::{Difference, QuotaOf, QuotaProof};
use provisor_store::ops::requests::GetRequest;
use provisor_store::ops::tenants::{CreateTenant, DeleteTenant, GetTenant, ListTenants, UpdateTenant};
use provisor_store::ops::tokens::{CreateToken, FindToken};

use crate::build::{World, run, tenant_spec, with_attempt};

pub async fn are_kept(world: World) {
    let acme = world.tenant("acme").await;
    assert_eq!((acme.version, acme.in_work, acme.usage.amounts), (1, 0, Amounts::default()));
    let get = |key: String| world.store.run(GetTenant { key });
    assert_eq!(get("acme".to_owned()).await, Ok(Some(acme.clone())));
    assert_eq!(get(acme.id.to_string()).await, Ok(Some(acme.clone())));
    assert_eq!(get("none".to_owned()).await, Ok(None));
    let twin = CreateTenant { id: world.id(), spec: tenant_spec("acme") };
    let taken = OpError::NameTaken { pointer: "/name".to_owned(), name: "acme".to_owned(), holder: acme.id.to_string() };
    assert_eq!(world.store.run(twin).await, Err(taken));

    let mut change = UpdateTenant { id: acme.id, spec: acme.spec.clone(), if_match: Some(1) };
    change.spec.quota.cpu = Some(1);
    change.spec.max_concurrent = 9;
    let changed = world.store.run(change.clone()).await.unwrap();
    assert_eq!((changed.version, changed.spec.quota.cpu), (2, Some(1)));
    assert_eq!(world.store.run(change.clone()).await, Err(OpError::PreconditionFailed { current: "2".to_owned() }));
    change.if_match = None;
    "other".clone_into(&mut change.spec.name);
    assert!(matches!(world.store.run(change).await, Err(OpError::Invalid(flaws)) if flaws[0].pointer == "/name"));

    let beta = world.tenant("beta").await;
    let list = |after: Option<&str>, limit, scope| world.store.run(ListTenants { after: after.map(str::to_owned), limit, scope });
    assert_eq!(list(None, 1, None).await.unwrap()[0].id, acme.id);
    assert_eq!(list(Some("acme"), 10, None).await.unwrap(), std::slice::from_ref(&beta));
    assert_eq!(list(None, 10, Some(beta.id)).await.unwrap(), [beta]);
}

pub async fn h26_are_deleted_only_when_unused(world: World) {
    let acme = world.tenant("acme").await;
    let token = CreateToken {
        id: world.id(),
        hash: "h".to_owned(),
        name: "t".to_owned(),
        role: "member".to_owned(),
        tenant: Some(acme.id),
        expires_at: None,
    };
    world.store.run(token).await.unwrap();
    let gone = world.request(&acme, "gone", State::RolledBack).await;
    let delete = |id, if_match| world.store.run(DeleteTenant { id, if_match });
    assert_eq!(delete(acme.id, Some(7)).await, Err(OpError::PreconditionFailed { current: "1".to_owned() }));
    let other = world.tenant("other").await;
    world.request(&other, "live", State::Completed).await;
    assert_eq!(delete(other.id, None).await, Err(OpError::InUse { counts: vec![("requests".to_owned(), 1)] }));
    delete(acme.id, Some(1)).await.unwrap();
    assert_eq!(delete(acme.id, None).await, Err(OpError::NotFound("tenant")));
    assert_eq!(world.store.run(FindToken { hash: "h".to_owned() }).await, Ok(None), "its tokens end at once");
    let view = world.store.run(GetRequest { id: gone.id, scope: None }).await.unwrap().unwrap();
    assert_eq!(view.tenant_name, "acme", "what it once asked for stays");
    let again = world.tenant("acme").await;
    let seen = world.store.run(GetRequest { id: gone.id, scope: Some(again.id) }).await.unwrap();
    assert_eq!(seen, None, "the next one of that name does not see it");
}

pub async fn quota_is_proved(world: World) {
    let acme = world.tenant("acme").await;
    let cluster = world.cluster("one").await;
    world.request(&acme, "a", State::Queued).await;
    world.request(&acme, "b", State::Verifying).await;
    world.request(&acme, "c", State::RolledBack).await;
    assert_eq!(world.store.run(QuotaProof).await, Ok(vec![]), "counters and sums agree");
    let dimensions = world.store.run(QuotaOf { tenant: "acme".to_owned() }).await.unwrap();
    let seen: Vec<_> = dimensions.iter().map(|d| (d.name.as_str(), d.limit, d.used)).collect();
    let expected = [
        ("cpu", Some(100), 4),
        ("memory_gb", None, 8),
        ("storage_gb", None, 80),
        ("requests.vps", Some(10), 2),
        ("requests.kubernetes_namespace", None, 0),
        ("requests.environment", None, 0),
        ("requests.managed", None, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(world.store.run(QuotaOf { tenant: "none".to_owned() }).await, Err(OpError::NotFound("tenant")));

    // Attempts that hold the cluster, of which its counters know nothing.
    let held = run(world.id(), acme.id, "acme", "d", State::Completed);
    world.insert(with_attempt(held, world.id(), cluster.id, "won")).await;
    let held = run(world.id(), acme.id, "acme", "e", State::Allocating);
    world.insert(with_attempt(held, world.id(), cluster.id, "running")).await;
    let found = world.store.run(QuotaProof).await.unwrap();
    let difference =
        |dimension: &str, held| Difference { subject: cluster.id.to_string(), dimension: dimension.to_owned(), counted: 0, held };
    let mut expected: Vec<_> = ["reserved", "used"]
        .into_iter()
        .flat_map(|how| {
            [("cpu", 2), ("memory_gb", 4), ("storage_gb", 40), ("slots", 1)].map(|(n, v)| difference(&format!("{how}.{n}"), v))
        })
        .collect();
    expected.sort();
    assert_eq!(found, expected);
}

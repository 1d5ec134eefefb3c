//! Clusters.

use provisor_core::breaker::{Calls, State as Breaker};
use provisor_core::cluster::{Health, HealthState};
use provisor_core::run::RowState;
use provisor_core::{ClusterId, Span, State};
use provisor_store::OpError;
use provisor_store::ops::clusters::{
    ClusterView, CreateCluster, Credentials, DeleteCluster, GetCluster, ListClusters, SetHealth, SetIdentity, UpdateCluster,
};
use provisor_store::ops::gate::{AllGates, AtGate, Happened};

use crate::build::{World, cluster_spec};

async fn get(world: &World, key: &str) -> Option<ClusterView> {
    world.store.run(GetCluster { key: key.to_owned() }).await.unwrap()
}

fn edit(view: &ClusterView) -> UpdateCluster {
    UpdateCluster { id: view.id, spec: view.spec.clone(), credentials: Credentials::Keep, if_match: None, identity: None }
}

fn in_use(counts: &[(&str, i64)]) -> OpError {
    OpError::InUse { counts: counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect() }
}

pub async fn are_kept(world: World) {
    let (id, spec): (ClusterId, _) = (world.id(), cluster_spec("zeta"));
    let create = CreateCluster { id, spec: spec.clone(), credentials: Some("sealed".to_owned()) };
    let first = world.store.run(create).await.unwrap();
    assert_eq!((first.id, first.ordinal, first.version, &first.spec), (id, 1, 1, &spec));
    assert_eq!(first.health.state, HealthState::Online);
    let second = world.cluster("alpha").await;
    let listed = world.store.run(ListClusters).await.unwrap();
    assert_eq!(listed, [first.clone(), second.clone()], "in order of registration");
    assert_eq!(get(&world, "zeta").await.as_ref(), Some(&first));
    assert_eq!(get(&world, &id.to_string()).await.as_ref(), Some(&first));
    assert_eq!(get(&world, "none").await, None);
    let twin = CreateCluster { id: world.id(), spec: cluster_spec("zeta"), credentials: None };
    let taken = OpError::NameTaken { pointer: "/name".to_owned(), name: "zeta".to_owned(), holder: id.to_string() };
    assert_eq!(world.store.run(twin).await, Err(taken));

    let mut change = edit(&first);
    change.spec.provisioning_enabled = false;
    change.if_match = Some(1);
    let changed = world.store.run(change.clone()).await.unwrap();
    assert_eq!((changed.version, changed.spec.provisioning_enabled), (2, false));
    assert_eq!(changed.credentials.as_deref(), Some("sealed"), "kept");
    assert_eq!(world.store.run(change.clone()).await, Err(OpError::PreconditionFailed { current: "2".to_owned() }));
    change.if_match = None;
    assert_eq!(world.store.run(change.clone()).await.unwrap().version, 2, "nothing new");
    change.credentials = Credentials::Replace(Some("other".to_owned()));
    assert_eq!(world.store.run(change.clone()).await.unwrap().credentials.as_deref(), Some("other"));
    "alpha".clone_into(&mut change.spec.name);
    assert!(matches!(world.store.run(change).await, Err(OpError::NameTaken { .. })));

    let health = Health { state: HealthState::Offline, checked_at: Some(world.store.now()), latency_ms: Some(7), error: None };
    world.store.run(SetHealth { id, health: health.clone() }).await.unwrap();
    let seen = get(&world, "zeta").await.unwrap();
    assert_eq!((seen.health, seen.version), (health.clone(), 3), "health is no edit");
    let nobody = SetHealth { id: world.id(), health };
    assert_eq!(world.store.run(nobody).await, Err(OpError::NotFound("cluster")));

    world.store.run(DeleteCluster { id, if_match: None }).await.unwrap();
    assert_eq!(get(&world, "zeta").await, None);
    let third = world.cluster("beta").await;
    assert_eq!(third.ordinal, 3);
    assert!(!format!("{third:?}").contains("credentials"));
}

pub async fn h4_stay_the_same_backend(world: World) {
    let tenant = world.tenant("acme").await;
    let cluster = world.cluster("one").await;
    let identity = |identity: &str| world.store.run(SetIdentity { id: cluster.id, identity: identity.to_owned() });
    identity("project-1").await.unwrap();
    identity("project-2").await.unwrap();
    let run = world.request(&tenant, "db", State::Allocating).await;
    world.row(run.id, cluster.id, RowState::Intended).await;
    identity("project-2").await.unwrap();
    assert_eq!(identity("project-3").await, Err(in_use(&[("resources", 1)])));

    let mut change = edit(&cluster);
    change.spec.endpoint.insert("ca_file".to_owned(), "other.pem".into());
    change.spec.default = true;
    world.store.run(change.clone()).await.unwrap();
    change.spec.endpoint.insert("auth_url".to_owned(), "https://elsewhere.example".into());
    assert_eq!(world.store.run(change.clone()).await, Err(in_use(&[("resources", 1)])));
    let mut other = edit(&cluster);
    other.spec.provider = provisor_core::cluster::ProviderType::Proxmox;
    assert_eq!(world.store.run(other).await, Err(in_use(&[("resources", 1)])));

    let free = world.cluster("two").await;
    world.store.run(SetIdentity { id: free.id, identity: "project-9".to_owned() }).await.unwrap();
    let mut change = edit(&free);
    change.spec.endpoint.insert("auth_url".to_owned(), "https://elsewhere.example".into());
    let changed = world.store.run(change).await.unwrap();
    assert_eq!(changed.identity, None, "another backend is asked anew who it is");
}

pub async fn h27_a_gate_is_shared(world: World) {
    let cluster = world.cluster("one").await;
    let at = |happened| world.store.run(AtGate { id: cluster.id, happened });
    let calls = |good, bad| Happened::Calls(Calls { good, bad });
    assert!(world.store.run(AllGates).await.unwrap().is_empty());
    assert!(!at(calls(3, 9)).await.unwrap().changed);
    let opened = at(calls(0, 1)).await.unwrap();
    assert!(opened.changed && matches!(opened.gate.breaker.state, Breaker::Open { .. }), "{opened:?}");
    assert!(!at(Happened::Probe(Span::seconds(5))).await.unwrap().changed, "it is not the time");
    let seen = get(&world, "one").await.unwrap();
    assert_eq!((&seen.gate, seen.version), (&opened.gate, cluster.version), "it is no edit");
    assert_eq!(world.store.run(AllGates).await.unwrap(), [(cluster.id, opened.gate.clone())]);

    let refused = |version| Happened::Refused { version, error: "401".to_owned() };
    assert!(!at(refused(cluster.version + 1)).await.unwrap().changed, "there are others by now");
    assert!(at(refused(cluster.version)).await.unwrap().changed);
    assert!(!at(refused(cluster.version)).await.unwrap().changed, "told once");
    let paused = get(&world, "one").await.unwrap().gate;
    assert_eq!((paused.paused.unwrap().error.as_str(), paused.breaker), ("401", opened.gate.breaker));
    assert!(at(Happened::Accepted).await.unwrap().changed);
    assert_eq!(get(&world, "one").await.unwrap().gate, opened.gate);
    let nobody = AtGate { id: world.id(), happened: Happened::Accepted };
    assert_eq!(world.store.run(nobody).await, Err(OpError::NotFound("cluster")));
}

pub async fn in_use_are_not_deleted(world: World) {
    let tenant = world.tenant("acme").await;
    let cluster = world.cluster("one").await;
    let run = world.request(&tenant, "db", State::RolledBack).await;
    world.row(run.id, cluster.id, RowState::Owed).await;
    world.row(run.id, cluster.id, RowState::Released).await;
    let delete = DeleteCluster { id: cluster.id, if_match: None };
    assert_eq!(world.store.run(delete.clone()).await, Err(in_use(&[("resources", 1)])));
    assert_eq!(
        world.store.run(DeleteCluster { id: cluster.id, if_match: Some(9) }).await,
        Err(OpError::PreconditionFailed { current: "1".to_owned() })
    );
    assert_eq!(world.store.run(DeleteCluster { id: world.id(), if_match: None }).await, Err(OpError::NotFound("cluster")));
}

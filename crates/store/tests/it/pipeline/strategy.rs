//! Race and hedge in the store: room and budget of clusters, one count against the tenant (SPEC 3.4, H7, H31).

use provisor_core::run::{AttemptState, Role};
use provisor_core::{Class, Span, State};
use provisor_store::ops::settle::Settle;
use serde_json::{Value, json};

use super::scene::{Scene, cpus, failed, good, merged, names};

fn tried(kind: &str) -> Value {
    json!({"strategy": {"type": kind}})
}

async fn two_clusters(scene: Scene) -> Scene {
    let scene = scene.with_one_of_each().await;
    scene.cluster("two", json!({})).await;
    scene
}

fn roles(run: &provisor_core::Run) -> Vec<(Role, &str)> {
    run.attempts.iter().map(|a| (a.role, a.cluster_name.as_str())).collect()
}

pub async fn a_race_starts_on_two_clusters_and_counts_once(scene: Scene) {
    let scene = two_clusters(scene).await;
    let id = scene.admit("db", tried("race")).await;
    let lease = scene.take("w").await;
    assert_eq!(names(&lease.calls), ["create_volume", "create_volume"]);
    let run = scene.run_of(id).await;
    assert_eq!(roles(&run), [(Role::First, "one"), (Role::Race, "two")]);
    for name in ["one", "two"] {
        let cluster = scene.cluster_now(name).await;
        assert_eq!((cluster.reserved.cpu, cluster.reserved_slots), (1, 1), "each draws on its cluster");
    }
    let tenant = scene.tenant_now("acme").await;
    assert_eq!((tenant.usage.amounts.cpu, tenant.in_work), (1, 1), "the tenant pays for one");
    scene.check().await;
    let done = scene.drive(lease).await;
    assert_eq!(done.state, State::Completed);
    let ends: Vec<_> = done.attempts.iter().map(|a| (a.state, a.released_at.is_some())).collect();
    assert_eq!(ends, [(AttemptState::Won, false), (AttemptState::Lost, true)]);
    let (one, two) = (scene.cluster_now("one").await, scene.cluster_now("two").await);
    assert_eq!((one.used_slots, one.reserved_slots, two.used_slots, two.reserved_slots), (1, 0, 0, 0));
    scene.check().await;
}

/// The second attempt counts against what the first has just taken of the same cluster.
pub async fn a_race_without_room_becomes_a_failover(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", merged(tried("race"), cpus(5))).await;
    let lease = scene.take("w").await;
    assert_eq!(names(&lease.calls), ["create_volume"], "8 processors are no room for twice 5");
    let run = scene.run_of(id).await;
    assert_eq!((run.attempts.len(), run.attempts[0].asked_beside.is_some()), (1, true));
    scene.cluster("two", json!({})).await;
    scene.settle(&lease, vec![failed(&lease.calls[0], Class::Permanent)]).await.unwrap();
    assert_eq!(roles(&scene.run_of(id).await), [(Role::First, "one"), (Role::Failover, "two")]);
    scene.until(id, State::Completed).await;
    scene.check().await;
}

/// Where there is only one cluster, with room for both, the race is run there.
pub async fn a_race_may_share_a_cluster(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", tried("race")).await;
    scene.take("w").await;
    assert_eq!(roles(&scene.run_of(id).await), [(Role::First, "one"), (Role::Race, "one")]);
    assert_eq!(scene.cluster_now("one").await.reserved_slots, 2);
    scene.check().await;
}

/// A race by policy draws on the budget of its second cluster; one that is asked for does not, and neither does failover.
pub async fn h31_a_policy_of_races_draws_on_the_budget(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.tenant("racers", json!({"strategy": {"type": "race"}, "max_concurrent": 100})).await;
    scene.cluster("two", json!({"settings": {"extra_launch_budget_percent": 0}})).await;
    let policy = json!({"tenant": "racers", "cluster": null});
    for n in 0..12 {
        let id = scene.admit(&format!("r{n}"), policy.clone()).await;
        let run = scene.until(id, State::Completed).await;
        // On `one` every first attempt adds a twentieth, on `two` nothing: 10 each, and no more.
        assert_eq!(run.strategy().kind.name(), "race");
        let expected = if n < 10 {
            vec![(Role::First, "one"), (Role::Race, "two")]
        } else {
            vec![(Role::First, "one"), (Role::Race, "one")]
        };
        assert_eq!(roles(&run), expected, "request {n}");
        scene.ask(id, provisor_core::run::Command::Deprovision { reason: None, force: false }).await.unwrap();
        scene.until(id, State::RolledBack).await;
    }
    let asked = scene.completed("asked", tried("race")).await;
    assert_eq!(roles(&scene.run_of(asked).await)[1], (Role::Race, "two"), "who asks for it needs room alone");
    let id = scene.admit("failing", json!({})).await;
    let lease = scene.take("w").await;
    scene.settle(&lease, vec![failed(&lease.calls[0], Class::Permanent)]).await.unwrap();
    assert_eq!(roles(&scene.run_of(id).await)[1], (Role::Failover, "two"));
    scene.check().await;
}

/// Hedges draw on the budget; with none left the request goes on with the one attempt.
pub async fn h31_hedges_end_with_the_budget(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let slow = json!({"settings": {"hedge_after_seconds": 5, "extra_launch_budget_percent": 0}});
    scene.cluster("two", slow).await;
    for n in 0..12 {
        let id = scene.admit(&format!("h{n}"), merged(tried("hedge"), json!({"cluster": "two"}))).await;
        let mut lease = scene.take("w").await;
        scene.clock.advance(Span::seconds(5));
        let look = Settle { in_flight: true, ..scene.settling(&lease, Vec::new()) };
        let settled = scene.store.run(look).await.unwrap();
        let expected = if n < 10 { vec![(Role::First, "two"), (Role::Hedge, "two")] } else { vec![(Role::First, "two")] };
        assert_eq!(roles(&settled.run), expected, "request {n}");
        lease.calls.extend(settled.calls);
        let mut answers: Vec<_> = lease.calls.iter().map(good).collect();
        let settled = loop {
            let settled = scene.settle(&lease, answers).await.unwrap();
            if settled.released {
                break settled;
            }
            answers = settled.calls.iter().map(good).collect();
        };
        assert_eq!(settled.run.state, State::Completed);
        scene.ask(id, provisor_core::run::Command::Deprovision { reason: None, force: false }).await.unwrap();
        scene.until(id, State::RolledBack).await;
    }
    scene.check().await;
}

/// The policy of the tenant, else that of the server; what a request asks for comes first; kinds whose endpoint is fixed
/// take failover.
pub async fn a_policy_is_fixed_at_admission(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.tenant("singles", json!({"strategy": {"type": "single"}})).await;
    let kind = async |id| scene.run_of(id).await.strategy().kind.name();
    assert_eq!(kind(scene.admit("a", json!({})).await).await, "failover");
    assert_eq!(kind(scene.admit("b", json!({"tenant": "singles"})).await).await, "single");
    assert_eq!(kind(scene.admit("c", merged(tried("hedge"), json!({"tenant": "singles"}))).await).await, "hedge");
    scene.tenant("racers", json!({"strategy": {"type": "race"}})).await;
    let mut managed = super::scene::managed("d");
    "racers".clone_into(&mut managed.tenant);
    let id = scene.try_admit(vec![managed]).await.unwrap()[0].run.id;
    assert_eq!(kind(id).await, "failover", "H9");
}

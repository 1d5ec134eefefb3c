//! Every kind of fault, and the same seed twice.

use std::time::Duration;

use provisor_core::{Class, Failure};
use provisor_provider::{Progress, Released};
use provisor_simulation::Simulation;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::bench::{Service, clock, quiet, resources, service};

fn faults(faults: Value) -> Value {
    json!({"faults": faults, "deadlines": {"create_server": 10, "wait_server": 10}, "list_lag_seconds": 5})
}

/// A service with everything that a server stands on, under these faults.
async fn before_server(rules: Value) -> (std::sync::Arc<Simulation>, Service) {
    let (simulation, mut service) = quiet("openstack", faults(rules));
    service.up_to(Some("create_port")).await.unwrap();
    service.perform(&service.planned("create_volume")).await.unwrap();
    (simulation, service)
}

async fn create_server(service: &mut Service) -> Result<(), Failure> {
    service.perform(&service.planned("create_server")).await
}

#[tokio::test(start_paused = true)]
async fn each_class_of_failure_strikes_on_its_call_and_does_nothing() {
    for (kind, class) in [
        ("transient", Class::Transient),
        ("permanent", Class::Permanent),
        ("throttled", Class::Throttled),
        ("auth", Class::Auth),
        ("capacity", Class::Capacity),
    ] {
        let rule = json!([{"operation": "create_serv*", "kind": kind, "on_calls": [2]}]);
        let (simulation, mut service) = before_server(rule).await;
        create_server(&mut service).await.unwrap();
        let failure = create_server(&mut service).await.unwrap_err();
        assert_eq!(failure.class, class);
        assert!(provisor_core::error_code::find(&failure.code).is_some(), "{} has no page", failure.code);
        assert_eq!(failure.retry_after.is_some(), class == Class::Throttled);
        create_server(&mut service).await.unwrap();
        assert_eq!(resources(&simulation, "server", true).len(), 2);
        let calls = simulation.inventory("c", true).unwrap()["calls"]["create_server"].clone();
        assert_eq!(calls, json!({"ok": 2, kind: 1}));
    }
}

#[tokio::test(start_paused = true)]
async fn hang_does_nothing_and_lost_reply_does_it_and_neither_answers() {
    for (kind, made) in [("hang", 0), ("lost_reply", 1)] {
        let (simulation, mut service) =
            before_server(json!([{"operation": "create_server", "kind": kind, "on_calls": [1]}])).await;
        timeout(Duration::from_mins(10), create_server(&mut service)).await.unwrap_err();
        assert_eq!(resources(&simulation, "server", true).len(), made, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_off_has_been_done_and_is_found_by_its_tag() {
    let settings = json!({"time_scale": 1, "latency": {"default": {"fixed_ms": 0}, "create_security_group": {"fixed_ms": 5000}}});
    let (_simulation, mut service) = quiet("openstack", settings);
    let planned = service.planned("create_security_group");
    let work = service.work(&planned);
    timeout(Duration::from_secs(1), service.provider.perform(&work)).await.unwrap_err();
    let found = service.provider.find("security_group", work.tag.as_ref().unwrap().as_str(), &work.name).await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_success_makes_it_after_the_deadline() {
    let (simulation, mut service) =
        before_server(json!([{"operation": "create_server", "kind": "late_success", "on_calls": [1]}])).await;
    timeout(Duration::from_secs(10), create_server(&mut service)).await.unwrap_err();
    assert_eq!(resources(&simulation, "server", true).len(), 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(resources(&simulation, "server", true).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_success_of_a_wait_lasts_longer_than_its_deadline() {
    let (_simulation, mut service) =
        before_server(json!([{"operation": "wait_server", "kind": "late_success", "on_calls": [1]}])).await;
    create_server(&mut service).await.unwrap();
    let planned = service.planned("wait_server");
    let work = service.work(&planned);
    let Progress::Running { look_again: Some(rest), .. } = service.provider.perform(&work).await.unwrap() else { panic!() };
    assert!(rest.as_seconds_f64() > 10.0);
    sleep(rest.to_std()).await;
    assert!(matches!(service.provider.perform(&work).await, Ok(Progress::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn delete_fails_lets_it_stand() {
    let rules = json!([{"operation": "*", "kind": "delete_fails", "on_calls": [1]}]);
    let (simulation, service) = before_server(rules).await;
    assert_eq!(service.release("volume").await.unwrap_err().class, Class::Transient);
    assert_eq!(resources(&simulation, "volume", true).len(), 1);
    assert_eq!(service.release("volume").await, Ok(Released::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_stale_list_shows_the_past() {
    let rules = json!([
        {"operation": "find", "kind": "stale_list", "probability": 1},
        {"operation": "list_owned", "kind": "stale_list", "probability": 1},
    ]);
    let (_simulation, service) = before_server(rules).await;
    let row = service.row("volume");
    let (provider, tag) = (&service.provider, row.tag.as_str());
    assert_eq!(provider.find("volume", tag, "").await.unwrap().len(), 0);
    assert_eq!(provider.list_owned("pvr-", None).await.unwrap().items.len(), 0);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(provider.find("volume", tag, "").await.unwrap().len(), 1);
    assert_eq!(provider.list_owned("pvr-", None).await.unwrap().items.len(), 3);
    assert_eq!(service.release("volume").await, Ok(Released::Gone));
    assert_eq!(provider.find("volume", tag, "").await.unwrap().len(), 1, "gone, and still seen");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(provider.find("volume", tag, "").await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_was_there() {
    let (simulation, mut service) =
        before_server(json!([{"operation": "create_server", "kind": "vanish", "on_calls": [1], "after_seconds": 30}])).await;
    create_server(&mut service).await.unwrap();
    service.perform(&service.planned("wait_server")).await.unwrap();
    sleep(Duration::from_secs(31)).await;
    assert_eq!(resources(&simulation, "server", true).len(), 0);
    assert!(resources(&simulation, "server", false)[0]["gone_at"].is_string());
    let failure = service.perform(&service.planned("wait_server")).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.spoiled), ("vanished", true));
    assert_eq!(service.release("server").await, Ok(Released::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_fault_can_be_meant_for_one_tenant_or_request() {
    for (rule, strikes) in [
        (json!({"tenant": "acme"}), true),
        (json!({"tenant": "other"}), false),
        (json!({"request_name": "db"}), true),
        (json!({"request_name": "web"}), false),
    ] {
        let mut rule = rule;
        rule["operation"] = json!("delete_volume");
        rule["kind"] = json!("transient");
        rule["probability"] = json!(1);
        let (_simulation, service) = before_server(json!([rule])).await;
        assert_eq!(service.release("volume").await.is_err(), strikes, "{rule}");
    }
}

/// Results of many calls in a row.
async fn behaviour(seed: u64) -> Vec<String> {
    let rules = json!([
        {"operation": "create_security_group", "kind": "transient", "probability": 0.3},
        {"operation": "find", "kind": "capacity", "probability": 0.3},
    ]);
    let (_simulation, mut service) = quiet("openstack", json!({"seed": seed, "faults": rules}));
    let planned = service.planned("create_security_group");
    let mut results = Vec::new();
    for _ in 0..60 {
        results.push(format!("{:?}", service.perform(&planned).await.map_err(|e| e.code)));
        results.push(format!("{:?}", service.provider.find("port", "x", "x").await.map_err(|e| e.code)));
    }
    results
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_behaviour() {
    let first = behaviour(11).await;
    assert_eq!(first, behaviour(11).await);
    assert_ne!(first, behaviour(12).await);
    let failed = first.iter().filter(|r| r.contains("Err")).count();
    assert!((20..55).contains(&failed), "{failed} of 120");
}

#[tokio::test(start_paused = true)]
async fn success_rate_is_drawn_once_for_each_step_of_an_attempt() {
    let simulation = Simulation::in_memory(clock());
    let mut lost = 0;
    for seed in 0..200 {
        let mut service = service(&simulation, "openstack", json!({"success_rate": {"allocate": 0.5}}), seed);
        let Err(failure) = service.up_to(None).await else { continue };
        assert_eq!((failure.class, failure.code.as_str()), (Class::Permanent, "simulated_failure"));
        assert!(create_server(&mut service).await.is_err(), "the same attempt, drawn again");
        lost += 1;
    }
    assert!((75..125).contains(&lost), "{lost} of 200");
    for (rate, works) in [(0, false), (1, true)] {
        let (_simulation, mut service) = quiet("argocd", json!({"success_rate": rate}));
        assert_eq!(service.up_to(None).await.is_ok(), works);
    }
}

#[tokio::test(start_paused = true)]
async fn faults_and_being_offline_show_in_the_test() {
    let simulation = Simulation::in_memory(clock());
    let verdicts = async |settings: Value| {
        let checks = service(&simulation, "openstack", settings, 1).provider.test().await;
        checks.iter().map(|c| (c.name.clone(), c.ok)).collect::<Vec<_>>()
    };
    let expect = |a, b, c| vec![("reachable".to_owned(), a), ("login".to_owned(), b), ("quota".to_owned(), c)];
    assert_eq!(verdicts(json!({})).await, expect(true, true, true));
    assert_eq!(verdicts(json!({"offline": true})).await, expect(false, false, false));
    for (kind, expected) in [("auth", expect(true, false, false)), ("capacity", expect(true, true, false))] {
        let rule = json!([{"operation": "test", "kind": kind, "probability": 1}]);
        assert_eq!(verdicts(json!({"faults": rule})).await, expected);
    }
    let offline = service(&simulation, "openstack", json!({"offline": true}), 1);
    assert_eq!(offline.provider.identity().await.unwrap_err().code, "unreachable");
}

#[tokio::test(start_paused = true)]
async fn faults_can_be_changed_at_run_time_and_counts_begin_with_their_rule() {
    let rule = || json!({"faults": [{"operation": "find", "kind": "transient", "on_calls": [1]}]});
    let simulation = Simulation::in_memory(clock());
    for (settings, strikes) in [(rule(), true), (rule(), false), (json!({}), false), (rule(), true)] {
        let service = service(&simulation, "openstack", settings.clone(), 1);
        assert_eq!(service.provider.find("port", "x", "x").await.is_err(), strikes, "{settings}");
    }
}

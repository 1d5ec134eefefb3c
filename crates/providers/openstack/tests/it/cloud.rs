//! The whole pipeline against a real OpenStack, where one is given by its usual environment (`OS_AUTH_URL`, …).

use std::time::Duration;

use provisor_core::workflow::plan::Planned;
use provisor_core::{Class, Timestamp};
use provisor_provider::conformance::faults::{Fault, at_all, at_each};
use provisor_provider::conformance::{Subject, run};
use provisor_provider::{Action, Released};
use serde_json::{Value, json};

use crate::driver::{Attempt, connect, fresh, spec};
use crate::fake::{Fake, Reply};

mod set_up;

/// The credentials of the environment; without them the test is skipped, or fails where services are required.
pub(crate) fn environment() -> Option<(Value, Value)> {
    let get = |key: &str| std::env::var(key).ok();
    let Some(auth_url) = get("OS_AUTH_URL") else {
        let required = get("PROVISOR_TEST_REQUIRE_SERVICES").is_some_and(|v| v == "1");
        assert!(!required, "OS_AUTH_URL is not set, and services are required");
        eprintln!("skipped: a real OpenStack is needed; set OS_AUTH_URL (cargo xtask services up openstack)");
        return None;
    };
    let mut credentials = json!({});
    for key in ["username", "password", "project_name", "user_domain_name", "project_domain_name"] {
        credentials[key] = json!(get(&format!("OS_{}", key.to_uppercase())));
    }
    Some((json!({"auth_url": auth_url, "region_name": get("OS_REGION_NAME")}), credentials))
}

pub(crate) fn settings() -> Value {
    json!({"network": "private", "external_network": "public", "images": {"debian-12": "tiny"},
        "flavors": ["m1.small", "m1.medium"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vps_is_made_answers_stops_starts_and_leaves_nothing() {
    let Some((endpoint, credentials)) = environment() else { return };
    let provider = connect(&endpoint, &credentials, &settings());
    let request = json!({"name": "web", "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops"], "labels": {"env": "test"},
        "user_data": "#!/bin/sh\necho hi\n", "probes": {"http": {"port": 80, "expect": "200-299"}}});
    let mut attempt = Attempt::new(provider.clone(), spec(&request));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    let run = attempt.run(&plan).await;
    if let Err(failed) = run {
        attempt.undo().await;
        panic!("{failed:?}");
    }
    let mut urls: Vec<String> = attempt.endpoints.iter().map(|e| e.url.clone()).collect();
    urls.sort();
    let address = attempt.facts["floating_ip"].clone();
    let expected = ["http", "https", "ssh"].map(|scheme| format!("{scheme}://{address}"));
    assert_eq!(urls, expected);
    assert_eq!(
        (attempt.facts["flavor"].as_str(), attempt.facts["image"].as_str()),
        ("m1.small (1 vCPU, 2 GiB: the smallest that fits)", "tiny")
    );

    for row in &attempt.rows {
        let found = provider.find(&row.kind, row.tag.as_str(), &row.name).await.expect("a list");
        let ids: Vec<&str> = found.iter().map(|f| f.provider_id.as_str()).collect();
        assert_eq!(ids, [row.id.as_str()], "{} by tag", row.kind);
        assert!(found[0].age_seconds.is_some_and(|age| age < 300) && !found[0].spoiled, "{found:?}");
    }
    let mut made: Vec<(String, String)> = attempt.rows.iter().map(|r| (r.kind.clone(), r.id.clone())).collect();
    made.sort();
    assert_eq!(attempt.owned().await, made);

    for action in [Action::Suspend, Action::Reactivate] {
        let plan = provider.plan_action(action, &attempt.spec).expect("a plan");
        attempt.run(&plan).await.expect("the action");
    }
    let metrics = provider.metrics(&attempt.work(&plan.operations[0])).await.expect("metrics");
    assert!(metrics.unavailable["cpu_percent"].contains("administrators"), "{metrics:?}");
    // The test bed's administrator may see them.
    if credentials["username"] == "demo" {
        let mut admin = credentials.clone();
        (admin["username"], admin["project_name"]) = (json!("admin"), json!("admin"));
        let admin = connect(&endpoint, &admin, &settings());
        let metrics = admin.metrics(&attempt.work(&plan.operations[0])).await.expect("metrics");
        assert!(metrics.cpu_percent.is_some() && metrics.network_rx_bytes.is_some(), "{metrics:?}");
        let room = admin.capacity().await.expect("capacity").expect("told");
        assert!(room.cpu.is_some_and(|n| n > 0) && room.memory_gb.is_some_and(|n| n > 0), "{room:?}");
    }

    attempt.undo().await;
    assert_eq!(attempt.owned().await, []);
}

#[tokio::test]
async fn an_unknown_image_is_permanent_and_named() {
    let Some((endpoint, credentials)) = environment() else { return };
    let provider = connect(&endpoint, &credentials, &settings());
    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"image": "no-such-image"})));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    let (operation, failure) = attempt.run(&plan).await.expect_err("must fail");
    assert_eq!(operation, "create_volume");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Permanent, "image_not_found"));
    assert!(failure.message.contains("no-such-image"), "{failure:?}");
    attempt.undo().await;
    assert_eq!(attempt.owned().await, []);
}

#[tokio::test]
async fn h10_a_server_that_fails_to_build_is_made_anew_on_the_same_volume_and_port() {
    let Some((endpoint, credentials)) = environment() else { return };
    let provider = connect(&endpoint, &credentials, &settings());
    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"ports": [22], "labels": {"testbed_spawn": "abort"}})));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    let (operation, failure) = attempt.run(&plan).await.expect_err("the build is aborted");
    assert_eq!((operation.as_str(), failure.spoiled), ("wait_server", true), "{failure:?}");
    let named = |name: &str| plan.operations.iter().find(|p| p.name == name).cloned().expect("planned");

    let place = attempt.rows.iter().position(|row| row.kind == "server").expect("a server");
    let broken = attempt.rows.remove(place);
    let found = provider.find("server", broken.tag.as_str(), &broken.name).await.expect("a list");
    assert!(found[0].spoiled);
    assert_eq!(attempt.release(&broken).await, Ok(Released::Gone));
    attempt.spec.labels.clear();
    attempt.perform(&named("create_server")).await.expect("made anew");
    let server = attempt.rows.pop().expect("the new server");
    for name in ["wait_server", "probe_ssh"] {
        attempt.perform(&named(name)).await.expect(name);
    }
    // It is released first, and a second create on its port is not a second server but a doubt.
    let doubt: Planned = named("create_server");
    let failure = attempt.perform(&doubt).await.expect_err("the port is taken");
    assert_eq!(failure.class, Class::Ambiguous, "{failure:?}");
    assert_eq!(attempt.release(&server).await, Ok(Released::Gone));
    attempt.undo().await;
    assert_eq!(attempt.owned().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_answer_was_lost_is_found_by_its_tag_and_goes_on() {
    let Some((mut endpoint, credentials)) = environment() else { return };
    let port = std::env::var("OSTB_PORT_NOVA").unwrap_or_else(|_| "18774".to_owned());
    let nova = format!("http://127.0.0.1:{port}");
    let relay = Fake::serve(move |asked| match asked.line.as_str() {
        "POST /v2.1/servers" => Reply::Swallow(format!("{nova}{}", asked.path())),
        _ => Reply::Forward(format!("{nova}{}", asked.path())),
    })
    .await;
    endpoint["overrides"] = json!({"compute": format!("http://{}/v2.1", relay.address)});
    let provider = connect(&endpoint, &credentials, &settings());
    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"ports": [22]})));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    let at = plan.operations.iter().position(|p| p.name == "create_server").expect("planned");
    for planned in &plan.operations[..at] {
        attempt.perform(planned).await.expect("made");
    }
    let work = attempt.work(&plan.operations[at]);
    let failure = provider.perform(&work).await.expect_err("lost");
    assert_eq!(failure.class, Class::Ambiguous, "{failure:?}");
    let tag = work.tag.expect("a tag");
    let found = provider.find("server", tag.as_str(), &work.name).await.expect("a list");
    assert_eq!(found.len(), 1, "{found:?}");
    attempt.adopt("server", tag, work.name, &found[0].provider_id);
    for planned in &plan.operations[at + 1..] {
        attempt.perform(planned).await.expect("it goes on");
    }
    attempt.undo().await;
    assert_eq!(attempt.owned().await, []);
}

#[tokio::test]
async fn the_test_names_and_times_each_check_and_quotas_are_capacity() {
    let Some((endpoint, credentials)) = environment() else { return };
    let provider = connect(&endpoint, &credentials, &settings());
    let checks = provider.test().await;
    let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    let expected = [
        "login",
        "role",
        "compute",
        "network",
        "volume",
        "image",
        "settings.network",
        "settings.external_network",
        "router",
        "settings.flavors",
        "settings.images.debian-12",
    ];
    assert_eq!(names, expected);
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");
    let capacity = provider.capacity().await.expect("capacity").expect("told");
    assert!(capacity.cpu.is_some_and(|n| n > 0) && capacity.slots.is_some_and(|n| n > 0), "{capacity:?}");

    let mut wrong = settings();
    wrong["network"] = json!("nowhere");
    let checks = connect(&endpoint, &credentials, &wrong).test().await;
    let bad: Vec<&str> = checks.iter().filter(|c| !c.ok).map(|c| c.name.as_str()).collect();
    assert_eq!(bad, ["settings.network"]);
    let mut stranger = credentials.clone();
    stranger["password"] = json!("not-the-password");
    let failure = connect(&endpoint, &stranger, &settings()).identity().await.expect_err("refused");
    assert_eq!(failure.class, Class::Auth, "{failure:?}");
    assert!(!failure.message.contains("not-the-password"));
}

/// The kit against the real one.
fn subject(endpoint: Value, credentials: Value) -> Subject {
    let seed = fresh();
    let mut settings = settings();
    settings["probe"] = json!({"every_seconds": 1});
    Subject {
        connect: Box::new(move || connect(&endpoint, &credentials, &settings)),
        spec: spec(&json!({"ports": [22, 80]})),
        installation: format!("k{:x}", seed & 0xffff_ffff),
        seed,
        now: Timestamp(1_795_000_000_000_000),
        patience: Duration::from_secs(90),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_one_passes_the_kit() {
    let Some((endpoint, credentials)) = environment() else { return };
    run(&subject(endpoint, credentials)).await.unwrap_or_else(|broken| panic!("{broken}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_lost_and_every_call_repeated_on_the_real_one() {
    let Some((endpoint, credentials)) = environment() else { return };
    let subject = subject(endpoint, credentials);
    for fault in [Fault::LostReply, Fault::Repeated] {
        at_all(&subject, fault).await.unwrap_or_else(|broken| panic!("{fault:?}: {broken}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long; cargo xtask openstack shows"]
async fn every_fault_at_every_operation_of_the_real_one_leaves_a_clean_slate() {
    let Some((endpoint, credentials)) = environment() else { return };
    let cases = at_each(&subject(endpoint, credentials), &Fault::ALL).await.unwrap_or_else(|broken| panic!("{broken}"));
    eprintln!("{cases} cases, each with a clean slate after it");
}

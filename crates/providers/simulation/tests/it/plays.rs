//! How each played backend answers a repeated create and an early release.

use std::time::Duration;

use provisor_core::Class;
use provisor_provider::{Action, Progress, Released};
use serde_json::json;

use crate::bench::{Service, TYPES, quiet, resources, spec, spec_of};

fn operations(service: &Service) -> Vec<String> {
    let name = |o: provisor_core::workflow::Planned| format!("{}:{}", o.step.name(), o.name);
    let mut all: Vec<String> = service.plan().into_iter().map(name).collect();
    all.dedup();
    all
}

#[tokio::test(start_paused = true)]
async fn the_operations_are_those_of_the_contract() {
    let expected = |simulates: &str| match simulates {
        "openstack" => {
            "allocate:create_security_group allocate:create_port allocate:create_volume allocate:create_server \
             configure:create_rule configure:create_floating_ip activate:wait_server \
             verify:probe_ssh verify:probe_http verify:probe_https verify:probe_tcp"
        }
        "vmware" => {
            "allocate:clone_vm configure:reconfigure_vm activate:power_on_vm activate:wait_address \
             verify:probe_ssh verify:probe_http verify:probe_https verify:probe_tcp"
        }
        "proxmox" => {
            "allocate:clone_vm configure:configure_vm configure:resize_disk configure:create_rule \
             activate:start_vm activate:wait_address \
             verify:probe_ssh verify:probe_http verify:probe_https verify:probe_tcp"
        }
        "kubernetes" | "openshift" => {
            "allocate:create_namespace allocate:create_resource_quota allocate:create_limit_range \
             allocate:create_network_policy allocate:create_role_binding configure:grant_access \
             activate:wait_admission verify:check_pod verify:check_isolation"
        }
        "argocd" => "allocate:create_application configure:sync activate:wait_healthy verify:probe_url",
        _ => "allocate:reserve configure:await_input activate:mark_active verify:probe_url",
    };
    for (simulates, _) in TYPES {
        let (_simulation, service) = quiet(simulates, json!({}));
        let expected: Vec<&str> = expected(simulates).split_whitespace().collect();
        assert_eq!(operations(&service), expected, "{simulates}");
    }
    let (_simulation, service) = quiet("manual", json!({}));
    assert!(service.planned("await_input").awaits_input);
}

#[tokio::test(start_paused = true)]
async fn endpoints_have_the_names_of_the_contract() {
    for (simulates, names) in [
        ("openstack", vec!["ssh", "http", "https", "tcp-5432"]),
        ("vmware", vec!["ssh", "http", "https", "tcp-5432"]),
        ("proxmox", vec!["ssh", "http", "https", "tcp-5432"]),
        ("kubernetes", vec!["api"]),
        ("argocd", vec!["url"]),
        ("manual", vec![]),
    ] {
        let (_simulation, mut service) = quiet(simulates, json!({}));
        service.up_to(None).await.unwrap();
        let found: Vec<&str> = service.endpoints.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(found, names, "{simulates}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_create_is_taken_as_the_real_one_takes_it() {
    for (simulates, operation, kind, count) in [
        ("openstack", "create_volume", "volume", 2),
        ("vmware", "clone_vm", "vm", 1),
        ("proxmox", "clone_vm", "vm", 1),
        ("kubernetes", "create_namespace", "namespace", 1),
        ("argocd", "create_application", "application", 1),
    ] {
        let (simulation, mut service) = quiet(simulates, json!({}));
        let planned = service.planned(operation);
        let work = service.work(&planned);
        let id = async || match service.provider.perform(&work).await.unwrap() {
            Progress::Done(made) => made.provider_id.unwrap(),
            other @ Progress::Running { .. } => panic!("{other:?}"),
        };
        let (first, again) = (id().await, id().await);
        assert_eq!(first == again, count == 1, "{simulates}");
        let found = resources(&simulation, kind, true);
        assert_eq!(found.len(), count, "{simulates}");
        assert!(found.iter().all(|r| r["created_count"] == count), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_rule_for_a_port_is_refused_and_as_good_as_done() {
    let (simulation, mut service) = quiet("openstack", json!({}));
    service.up_to(Some("create_security_group")).await.unwrap();
    for _ in 0..2 {
        service.perform(&service.planned("create_rule")).await.unwrap();
    }
    assert_eq!(simulation.inventory("c", true).unwrap()["calls"]["create_rule"], json!({"ok": 1, "exists": 1}));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_anothers_is_refused() {
    let (_simulation, mut service) = quiet("kubernetes", json!({}));
    let planned = service.planned("create_namespace");
    let mut work = service.work(&planned);
    service.provider.perform(&work).await.unwrap();
    work.tag = service.work(&planned).tag;
    let failure = service.provider.perform(&work).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (Class::Permanent, "name_taken"));
}

#[tokio::test(start_paused = true)]
async fn h3_another_object_under_the_same_name_is_left_alone() {
    let (simulation, mut service) = quiet("kubernetes", json!({}));
    let planned = service.planned("create_namespace");
    let first = service.work(&planned);
    service.provider.perform(&first).await.map(drop).unwrap();
    let Progress::Done(made) = service.provider.perform(&first).await.unwrap() else { panic!() };
    service.learn(&planned, &first, made);
    let row = service.row("namespace");
    assert_eq!(service.release("namespace").await, Ok(Released::Gone));
    let mut second = service.work(&planned);
    second.name.clone_from(&first.name);
    service.provider.perform(&second).await.unwrap();
    assert_eq!(service.provider.release(&service.held(&row)).await, Ok(Released::Replaced));
    assert_eq!(resources(&simulation, "namespace", true).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_cannot_go() {
    let settings = json!({"time_scale": 1, "latency": {"default": {"fixed_ms": 0}, "delete_server": {"fixed_ms": 3000}}});
    let (_simulation, mut service) = quiet("openstack", settings);
    service.up_to(Some("create_floating_ip")).await.unwrap();
    let in_use = |result: Result<Released, _>| matches!(result, Ok(Released::Running { seen, .. }) if seen.starts_with("in use"));
    for kind in ["security_group", "port", "volume"] {
        assert!(in_use(service.release(kind).await), "{kind}");
    }
    let Ok(Released::Running { seen, .. }) = service.release("server").await else { panic!() };
    assert_eq!(seen, "deleting");
    assert!(in_use(service.release("volume").await));
    let row = service.row("server");
    let found = service.provider.find("server", row.tag.as_str(), "").await.unwrap();
    assert_eq!(found.len(), 1, "what is being deleted is still there (H6)");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(service.release("server").await, Ok(Released::Gone));
    assert_eq!(service.release("volume").await, Ok(Released::Gone));
    for kind in ["port", "floating_ip", "security_group"] {
        assert_eq!(service.release(kind).await, Ok(Released::Gone), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_takes_everything_in_it_along() {
    let (simulation, mut service) = quiet("kubernetes", json!({}));
    service.up_to(None).await.unwrap();
    assert_eq!(service.release("namespace").await, Ok(Released::Gone));
    assert_eq!(simulation.inventory("c", true).unwrap()["resources"], json!([]));
    assert_eq!(service.release("role_binding").await, Ok(Released::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_server_boots_by_itself() {
    let settings = json!({"time_scale": 1, "latency": {"default": {"fixed_ms": 0}, "wait_server": {"fixed_ms": 30_000}}});
    let (_simulation, mut service) = quiet("openstack", settings);
    service.up_to(Some("create_floating_ip")).await.unwrap();
    let planned = service.planned("wait_server");
    let work = service.work(&planned);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let Progress::Running { look_again: Some(rest), .. } = service.provider.perform(&work).await.unwrap() else { panic!() };
    assert_eq!(rest, provisor_core::Span::seconds(20));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(matches!(service.provider.perform(&work).await, Ok(Progress::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn actions_have_operations_and_stop_the_service() {
    let (_simulation, mut service) = quiet("openstack", json!({}));
    service.up_to(None).await.unwrap();
    let names = |action| -> Vec<String> {
        let plan = service.provider.plan_action(action, &service.spec).unwrap();
        plan.operations.into_iter().map(|o| o.name).collect()
    };
    assert_eq!(names(Action::Suspend), ["stop_server"]);
    assert_eq!(names(Action::Reactivate), ["start_server", "probe_ssh", "probe_http", "probe_https", "probe_tcp"]);
    let plan = service.provider.plan_action(Action::Suspend, &service.spec).unwrap();
    service.perform(&plan.operations[0]).await.unwrap();
    let planned = service.planned("probe_ssh");
    let probe = service.work(&planned);
    assert!(matches!(service.provider.perform(&probe).await, Ok(Progress::Running { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_cluster_can_play_several() {
    let (simulation, service) = quiet("openstack", json!({}));
    let mut cluster = crate::bench::cluster("c", "openstack", json!({"listeners": false, "time_scale": 0}));
    cluster.simulates.push(provisor_core::cluster::ProviderType::Kubernetes);
    let provider = crate::bench::connect(&simulation, &cluster);
    let plan = |kind| provider.plan(&spec(&spec_of(kind))).map(|p| p.operations[0].name.clone());
    assert_eq!(plan("vps").unwrap(), "create_security_group");
    assert_eq!(plan("kubernetes_namespace").unwrap(), "create_namespace");
    assert_eq!(plan("managed").unwrap_err().code, "kind_not_served");
    assert!(service.provider.plan(&spec(&spec_of("environment"))).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_long_inventory_is_read_page_by_page() {
    let (_simulation, mut service) = quiet("openstack", json!({}));
    let planned = service.planned("create_volume");
    for _ in 0..1203 {
        service.perform(&planned).await.unwrap();
    }
    let (mut tags, mut pages, mut from) = (std::collections::BTreeSet::new(), 0, None);
    loop {
        let page = service.provider.list_owned("pvr-testbench-", from).await.unwrap();
        pages += 1;
        tags.extend(page.items.into_iter().map(|f| f.tag));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!((tags.len(), pages), (1203, 3));
    assert_eq!(service.provider.list_owned("pvr-other-", None).await.unwrap().items.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn metrics_are_plausible_and_say_what_is_missing() {
    let (_simulation, mut service) = quiet("openstack", json!({}));
    service.up_to(None).await.unwrap();
    let planned = service.planned("probe_ssh");
    let work = service.work(&planned);
    let metrics = service.provider.metrics(&work).await.unwrap();
    assert!(metrics.memory_used_gb.is_some_and(|used| used > 0.0 && used < 4.0));
    assert!(metrics.disk_used_gb.is_none() && metrics.unavailable.contains_key("disk_used_gb"));
    assert_eq!(service.provider.metrics(&work).await.unwrap(), metrics);
}

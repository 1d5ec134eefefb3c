//! What survives a restart.

use provisor_core::Class;
use provisor_simulation::Simulation;
use serde_json::json;
use std::path::Path;

use crate::bench::{clock, folder, resources, service};

/// What a kill leaves behind: the files as they are now.
fn as_after_a_kill(from: &Path) -> std::path::PathBuf {
    let to = folder("killed");
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

#[tokio::test]
async fn a_create_that_answered_is_there_after_a_kill() {
    let folder = folder("memory");
    let simulation = Simulation::in_process(&folder, clock()).unwrap();
    let mut first = service(&simulation, "openstack", json!({}), 1);
    first.up_to(None).await.unwrap();
    first.release("floating_ip").await.unwrap();
    let identity = first.provider.identity().await.unwrap();
    let killed = as_after_a_kill(&folder);

    let simulation = Simulation::in_process(&killed, clock()).unwrap();
    let again = service(&simulation, "openstack", json!({}), 1);
    assert_eq!(again.provider.identity().await.unwrap(), identity);
    assert_eq!(resources(&simulation, "server", true).len(), 1);
    assert_eq!(resources(&simulation, "floating_ip", true).len(), 0);
    assert_eq!(resources(&simulation, "floating_ip", false).len(), 1);
    first.provider = again.provider;
    first.perform(&first.planned("wait_server")).await.unwrap();
    first.release_all().await;
    assert_eq!(simulation.inventory("c", true).unwrap()["resources"], json!([]));
}

#[tokio::test]
async fn counters_and_verdicts_survive_a_restart() {
    let folder = folder("memory");
    let settings =
        || json!({"faults": [{"operation": "find", "kind": "transient", "on_calls": [2, 4]}], "success_rate": {"allocate": 0.5}});
    let mut seen = Vec::new();
    let mut failed = Vec::new();
    for seed in 0..4 {
        let simulation = Simulation::in_process(&folder, clock()).unwrap();
        let mut service = service(&simulation, "argocd", settings(), seed);
        seen.push(service.provider.find("port", "x", "x").await.is_err());
        failed.push(service.up_to(None).await.is_err());
    }
    assert_eq!(seen, [false, true, false, true]);
    let simulation = Simulation::in_process(&folder, clock()).unwrap();
    for seed in 0..4 {
        let mut service = service(&simulation, "argocd", settings(), seed);
        let planned = service.planned("create_application");
        let again = service.perform(&planned).await;
        assert_eq!(again.is_err_and(|e| e.class == Class::Permanent), failed[usize::try_from(seed).unwrap()]);
    }
    let calls = simulation.inventory("c", true).unwrap()["calls"]["find"].clone();
    assert_eq!(calls, json!({"ok": 2, "transient": 2}));
}

#[tokio::test]
async fn two_clouds_cannot_hold_one_folder() {
    let folder = folder("memory");
    let _first = Simulation::in_process(&folder, clock()).unwrap();
    assert!(Simulation::in_process(&folder, clock()).is_err());
}

#[tokio::test]
#[ignore = "a measurement: cargo test -p provisor-simulation -- --ignored --nocapture"]
async fn the_cost_of_an_operation() {
    let in_memory = Simulation::in_memory(clock());
    let on_disk = Simulation::in_process(&folder("cost"), clock()).unwrap();
    for (name, simulation) in [("memory", in_memory), ("disk", on_disk)] {
        let begun = tokio::time::Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..2000 {
            let mut service = service(&simulation, "openstack", json!({}), seed);
            tasks.spawn(async move { service.up_to(None).await.unwrap() });
        }
        tasks.join_all().await;
        let each = begun.elapsed() / (2000 * 14);
        eprintln!("{name}: {each:?} an operation");
    }
}

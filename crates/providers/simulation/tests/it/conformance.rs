//! The kit for everything that the simulated cloud plays, in process and over HTTP.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::Timestamp;
use provisor_provider::conformance::faults::{Fault, at_all, at_each};
use provisor_provider::conformance::{Subject, run};
use provisor_simulation::{Front, Simulation};
use serde_json::{Value, json};

use crate::bench::{TYPES, clock, cluster, connect, folder, spec, spec_of};

fn subject(simulation: Arc<Simulation>, simulates: &str, kind: &str, url: Option<String>, settings: &Value) -> Subject {
    let mut cluster = cluster("c", simulates, settings.clone());
    cluster.endpoint.extend(url.map(|u| ("url".to_owned(), Value::from(u))));
    Subject {
        connect: Box::new(move || connect(&simulation, &cluster)),
        spec: spec(&spec_of(kind)),
        installation: "conform".to_owned(),
        seed: 7,
        now: Timestamp(1_795_000_000_000_000),
        patience: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn every_played_type_passes_in_process() {
    for (simulates, kind) in TYPES {
        let simulation = Simulation::in_process(&folder("conformance"), clock()).unwrap();
        let subject = subject(simulation.clone(), simulates, kind, None, &json!({"time_scale": 0.1}));
        run(&subject).await.unwrap_or_else(|broken| panic!("{simulates}: {broken}"));
        let left = simulation.inventory("c", true).unwrap();
        assert_eq!(left["resources"], json!([]), "{simulates}");
    }
}

#[tokio::test]
async fn every_played_type_passes_over_http() {
    let front = Front::bind("127.0.0.1:0".parse().unwrap(), &folder("conformance"), clock()).await.unwrap();
    let url = format!("http://{}/", front.address());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(front.serve(async move { drop(ended.await) }));
    for (simulates, kind) in TYPES {
        let simulation = Simulation::in_memory(clock());
        let subject = subject(simulation, simulates, kind, Some(url.clone()), &json!({"time_scale": 0}));
        run(&subject).await.unwrap_or_else(|broken| panic!("{simulates}: {broken}"));
    }
    end.send(()).unwrap();
    served.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_played_type_passes_under_a_paused_clock() {
    for (simulates, kind) in TYPES {
        let settings = json!({"listeners": false, "latency": {"default": {"lognormal_ms": {"p50": 800, "p99": 9000}}}});
        let mut subject = subject(Simulation::in_memory(clock()), simulates, kind, None, &settings);
        subject.patience = Duration::from_mins(10);
        run(&subject).await.unwrap_or_else(|broken| panic!("{simulates}: {broken}"));
    }
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_operation_of_every_played_type_leaves_a_clean_slate() {
    for (simulates, kind) in TYPES {
        let simulation = Simulation::in_memory(clock());
        let settings = json!({"listeners": false, "time_scale": 0.01});
        let mut subject = subject(simulation.clone(), simulates, kind, None, &settings);
        subject.patience = Duration::from_mins(10);
        let cases = at_each(&subject, &Fault::ALL).await.unwrap_or_else(|broken| panic!("{simulates}: {broken}"));
        assert!(cases >= 15, "{simulates}: {cases}");
        for fault in [Fault::LostReply, Fault::Repeated] {
            at_all(&subject, fault).await.unwrap_or_else(|broken| panic!("{simulates}: {broken}"));
        }
        let left = simulation.inventory("c", true).unwrap();
        assert_eq!(left["resources"], json!([]), "{simulates}");
    }
}

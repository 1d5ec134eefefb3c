//! Endpoints that answer on loopback, while their server runs.

use std::net::SocketAddr;
use std::time::Duration;

use provisor_provider::Action;
use provisor_provider::probe::{self, Guard};
use provisor_simulation::Simulation;
use serde_json::json;
use tokio::net::TcpStream;

use crate::bench::{Service, clock, folder, service};

fn address(service: &Service, name: &str) -> SocketAddr {
    let endpoint = service.endpoints.iter().find(|e| e.name == name).unwrap();
    endpoint.url.split_once("://").unwrap().1.trim_end_matches('/').parse().unwrap()
}

async fn answers(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

/// A listener ends when its task is dropped, which the runtime does a moment after it was told.
async fn falls_silent(address: SocketAddr) -> bool {
    for _ in 0..100 {
        if !answers(address).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn services_answer_on_real_sockets_while_they_are_up() {
    let simulation = Simulation::in_memory(clock());
    let latency = json!({"default": {"fixed_ms": 0}, "wait_server": {"fixed_ms": 300}});
    for simulates in ["openstack", "vmware", "proxmox"] {
        let settings = json!({"listeners": true, "time_scale": 1, "latency": latency});
        let mut service = service(&simulation, simulates, settings, 5);
        let last = if simulates == "openstack" { "create_floating_ip" } else { "wait_address" };
        service.up_to(Some(last)).await.unwrap();
        let ssh = address(&service, "ssh");
        assert!(ssh.ip().is_loopback() && ssh.port() > 1024, "{ssh}");
        assert_eq!(answers(ssh).await, simulates != "openstack", "{simulates}: it is still booting");
        let plan = service.plan();
        let rest = plan.iter().skip_while(|o| o.name != last).skip(1);
        for planned in rest {
            service.perform(planned).await.unwrap();
        }
        let guard = Guard { open: true, ..Guard::default() };
        assert!(probe::ssh(&guard, ssh).await.unwrap().starts_with("SSH-2.0-"));
        let http = format!("http://{}/", address(&service, "http"));
        assert_eq!(probe::http(&guard, &http, (100, 599)).await, Ok(200));
        for name in ["https", "tcp-5432"] {
            assert!(answers(address(&service, name)).await, "{simulates} {name}");
        }
        for (action, up) in [(Action::Suspend, false), (Action::Reactivate, true)] {
            for planned in service.provider.plan_action(action, &service.spec).unwrap().operations {
                service.perform(&planned).await.unwrap();
            }
            assert_eq!(if up { answers(ssh).await } else { !falls_silent(ssh).await }, up, "{simulates}");
        }
        service.release_all().await;
        assert!(falls_silent(ssh).await, "{simulates}: released");
    }
}

#[tokio::test]
async fn an_environment_answers_on_its_url() {
    let simulation = Simulation::in_memory(clock());
    let mut service = service(&simulation, "argocd", json!({"listeners": true}), 6);
    service.up_to(None).await.unwrap();
    let url = service.endpoints[0].url.clone();
    let guard = Guard { open: true, ..Guard::default() };
    assert_eq!(probe::http(&guard, &url, (200, 200)).await, Ok(200));
    service.release_all().await;
    assert!(falls_silent(address(&service, "url")).await);
}

#[tokio::test]
async fn listeners_come_back_after_a_restart() {
    let folder = folder("listeners");
    let settings = json!({"listeners": true});
    let clock = clock();
    let simulation = Simulation::in_process(&folder, clock.clone()).unwrap();
    let mut first = service(&simulation, "openstack", settings.clone(), 7);
    first.up_to(None).await.unwrap();
    let ssh = address(&first, "ssh");
    assert!(answers(ssh).await);
    let Service { provider, .. } = first;
    drop((provider, simulation));
    assert!(falls_silent(ssh).await);
    let simulation = Simulation::in_process(&folder, clock).unwrap();
    let _again = service(&simulation, "openstack", settings, 7);
    assert!(answers(ssh).await);
}

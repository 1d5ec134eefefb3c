//! Questions about the cloud as a whole: does it work, how much has it, what does a server use.

use std::collections::BTreeMap;

use provisor_core::Failure;
use provisor_core::cluster::Capacity;
use provisor_core::workflow::call::Work;
use provisor_provider::{Check, Metrics};
use serde_json::Value;
use tokio::time::Instant;

use crate::Openstack;
use crate::catalog::Service;
use crate::classify;
use crate::client::{Call, CallError};
use crate::objects::Object;
use crate::resolve::{self, Role};
use crate::step::has;

async fn timed<T>(name: &str, work: impl Future<Output = Result<T, String>>) -> (Check, Option<T>) {
    let started = Instant::now();
    let result = work.await;
    let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(value) => (Check { name: name.to_owned(), ok: true, latency_ms, error: None }, Some(value)),
        Err(error) => (Check { name: name.to_owned(), ok: false, latency_ms, error: Some(error) }, None),
    }
}

/// Logs in anew, asks each service something cheap, and looks up what the settings name.
pub(crate) async fn test(cloud: &Openstack) -> Vec<Check> {
    let client = &cloud.client;
    let (login, session) = timed("login", async { client.renew().await.map_err(|e| e.to_string()) }).await;
    let mut checks = vec![login];
    if session.is_none() {
        return checks;
    }
    let services = [
        ("compute", Service::Compute, "/limits"),
        ("network", Service::Network, "/extensions"),
        ("volume", Service::Volume, "/limits"),
    ];
    for (name, service, path) in services {
        let call = client.call(Call::get(service, path));
        checks.push(timed(name, async { call.await.map_err(|e| e.to_string()) }).await.0);
    }
    let image = client.call(Call::get(Service::Image, "/images").query("limit", "1"));
    checks.push(timed("image", async { image.await.map_err(|e| e.to_string()) }).await.0);
    for (name, role) in [("settings.network", Role::Tenant), ("settings.external_network", Role::External)] {
        let network = resolve::network(client, &cloud.settings, role);
        checks.push(timed(name, async { network.await.map_err(|f| f.message) }).await.0);
    }
    let flavor = resolve::flavor(client, &cloud.settings, provisor_core::spec::Size::default());
    checks.push(timed("settings.flavors", async { flavor.await.map_err(|f| f.message) }).await.0);
    for name in cloud.settings.images.keys() {
        let image = resolve::image(client, &cloud.settings, name);
        let name = format!("settings.images.{name}");
        checks.push(timed(&name, async { image.await.map_err(|f| f.message) }).await.0);
    }
    checks
}

/// The project's quotas: all that may be used, by whomever. Unlimited dimensions are left open.
pub(crate) async fn capacity(cloud: &Openstack) -> Result<Capacity, Failure> {
    let client = &cloud.client;
    let failed = |e: CallError| classify::failure(&e);
    let project = client.session(None).await.map_err(failed)?.project_id.clone();
    let compute = client.call(Call::get(Service::Compute, "/limits")).await.map_err(failed)?;
    let volume = client.call(Call::get(Service::Volume, "/limits")).await.map_err(failed)?;
    let network = client.call(Call::get(Service::Network, format!("/quotas/{project}"))).await.map_err(failed)?;
    let limit = |answer: &Value, path: &str| answer.pointer(path).and_then(Value::as_i64).filter(|n| *n >= 0);
    let groups = limit(&network, "/quota/security_group").map(|n| (n - 1).max(0)); // one is the project's default
    let slots = [
        limit(&compute, "/limits/absolute/maxTotalInstances"),
        limit(&volume, "/limits/absolute/maxTotalVolumes"),
        limit(&network, "/quota/floatingip"),
        limit(&network, "/quota/port"),
        groups,
    ];
    Ok(Capacity {
        cpu: limit(&compute, "/limits/absolute/maxTotalCores"),
        memory_gb: limit(&compute, "/limits/absolute/maxTotalRAMSize").map(|mb| mb / 1024),
        storage_gb: limit(&volume, "/limits/absolute/maxTotalVolumeGigabytes"),
        slots: slots.into_iter().flatten().min(),
    })
}

/// A server's figures, where the cloud shows them to us: diagnostics are for administrators by default.
pub(crate) async fn metrics(cloud: &Openstack, work: &Work) -> Result<Metrics, Failure> {
    let path = format!("{}/diagnostics", Object::Server.path(has(work, Object::Server)?));
    let all_missing = |why: &str| Metrics {
        unavailable: ["cpu_percent", "memory_used_gb", "disk_used_gb", "network_rx_bytes", "network_tx_bytes"]
            .iter()
            .map(|figure| ((*figure).to_owned(), why.to_owned()))
            .collect(),
        ..Metrics::default()
    };
    match cloud.client.call(Call::get(Service::Compute, path)).await {
        Ok(answer) => Ok(figures(&answer)),
        Err(error) if error.status() == Some(403) => Ok(all_missing("the cloud shows diagnostics to administrators only")),
        Err(error) if error.status() == Some(409) => Ok(all_missing("the server is not running")),
        Err(error) => Err(classify::failure(&error)),
    }
}

fn figures(answer: &Value) -> Metrics {
    let rows = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let sum = |key: &str| {
        let numbers: Vec<u64> = rows("nic_details").iter().filter_map(|nic| nic.get(key)?.as_u64()).collect();
        (!numbers.is_empty()).then(|| numbers.iter().sum())
    };
    let busy: Vec<f64> = rows("cpu_details").iter().filter_map(|cpu| cpu.get("utilisation")?.as_f64()).collect();
    #[allow(clippy::cast_precision_loss)]
    let cpu_percent = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
    let memory_used_gb = answer.pointer("/memory_details/used").and_then(Value::as_f64).map(|mb| mb / 1024.0);
    let (rx, tx) = (sum("rx_octets"), sum("tx_octets"));
    let mut unavailable = BTreeMap::new();
    let mut note = |figure: &str, missing: bool, why: &str| {
        if missing {
            unavailable.insert(figure.to_owned(), why.to_owned());
        }
    };
    let silent = "the hypervisor does not report it";
    note("cpu_percent", cpu_percent.is_none(), silent);
    note("memory_used_gb", memory_used_gb.is_none(), silent);
    note("network_rx_bytes", rx.is_none(), silent);
    note("network_tx_bytes", tx.is_none(), silent);
    note("disk_used_gb", true, "Nova does not see into a volume");
    Metrics { cpu_percent, memory_used_gb, disk_used_gb: None, network_rx_bytes: rx, network_tx_bytes: tx, unavailable }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_that_are_missing_say_why() {
        let metrics = figures(&json!({
            "cpu_details": [{"utilisation": 10}, {"utilisation": 30}],
            "memory_details": {"maximum": 4096, "used": null},
            "nic_details": [{"rx_octets": 7, "tx_octets": 1}, {"rx_octets": 3, "tx_octets": 1}],
        }));
        assert_eq!((metrics.cpu_percent, metrics.network_rx_bytes), (Some(20.0), Some(10)));
        assert_eq!(metrics.memory_used_gb, None);
        assert!(metrics.unavailable.contains_key("memory_used_gb") && metrics.unavailable.contains_key("disk_used_gb"));
    }
}

//! Questions about the cloud as a whole: does it work, how much has it, what does a server use.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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
    client.forget_lists();
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
    checks.extend(session.map(|session| role(&session.roles)));
    for (name, service, path) in services {
        let call = client.call(Call::get(service, path));
        checks.push(timed(name, async { call.await.map_err(|e| e.to_string()) }).await.0);
    }
    let image = client.call(Call::get(Service::Image, "/images").query("limit", "1"));
    checks.push(timed("image", async { image.await.map_err(|e| e.to_string()) }).await.0);
    for (name, role) in [("settings.network", Role::Tenant), ("settings.external_network", Role::External)] {
        let network = Box::pin(resolve::network(client, &cloud.settings, role));
        checks.push(timed(name, async { network.await.map_err(|f| f.message) }).await.0);
    }
    if checks.iter().all(|check| check.ok) {
        checks.push(timed("router", resolve::router(client, &cloud.settings)).await.0);
    }
    let flavor = Box::pin(resolve::flavor(client, &cloud.settings, provisor_core::spec::Size::default()));
    checks.push(timed("settings.flavors", async { flavor.await.map_err(|f| f.message) }).await.0);
    for name in cloud.settings.images.keys() {
        let image = Box::pin(resolve::image(client, &cloud.settings, name));
        let name = format!("settings.images.{name}");
        checks.push(timed(&name, async { image.await.map_err(|f| f.message) }).await.0);
    }
    checks.extend(chosen(cloud).await);
    checks
}

/// Whether what else the settings choose is there.
async fn chosen(cloud: &Openstack) -> Vec<Check> {
    let s = &cloud.settings;
    let choices = [
        ("volume_type", &s.volume_type, Call::get(Service::Volume, "/types"), "/volume_types", "/name"),
        (
            "availability_zone",
            &s.availability_zone,
            Call::get(Service::Compute, "/os-availability-zone"),
            "/availabilityZoneInfo",
            "/zoneName",
        ),
        (
            "volume_availability_zone",
            &s.volume_availability_zone,
            Call::get(Service::Volume, "/os-availability-zone"),
            "/availabilityZoneInfo",
            "/zoneName",
        ),
        ("key_pair", &s.key_pair, Call::get(Service::Compute, "/os-keypairs"), "/keypairs", "/keypair/name"),
    ];
    let mut checks = Vec::new();
    for (key, wanted, call, list, name) in choices {
        let Some(wanted) = wanted else { continue };
        let look = async {
            let answer = cloud.client.call(call).await.map_err(|e| e.to_string())?;
            let rows = answer.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
            let names: Vec<&str> = rows.iter().filter_map(|row| row.pointer(name)?.as_str()).collect();
            let mut ids = rows.iter().filter_map(|row| row.get("id")?.as_str());
            let known = names.contains(&wanted.as_str()) || ids.any(|id| id == wanted);
            if known { Ok(()) } else { Err(format!("the cloud shows no {wanted:?}; it shows {}", names.join(", "))) }
        };
        checks.push(timed(&format!("settings.{key}"), look).await.0);
    }
    checks
}

/// Whether the role can make anything. Roles are the cloud's own words, so only the one that never may is refused.
fn role(roles: &[String]) -> Check {
    let only_reads = !roles.is_empty() && roles.iter().all(|role| role == "reader");
    let error = only_reads.then(|| "the credentials have the role reader only, which may make nothing".to_owned());
    Check { name: "role".to_owned(), ok: !only_reads, latency_ms: 0, error }
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
    let (host_cpu, host_memory_mb) = hosts(cloud).await.unzip();
    let less = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
    Ok(Capacity {
        cpu: less(limit(&compute, "/limits/absolute/maxTotalCores"), host_cpu),
        memory_gb: less(limit(&compute, "/limits/absolute/maxTotalRAMSize"), host_memory_mb).map(|mb| mb / 1024),
        storage_gb: limit(&volume, "/limits/absolute/maxTotalVolumeGigabytes"),
        slots: slots.into_iter().flatten().min(),
    })
}

/// Hosts that are asked; a cloud of more is larger than any quota of one project.
const HOSTS: usize = 200;

/// vCPU and MiB of all hosts, where our role may see them: Placement is for administrators by default.
async fn hosts(cloud: &Openstack) -> Option<(i64, i64)> {
    let answer = cloud.client.call(Call::get(Service::Placement, "/resource_providers")).await.ok()?;
    let hosts = answer.get("resource_providers")?.as_array()?;
    if hosts.len() > HOSTS {
        return None;
    }
    let (mut cpu, mut memory) = (0_i64, 0_i64);
    for host in hosts {
        let id = host.get("uuid")?.as_str()?;
        let path = format!("/resource_providers/{id}/inventories");
        let answer = cloud.client.call(Call::get(Service::Placement, path)).await.ok()?;
        cpu = cpu.saturating_add(room(&answer, "VCPU"));
        memory = memory.saturating_add(room(&answer, "MEMORY_MB"));
    }
    (cpu > 0).then_some((cpu, memory))
}

/// What a host lends of one class: what is not reserved, times the overcommitment.
fn room(inventories: &Value, class: &str) -> i64 {
    let Some(of) = inventories.get("inventories").and_then(|all| all.get(class)) else { return 0 };
    let number = |key: &str| of.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let ratio = of.get("allocation_ratio").and_then(Value::as_f64).unwrap_or(1.0);
    #[allow(clippy::cast_possible_truncation)] // as large as it gets is as large as it gets
    let lent = ((number("total") - number("reserved")) * ratio) as i64;
    lent.max(0)
}

/// Processor times as they were seen last, by server: a share is the difference of two. Kept in this process only, as
/// nothing depends on them.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<BTreeMap<String, (Instant, f64)>>);

/// Servers whose last sample is kept.
const SAMPLES: usize = 10_000;

impl Samples {
    /// Notes the time that a server's processors have run by now, in seconds; answers the share since the last sample.
    fn share(&self, server: &str, ran: f64, processors: usize) -> Option<f64> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SAMPLES && !all.contains_key(server) {
            all.pop_first();
        }
        let (then, before) = all.insert(server.to_owned(), (now, ran))?;
        let wall = now.duration_since(then).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let most = wall * processors as f64;
        // Less than before means that it was started again.
        (most > 0.05 && ran >= before).then(|| ((ran - before) / most * 100.0).min(100.0))
    }
}

/// A server's figures, where the cloud shows them to us: diagnostics are for administrators by default.
pub(crate) async fn metrics(cloud: &Openstack, work: &Work) -> Result<Metrics, Failure> {
    let id = has(work, Object::Server)?;
    let path = format!("{}/diagnostics", Object::Server.path(id));
    let all_missing = |why: &str| Metrics {
        unavailable: ["cpu_percent", "memory_used_gb", "disk_used_gb", "network_rx_bytes", "network_tx_bytes"]
            .iter()
            .map(|figure| ((*figure).to_owned(), why.to_owned()))
            .collect(),
        ..Metrics::default()
    };
    match cloud.client.call(Call::get(Service::Compute, path)).await {
        Ok(answer) => Ok(figures(&answer, |ran, processors| cloud.samples.share(id, ran, processors))),
        Err(error) if error.status() == Some(403) => Ok(all_missing("the cloud shows diagnostics to administrators only")),
        Err(error) if error.status() == Some(409) => Ok(all_missing("the server is not running")),
        Err(error) => Err(classify::failure(&error)),
    }
}

fn figures(answer: &Value, share: impl Fn(f64, usize) -> Option<f64>) -> Metrics {
    let rows = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let sum = |key: &str| {
        let numbers: Vec<u64> = rows("nic_details").iter().filter_map(|nic| nic.get(key)?.as_u64()).collect();
        (!numbers.is_empty()).then(|| numbers.iter().sum())
    };
    let busy: Vec<f64> = rows("cpu_details").iter().filter_map(|cpu| cpu.get("utilisation")?.as_f64()).collect();
    #[allow(clippy::cast_precision_loss)]
    let reported = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
    // In nanoseconds.
    let ran: Vec<f64> = rows("cpu_details").iter().filter_map(|cpu| cpu.get("time")?.as_f64()).collect();
    let measured = if ran.is_empty() { None } else { share(ran.iter().sum::<f64>() / 1e9, ran.len()) };
    let cpu_percent = reported.or(measured);
    let memory_used_gb = answer.pointer("/memory_details/used").and_then(Value::as_f64).map(|mb| mb / 1024.0);
    let (rx, tx) = (sum("rx_octets"), sum("tx_octets"));
    let mut unavailable = BTreeMap::new();
    let mut note = |figure: &str, missing: bool, why: &str| {
        if missing {
            unavailable.insert(figure.to_owned(), why.to_owned());
        }
    };
    let silent = "the hypervisor does not report it";
    let first = "a share is known from the second look on; ask again";
    note("cpu_percent", cpu_percent.is_none(), if ran.is_empty() { silent } else { first });
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
        let answer = json!({
            "cpu_details": [{"utilisation": 10}, {"utilisation": 30}],
            "memory_details": {"maximum": 4096, "used": null},
            "nic_details": [{"rx_octets": 7, "tx_octets": 1}, {"rx_octets": 3, "tx_octets": 1}],
        });
        let metrics = figures(&answer, |_, _| None);
        assert_eq!((metrics.cpu_percent, metrics.network_rx_bytes), (Some(20.0), Some(10)));
        assert_eq!(metrics.memory_used_gb, None);
        assert!(metrics.unavailable.contains_key("memory_used_gb") && metrics.unavailable.contains_key("disk_used_gb"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_the_difference_of_two_looks() {
        let samples = Samples::default();
        assert_eq!(samples.share("a", 10.0, 2), None);
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert_eq!(samples.share("a", 15.0, 2), Some(25.0));
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert_eq!(samples.share("a", 1.0, 2), None, "started again");
    }

    #[test]
    fn a_host_lends_what_is_not_reserved_times_its_ratio() {
        let answer = json!({"inventories": {"VCPU": {"total": 10, "reserved": 2, "allocation_ratio": 4.0}}});
        assert_eq!((room(&answer, "VCPU"), room(&answer, "MEMORY_MB")), (32, 0));
    }

    #[test]
    fn a_role_that_only_reads_is_told() {
        assert!(role(&["member".to_owned(), "reader".to_owned()]).ok && role(&[]).ok);
        assert!(!role(&["reader".to_owned()]).ok);
    }
}

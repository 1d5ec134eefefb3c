//! From what a request asks for to what this cloud calls it: flavor, image, networks.
//!
//! Names are looked up when they are needed and not remembered: a cloud's images and flavors change under a running
//! server, and a look-up costs tens of milliseconds beside minutes of building.

use provisor_core::spec::Size;
use provisor_core::{Class, Failure};
use serde_json::Value;

use crate::catalog::Service;
use crate::classify;
use crate::client::{Call, Client};
use crate::config::Settings;
use crate::objects::text;

/// A flavor that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flavor {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) cpu: u64,
    pub(crate) memory_mb: u64,
}

impl Flavor {
    /// Its name, and whether it is just what was asked for.
    pub(crate) fn words(&self, size: Size) -> String {
        if self.cpu == u64::from(size.cpu) && self.memory_mb == u64::from(size.memory_gb) * 1024 {
            return self.name.clone();
        }
        let memory = if self.memory_mb.is_multiple_of(1024) {
            format!("{} GiB", self.memory_mb / 1024)
        } else {
            format!("{} MiB", self.memory_mb)
        };
        format!("{} ({} vCPU, {memory}: the smallest that fits)", self.name, self.cpu)
    }
}

/// An image that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) name: String,
    /// GiB that a volume made from it needs.
    pub(crate) min_disk_gb: u64,
    pub(crate) min_memory_mb: u64,
}

fn number(object: &Value, key: &str) -> u64 {
    object.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn rows(mut answer: Value, key: &str) -> Vec<Value> {
    match answer.get_mut(key).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

/// Looks up the flavor for a size: the smallest that has enough processors and memory (so an exact one, where there
/// is one). Storage comes from the volume.
pub(crate) async fn flavor(client: &Client, settings: &Settings, size: Size) -> Result<Flavor, Failure> {
    let call = Call::get(Service::Compute, "/flavors/detail").query("limit", "1000");
    let all = client.look_up(call, "flavors").await.map_err(|e| classify::failure(&e))?;
    smallest(&all, &settings.flavors, size).ok_or_else(|| {
        let among = if settings.flavors.is_empty() {
            format!("{} visible flavors", all.len())
        } else {
            format!("settings.flavors ({})", settings.flavors.join(", "))
        };
        let message = format!("none of the {among} has {} vCPU and {} GiB of memory", size.cpu, size.memory_gb);
        Failure::new(Class::Permanent, "flavor_not_found", message)
    })
}

fn smallest(all: &[Value], allowed: &[String], size: Size) -> Option<Flavor> {
    let allowed = |flavor: &Value| {
        let named = |key| text(flavor, key).is_some_and(|name| allowed.iter().any(|a| a == name));
        allowed.is_empty() || named("name") || named("id")
    };
    all.iter()
        .filter(|flavor| flavor.get("OS-FLV-DISABLED:disabled") != Some(&Value::Bool(true)))
        .filter(|flavor| allowed(flavor))
        .filter_map(|flavor| {
            Some(Flavor {
                id: text(flavor, "id")?.to_owned(),
                name: text(flavor, "name")?.to_owned(),
                cpu: number(flavor, "vcpus"),
                memory_mb: number(flavor, "ram"),
            })
        })
        .filter(|f| f.cpu >= u64::from(size.cpu) && f.memory_mb >= u64::from(size.memory_gb) * 1024)
        .min_by(|a, b| (a.cpu, a.memory_mb, &a.name).cmp(&(b.cpu, b.memory_mb, &b.name)))
}

/// Looks up an image by the request's name for it, and checks that it can be used.
pub(crate) async fn image(client: &Client, settings: &Settings, asked: &str) -> Result<Image, Failure> {
    let wanted = settings.image(asked);
    let mut found = None;
    if is_id(wanted) {
        found = match client.call(Call::get(Service::Image, format!("/images/{wanted}"))).await {
            Ok(image) => Some(image),
            Err(error) if error.is_absent() => None,
            Err(error) => return Err(classify::failure(&error)),
        };
    }
    if found.is_none() {
        let call = Call::get(Service::Image, "/images").query("name", wanted);
        let rows = client.look_up(call, "images").await.map_err(|e| classify::failure(&e))?;
        // Of several with one name the newest active one: image names are reused at each refresh.
        found = rows.into_iter().max_by_key(|i| (text(i, "status") == Some("active"), text(i, "created_at").map(str::to_owned)));
    }
    let called = if wanted == asked { format!("{asked:?}") } else { format!("{asked:?} (here {wanted:?})") };
    let refuse = |code: &str, what: String| Failure::new(Class::Permanent, code, format!("image {called} {what}"));
    let found = found.ok_or_else(|| refuse("image_not_found", "is not known to the cloud".to_owned()))?;
    let status = text(&found, "status").unwrap_or("unknown");
    if status != "active" {
        return Err(refuse("image_not_usable", format!("is {status}, not active")));
    }
    let gib = 1_u64 << 30;
    let bytes = number(&found, "size").max(number(&found, "virtual_size"));
    Ok(Image {
        id: text(&found, "id").unwrap_or_default().to_owned(),
        name: text(&found, "name").unwrap_or(wanted).to_owned(),
        min_disk_gb: number(&found, "min_disk").max(bytes.div_ceil(gib)),
        min_memory_mb: number(&found, "min_ram"),
    })
}

/// Whether the image fits what is asked for.
pub(crate) fn check_fit(image: &Image, size: Size) -> Result<(), Failure> {
    let refuse =
        |what: String| Err(Failure::new(Class::Permanent, "image_not_usable", format!("image {:?} needs {what}", image.name)));
    if u64::from(size.storage_gb) < image.min_disk_gb {
        return refuse(format!("{} GiB of storage, asked are {}", image.min_disk_gb, size.storage_gb));
    }
    if u64::from(size.memory_gb) * 1024 < image.min_memory_mb {
        return refuse(format!("{} MiB of memory, asked are {} GiB", image.min_memory_mb, size.memory_gb));
    }
    Ok(())
}

/// Which of the two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// That of servers.
    Tenant,
    /// That of floating IPs.
    External,
}

/// Looks up the id of a network by the name or id in the settings; without one, there must be exactly one.
pub(crate) async fn network(client: &Client, settings: &Settings, role: Role) -> Result<String, Failure> {
    let (wanted, key, external) = match role {
        Role::Tenant => (settings.network.as_deref(), "network", "false"),
        Role::External => (settings.external_network.as_deref(), "external_network", "true"),
    };
    let mut call = Call::get(Service::Network, "/networks");
    call = match wanted {
        Some(id) if is_id(id) => call.query("id", id),
        Some(name) => call.query("name", name),
        None => call.query("router:external", external),
    };
    let rows = client.look_up(call, "networks").await.map_err(|e| classify::failure(&e))?;
    let ids: Vec<&str> = rows.iter().filter_map(|network| text(network, "id")).collect();
    match (ids.as_slice(), wanted) {
        ([id], _) => Ok((*id).to_owned()),
        ([], Some(name)) => {
            let message = format!("settings.{key}: the cloud shows no network {name:?}");
            Err(Failure::new(Class::Permanent, "network_not_found", message))
        }
        (several, _) => {
            let message = format!("settings.{key} must name one of the {} networks that fit, by id", several.len());
            Err(Failure::new(Class::Permanent, "network_ambiguous", message))
        }
    }
}

/// Whether a router that we see joins the two networks. One that belongs to another project is not shown to us, so
/// only what is known to lead elsewhere is refused.
pub(crate) async fn router(client: &Client, settings: &Settings) -> Result<(), String> {
    let told = |failure: Failure| failure.message;
    let inside = network(client, settings, Role::Tenant).await.map_err(told)?;
    let outside = network(client, settings, Role::External).await.map_err(told)?;
    let doors = client.call(Call::get(Service::Network, "/ports").query("network_id", inside)).await;
    let doors = rows(doors.map_err(|e| e.to_string())?, "ports");
    let of_router =
        |port: &Value| text(port, "device_owner").is_some_and(|owner| owner.starts_with("network:") && owner.contains("router"));
    let joined: Vec<&str> = doors.iter().filter(|port| of_router(port)).filter_map(|port| text(port, "device_id")).collect();
    let routers = client.call(Call::get(Service::Network, "/routers")).await;
    let routers = rows(routers.map_err(|e| e.to_string())?, "routers");
    let known: Vec<&Value> = routers.iter().filter(|router| text(router, "id").is_some_and(|id| joined.contains(&id))).collect();
    let leads_out =
        |router: &&Value| router.pointer("/external_gateway_info/network_id").and_then(Value::as_str) == Some(outside.as_str());
    if known.is_empty() || known.len() < joined.len() || known.iter().any(leads_out) {
        return Ok(());
    }
    Err("no router of settings.network has its gateway on settings.external_network: floating IPs could not reach servers"
        .to_owned())
}

/// Whether a text is a UUID, with or without hyphens.
fn is_id(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flavors() -> Vec<Value> {
        vec![
            json!({"id": "1", "name": "tiny", "vcpus": 1, "ram": 512}),
            json!({"id": "2", "name": "small", "vcpus": 2, "ram": 4096}),
            json!({"id": "3", "name": "wide", "vcpus": 4, "ram": 4096}),
            json!({"id": "4", "name": "big", "vcpus": 4, "ram": 16384}),
            json!({"id": "5", "name": "off", "vcpus": 3, "ram": 8192, "OS-FLV-DISABLED:disabled": true}),
        ]
    }

    #[test]
    fn the_smallest_allowed_flavor_that_fits_is_taken() {
        let pick = |cpu, memory_gb, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|s| (*s).to_owned()).collect();
            smallest(&flavors(), &allowed, Size { cpu, memory_gb, storage_gb: 1 }).map(|f| f.name)
        };
        assert_eq!(pick(2, 4, &[]), Some("small".into()));
        assert_eq!(pick(1, 1, &[]), Some("small".into()));
        assert_eq!(pick(3, 8, &[]), Some("big".into()));
        assert_eq!(pick(2, 4, &["wide", "4"]), Some("wide".into()));
        assert_eq!(pick(8, 4, &[]), None);
    }

    #[test]
    fn ids_are_told_from_names() {
        assert!(is_id("943c2c2e-3627-41f8-9cbd-946a56e9a2c7") && is_id("39dde052528b43bbbefd2d83ef1e1b51"));
        assert!(!is_id("debian-12") && !is_id("facade"));
    }

    #[test]
    fn an_image_larger_than_the_volume_is_refused() {
        let image = Image { id: "i".into(), name: "big".into(), min_disk_gb: 20, min_memory_mb: 0 };
        let size = Size { cpu: 1, memory_gb: 1, storage_gb: 10 };
        let failure = check_fit(&image, size).unwrap_err();
        assert!(failure.message.contains("20 GiB") && failure.class == Class::Permanent);
    }
}

//! What is asked for: the tenants, the clusters and the requests of the measurement.

use serde_json::{Value, json};

use crate::client::Connection;
use crate::{BenchError, Done};

/// Tenants that take turns.
const TENANTS: u64 = 8;

/// Tenants without limits, a desk whose product's details are given beforehand, a cloud without delays.
pub(crate) async fn prepare(connection: &mut Connection) -> Done {
    for n in 0..TENANTS {
        // More than any measurement has in the air: its place in the queue is not what is measured.
        create(connection, "/api/tenants", &json!({"name": tenant(n), "max_concurrent": 1000})).await?;
    }
    let endpoints = json!([{"name": "web", "url": "https://licence.example"}]);
    let desk = json!({"name": "desk", "provider": "manual", "region": "eu", "settings": {"inputs": {"licence": {"endpoints": endpoints}}}});
    create(connection, "/api/clusters", &desk).await?;
    let cloud = json!({"name": "cloud", "provider": "simulation", "simulates": "openstack", "region": "eu", "settings": {"time_scale": 0}});
    create(connection, "/api/clusters", &cloud).await
}

async fn create(connection: &mut Connection, path: &str, body: &Value) -> Done {
    let answer = connection.call("POST", path, &body.to_string()).await?;
    if answer.status == 201 {
        return Ok(());
    }
    Err(BenchError::Wrong(format!("{path} answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body))))
}

fn tenant(n: u64) -> String {
    format!("tenant-{}", n % TENANTS)
}

/// The body of the `n`th request.
pub(crate) fn request(n: u64, vps: bool) -> String {
    let (name, tenant) = (format!("r-{n}"), tenant(n));
    let asked = if vps {
        json!({"name": name, "tenant": tenant, "kind": "vps", "region": "eu", "image": "debian-12",
            "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}})
    } else {
        json!({"name": name, "tenant": tenant, "kind": "managed", "product": "licence"})
    };
    asked.to_string()
}

//! The simulated cloud: a backend that plays others, with delays and faults by seed.
//!
//! What it plays is data ([`table`]); how it behaves is a cluster's settings ([`settings`]). [`cloud`] is the outside
//! world with a durable memory of its own ([`disk`]), real [`listen`]ers on loopback, and one [`turn`] a call;
//! [`provider`] is the adapter that speaks to it, inside the process or over HTTP ([`remote`], [`front`]).
//!
//! It ships to users, for `quickstart` and for trying failures out, and it is what the tests and the deterministic
//! simulator run against. With `listeners: false` and [`Simulation::in_memory`] nothing here uses a socket, a thread or
//! a clock of its own.
//!
//! HTTPS: a simulated server has no certificate. Its port takes connections, and `probe_https` asks for no more.

mod act;
mod cloud;
mod disk;
mod front;
mod latency;
mod listen;
mod port;
mod ports;
mod provider;
mod remote;
mod roll;
mod settings;
mod table;
mod turn;
mod world;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use provisor_core::check::{Flaw, Flaws, Object};
use provisor_core::cluster::ClusterSpec;
use provisor_core::{Class, Failure};
use provisor_provider::{Binding, Connector, Provider};
use serde_json::Value;

pub use cloud::Clock;
pub use disk::DiskError;
pub use front::{Front, FrontError, serve};

use crate::cloud::Cloud;
use crate::port::{CloudPort, Registration};
use crate::provider::Simulated;
use crate::remote::Remote;

/// Where there is no cloud inside the process.
const ELSEWHERE: &str = "api and worker have no simulated cloud inside: start `provisor simcloud` and give its address";

/// Makes providers of type `simulation`, and holds the simulated cloud inside the process.
pub struct Simulation {
    cloud: Option<Arc<Cloud>>,
    client: OnceLock<reqwest::Client>,
}

impl Simulation {
    /// With a cloud that keeps its inventory in `folder`, in a file of its own.
    pub fn in_process(folder: &Path, clock: Clock) -> Result<Arc<Self>, DiskError> {
        Ok(Self::around(Cloud::open(folder, clock)?))
    }

    /// With a cloud that forgets, for tests and the deterministic simulator.
    pub fn in_memory(clock: Clock) -> Arc<Self> {
        Self::around(Cloud::in_memory(clock))
    }

    /// Without a cloud inside: each cluster names one that runs by itself. For one of several processes, as each would
    /// have a cloud of its own.
    pub fn remote() -> Arc<Self> {
        Arc::new(Self { cloud: None, client: OnceLock::new() })
    }

    fn around(cloud: Cloud) -> Arc<Self> {
        Arc::new(Self { cloud: Some(Arc::new(cloud)), client: OnceLock::new() })
    }

    fn client(&self) -> Result<reqwest::Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = remote::client()?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// What a cluster inside the process holds, in the shape of `GET /sim/{cluster}/inventory`; `None` where the cloud
    /// has no such cluster.
    pub fn inventory(&self, cluster: &str, live: bool) -> Option<Value> {
        self.cloud.as_ref()?.inventory(cluster, live)
    }
}

impl Connector for Simulation {
    fn check(&self, pointer: &str, spec: &ClusterSpec, _credentials: Option<&Value>) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        settings::Settings::read(&format!("{pointer}/settings"), &spec.settings, &mut flaws);
        if self.cloud.is_none() && !spec.endpoint.contains_key("url") {
            flaws.add(&format!("{pointer}/endpoint/url"), "required", &Value::Null, ELSEWHERE);
        }
        let endpoint = Value::Object(spec.endpoint.clone());
        let mut o = Object::new(&format!("{pointer}/endpoint"), &endpoint, &mut flaws);
        if let Some(url) = o.text("url", 2048, &mut flaws) {
            let is_http = reqwest::Url::parse(&url).is_ok_and(|u| ["http", "https"].contains(&u.scheme()) && u.has_host());
            if !is_http {
                flaws.add(&o.at("url"), "format", &Value::from(url), "must be the http URL of a simulated cloud");
            }
        }
        o.finish(&mut flaws);
        flaws.0
    }

    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure> {
        let spec = &binding.spec;
        let registration = Registration { plays: spec.plays(), settings: spec.settings.clone(), common: spec.common() };
        if registration.plays.is_empty() {
            return Err(Failure::new(Class::Permanent, "bad_configuration", "the cluster simulates nothing"));
        }
        let url = spec.endpoint.get("url").and_then(Value::as_str);
        let (port, registered): (Arc<dyn CloudPort>, bool) = if let Some(url) = url {
            (Arc::new(Remote::new(url, self.client()?)?), false)
        } else {
            let inside = self.cloud.as_ref().ok_or_else(|| Failure::new(Class::Transient, "simulated_elsewhere", ELSEWHERE))?;
            inside.register(&spec.name, &registration);
            (Arc::clone(inside) as Arc<dyn CloudPort>, true)
        };
        Ok(Arc::new(Simulated::new(&spec.name, registration, port, registered)))
    }
}

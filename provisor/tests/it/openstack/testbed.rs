//! The knobs of the test bed: its faults, its daemons, and the quotas that its administrator sets.
//!
//! Whatever a test turns is turned back when its guard goes, also when it fails.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::project::{Project, variable};
use crate::outside::list;

/// The test bed's scripts.
pub(super) struct Testbed {
    admin: Project,
    project: String,
    before: Vec<(Quota, Value)>,
}

/// The services that have quotas, with the body's key and where they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quota {
    Compute,
    Volume,
    Network,
}

impl Quota {
    const ALL: [Self; 3] = [Self::Compute, Self::Volume, Self::Network];

    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Volume => &["block-storage", "volumev3"],
            Self::Network => &["network"],
        }
    }

    fn key(self) -> &'static str {
        if self == Self::Network { "quota" } else { "quota_set" }
    }

    fn path(self, project: &str) -> String {
        match self {
            Self::Compute | Self::Volume => format!("/os-quota-sets/{project}"),
            Self::Network => format!("/v2.0/quotas/{project}"),
        }
    }
}

impl Testbed {
    /// The test bed that a project is of.
    pub(super) fn of(project: &Project) -> Self {
        let admin = Project::login(&variable("OS_AUTH_URL"), "admin", "admin");
        let before = Quota::ALL
            .map(|quota| {
                let answer = admin.ask(quota.types(), "GET", &quota.path(&project.id), None).is(200);
                (quota, answer[quota.key()].clone())
            })
            .to_vec();
        Self { admin, project: project.id.clone(), before }
    }

    /// Sets limits of the project.
    pub(super) fn limit(&self, quota: Quota, limits: &Value) {
        let body = json!({quota.key(): limits});
        self.admin.ask(quota.types(), "PUT", &quota.path(&self.project), Some(&body)).is(200);
    }

    /// The limit that a project had at first.
    fn first(&self, quota: Quota) -> &Value {
        self.before.iter().find(|(of, _)| *of == quota).map(|(_, value)| value).unwrap()
    }

    /// Puts a limit back.
    pub(super) fn restore(&self, quota: Quota, names: &[&str]) {
        let first = self.first(quota);
        let limits: serde_json::Map<String, Value> = names.iter().map(|n| ((*n).to_owned(), first[*n].clone())).collect();
        self.limit(quota, &Value::Object(limits));
    }

    /// What the project uses of everything that is counted.
    pub(super) fn usage(&self) -> Value {
        let of = |quota: Quota, path: String, key: &str| self.admin.ask(quota.types(), "GET", &path, None).is(200)[key].clone();
        let compute = of(Quota::Compute, format!("/os-quota-sets/{}/detail", self.project), "quota_set");
        let volume = of(Quota::Volume, format!("/os-quota-sets/{}?usage=true", self.project), "quota_set");
        let network = of(Quota::Network, format!("/v2.0/quotas/{}/details.json", self.project), "quota");
        let used = |from: &Value, names: &[&str], key: &str| -> Vec<Value> {
            names.iter().map(|n| json!([n, from[*n][key], from[*n]["reserved"]])).collect()
        };
        json!([
            used(&compute, &["instances", "cores", "ram"], "in_use"),
            used(&volume, &["volumes", "gigabytes"], "in_use"),
            used(&network, &["port", "floatingip", "security_group", "security_group_rule"], "used"),
        ])
    }

    /// One of its scripts; whether it did what it should.
    fn run(name: &str, arguments: &[&str]) -> bool {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testbeds/openstack");
        let mut command = Command::new(folder.join(name));
        // A new seed belongs beside its state, never into the checkout.
        if let Some(home) = std::env::var_os("HOME") {
            command.env("OSTB_SEED", PathBuf::from(home).join(".cache/provisor-testbeds/openstack.seed.sql.gz"));
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn script(name: &str, arguments: &[&str]) {
        assert!(Self::run(name, arguments), "{name} {arguments:?} failed");
    }

    /// A fault of the whole cloud.
    pub(super) fn fault(arguments: &[&str]) {
        Self::script("fault.sh", arguments);
    }

    /// A fault that strikes so many times. A daemon counts by the whole entry for as long as it lives, so each run has a
    /// word of its own.
    pub(super) fn fault_times(operation: &str, count: u32) {
        Self::script("fault.sh", &[operation, &format!("error=of-{}", std::process::id()), &format!("count={count}")]);
    }

    /// Freezes a daemon.
    pub(super) fn freeze(daemon: &str) {
        Self::script("fault.sh", &["freeze", daemon]);
    }

    /// Lets it go on.
    pub(super) fn thaw(daemon: &str) {
        Self::script("fault.sh", &["thaw", daemon]);
    }

    /// Ends daemons.
    pub(super) fn stop(daemons: &[&str]) {
        Self::script("down.sh", daemons);
    }

    /// Starts what does not run.
    pub(super) fn start() {
        Self::script("up.sh", &[]);
    }

    /// Waits until every service of Nova, Cinder and Neutron counts as up again.
    pub(super) fn all_up(&self) -> bool {
        let up = |types: &[&str], path: &str, key: &str, good: &dyn Fn(&Value) -> bool| {
            list(&self.admin.ask(types, "GET", path, None).is(200), key).iter().all(good)
        };
        up(&["compute"], "/os-services", "/services", &|s| s["state"] == "up")
            && up(&["block-storage", "volumev3"], "/os-services", "/services", &|s| s["state"] == "up")
            && up(&["network"], "/v2.0/agents", "/agents", &|a| a["alive"] == true)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for daemon in ["rabbitmq", "nova-api", "neutron-server", "cinder-api", "keystone", "guests"] {
            Self::run("fault.sh", &["thaw", daemon]);
        }
        Self::run("fault.sh", &["clear"]);
        Self::run("up.sh", &[]);
        let restore = std::panic::AssertUnwindSafe(|| {
            self.restore(Quota::Compute, &["instances", "cores", "ram"]);
            self.restore(Quota::Volume, &["volumes", "gigabytes"]);
            self.restore(Quota::Network, &["port", "floatingip", "security_group", "security_group_rule"]);
        });
        let _ = std::panic::catch_unwind(restore);
    }
}

//! Several processes on one PostgreSQL: those that answer and those that work, each as a user starts it.

use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::house::{Folder, LIMIT, command, ended, signal};
use crate::outside::{Cloud, Http, assert_balanced, cluster, tenant, text, wait, wait_up_to};
use crate::postgres::database;
use crate::recovery::Sky;

const LEASE_SECONDS: u64 = 2;
pub(crate) const TOKEN: &str = "pvr_processes";

/// One `api` or `worker`, killed with its test.
struct Process {
    name: String,
    child: Child,
}

impl Process {
    fn start(folder: &Folder, role: &str, number: usize) -> Self {
        let name = format!("{role}-{number}");
        let log = std::fs::File::create(folder.0.join(format!("{name}.log"))).unwrap();
        let mut process = command(&folder.0);
        process.args([role, "--data", &name, "--set", "secrets.key_file=key", "--set", "log.level=debug"]);
        if role == "api" {
            process.args(["--listen", "127.0.0.1:0"]);
        }
        let child = process.env("PROVISOR_AUTH__BOOTSTRAP_TOKEN", TOKEN).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { name, child }
    }

    fn http(&self, folder: &Folder) -> Http {
        let file = folder.0.join(&self.name).join("listen");
        let address = wait("it listens", || std::fs::read_to_string(&file).ok().filter(|a| !a.is_empty()));
        Http::open(&format!("http://{address}")).with_token(TOKEN)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A database, two that answer and as many workers as asked for.
pub(crate) struct Stage {
    pub(crate) url: String,
    apis: Vec<(Process, Http)>,
    workers: Vec<Process>,
    sky: Sky,
    folder: Folder,
}

impl Stage {
    pub(crate) fn set(workers: usize) -> Option<Self> {
        let url = database()?;
        let folder = Folder::new();
        let text = format!("[database]\nurl = \"{url}\"\n[worker]\nlease_seconds = {LEASE_SECONDS}\n");
        folder.write("provisor.toml", &text);
        let sky = Sky::apart(&folder);
        let apis = (1..=2).map(|n| Process::start(&folder, "api", n)).collect::<Vec<_>>();
        let workers = (1..=workers).map(|n| Process::start(&folder, "worker", n)).collect();
        let apis = apis
            .into_iter()
            .map(|api| {
                let http = api.http(&folder);
                (api, http)
            })
            .collect();
        Some(Self { url, apis, workers, sky, folder })
    }

    /// Where one that answers listens.
    pub(crate) fn address(&self, number: usize) -> String {
        std::fs::read_to_string(self.folder.0.join(&self.apis[number].0.name).join("listen")).unwrap()
    }

    pub(crate) fn http(&self, number: usize) -> &Http {
        &self.apis[number].1
    }

    pub(crate) fn register(&self, settings: &str) {
        let text = cluster("sim-1", &self.sky.endpoint(), settings);
        let entry: serde_json::Value = serde_saphyr::from_str::<Vec<serde_json::Value>>(&text).unwrap().remove(0);
        self.http(0).post("/api/clusters", &entry).is(201);
        let entry: serde_json::Value =
            serde_saphyr::from_str::<serde_json::Value>(&tenant(1000, 50)).unwrap()["tenants"][0].clone();
        self.http(0).post("/api/tenants", &entry).is(201);
    }

    /// Asks both in turn for servers.
    fn ask(&self, names: &[String]) -> Vec<String> {
        let ask = |(number, name): (usize, &String)| {
            let body = json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu-west-1", "image": "debian-12",
                "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}});
            text(&self.http(number % 2).post("/api/requests", &body).is(202), "/id").to_owned()
        };
        names.iter().enumerate().map(ask).collect()
    }

    fn all_are(&self, ids: &[String], state: &str) {
        let good = || {
            let requests = self.http(1).requests();
            ids.iter().all(|id| requests.iter().any(|r| r["id"] == id.as_str() && r["state"] == state))
        };
        wait_up_to(LIMIT, state, || good().then_some(()));
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

#[test]
fn two_that_answer_and_two_that_work_are_one_provisor() {
    let Some(mut stage) = Stage::set(2) else { return };
    stage.register("");
    // At once, by the other one: what one has registered all know.
    let ids = stage.ask(&names("a", 10));
    stage.all_are(&ids, "completed");
    let act = |number: usize, id: &str, action: &str| stage.http(number).act(id, action);
    act(1, &ids[0], "suspend");
    stage.http(0).reaches(&ids[0], "suspended");
    act(0, &ids[0], "reactivate");
    stage.http(1).reaches(&ids[0], "completed");
    act(1, &ids[1], "deprovision");
    stage.http(0).reaches(&ids[1], "rolled_back");
    // A change of the cluster by one is a change for all.
    stage.http(1).send("PATCH", "/api/clusters/sim-1", &[], Some(json!({"provisioning_enabled": false}).to_string())).is(200);
    let waiting = stage.ask(&names("late", 1));
    wait("it waits for the cluster", || {
        let request = stage.http(0).request(&waiting[0]);
        (request["waiting_for"]["reason"] == "cluster_health").then_some(())
    });
    stage.http(0).send("PATCH", "/api/clusters/sim-1", &[], Some(json!({"provisioning_enabled": true}).to_string())).is(200);
    stage.all_are(&waiting, "completed");
    let cloud = stage.sky.open();
    assert_balanced(stage.http(0), &[Cloud { http: &cloud, name: "sim-1" }]);
    for process in stage.workers.iter_mut().chain(stage.apis.iter_mut().map(|(api, _)| api)) {
        signal(&process.child, "TERM");
        assert_eq!(ended(&mut process.child), 0, "{}", process.name);
    }
}

#[test]
fn a_worker_that_is_killed_or_frozen_beyond_its_lease_harms_nothing() {
    let Some(mut stage) = Stage::set(2) else { return };
    stage.register(", latency: {default: {fixed_ms: 150}}");
    let ids = stage.ask(&names("k", 12));
    let begun = |stage: &Stage| stage.http(0).requests().iter().filter(|r| r["state"] != "queued").count();
    wait("work has begun", || (begun(&stage) >= 6).then_some(()));
    // Frozen beyond the lease with calls in flight, while the other goes on.
    signal(&stage.workers[0].child, "STOP");
    let late = stage.ask(&names("l", 4));
    stage.all_are(&late, "completed");
    stage.all_are(&ids, "completed");
    signal(&stage.workers[0].child, "CONT");
    // Killed in the middle; a new one takes its place.
    let last = stage.ask(&names("m", 8));
    wait("work has begun again", || (begun(&stage) >= 20).then_some(()));
    stage.workers[1].child.kill().unwrap();
    stage.workers[1].child.wait().unwrap();
    stage.workers.push(Process::start(&stage.folder, "worker", 3));
    stage.all_are(&last, "completed");
    // What a frozen worker's last calls made is released within the sweep of late arrivals.
    let cloud = stage.sky.open();
    let held = || Cloud { http: &cloud, name: "sim-1" }.live().len();
    wait_up_to(Duration::from_mins(1), "nothing is left over", || (held() == 24 * 5).then_some(()));
    assert_balanced(stage.http(0), &[Cloud { http: &cloud, name: "sim-1" }]);
}

//! Many clients at once want what is there only once: the last unit of quota, the last room of a cluster,
//! one idempotency key. Each client is a thread with a connection of its own.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::house::{Server, vps};
use crate::outside::{Answer, Cloud, Http, assert_balanced, cluster, list, number, tenant, text, wait};

/// Clients of one race.
const CLIENTS: usize = 64;

/// A specification of one server of one vCPU.
fn one(name: &str) -> Value {
    json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu-west-1", "image": "debian-12",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}})
}

/// Lets all clients go at the same moment; answers what each got.
fn race<T: Send>(server: &Server, go: impl Fn(usize, &Http) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(CLIENTS);
    let client = |number: usize| {
        let http = Http::of(server);
        // The connection is there before the race begins.
        http.get("/health/live");
        start.wait();
        go(number, &http)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    })
}

/// Watches while something else happens that a number never rises above its limit.
fn watched<T>(server: &Server, measure: impl Fn(&Http) -> i64 + Sync, limit: i64, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let http = Http::of(server);
            let (mut most, mut looks) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                most = most.max(measure(&http));
                looks += 1;
            }
            (most, looks)
        });
        let done = work();
        over.store(true, Ordering::SeqCst);
        let (most, looks) = watcher.join().unwrap();
        assert!(most <= limit, "{most} of {limit}");
        assert!(looks > 0);
        done
    })
}

fn used_cpu(http: &Http) -> i64 {
    let quota = http.get("/api/tenants/acme/quota");
    let cpu = list(&quota, "/dimensions").iter().find(|d| d["name"] == "cpu").unwrap();
    number(cpu, "/used")
}

/// Reserved and used vCPU of the cluster.
fn taken_cpu(http: &Http) -> i64 {
    let cluster = http.get("/api/clusters/sim-1");
    number(&cluster, "/capacity/cpu/reserved") + number(&cluster, "/capacity/cpu/used")
}

/// A server where three of four units are taken; quota and capacity as given.
fn world(quota: u32, capacity: &str) -> Server {
    let server = Server::start();
    let holders: String = (1..=3).map(|n| vps(&format!("holder-{n}"), "")).collect();
    let clusters = cluster("sim-1", capacity, ", time_scale: 0");
    server.apply(&format!("{}clusters:\n{clusters}requests:\n{holders}", tenant(quota, 64)), &["--wait"]).exits(0);
    server
}

/// Everything is ended by all clients at once, each its share; nothing is held any more.
fn end_everything(server: &Server) {
    let ids: Vec<String> = Http::of(server).requests().iter().map(|r| text(r, "/id").to_owned()).collect();
    race(server, |number, http| {
        for id in ids.iter().skip(number).step_by(CLIENTS) {
            // What waits is cancelled; what came through meanwhile is deprovisioned.
            let cancelled = http.post(&format!("/api/requests/{id}/cancel"), &json!({}));
            if cancelled.status != 202 {
                assert_eq!(cancelled.is(409)["code"], "state_conflict");
                wait("it can be deprovisioned", || {
                    let answer = http.post(&format!("/api/requests/{id}/deprovision"), &json!({}));
                    (answer.status == 202).then_some(())
                });
            }
        }
    });
    let http = Http::of(server);
    for id in &ids {
        http.reaches(id, "rolled_back");
    }
    assert_balanced(&http, &[Cloud { http: &http, name: "sim-1" }]);
    assert_eq!((used_cpu(&http), taken_cpu(&http)), (0, 0));
}

#[test]
fn the_last_unit_of_quota_goes_to_one() {
    let server = world(4, "");
    let answers: Vec<Answer> =
        watched(&server, used_cpu, 4, || race(&server, |n, http| http.post("/api/requests", &one(&format!("racer-{n}")))));
    let (won, lost): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|a| a.status == 202);
    assert_eq!((won.len(), lost.len()), (1, CLIENTS - 1));
    for answer in lost {
        let problem = answer.is(422);
        assert_eq!(problem["code"], "quota_exceeded");
        assert_eq!(problem["dimensions"], json!([{"name": "cpu", "limit": 4, "used": 4, "requested": 1}]));
    }
    let http = Http::of(&server);
    http.reaches(text(&won[0].json(), "/id"), "completed");
    assert_eq!(http.requests().len(), 4);
    assert_balanced(&http, &[Cloud { http: &http, name: "sim-1" }]);
    end_everything(&server);
    // What was given back can be had again, once.
    let answers = race(&server, |n, http| http.post("/api/requests", &one(&format!("again-{n}"))).status);
    assert_eq!(answers.iter().filter(|status| **status == 202).count(), 4);
}

#[test]
fn the_last_room_of_a_cluster_goes_to_one() {
    let server = world(200, ", capacity: {cpu: 4}");
    let live = |http: &Http| {
        let servers = Cloud { http, name: "sim-1" }.live().into_iter().filter(|(kind, _)| kind == "server").count();
        taken_cpu(http).max(i64::try_from(servers).unwrap())
    };
    watched(&server, live, 4, || {
        let answers = race(&server, |n, http| http.post("/api/requests", &one(&format!("racer-{n}"))).status);
        assert!(answers.iter().all(|status| *status == 202), "{answers:?}");
        let http = Http::of(&server);
        wait("one has the room and the others wait for it", || {
            let requests = http.requests();
            let standing = requests.iter().filter(|r| r["state"] == "completed").count();
            let waiting = requests.iter().filter(|r| r["waiting_for"]["reason"] == "capacity").count();
            assert!(standing <= 4);
            (standing == 4 && waiting == CLIENTS - 1).then_some(())
        });
        end_everything(&server);
    });
}

#[test]
fn twins_with_one_idempotency_key_get_one_request() {
    let server = world(200, "");
    let answers = race(&server, |n, http| {
        let key = n % 8;
        let body = one(&format!("twin-{key}")).to_string();
        let answer = http.send("POST", "/api/requests", &[("idempotency-key", &format!("key-{key}"))], Some(body));
        (key, answer)
    });
    let mut ids: BTreeMap<usize, String> = BTreeMap::new();
    for (key, answer) in answers {
        let id = text(&answer.is(202), "/id").to_owned();
        assert_eq!(answer.header("location"), format!("/api/requests/{id}"));
        assert_eq!(*ids.entry(key).or_insert_with(|| id.clone()), id, "key-{key}");
    }
    let http = Http::of(&server);
    assert_eq!((ids.len(), http.requests().len()), (8, 3 + 8));
    let started = http.events().iter().filter(|e| e["type"] == "provisioning.started").count();
    assert_eq!(started, 3 + 8);
    // A batch with a key, too; and the key means that body and no other.
    let batch = |name: &str| json!({"requests": [one(&format!("{name}-a")), one(&format!("{name}-b"))]}).to_string();
    let answers = race(&server, |_, http| {
        http.send("POST", "/api/requests/batch", &[("idempotency-key", "batch")], Some(batch("batch"))).is(202)["items"].clone()
    });
    let pair = |items: &Value| [text(items, "/0/id").to_owned(), text(items, "/1/id").to_owned()];
    assert!(answers.iter().all(|items| pair(items) == pair(&answers[0])));
    let other = http.send("POST", "/api/requests/batch", &[("idempotency-key", "batch")], Some(batch("other")));
    assert_eq!(other.is(422)["code"], "idempotency_mismatch");
    for id in ids.values() {
        http.reaches(id, "completed");
    }
    assert_eq!(used_cpu(&http), 3 + 8 + 2);
}

//! Backup while at work, restore, and what may happen then (H41), on both databases, through the command line.

use serde_json::Value;

use crate::house::{Done, Folder, LIMIT, Server, command, vps};
use crate::outside::{Cloud, Http, crash, list, number, text, wait, wait_up_to};

/// Servers of `mid` take their time, so that the backup finds one under way.
const WORLD: &str = "tenants:\n- {name: acme}\nclusters:\n- {name: sim-1, provider: simulation, simulates: openstack, \
    region: eu-west-1, settings: {late_create_seconds: 0.2, list_lag_seconds: 0.05, orphan_grace_seconds: 0, \
    sweep_every_seconds: 0.3, retry: {initial_seconds: 0.05, cap_seconds: 0.2}, probe: {every_seconds: 0.1}, \
    latency: {default: {fixed_ms: 5}, create_server: {fixed_ms: 1500}}}}\n";

fn configure(folder: &Folder, url: &str) {
    folder.write("provisor.toml", &format!("[database]\nurl = \"{url}\"\n[worker]\nlease_seconds = 2\n"));
}

fn run(folder: &Folder, arguments: &[&str]) -> Done {
    command(&folder.0).args(["--data", "data"]).args(arguments).output().unwrap().into()
}

/// What is there of a request's tags, by kind.
fn objects(cloud: &Cloud<'_>, request: &str) -> Vec<Value> {
    let inventory = cloud.inventory();
    list(&inventory, "/resources").iter().filter(|r| r["request"] == request && r["gone_at"].is_null()).cloned().collect()
}

/// The whole story. `elsewhere`: where the copy is taken back, when not in the same place.
pub(crate) fn a_restored_store_misses_nothing_and_releases_nothing_unknown(url: &str, elsewhere: Option<&str>) {
    let folder = Folder::new();
    configure(&folder, url);
    let server = Server::start_in(folder);
    server.apply(&format!("{WORLD}requests:\n{}{}", vps("db", ""), vps("web", "")), &["--wait"]).exits(0);
    server.apply(&format!("requests:\n{}", vps("mid", "")), &[]).exits(0);
    let http = Http::of(&server);
    let mid = server.run(&["get", "mid", "-o", "json"]).exits(0).json();
    let mid = text(&mid, "/id").to_owned();
    wait("mid makes its server", || http.resources(&mid).iter().any(|r| r["kind"] == "server").then_some(()));
    let done = server.run(&["backup", "copy", "-o", "json"]).exits(0).json();
    assert!(number(&done, "/bytes") > 0 && text(&done, "/key_file").contains("data"), "{done}");
    assert!(server.run(&["backup", "copy"]).exits(2).err.contains("already"), "nothing is written over");

    // What comes after the backup is lost with the store, but not at the backend.
    server.apply(&format!("requests:\n{}", vps("late", "")), &["--wait"]).exits(0);
    http.reaches(&mid, "completed");
    let late = text(&server.run(&["get", "late", "-o", "json"]).exits(0).json(), "/id").to_owned();
    let page = http.get("/api/events?limit=500");
    let cursor = text(&page, "/next_cursor").to_owned();
    assert!(list(&page, "/items").iter().all(|e| e["epoch"] == 1), "{page:#}");
    let folder = crash(server);

    let restored = if let Some(url) = elsewhere {
        configure(&folder, url);
        run(&folder, &["restore", "copy", "-o", "json"])
    } else {
        let held = run(&folder, &["restore", "copy"]).exits(2);
        assert!(held.err.contains("already"), "{held:?}");
        run(&folder, &["restore", "copy", "--replace", "-o", "json"])
    };
    let restored = restored.exits(0).json();
    assert_eq!((number(&restored, "/epoch"), number(&restored, "/reopened")), (2, 1), "{restored:#}");
    let server = Server::start_in(folder);
    let http = Http::of(&server);
    let cloud = Cloud { http: &http, name: "sim-1" };
    let unknown: Vec<&str> = list(&restored, "/unknown").iter().map(|u| text(u, "/provider_id")).collect();
    let of_late = objects(&cloud, &late);
    assert_eq!(of_late.len(), 5);
    assert!(of_late.iter().all(|o| unknown.contains(&text(o, "/id"))), "{restored:#}");

    // What was under way is found by its tag, not made again.
    let mid_now = wait_up_to(LIMIT, "mid is completed again", || {
        let request = http.request(&mid);
        (request["state"] == "completed").then_some(request)
    });
    let servers: Vec<Value> = objects(&cloud, &mid).into_iter().filter(|o| o["kind"] == "server").collect();
    assert_eq!((servers.len(), number(&servers[0], "/created_count")), (1, 1), "{mid_now:#}");

    // A cursor of before, beyond the restored log's end, still gets all that is new.
    server.apply(&format!("requests:\n{}", vps("new", "")), &["--wait"]).exits(0);
    let after = http.get(&format!("/api/events?limit=500&after={cursor}"));
    let new: Vec<&Value> = list(&after, "/items").iter().filter(|e| e["data"]["request"]["name"] == "new").collect();
    assert_eq!(new.first().map(|e| (text(e, "/type"), number(e, "/epoch"))), Some(("provisioning.started", 2)), "{after:#}");
    assert_eq!(new.last().map(|e| text(e, "/type")), Some("provisioning.completed"));

    // Nothing unknown is released, and nothing else either on a cluster with something unknown.
    for _ in 0..3 {
        let swept = server.run(&["sweep", "sim-1", "-o", "json"]).exits(0).json();
        assert_eq!(swept["released"], serde_json::json!([]), "{swept:#}");
    }
    assert_eq!(objects(&cloud, &late).len(), 5);

    // An administrator says what goes, by the backend's id; what somebody owns is not taken at his word either.
    let owned = text(&servers[0], "/id");
    let refused = server.run(&["sweep", "sim-1", "--release", owned]).exits(4);
    assert!(refused.err.contains("orphaned object"), "{refused:?}");
    let order = ["server", "floating_ip", "port", "volume", "security_group"];
    let kind = |object: &Value| order.iter().position(|kind| object["kind"] == *kind).unwrap();
    let mut going = list(&restored, "/unknown").to_vec();
    going.sort_by_key(kind);
    for object in &going {
        let id = text(object, "/provider_id");
        let swept = server.run(&["sweep", "sim-1", "--release", id, "-o", "json"]).exits(0).json();
        assert_eq!(swept["released"], serde_json::json!([id]), "{swept:#}");
    }
    assert_eq!(objects(&cloud, &late).len(), 0);
    let swept = server.run(&["sweep", "sim-1", "-o", "json"]).exits(0).json();
    assert_eq!((&swept["alarm"], number(&swept, "/balance/unexplained")), (&Value::Null, 0), "{swept:#}");
    server.stop();
}

#[test]
fn h41_a_restored_sqlite_misses_nothing_and_releases_nothing_unknown() {
    a_restored_store_misses_nothing_and_releases_nothing_unknown("sqlite://data/provisor.db", None);
}

#[test]
fn what_cannot_be_restored_is_refused_and_changes_nothing() {
    let server = Server::start();
    server.apply("tenants:\n- {name: acme}\n", &[]).exits(0);
    server.run(&["backup", "copy"]).exits(0);
    let held = server.run(&["restore", "copy", "--replace"]).exits(2);
    assert!(held.err.contains("is held by"), "{held:?}");
    let folder = server.stop();
    let before = std::fs::read(folder.0.join("data/provisor.db")).unwrap();
    folder.write("text", "not a database at all, but long enough to have a header that could be one ...................");
    let refused = run(&folder, &["restore", "text", "--replace"]).exits(2);
    assert!(refused.err.contains("is not a database of Provisor"), "{refused:?}");
    run(&folder, &["restore", "nothing", "--replace"]).exits(2);
    let mut torn = std::fs::read(folder.0.join("copy")).unwrap();
    let (from, to) = (torn.len() / 2, torn.len());
    torn[from..to].fill(7);
    std::fs::write(folder.0.join("torn"), torn).unwrap();
    let torn = run(&folder, &["restore", "torn", "--replace"]).exits(2);
    assert!(torn.err.contains("damaged") || torn.err.contains("malformed"), "{torn:?}");
    assert_eq!(std::fs::read(folder.0.join("data/provisor.db")).unwrap(), before);
    run(&folder, &["restore", "copy", "--replace"]).exits(0);
    let aside = std::fs::read_dir(folder.0.join("data")).unwrap().filter_map(Result::ok);
    assert!(aside.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("provisor.db.before-restore-")));
}

#[test]
fn of_many_backups_to_one_file_at_once_one_is_made_and_it_is_whole() {
    let server = Server::start();
    server.apply("tenants:\n- {name: acme}\n", &[]).exits(0);
    let done: Vec<i32> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| server.run(&["backup", "copy"]).exit)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!((done.iter().filter(|e| **e == 0).count(), done.iter().filter(|e| **e == 2).count()), (1, 5), "{done:?}");
    let folder = server.stop();
    let left =
        std::fs::read_dir(&folder.0).unwrap().filter_map(Result::ok).filter(|e| e.file_name().to_string_lossy().contains("part"));
    assert_eq!(left.count(), 0, "nothing half is left over");
    run(&folder, &["restore", "copy", "--replace"]).exits(0);
}

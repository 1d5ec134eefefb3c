//! The whole product against a real OpenStack, where one is given by its usual environment (`OS_AUTH_URL`, …):
//! the example from the repository, a failure, a polite end and a kill in the middle, and nothing left behind.
//!
//! What the project holds is asked of its own APIs. Objects that another installation has tagged are left out
//! of account, because a project may be shared; everything else counts, with a tag or without.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::house::{Done, Folder, Server, command};
use crate::outside::{Http, assert_log, crash, list, number, text, wait_up_to};
use crate::timeline::assert_adds_up;

mod faults;
mod mistakes;
mod project;
mod proxy;
mod shows;
mod testbed;

use project::{Broom, Project, variable};

/// A run of three servers, from nothing to verified.
const LONG: Duration = Duration::from_mins(4);
/// The same as the command line takes it.
const LONG_SECONDS: &str = "240";

/// What the command line reads the credentials from.
fn credentials() -> String {
    let keys = ["username", "password", "project_name", "user_domain_name", "project_domain_name"];
    let map = keys.map(|k| (k.to_owned(), Value::from(variable(&format!("OS_{}", k.to_uppercase())))));
    Value::Object(map.into_iter().collect()).to_string()
}

/// A server that may probe the testbed's floating IPs, which are loopback addresses.
fn start() -> Server {
    let folder = Folder::new();
    folder.write("provisor.toml", "[probes]\nallow_cidrs = [\"127.0.0.0/8\"]\n");
    Server::start_in(folder)
}

fn apply(server: &Server, manifest: &str, more: &[&str]) -> Done {
    server.folder.write("manifest.yaml", manifest);
    let mut apply = command(&server.folder.0);
    apply.args(["--data", "data", "apply", "-f", "manifest.yaml"]).args(more).env("OPENSTACK_CREDENTIALS", credentials());
    apply.output().unwrap().into()
}

/// The example of the repository, at the environment's address.
fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/openstack.yaml");
    let example = std::fs::read_to_string(path).unwrap();
    example.replace("http://127.0.0.1:15000/v3", &variable("OS_AUTH_URL"))
}

/// Its tenant and cluster, without its requests. A create that a kill left in doubt is not watched for two
/// minutes, as it is by default.
fn world() -> String {
    let example = example();
    let world = example.split("\nrequests:").next().unwrap();
    world.replace("      network: private", "      late_create_seconds: 10\n      network: private")
}

fn small(name: &str, image: &str) -> String {
    format!(
        "- {{name: {name}, tenant: acme, kind: vps, region: eu-west-1, image: {image}, \
         size: {{cpu: 1, memory_gb: 1, storage_gb: 5}}}}\n"
    )
}

/// The beginning of every tag of this installation; its events name it.
fn prefix(http: &Http) -> String {
    format!("pvr-{}-", text(&http.events()[0], "/installation"))
}

/// Each endpoint answers a client that knows nothing of Provisor.
#[track_caller]
fn assert_answers(request: &Value) {
    let endpoints = list(request, "/endpoints");
    assert!(!endpoints.is_empty(), "{request:#}");
    for endpoint in endpoints {
        let url = text(endpoint, "/url");
        let host = url.split("://").nth(1).unwrap().trim_end_matches('/');
        match text(endpoint, "/name") {
            "ssh" => {
                let mut stream = TcpStream::connect(format!("{host}:22")).unwrap_or_else(|e| panic!("{url}: {e}"));
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut banner = [0; 4];
                stream.read_exact(&mut banner).unwrap();
                assert_eq!(&banner, b"SSH-", "{url}");
            }
            "http" => {
                let answer = Http::open(&format!("http://{host}")).send("GET", "/", &[], None);
                assert!((200..400).contains(&answer.status), "{answer:?}");
            }
            // Its certificate is nobody's here; that it listens is enough.
            _ => drop(TcpStream::connect(format!("{host}:443")).unwrap_or_else(|e| panic!("{url}: {e}"))),
        }
    }
}

/// Everything is released, and the project is as it was before.
fn leaves_nothing(server: &Server, project: &Project, before: &BTreeSet<String>) {
    let http = Http::of(server);
    let ours = prefix(&http);
    let live: Vec<Value> = http.requests().into_iter().filter(|r| r["state"] != "rolled_back").collect();
    for request in &live {
        http.act(text(request, "/id"), "deprovision");
    }
    wait_up_to(LONG, "everything is released", || http.requests().iter().all(|r| r["state"] == "rolled_back").then_some(()));
    let left: Vec<String> = project.holds(Some(&ours)).difference(before).cloned().collect();
    assert!(left.is_empty(), "left in the project: {left:#?}");
    for request in http.requests() {
        let rows = http.resources(text(&request, "/id"));
        assert!(rows.iter().all(|r| r["state"] == "released"), "{rows:#?}");
    }
    let quota = http.get("/api/tenants/acme/quota");
    assert!(list(&quota, "/dimensions").iter().all(|d| number(d, "/used") == 0), "{quota:#}");
    assert_log(&http);
}

#[test]
fn the_example_completes_answers_and_leaves_nothing_and_a_wrong_image_is_named() {
    let Some(project) = Project::of_environment() else { return };
    let before = project.holds(None);
    let broom = Broom { project: &project, ours: RefCell::default() };
    let server = start();
    apply(&server, &example(), &[]).exits(0);
    let http = Http::of(&server);
    *broom.ours.borrow_mut() = prefix(&http);
    apply(&server, &example(), &["--wait", "--timeout", LONG_SECONDS]).exits(0);
    let requests = http.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(request["state"], "completed", "{request:#}");
        assert_answers(request);
        assert_adds_up(&http, text(request, "/id"));
    }
    assert_eq!(project.servers(&prefix(&http)), 3);
    // What a running service uses is for the cloud's administrators: told, and not an error.
    let told = server.run(&["metrics", "db", "-o", "json"]).exits(0).json();
    assert!(text(&told, "/unavailable/cpu_percent").contains("administrators"), "{told:#}");
    let timeline = http.timeline(text(&requests[0], "/id"));
    let ready = list(&timeline, "/timeline").iter().find(|e| e["event"] == "ready").unwrap();
    assert!(text(ready, "/metadata/readiness_summary").contains("; flavor m1."), "{ready:#}");
    let bad = format!("requests:\n{}", small("bad", "no-such-image"));
    apply(&server, &bad, &["--wait", "--timeout", LONG_SECONDS]).exits(1);
    let bad = http.requests().into_iter().find(|r| r["name"] == "bad").unwrap();
    let bad = http.reaches(text(&bad, "/id"), "rolled_back");
    assert_eq!((&bad["outcome"], &bad["error"]["class"]), (&json!("failed"), &json!("permanent")), "{bad:#}");
    assert_eq!(bad["error"]["code"], "image_not_found");
    assert!(text(&bad, "/error/message").contains("no-such-image"), "{bad:#}");
    assert_eq!(project.servers(&prefix(&http)), 3);
    leaves_nothing(&server, &project, &before);
}

/// How many operations that made something have succeeded, over all requests.
fn made(http: &Http) -> usize {
    let created = |r: &Value| http.resources(text(r, "/id")).iter().filter(|row| row["state"] == "created").count();
    http.requests().iter().map(created).sum()
}

#[test]
fn a_polite_end_and_a_kill_in_the_middle_lose_and_double_nothing() {
    let Some(project) = Project::of_environment() else { return };
    let before = project.holds(None);
    let broom = Broom { project: &project, ours: RefCell::default() };
    let mut server = start();
    let requests: String = ["one", "two", "three"].map(|n| small(n, "debian-12")).concat();
    apply(&server, &format!("{}\nrequests:\n{requests}", world()), &[]).exits(0);
    let http = Http::of(&server);
    *broom.ours.borrow_mut() = prefix(&http);
    wait_up_to(LONG, "something is made", || (made(&http) >= 4).then_some(()));
    server.signal("TERM");
    assert_eq!(server.ended(), 0, "{}", server.log());
    let server = Server::start_in(std::mem::replace(&mut server.folder, Folder("none".into())));
    let http = Http::of(&server);
    let then = made(&http);
    assert!(then < 15, "it was over before it was ended");
    wait_up_to(LONG, "more is made", || (made(&http) > then).then_some(()));
    let server = Server::start_in(crash(server));
    let http = Http::of(&server);
    wait_up_to(LONG, "all three are completed", || {
        let requests = http.requests();
        let open = requests.iter().find(|r| !["completed", "rolled_back"].contains(&text(r, "/state")));
        open.is_none().then_some(())
    });
    for request in http.requests() {
        assert_eq!(request["state"], "completed", "{request:#}");
        assert_answers(&request);
        assert_adds_up(&http, text(&request, "/id"));
    }
    let ours = prefix(&http);
    assert_eq!(project.servers(&ours), 3);
    let made = project.holds(Some(&ours)).difference(&before).count();
    assert_eq!(made, 15, "a server, a volume, a port, a floating IP and a group for each of three, and no more");
    leaves_nothing(&server, &project, &before);
}

//! What must be seen of it at least once, too long for every run: `cargo xtask openstack shows`.
//!
//! Fifty servers at once; the worker killed at fifty random moments while every create's answer is lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::project::{Broom, Project};
use super::proxy::{Proxy, Trouble};
use super::testbed::{Quota, Testbed};
use super::{apply, assert_answers, prefix, start, variable};
use crate::house::Server;
use crate::outside::{Http, assert_log, crash, list, number, text, wait_up_to};

/// How a cluster of a show is set up; `endpoint` and `settings` are further entries of theirs, with a comma before.
pub(super) fn manifest(endpoint: &str, settings: &str) -> String {
    format!(
        "tenants:\n- {{name: acme, quota: {{cpu: 20000, memory_gb: 2000, storage_gb: 90000, requests: {{vps: 60}}}}, max_concurrent: 50}}\n\
         clusters:\n- {{name: os, provider: openstack, region: eu-west-1, capacity: {{cpu: 20000, memory_gb: 2000, storage_gb: 90000, slots: 60}}, \
         endpoint: {{auth_url: '{}', region_name: RegionOne{endpoint}}}, credentials_env: OPENSTACK_CREDENTIALS, \
         settings: {{network: private, external_network: public, images: {{debian-12: tiny}}, list_lag_seconds: 1{settings}}}}}\n",
        variable("OS_AUTH_URL")
    )
}

/// A request's entry.
pub(super) fn vps(name: &str, more: &str) -> String {
    format!(
        "- {{name: {name}, tenant: acme, kind: vps, region: eu-west-1, image: debian-12, \
         size: {{cpu: 1, memory_gb: 1, storage_gb: 1}}{more}}}\n"
    )
}

/// All requests of the tenant are over: completed, or rolled back.
fn all_over(http: &Http) -> Option<Vec<Value>> {
    let requests = http.requests();
    let over = |r: &Value| ["completed", "rolled_back"].contains(&text(r, "/state"));
    requests.iter().all(over).then_some(requests)
}

/// Deprovisions what stands and waits until all is gone.
fn release_all(http: &Http, limit: Duration) {
    for request in http.requests().iter().filter(|r| r["state"] != "rolled_back") {
        http.act(text(request, "/id"), "deprovision");
    }
    wait_up_to(limit, "everything is released", || {
        std::thread::sleep(Duration::from_millis(500));
        http.requests().iter().all(|r| r["state"] == "rolled_back").then_some(())
    });
}

/// Nothing is left in the project, its usage is as before, and nothing is held in the books.
fn assert_clean(http: &Http, project: &Project, testbed: &Testbed, before: (&std::collections::BTreeSet<String>, &Value)) {
    let left: Vec<String> = project.holds(Some(&prefix(http))).difference(before.0).cloned().collect();
    assert!(left.is_empty(), "left in the project: {left:#?}");
    // Nova counts what it deletes a moment longer.
    let (begin, mut usage) = (Instant::now(), testbed.usage());
    while usage != *before.1 && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(200));
        usage = testbed.usage();
    }
    assert_eq!(usage, *before.1, "the usage is not as before");
    let quota = http.get("/api/tenants/acme/quota");
    assert!(list(&quota, "/dimensions").iter().all(|d| number(d, "/used") == 0), "{quota:#}");
    assert_log(http);
}

/// The project's limits for fifty servers.
pub(super) fn widen(testbed: &Testbed) {
    testbed.limit(Quota::Compute, &json!({"instances": 60, "cores": 120, "ram": 200_000}));
    testbed.limit(Quota::Volume, &json!({"volumes": 60, "gigabytes": 2000}));
    testbed.limit(Quota::Network, &json!({"floatingip": 60, "port": 500, "security_group": 70, "security_group_rule": 1000}));
}

#[allow(clippy::print_stderr)] // What was seen is the point of a show.
fn say(words: &str) {
    eprintln!("{words}");
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn fifty_servers_at_once_answer_and_leave_nothing() {
    let Some(project) = Project::alone() else { return };
    let testbed = Testbed::of(&project);
    widen(&testbed);
    let (holds, usage) = (project.holds(None), testbed.usage());
    let broom = Broom { project: &project, ours: RefCell::default() };
    let server = start();
    let requests: String = (0..50).map(|n| vps(&format!("v{n}"), ", ports: [22, 80]")).collect();
    // The test bed has one process for each API: what it cannot take at once waits here, and not there.
    apply(&server, &manifest("", ", max_in_flight: 10"), &[]).exits(0);
    let begin = Instant::now();
    apply(&server, &format!("requests:\n{requests}"), &[]).exits(0);
    let http = Http::of(&server);
    *broom.ours.borrow_mut() = prefix(&http);
    let mut most = 0;
    let done = wait_up_to(Duration::from_mins(20), "all fifty are over", || {
        std::thread::sleep(Duration::from_millis(500));
        let working = ["allocating", "configuring", "activating", "verifying"];
        let in_work = http.requests().iter().filter(|r| working.contains(&text(r, "/state"))).count();
        most = most.max(in_work);
        all_over(&http)
    });
    let took = begin.elapsed();
    let states: BTreeMap<&str, usize> = done.iter().fold(BTreeMap::new(), |mut all, r| {
        *all.entry(text(r, "/state")).or_default() += 1;
        all
    });
    say(&format!("50 servers: {states:?} after {:.1} s, at most {most} in work at once", took.as_secs_f64()));
    let retried: i64 = done.iter().flat_map(|r| list(r, "/steps").to_vec()).map(|s| number(&s, "/retries")).sum();
    say(&format!("retries over all: {retried}"));
    for request in &done {
        assert_eq!(request["state"], "completed", "{request:#}");
        assert_answers(request);
    }
    assert_eq!(project.servers(&prefix(&http)), 50);
    let begin = Instant::now();
    release_all(&http, Duration::from_mins(20));
    say(&format!("50 servers released after {:.1} s", begin.elapsed().as_secs_f64()));
    assert_clean(&http, &project, &testbed, (&holds, &usage));
}

/// How many servers a run of kills makes at once.
const BATCH: usize = 5;
/// How often it is killed.
const KILLS: usize = 50;

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn fifty_kills_at_random_moments_double_and_lose_nothing() {
    let Some(project) = Project::alone() else { return };
    let testbed = Testbed::of(&project);
    let (holds, usage) = (project.holds(None), testbed.usage());
    let broom = Broom { project: &project, ours: RefCell::default() };
    let (proxy, endpoint) = between(&project, Trouble::Creates);
    let mut server = start();
    apply(&server, &manifest(&endpoint, ", late_create_seconds: 5, probe: {every_seconds: 1}"), &[]).exits(0);
    // From the system's own randomness; the seed is told, the moments follow from it.
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1);
    say(&format!("seed {seed}"));
    let mut chance = seed;
    let (mut kills, mut round) = (0, 0);
    while kills < KILLS {
        round += 1;
        let names: Vec<String> = (0..BATCH).map(|n| format!("r{round}-{n}")).collect();
        let requests: String = names.iter().map(|n| vps(n, ", ports: [22, 80]")).collect();
        apply(&server, &format!("requests:\n{requests}"), &[]).exits(0);
        *broom.ours.borrow_mut() = prefix(&Http::of(&server));
        let (mut released, limit) = (false, Instant::now() + Duration::from_mins(10));
        loop {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis((chance >> 33) % 3000));
            if kills < KILLS {
                kills += 1;
                server = Server::start_in(crash(server));
            }
            let http = Http::of(&server);
            assert!(Instant::now() < limit, "round {round} does not end: {:#?}", http.requests());
            let Some(done) = all_over(&http) else { continue };
            if released && done.iter().all(|r| r["state"] == "rolled_back") {
                break;
            }
            if !released {
                let ours = prefix(&http);
                let completed: Vec<&Value> = done.iter().filter(|r| r["state"] == "completed").collect();
                assert_eq!(completed.len(), BATCH, "{done:#?}");
                let live = project.holds(Some(&ours)).difference(&holds).count();
                assert_eq!(live, BATCH * 5, "a server, a volume, a port, a floating IP and a group for each, and no more");
                for request in &completed {
                    assert_answers(request);
                }
                for request in completed {
                    http.act(text(request, "/id"), "deprovision");
                }
                released = true;
            }
        }
        say(&format!("round {round}: {BATCH} made and released, {kills} kills so far"));
    }
    say(&format!("answers lost: {:?}", proxy.lost()));
    assert!(proxy.lost().get("servers").is_some_and(|n| *n >= round * BATCH), "{:?}", proxy.lost());
    assert_clean(&Http::of(&server), &project, &testbed, (&holds, &usage));
}

/// A proxy before the project's services, and what puts it there.
fn between(project: &Project, trouble: Trouble) -> (Proxy, String) {
    let root = |types: &[&str]| {
        let url = project.address(types);
        format!("http://{}", url.split('/').nth(2).unwrap_or_default())
    };
    let services = [
        ("compute", root(&["compute"])),
        ("network", root(&["network"])),
        ("volume", root(&["block-storage", "volumev3"])),
        ("image", root(&["image"])),
    ];
    let proxy = Proxy::start(services.into(), trouble);
    let overrides: Vec<String> =
        ["compute", "network", "volume", "image"].iter().map(|s| format!("{s}: 'http://{}/{s}'", proxy.address)).collect();
    (proxy, format!(", overrides: {{{}}}", overrides.join(", ")))
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed_without_a_retry() {
    let Some(project) = Project::alone() else { return };
    let testbed = Testbed::of(&project);
    let (holds, usage) = (project.holds(None), testbed.usage());
    let broom = Broom { project: &project, ours: RefCell::default() };
    let (proxy, endpoint) = between(&project, Trouble::Token(8));
    let server = start();
    apply(&server, &manifest(&endpoint, ", probe: {every_seconds: 1}"), &[]).exits(0);
    let http = Http::of(&server);
    apply(&server, &format!("requests:\n{}", vps("one", ", ports: [22]")), &[]).exits(0);
    *broom.ours.borrow_mut() = prefix(&http);
    let done = wait_up_to(Duration::from_mins(4), "it is over", || all_over(&http));
    assert_eq!(done[0]["state"], "completed", "{done:#?}");
    assert!(list(&done[0], "/steps").iter().all(|step| step["retries"] == 0), "{done:#?}");
    assert!(proxy.refused() > 0, "the token was never refused");
    say(&format!("{} calls were refused for their token, none was lost", proxy.refused()));
    release_all(&http, Duration::from_mins(4));
    assert_clean(&http, &project, &testbed, (&holds, &usage));
}

#[test]
fn every_create_s_answer_is_lost_and_nothing_is_doubled_or_orphaned() {
    let Some(project) = Project::alone() else { return };
    let testbed = Testbed::of(&project);
    let (holds, usage) = (project.holds(None), testbed.usage());
    let broom = Broom { project: &project, ours: RefCell::default() };
    let (proxy, endpoint) = between(&project, Trouble::Creates);
    let server = start();
    apply(&server, &manifest(&endpoint, ", late_create_seconds: 5, probe: {every_seconds: 1}"), &[]).exits(0);
    let http = Http::of(&server);
    let requests: String = (0..2).map(|n| vps(&format!("p{n}"), ", ports: [22, 80, 443]")).collect();
    apply(&server, &format!("requests:\n{requests}"), &[]).exits(0);
    *broom.ours.borrow_mut() = prefix(&http);
    let done = wait_up_to(Duration::from_mins(4), "all are over", || all_over(&http));
    for request in &done {
        assert_eq!(request["state"], "completed", "{request:#}");
        assert_answers(request);
    }
    let lost = proxy.lost();
    say(&format!("answers lost: {lost:?}"));
    for what in ["servers", "volumes", "ports", "floatingips", "security-groups"] {
        assert_eq!(lost.get(what), Some(&2), "{lost:?}");
    }
    assert_eq!(lost.get("security-group-rules"), Some(&6), "{lost:?}");
    let live = project.holds(Some(&prefix(&http))).difference(&holds).count();
    assert_eq!(live, 10, "a server, a volume, a port, a floating IP and a group for each of two, and no more");
    release_all(&http, Duration::from_mins(4));
    assert_clean(&http, &project, &testbed, (&holds, &usage));
}

//! Every fault that the test bed knows, one after the other through the whole product: each request ends completed by
//! a retry, or rolled back within its deadlines with the cause named, and nothing is left.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::project::{Broom, Project};
use super::shows::{manifest, vps};
use super::testbed::{Quota, Testbed};
use super::{apply, assert_answers, prefix, start};
use crate::house::Server;
use crate::outside::{Http, assert_log, list, text, wait_up_to};

/// Deadlines of seconds, so that a fault shows itself soon; the cloud itself needs about ten for a server.
const SETTINGS: &str = ", late_create_seconds: 3, retry: {initial_seconds: 1, cap_seconds: 4, max_retries: 2}, \
    probe: {every_seconds: 1, deadline_seconds: 15}, \
    deadlines: {create_server: 20, wait_server: 40, create_volume: 40, stop_server: 15, start_server: 25, '*': 20}";
/// Longest time in which a request comes to its end by itself.
const ENDS: Duration = Duration::from_mins(8);
/// Longest time from the end of a fault to the end of what is owed.
const OWED: Duration = Duration::from_mins(1);

/// A server, a project, and what it held at first.
struct Stage<'a> {
    server: Server,
    http: Http,
    project: &'a Project,
    testbed: &'a Testbed,
    before: BTreeSet<String>,
    usage: Value,
}

impl<'a> Stage<'a> {
    fn new(project: &'a Project, testbed: &'a Testbed, broom: &Broom<'_>) -> Self {
        let (before, usage) = (project.holds(None), testbed.usage());
        let server = start();
        apply(&server, &manifest("", SETTINGS), &[]).exits(0);
        let http = Http::of(&server);
        apply(&server, &format!("requests:\n{}", vps("first", ", ports: [22]")), &[]).exits(0);
        *broom.ours.borrow_mut() = prefix(&http);
        let stage = Self { server, http, project, testbed, before, usage };
        let first = stage.id("first");
        stage.ends(&first);
        stage.gone("first");
        stage
    }

    fn ask(&self, name: &str, more: &str) -> String {
        apply(&self.server, &format!("requests:\n{}", vps(name, more)), &[]).exits(0);
        self.id(name)
    }

    fn id(&self, name: &str) -> String {
        let found = self.http.requests().into_iter().find(|r| r["name"] == name).unwrap();
        text(&found, "/id").to_owned()
    }

    /// Waits for the end of a request.
    fn ends(&self, id: &str) -> Value {
        let begin = Instant::now();
        let mut last = Value::Null;
        while begin.elapsed() < ENDS {
            last = self.http.request(id);
            if ["completed", "rolled_back"].contains(&text(&last, "/state")) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        panic!("it does not end: {last:#}");
    }

    /// It is completed in spite of the fault, by this many retries at least; then it is released.
    fn completes(&self, name: &str, id: &str, retries: i64) {
        let begin = Instant::now();
        let done = self.ends(id);
        assert_eq!(done["state"], "completed", "{name}: {done:#}");
        assert_answers(&done);
        let retried: i64 = list(&done, "/steps").iter().map(|s| s["retries"].as_i64().unwrap_or(0)).sum();
        assert!(retried >= retries, "{name}: {retried} retries: {done:#}");
        say(name, &format!("completed with {retried} retries, {:.0} s", begin.elapsed().as_secs_f64()));
        self.gone(name);
    }

    /// It is rolled back, and its error has this code and class and names this cause.
    fn fails(&self, name: &str, id: &str, code: &str, class: &str, cause: &str) -> Value {
        let begin = Instant::now();
        let done = self.ends(id);
        say(
            name,
            &format!(
                "{} {}, {:.0} s: {}",
                done["state"],
                done["error"]["code"],
                begin.elapsed().as_secs_f64(),
                done["error"]["message"]
            ),
        );
        assert_eq!(done["state"], "rolled_back", "{name}: {done:#}");
        assert_eq!((&done["error"]["code"], &done["error"]["class"]), (&json!(code), &json!(class)), "{name}: {done:#}");
        let told = done["error"].to_string();
        assert!(told.contains(cause), "{name}: {cause:?} is not in {told}");
        self.clean(name);
        done
    }

    /// What stands is released, and the project is as it was.
    fn gone(&self, name: &str) {
        for request in self.http.requests().iter().filter(|r| ["completed", "suspended"].contains(&text(r, "/state"))) {
            self.http.act(text(request, "/id"), "deprovision");
        }
        self.all_rolled_back(name, Duration::from_mins(3));
        self.clean(name);
    }

    fn all_rolled_back(&self, name: &str, limit: Duration) {
        wait_up_to(limit, &format!("{name}: everything is rolled back"), || {
            std::thread::sleep(Duration::from_millis(200));
            self.http.requests().iter().all(|r| r["state"] == "rolled_back").then_some(())
        });
    }

    fn clean(&self, name: &str) {
        let left: Vec<String> = self.project.holds(Some(&prefix(&self.http))).difference(&self.before).cloned().collect();
        assert!(left.is_empty(), "{name}: left in the project: {left:#?}");
    }

    /// Something is owed while the fault lasts; when it is over, that is done within a minute.
    fn owed_until(&self, name: &str, id: &str, mend: impl FnOnce()) {
        let owing = wait_up_to(ENDS, &format!("{name}: clean-up is owed"), || {
            std::thread::sleep(Duration::from_millis(300));
            let request = self.http.request(id);
            let owed = request["cleanup_owed"].as_array().is_some_and(|owed| !owed.is_empty());
            (owed && request["state"] == "rolling_back").then_some(request)
        });
        let owed = &owing["cleanup_owed"][0];
        assert!(!owed["last_error"].is_null(), "{name}: {owing:#}");
        say(name, &format!("{}; owed: {} {}", owing["error"]["message"], owed["kind"], owed["last_error"]["message"]));
        let begin = Instant::now();
        mend();
        let mended = begin.elapsed();
        self.all_rolled_back(name, OWED);
        say(
            name,
            &format!(
                "rolled back {:.1} s after it was mended ({:.1} s)",
                begin.elapsed().saturating_sub(mended).as_secs_f64(),
                mended.as_secs_f64()
            ),
        );
        self.clean(name);
    }
}

#[allow(clippy::print_stderr)] // What was seen is the point.
fn say(name: &str, words: &str) {
    eprintln!("{name}: {words}");
}

/// The real project with its knobs, and a broom for what a failing test leaves.
fn with_stage(test: impl FnOnce(&Stage<'_>)) {
    let Some(project) = Project::alone() else { return };
    // In this order, so that what is frozen thaws before the broom needs it.
    let broom = Broom { project: &project, ours: RefCell::default() };
    let testbed = Testbed::of(&project);
    let stage = Stage::new(&project, &testbed, &broom);
    test(&stage);
    wait_up_to(Duration::from_secs(20), "the usage is as before", || (testbed.usage() == stage.usage).then_some(()));
    assert_log(&stage.http);
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn servers_that_fail_to_build_are_told_by_their_cause() {
    with_stage(|stage| {
        let label = |spawn: &str| format!(", ports: [22], labels: {{testbed_spawn: '{spawn}'}}");
        let aborted = stage.ask("abort", &label("abort"));
        let done = stage.fails("abort", &aborted, "build_failed", "transient", "aborted");
        let diagnosis = done["error"]["diagnosis"].to_string();
        assert!(diagnosis.contains("action create (req-") && diagnosis.contains("fault 500"), "{diagnosis}");
        let id = stage.ask("reschedule", &label("reschedule"));
        stage.fails("reschedule", &id, "build_failed", "capacity", "Exceeded maximum number of retries");
        let id = stage.ask("slow", &label("hang:8"));
        stage.completes("slow", &id, 0);
        // Cinder tries three times by itself before it says that it failed; the next is ours.
        Testbed::fault_times("cinder.clone_image", 3);
        let id = stage.ask("volume-once", ", ports: [22]");
        stage.completes("volume-once", &id, 1);
        Testbed::fault(&["cinder.clone_image", "error=x"]);
        let id = stage.ask("volume", ", ports: [22]");
        // Its own tries end with no backend left that has not failed, which it says in its message.
        stage.fails("volume", &id, "no_storage_backend", "capacity", "Could not find any available weighted backend");
        Testbed::fault(&["clear"]);
        stage.testbed.limit(Quota::Compute, &json!({"cores": -1, "ram": -1}));
        let huge = format!("requests:\n{}", vps("huge", ", ports: [22]").replace("cpu: 1", "cpu: 4000"));
        apply(&stage.server, &huge, &[]).exits(0);
        stage.fails("huge", &stage.id("huge"), "no_valid_host", "capacity", "No valid host was found");
        stage.testbed.restore(Quota::Compute, &["cores", "ram"]);
    });
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn every_quota_that_is_full_is_named() {
    with_stage(|stage| {
        for (quota, name, cause) in [
            (Quota::Compute, "instances", "instances"),
            (Quota::Compute, "cores", "cores"),
            (Quota::Compute, "ram", "ram"),
            (Quota::Volume, "volumes", "volumes"),
            (Quota::Volume, "gigabytes", "gigabytes"),
            (Quota::Network, "floatingip", "floatingip"),
            (Quota::Network, "port", "port"),
            (Quota::Network, "security_group", "security_group"),
            (Quota::Network, "security_group_rule", "security_group_rule"),
        ] {
            let used = stage.used(name);
            stage.testbed.limit(quota, &json!({name: used}));
            let id = stage.ask(&name.replace('_', "-"), ", ports: [22]");
            stage.fails(name, &id, "quota_exceeded", "capacity", cause);
            stage.testbed.restore(quota, &[name]);
        }
    });
}

impl Stage<'_> {
    /// What the project uses of one thing.
    fn used(&self, name: &str) -> Value {
        let usage = self.testbed.usage();
        let found = usage.as_array().into_iter().flatten().flat_map(|of| of.as_array().cloned().unwrap_or_default());
        found.into_iter().find(|row| row[0] == name).map(|row| row[1].clone()).unwrap()
    }
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn guests_that_do_not_answer_are_told_by_what_stands_between() {
    with_stage(|stage| {
        let id = stage.ask("late", ", ports: [22, 80], labels: {testbed_ssh_after: '4', testbed_http_after: '6'}");
        stage.completes("late", &id, 0);
        for (name, label, cause) in [
            ("never", "testbed_ssh: never", "refused"),
            ("garbage", "testbed_ssh: garbage", "SSH banner"),
            ("silent", "testbed_ssh: hang", "no SSH banner"),
        ] {
            let id = stage.ask(name, &format!(", ports: [22], strategy: {{type: single}}, labels: {{{label}}}"));
            let done = stage.fails(name, &id, "operation_timed_out", "transient", cause);
            let diagnosis = done["error"]["diagnosis"].to_string();
            for told in ["server ", "port ", "floating_ip ", "tcp 22", "console: "] {
                assert!(diagnosis.contains(told), "{name}: {told:?} is not in {diagnosis}");
            }
        }
    });
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn a_start_that_fails_without_a_word_is_asked_for_again() {
    with_stage(|stage| {
        let id = stage.ask("start", ", ports: [22]");
        assert_eq!(stage.ends(&id)["state"], "completed");
        stage.http.act(&id, "suspend");
        stage.http.reaches(&id, "suspended");
        Testbed::fault_times("nova.power_on", 1);
        stage.http.act(&id, "reactivate");
        let done = stage.http.reaches(&id, "completed");
        assert_eq!(done["action"]["status"], "succeeded", "{done:#}");
        assert_answers(&done);
        Testbed::fault(&["clear"]);
        stage.gone("start");
    });
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn daemons_that_are_away_end_in_what_is_owed_and_then_in_nothing() {
    with_stage(|stage| {
        // A build that hangs holds its lock: the DELETE waits for it until nova-compute is started anew.
        let id = stage.ask("hang", ", ports: [22], strategy: {type: single}, labels: {testbed_spawn: 'hang:600'}");
        stage.owed_until("hang", &id, || {
            Testbed::stop(&["nova-compute"]);
            Testbed::start();
            wait_up_to(Duration::from_mins(1), "it is up", || stage.testbed.all_up().then_some(()));
        });
        Testbed::stop(&["neutron-agents"]);
        std::thread::sleep(Duration::from_secs(21));
        let id = stage.ask("agents", ", ports: [22], strategy: {type: single}");
        stage.fails("agents", &id, "build_failed", "capacity", "Exceeded maximum number of retries");
        Testbed::start();
        wait_up_to(Duration::from_mins(1), "the agents are up", || stage.testbed.all_up().then_some(()));
        Testbed::stop(&["nova-compute"]);
        std::thread::sleep(Duration::from_secs(16));
        let id = stage.ask("compute", ", ports: [22], strategy: {type: single}");
        stage.fails("compute", &id, "no_valid_host", "capacity", "No valid host was found");
        Testbed::start();
        wait_up_to(Duration::from_mins(1), "compute is up", || stage.testbed.all_up().then_some(()));
    });
}

#[test]
#[ignore = "long; cargo xtask openstack shows"]
fn a_cloud_that_is_frozen_fails_within_its_deadlines_and_is_cleaned_up_when_it_is_back() {
    with_stage(|stage| {
        // In the middle of it, when there is something that cannot go without the daemon.
        for (daemon, holds) in
            [("rabbitmq", "security_group"), ("nova-api", "server"), ("neutron-server", "port"), ("cinder-api", "volume")]
        {
            let id = stage.ask(daemon, ", ports: [22], strategy: {type: single}");
            wait_up_to(Duration::from_mins(1), "something is made", || {
                let rows = stage.http.resources(&id);
                rows.iter().any(|row| row["kind"] == holds && row["state"] == "created").then_some(())
            });
            Testbed::freeze(daemon);
            stage.owed_until(daemon, &id, || Testbed::thaw(daemon));
            wait_up_to(Duration::from_mins(1), "all is up", || stage.testbed.all_up().then_some(()));
        }
    });
}

//! Where the time went: every step, operation and try, and that together they make up the whole.

use serde_json::{Value, json};

use crate::house::{Server, vps};
use crate::outside::{Http, cluster, list, number, tenant, text, time, wait};

/// What may be missing between the parts and the whole.
const TOLERANCE_MICROSECONDS: i64 = 10_000;

/// The operations of a server on OpenStack, besides its probes.
const OPERATIONS: [&str; 7] = [
    "create_floating_ip",
    "create_port",
    "create_rule",
    "create_security_group",
    "create_server",
    "create_volume",
    "wait_server",
];

/// What a request's winner has to do, by name.
fn expected(request: &Value) -> Vec<&'static str> {
    let probe = |port: &Value| match port.as_i64() {
        Some(22) => "probe_ssh",
        Some(80) => "probe_http",
        Some(443) => "probe_https",
        _ => "probe_tcp",
    };
    let mut names: Vec<&str> = list(request, "/spec/ports").iter().map(probe).chain(OPERATIONS).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The events of a timeline by name.
fn named<'a>(timeline: &'a Value, name: &str) -> Vec<&'a Value> {
    list(timeline, "/timeline").iter().filter(|e| e["event"] == name).collect()
}

/// Everything that must hold of the timeline of a request whose provisioning has ended: well or not.
#[track_caller]
pub(crate) fn assert_adds_up(http: &Http, id: &str) {
    let request = http.request(id);
    let timeline = http.timeline(id);
    let attempts = http.get(&format!("/api/requests/{id}/attempts"));
    assert_eq!((&timeline["environment_id"], &timeline["environment_name"]), (&request["id"], &request["name"]));
    let times: Vec<i64> = list(&timeline, "/timeline").iter().map(|e| time(e, "/timestamp")).collect();
    assert!(times.is_sorted(), "oldest first: {timeline:#}");
    assert_eq!(text(&timeline, "/timeline/0/event"), "created");
    assert_eq!(times[0], time(&request, "/created_at"));
    let mut in_attempts = 0;
    let mut last_end = time(&request, "/created_at");
    for attempt in list(&attempts, "/items") {
        assert!(time(attempt, "/started_at") >= last_end, "attempts of a failover follow one another");
        last_end = time(attempt, "/finished_at");
        in_attempts += last_end - time(attempt, "/started_at");
        assert_steps(attempt, &timeline);
        assert_operations(&request, attempt, &timeline);
    }
    let ended = request["ready_at"].as_str().map_or("/termination_started_at", |_| "/ready_at");
    let whole = time(&request, ended) - time(&request, "/created_at");
    let waited = seconds(&timeline["summary"]["wait_seconds"]);
    let rest = whole - in_attempts - waited;
    assert!(
        rest.abs() <= TOLERANCE_MICROSECONDS,
        "{rest} µs of {whole} are nobody's (attempts {in_attempts}, waits {waited}): {timeline:#}"
    );
    assert_waits(&request, &attempts, &timeline, waited);
    assert_summary(&request, &timeline);
}

/// Seconds as microseconds.
#[track_caller]
#[allow(clippy::cast_possible_truncation)] // Durations of tests are small.
fn seconds(value: &Value) -> i64 {
    let seconds = value.as_f64().unwrap_or_else(|| panic!("no number: {value}"));
    (seconds * 1e6).round() as i64
}

/// The steps of an attempt abut and fill it, and the timeline tells the same.
#[track_caller]
fn assert_steps(attempt: &Value, timeline: &Value) {
    let of_attempt = |name: &str| -> Vec<&Value> {
        named(timeline, name).into_iter().filter(|e| e["metadata"]["attempt"] == attempt["id"]).collect()
    };
    let begun: Vec<&Value> = list(attempt, "/steps").iter().filter(|s| s["started_at"].is_string()).collect();
    assert!(!begun.is_empty(), "{attempt:#}");
    let mut end = time(attempt, "/started_at");
    for step in &begun {
        assert_eq!(time(step, "/started_at"), end, "{} begins where the one before ended", step["name"]);
        end = time(step, "/finished_at");
        let took = end - time(step, "/started_at");
        assert!((seconds(&step["duration_seconds"]) - took).abs() <= 1, "{step:#}");
    }
    assert_eq!(end, time(attempt, "/finished_at"), "the last step ends with its attempt: {attempt:#}");
    for (event, key) in [("step_started", "/started_at"), ("step_finished", "/finished_at")] {
        let told: Vec<(&Value, i64)> =
            of_attempt(event).iter().map(|e| (&e["metadata"]["step"], time(e, "/timestamp"))).collect();
        let kept: Vec<(&Value, i64)> = begun.iter().map(|s| (&s["name"], time(s, key))).collect();
        assert_eq!(told, kept, "{event}");
    }
    for event in of_attempt("step_finished") {
        let step = begun.iter().find(|s| s["name"] == event["metadata"]["step"]).unwrap();
        assert_eq!((&event["metadata"]["status"], &event["metadata"]["retries"]), (&step["status"], &step["retries"]));
    }
}

/// Every operation lies in its step, with every try, a deadline, and where that comes from.
#[track_caller]
fn assert_operations(request: &Value, attempt: &Value, timeline: &Value) {
    let of_attempt = |e: &&Value| e["metadata"]["attempt"] == attempt["id"] && e["metadata"]["action"].is_null();
    let operations: Vec<&Value> = named(timeline, "operation").into_iter().filter(of_attempt).collect();
    for step in list(attempt, "/steps") {
        let mine: Vec<&&Value> = operations.iter().filter(|o| o["metadata"]["step"] == step["name"]).collect();
        if step["started_at"].is_null() {
            assert!(mine.is_empty(), "{} never began", step["name"]);
            continue;
        }
        assert!(!mine.is_empty(), "{} has no operation", step["name"]);
        let (begin, end) = (time(step, "/started_at"), time(step, "/finished_at"));
        let (mut least, mut most) = (0, 0);
        for operation in mine {
            let tries = list(operation, "/metadata/tries");
            for failed in tries.iter().take(tries.len() - 1) {
                let (certain, possible) = retries_after(operation, &failed["error"]);
                least += certain;
                most += possible;
            }
            assert_eq!(time(operation, "/timestamp"), time(&tries[0], "/started_at"));
            assert_eq!(time(operation, "/metadata/finished_at"), time(tries.last().unwrap(), "/finished_at"), "{operation:#}");
            let mut former = begin;
            for one in tries {
                let (from, to) = (time(one, "/started_at"), time(one, "/finished_at"));
                assert!(from >= former && to >= from && to <= end, "a try outside its step: {operation:#} {step:#}");
                former = to;
            }
            let deadline = seconds(&operation["metadata"]["deadline_seconds"]);
            assert!(deadline > 0, "{operation:#}");
            assert!(["default", "cluster", "learned"].contains(&text(operation, "/metadata/deadline_source")));
            let failed = tries.iter().rev().skip(1).all(|t| !t["error"].is_null());
            assert!(failed, "only the last try may end well: {operation:#}");
            let status = text(operation, "/metadata/status");
            assert!(["succeeded", "failed", "cancelled"].contains(&status), "{operation:#}");
            assert_eq!(tries.last().unwrap()["error"].is_null(), status != "failed", "{operation:#}");
        }
        if step["status"] == "succeeded" {
            let told = number(step, "/retries");
            assert!((least..=most).contains(&told), "{told} retries, not {least} to {most}: {step:#} {operations:#?}");
        }
    }
    if attempt["state"] == "won" {
        let mut names: Vec<&str> = operations.iter().map(|o| text(o, "/metadata/operation")).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, expected(request));
    }
}

/// How many retries a failed try led to, at least and at most: what was throttled is no retry (H10), and what a
/// create whose answer was lost has made is adopted, which is none either.
fn retries_after(operation: &Value, error: &Value) -> (i64, i64) {
    let create = text(operation, "/metadata/operation").starts_with("create_");
    let doubtful = create && error["class"] == "transient" && !text(error, "/code").starts_with("simulated_");
    match (error["class"] == "throttled", doubtful) {
        (true, _) => (0, 0),
        (false, true) => (0, 1),
        (false, false) => (1, 1),
    }
}

/// Named waits stand in the timeline, and together they are what the summary says.
#[track_caller]
fn assert_waits(request: &Value, attempts: &Value, timeline: &Value, waited: i64) {
    let mut sum = 0;
    for wait in named(timeline, "wait") {
        let (from, to) = (time(wait, "/timestamp"), time(wait, "/metadata/finished_at"));
        assert!((seconds(&wait["metadata"]["duration_seconds"]) - (to - from)).abs() <= 1, "{wait:#}");
        let known = ["approval", "prerequisites", "tenant_limit", "capacity", "cluster_health", "manual_input", "queue"];
        assert!(known.contains(&text(wait, "/metadata/reason")), "{wait:#}");
        for attempt in list(attempts, "/items") {
            let apart = to <= time(attempt, "/started_at") || from >= time(attempt, "/finished_at");
            assert!(apart, "it waits beside an attempt: {wait:#} {attempt:#}");
        }
        sum += to - from;
    }
    assert!((sum - waited).abs() <= 1, "{sum} µs are named, {waited} are told: {timeline:#}");
    assert_eq!(request["waiting_for"], Value::Null);
}

#[track_caller]
fn assert_summary(request: &Value, timeline: &Value) {
    let summary = &timeline["summary"];
    if request["ready_at"].is_string() {
        let took = time(request, "/ready_at") - time(request, "/provisioning_started_at");
        assert!((seconds(&summary["provisioning_duration_seconds"]) - took).abs() <= 1, "{summary}");
        let ready = named(timeline, "ready");
        assert_eq!(ready.len(), 1);
        assert_eq!(ready[0]["metadata"]["provisioning_duration_seconds"], summary["provisioning_duration_seconds"]);
        assert!(text(ready[0], "/metadata/readiness_summary").contains("probe_ssh"));
    } else {
        assert_eq!(summary["provisioning_duration_seconds"], Value::Null);
    }
    if request["terminated_at"].is_string() {
        let lived = time(request, "/terminated_at") - time(request, "/created_at");
        let told = summary["total_lifetime_hours"].as_f64().unwrap() * 3600.0;
        assert!((seconds(&json!(told)) - lived).abs() <= 1, "{summary}");
        for (event, key) in [("termination_started", "/termination_started_at"), ("terminated", "/terminated_at")] {
            let told = named(timeline, event);
            assert_eq!(told.iter().map(|e| time(e, "/timestamp")).collect::<Vec<_>>(), [time(request, key)], "{event}");
        }
    }
}

/// The reasons of the waits of a request, in their order.
fn reasons(http: &Http, id: &str) -> Vec<String> {
    let timeline = http.timeline(id);
    named(&timeline, "wait").iter().map(|w| text(w, "/metadata/reason").to_owned()).collect()
}

/// Latencies that can be seen, but are short.
const PACE: &str = ", latency: {default: {fixed_ms: 30}, create_volume: {uniform_ms: [50, 200]}, \
    create_server: {uniform_ms: [80, 300]}, wait_server: {fixed_ms: 250}, probe_ssh: {fixed_ms: 120}}";

fn id_of(http: &Http, name: &str) -> String {
    text(&http.get(&format!("/api/requests?name={name}")), "/items/0/id").to_owned()
}

#[test]
fn steps_and_waits_make_up_the_whole_of_a_plain_a_retried_a_waiting_and_a_failed_request() {
    let server = Server::start();
    let faults = ", faults: [{operation: create_volume, kind: transient, on_calls: [1, 2], request_name: retried}, \
        {operation: probe_ssh, kind: hang, on_calls: [1], request_name: slow}, \
        {operation: create_floating_ip, kind: permanent, request_name: bad}], deadlines: {probe_ssh: 0.6}";
    let requests: String = [
        vps("plain", ""),
        vps("retried", ""),
        vps("slow", ""),
        vps("after", ", depends_on: [plain, retried]"),
        vps("bad", ", strategy: {type: single}"),
    ]
    .concat();
    let clusters = cluster("sim-1", "", &format!("{PACE}{faults}"));
    server.apply(&format!("{}clusters:\n{clusters}requests:\n{requests}", tenant(20, 10)), &["--wait"]).exits(1);
    let http = Http::of(&server);
    http.reaches(&id_of_ended(&http, "bad"), "rolled_back");
    for (name, waits) in [("plain", "queue"), ("retried", "queue"), ("slow", "queue"), ("after", "prerequisites")] {
        let id = id_of(&http, name);
        assert_eq!(http.request(&id)["state"], "completed", "{name}");
        assert_eq!(reasons(&http, &id), [waits], "{name}");
        assert_adds_up(&http, &id);
    }
    let bad = id_of_ended(&http, "bad");
    assert_adds_up(&http, &bad);
    let timeline = http.timeline(&bad);
    assert_eq!((named(&timeline, "failed").len(), named(&timeline, "ready").len()), (1, 0));
    assert_eq!(named(&timeline, "failed")[0]["metadata"]["error"]["operation"], "create_floating_ip");
    let tries = |name: &str, operation: &str| {
        let timeline = http.timeline(&id_of(&http, name));
        let found = named(&timeline, "operation").into_iter().find(|o| o["metadata"]["operation"] == operation).unwrap();
        list(found, "/metadata/tries").len()
    };
    assert_eq!(tries("retried", "create_volume"), 3);
    assert_eq!(tries("plain", "create_volume"), 1);
}

/// The id of a request that is rolled back, or will be.
fn id_of_ended(http: &Http, name: &str) -> String {
    let found = http.requests().into_iter().find(|r| r["name"] == name).unwrap();
    text(&found, "/id").to_owned()
}

#[test]
fn steps_and_waits_make_up_the_whole_of_one_that_failed_over_and_one_that_waited_for_room() {
    let server = Server::start();
    let fault = format!("{PACE}, faults: [{{operation: wait_server, kind: permanent, request_name: moved}}]");
    let clusters =
        cluster("sim-1", ", default: true, capacity: {slots: 1}", &fault) + &cluster("sim-2", ", capacity: {slots: 1}", PACE);
    server.apply(&format!("{}clusters:\n{clusters}requests:\n{}", tenant(20, 10), vps("moved", "")), &["--wait"]).exits(0);
    let http = Http::of(&server);
    let moved = id_of(&http, "moved");
    assert_eq!(list(&http.request(&moved), "/attempts").len(), 2);
    assert_adds_up(&http, &moved);
    // One has room on the first cluster, where the failed attempt was released; the next waits for it.
    server.apply(&format!("requests:\n{}", vps("holder", "")), &["--wait"]).exits(0);
    server.apply(&format!("requests:\n{}", vps("waiter", "")), &[]).exits(0);
    let waiter = id_of(&http, "waiter");
    let waiting = wait("it waits for room", || {
        let request = http.request(&waiter);
        (request["waiting_for"]["reason"] == "capacity").then_some(request)
    });
    assert_eq!(waiting["state"], "queued");
    assert!(text(&waiting, "/waiting_for/detail").contains("sim-1"), "{waiting:#}");
    http.act(&id_of(&http, "holder"), "deprovision");
    http.reaches(&waiter, "completed");
    assert_eq!(reasons(&http, &waiter), ["queue", "capacity"]);
    assert_adds_up(&http, &waiter);
}

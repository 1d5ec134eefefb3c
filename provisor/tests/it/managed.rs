//! A managed service: what only people know (SPEC 3.8, H17), through the command line.

use std::time::Instant;

use serde_json::Value;

use crate::house::{LIMIT, Server};

const WORLD: &str = "tenants:\n- {name: acme}\nclusters:\n- {name: desk, provider: manual, region: eu}\n\
                     requests:\n- {name: erp, tenant: acme, kind: managed, product: erp-licence}\n";

fn get(server: &Server) -> Value {
    server.run(&["get", "erp", "-o", "json"]).exits(0).json()
}

/// Waits until the request is as asked for.
fn until(server: &Server, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let request = get(server);
        if holds(&request) {
            return request;
        }
        assert!(begin.elapsed() < LIMIT, "not {what}: {request:#}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn asks(request: &Value, word: &str) -> bool {
    let waiting = &request["waiting_for"];
    waiting["reason"] == "manual_input" && waiting["detail"].as_str().unwrap_or_default().contains(word)
}

#[test]
fn h17_input_suspend_reactivate_and_release_wait_for_a_person() {
    let server = Server::start();
    server.apply(WORLD, &[]).exits(0);
    until(&server, "waiting for input", |r| r["waiting_for"]["reason"] == "manual_input");
    // Access details are not given by saying nothing.
    let bare = server.run(&["manual-input", "erp"]).exits(3);
    assert!(bare.err.contains("/endpoints"), "{bare:?}");
    server.run(&["manual-input", "erp", "--endpoint", "web=https://erp.example", "--wait"]).exits(0);
    let ready = get(&server);
    assert_eq!(
        (ready["state"].as_str(), ready["endpoints"][0]["url"].as_str()),
        (Some("completed"), Some("https://erp.example"))
    );
    assert_eq!(ready["waiting_for"], Value::Null);

    server.run(&["suspend", "erp", "--reason", "non_payment"]).exits(0);
    let asked = until(&server, "asked to confirm the suspension", |r| asks(r, "suspended"));
    assert_eq!((asked["state"].as_str(), asked["action"]["status"].as_str()), (Some("completed"), Some("running")));
    server.run(&["manual-input", "erp", "--wait"]).exits(0);
    assert_eq!(get(&server)["state"], "suspended");
    // The same again gets the same answer, another one is refused until it is asked anew.
    server.run(&["manual-input", "erp"]).exits(0);
    let other = server.run(&["manual-input", "erp", "--endpoint", "web=https://other.example"]).exits(3);
    assert!(other.err.contains("state_conflict"), "{other:?}");

    server.run(&["reactivate", "erp"]).exits(0);
    until(&server, "asked to confirm the start", |r| asks(r, "started"));
    server.run(&["manual-input", "erp", "--endpoint", "web=https://new.example", "--wait"]).exits(0);
    let again = get(&server);
    assert_eq!(
        (again["state"].as_str(), again["endpoints"][0]["url"].as_str()),
        (Some("completed"), Some("https://new.example"))
    );

    server.run(&["deprovision", "erp"]).exits(0);
    let leaving = until(&server, "asked to confirm the end", |r| asks(r, "ended"));
    assert_eq!(leaving["state"], "rolling_back");
    let used = |name: &str| {
        let quota = server.run(&["tenant", "quota", "acme", "-o", "json"]).exits(0).json();
        quota["dimensions"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap()["used"].clone()
    };
    assert_eq!(used("requests.managed"), 1);
    server.run(&["manual-input", "erp", "--wait"]).exits(0);
    let gone = until(&server, "gone", |r| r["state"] == "rolled_back");
    assert_eq!((gone["outcome"].as_str(), gone["waiting_for"].is_null()), (Some("deprovisioned"), true));
    assert_eq!(used("requests.managed"), 0);
}

#[test]
fn h17_what_nobody_has_set_up_is_cancelled_at_once() {
    let server = Server::start();
    server.apply(WORLD, &[]).exits(0);
    until(&server, "waiting for input", |r| r["waiting_for"]["reason"] == "manual_input");
    server.run(&["cancel", "erp", "--wait"]).exits(0);
    assert_eq!(get(&server)["state"], "rolled_back");
}

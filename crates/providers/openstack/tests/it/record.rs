//! Writes `recorded.json` anew: what a real OpenStack answers to a whole life of a server and to what may go wrong.
//!
//! `cargo xtask openstack record`. The adapter talks to the test bed through a relay; each kind of answer is kept
//! once, under what was asked, with ids and tokens taken out of the key and secrets out of the body.

use provisor_provider::{Action, Provider};
use serde_json::{Map, Value, json};

use crate::cloud::{environment, settings};
use crate::driver::{Attempt, connect, spec};
use crate::fake::{Exchange, Fake, Reply, client};
use crate::recorded::{PATH, key};
use crate::user::User;

/// Where the services of the environment's cloud are.
async fn roots(auth_url: &str, credentials: &Value) -> Map<String, Value> {
    let user = User::login(auth_url, credentials).await;
    let mut roots = Map::new();
    roots.insert("identity".to_owned(), json!(root(auth_url)));
    for service in user.catalog.as_array().expect("a catalog") {
        let name = match service["type"].as_str().unwrap_or_default() {
            "block-storage" | "volumev3" => "volume",
            other => other,
        };
        if let Some(url) = service["endpoints"][0]["url"].as_str() {
            roots.insert(name.to_owned(), json!(root(url)));
        }
    }
    roots
}

fn root(url: &str) -> String {
    url.split('/').take(3).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the recording; cargo xtask openstack record"]
async fn record() {
    let Some((endpoint, credentials)) = environment() else { return };
    let roots = roots(endpoint["auth_url"].as_str().expect("a URL"), &credentials).await;
    let relay = Fake::serve(move |asked| {
        let mut parts = asked.path().trim_start_matches('/').splitn(2, '/');
        let (service, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Reply::Forward(format!("{}/{rest}", roots[service].as_str().unwrap_or_default()))
    })
    .await;
    let at = |service: &str| format!("http://{}/{service}", relay.address);
    let overrides = json!({"compute": at("compute"), "network": at("network"), "volume": at("volume"),
        "image": at("image"), "placement": at("placement")});
    let endpoint = json!({"auth_url": format!("{}/v3", at("identity")), "region_name": "RegionOne", "overrides": overrides});
    let provider = connect(&endpoint, &credentials, &settings());
    live(&provider).await;
    refused(&relay, &provider, &endpoint, &credentials).await;
    // What only comes when two things meet, as a look at something that is just going, stays from when it came last.
    let before = std::fs::read_to_string(PATH).expect("the recording");
    let mut answers: Map<String, Value> = serde_json::from_str(&before).expect("JSON");
    answers.extend(kept(&relay.exchanges()));
    assert!(answers.len() > 40, "{:?}", answers.keys().collect::<Vec<_>>());
    let text = serde_json::to_string_pretty(&Value::Object(answers)).expect("JSON");
    std::fs::write(PATH, text + "\n").expect("written");
}

/// From nothing to nothing.
async fn live(provider: &std::sync::Arc<dyn Provider>) {
    let checks = provider.test().await;
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");
    provider.capacity().await.expect("capacity");
    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"ports": [22, 80]})));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    attempt.run(&plan).await.expect("it is made");
    for row in &attempt.rows {
        assert_eq!(provider.find(&row.kind, row.tag.as_str(), &row.name).await.expect("a list").len(), 1);
    }
    attempt.owned().await;
    // A second server on the same port: refused, as the port is taken.
    let planned = plan.operations.iter().find(|o| o.name == "create_server").expect("planned");
    let again = attempt.work(planned);
    provider.perform(&again).await.expect_err("the port is taken");
    let work = attempt.work(&plan.operations[0]);
    provider.metrics(&work).await.expect("metrics");
    for action in [Action::Suspend, Action::Reactivate] {
        let plan = provider.plan_action(action, &attempt.spec).expect("a plan");
        attempt.run(&plan).await.expect("the action");
    }
    attempt.undo().await;
}

/// What is refused, and what fails.
async fn refused(relay: &Fake, provider: &std::sync::Arc<dyn Provider>, endpoint: &Value, credentials: &Value) {
    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"ports": [22], "labels": {"testbed_spawn": "abort"}})));
    let plan = provider.plan(&attempt.spec).expect("a plan");
    attempt.run(&plan).await.expect_err("the build is aborted");
    let work = attempt.work(plan.operations.iter().find(|o| o.name == "wait_server").expect("planned"));
    assert!(!provider.diagnose(&work).await.is_empty());
    // Each stands on another, or is there already.
    for name in ["create_rule", "create_floating_ip"] {
        let planned = plan.operations.iter().find(|o| o.name == name).expect("planned").clone();
        let before = attempt.resources.clone();
        let again = attempt.work(&planned);
        drop(provider.perform(&again).await);
        attempt.resources = before;
    }
    let client = client();
    let last = relay.exchanges().into_iter().rev().find(|e| !e.asked.token.is_empty()).expect("a token").asked.token;
    let project = provider.identity().await.expect("a project");
    let id = |kind: &str| attempt.resources[kind].clone();
    for (method, path, body) in [
        ("DELETE", format!("/network/v2.0/security-groups/{}", id("security_group")), Value::Null),
        ("DELETE", format!("/volume/v3/{project}/volumes/{}", id("volume")), Value::Null),
        ("POST", format!("/compute/v2.1/servers/{}/action", id("server")), json!({"os-start": null})),
        ("POST", format!("/volume/v3/{project}/volumes"), json!({"volume": {"size": 100_000}})),
    ] {
        let request = client.request(method.parse().expect("a method"), format!("http://{}{path}", relay.address));
        let request = request.header("x-auth-token", &last);
        let request = if body.is_null() { request } else { request.json(&body) };
        request.send().await.expect("an answer");
    }
    let wrong = format!("http://{}/compute/v2.1/limits", relay.address);
    client.get(wrong).header("x-auth-token", "nobody").send().await.expect("an answer");
    let mut stranger = credentials.clone();
    stranger["password"] = json!("not-the-password");
    connect(endpoint, &stranger, &settings()).identity().await.expect_err("refused");
    attempt.undo().await;
}

/// Each kind of answer once, the first of its kind.
fn kept(exchanges: &[Exchange]) -> Map<String, Value> {
    let mut answers = Map::new();
    for exchange in exchanges {
        let key = key(exchange);
        answers.entry(key).or_insert_with(|| json!({"status": exchange.status, "body": clean(exchange.body.clone())}));
    }
    answers
}

/// Without what is secret, even of a test bed.
fn clean(mut body: Value) -> Value {
    if let Some(server) = body.get_mut("server").and_then(Value::as_object_mut) {
        server.remove("adminPass");
    }
    if let Some(token) = body.get_mut("token").and_then(Value::as_object_mut) {
        token.remove("audit_ids");
    }
    body
}

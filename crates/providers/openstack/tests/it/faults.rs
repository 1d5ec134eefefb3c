//! What a real cloud does too seldom to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use provisor_core::Class;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::plan::Planned;
use provisor_provider::{Progress, Released};
use serde_json::{Value, json};

use crate::driver::{Attempt, Row, connect, spec};
use crate::fake::{Fake, Reply, default, login};

fn planned(name: &str, makes: &str) -> Planned {
    Planned::new(name, Step::Allocate).makes(makes)
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_for_all_callers() {
    let address = Arc::new(std::sync::OnceLock::new());
    let seen = Arc::clone(&address);
    let logins = AtomicUsize::new(0);
    let fake = Fake::serve(move |asked| {
        let address = *seen.wait();
        if asked.line.starts_with("POST /v3/auth/tokens") {
            return login(address, &format!("t{}", logins.fetch_add(1, Ordering::SeqCst)), 3600);
        }
        // The first token is revoked on the server's side.
        if asked.token == "t0" {
            return Reply::Json(401, json!({"error": {"code": 401, "title": "Unauthorized", "message": "no"}}));
        }
        Reply::Json(200, json!({"ports": []}))
    })
    .await;
    address.set(fake.address).expect("once");
    let provider = fake.provider();
    provider.identity().await.expect("a first session");
    let looks = (0..8).map(|_| {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move { provider.find("port", "pvr-a-1", "x").await })
    });
    for look in looks.collect::<Vec<_>>() {
        assert_eq!(look.await.expect("no panic"), Ok(vec![]));
    }
    assert_eq!(fake.count("POST /v3/auth/tokens"), 2, "{:?}", fake.lines());
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_before_the_call() {
    let address = Arc::new(std::sync::OnceLock::new());
    let seen = Arc::clone(&address);
    let fake = Fake::serve(move |asked| {
        if asked.line.starts_with("POST /v3/auth/tokens") {
            login(*seen.wait(), "t", 0)
        } else {
            Reply::Json(200, json!({"ports": []}))
        }
    })
    .await;
    address.set(fake.address).expect("once");
    let provider = fake.provider();
    provider.identity().await.expect("one");
    provider.identity().await.expect("two");
    assert_eq!(fake.count("POST /v3/auth/tokens"), 2);
}

#[tokio::test]
async fn refused_credentials_are_auth_and_do_not_show() {
    let fake = Fake::serve(|_| {
        let words = "The password hunter2 of u is wrong";
        Reply::Json(401, json!({"error": {"code": 401, "title": "Unauthorized", "message": words}}))
    })
    .await;
    let failure = fake.provider().identity().await.expect_err("refused");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Auth, "credentials_refused"));
    assert!(!failure.message.contains("hunter2"), "{failure:?}");
    assert!(failure.message.contains("req-fake"), "{failure:?}");
}

#[tokio::test]
async fn a_lost_create_is_ambiguous_and_sent_once() {
    let fake = Fake::serve(|asked| match asked.line.as_str() {
        "POST /net/v2.0/security-groups" => Reply::Silence,
        _ => default(),
    })
    .await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({})));
    let failure = attempt.perform(&planned("create_security_group", "security_group")).await.expect_err("lost");
    assert_eq!(failure.class, Class::Ambiguous, "{failure:?}");
    assert_eq!(fake.count("POST /net"), 1);
}

#[tokio::test]
async fn a_cloud_that_is_not_there_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let provider = connect(
        &json!({"auth_url": format!("http://{address}/v3")}),
        &json!({"application_credential_id": "i", "application_credential_secret": "hunter2"}),
        &json!({}),
    );
    let mut attempt = Attempt::new(provider, spec(&json!({})));
    let failure = attempt.perform(&planned("create_security_group", "security_group")).await.expect_err("refused");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Transient, "unreachable"));
}

#[tokio::test]
async fn user_data_that_a_fault_echoes_is_hidden() {
    let fake = Fake::serve(|asked| match asked.line.as_str() {
        line if line.starts_with("GET /v2.1/flavors") => {
            Reply::Json(200, json!({"flavors": [{"id": "1", "name": "s", "vcpus": 1, "ram": 1024}]}))
        }
        "POST /v2.1/servers" => {
            let echo = asked.body["server"]["user_data"].as_str().expect("user data").to_owned();
            Reply::Json(400, json!({"badRequest": {"code": 400, "message": format!("Invalid input. Value: {echo}. Too long")}}))
        }
        _ => default(),
    })
    .await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({"user_data": "#!/bin/sh\ntop secret\n"})));
    attempt.resources = [("port", "p"), ("volume", "v")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let failure = attempt.perform(&planned("create_server", "server")).await.expect_err("refused");
    assert_eq!(failure.class, Class::Permanent);
    assert!(failure.message.contains("Value: …. Too long"), "{failure:?}");
}

#[tokio::test]
async fn h10_a_server_in_error_is_spoiled_and_a_stopped_one_started_once_in_a_try() {
    let status = Arc::new(std::sync::Mutex::new("SHUTOFF"));
    let seen = Arc::clone(&status);
    let fake = Fake::serve(move |asked| match asked.line.as_str() {
        "GET /v2.1/servers/s1" => {
            let status = *seen.lock().expect("status");
            let fault = json!({"message": "No valid host was found. There are not enough hosts available."});
            Reply::Json(200, json!({"server": {"id": "s1", "status": status, "fault": fault}}))
        }
        "POST /v2.1/servers/s1/action" => Reply::Json(202, Value::Null),
        _ => default(),
    })
    .await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({})));
    attempt.resources.insert("server".into(), "s1".into());
    let wait = Planned::new("wait_server", Step::Activate);
    let failure = attempt.perform(&wait).await.expect_err("it falls back to SHUTOFF");
    assert_eq!((failure.code.as_str(), failure.spoiled), ("action_without_effect", false));
    attempt.tries = 2;
    attempt.perform(&wait).await.expect_err("again");
    assert_eq!(fake.count("POST /v2.1/servers/s1/action"), 2);
    *status.lock().expect("status") = "ERROR";
    let failure = attempt.perform(&wait).await.expect_err("in error");
    assert_eq!((failure.class, failure.spoiled), (Class::Capacity, true));
}

#[tokio::test]
async fn h3_a_stranger_in_our_place_is_left_alone() {
    let fake = Fake::serve(|asked| match asked.line.as_str() {
        "GET /net/v2.0/ports/p1" => Reply::Json(200, json!({"port": {"id": "p1", "description": "pvr-other-1"}})),
        _ => default(),
    })
    .await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({})));
    let work = attempt.work(&planned("create_port", "port"));
    let row = Row { kind: "port".into(), tag: work.tag.expect("a tag"), name: work.name, id: "p1".into() };
    assert_eq!(attempt.release(&row).await, Ok(Released::Replaced));
    assert_eq!(fake.count("DELETE"), 0, "{:?}", fake.lines());
    // Absent means gone, but only in the project that it was made in (H4).
    let absent = Row { id: "p2".into(), ..row };
    assert_eq!(attempt.release(&absent).await, Ok(Released::Gone));
    let mut held = attempt.held(&absent);
    held.identity = Some("another-project".into());
    let failure = attempt.provider.release(&held).await.expect_err("not believed");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Auth, "identity_changed"));
}

#[tokio::test]
async fn a_group_still_in_use_is_looked_at_again() {
    let tag = Arc::new(std::sync::OnceLock::new());
    let seen = Arc::clone(&tag);
    let fake = Fake::serve(move |asked| match asked.line.as_str() {
        "GET /net/v2.0/security-groups/g1" => {
            let tag: &String = seen.wait();
            Reply::Json(200, json!({"security_group": {"id": "g1", "description": tag}}))
        }
        "DELETE /net/v2.0/security-groups/g1" => {
            let fault = json!({"type": "SecurityGroupInUse", "message": "Security Group g1 in use.", "detail": ""});
            Reply::Json(409, json!({"NeutronError": fault}))
        }
        _ => default(),
    })
    .await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({})));
    let work = attempt.work(&planned("create_security_group", "security_group"));
    let tag_text = work.tag.clone().expect("a tag");
    tag.set(tag_text.to_string()).expect("once");
    let row = Row { kind: "security_group".into(), tag: tag_text, name: work.name, id: "g1".into() };
    let end = attempt.provider.release(&attempt.held(&row)).await.expect("no failure");
    assert!(matches!(end, Released::Running { .. }), "{end:?}");
}

#[tokio::test]
async fn find_and_inventory_show_only_what_carries_the_tag() {
    let fake = Fake::serve(|asked| {
        let server = |id: &str, tag: &str, status: &str| json!({"id": id, "status": status, "metadata": {"provisor_tag": tag}});
        if asked.line.starts_with("GET /v2.1/servers/detail") {
            if asked.line.contains("marker=s2") {
                return Reply::Json(200, json!({"servers": [server("s3", "pvr-a-3", "ACTIVE")]}));
            }
            // As from a service that ignores the filter, with more to come.
            let servers = [server("s1", "pvr-a-1", "ERROR"), server("s2", "pvr-b-1", "ACTIVE")];
            return Reply::Json(200, json!({"servers": servers, "servers_links": [{"rel": "next", "href": "x"}]}));
        }
        if asked.line.starts_with("GET ") { Reply::Json(200, json!({})) } else { default() }
    })
    .await;
    let provider = fake.provider();
    let found = provider.find("server", "pvr-a-1", "x").await.expect("a list");
    assert_eq!(found.iter().map(|f| (f.provider_id.as_str(), f.spoiled)).collect::<Vec<_>>(), [("s1", true)]);
    let mut ids = Vec::new();
    let mut from = None;
    loop {
        let page = provider.list_owned("pvr-a-", from).await.expect("a page");
        ids.extend(page.items.into_iter().map(|f| f.provider_id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(ids, ["s1", "s3"]);
    assert!(fake.lines().iter().any(|line| line.contains("/ports?") && line.contains("project_id=p1")));
}

#[tokio::test]
async fn a_port_that_does_not_answer_yet_is_waited_for() {
    let fake = Fake::serve(|_| default()).await;
    let mut attempt = Attempt::new(fake.provider(), spec(&json!({"ports": [22]})));
    attempt.facts.insert("floating_ip".into(), "127.0.0.1".into());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port();
    let work = attempt.work(&Planned::new("probe_ssh", Step::Verify).item(closed.to_string()));
    let seen = attempt.provider.perform(&work).await.expect("not a failure");
    assert!(matches!(seen, Progress::Running { .. }), "{seen:?}");
    attempt.facts.insert("floating_ip".into(), "169.254.169.254".into());
    let work = attempt.work(&Planned::new("probe_http", Step::Verify).item("80"));
    let failure = attempt.provider.perform(&work).await.expect_err("not allowed");
    assert_eq!(failure.class, Class::Permanent);
}

//! The feed, in pages and live.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{TOKEN, World};

struct Live {
    body: BodyDataStream,
    text: String,
}

impl Live {
    async fn open(world: &World, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::get(path).header("authorization", format!("Bearer {TOKEN}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event: id, type, data.
    async fn next(&mut self) -> (String, String, Value) {
        loop {
            if let Some((block, rest)) = self.text.clone().split_once("\n\n") {
                rest.clone_into(&mut self.text);
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
                if let Some(data) = field("data:") {
                    return (field("id:").unwrap(), field("event:").unwrap(), serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.expect("an event in time");
            self.text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on").unwrap()).unwrap());
        }
    }

    async fn ends(&mut self) {
        let end = tokio::time::timeout(Duration::from_secs(10), async { while self.body.next().await.is_some() {} }).await;
        end.expect("the stream ends");
    }
}

async fn cancelled(world: &World, name: &str) -> String {
    let id = world.admit(name).await["id"].as_str().unwrap().to_owned();
    world.post(&format!("/api/requests/{id}/cancel"), &json!({})).await;
    id
}

#[tokio::test]
async fn events_are_cloud_events_without_gaps() {
    let world = World::new().await;
    let id = cancelled(&world, "db").await;
    let feed = world.get("/api/events").await.json();
    let items = feed["items"].as_array().unwrap();
    let types: Vec<&str> = items.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["provisioning.started", "provisioning.rollback-started", "provisioning.rolled-back"]);
    for (i, event) in items.iter().enumerate() {
        assert_eq!(event["sequence"], format!("{:06}", i + 1));
        assert_eq!(
            (&event["specversion"], &event["source"], &event["tenant"]),
            (&json!("1.0"), &json!("/provisor"), &json!("acme"))
        );
        assert_eq!((&event["subject"], &event["data"]["request"]["id"]), (&json!(id), &json!(id)));
        for key in ["from_state", "to_state", "outcome", "actor", "step", "attempt", "resource", "error", "refund", "endpoints"] {
            assert!(event["data"].get(key).is_some(), "{key} is missing");
        }
        assert!(event["installation"].as_str().is_some_and(|i| !i.is_empty()));
    }
    assert_eq!(items[0]["data"]["request"]["state"], "queued");
    assert_eq!(items[2]["data"]["request"]["state"], "rolled_back");
}

#[tokio::test]
async fn the_feed_goes_on_by_its_cursor() {
    let world = World::new().await;
    cancelled(&world, "a").await;
    cancelled(&world, "b").await;
    let (mut seen, mut path) = (Vec::new(), "/api/events?limit=2".to_owned());
    for _ in 0..10 {
        let page = world.get(&path).await.json();
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break;
        }
        seen.extend(items.iter().map(|e| e["id"].as_str().unwrap().to_owned()));
        path = format!("/api/events?limit=2&after={}", page["next_cursor"].as_str().unwrap());
    }
    let unique: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), unique.len()), (6, 6));
    for (query, count) in [
        ("type=provisioning.started", 2),
        ("type=provisioning.*", 6),
        ("type=service.*,provisioning.started", 2),
        ("tenant=acme", 6),
        ("tenant=nobody", 0),
    ] {
        let found = world.get(&format!("/api/events?{query}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(world.get("/api/events?type=nothing").await.faults(), [("?type".into(), "enum".into())]);
    assert_eq!(world.get("/api/events?after=x").await.faults(), [("?after".into(), "format".into())]);
}

#[tokio::test]
async fn a_request_is_followed_live_and_after_a_cut() {
    let world = World::new().await;
    let id = world.admit("db").await["id"].as_str().unwrap().to_owned();
    world.admit("other").await;
    let path = format!("/api/requests/{id}/events");
    let mut live = Live::open(&world, &path, None).await;
    let (first, kind, event) = live.next().await;
    assert_eq!((kind.as_str(), &event["subject"]), ("provisioning.started", &json!(id)));
    world.post(&format!("/api/requests/{id}/cancel"), &json!({})).await;
    assert_eq!(live.next().await.1, "provisioning.rollback-started");
    assert_eq!(live.next().await.1, "provisioning.rolled-back");
    let mut again = Live::open(&world, &path, Some(&first)).await;
    assert_eq!(again.next().await.1, "provisioning.rollback-started");
}

#[tokio::test]
async fn the_live_feed_begins_now_or_where_told() {
    let world = World::new().await;
    world.admit("before").await;
    let mut now = Live::open(&world, "/api/events/stream", None).await;
    let mut all = Live::open(&world, "/api/events/stream?after=0", None).await;
    world.admit("after").await;
    assert_eq!(now.next().await.2["data"]["request"]["name"], "after");
    assert_eq!(all.next().await.2["data"]["request"]["name"], "before");
    let (cursor, ..) = all.next().await;
    let page = world.get(&format!("/api/events?after={cursor}")).await.json();
    assert_eq!(page["items"], json!([]));
    let wrong = world.call("GET", "/api/events/stream", None, &[("last-event-id", "x")]).await;
    assert_eq!(wrong.faults(), [("Last-Event-ID".into(), "format".into())]);
}

/// All streams read the end of the log together; one that falls behind what is kept of it, begins late or follows one request
/// misses and repeats nothing.
#[tokio::test]
async fn streams_show_the_same_however_far_they_are() {
    let world = World::new().await;
    let mut slow = Live::open(&world, "/api/events/stream", None).await;
    let mut quick = Live::open(&world, "/api/events/stream", None).await;
    let first = cancelled(&world, "first").await;
    let mut seen = Vec::new();
    let mut of_first = Live::open(&world, &format!("/api/requests/{first}/events"), None).await;
    for n in 0..300 {
        for _ in 0..3 {
            seen.push(quick.next().await);
        }
        cancelled(&world, &format!("r-{n}")).await;
        if n == 200 {
            let mut late = Live::open(&world, &format!("/api/events/stream?after={}", seen[2].0), None).await;
            let mut some = Live::open(&world, "/api/events/stream?after=0&type=provisioning.rolled-back", None).await;
            for event in seen.iter().skip(3) {
                assert_eq!(&late.next().await, event);
            }
            for event in seen.iter().filter(|(_, kind, _)| kind == "provisioning.rolled-back") {
                assert_eq!(&some.next().await, event);
            }
        }
    }
    for event in &seen {
        assert_eq!(&slow.next().await, event);
    }
    for event in seen.iter().take(3) {
        assert_eq!(&of_first.next().await, event);
    }
    world.admit("last").await;
    let ends: Vec<_> = [quick.next().await, slow.next().await].map(|e| e.2["subject"].clone()).into();
    assert_eq!(ends[0], ends[1]);
}

#[tokio::test]
async fn streams_end_when_the_server_closes_and_are_limited() {
    let world = World::new().await;
    let mut open = Vec::new();
    for _ in 0..provisor_api::STREAM_LIMIT {
        open.push(Live::open(&world, "/api/events/stream", None).await);
    }
    world.get("/api/events/stream").await.problem("rate_limited");
    let mut last = open.pop().unwrap();
    world.close.send(true).unwrap();
    last.ends().await;
}

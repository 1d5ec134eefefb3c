//! The typed client against a real socket.

use std::time::Duration;

use provisor_wire::client::{EventFilter, RequestFilter};
use provisor_wire::request::{Reason, RetryOrder};
use provisor_wire::{Client, ClientError};
use serde_json::json;

use crate::world::{TOKEN, World, vps};

async fn serve(world: &World) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = world.router.clone();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (format!("http://{address}"), task)
}

#[tokio::test]
async fn the_client_speaks_every_shape() {
    let world = World::new().await;
    let (base, _task) = serve(&world).await;
    let client = Client::new(&base, Some(TOKEN)).unwrap();
    assert_eq!(client.live().await.unwrap().status, "ok");
    assert_eq!(client.ready().await.unwrap().status, "ok");
    let plan = client.dry_run(&vps("db")).await.unwrap();
    assert!(plan.valid && plan.cluster.as_deref() == Some("one"));
    let request = client.create(&vps("db"), Some("key-1")).await.unwrap();
    assert_eq!(client.create(&vps("db"), Some("key-1")).await.unwrap().id, request.id);
    assert_eq!(client.create_batch(&[vps("a"), vps("b")], None).await.unwrap().len(), 2);
    assert_eq!(client.dry_run_batch(&[vps("c")]).await.unwrap().len(), 1);
    let filter = RequestFilter { name: Some("db".to_owned()), tenant: Some("acme".to_owned()), ..RequestFilter::default() };
    assert_eq!(client.requests(&filter).await.unwrap().items, [client.request(&request.id).await.unwrap()]);
    let cancelled = client.command(&request.id, "cancel", &Reason { reason: Some("no".to_owned()), force: false }).await.unwrap();
    assert_eq!(cancelled.outcome.as_deref(), Some("cancelled"));
    let order = RetryOrder { order_id: Some("ord-9".to_owned()), reason: None };
    assert_eq!(client.retry(&request.id, &order).await.unwrap().retry_of.as_ref(), Some(&request.id));
    assert_eq!(client.timeline(&request.id, true).await.unwrap().timeline.len(), 5);
    assert!(client.attempts(&request.id).await.unwrap().is_empty());
    assert!(client.resources(&request.id).await.unwrap().is_empty());
    assert_eq!(client.check_status(&request.id).await.unwrap_err().code(), Some("state_conflict"));
    assert_eq!(client.metrics_of(&request.id).await.unwrap_err().code(), Some("state_conflict"));
    let tenant = client.tenant("acme").await.unwrap();
    let patched = client.patch_tenant("acme", &json!({"max_concurrent": 9}), Some(&tenant.etag)).await.unwrap();
    assert_eq!(patched.max_concurrent, 9);
    let stale = client.patch_tenant("acme", &json!({"max_concurrent": 8}), Some(&tenant.etag)).await.unwrap_err();
    assert_eq!(stale.code(), Some("precondition_failed"));
    assert_eq!(client.tenants(None).await.unwrap().items.len(), 1);
    assert_eq!(client.quota("acme").await.unwrap().dimensions.len(), 7);
    assert_eq!(client.delete_tenant("acme", None).await.unwrap_err().code(), Some("in_use"));
    assert_eq!(client.clusters(None).await.unwrap().items.len(), 1);
    let cluster = client.patch_cluster("one", &json!({"default": true}), None).await.unwrap();
    assert!(cluster.default);
    assert!(!client.test_cluster("one").await.unwrap().ok);
    assert_eq!(client.inventory("one").await.unwrap_err().code(), Some("unavailable"));
    assert!(client.openapi().await.unwrap()["paths"].is_object());
    assert!(client.metrics().await.unwrap().contains("provisor_queue_depth"));
    assert_eq!(client.sim_inventory("sim", false).await.unwrap()["cluster"], "sim");
    let events =
        client.events(&EventFilter { kind: Some("provisioning.started".to_owned()), ..EventFilter::default() }).await.unwrap();
    assert_eq!(events.items.len(), 4);
}

#[tokio::test]
async fn a_stream_of_the_client_goes_on_after_a_cut() {
    let world = World::new().await;
    let (base, task) = serve(&world).await;
    let address = base.trim_start_matches("http://").to_owned();
    let client = Client::new(&base, Some(TOKEN)).unwrap();
    let request = client.create(&vps("db"), None).await.unwrap();
    let mut events = client.request_events(&request.id, None);
    let limit = Duration::from_secs(20);
    let first = tokio::time::timeout(limit, events.next()).await.unwrap().unwrap();
    assert_eq!(first.event.kind, "provisioning.started");
    // The server goes away, and comes back at the same address.
    task.abort();
    let _ = task.await;
    world.close.send(true).unwrap();
    let listener = tokio::time::timeout(limit, async {
        loop {
            match tokio::net::TcpListener::bind(&address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    let listener = listener.await.unwrap();
    world.close.send(false).unwrap();
    let router = world.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    client.command(&request.id, "cancel", &Reason::default()).await.unwrap();
    let second = tokio::time::timeout(limit, events.next()).await.unwrap().unwrap();
    assert_eq!(second.event.kind, "provisioning.rollback-started");
    assert_eq!(events.cursor(), Some(second.cursor.as_str()));
}

#[tokio::test]
async fn errors_have_their_kinds() {
    let world = World::new().await;
    let (base, _task) = serve(&world).await;
    let nobody = Client::new(&base, None).unwrap();
    let refused = nobody.request("req_x").await.unwrap_err();
    assert_eq!(refused.code(), Some("unauthenticated"));
    let mut stream = nobody.request_events("req_x", None);
    assert_eq!(stream.next().await.unwrap_err().code(), Some("unauthenticated"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let away = Client::new(&format!("http://{free}"), None).unwrap();
    let error = away.create(&vps("db"), None).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { reason, .. } if reason.contains("refused")), "{error}");
}

//! The simulated cloud as a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::Class;
use provisor_provider::Provider;
use provisor_simulation::{Front, FrontError, Simulation};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bench::{Service, clock, cluster, connect, folder, spec, spec_of};

struct Served {
    url: String,
    end: oneshot::Sender<()>,
    task: JoinHandle<Result<(), FrontError>>,
}

async fn serve(folder: &Path) -> Served {
    let front = Front::bind("127.0.0.1:0".parse().unwrap(), folder, clock()).await.unwrap();
    let url = format!("http://{}", front.address());
    let (end, ended) = oneshot::channel();
    Served { url, end, task: tokio::spawn(front.serve(async move { drop(ended.await) })) }
}

impl Served {
    async fn stop(self) {
        self.end.send(()).unwrap();
        timeout(Duration::from_secs(5), self.task).await.unwrap().unwrap().unwrap();
    }

    fn provider(&self, settings: Value) -> Arc<dyn Provider> {
        let mut cluster = cluster("c", "openstack", settings);
        cluster.endpoint.insert("url".to_owned(), json!(self.url));
        connect(&Simulation::in_memory(clock()), &cluster)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        // The client of the simulation has chosen the provider of cryptography by now.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        let answer = client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn the_cloud_outlives_what_speaks_to_it_and_its_own_restart() {
    let folder = folder("front");
    let served = serve(&folder).await;
    let settings = json!({"time_scale": 0, "faults": [{"operation": "delete_server", "kind": "transient", "on_calls": [2]}]});
    let mut service = Service::new(served.provider(settings.clone()), spec(&spec_of("vps")), 3);
    service.up_to(None).await.unwrap();
    let (status, inventory) = served.get("/sim/c/inventory?live=true").await;
    assert_eq!((status, inventory["cluster"].as_str()), (200, Some("c")));
    let server = inventory["resources"].as_array().unwrap().iter().find(|r| r["kind"] == "server").unwrap();
    let keys: Vec<&String> = server.as_object().unwrap().keys().collect();
    let expected = ["attempt", "created_count", "gone_at", "id", "kind", "made_at", "name", "request", "tag"];
    assert_eq!(keys, expected);
    assert_eq!(server["request"], service.request.to_string());
    assert_eq!(served.get("/sim/unknown/inventory").await.0, 404);
    let written = std::fs::read_to_string(folder.join("listen")).unwrap();
    assert_eq!(format!("http://{written}"), served.url);
    service.release("server").await.unwrap();
    served.stop().await;

    let served = serve(&folder).await;
    service.provider = served.provider(settings);
    let server = service.row("server");
    assert_eq!(service.provider.release(&service.held(&server)).await.unwrap_err().class, Class::Transient);
    service.release_all().await;
    assert_eq!(served.get("/sim/c/inventory?live=true").await.1["resources"], json!([]));
    served.stop().await;
}

#[tokio::test]
async fn a_lost_reply_never_answers_and_an_ended_server_leaves_a_create_in_doubt() {
    let served = serve(&folder("front")).await;
    let rules = json!([{"operation": "create_security_group", "kind": "lost_reply", "on_calls": [1, 2]}]);
    let provider = served.provider(json!({"time_scale": 0, "faults": rules}));
    let mut service = Service::new(provider, spec(&spec_of("vps")), 4);
    let planned = service.planned("create_security_group");
    let work = service.work(&planned);
    timeout(Duration::from_millis(300), service.provider.perform(&work)).await.unwrap_err();
    let found = service.provider.find("security_group", work.tag.as_ref().unwrap().as_str(), "").await.unwrap();
    assert_eq!(found.len(), 1);
    let second = service.work(&planned);
    let provider = Arc::clone(&service.provider);
    let waiting = tokio::spawn(async move { provider.perform(&second).await });
    let made = async || served.get("/sim/c/inventory").await.1["resources"].as_array().unwrap().len();
    timeout(Duration::from_secs(5), async {
        while made().await < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.stop().await;
    let failure = timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(failure.class, Class::Ambiguous);
    let failure = service.provider.perform(&work).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (Class::Transient, "unreachable"), "nothing was sent");
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let result = Front::bind("0.0.0.0:0".parse().unwrap(), &folder("front"), clock()).await;
    assert!(matches!(result, Err(FrontError::NotLoopback(_))));
}

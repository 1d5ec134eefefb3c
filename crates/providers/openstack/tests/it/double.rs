//! A light double of OpenStack: small state machines that answer with what a real one answered (`recorded.json`).
//!
//! It knows what stands on what, that servers and volumes take their time, and how each refusal looks; every body that
//! it gives was recorded, with ids, names, marks and states put in. The conformance kit and every generic fault run
//! against it in seconds; against the real one they run in CI's stage for services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use provisor_core::Timestamp;
use provisor_provider::conformance::faults::{Fault, at_all, at_each};
use provisor_provider::conformance::{Subject, run};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cloud::settings;
use crate::driver::{connect, spec};
use crate::fake::{Asked, Fake, Reply};
use crate::recorded::{answer, place};

/// Looks at something slow that show it still under way; what was answered to its creation comes besides.
const SLOW: u32 = 0;

/// One object of the cloud.
#[derive(Debug, Clone)]
struct Thing {
    collection: String,
    body: Map<String, Value>,
    /// The state that it is on its way to, and the looks until then.
    next: Option<(&'static str, u32)>,
}

#[derive(Default)]
struct Cloud {
    things: BTreeMap<String, Thing>,
    count: u64,
}

/// The key around one object of a collection.
fn item(collection: &str) -> &'static str {
    match collection {
        "security-groups" => "security_group",
        "security-group-rules" => "security_group_rule",
        "ports" => "port",
        "floatingips" => "floatingip",
        "volumes" => "volume",
        _ => "server",
    }
}

const COLLECTIONS: [&str; 6] = ["security-groups", "security-group-rules", "ports", "floatingips", "volumes", "servers"];

fn reply((status, body): (u16, Value)) -> Reply {
    Reply::Json(status, body)
}

impl Cloud {
    fn answer(&mut self, asked: &Asked, address: &str) -> Reply {
        let place = place(asked.path());
        if place == "identity /auth/tokens" {
            return self.login(asked, address);
        }
        let path: Vec<&str> = asked.path().split('?').next().unwrap_or_default().split('/').collect();
        let at = path.iter().position(|part| COLLECTIONS.contains(part));
        let Some(at) = at else { return reply(answer(&format!("{} {place}", asked.method()))) };
        let (collection, rest) = (path[at], &path[at + 1..]);
        match (asked.method(), rest) {
            ("POST", []) => self.create(asked, &place, collection),
            ("GET", [] | ["detail"]) => self.list(asked, &place, collection),
            ("GET", [id]) => self.read(&place, id),
            ("DELETE", [id]) => self.delete(&place, id),
            ("POST", [id, "action"]) => self.act(asked, &place, id),
            _ => reply(answer(&format!("{} {place}", asked.method()))),
        }
    }

    /// The recorded token, whose services all live here.
    fn login(&mut self, _: &Asked, address: &str) -> Reply {
        self.count += 1;
        let (status, mut body) = answer("POST identity /auth/tokens");
        for service in body["token"]["catalog"].as_array_mut().expect("a catalog") {
            let name = match service["type"].as_str().unwrap_or_default() {
                "block-storage" | "volumev3" => "volume",
                other => other,
            }
            .to_owned();
            for endpoint in service["endpoints"].as_array_mut().expect("endpoints") {
                endpoint["url"] = json!(format!("http://{address}/{name}"));
            }
        }
        body["x-subject-token"] = json!(format!("token-{}", self.count));
        Reply::Json(status, body)
    }

    fn of(&self, collection: &str) -> impl Iterator<Item = (&String, &Thing)> {
        self.things.iter().filter(move |(_, thing)| thing.collection == collection)
    }

    fn create(&mut self, asked: &Asked, place: &str, collection: &str) -> Reply {
        let wanted = asked.body[item(collection)].as_object().expect("an object").clone();
        if let Some(refusal) = self.refusal(place, collection, &wanted) {
            return refusal;
        }
        self.count += 1;
        let id = format!("00000000-0000-4000-8000-{:012x}", self.count);
        let (status, mut body) = answer(&format!("POST {place}"));
        let mut whole = body[item(collection)].as_object().expect("an object").clone();
        for (key, value) in wanted {
            whole.insert(key, value);
        }
        whole.insert("id".to_owned(), json!(id));
        if collection == "floatingips" {
            whole.insert("floating_ip_address".to_owned(), json!("127.0.0.1"));
        }
        let next = match collection {
            "volumes" => Some(("available", SLOW)),
            "servers" => Some(("ACTIVE", SLOW)),
            _ => None,
        };
        let first = match collection {
            "volumes" => Some("creating"),
            "servers" => Some("BUILD"),
            _ => None,
        };
        whole.extend(first.map(|status| ("status".to_owned(), json!(status))));
        if collection == "servers" {
            let volume = whole["block_device_mapping_v2"][0]["uuid"].as_str().unwrap_or_default().to_owned();
            self.set(&volume, "in-use");
        }
        body[item(collection)] = Value::Object(whole.clone());
        self.things.insert(id, Thing { collection: collection.to_owned(), body: whole, next });
        Reply::Json(status, body)
    }

    /// What is there already, or taken.
    fn refusal(&self, place: &str, collection: &str, wanted: &Map<String, Value>) -> Option<Reply> {
        let same = |thing: &Thing, keys: &[&str]| keys.iter().all(|key| thing.body.get(*key) == wanted.get(*key));
        match collection {
            "security-group-rules" => {
                let twin = self.of(collection).find(|(_, t)| same(t, &["security_group_id", "port_range_min"]));
                twin.map(|(id, _)| {
                    let (status, mut body) = answer(&format!("POST {place} 409 SecurityGroupRuleExists"));
                    body["NeutronError"]["message"] = json!(format!("Security group rule already exists. Rule id is {id}."));
                    Reply::Json(status, body)
                })
            }
            "floatingips" => self
                .of(collection)
                .any(|(_, t)| same(t, &["port_id"]))
                .then(|| reply(answer(&format!("POST {place} 409 FloatingIPPortAlreadyAssociated")))),
            "servers" => self
                .of(collection)
                .any(|(_, t)| same(t, &["networks"]))
                .then(|| reply(answer(&format!("POST {place} 409 conflictingRequest")))),
            _ => None,
        }
    }

    fn set(&mut self, id: &str, status: &str) {
        if let Some(thing) = self.things.get_mut(id) {
            thing.body.insert("status".to_owned(), json!(status));
            thing.next = None;
        }
    }

    fn list(&mut self, asked: &Asked, place: &str, collection: &str) -> Reply {
        let query = asked.path().split_once('?').map_or("", |(_, query)| query);
        let wanted = |key: &str| {
            let found = query.split('&').find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key));
            found.map(|(_, value)| value.to_owned())
        };
        let fits = |thing: &Thing| {
            let described = wanted("description").is_none_or(|d| thing.body.get("description") == Some(&json!(d)));
            let tagged = wanted("tags")
                .is_none_or(|tag| thing.body.get("tags").and_then(Value::as_array).is_some_and(|t| t.contains(&json!(tag))));
            described && tagged
        };
        let found: Vec<Value> =
            self.of(collection).filter(|(_, t)| fits(t)).map(|(_, t)| Value::Object(t.body.clone())).collect();
        let (status, mut body) = answer(&format!("GET {place}"));
        body[format!("{}s", item(collection))] = Value::Array(found);
        body.as_object_mut().expect("an object").retain(|key, _| !key.ends_with("_links"));
        Reply::Json(status, body)
    }

    /// Reads one object; each look brings what is under way nearer to its end.
    fn read(&mut self, place: &str, id: &str) -> Reply {
        let absent = || {
            let collection = place.split('/').nth(1).unwrap_or_default();
            let fault = match collection {
                "security-groups" => "SecurityGroupNotFound",
                "security-group-rules" => "SecurityGroupRuleNotFound",
                "ports" => "PortNotFound",
                "floatingips" => "FloatingIPNotFound",
                _ => "itemNotFound",
            };
            reply(answer(&format!("GET {place} 404 {fault}")))
        };
        let Some(thing) = self.things.get_mut(id) else { return absent() };
        if let Some((state, looks)) = thing.next {
            if looks > 0 {
                thing.next = Some((state, looks - 1));
            } else if state == "gone" {
                self.end(id);
                return absent();
            } else {
                self.set(id, state);
            }
        }
        let thing = &self.things[id];
        let status = thing.body.get("status").and_then(Value::as_str).unwrap_or_default();
        let (code, mut body) = match thing.collection.as_str() {
            "servers" => answer(&format!("GET {place} ACTIVE")),
            "volumes" => answer(&format!("GET {place} available")),
            _ => answer(&format!("GET {place}")),
        };
        let whole = body[item(&thing.collection)].as_object_mut().expect("an object");
        whole.extend(thing.body.clone());
        if thing.collection == "servers" {
            let power = if status == "ACTIVE" { 1 } else { 4 };
            whole.insert("OS-EXT-STS:power_state".to_owned(), json!(power));
            let task = thing.next.map(|(state, _)| if state == "gone" { "deleting" } else { "spawning" });
            whole.insert("OS-EXT-STS:task_state".to_owned(), json!(task));
        }
        Reply::Json(code, body)
    }

    /// A server that is gone lets go of its volume.
    fn end(&mut self, id: &str) {
        let Some(gone) = self.things.remove(id) else { return };
        if gone.collection == "servers" {
            let volume = gone.body["block_device_mapping_v2"][0]["uuid"].as_str().unwrap_or_default().to_owned();
            self.set(&volume, "available");
        }
    }

    fn delete(&mut self, place: &str, id: &str) -> Reply {
        let Some(thing) = self.things.get(id).cloned() else {
            return self.read(place, id);
        };
        let stands_on = |key: &str| self.things.values().any(|t| t.body.get(key).is_some_and(|v| v.to_string().contains(id)));
        match thing.collection.as_str() {
            "security-groups" if stands_on("security_groups") => {
                return reply(answer(&format!("DELETE {place} 409 SecurityGroupInUse")));
            }
            "volumes" if thing.body["status"] == "in-use" => return reply(answer(&format!("DELETE {place} 400 badRequest"))),
            "servers" => self.things.get_mut(id).expect("there").next = Some(("gone", SLOW)),
            "volumes" => {
                let volume = self.things.get_mut(id).expect("there");
                volume.body.insert("status".to_owned(), json!("deleting"));
                volume.next = Some(("gone", SLOW));
            }
            "security-groups" => {
                self.things.retain(|_, t| t.body.get("security_group_id") != Some(&json!(id)));
                self.end(id);
            }
            _ => self.end(id),
        }
        reply(answer(&format!("DELETE {place}")))
    }

    fn act(&mut self, asked: &Asked, place: &str, id: &str) -> Reply {
        let Some(thing) = self.things.get_mut(id) else { return reply(answer("GET compute /servers/{id} 404 itemNotFound")) };
        let action = asked.body.as_object().and_then(|body| body.keys().next()).cloned().unwrap_or_default();
        match (action.as_str(), thing.body["status"].as_str().unwrap_or_default()) {
            ("os-stop", "ACTIVE") => thing.next = Some(("SHUTOFF", SLOW)),
            ("os-start", "SHUTOFF") => thing.next = Some(("ACTIVE", SLOW)),
            ("os-start", _) => return reply(answer(&format!("POST {place} os-start 409 conflictingRequest"))),
            _ => {}
        }
        reply(answer(&format!("POST {place} {action}")))
    }
}

/// Something that answers HTTP, as a server that was made would.
async fn guest() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0_u8; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            });
        }
    });
    port
}

/// With a provider made anew for every call, or with one for all: each reads the system's authorities anew.
async fn subject(anew: bool) -> (Subject, Arc<Mutex<Cloud>>) {
    let cloud: Arc<Mutex<Cloud>> = Arc::default();
    let address: Arc<OnceLock<String>> = Arc::default();
    let (state, here) = (Arc::clone(&cloud), Arc::clone(&address));
    let fake = Fake::serve(move |asked| state.lock().expect("the cloud").answer(asked, here.wait())).await;
    address.set(fake.address.to_string()).expect("once");
    let port = guest().await;
    let endpoint = json!({"auth_url": format!("http://{}/identity", fake.address), "region_name": "RegionOne"});
    let credentials = json!({"username": "u", "password": "p", "project_name": "p"});
    let mut settings = settings();
    settings["probe"] = json!({"every_seconds": 0.02});
    let request = json!({"ports": [port], "probes": {"http": {"port": port, "expect": "200-299"}}});
    let one = connect(&endpoint, &credentials, &settings);
    let subject = Subject {
        connect: Box::new(move || if anew { connect(&endpoint, &credentials, &settings) } else { Arc::clone(&one) }),
        spec: spec(&request),
        installation: "double".to_owned(),
        seed: 7,
        now: Timestamp(1_795_000_000_000_000),
        patience: Duration::from_secs(20),
    };
    (subject, cloud)
}

#[tokio::test]
async fn the_double_passes_the_kit() {
    let (subject, cloud) = subject(true).await;
    run(&subject).await.unwrap_or_else(|broken| panic!("{broken}"));
    assert!(cloud.lock().expect("the cloud").things.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_operation_leaves_a_clean_slate() {
    let (subject, cloud) = subject(false).await;
    let cases = at_each(&subject, &Fault::ALL).await.unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(cases, 8 * 5);
    for fault in [Fault::LostReply, Fault::Repeated] {
        at_all(&subject, fault).await.unwrap_or_else(|broken| panic!("{broken}"));
    }
    assert!(cloud.lock().expect("the cloud").things.is_empty());
}

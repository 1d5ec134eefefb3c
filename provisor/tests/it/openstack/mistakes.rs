//! What an operator or a tenant got wrong: each is classed, and names what is wrong.

use std::time::{Duration, Instant};

use serde_json::json;

use super::project::{Project, variable};
use super::shows::{vps, widen};
use super::testbed::Testbed;
use super::{LONG, apply, credentials, start};
use crate::house::Server;
use crate::outside::{Http, text};

/// A cluster's entry; further keys with a comma before.
fn cluster(name: &str, settings: &str, credentials: &str) -> String {
    format!(
        "- {{name: {name}, provider: openstack, region: eu-west-1, capacity: {{cpu: 100, memory_gb: 100, storage_gb: 100, slots: 10}}, \
         endpoint: {{auth_url: '{}', region_name: RegionOne}}, credentials: {credentials}, \
         settings: {{{settings}, late_create_seconds: 1, retry: {{initial_seconds: 0.1, cap_seconds: 1, max_retries: 2}}}}}}\n",
        variable("OS_AUTH_URL")
    )
}

const GOOD: &str = "network: private, external_network: public, images: {debian-12: tiny}";

/// What is asked: the request's name, its cluster and its image, and what it must fail with: code, class, cause.
type Mistake<'a> = (&'a str, &'a str, &'a str, (&'a str, &'a str, &'a str));

/// The requests of mistakes, all in one go: a cluster that is set up wrongly takes nothing any more as soon as its tests
/// have shown it.
fn ask(server: &Server, mistakes: &[Mistake<'_>]) {
    let entry = |(name, cluster, image, _): &Mistake<'_>| {
        let more = format!(", ports: [22], strategy: {{type: single}}, cluster: {cluster}");
        vps(name, &more).replace("debian-12", image)
    };
    let requests: String = mistakes.iter().map(entry).collect();
    apply(server, &format!("requests:\n{requests}"), &[]).exits(0);
}

/// It fails with its code and class, and names the cause.
fn fails(server: &Server, (name, _, _, (code, class, cause)): &Mistake<'_>) {
    let http = Http::of(server);
    let found = http.requests().into_iter().find(|r| r["name"] == *name).unwrap();
    let mut last = found.clone();
    let begin = Instant::now();
    while last["state"] != "rolled_back" {
        assert!(begin.elapsed() < LONG, "{name} does not end: {last:#}");
        std::thread::sleep(Duration::from_millis(100));
        last = http.request(text(&found, "/id"));
    }
    assert_eq!((&last["error"]["code"], &last["error"]["class"]), (&json!(code), &json!(class)), "{last:#}");
    assert!(text(&last, "/error/message").contains(cause), "{name}: {cause:?} is not in {:#}", last["error"]);
    assert!(!last["error"].to_string().contains("hunter2"), "{last:#}");
}

#[test]
fn mistakes_are_classed_and_named() {
    let Some(project) = Project::alone() else { return };
    // Nine requests at once are more groups than a project has by default.
    let testbed = Testbed::of(&project);
    widen(&testbed);
    let admin = Project::login(&variable("OS_AUTH_URL"), "admin", "admin");
    // An image that needs more than the volume has, one that never got its bytes, and somebody without a role.
    let image = |name: &str, min_disk: u32| {
        let body = json!({"name": name, "min_disk": min_disk, "container_format": "bare", "disk_format": "raw"});
        let made = project.ask(&["image"], "POST", "/v2/images", Some(&body)).is(201);
        text(&made, "/id").to_owned()
    };
    let (large, empty) = (image("provisor-large", 5), image("provisor-empty", 0));
    project.upload(&large, "0123456789");
    let body = json!({"user": {"name": "provisor-stranger", "password": "hunter2", "domain_id": "default"}});
    let made = admin.ask(&["identity"], "POST", "/users", Some(&body)).is(201);
    let stranger = text(&made, "/user/id").to_owned();

    let result = std::panic::catch_unwind(|| {
        let server = start();
        let as_user = |user: &str, password: &str| {
            format!("{{username: {user}, password: {password}, project_name: {}}}", variable("OS_PROJECT_NAME"))
        };
        let good = credentials();
        let manifest = [
            "tenants:\n- {name: acme, max_concurrent: 20}\nclusters:\n".to_owned(),
            cluster("os", GOOD, &good),
            cluster("password", GOOD, &as_user(&variable("OS_USERNAME"), "hunter2")),
            cluster("stranger", GOOD, &as_user("provisor-stranger", "hunter2")),
            cluster("flavor", &format!("{GOOD}, flavors: [no-such-flavor]"), &good),
            cluster("network", "network: nowhere, external_network: public, images: {debian-12: tiny}", &good),
            cluster("outside", "network: private, external_network: nowhere, images: {debian-12: tiny}", &good),
            cluster("type", &format!("{GOOD}, volume_type: no-such-type"), &good),
        ]
        .concat();
        apply(&server, &manifest, &[]).exits(0);
        let refused = ("credentials_refused", "auth", "identity POST /auth/tokens: 401");
        let mistakes: [Mistake<'_>; 9] = [
            ("password", "password", "debian-12", refused),
            ("stranger", "stranger", "debian-12", refused),
            ("flavor", "flavor", "debian-12", ("flavor_not_found", "permanent", "no-such-flavor")),
            ("network", "network", "debian-12", ("network_not_found", "permanent", "nowhere")),
            ("outside", "outside", "debian-12", ("network_not_found", "permanent", "nowhere")),
            ("type", "type", "debian-12", ("not_found", "permanent", "no-such-type")),
            ("image", "os", "no-such-image", ("image_not_found", "permanent", "no-such-image")),
            ("large", "os", "provisor-large", ("image_not_usable", "permanent", "needs 5 GiB of storage, asked are 1")),
            ("empty", "os", &empty, ("image_not_usable", "permanent", "is queued, not active")),
        ];
        ask(&server, &mistakes);
        for mistake in &mistakes {
            fails(&server, mistake);
        }
        let test = server.run(&["cluster", "test", "password"]);
        assert!(test.exit == 1 && test.out.contains("login") && test.out.contains("401"), "{test:?}");
        let test = server.run(&["cluster", "test", "flavor"]);
        assert!(test.exit == 1 && test.out.contains("settings.flavors"), "{test:?}");
        assert!(!server.log().contains("hunter2"), "the log holds a password");
    });
    admin.ask(&["identity"], "DELETE", &format!("/users/{stranger}"), None);
    for id in [large, empty] {
        project.ask(&["image"], "DELETE", &format!("/v2/images/{id}"), None);
    }
    if let Err(failed) = result {
        std::panic::resume_unwind(failed);
    }
}

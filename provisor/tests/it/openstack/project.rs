//! A project as OpenStack's own APIs show it, asked by a client that knows nothing of Provisor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::{Value, json};

use crate::outside::{Answer, Http, list, text};

/// A list of a service: the service's types in the catalog, path, key.
type List = (&'static [&'static str], &'static str, &'static str);

/// The lists that are looked at.
const LISTS: [List; 5] = [
    (&["compute"], "/servers/detail", "servers"),
    (&["block-storage", "volumev3"], "/volumes/detail", "volumes"),
    (&["network"], "/v2.0/ports", "ports"),
    (&["network"], "/v2.0/floatingips", "floatingips"),
    (&["network"], "/v2.0/security-groups", "security_groups"),
];

/// A project of the environment's OpenStack, as its own APIs show it.
pub(super) struct Project {
    token: String,
    pub(super) id: String,
    catalog: Value,
    _turn: Turn,
}

/// Which tests work in the environment's project now.
static TURNS: RwLock<()> = RwLock::new(());

/// Who else may work in the project meanwhile. What another test makes is told apart by its tag, but the usage that
/// the cloud counts is not, nor is a fault or a quota that a test turns.
#[allow(dead_code, reason = "held, never read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
    /// The administrator's project, in which nothing is made.
    None,
}

/// A variable of the environment that goes with `OS_AUTH_URL`.
pub(super) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set, but OS_AUTH_URL is"))
}

impl Project {
    /// The environment's, beside other tests; without one the test is skipped, or fails where services are required.
    pub(super) fn of_environment() -> Option<Self> {
        Self::given(|| Turn::Shared(TURNS.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The environment's for one test alone, which counts the usage or turns a knob of the cloud.
    pub(super) fn alone() -> Option<Self> {
        Self::given(|| Turn::Alone(TURNS.write().unwrap_or_else(PoisonError::into_inner)))
    }

    #[allow(clippy::print_stderr)] // Why a test was skipped stands in its output.
    fn given(turn: impl FnOnce() -> Turn) -> Option<Self> {
        let Ok(url) = std::env::var("OS_AUTH_URL") else {
            let required = std::env::var("PROVISOR_TEST_REQUIRE_SERVICES").is_ok_and(|v| v == "1");
            assert!(!required, "OS_AUTH_URL is not set, and services are required");
            eprintln!("skipped: a real OpenStack is needed; set OS_AUTH_URL (cargo xtask services up openstack)");
            return None;
        };
        let turn = turn();
        Some(Self { _turn: turn, ..Self::login(&url, &variable("OS_USERNAME"), &variable("OS_PROJECT_NAME")) })
    }

    /// A project of the test bed, where everybody has the same password.
    pub(super) fn login(url: &str, user: &str, project: &str) -> Self {
        let http = Http::open(url);
        let user = json!({"name": user, "password": variable("OS_PASSWORD"),
            "domain": {"name": variable("OS_USER_DOMAIN_NAME")}});
        let scope = json!({"project": {"name": project, "domain": {"name": variable("OS_PROJECT_DOMAIN_NAME")}}});
        let login = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}});
        let answer = http.post("/auth/tokens", &login);
        let token = answer.is(201)["token"].clone();
        let id = text(&token, "/project/id").to_owned();
        Self { token: answer.header("x-subject-token").to_owned(), id, catalog: token["catalog"].clone(), _turn: Turn::None }
    }

    /// Every object of a list that is the project's.
    fn objects(&self, (types, path, key): List) -> Vec<Value> {
        let asked = if types == ["network"] { format!("{path}?project_id={}", self.id) } else { path.to_owned() };
        let answer = self.ask(types, "GET", &asked, None);
        list(&answer.is(200), &format!("/{key}")).to_vec()
    }

    /// Where a service is, by its types in the catalog.
    pub(super) fn address(&self, types: &[&str]) -> String {
        let service = list(&self.catalog, "").iter().find(|s| types.contains(&text(s, "/type"))).unwrap();
        let endpoint = list(service, "/endpoints").iter().find(|e| e["interface"] == "public").unwrap();
        text(endpoint, "/url").trim_end_matches('/').trim_end_matches("/v2.0").to_owned()
    }

    /// One call.
    pub(super) fn ask(&self, types: &[&str], method: &str, path: &str, body: Option<&Value>) -> Answer {
        let http = Http::open(&self.address(types));
        http.send(method, path, &[("x-auth-token", &self.token)], body.map(Value::to_string))
    }

    /// Gives an image its bytes.
    pub(super) fn upload(&self, id: &str, bytes: &'static str) {
        let http = Http::open(&self.address(&["image"]));
        let token = [("x-auth-token", self.token.as_str()), ("content-type", "application/octet-stream")];
        let answer = http.raw("PUT", &format!("/v2/images/{id}/file"), &token, bytes).unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    fn delete(&self, (types, path, _): List, id: &str) {
        let path = format!("{}/{id}", path.trim_end_matches("/detail"));
        // What stands on it is asked to go in the same round; the next one asks again.
        let http = Http::open(&self.address(types));
        let _ = http.try_send("DELETE", &path, &[("x-auth-token", &self.token)], None);
    }

    /// What there is, but for the project's own default group and what stands under the tag of another
    /// installation than `ours`.
    pub(super) fn holds(&self, ours: Option<&str>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for place in LISTS {
            for object in self.objects(place) {
                let tag = tag_of(&object);
                let foreign = tag.starts_with("pvr-") && ours.is_none_or(|prefix| !tag.starts_with(prefix));
                let own_default = place.2 == "security_groups" && object["name"] == "default";
                if !foreign && !own_default {
                    found.insert(format!("{} {} {tag}", place.2, text(&object, "/id")));
                }
            }
        }
        found
    }

    /// The servers that are live under a tag of ours.
    pub(super) fn servers(&self, ours: &str) -> usize {
        self.objects(LISTS[0])
            .iter()
            .filter(|s| s["metadata"]["provisor_tag"].as_str().is_some_and(|t| t.starts_with(ours)))
            .count()
    }
}

/// Takes out of the project what a test that fails has made there.
pub(super) struct Broom<'a> {
    pub(super) project: &'a Project,
    pub(super) ours: RefCell<String>,
}

impl Drop for Broom<'_> {
    fn drop(&mut self) {
        let ours = self.ours.borrow();
        if !std::thread::panicking() || ours.is_empty() {
            return;
        }
        // In this order nothing stands on what goes; what has to wait for another is asked again.
        for _ in 0..100 {
            let left: Vec<(usize, String)> =
                LISTS.iter().enumerate().flat_map(|(place, list)| self.of_list(place, *list)).collect();
            if left.is_empty() {
                return;
            }
            for (place, id) in left {
                self.project.delete(LISTS[place], &id);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Broom<'_> {
    fn of_list(&self, place: usize, list: List) -> Vec<(usize, String)> {
        let mine = |o: &Value| tag_of(o).starts_with(self.ours.borrow().as_str());
        self.project.objects(list).iter().filter(|o| mine(o)).map(|o| (place, text(o, "/id").to_owned())).collect()
    }
}

fn tag_of(object: &Value) -> &str {
    let tag = object.pointer("/metadata/provisor_tag").or(object.get("description"));
    tag.and_then(Value::as_str).unwrap_or_default()
}

//! What a cluster's entry says about an OpenStack cloud: endpoint, credentials, settings.
//!
//! The credentials keep the names of `auth` in clouds.yaml. A fault in them is reported without serde's text,
//! because that text may quote the value it stumbled over.

use std::collections::BTreeMap;
use std::fmt;

use provisor_core::check::{Flaw, Flaws, Object, text_of};
use provisor_core::cluster::{COMMON_SETTINGS, ClusterSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::catalog::Service;

/// The `endpoint` keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// Keystone's address, with or without `/v3`.
    pub(crate) auth_url: String,
    /// The region in the catalog.
    #[serde(default)]
    pub(crate) region_name: Option<String>,
    /// Which addresses of the catalog are used.
    #[serde(default = "public")]
    pub(crate) interface: String,
    /// A PEM file with further certificate authorities.
    #[serde(default)]
    pub(crate) ca_file: Option<String>,
    /// Addresses that win over the catalog: compute, network, volume, image, placement.
    #[serde(default)]
    pub(crate) overrides: BTreeMap<String, String>,
}

fn public() -> String {
    "public".to_owned()
}

/// The `credentials` keys: a password in a project, or an application credential.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    project_name: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    user_domain_name: Option<String>,
    #[serde(default)]
    user_domain_id: Option<String>,
    #[serde(default)]
    project_domain_name: Option<String>,
    #[serde(default)]
    project_domain_id: Option<String>,
    #[serde(default)]
    application_credential_id: Option<String>,
    #[serde(default)]
    application_credential_secret: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("project_name", &self.project_name)
            .field("application_credential_id", &self.application_credential_id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the credentials; the error names keys, never values.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let this: Self = serde_json::from_value(value.clone()).map_err(|_| {
            "credentials: expected the texts username, password, project_name (or project_id), user_domain_name, \
             project_domain_name, or application_credential_id and application_credential_secret, and nothing else"
                .to_owned()
        })?;
        let application = this.application_credential_id.is_some();
        let missing = if application {
            this.application_credential_secret.is_none().then_some("application_credential_secret")
        } else if this.username.is_none() && this.user_id.is_none() {
            Some("username")
        } else if this.password.is_none() {
            Some("password")
        } else if this.project_name.is_none() && this.project_id.is_none() {
            Some("project_name")
        } else {
            None
        };
        missing.map_or(Ok(this), |key| Err(format!("credentials: {key} is missing")))
    }

    /// The texts that must never show in an error.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        [&self.password, &self.application_credential_secret].into_iter().filter_map(|secret| secret.as_deref())
    }

    /// The body of `POST /v3/auth/tokens`.
    pub(crate) fn login(&self) -> Value {
        if let Some(id) = &self.application_credential_id {
            // It carries its project: a scope beside it is refused.
            return json!({"auth": {"identity": {"methods": ["application_credential"],
                "application_credential": {"id": id, "secret": self.application_credential_secret}}}});
        }
        let user = match &self.user_id {
            Some(id) => json!({"id": id, "password": self.password}),
            None => json!({"name": self.username, "password": self.password,
                "domain": domain(self.user_domain_id.as_deref(), self.user_domain_name.as_deref())}),
        };
        let project = self.project_id.as_ref().map_or_else(
            || {
                json!({"name": self.project_name, "domain": domain(
                    self.project_domain_id.as_deref(),
                    self.project_domain_name.as_deref())})
            },
            |id| json!({"id": id}),
        );
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": project}}})
    }
}

fn domain(id: Option<&str>, name: Option<&str>) -> Value {
    id.map_or_else(|| json!({"name": name.unwrap_or("Default")}), |id| json!({"id": id}))
}

/// How a service is switched off when it is suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Suspend {
    /// Powered off; keeps its place on the host.
    #[default]
    Stop,
    /// Shelved: frees the host, but coming back may find no room.
    Shelve,
}

/// The adapter's own `settings`; the shared ones beside them are the engine's.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Settings {
    /// The tenant network, by name or id.
    #[serde(default)]
    pub(crate) network: Option<String>,
    /// The network that floating IPs come from, by name or id.
    #[serde(default)]
    pub(crate) external_network: Option<String>,
    /// The request's image name → the cloud's image name or id.
    #[serde(default)]
    pub(crate) images: BTreeMap<String, String>,
    /// Flavors that may be used; all visible ones where empty.
    #[serde(default)]
    pub(crate) flavors: Vec<String>,
    /// For servers.
    #[serde(default)]
    pub(crate) availability_zone: Option<String>,
    /// For boot volumes: Cinder's zones are often others than Nova's, so one does not follow from the other.
    #[serde(default)]
    pub(crate) volume_availability_zone: Option<String>,
    /// A key pair of our own user that each server gets besides the request's keys.
    #[serde(default)]
    pub(crate) key_pair: Option<String>,
    /// Give user data on a drive too, for networks without a metadata service.
    #[serde(default)]
    pub(crate) config_drive: bool,
    /// Of boot volumes.
    #[serde(default)]
    pub(crate) volume_type: Option<String>,
    /// How a service is suspended.
    #[serde(default)]
    pub(crate) suspend: Suspend,
    /// Lock a server while it is suspended, with our own credentials: whoever else has a member's rights in the
    /// project starts it only after an unlock; where ours are an administrator's, they cannot at all.
    #[serde(default)]
    pub(crate) lock_suspended: bool,
}

impl Settings {
    /// What the cloud calls the request's image.
    pub(crate) fn image<'a>(&'a self, asked: &'a str) -> &'a str {
        self.images.get(asked).map_or(asked, String::as_str)
    }
}

const WORDS_INTERFACE: [(&str, ()); 6] =
    [("public", ()), ("internal", ()), ("admin", ()), ("publicURL", ()), ("internalURL", ()), ("adminURL", ())];
const WORDS_SUSPEND: [(&str, ()); 2] = [("stop", ()), ("shelve", ())];
const OVERRIDES: [Service; 5] = [Service::Compute, Service::Network, Service::Volume, Service::Image, Service::Placement];

/// All faults of a cluster's own keys.
pub(crate) fn check(pointer: &str, spec: &ClusterSpec, credentials: Option<&Value>) -> Vec<Flaw> {
    let mut flaws = Flaws::default();
    check_endpoint(&format!("{pointer}/endpoint"), &Value::Object(spec.endpoint.clone()), &mut flaws);
    check_settings(&format!("{pointer}/settings"), spec, &mut flaws);
    if let Some(Err(message)) = credentials.map(Credentials::parse) {
        // Never the value: it may be the secret itself.
        flaws.add(&format!("{pointer}/credentials"), "format", &Value::Null, message);
    }
    flaws.0
}

fn check_endpoint(pointer: &str, value: &Value, flaws: &mut Flaws) {
    let mut o = Object::new(pointer, value, flaws);
    let auth_url = o.required_text("auth_url", 2048, flaws);
    if let Some(url) = auth_url.filter(|url| !is_http(url)) {
        flaws.add(&o.at("auth_url"), "format", &Value::from(url), "must be an http or https URL");
    }
    o.text("region_name", 255, flaws);
    o.word("interface", &WORDS_INTERFACE, flaws);
    o.text("ca_file", 4096, flaws);
    for (service, url) in o.texts("overrides", OVERRIDES.len(), flaws) {
        let at = format!("{}/{service}", o.at("overrides"));
        if !OVERRIDES.iter().any(|known| known.name() == service) {
            flaws.add(&at, "unknown_key", &Value::Null, "must be one of compute, network, volume, image, placement");
        } else if !is_http(&url) {
            flaws.add(&at, "format", &Value::from(url), "must be an http or https URL");
        }
    }
    o.finish(flaws);
}

fn check_settings(pointer: &str, spec: &ClusterSpec, flaws: &mut Flaws) {
    let own = spec.settings.iter().filter(|(key, _)| !COMMON_SETTINGS.contains(&key.as_str()));
    let own = Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect());
    let mut o = Object::new(pointer, &own, flaws);
    for key in ["network", "external_network", "availability_zone", "volume_availability_zone", "volume_type", "key_pair"] {
        o.text(key, 255, flaws);
    }
    o.texts("images", 1000, flaws);
    o.list("flavors", 1000, flaws, |at, value, flaws| text_of(at, value, 255, flaws));
    o.word("suspend", &WORDS_SUSPEND, flaws);
    o.boolean("lock_suspended", flaws);
    o.boolean("config_drive", flaws);
    o.finish(flaws);
}

fn is_http(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// The endpoint of a cluster that was checked.
pub(crate) fn endpoint(spec: &ClusterSpec) -> Result<Endpoint, String> {
    serde_json::from_value(Value::Object(spec.endpoint.clone())).map_err(|e| format!("endpoint: {e}"))
}

/// The settings of a cluster that was checked.
pub(crate) fn settings(spec: &ClusterSpec) -> Result<Settings, String> {
    serde_json::from_value(Value::Object(spec.settings.clone())).map_err(|e| format!("settings: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_faults_hold_no_secret() {
        let good = json!({"username": "u", "password": "hunter2", "project_name": "p"});
        let credentials = Credentials::parse(&good).unwrap();
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let bad = json!({"username": "u", "password": ["hunter2"], "project_name": "p"});
        let fault = Credentials::parse(&bad).unwrap_err();
        assert!(!fault.contains("hunter2") && fault.contains("password"), "{fault}");
        let short = json!({"username": "u", "password": "hunter2"});
        assert_eq!(Credentials::parse(&short).unwrap_err(), "credentials: project_name is missing");
    }

    #[test]
    fn an_application_credential_brings_its_own_scope() {
        let value = json!({"application_credential_id": "i", "application_credential_secret": "s"});
        let login = Credentials::parse(&value).unwrap().login();
        assert!(login["auth"].get("scope").is_none());
        assert_eq!(login["auth"]["identity"]["application_credential"]["secret"], "s");
    }
}

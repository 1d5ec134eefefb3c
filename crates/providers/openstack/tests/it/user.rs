//! A user of the real cloud, beside the adapter: what it says of itself, asked without a line of ours.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fake::client;

/// A user of the cloud who asks its APIs by himself.
pub(crate) struct User {
    token: String,
    pub(crate) id: String,
    pub(crate) identity: String,
    pub(crate) catalog: Value,
}

impl User {
    pub(crate) async fn login(auth_url: &str, credentials: &Value) -> Self {
        let domain = json!({"name": credentials["user_domain_name"]});
        let user = json!({"name": credentials["username"], "password": credentials["password"], "domain": domain});
        let scope = json!({"project": {"name": credentials["project_name"], "domain": domain}});
        let login = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}});
        let answer = client().post(format!("{auth_url}/auth/tokens")).json(&login).send().await.expect("an answer");
        let token = answer.headers()["x-subject-token"].to_str().expect("a token").to_owned();
        let body: Value = answer.json().await.expect("JSON");
        let id = body["token"]["user"]["id"].as_str().expect("an id").to_owned();
        Self { token, id, identity: auth_url.to_owned(), catalog: body["token"]["catalog"].clone() }
    }

    /// Where a service is, by its types in the catalog.
    pub(crate) fn address(&self, types: &[&str]) -> String {
        let named = |s: &&Value| s["type"].as_str().is_some_and(|t| types.contains(&t));
        let service = self.catalog.as_array().and_then(|all| all.iter().find(named)).expect("a service");
        let public = |e: &&Value| e["interface"] == "public";
        let endpoint = service["endpoints"].as_array().and_then(|all| all.iter().find(public)).expect("an endpoint");
        endpoint["url"].as_str().expect("a URL").trim_end_matches('/').to_owned()
    }

    pub(crate) async fn ask(&self, method: Method, url: String, body: Option<Value>) -> Value {
        // The newest words for a server: what is shelved and locked is told by them.
        let mut request = client().request(method, &url).header("x-auth-token", &self.token);
        request = request.header("x-openstack-nova-api-version", "2.73");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) async fn server(&self, id: &str) -> Value {
        self.ask(Method::GET, format!("{}/servers/{id}", self.address(&["compute"])), None).await["server"].clone()
    }
}

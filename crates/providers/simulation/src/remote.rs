//! A simulated cloud in another process, over HTTP.
//!
//! A connection that was refused sent nothing; any other loss of an answer leaves a create in doubt. There is no
//! deadline of our own here: a call is cut off by the engine, whose deadline it is.

use std::time::Duration;

use async_trait::async_trait;
use provisor_core::{Class, Failure};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};

use crate::port::{Ask, CloudPort, Reply};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time of a call that nobody cuts off.
const LONGEST: Duration = Duration::from_hours(1);

/// What travels back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Parcel {
    /// An answer.
    Reply(Reply),
    /// A failure.
    Failure(Failure),
}

/// The way to it.
pub(crate) struct Remote {
    base: Url,
    client: Client,
}

fn wrong(why: &str) -> Failure {
    Failure::new(Class::Permanent, "bad_configuration", format!("endpoint.url: {why}"))
}

/// A client for all clusters: making one is dear.
pub(crate) fn client() -> Result<Client, Failure> {
    // The provider of cryptography is chosen once a process; somebody else may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(LONGEST)
        .build()
        .map_err(|e| wrong(&e.to_string()))
}

impl Remote {
    /// The cloud at a URL. Makes no call yet.
    pub(crate) fn new(url: &str, client: Client) -> Result<Self, Failure> {
        Ok(Self { base: Url::parse(url).map_err(|e| wrong(&e.to_string()))?, client })
    }

    fn url(&self, cluster: &str) -> Url {
        let mut url = self.base.clone();
        // Not possible for http and https, which are all that is let in.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["sim", cluster, "call"]);
        }
        url
    }
}

#[async_trait]
impl CloudPort for Remote {
    async fn call(&self, cluster: &str, ask: Ask) -> Result<Reply, Failure> {
        let creates = matches!(&ask, Ask::Perform(order) if order.tag.is_some() && order.provider_id.is_none());
        let lost = |e: &reqwest::Error| {
            let class = if creates && !e.is_connect() { Class::Ambiguous } else { Class::Transient };
            let code = if e.is_connect() { "unreachable" } else { "connection_lost" };
            Failure::new(class, code, format!("the simulated cloud: {}", innermost(e)))
        };
        let answer = self.client.post(self.url(cluster)).json(&ask).send().await.map_err(|e| lost(&e))?;
        if !answer.status().is_success() {
            let text = format!("the simulated cloud answers {}", answer.status());
            let class = match (answer.status().is_client_error(), creates) {
                (true, _) => Class::Permanent,
                (false, true) => Class::Ambiguous,
                (false, false) => Class::Transient,
            };
            return Err(Failure::new(class, "bad_answer", text));
        }
        match answer.json::<Parcel>().await.map_err(|e| lost(&e))? {
            Parcel::Reply(reply) => Ok(reply),
            Parcel::Failure(failure) => Err(failure),
        }
    }
}

/// The innermost cause, which is what people can act on.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

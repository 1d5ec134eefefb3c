//! Events as followers get them: CloudEvents 1.0 in their JSON form.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::parts::{Actor, Endpoint, Failure};

/// One published fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// `evt_…`; never changes, however often it is delivered.
    pub id: String,
    /// `/provisor`.
    pub source: String,
    /// `provisioning.completed` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The request's id.
    pub subject: String,
    /// When.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// The name of the tenant.
    pub tenant: String,
    /// Counts the request's published events from `000001` without gaps.
    pub sequence: String,
    /// The installation that it comes from.
    pub installation: String,
    /// Rises with each restore of the store; order is epoch, then sequence.
    pub epoch: i64,
    /// The fact.
    pub data: Data,
}

/// The content of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Data {
    /// The request it is about, as it was then.
    pub request: RequestRef,
    /// State before, where it changed.
    pub from_state: Option<String>,
    /// State after, where it changed.
    pub to_state: Option<String>,
    /// Why it left, once it did.
    pub outcome: Option<String>,
    /// Who did it.
    pub actor: Option<Actor>,
    /// The step it is about.
    pub step: Option<String>,
    /// The attempt it is about.
    pub attempt: Option<String>,
    /// The attempt that replaces it, where one that failed has a follower.
    pub replaced_by: Option<String>,
    /// The resource it is about.
    pub resource: Option<ResourceRef>,
    /// What went wrong.
    pub error: Option<Failure>,
    /// Whether an order service should refund.
    pub refund: bool,
    /// Where the service answers.
    pub endpoints: Vec<Endpoint>,
}

/// A request as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestRef {
    /// `req_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its state then.
    pub state: String,
    /// The order that it belongs to.
    pub order_id: Option<String>,
}

/// A resource as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceRef {
    /// `server`, `volume` …
    pub kind: String,
    /// `res_…`.
    pub id: String,
    /// The backend's id, once known.
    pub provider_id: Option<String>,
}

//! The first moment of a request.

use serde_json::json;

use super::{Progress, RUN_VERSION, Run, Waiting, Wanted};
use crate::event::{Actor, Event, EventKind};
use crate::id::{RequestId, TenantId};
use crate::lifecycle::State;
use crate::spec::{Spec, Strategy};
use crate::time::{Span, Timestamp};

/// What admission fixes.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Its id.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What is asked for.
    pub spec: Spec,
    /// Regions that placement may use (H22).
    pub regions: Vec<String>,
    /// How it is tried where it does not say so itself.
    pub policy: Option<Strategy>,
    /// Prerequisites by id (H24).
    pub depends_on: Vec<RequestId>,
    /// Whether some of them are not completed yet.
    pub must_wait: bool,
    /// The request that this one retries.
    pub retry_of: Option<RequestId>,
    /// Who asks.
    pub actor: Actor,
}

impl Run {
    /// A request at its admission, with its first events.
    pub fn admit(admission: Admission, now: Timestamp) -> (Self, Vec<Event>) {
        let Admission { id, tenant, spec, regions, policy, depends_on, must_wait, retry_of, actor } = admission;
        let strategy = spec.strategy.or(policy).unwrap_or_default().for_kind(spec.kind);
        let mut detail = json!({"kind": spec.kind, "region": spec.region, "strategy": strategy});
        if let (Some(source), Some(map)) = (&spec.source, detail.as_object_mut()) {
            let short = source.commit_sha.as_ref().map(|c| c.chars().take(8).collect::<String>());
            map.insert("repository".into(), source.repository.clone().into());
            map.insert("branch".into(), source.branch.clone().into());
            map.insert("commit_sha".into(), short.into());
        }
        let event = Event { to_state: Some(State::Queued), actor: Some(actor), detail, ..Event::new(EventKind::Started) };
        let asked = spec.strategy.is_some();
        let reason = if must_wait { "prerequisites" } else { "queue" };
        let run = Self {
            version: RUN_VERSION,
            id,
            tenant,
            spec,
            regions,
            policy: policy.filter(|_| !asked),
            state: State::Queued,
            outcome: None,
            wanted: Wanted::Running,
            action: None,
            health: None,
            attempts: Vec::new(),
            winner: None,
            ledger: Vec::new(),
            waiting: Some(Waiting { reason: reason.to_owned(), since: now, detail: None }),
            waits: Vec::new(),
            error: None,
            depends_on,
            retry_of,
            retried_as: None,
            created_at: now,
            provisioning_started_at: None,
            ready_at: None,
            termination_started_at: None,
            terminated_at: None,
            progress: Progress { at: now, downtime: Span::ZERO, not_before: now },
            manual_input: None,
            confirmation: None,
            reason: None,
        };
        (run, vec![event])
    }
}

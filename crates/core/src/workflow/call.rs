//! What the engine is asked to do.

use std::collections::BTreeMap;

use crate::id::{AttemptId, ClusterId, RequestId, ResourceId, Tag, TenantId};
use crate::spec::Spec;
use crate::time::{Span, Timestamp};

/// Names a call so that its answer finds its place. `number` tells a try from an earlier one of the same
/// operation, so that a late answer is never taken for a newer one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKey {
    /// Operation `operation` of an attempt (its index), try `number`.
    Operation {
        /// Of which attempt.
        attempt: AttemptId,
        /// Index in the attempt's operations.
        operation: usize,
        /// Count of calls begun for it.
        number: u32,
    },
    /// Operation of the running action.
    Action {
        /// Index in the action's operations.
        operation: usize,
        /// Count of calls begun for it.
        number: u32,
    },
    /// Looking for a row's object by its tag.
    Look {
        /// Which row.
        row: ResourceId,
        /// Count of looks.
        number: u32,
    },
    /// Releasing a row's object.
    Release {
        /// Which row.
        row: ResourceId,
        /// Count of tries.
        number: u32,
    },
}

/// When a call must have ended, whatever the backend says. By the store's clock.
///
/// It can only be made from a beginning and a limit, and the limit has an end itself, so that no wait for a backend can be
/// written that may last for ever (SPEC 3.1). Waits for people and for prerequisites are no calls.
///
/// ```
/// use provisor_core::workflow::call::Deadline;
/// use provisor_core::{Span, Timestamp};
/// assert_eq!(Deadline::after(Timestamp(0), Span::seconds(60)).at(), Timestamp(60_000_000));
/// // However long the limit is:
/// assert!(Deadline::after(Timestamp(0), Span(i64::MAX)).at() < Timestamp::NEVER);
/// ```
///
/// What never comes is no deadline:
///
/// ```compile_fail
/// use provisor_core::workflow::call::Deadline;
/// use provisor_core::{Span, Timestamp};
/// let never = Deadline(Timestamp::NEVER);
/// ```
///
/// and a call has one:
///
/// ```compile_fail
/// use provisor_core::workflow::call::{Call, Deadline};
/// fn without(call: Call) -> Call {
///     let Call { key, request, tenant, cluster, urgent, task, send_by, call_limit, identity, first_after, look_every, .. } = call;
///     Call { key, request, tenant, cluster, urgent, task, send_by, call_limit, identity, first_after, look_every }
/// }
/// ```
///
/// as it does here, where nothing else is different:
///
/// ```
/// use provisor_core::workflow::call::{Call, Deadline};
/// fn with(call: Call) -> Call {
///     let Call { key, request, tenant, cluster, urgent, task, deadline, send_by, call_limit, identity, first_after, look_every } = call;
///     Call { key, request, tenant, cluster, urgent, task, deadline, send_by, call_limit, identity, first_after, look_every }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Timestamp);

/// No call waits longer than this; settings allow a day.
const LONGEST: Span = Span::seconds(7 * 86_400);

impl Deadline {
    /// So long after a moment.
    pub fn after(start: Timestamp, limit: Span) -> Self {
        Self(start.plus(limit.min(LONGEST)))
    }

    /// The moment itself.
    pub fn at(self) -> Timestamp {
        self.0
    }
}

/// One thing to do at a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Where its answer belongs.
    pub key: CallKey,
    /// The request it is for.
    pub request: RequestId,
    /// Whose request that is: calls to a full cluster go by tenants in turn (H28).
    pub tenant: TenantId,
    /// The cluster to call.
    pub cluster: ClusterId,
    /// It takes back or stops what was made: it goes before what makes more (H27, H28).
    pub urgent: bool,
    /// What to do.
    pub task: Task,
    /// When the try ends.
    pub deadline: Deadline,
    /// After this moment the first call must not be sent any more (H5).
    pub send_by: Option<Timestamp>,
    /// Longest time of one call.
    pub call_limit: Span,
    /// Who the backend must be for its answers to count (H4); `None` where that is not known yet.
    pub identity: Option<String>,
    /// Wait this long before the first call.
    pub first_after: Span,
    /// Pause between looks, where the provider does not say.
    pub look_every: Option<Span>,
}

/// What a call does.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Perform an operation of a plan.
    Perform(Box<Work>),
    /// Look for everything that carries a tag.
    Find {
        /// The kind of resource looked for.
        kind: String,
        /// Its tag.
        tag: Tag,
        /// Its name, for backends where the name is the key.
        name: String,
    },
    /// Release a resource and confirm its absence.
    Release(Box<Held>),
}

/// The input of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Name of the operation.
    pub operation: String,
    /// Which of several of that name (the port of a rule, say).
    pub item: Option<String>,
    /// What was asked for.
    pub spec: Spec,
    /// The request.
    pub request: RequestId,
    /// The attempt; `None` for an action.
    pub attempt: Option<AttemptId>,
    /// The ownership tag of what it makes.
    pub tag: Option<Tag>,
    /// The name for what it makes: unique per ledger row (H9), a label of DNS.
    pub name: String,
    /// The backend's id of what it makes, when a former call already made it.
    pub provider_id: Option<String>,
    /// The backend's ids of what the attempt has, by kind.
    pub resources: BTreeMap<String, String>,
    /// Facts of earlier operations of the attempt.
    pub facts: BTreeMap<String, String>,
    /// Endpoints found so far.
    pub endpoints: Vec<crate::event::Endpoint>,
    /// Count of tries of this operation, from 1. The first call of a further try repeats the action.
    pub try_number: u32,
}

/// A resource to be released.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Its kind.
    pub kind: String,
    /// Its tag.
    pub tag: Tag,
    /// The backend's id.
    pub provider_id: String,
    /// Immutable uid.
    pub uid: Option<String>,
    /// The backend's identity when it was made (H4); the provider must be bound to the same one.
    pub identity: Option<String>,
    /// The backend's ids of what the attempt has, by kind.
    pub resources: BTreeMap<String, String>,
    /// Facts of the attempt.
    pub facts: BTreeMap<String, String>,
}
